"""The parts that all figures share: the record of their data, colours, axes, legends and the style."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = Path(__file__).parent / "lens_steer.mplstyle"
ONE_COLUMN, TWO_COLUMNS = 3.35, 6.9  # inches
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C",
)  # fmt: skip
POSITIVE, NEGATIVE = VERMILION, BLUE  # the colours of the two classes in every figure

Value = str | float | int | bool | None
Drawn = tuple["Figure", "list[Axes]"]
BELOW = 32  # points between given axes and the legend under them
TITLE_WIDTH = 36  # characters in a line of the title of a legend beside given axes
Target = Any  # the axes to draw in, one for each panel; None: make a new figure


@dataclass(frozen=True)
class Drawing(Shown, view="files"):
    """The data of one figure.

    Attributes:
        kind: The name of the figure function that draws it.
        columns: The named columns of the ``.csv`` file, all of equal length.
        notes: Single values that the figure also needs (names, counts, marks).
    """

    kind: str
    columns: Mapping[str, Sequence[Any]]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Drawing({self.kind!r}, {len(next(iter(self.columns.values()), ()))} rows: {', '.join(self.columns)})"

    @classmethod
    def of(
        cls,
        kind: str,
        rows: Sequence[Mapping[str, Any]],
        notes: Mapping[str, Any] | None = None,
        *,
        names: Iterable[str] | None = None,
    ) -> Drawing:
        """Make a drawing from its rows; a value that a row does not have is None.

        Args:
            kind, notes: See :class:`Drawing`.
            rows: The rows of the data.
            names: The columns; None takes every name that occurs, in order of appearance.

        >>> Drawing.of("polar", [{"x": 1}, {"x": 2, "y": 3}]).columns
        {'x': [1, 2], 'y': [None, 3]}
        """
        kept = dict.fromkeys(name for row in rows for name in row) if names is None else names
        return cls(kind, {name: [row.get(name) for row in rows] for name in kept}, notes or {})

    def rows(self) -> list[dict[str, Value]]:
        names = list(self.columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]

    def where(self, **wanted: Value) -> dict[str, list[Any]]:
        """Return the columns, restricted to the rows that have the wanted values."""
        rows = [r for r in self.rows() if all(r[k] == v for k, v in wanted.items())]
        return {name: [r[name] for r in rows] for name in self.columns}

    def numbers(self, *names: str, **wanted: Value) -> Iterator[list[float]]:
        """Return some columns as numbers, restricted to the rows that have the wanted values.

        >>> drawing = Drawing("polar", {"value": [0, 90, 0], "mean": [0.5, 1, 0.25], "condition": ["a", "a", "b"]})
        >>> list(drawing.numbers("value", "mean", condition="a"))
        [[0.0, 90.0], [0.5, 1.0]]
        """
        part = self.where(**wanted)
        return ([float(value) for value in part[name]] for name in names)


# By kind, of the modules imported so far; :func:`lens_steer.figures.saving.kinds` imports all of them.
REGISTERED: dict[str, Callable[..., Drawn]] = {}


def figure(function: Callable[[Drawing, Target], Drawn]) -> Callable[..., Drawn]:
    """Register a figure function under its own name, and run it in the project's style, which is never set globally.

    The function takes a drawing and ``ax``; see :func:`canvas`.
    """

    @wraps(function)
    def styled_function(drawing: Drawing, ax: Target = None) -> Drawn:
        with styled():
            return function(drawing, ax)

    REGISTERED[function.__name__] = styled_function
    return styled_function


def canvas(
    ax: Target, rows: int = 1, columns: int = 1, *, used: int | None = None, **how: Any
) -> tuple[Any, Any, Callable[..., Any]]:
    """Return what a figure function draws with: the figure, its axes, and a function that makes a legend.

    Without ``ax`` this is a new figure, made by ``plt.subplots(rows, columns, **how)``, with legends beside the axes.
    With ``ax`` these are the given panels, row by row. Then the caller decides on the figure and the panels' sizes, and
    ``how`` has no effect on them; ``sharex`` and ``sharey`` still apply. The legend stands under one panel and beside
    several panels if the figure's layout is constrained, which makes room for it; otherwise it stands in the first
    panel.

    Args:
        ax: One of matplotlib's axes, or one for each panel in an array of any shape; None makes a new figure.
        rows: The number of rows of panels.
        columns: The number of columns of panels.
        used: The number of panels if the last row is not full. The axes are then returned as a flat array.
        how: Options of ``plt.subplots``.

    Returns:
        The figure, its axes as ``plt.subplots`` returns them, and a function with the arguments of ``Figure.legend``.

    Raises:
        LensSteerError: If the number of axes differs from the number of panels, if their projection is not the
            figure's, or if they already share an axis with other axes.

    >>> fig, axes, legend = canvas(None, 1, 2)
    >>> canvas(axes, 1, 2)[1][0] is axes[0]
    True
    >>> import matplotlib.pyplot as plt
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt
    import numpy as np

    wanted = rows * columns if used is None else used
    if ax is None:
        if used is None:
            fig, axes = plt.subplots(rows, columns, **how)
            return fig, axes, fig.legend
        fig, grid = plt.subplots(rows, columns, squeeze=False, **how)
        for empty in grid.flat[used:]:
            empty.set_visible(False)
        return fig, grid.flatten()[:used], fig.legend
    given = np.asarray(ax, dtype=object).ravel()
    projection = (how.get("subplot_kw") or {}).get("projection", "rectilinear")
    if len(given) != wanted or any(getattr(a, "name", None) != projection for a in given):
        more = "" if projection == "rectilinear" else f", subplot_kw={{'projection': {projection!r}}}"
        kinds = ", ".join(str(getattr(a, "name", type(a).__name__)) for a in given)
        raise LensSteerError(
            f"ax={kinds or 'nothing'}: this figure has {wanted} panels ({rows} × {columns}); give as many axes, "
            f"such as plt.subplots({rows}, {columns}{more})[1]"
        )
    _share(given, columns, how)
    if used is not None:
        return given[0].figure, given, _legends(list(given), columns)
    axes = given.reshape(rows, columns)
    if how.get("squeeze", True):
        axes = axes.item() if wanted == 1 else axes.squeeze()
    return given[0].figure, axes, _legends(list(given), columns)


