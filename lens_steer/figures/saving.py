"""Functions that draw a figure by its kind, save it with its data, and draw it again from the data alone."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import csv_text
from lens_steer.errors import LensSteerError, expect
from lens_steer.evaluation.quantities import renamed
from lens_steer.figures.core import REGISTERED, Drawing, Drawn, Target, Value, styled


def kinds() -> Mapping[str, Callable[..., Drawn]]:
    """Return every kind of figure with the function that draws it.

    A figure function registers itself by its decorator (:func:`lens_steer.figures.core.figure`). This function imports
    all modules of ``lens_steer.figures`` and the module ``figures`` of every study, so a new figure needs no other
    entry.

    >>> "polar" in kinds(), "trait_depth" in kinds()
    (True, True)
    """
    figures, studies = import_module("lens_steer.figures"), import_module("lens_steer.studies")
    places = [f"{figures.__name__}.{m.name}" for m in iter_modules(figures.__path__)]
    for study in iter_modules(studies.__path__):
        if study.ispkg:
            places += [f"{studies.__name__}.{study.name}.figures"]
    for place in places:
        import_module(place)
    return REGISTERED


def draw(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw a figure from its data.

    Args:
        drawing: The data of a figure of any kind.
        ax: The axes to draw in, one or as many as the figure has panels (row by row); None makes a new figure. With
            given axes, size and layout are the caller's; the legend stands beside the axes if the layout is
            ``constrained``, otherwise in the first panel.

    Returns:
        The figure and its axes.

    Raises:
        LensSteerError: If the kind does not exist, or if the number of axes differs from the number of panels.

    >>> drawing, _ = load("figures", "plane_path")
    >>> fig, axes = draw(drawing)
    >>> len(axes), axes[0].get_xlabel()
    (1, 'along $b_1$')
    >>> import matplotlib.pyplot as plt
    >>> plt.close(fig)
    """
    expect(
        "drawing",
        drawing,
        Drawing,
        "draw takes one; lens_steer.figures has what makes them of results, several as a dict of which one is to "
        "be picked",
    )
    if drawing.kind not in REGISTERED and drawing.kind not in (known := kinds()):
        raise LensSteerError(f"figure kind {drawing.kind!r} is unknown: known are {', '.join(sorted(known))}")
    return REGISTERED[drawing.kind](drawing, ax)


def save(drawing: Drawing, name: str, out: str | Path, meta: Mapping[str, Any]) -> None:
    """Draw a figure and write ``name.pdf``, ``name.png``, ``name.csv`` and ``name.json``.

    Args:
        drawing: The data of the figure. Its columns go to the ``.csv`` file, its kind and notes to the ``.json`` file.
        name: The name of the files, without ending.
        out: The folder to write to.
        meta: A record of how the figure was made, which goes to the ``.json`` file.
    """
    import matplotlib.pyplot as plt

    drawn, _ = draw(drawing)
    with whole_folder(out) as work, styled():
        drawn.savefig(work / f"{name}.pdf", metadata={"CreationDate": None})
        drawn.savefig(work / f"{name}.png", metadata={"Software": None})
        rows = [list(drawing.columns), *zip(*drawing.columns.values(), strict=True)]
        (work / f"{name}.csv").write_text(csv_text(rows), encoding="utf-8", newline="")
        record = {"kind": drawing.kind, "notes": dict(drawing.notes), "meta": dict(meta)}
        (work / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plt.close(drawn)


def load(folder: str | Path, name: str) -> tuple[Drawing, dict[str, Any]]:
    """Read the data of a saved figure, and the record of how it was made.

    Raises:
        LensSteerError: If a file is missing or cannot be read.
    """
    path = Path(folder)
    try:
        record = json.loads((path / f"{name}.json").read_text(encoding="utf-8"))
        with (path / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream))
        kind, notes, meta = record["kind"], renamed(record["notes"]), record["meta"]
    except (OSError, ValueError, KeyError) as error:
        raise LensSteerError(f"figure {name!r} in {str(folder)!r} cannot be read: {error}") from None
    columns = {renamed(title): [_value(renamed(row[i])) for row in rows] for i, title in enumerate(header)}
    return Drawing(kind, columns, notes), meta


def redraw(folder: str | Path) -> list[str]:
    """Draw every figure of a folder again from its ``.csv`` and ``.json`` files alone, and return their names.

    Raises:
        LensSteerError: If the folder holds no figure.
    """
    path = Path(folder)
    names = [p.stem for p in sorted(path.glob("*.json")) if p.with_suffix(".csv").exists() and _is_figure(p)]
    if not names:
        raise LensSteerError(f"folder {str(folder)!r} holds no figure data (.csv with .json)")
    for name in names:
        drawing, meta = load(path, name)
        save(drawing, name, path, meta)
    return names


def _is_figure(path: Path) -> bool:
    try:
        return "kind" in json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False


def _value(text: str) -> Value:
    if text == "":
        return None
    if text in ("True", "False"):
        return text == "True"
    try:
        number = float(text)
    except ValueError:
        return text
    return int(text) if text.lstrip("-").isdigit() else (number if math.isfinite(number) else None)
