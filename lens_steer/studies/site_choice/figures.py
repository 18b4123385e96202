"""Figures of the study: effect against side effect for every set of sites, and the answers at one budget."""

from __future__ import annotations

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
    legend_below,
)
from lens_steer.figures.rate_rows import rate_rows

LOOKS = {
    "paper": (VERMILION, "o", "-", "opposite signs (published)"),
    "official": (ORANGE, "v", "-", "opposite signs (released code)"),
    "centred": (PURPLE, "P", "-", "about the midpoint"),
    "effect": (BLUE, "s", "--", "largest Cohen's d"),
    "auroc": (SKY, "D", "--", "largest AUROC"),
    "middle half": (GREEN, "^", "-.", "middle half"),
    "all": (BLACK, "X", ":", "all"),
}
OUTCOMES = {
    "answered": (VERMILION, "o", "harmful: answered"), "over_refused": (BLUE, "s", "harmless: refused"),
    "capable": (PURPLE, "D", "tasks: right"),
}  # fmt: skip


@figure
def site_frontier(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the effect of each rule's sites over the side effect, both on report, at the angle chosen for each budget.

    There is one panel for each number of sites of the rules that rank; rules with a number of their own are in every
    panel. Random sets of the same number are a grey band over the budgets, from the least to the greatest draw.
    """
    counts = sorted({n for n, drawn in zip(drawing.columns["n"], drawing.columns["draw"], strict=True) if drawn})
    counts = counts or [max(drawing.columns["n"])]
    fig, axes, legend = canvas(
        ax, 1, len(counts), figsize=(TWO_COLUMNS, 2.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, count in zip(axes[0], counts, strict=True):
        rows = [r for r in drawing.rows() if r["effect"] is not None]
        random = [r for r in rows if r["draw"] and r["n"] == count]
        budgets = sorted({float(r["budget"]) for r in random})  # type: ignore[arg-type]
        by_budget = [[r for r in random if r["budget"] == b] for b in budgets]
        if budgets:
            cost = [sum(float(r["cost"]) for r in group) / len(group) for group in by_budget]  # type: ignore[arg-type]
            ends = [[end(float(r["effect"]) for r in g) for g in by_budget] for end in (min, max)]  # type: ignore[arg-type]
            axis.fill_between(cost, *ends, color=GREY, alpha=0.3, lw=0, label="random (least to greatest draw)")
            axis.vlines(cost, *ends, color=GREY, alpha=0.6, lw=4)  # a band of one budget has no width
        for rule, (color, marker, dash, label) in LOOKS.items():
            own = [r for r in rows if r["rule"] == rule and (rule not in ("effect", "auroc") or r["n"] == count)]
            if not own:
                continue
            x, y, low, high = ([float(r[k]) for r in own] for k in ("cost", "effect", "effect_low", "effect_high"))  # type: ignore[arg-type]
            error = [[v - a for v, a in zip(y, low, strict=True)], [b - v for v, b in zip(y, high, strict=True)]]
            axis.errorbar(x, y, yerr=error, color=color, marker=marker, ls=dash, ms=4, lw=1, label=label)
        axis.axhline(0, color=GREY, lw=0.5)
        axis.set_xscale("log")
        axis.set(xlabel="KL on harmless answers (nats a token)", title=f"ranked rules: {count} sites")
    axes[0][0].set_ylabel("fall of the refusal score\nof harmful prompts")
    legend_below(legend, axes[0][:1], ncols=4, title=f"report split, n = {drawing.notes['n']} harmful prompts")
    return fig, list(axes[0])


@figure
def site_outcomes(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the rates of every set at its angle under one budget, with Wilson intervals; random sets from least to
    greatest draw.
    """
    rows = drawing.rows()
    fig, ax, legend = canvas(ax, figsize=(TWO_COLUMNS, 0.9 + 0.24 * len(rows)), layout="constrained")
    rate_rows(ax, rows, OUTCOMES, [str(r["label"]) for r in rows], apart=0.2)
    legend_below(legend, [ax], ncols=3, title=f"at a KL of at most {drawing.notes['budget']:g} nats a token on select")
    return fig, [ax]
