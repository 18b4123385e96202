"""The figure of the study: how far directions and sites agree between formats, beside other prompts."""

from __future__ import annotations

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREY,
    TWO_COLUMNS,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
    legend_below,
)

QUANTITIES = {
    "cosine": "cosine with the direction\nof the own format",
    "jaccard": "Jaccard index of $L_{disc}$\nwith that of the own format",
    "area": "AUROC of other prompts\nin the format",
}


@figure
def format_agreement(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw how far calibrations in other formats agree with one in the model's own, and what its direction separates.

    Dots are medians over draws of prompts, lines hold 90 % of the draws. The grey band is what other prompts in the own
    format give; dotted marks are what random sets of sites, or random directions, reach.
    """
    rows = drawing.rows()
    fig, axes, legend = canvas(
        ax, 1, len(QUANTITIES), figsize=(TWO_COLUMNS, 1.1 + 0.26 * len(rows)), layout="constrained", sharey=True
    )
    for axis, (name, label) in zip(axes, QUANTITIES.items(), strict=True):
        axis.axvspan(
            rows[0][f"{name}_low"], rows[0][f"{name}_high"], color=GREY, alpha=0.2, lw=0, label="other prompts"
        )
        bars = [(name, BLACK, "o", BLACK, 0.0, "direction of the model's own format")]
        if name == "area":
            bars.append(("area_there", BLUE, "s", "white", 0.25, "direction of this format"))
        for key, color, marker, face, shift, said in bars:
            kept = [(i, r) for i, r in enumerate(rows) if r[key] is not None]
            value, low, high = ([float(r[f"{key}{e}"]) for _, r in kept] for e in ("", "_low", "_high"))  # type: ignore[arg-type]
            error = [
                [v - a for v, a in zip(value, low, strict=True)],
                [b - v for v, b in zip(value, high, strict=True)],
            ]
            at = [i + shift for i, _ in kept]
            axis.errorbar(
                value, at, xerr=error, color=color, marker=marker, mfc=face, ls="none", ms=4, lw=0.8, label=said
            )
        beside = {"jaccard": "chance", "area": "random"}.get(name)
        if beside is not None:
            axis.plot([float(r[beside]) for r in rows], range(len(rows)), "|", color=GREY, ms=8, label="at random")  # type: ignore[arg-type]
        axis.set(xlabel=label)
    axes[0].set(yticks=range(len(rows)), yticklabels=[str(r["format"]) for r in rows])
    axes[0].invert_yaxis()
    legend_below(legend, axes[-1:], ncols=4)
    return fig, list(axes)
