"""Figures of the comparison: conditions at their choices, and the harmonic response."""

from __future__ import annotations

from typing import Any

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREY,
    NEGATIVE,
    POSITIVE,
    TWO_COLUMNS,
    VERMILION,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
)

SHORT = {"complied": "harmful:\ncomplied", "helped": "harmless:\nright", "refused_harmless": "harmless:\nrefused", "capable": "tasks:\nright",
         "perplexity_ref": "perplexity of\nthe answers"}  # fmt: skip
NOT_REFUSED = {"complied": "harmful:\nnot refused", "helped": "harmless:\nnot refused"}
CLASS_LOOKS = {"positive": (POSITIVE, "o", "-", "harmful"), "negative": (NEGATIVE, "s", "--", "harmless")}


@figure
def method_dots(drawing: Drawing, ax: Target = None) -> Drawn:
    """Every condition at the setting chosen on select, measured on report: one panel a quantity, 95 % intervals; dotted: no steering."""
    quantities = list(drawing.notes["quantities"])
    names = list(dict.fromkeys(drawing.columns["label"]))
    fig, axes, legend = canvas(
        ax, 1, len(quantities), figsize=(TWO_COLUMNS, 0.24 * len(names) + 0.9), sharey=True, layout="constrained", squeeze=False
    )
    for axis, quantity in zip(axes[0], quantities, strict=True):
        for row, name in enumerate(names):
            part = drawing.where(label=name, quantity=quantity)
            if not part["mean"]:
                continue
            mean, low, high = (float(part[k][0]) for k in ("mean", "low", "high"))
            color, marker = (BLUE, "o") if part["met"][0] else (VERMILION, "X")
            axis.plot([low, high], [row, row], color=color, lw=1.2)
            axis.plot([mean], [row], color=color, marker=marker, ms=4, ls="none")
        base = drawing.notes["base"].get(quantity)
        if base is not None:
            axis.axvline(base, color=GREY, ls=(0, (1, 2)), lw=1)
        short = SHORT if drawing.notes.get("graded", True) else SHORT | NOT_REFUSED
        axis.set_xlabel(f"{short.get(quantity, quantity)}\nn = {drawing.notes['n'].get(quantity, 0)}")
        if not quantity.startswith("perplexity"):
            axis.set(xlim=(-0.04, 1.04), xticks=(0, 0.5, 1))
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    handles = [
        axes[0][0].plot([], [], color=BLUE, marker="o", ms=4, label="chosen setting")[0],
        axes[0][0].plot([], [], color=VERMILION, marker="X", ms=4, label="no setting keeps to the constraints")[0],
        axes[0][0].plot([], [], color=GREY, ls=(0, (1, 2)), label="no steering")[0],
    ]
    legend(handles=handles, loc="outside upper right", ncols=3)
    return fig, list(axes[0])


@figure
def harmonic(drawing: Drawing, ax: Target = None) -> Drawn:
    """Refusal scores over the angle with their first harmonics (means over prompts), R² by prompt, and how many angles foretell the rest."""
    fig, axes, legend = canvas(ax, 1, 3, figsize=(TWO_COLUMNS, 2.6), layout="constrained")
    for side, (color, marker, dash, name) in CLASS_LOOKS.items():
        part = drawing.where(part="score", side=side)
        angle, mean, low, high, fitted = ([float(v) for v in part[k]] for k in ("x", "y", "low", "high", "fitted"))
        axes[0].plot(angle, mean, color=color, marker=marker, ls="none", ms=2.5, label=name)
        axes[0].fill_between(angle, low, high, color=color, alpha=0.15, lw=0)
        axes[0].plot(angle, fitted, color=color, ls=dash, lw=1)
        r2 = sorted(float(v) for v in drawing.where(part="r2", side=side)["x"])
        axes[1].step(
            r2, [(i + 1) / len(r2) for i in range(len(r2))], color=color, ls=dash, where="post", label=f"{name}, n = {len(r2)}"
        )
        few = drawing.where(part="angles", side=side)
        counts: list[Any] = [int(v) for v in few["x"]]
        axes[2].plot(counts, [float(v) for v in few["y"]], color=color, marker=marker, ls=dash, ms=3, label=name)
    axes[0].set(xlabel="angle (degrees)", ylabel="refusal score (nats)", xticks=range(0, 361, 90), title="lines: first harmonic")
    axes[1].set(xlabel="R² of a prompt's harmonic", ylabel="share of prompts up to it", xlim=(-0.02, 1.02), ylim=(0, 1.02))
    axes[2].set(xlabel="angles fitted on", ylabel="error at the other angles\n(in spreads of the scores)", ylim=(0, None))
    axes[2].axhline(1, color=BLACK, lw=0.6, ls=":")
    legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig, list(axes)
