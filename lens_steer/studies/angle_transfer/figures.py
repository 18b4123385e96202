"""The figure of the study: how far the refusal score falls on each source under steering that was set elsewhere."""

from __future__ import annotations

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREY,
    TWO_COLUMNS,
    VERMILION,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
    legend_below,
)

LOOKS = {
    "falls_own": (BLACK, "o", "direction, sites and angle from the source"),
    "falls_again": (BLUE, "s", "another's direction and sites, angle from the source"),
    "falls": (VERMILION, "^", "all from another source"),
}


@figure
def angle_falls(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the mean fall of the refusal score on every source's prompts, under steering that was set on each source.

    Lines are 95 % intervals; the grey bar is the range of random planes, turned as the source's own plane is.
    """
    rows = drawing.rows()
    fig, ax, legend = canvas(ax, figsize=(TWO_COLUMNS, 1.0 + 0.24 * len(rows)), layout="constrained")
    for i, row in enumerate(rows):
        if row["random_low"] is not None:
            low, high = float(row["random_low"]), float(row["random_high"])  # type: ignore[arg-type]
            ax.barh(i, high - low, left=low, height=0.6, color=GREY, alpha=0.4, lw=0, label="random planes")
    for shift, (name, (color, marker, label)) in zip((-0.2, 0.0, 0.2), LOOKS.items(), strict=True):
        kept = [(i, r) for i, r in enumerate(rows) if r["fitted"] != r["on"] or name == "falls_own"]
        value, low, high = ([float(r[f"{name}{e}"]) for _, r in kept] for e in ("", "_low", "_high"))  # type: ignore[arg-type]
        error = [[v - a for v, a in zip(value, low, strict=True)], [b - v for v, b in zip(value, high, strict=True)]]
        at = [i + shift * (r["fitted"] != r["on"]) for i, r in kept]
        ax.errorbar(value, at, xerr=error, color=color, marker=marker, ls="none", ms=4, lw=0.8, label=label)
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    labels = [str(r["on"]) if r["fitted"] == r["on"] else f"{r['fitted']} on {r['on']}" for r in rows]
    ax.set(yticks=range(len(rows)), yticklabels=labels, xlabel="fall of the refusal score (nats)")
    ax.invert_yaxis()
    legend_below(legend, [ax], ncols=2)
    return fig, [ax]
