"""The notebooks: what is committed is what the sources say, reads from its question to what to try next, and names no
machine. Running them all is :mod:`tests.notebooks`.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lens_steer.errors import LensSteerError

pytest.importorskip("jupytext", reason="the notebooks need the extra [notebook]")
nbformat = pytest.importorskip("nbformat")

from analyses import notebooks  # noqa: E402

SOURCES = notebooks.sources()
LARGEST = 250  # kB of a committed notebook


def committed(source: Path) -> Any:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def pictures(cell: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A source with its notebook, to be spoilt."""
    for ending in (".py", ".ipynb"):
        shutil.copy(SOURCES[0].with_suffix(ending), tmp_path)
    return tmp_path / SOURCES[0].name


def test_they_are_numbered_without_a_gap() -> None:
    assert [int(source.stem[:2]) for source in SOURCES] == list(range(1, 9))
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == {source.stem for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_committed_is_what_its_source_says(source: Path) -> None:
    """Same cells, outputs of one run in order, nothing that varies, no place of a machine; and not large."""
    assert notebooks.faults(source) == []
    assert source.with_suffix(".ipynb").stat().st_size < 1000 * LARGEST


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_question_picture_and_what_to_try_next(source: Path) -> None:
    """The first cell asks a question and says how long it takes; a picture comes within the first third; the last cell
    says what to try next.
    """
    cells = committed(source).cells
    first = cells[0].source
    assert first.startswith("# ") and "**Question:**" in first and "?" in first
    assert "minute" in first or "seconds" in first
    assert next(i for i, cell in enumerate(cells) if pictures(cell)) <= len(cells) / 3
    assert cells[-1].cell_type == "markdown" and cells[-1].source.startswith("## What to try next\n")


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_what_draws_shows(source: Path) -> None:
    """Every cell that draws has its pictures in it, the later ones too."""
    for cell in committed(source).cells:
        if cell.cell_type == "code":
            assert pictures(cell) == cell.source.count("ls.draw(") + cell.source.count("plt.subplots("), cell.source


def test_faults_are_told(copy: Path) -> None:
    """A source that went on without its notebook, a failed cell, a machine's path, cells run in another order, no
    notebook at all.
    """
    assert notebooks.faults(copy) == []
    whole = committed(copy)

    def told(spoilt: Any) -> list[str]:
        nbformat.write(spoilt, copy.with_suffix(".ipynb"))
        return notebooks.faults(copy)

    def spoilt() -> Any:
        found = nbformat.from_dict(whole)
        return found, next(cell for cell in found.cells if cell.cell_type == "code")

    found, cell = spoilt()
    cell.outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no such thing", traceback=[])]
    assert told(found) == [f"{copy.stem}.ipynb, code cell 1: 'no such thing'"]
    found, cell = spoilt()
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="read from /home/somebody/models\n")]
    assert told(found) == [f"{copy.stem}.ipynb, code cell 1 names a place of the machine: '/home/somebody/models'"]
    found, cell = spoilt()
    cell.execution_count = 7
    assert told(found) == [
        f"{copy.stem}.ipynb holds what varies from run to run, or cells that were run in another order"
    ]
    assert told(whole) == []
    copy.write_text(copy.read_text(encoding="utf-8") + "\n# %%\n1 + 1\n", encoding="utf-8")
    assert notebooks.faults(copy) == [f"{copy.stem}.ipynb holds other cells than {copy.name}"]
    copy.with_suffix(".ipynb").unlink()
    assert notebooks.faults(copy) == [f"{copy.stem}.ipynb does not exist"]


