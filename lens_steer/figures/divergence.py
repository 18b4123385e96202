"""Figure of divergence and entropy of the next-token distributions by position in a response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lens_steer.figures.core import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    Drawing,
    Drawn,
    Target,
    banded,
    canvas,
    figure,
)
from lens_steer.metrics.token_divergence import TokenDivergence

LOOKS = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"))
PANELS = {
    "divergence (nats a token)": {"kl": "KL(original ‖ steered)", "kl_reverse": "KL(steered ‖ original)"},
    "entropy (nats)": {"entropy": "original", "entropy_steered": "steered"},
}
DASHES = ("-", "--")  # the dashes of a panel's two measures; the first measure has full markers
MARKS = 12  # the approximate number of markers on a line


def drawing(series: Mapping[str, TokenDivergence], *, seed: int = 0, max_position: int | None = None) -> Drawing:
    """Build the data of :func:`kl_by_position`: one row for each series, position and measure.

    A row holds the mean over prompts, its interval and the number of prompts.

    Args:
        series: The measured divergences by name, in the order of the legend.
        seed: The seed of the bootstrap; see :meth:`lens_steer.metrics.token_divergence.TokenDivergence.by_position`.
        max_position: The last position; see the same method.
    """
    rows = [
        {"series": name, "position": position, "measure": measure} | asdict(e)
        for name, found in series.items()
        for measures in PANELS.values()
        for measure in measures
        for position, e in enumerate(found.by_position(measure, seed=seed, max_position=max_position))
    ]
    return Drawing.of("kl_by_position", rows)


@figure
def kl_by_position(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the divergence in both directions, and the entropy before and after steering, by position in a response.

    Bands are bootstrap intervals over prompts.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(drawing.columns["series"]))
    looks = [LOOKS[k % len(LOOKS)] for k in range(len(names))]
    last = max(drawing.columns["position"])
    fig, axes, legend = canvas(
        ax, 1, 2, figsize=(TWO_COLUMNS, 2.5 + 0.15 * (-(-len(names) // 2))), layout="constrained"
    )
    for axis, (label, measures) in zip(axes, PANELS.items(), strict=True):
        for name, look in zip(names, looks, strict=True):
            for measure, dash in zip(measures, DASHES, strict=True):
                _line(axis, drawing.where(series=name, measure=measure), *look, dash)
        axis.set(xlabel="position in the response", ylabel=label, xlim=(-0.02 * last - 0.3, last + 0.02 * last + 0.3))
        axis.set_ylim(0, None)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        lines = [plt.Line2D([], [], color=GREY, ls=dash) for dash in DASHES]
        axis.legend(lines, measures.values(), loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=2.6)
    handles = [plt.Line2D([], [], color=color, marker=marker) for color, marker in looks]
    legend(handles, [_counted(drawing, n) for n in names], loc="outside lower center", ncols=min(2, len(names)))
    return fig, list(axes)


def _line(ax: Any, part: dict[str, list[Any]], color: str, marker: str, dash: str) -> None:
    x, value, low, high = ([float(v) for v in part[k]] for k in ("position", "value", "low", "high"))
    fill, every = color if dash == DASHES[0] else "white", max(1, len(x) // MARKS)
    look = {"marker": marker, "mfc": fill, "ls": dash, "ms": 3, "lw": 1, "markevery": every, "clip_on": False}
    banded(ax, x, value, low, high, color=color, alpha=0.18, **look)


def _counted(drawing: Drawing, name: str) -> str:
    """Return a series' label with its number of prompts at the first position, and at the last one if it is smaller."""
    part = drawing.where(series=name, measure="kl")
    first, last, position = part["n"][0], part["n"][-1], part["position"][-1]
    return f"{name}: n = {first} prompts" + (f", {last} at position {position}" if last < first else "")
