"""Figures of what the rotations do to two classes: phases in the plane, and distances."""

from __future__ import annotations

from lens_steer.figures.core import BLACK, BLUE, GREY, NEGATIVE, POSITIVE, TWO_COLUMNS, VERMILION, Drawing, Drawn, figure

SIDES = {"positive": (POSITIVE, "o", 5.0, "positive (harmful)"), "negative": (NEGATIVE, "x", 3.0, "negative (harmless)")}
KINDS = {"within a class": (BLUE, "s"), "between classes": (VERMILION, "o")}


@figure
def in_plane(drawing: Drawing) -> Drawn:
    """Both classes in the plane: before, set to one angle (SAS), turned by it (SS)."""
    import matplotlib.pyplot as plt

    angle = drawing.notes["angle"]
    titles = {"before": "before", "SAS": f"after SAS, {angle:g}°", "SS": f"after SS, {angle:g}°"}
    fig, axes = plt.subplots(1, 3, figsize=(TWO_COLUMNS, 3.1), sharex=True, sharey=True, layout="constrained")
    reach = 1.08 * max(abs(float(v)) for k in ("x", "y") for v in drawing.columns[k])
    for ax, (operator, title) in zip(axes, titles.items(), strict=True):
        ax.axhline(0, color=GREY, lw=0.5)
        ax.axvline(0, color=GREY, lw=0.5)
        for side, (color, marker, size, label) in SIDES.items():
            part = drawing.where(operator=operator, side=side)
            x, y = ([float(v) for v in part[k]] for k in ("x", "y"))
            ax.plot(
                x,
                y,
                color=color,
                marker=marker,
                ls="none",
                ms=size,
                mew=0.6,
                mfc="none",
                alpha=0.8,
                label=f"{label}, n = {len(x)}",
            )
        ax.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        ax.locator_params(nbins=5)
        ax.set(title=title, xlabel="along b1")
    axes[0].set_ylabel("along b2")
    fig.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        title=str(drawing.notes["where"]),
        markerscale=2,
    )
    return fig, list(axes)


@figure
def pairwise_distances(drawing: Drawing) -> Drawn:
    """Distance of two activations after a rotation against that before; on the line nothing has changed."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 3.1), sharex=True, sharey=True, layout="constrained")
    for ax, operator in zip(axes, ("SAS", "SS"), strict=True):
        for kind, (color, marker) in KINDS.items():
            part = drawing.where(operator=operator, kind=kind)
            before, after = ([float(v) for v in part[k]] for k in ("before", "after"))
            label = f"{kind}, n = {len(before)} pairs"
            ax.plot(before, after, color=color, marker=marker, ls="none", ms=1.5, alpha=0.35, mew=0, label=label, rasterized=True)
        top = max(float(v) for v in drawing.columns["before"])
        ax.plot([0, top], [0, top], color=BLACK, lw=0.7, ls=":")
        ax.set(title=f"{operator}, {drawing.notes['angle']:g}°", xlabel="distance before", aspect="equal")
    axes[0].set_ylabel("distance after")
    fig.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        title=str(drawing.notes["where"]),
        markerscale=3,
    )
    return fig, list(axes)
