"""The committed figures are what the code draws of the data beside them: image tests over every one of them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lens_steer.figures import saving

ROOT = Path(__file__).parents[1] / "figures"
FIGURES = sorted(p.relative_to(ROOT).with_suffix("") for p in ROOT.rglob("*.png"))
# root mean square of the difference, of 255: another build of the font library moves edges, a change of the picture is
# far above
TOLERANCE = 2.0


def test_there_are_figures() -> None:
    assert len(FIGURES) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES, ids=str)
def test_redrawn(name: Path, tmp_path: Path) -> None:
    """Drawn anew from its ``.csv`` and ``.json``: the same size, and the same pixels but for the edges of letters."""
    drawing, meta = saving.load(ROOT / name.parent, name.name)
    saving.save(drawing, name.name, tmp_path, meta)
    plt.close("all")
    old, new = (
        np.asarray(matplotlib.image.imread(folder / f"{name.name}.png"))[..., :3]
        for folder in (ROOT / name.parent, tmp_path)
    )
    assert old.shape == new.shape
    assert 255 * float(np.sqrt(((old - new) ** 2).mean())) < TOLERANCE


def test_another_picture_is_told(tmp_path: Path) -> None:
    """The measure is far above the tolerance where one series is another."""
    name = next(n for n in FIGURES if n.name == "mean_cosine")
    drawing, meta = saving.load(ROOT / name.parent, name.name)
    column = next(c for c, values in drawing.columns.items() if all(isinstance(v, float) for v in values))
    drawing.columns[column][:] = [v * 0.9 for v in drawing.columns[column]]  # type: ignore[index]
    saving.save(drawing, name.name, tmp_path, meta)
    plt.close("all")
    old, new = (
        np.asarray(matplotlib.image.imread(p))[..., :3] for p in (ROOT / f"{name}.png", tmp_path / f"{name.name}.png")
    )
    assert old.shape != new.shape or 255 * float(np.sqrt(((old - new) ** 2).mean())) > 2 * TOLERANCE
