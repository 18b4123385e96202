"""Figure of the estimators of the direction.

It compares their directions with the difference of means, and how well these separate held-out classes.
"""

from __future__ import annotations

from typing import Any

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    TWO_COLUMNS,
    VERMILION,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
    legend_below,
)
from lens_steer.figures.geometry import depth_axis, positions_in_depth, shade_blocks
from lens_steer.geometry.direction_comparison import DEFAULT, DirectionComparison
from lens_steer.models import sites

LOOKS: dict[str, tuple[str, str, Any, str]] = {
    "difference": (BLACK, "o", "-", "difference of means"),
    "fisher": (BLUE, "s", "--", "Fisher, shrunk covariance"),
    "paired_pca": (VERMILION, "^", ":", "first component of paired differences"),
    "logistic": (GREEN, "D", "-.", "logistic, L2"),
    "sparse": (PURPLE, "v", (0, (4, 1, 1, 1, 1, 1)), "logistic, L1"),
}
MANY = 40  # the markers are smaller from this number of sites on
BESIDE = 0.06  # the distance between the bars of two estimators, in blocks


def drawing(comparison: DirectionComparison) -> Drawing:
    """Build the data of :func:`direction_estimators`: the comparison's rows, with each site's position in depth.

    ``default_discriminative`` marks L_disc of the calibration by the difference of means.
    """
    full = comparison.default
    parsed = [sites.parse(name) for name in full.sites]
    places = [
        {"kind": site.kind, "position": position, "default_discriminative": site.name in full.discriminative_sites}
        for site, position in zip(parsed, positions_in_depth(parsed), strict=True)
    ]
    table = [row | places[i % len(places)] for i, row in enumerate(comparison.rows())]
    held_out = comparison.n_held_out or (None, None)
    notes = {
        "model": full.model,
        "n_blocks": full.n_layers,
        "rule": full.rule,
        "n_positive": full.n_positive,
        "n_negative": full.n_negative,
        "resamples": comparison.resamples,
        "seed": comparison.seed,
        "held_out_positive": held_out[0],
        "held_out_negative": held_out[1],
    }
    return Drawing.of("direction_estimators", table, notes)


@figure
def direction_estimators(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the cosine of every estimator's direction with the difference of means, and the held-out AUROC, by depth.

    The AUROC is that of the projections of held-out samples on the direction.
    """
    held_out = drawing.notes["held_out_positive"] is not None
    fig, axes, legend = canvas(ax, 1, 1 + held_out, figsize=(TWO_COLUMNS, 3.0), squeeze=False)
    panels = list(axes[0])
    first = drawing.where(estimator=drawing.columns["estimator"][0])
    for axis, quantity, label in zip(
        panels, ("cosine", "auroc"), ("cosine with the\ndifference of means", "held-out AUROC"), strict=False
    ):
        shade_blocks(axis, Drawing(drawing.kind, first | {"discriminative": first["default_discriminative"]}))
        names = list(dict.fromkeys(drawing.columns["estimator"]))
        for i, name in enumerate(names):
            _series(axis, drawing, str(name), quantity, beside=BESIDE * (i - (len(names) - 1) / 2))
        depth_axis(axis, drawing)
        axis.set_ylabel(label)
    panels[0].axhline(0, color=GREY, lw=0.6)
    panels[0].set_ylim(top=1.03)
    if held_out:
        panels[1].axhline(0.5, color=GREY, lw=0.6)
        panels[1].set_ylim(top=1.03)
    how = {"ncols": 3, "columnspacing": 1.6, "handlelength": 3.2, "title_fontsize": 7}
    legend_below(legend, panels, title=_counts(drawing), **how)
    return fig, panels


def _series(ax: Any, drawing: Drawing, name: str, quantity: str, *, beside: float) -> None:
    """Draw one estimator's values at every site that has one.

    Intervals are a band where every site has one, otherwise a bar at each site that has one.
    """
    color, marker, dash, label = LOOKS.get(name, (GREY, "P", "-", name))
    rows = [r for r in Drawing(drawing.kind, drawing.where(estimator=name)).rows() if r[quantity] is not None]
    size = 2.8 if len(rows) < MANY else 1.8
    x, y = [r["position"] for r in rows], [r[quantity] for r in rows]
    ax.plot(x, y, color=color, marker=marker, ls=dash, ms=size, lw=0.9, label=label, zorder=3 if name == DEFAULT else 2)
    found = [r for r in rows if r[f"{quantity}_low"] is not None]
    where = [float(r["position"] or 0) for r in found]
    low, high = ([r[f"{quantity}_{end}"] for r in found] for end in ("low", "high"))
    if len(found) == len(rows):
        ax.fill_between(where, low, high, color=color, alpha=0.16, lw=0)
    else:
        ax.vlines([p + beside for p in where], low, high, color=color, alpha=0.4, lw=2.2)


def _counts(drawing: Drawing) -> str:
    """Return the legend's title: how many prompts the values come from, and what the bands are."""
    notes = drawing.notes
    text = (
        f"fit on {notes['n_positive']} positive and {notes['n_negative']} negative prompts; "
        f"bar or band of the cosine: middle 95 % of {notes['resamples']} resamples"
    )
    if notes["held_out_positive"] is None:
        return text
    counts = f"{notes['held_out_positive']} positive and {notes['held_out_negative']} negative prompts"
    return f"{text}\nheld out: {counts}; band of the AUROC: 95 % interval (Newcombe)"
