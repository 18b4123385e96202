"""Every notebook run from its source, in a kernel of its own; ``make test-notebooks``. Some minutes, so it is not
collected with the suite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analyses import notebooks

nbformat = pytest.importorskip("nbformat", reason="the notebooks need the extra [notebook]")


def kinds(notebook: Any) -> list[list[tuple[str, list[str]]]]:
    """What each code cell gives, by kind."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [[(output.output_type, sorted(output.get("data", {}))) for output in cell.outputs] for cell in cells]


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda s: s.stem)
def test_runs(source: Path) -> None:
    """No cell raises, and each gives what the committed notebook shows, in kind: numbers may differ in their last
    digits from machine to machine.
    """
    run = notebooks.execute(source)
    assert kinds(run.notebook) == kinds(nbformat.read(source.with_suffix(".ipynb"), as_version=4))