def test_plain_leaves_out_what_varies() -> None:
    """Times, versions, widgets and the error stream go; text and pictures stay; once plain is plain."""
    new = nbformat.v4
    cell = new.new_code_cell(
        "draw()", metadata={"execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}}, execution_count=4
    )
    pixels = np.linspace(0, 255, 90 * 90 * 3).reshape(90, 90, 3).astype(np.uint8)
    with io.BytesIO() as stream:
        Image.fromarray(pixels).save(stream, format="png")
        drawn = base64.b64encode(stream.getvalue()).decode()
    picture = new.new_output(
        "display_data", {"image/png": drawn, "text/plain": "<Figure>"}, metadata={"image/png": {"width": 3}}
    )
    cell.outputs = [
        new.new_output("stream", name="stdout", text="one\n"),
        new.new_output("stream", name="stderr", text="a warning\n"),
        picture,
        new.new_output("stream", name="stdout", text="two\n"),
        new.new_output(
            "execute_result", {notebooks.WIDGET: {"model_id": "ab12"}, "text/plain": "VBox()"}, execution_count=4
        ),
    ]
    book = new.new_notebook(
        cells=[new.new_markdown_cell("# A"), cell],
        metadata={"language_info": {"name": "python", "version": "3.1"}, "widgets": {}},
    )
    found = notebooks.plain(book)
    stream, shown, widget = found.cells[1].outputs
    assert stream.text == "one\ntwo\n"
    assert shown.data["text/plain"] == "<Figure>" and shown.metadata == {}
    small = Image.open(io.BytesIO(base64.b64decode(shown.data["image/png"])))
    assert small.mode == "P" and np.abs(np.asarray(small.convert("RGB")).astype(int) - pixels).max() < 10
    assert widget.data == {"text/plain": notebooks.LIVE} and widget.execution_count == 1
    assert (
        found.metadata == notebooks.METADATA and found.cells[1].metadata == {} and found.cells[1].execution_count == 1
    )
    assert notebooks.plain(found) == found
    assert book.cells[1].execution_count == 4, "what was given is left alone"


def test_every_figure_is_shown(tmp_path: Path) -> None:
    """In a kernel's second cell too: the style's context does not take back what the first figure turned on."""
    drawing = (
        "ls.draw(Drawing('kl_by_position', {'series': ['a'] * 2, 'position': [0] * 2, 'measure': ['kl', 'entropy'], "
        "'value': [1.0] * 2, 'low': [1.0] * 2, 'high': [1.0] * 2, 'n': [3] * 2}));"
    )
    begin = "import lens_steer as ls\nfrom lens_steer.figures.core import Drawing\n"
    source = tmp_path / "01_two.py"
    source.write_text(f"# %%\n{begin}{drawing}\n\n# %%\n{drawing}\n", encoding="utf-8")
    run = notebooks.execute(source)
    assert [pictures(cell) for cell in run.notebook.cells] == [1, 1]
    assert run.seconds > 0


def test_the_command(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``--check`` says what is wrong and how to mend it; a name that is not there is refused with those that are."""
    monkeypatch.setattr(notebooks, "sources", lambda names: [copy])
    assert notebooks.main(["--check"]) == 0
    copy.with_suffix(".ipynb").unlink()
    assert notebooks.main(["--check"]) == 1
    assert capsys.readouterr().err == f"{copy.stem}.ipynb does not exist\nmake notebooks writes them anew\n"
    monkeypatch.undo()
    with pytest.raises(LensSteerError, match=r"notebook '99' does not exist: there are 01_first_steps, 02_"):
        notebooks.sources(["99"])


def test_saving_in_jupyterlab_leaves_the_source_alone(tmp_path: Path) -> None:
    """What is paired there is written back without versions or other facts of a machine."""
    for name in ("01_first_steps.py", "01_first_steps.ipynb", "jupytext.toml"):
        shutil.copy(SOURCES[0].parent / name, tmp_path)
    notebook, source = tmp_path / "01_first_steps.ipynb", tmp_path / "01_first_steps.py"
    os.utime(source, (1, 1))  # the notebook is the newer one
    done = subprocess.run(
        [sys.executable, "-m", "jupytext", "--sync", str(notebook)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert "Unchanged" in done.stdout
    assert source.read_text(encoding="utf-8") == SOURCES[0].read_text(encoding="utf-8")
