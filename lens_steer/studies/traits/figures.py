"""Figures of a trait study: recovery over depth, and the rates of every condition."""

from __future__ import annotations

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
    banded,
    canvas,
    figure,
    legend_below,
)
from lens_steer.figures.rate_rows import rate_rows

LOOKS = {"swfc": (BLUE, "s", "-", "SwFC"), "sttp": (VERMILION, "o", "--", "StTP"), "stmp": (GREEN, "^", "-.", "StMP")}
DOTS = {
    "trait": (VERMILION, "o", "trait, malicious prompt"), "aligned_trait": (BLUE, "s", "trait, aligned prompt"),
    "coherence": (GREEN, "^", "coherence"), "capability": (PURPLE, "D", "capability"),
}  # fmt: skip
KINDS = ("no steering", "method", "random direction", "token-calibrated")


@figure
def trait_depth(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the share of answers with the trait under the malicious prompt over the steered block.

    There is one panel per position mode. Each block is shown at its best coefficient, once among the coherent settings
    (lines) and once among all settings (open markers).
    """
    modes = list(dict.fromkeys(drawing.columns["mode"]))
    fig, axes, legend = canvas(
        ax, 1, len(modes), figsize=(TWO_COLUMNS, 2.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, mode in zip(axes[0], modes, strict=True):
        for method, (color, marker, dash, label) in LOOKS.items():
            part = drawing.where(method=method, mode=mode)
            kept = [i for i, v in enumerate(part["recovered"]) if v is not None]
            x = [part["block"][i] for i in kept]
            y, low, high = (
                [100 * float(part[k][i]) for i in kept] for k in ("recovered", "recovered_low", "recovered_high")
            )
            look = {"marker": marker, "ls": dash, "ms": 4, "lw": 1, "label": f"{label}, coherent"}
            banded(axis, x, y, low, high, color=color, **look)
            found = [100 * v for v in part["any"]]
            axis.plot(part["block"], found, color=color, marker=marker, mfc="white", ls="", ms=3, label=f"{label}, any")
        for value, color, text in (("unsteered", GREY, "no steering"), ("aligned", BLACK, "aligned prompt")):
            axis.axhline(100 * drawing.notes[value], color=color, ls=":", lw=1, label=text)
        axis.set_title("all tokens" if mode == "all" else "response tokens only")
        axis.set(xlabel="steered block", ylim=(-4, 104))
        axis.locator_params(axis="x", integer=True)
    axes[0][0].set_ylabel("answers with the trait (%)")
    legend_below(legend, axes[0][:1], ncols=4, title=f"select split, n = {drawing.notes['n']} scenarios")
    return fig, list(axes[0])


@figure
def trait_conditions(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw trait, trait under the aligned prompt, coherence and capability of every condition, with their intervals."""
    rows = drawing.rows()
    fig, ax, legend = canvas(ax, figsize=(TWO_COLUMNS, 0.9 + 0.24 * len(rows)), layout="constrained")
    rate_rows(ax, rows, DOTS, [str(r["condition"]) for r in rows], apart=0.17)
    for i in range(len(rows) - 1):
        if rows[i]["kind"] != rows[i + 1]["kind"]:
            ax.axhline(i + 0.5, color=GREY, lw=0.5)
    legend_below(legend, [ax], ncols=4)
    return fig, [ax]
