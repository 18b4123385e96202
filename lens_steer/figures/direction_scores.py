"""The figure of a selected direction: what every candidate does, by block and position, and which bounds it keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from lens_steer.figures.core import (
    BLACK,
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
    canvas,
    figure,
)
from lens_steer.geometry.direction_files import COLUMNS, score_rows
from lens_steer.geometry.selected_direction import SelectedDirection

LOOKS = tuple(
    zip(
        (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK),
        ("o", "s", "^", "D", "v", "P", "X"),
        ("-", "--", "-.", ":", (0, (4, 1, 1, 1, 1, 1)), (0, (6, 2)), (0, (1, 2))),
        strict=True,
    )
)
PANELS = {
    "refusal_score": "refusal score, ablated\n(harmful prompts, nats)",
    "induce_score": "refusal score, added\n(harmless prompts, nats)",
    "kl": "KL, ablated\n(harmless prompts, nats)",
}


def direction_scores_drawing(direction: SelectedDirection) -> Drawing:
    """Return the data of the figure of a selected direction."""
    rows = score_rows(direction)
    bounds = {
        name: value if math.isfinite(value := getattr(direction.bounds, name)) else None
        for name in ("min_induce", "max_kl", "max_depth")
    }
    notes = {
        "model": direction.model, "n_blocks": direction.n_layers, "block": direction.block,
        "position": direction.position, "n_kept": direction.n_kept, "n_positive": direction.n_select_positive,
        "n_negative": direction.n_select_negative, "refusal_score": direction.baseline_refusal_score,
        "induce_score": direction.baseline_induce_score, **bounds,
    }  # fmt: skip
    return Drawing("direction_scores", {name: [row[name] for row in rows] for name in COLUMNS}, notes)


@figure
def direction_scores(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the three scores of every candidate direction against the block, one line for each position.

    Filled markers are candidates that keep every bound, and a star is the chosen one. What a bound leaves out is
    shaded: the last blocks, induce scores below the smallest, and divergences above the largest. Dotted lines are the
    scores without steering. The divergence is on a scale that is linear up to the bound and logarithmic above it.
    """
    fig, axes, legend = canvas(ax, 1, 3, figsize=(TWO_COLUMNS, 2.7), sharex=True, layout="constrained")
    positions = sorted(set(drawing.columns["position"]))
    for axis, (name, label) in zip(axes, PANELS.items(), strict=True):
        for position, (color, marker, dash) in zip(positions, cycle(LOOKS), strict=False):
            part = drawing.where(position=position)
            values = _numbers(part[name])
            axis.plot(part["block"], values, color=color, ls=dash, lw=0.9, zorder=2)
            for inside in (False, True):
                kept = [v if k == inside else math.nan for v, k in zip(values, part["kept"], strict=True)]
                axis.plot(
                    part["block"],
                    kept,
                    color=color,
                    marker=marker,
                    ls="",
                    ms=3.5,
                    mew=0.7,
                    mfc=color if inside else "white",
                    zorder=3,
                )
        chosen = drawing.where(position=drawing.notes["position"], block=drawing.notes["block"])[name]
        axis.plot(drawing.notes["block"], chosen, marker="*", ms=12, mec=BLACK, mfc="none", mew=0.9, ls="", zorder=4)
        _bounds(axis, drawing, name)
        axis.set(xlabel="block of the candidate", ylabel=label)
    legend(
        *_handles(positions, int(drawing.notes["n_kept"]), len(drawing.columns["block"])),
        loc="outside lower center",
        ncols=min(6, len(positions) + 4),
        title=(
            f"token of the prompt, from its end; n = {drawing.notes['n_positive']} harmful and "
            f"{drawing.notes['n_negative']} harmless prompts"
        ),
    )
    return fig, list(axes)


def _bounds(axis: Any, drawing: Drawing, name: str) -> None:
    """Shade what the bounds leave out of a panel, and draw its score without steering."""
    notes, n = drawing.notes, int(drawing.notes["n_blocks"])
    axis.set_xticks(range(0, n, max(1, math.ceil(n / 8))))
    axis.set_xlim(-0.7, n - 0.3)
    finite = [v for v in _numbers(drawing.columns[name]) if math.isfinite(v)]
    bound = notes["max_kl"] if name == "kl" else notes["min_induce"] if name == "induce_score" else None
    if name == "kl":
        scale = notes["max_kl"] or 0.1
        axis.set_yscale("symlog", linthresh=scale)
        low, high = -0.15 * scale, max([*finite, 2 * scale]) * 1.3
    else:
        around = [*finite, float(notes[name]), *([] if bound is None else [bound + 1])]
        margin = 0.06 * (max(around) - min(around) + 1e-9)
        low, high = min(around) - margin, max(around) + margin
        axis.axhline(float(notes[name]), color=BLACK, lw=0.7, ls=":", zorder=1)
    axis.set_ylim(low, high)
    shade = {"color": GREY, "alpha": 0.22, "lw": 0, "zorder": 0}
    first_out = next((b for b in range(n) if b >= round(float(notes["max_depth"]) * n, 9)), n)
    axis.axvspan(first_out - 0.5, n - 0.3, **shade)
    if bound is not None:
        axis.axhspan(*((bound, high) if name == "kl" else (low, max(low, bound))), **shade)


def _handles(positions: Sequence[Any], n_kept: int, n: int) -> tuple[list[Any], list[str]]:
    """Return the marks of the legend and their labels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = [
        Line2D([], [], color=color, marker=marker, ls=dash, ms=3.5, lw=0.9)
        for _, (color, marker, dash) in zip(positions, cycle(LOOKS), strict=False)
    ]
    hollow = Line2D([], [], color=GREY, marker="o", mfc="white", ls="", ms=3.5)
    marks += [
        Line2D([], [], color=BLACK, marker="*", mfc="none", ls="", ms=10),
        hollow,
        Line2D([], [], color=BLACK, ls=":", lw=0.7),
        Patch(color=GREY, alpha=0.22, lw=0),
    ]
    words = ["chosen", f"hollow: left out ({n - n_kept} of {n})", "no steering", "beyond a bound"]
    return marks, [*(f"−{-p}" for p in positions), *words]


def _numbers(values: Sequence[Any]) -> list[float]:
    return [math.nan if v is None else float(v) for v in values]
