"""What every figure shares: its data, its colours and its style."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def figure(function: Callable[[Drawing], Drawn]) -> Callable[[Drawing], Drawn]:
    """Run a figure function in the project's style, never globally."""

    @wraps(function)
    def styled_function(drawing: Drawing) -> Drawn:
        with styled():
            return function(drawing)

    return styled_function


@contextmanager
def styled() -> Iterator[None]:
    """The project's matplotlib style for the length of a ``with`` block."""
    import matplotlib.pyplot as plt

    with plt.style.context(str(STYLE)):
        yield
