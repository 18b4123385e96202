"""Figures of the effect of rotations on two classes: phases in the plane, and distances."""

from __future__ import annotations

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREY,
    NEGATIVE,
    ONE_COLUMN,
    POSITIVE,
    TWO_COLUMNS,
    VERMILION,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
    legend_below,
)

SIDES = {
    "positive": (POSITIVE, "o", 5.0, "positive (harmful)"),
    "negative": (NEGATIVE, "x", 3.0, "negative (harmless)"),
}
KINDS = {"within a class": (BLUE, "s"), "between classes": (VERMILION, "o")}
PARTS = {
    "positive mean": (POSITIVE, "o", 5.0, "positive class, mean"),
    "negative mean": (NEGATIVE, "x", 5.0, "negative class, mean"),
    "not steered": (GREY, "s", 5.0, "this prompt, not steered"),
    "arriving": (BLACK, "D", 4.5, "steered before this site"), "steered": (BLACK, "*", 9.0, "steered here too"),
}  # fmt: skip


@figure
def in_plane(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw both classes in the plane: before, set to one angle (SAS), and turned by the same angle (SS)."""
    angle = drawing.notes["angle"]
    titles = {"before": "before", "SAS": f"after SAS, {angle:g}°", "SS": f"after SS, {angle:g}°"}
    fig, axes, legend = canvas(ax, 1, 3, figsize=(TWO_COLUMNS, 3.1), sharex=True, sharey=True, layout="constrained")
    reach = 1.08 * max(abs(float(v)) for k in ("x", "y") for v in drawing.columns[k])
    for axis, (operator, title) in zip(axes, titles.items(), strict=True):
        axis.axhline(0, color=GREY, lw=0.5)
        axis.axvline(0, color=GREY, lw=0.5)
        for side, (color, marker, size, label) in SIDES.items():
            part = drawing.where(operator=operator, side=side)
            x, y = ([float(v) for v in part[k]] for k in ("x", "y"))
            look = {"color": color, "marker": marker, "ls": "none", "ms": size, "mew": 0.6, "mfc": "none", "alpha": 0.8}
            axis.plot(x, y, label=f"{label}, n = {len(x)}", **look)
        axis.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        axis.locator_params(nbins=5)
        axis.set(title=title, xlabel="along b1")
    axes[0].set_ylabel("along b2")
    legend_below(legend, axes[:1], ncols=2, title=str(drawing.notes["where"]), markerscale=2)
    return fig, list(axes)


@figure
def pairwise_distances(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the distance of two activations after a rotation against their distance before it.

    Pairs on the diagonal keep their distance.
    """
    fig, axes, legend = canvas(ax, 1, 2, figsize=(TWO_COLUMNS, 3.1), sharex=True, sharey=True, layout="constrained")
    for axis, operator in zip(axes, ("SAS", "SS"), strict=True):
        for kind, (color, marker) in KINDS.items():
            part = drawing.where(operator=operator, kind=kind)
            before, after = ([float(v) for v in part[k]] for k in ("before", "after"))
            look = {"color": color, "marker": marker, "ls": "none", "ms": 1.5, "alpha": 0.35, "mew": 0}
            axis.plot(before, after, label=f"{kind}, n = {len(before)} pairs", rasterized=True, **look)
        top = max(float(v) for v in drawing.columns["before"])
        axis.plot([0, top], [0, top], color=BLACK, lw=0.7, ls=":")
        axis.set(title=f"{operator}, {drawing.notes['angle']:g}°", xlabel="distance before", aspect="equal")
    axes[0].set_ylabel("distance after")
    legend_below(legend, axes[:1], ncols=2, title=str(drawing.notes["where"]), markerscale=3)
    return fig, list(axes)


@figure
def turned_in_plane(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw one prompt's activation in the plane at one site, with the class means.

    The activation is shown without steering, as it arrives at the site under a plan that steers before it, and as it
    leaves the site. The circle has the radius at which the activation arrives.
    """
    import numpy as np

    fig, axis, legend = canvas(ax, figsize=(ONE_COLUMN, 4.1), layout="constrained")
    axis.axhline(0, color=GREY, lw=0.5)
    axis.axvline(0, color=GREY, lw=0.5)
    at = {str(row["part"]): (float(row["x"] or 0), float(row["y"] or 0)) for row in drawing.rows()}
    for part, (color, marker, size, label) in PARTS.items():
        if part in at:
            look = {"color": color, "marker": marker, "ms": size, "ls": "none", "mew": 1}
            axis.plot(*([v] for v in at[part]), mfc="none" if part == "arriving" else color, label=label, **look)
    for part, dash in (("not steered", "--"), ("arriving", ":"), ("steered", "-")):
        if part in at:
            axis.plot(*([0, v] for v in at[part]), color=PARTS[part][0], lw=0.8, ls=dash)
    radius, turn = float(np.hypot(*at.get("arriving", at["not steered"]))), np.linspace(0, 2 * np.pi, 200)
    axis.plot(radius * np.cos(turn), radius * np.sin(turn), color=GREY, lw=0.6, ls=":")
    reach = 1.12 * max(radius, *(float(np.hypot(*point)) for point in at.values())) or 1.0
    axis.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xlabel="along b1", ylabel="along b2")
    axis.locator_params(nbins=5)
    axis.set_title(f"{drawing.notes['site']}, {drawing.notes['method']}, {drawing.notes['angle']:g}°")
    legend_below(legend, [axis], ncols=2)
    return fig, [axis]