def legend_below(legend: Callable[..., Any], axes: Iterable[Any], **how: Any) -> Any:
    """Make the legend of what axes show, at the bottom of the figure; a label that several have stands once.

    Args:
        legend: The function that :func:`canvas` returned.
        axes: The axes whose lines are named.
        how: Further options of ``Figure.legend``.
    """
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    return legend(found.values(), found.keys(), loc="outside lower center", **how)


def _share(given: Any, columns: int, how: Mapping[str, Any]) -> None:
    """Join the axes of the panels as ``plt.subplots`` does, with tick labels only at the left and at the bottom."""
    last = (len(given) - 1) // columns
    for direction in ("x", "y"):
        shared = how.get(f"share{direction}", False)
        for i, axis in enumerate(given):
            row, column = divmod(i, columns)
            # the panel to share with: the first of all, of the column, or of the row; itself where nothing is shared
            first = given[
                0 if shared is True else column if shared == "col" else row * columns if shared == "row" else i
            ]
            if first is axis:
                continue
            if not getattr(axis, f"get_shared_{direction}_axes")().joined(first, axis):
                try:
                    getattr(axis, f"share{direction}")(first)
                except ValueError:
                    raise LensSteerError(
                        f"ax: its panels share their {direction} axis with other axes: give axes that share none"
                    ) from None
        if shared in (True, "col", "row"):
            for i, axis in enumerate(given):
                row, column = divmod(i, columns)
                if direction == "x" and shared != "row" and row < last:
                    axis.tick_params(axis="x", which="both", labelbottom=False)
                if direction == "y" and shared != "col" and column:
                    axis.tick_params(axis="y", which="both", labelleft=False)


def _legends(given: Sequence[Any], columns: int) -> Callable[..., Any]:
    """Return the function that makes the legends of given panels.

    A legend stands beside the panels (under a single one) where the figure's layout makes room for it, otherwise in the
    first panel. A legend that the axes already have is kept.
    """
    from matplotlib.transforms import ScaledTranslation

    constrained = type(given[0].figure.get_layout_engine()).__name__ == "ConstrainedLayoutEngine"
    axis = given[columns - 1 if constrained else 0]
    beside = iter((("upper left", (1.02, 1.0)), ("lower left", (1.02, 0.0))))

    def legend(*args: Any, **how: Any) -> Any:
        there = axis.get_legend()
        kept = {name: value for name, value in how.items() if name not in ("loc", "ncols")}
        if kept.get("title"):
            kept["title"] = "\n".join(
                line for part in str(kept["title"]).split("\n") for line in wrap(part, TITLE_WIDTH)
            )
        if not constrained:
            kept |= {"loc": "best", "frameon": True, "framealpha": 0.8}
        elif len(given) == 1:
            down = ScaledTranslation(0, -BELOW / 72, axis.figure.dpi_scale_trans)
            kept |= {
                "loc": "upper center",
                "bbox_to_anchor": (0.5, 0.0),
                "bbox_transform": axis.transAxes + down,
                "ncols": min(2, how.get("ncols", 1)),
            }
        else:
            place, anchor = next(beside)
            kept |= {"loc": place, "bbox_to_anchor": anchor, "borderaxespad": 0.0}
        made = axis.legend(*args, **kept)
        if there is not None:
            axis.add_artist(there)
        return made

    return legend


def banded(
    axis: Axes,
    x: Sequence[Any],
    mean: Sequence[Any],
    low: Sequence[Any],
    high: Sequence[Any],
    *,
    color: str,
    alpha: float = 0.15,
    **look: Any,
) -> Any:
    """Draw a curve with a band from ``low`` to ``high`` around it, and return the curve's line.

    Over a single point, where a band has no width, it is a bar.

    Args:
        axis: The axes to draw in.
        x, mean: The curve.
        low, high: The ends of the interval at each x.
        color, alpha: The colour of both, and the opacity of the band.
        look: Further options of ``axis.plot``, for the curve.
    """
    line = axis.plot(x, mean, color=color, **look)[0]
    axis.fill_between(x, low, high, color=color, alpha=alpha, lw=0)
    if len(x) == 1:
        axis.vlines(x, low, high, color=color, lw=1)
    return line


@contextmanager
def styled() -> Iterator[None]:
    """Apply the project's matplotlib style inside a ``with`` block."""
    import matplotlib.pyplot as plt

    # This call makes matplotlib choose its backend, before the context begins. A notebook's backend turns interactive
    # mode on when it is chosen; chosen inside the context, the end of the context would turn it off again.
    plt.draw_if_interactive()
    with plt.style.context(str(STYLE)):
        yield
