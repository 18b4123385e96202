"""The figure of the study: how far directions and sites agree between formats, beside other prompts."""

from __future__ import annotations

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    TWO_COLUMNS,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
    legend_below,
)

# A panel's quantities, with colour, marker, place and label: agreement twice, and what the directions separate.
AGREEMENT = ((BLACK, "o", 0.0, "other prompts"), (ORANGE, "D", 0.25, "same prompts"))
AREAS = ((BLACK, "^", 0.0, "direction of the own format"), (BLUE, "s", 0.25, "direction of this format"))
PANELS = (
    ("cosine with the direction\nof the own format", AGREEMENT, ("cosine_other", "cosine"), (None, None)),
    (
        "Jaccard index with $L_{disc}$\nof the own format", AGREEMENT, ("jaccard_other", "jaccard"),
        ("chance_other", None),
    ),
    ("AUROC of other prompts\nin this format", AREAS, ("area", "area_there"), ("random", "random_there")),
)  # fmt: skip


@figure
def format_agreement(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw how far calibrations in other formats agree with one in the model's own, and what its direction separates.

    Points are medians over draws of prompts, lines hold 90 % of the draws. The grey band is what other prompts give in
    the own format. Grey strokes are what random sets of sites, or the best of random directions, reach.
    """
    rows = drawing.rows()
    size = (TWO_COLUMNS, 1.2 + 0.3 * len(rows))
    fig, axes, legend = canvas(ax, 1, len(PANELS), figsize=size, layout="constrained", sharey=True)
    for axis, (label, looks, names, random) in zip(axes, PANELS, strict=True):
        low, high = (rows[0][f"{names[0]}_{end}"] for end in ("low", "high"))
        axis.axvspan(low, high, color=GREY, alpha=0.2, lw=0, label="other prompts, own format")
        for (color, marker, shift, said), name, beside in zip(looks, names, random, strict=True):
            kept = [(i, r) for i, r in enumerate(rows) if r[name] is not None]
            value, start, end = ([float(r[f"{name}{e}"]) for _, r in kept] for e in ("", "_low", "_high"))  # type: ignore[arg-type]
            error = [
                [v - a for v, a in zip(value, start, strict=True)],
                [b - v for v, b in zip(value, end, strict=True)],
            ]
            at = [i + shift for i, _ in kept]
            axis.errorbar(value, at, xerr=error, color=color, marker=marker, ls="none", ms=4, lw=0.8, label=said)
            if beside is not None:
                strokes = [float(r[beside]) for r in rows]  # type: ignore[arg-type]
                axis.plot(strokes, [i + shift for i in range(len(rows))], "|", color=GREY, ms=8, label="at random")
        axis.set(xlabel=label)
    axes[0].set(yticks=range(len(rows)), yticklabels=[str(r["format"]) for r in rows])
    axes[0].invert_yaxis()
    legend_below(legend, axes[1:], ncols=3)
    return fig, list(axes)
