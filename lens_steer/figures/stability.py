"""Figure of the stability of the selection under resampled prompts and shuffled labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    TWO_COLUMNS,
    VERMILION,
    Drawing,
    Drawn,
    Target,
    banded,
    canvas,
    figure,
    legend_below,
)
from lens_steer.figures.geometry import depth_axis, positions_in_depth, shade_blocks
from lens_steer.geometry.stability import Stability
from lens_steer.models import sites

LOOKS = {
    "bootstrap": (BLUE, "o", "-", "prompts resampled"),
    "shuffled": (VERMILION, "s", "--", "labels shuffled"),
    "random": (GREEN, "^", ":", "random planes"),
}
QUANTILES = 101  # the number of points of each distribution function
MANY = 40  # the markers are smaller from this number of sites on
SHARES = ("selected_share", "discriminative_share")


def drawing(stability: Stability) -> Drawing:
    """Build the data of :func:`selection_stability`.

    First comes one row for each site and set (``bootstrap``, ``shuffled``), with the two shares and their Wilson
    intervals. Then comes one row for each set and level, with the quantiles of both principal angles. Cells that do not
    apply to a row are empty.
    """
    full, rows = stability.calibration, stability.rows()
    parsed = [sites.parse(name) for name in full.sites]
    table: list[dict[str, Any]] = []
    for name, prefix in (("bootstrap", ""), ("shuffled", "null_")):
        for row, site, position in zip(rows, parsed, positions_in_depth(parsed), strict=True):
            where = {"set": name, "part": "site", "kind": site.kind, "position": position}
            where |= {k: row[k] for k in ("site", "block", "selected", "discriminative")}
            table.append(where | {f"{s}{e}": row[f"{prefix}{s}{e}"] for s in SHARES for e in ("", "_low", "_high")})
    counts: dict[str, int] = {}
    sources = (stability.bootstrap.angles, stability.shuffled.angles, stability.random_angles)
    for name, angles in zip(LOOKS, sources, strict=True):
        kept = angles[~angles[:, 0].isnan()]
        counts[name] = len(kept)
        table += [{"set": name, "part": "angles"} | row for row in _quantiles(kept)]
    notes = {
        "model": full.model,
        "n_blocks": full.n_layers,
        "selected_site": full.selected_site,
        "rule": full.rule,
        "n_positive": full.n_positive,
        "n_negative": full.n_negative,
        "resamples": len(stability.bootstrap.selected),
        "planes": counts,
    }
    return Drawing.of("selection_stability", table, notes)


def _quantiles(angles: Tensor) -> list[dict[str, float]]:
    if not len(angles):
        return []
    levels = np.linspace(0, 1, QUANTILES)
    first, second = np.quantile(angles.numpy(), levels, axis=0).T.tolist()
    return [
        {"level": a, "first_angle": b, "second_angle": c}
        for a, b, c in zip(levels.tolist(), first, second, strict=True)
    ]


@figure
def selection_stability(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw how often each site is selected, how often it is discriminative, and the angles between planes.

    Two panels show both shares across depth with Wilson intervals, for resampled prompts and for shuffled labels. The
    third shows the distribution of both principal angles between the calibrated plane and resampled, shuffled and
    random planes.
    """
    fig, axes, legend = canvas(ax, 1, 3, figsize=(TWO_COLUMNS, 2.5), width_ratios=(1, 1, 0.9))
    for axis, share in zip(axes, SHARES, strict=False):
        _shares(axis, drawing, share)
    axes[0].set_ylabel("share selected")
    axes[1].set_ylabel("share discriminative")
    _angles(axes[2], drawing)
    how = {"ncols": 4, "columnspacing": 1.6, "handlelength": 2.6, "title_fontsize": 7}
    legend_below(legend, axes, title=_counts(drawing), **how)
    return fig, list(axes)


def _counts(drawing: Drawing) -> str:
    """Return the legend's title: the numbers of draws and prompts, and how many planes the third panel lacks."""
    notes = drawing.notes
    text = (
        f"{notes['resamples']} draws of each; {notes['n_positive']} positive and {notes['n_negative']} negative prompts"
    )
    missing = [
        f"{notes['resamples'] - n} of {LOOKS[k][3]}" for k, n in notes["planes"].items() if n < notes["resamples"]
    ]
    return f"{text}\nwithout a plane: {', '.join(missing)}" if missing else text


def _shares(ax: Any, drawing: Drawing, share: str) -> None:
    """Draw one share across depth for both sets, and mark what the calibration of all prompts selected."""
    own = drawing.where(part="site", set="bootstrap")
    if share == "selected_share":
        x, y = (own[name][own["selected"].index(True)] for name in ("position", share))
        ax.plot(x, y, marker="*", ms=11, color=BLACK, ls="", label="selected on all prompts")
    else:
        shade_blocks(ax, Drawing(drawing.kind, own))
    for name in ("bootstrap", "shuffled"):
        color, marker, dash, label = LOOKS[name]
        x, *curve = drawing.numbers("position", share, f"{share}_low", f"{share}_high", part="site", set=name)
        size = 2.8 if len(x) < MANY else 1.8
        banded(ax, x, *curve, color=color, alpha=0.2, marker=marker, ls=dash, ms=size, lw=0.8, label=label)
    ax.set_ylim(-0.03, 1.03)
    depth_axis(ax, drawing)


def _angles(ax: Any, drawing: Drawing) -> None:
    """Draw the distribution functions of the principal angles.

    The smaller angle has full markers, the larger one open markers.
    """
    for name, (color, marker, dash, _) in LOOKS.items():
        part = drawing.where(part="angles", set=name)
        level = [float(v) for v in part["level"]]
        for which, fill in (("first_angle", color), ("second_angle", "white")):
            angle = [float(v) for v in part[which]]
            ax.plot(angle, level, color=color, ls=dash, marker=marker, mfc=fill, markevery=(10, 20), ms=3.5, lw=0.9)
    ax.plot([], [], color=GREEN, ls=":", marker="^", lw=0.9, label="random planes")
    for fill, label in ((GREY, "smaller angle"), ("white", "larger angle")):
        ax.plot([], [], color=GREY, ls="none", marker="o", mfc=fill, label=label)
    ax.set(xlim=(-2, 92), xticks=range(0, 91, 30), xlabel="principal angle (degrees)")
    ax.set(ylim=(-0.03, 1.03), ylabel="share of planes")
