"""What every figure shares: its data, its style, saving with the numbers beside the picture, and drawing again from them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_steer.artifacts import whole_folder
from lens_steer.errors import LensSteerError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = Path(__file__).parent / "lens_steer.mplstyle"
ONE_COLUMN, TWO_COLUMNS = 3.35, 6.9  # inches
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C",
)  # fmt: skip
POSITIVE, NEGATIVE = VERMILION, BLUE  # the two classes, in every figure

Value = str | float | int | bool | None
Drawn = tuple["Figure", "list[Axes]"]


@dataclass(frozen=True)
class Drawing:
    """The data of one figure.

    Attributes:
        kind: which figure function draws it.
        columns: named columns of equal length: what the ``.csv`` holds.
        notes: single values the figure needs besides (names, counts, marks).
    """

    kind: str
    columns: Mapping[str, Sequence[Any]]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Value]]:
        names = list(self.columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]

    def where(self, **wanted: Value) -> dict[str, list[Any]]:
        """The columns of the rows that have the wanted values."""
        rows = [r for r in self.rows() if all(r[k] == v for k, v in wanted.items())]
        return {name: [r[name] for r in rows] for name in self.columns}


FIGURES: dict[str, Callable[[Drawing], Drawn]] = {}


def figure(function: Callable[[Drawing], Drawn]) -> Callable[[Drawing], Drawn]:
    """Register a figure function under its name and run it in the project's style, never globally."""
    from functools import wraps

    @wraps(function)
    def styled_function(drawing: Drawing) -> Drawn:
        with styled():
            return function(drawing)

    FIGURES[function.__name__] = styled_function
    return styled_function


@contextmanager
def styled() -> Iterator[None]:
    """The project's matplotlib style for the length of a ``with`` block."""
    import matplotlib.pyplot as plt

    with plt.style.context(str(STYLE)):
        yield


def draw(drawing: Drawing) -> Drawn:
    """Draw a figure from its data; raises :class:`LensSteerError` for a kind that does not exist."""
    from lens_steer.figures import geometry, outcomes  # noqa: F401  (they register their figures)

    if drawing.kind not in FIGURES:
        raise LensSteerError(f"figure kind {drawing.kind!r} is unknown: known are {', '.join(sorted(FIGURES))}")
    return FIGURES[drawing.kind](drawing)


def save(drawing: Drawing, name: str, out: str | Path, meta: Mapping[str, Any]) -> None:
    """Draw a figure and write ``name.pdf``, ``.png``, ``.csv`` (the columns) and ``.json`` (kind, notes, and meta: how it was made)."""
    import matplotlib.pyplot as plt

    drawn, _ = draw(drawing)
    with whole_folder(out) as work, styled():
        drawn.savefig(work / f"{name}.pdf", metadata={"CreationDate": None})
        drawn.savefig(work / f"{name}.png", metadata={"Software": None})
        with (work / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(drawing.columns)
            writer.writerows(zip(*drawing.columns.values(), strict=True))
        record = {"kind": drawing.kind, "notes": dict(drawing.notes), "meta": dict(meta)}
        (work / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plt.close(drawn)


def load(folder: str | Path, name: str) -> tuple[Drawing, dict[str, Any]]:
    """A saved figure's data and meta."""
    path = Path(folder)
    try:
        record = json.loads((path / f"{name}.json").read_text(encoding="utf-8"))
        with (path / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream))
        kind, notes, meta = record["kind"], record["notes"], record["meta"]
    except (OSError, ValueError, KeyError) as error:
        raise LensSteerError(f"figure {name!r} in {str(folder)!r} cannot be read: {error}") from None
    columns = {title: [_value(row[i]) for row in rows] for i, title in enumerate(header)}
    return Drawing(kind, columns, notes), meta


def redraw(folder: str | Path) -> list[str]:
    """Draw every figure of a folder again from its ``.csv`` and ``.json`` alone; returns their names.

    Raises:
        LensSteerError: no figure in the folder.
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
