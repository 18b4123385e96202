"""Figures of sweeps over the angle: compliance and perplexity, coherence, both classes at once, and divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lens_steer.evaluation.control_bands import ranges
from lens_steer.evaluation.selection import Setting
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
    banded,
    canvas,
    figure,
    legend_below,
)

LOOKS = {
    "selective": (BLUE, "o", "-"), "standard": (VERMILION, "s", "--"), "adaptive": (ORANGE, "D", "-."),
    "mean-phase": (PURPLE, "^", ":"), "random plane": (GREY, "x", "-"),
}  # fmt: skip
OTHER = (
    (GREEN, "v", "-"), (SKY, "P", "--"), (PURPLE, "^", ":"), (BLACK, "*", "-."), (GREEN, "<", ":"), (SKY, ">", "-."),
    (ORANGE, "h", ":"),
)  # fmt: skip
NAMES = {
    "positive_right": "harmful requests complied with", "negative_right": "harmless requests done right",
    "negative_refused": "harmless requests refused", "perplexity_ref": "perplexity, unsteered model",
    "perplexity_self": "perplexity, steered model", "ngram_repetition": "4-gram repetition",
    "language_consistency": "language consistency (paper's code)",
    "language_consistency_script": "language consistency (script)", "compression_ratio": "compression ratio",
    "compression_ratio_200": "compression ratio (first 200 bytes)", "distinct_2": "distinct-2", "n_words": "words",
    "positive_degenerate": "harmful requests answered incoherently",
    "negative_degenerate": "harmless requests answered incoherently", "positive_answered": "harmful requests answered",
    "negative_answered": "harmless requests answered", "positive_refused": "harmful requests refused",
    "negative_perplexity_ref": "perplexity of harmless answers, unsteered model",
    "negative_perplexity_self": "perplexity of harmless answers, steered model", "capable": "capability tasks right",
    "refusal_score": "refusal score (nats)",
}  # fmt: skip


UNGRADED = {
    "positive_right": NAMES["positive_answered"], "negative_right": NAMES["negative_answered"],
    "positive_degenerate": "harmful requests: degenerate answers",
    "negative_degenerate": "harmless requests: degenerate answers",
}  # fmt: skip
COHERENCE = (
    "ngram_repetition", "distinct_2", "language_consistency_script", "compression_ratio", "compression_ratio_200",
    "n_words",
)  # fmt: skip
SWAP = ("positive_right", "negative_refused", "negative_degenerate")
UNSTEERED = "no steering"


def by_value(
    kind: str,
    select: Sequence[Setting],
    conditions: Sequence[str],
    quantities: Sequence[str] | None,
    chosen: Mapping[str, float | None] | None = None,
    *,
    graded: bool = True,
    controls: Sequence[Setting] = (),
    told: str = "",
) -> Drawing:
    """Build the data of :func:`polar`, :func:`coherence` or :func:`class_swap`.

    It holds some quantities of some conditions at every setting, and their values without steering.

    Args:
        kind: The kind of the drawing.
        select: The settings of the select split, with the one without steering among them.
        conditions: The conditions that are drawn.
        quantities: The quantities that are drawn; None means those of :func:`class_swap`.
        chosen: The chosen value of each condition, if there is one.
        graded: Whether a ground truth grades the answers.
        controls: The settings of a control's draws at some values. Each value is drawn as the median of the draws, with
            a band from the least to the greatest.
        told: What the legend's title says of the controls.
    """
    quantities = SWAP if quantities is None else quantities
    base = next(s for s in select if s.condition == UNSTEERED).measured
    rows: list[tuple[Any, ...]] = [
        (s.condition, s.value, q, e.value, e.low, e.high, v and v.value)
        for q in quantities
        for s in select
        if s.condition in conditions and (e := s.measured.get(q)) is not None
        for v in (s.measured.get("violation"),)
    ]
    drawn = {q: ranges(controls, q) for q in quantities}
    rows += [
        (name, v, q, mid, low, high, None) for q in quantities for (name, v), (mid, low, high, _) in drawn[q].items()
    ]
    names = ("condition", "value", "quantity", "mean", "low", "high", "violation")
    # A quantity may be missing: short answers have no compression ratio over 200 bytes.
    quantities = [q for q in quantities if any(row[2] == q for row in rows)]
    notes = {
        "quantities": list(quantities),
        "base": {q: base[q].value for q in quantities if q in base},
        "n": {q: base[q].n for q in quantities if q in base},
        "chosen": dict(chosen or {}),
        "graded": graded,
        "draws": {name: n for found in drawn.values() for (name, _), (_, _, _, n) in found.items()},
        "told": told,
    }
    return Drawing(kind, {name: [row[i] for row in rows] for i, name in enumerate(names)}, notes)


def named(quantity: str, drawing: Drawing) -> str:
    """Return a quantity in words.

    Without a ground truth, ``positive_right`` and ``negative_right`` are called "answered", since an answer then counts
    where it is neither refused nor degenerate, and answers that are not coherent are called "degenerate".
    """
    return (NAMES if drawing.notes.get("graded", True) else NAMES | UNGRADED).get(quantity, quantity)


def counted(quantity: str, drawing: Drawing) -> str:
    """Return a quantity in words, with the number of prompts behind it."""
    return f"{named(quantity, drawing)}, n = {drawing.notes['n'].get(quantity, 0)}"


def labelled(condition: str, drawing: Drawing) -> str:
    """Return a condition's label in the legend; for the band of a control it gives the number of draws."""
    n = drawing.notes.get("draws", {}).get(condition)
    return condition if n is None else f"{condition} (median and range of {n} draws)"


def split_told(drawing: Drawing) -> str:
    """Return the legend's title: the split, and a remark on the controls if there is one."""
    told = drawing.notes.get("told", "")
    return f"select split; {told}" if told else "select split"


def look(condition: str, conditions: list[str]) -> tuple[str, str, Any]:
    """Return colour, marker and dash of a condition; one without a fixed look takes the next free one."""
    others = [c for c in conditions if c not in LOOKS]
    return LOOKS[condition] if condition in LOOKS else OTHER[others.index(condition) % len(OTHER)]


@figure
def polar(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw quantities against the angle on a circle, one panel for each quantity, with bands of 95 % intervals.

    A star marks a mean perplexity above 2.
    """
    quantities = list(drawing.notes["quantities"])
    fig, axes, legend = canvas(
        ax,
        1,
        len(quantities),
        figsize=(TWO_COLUMNS, 3.6),
        layout="constrained",
        subplot_kw={"projection": "polar"},
        squeeze=False,
    )
    conditions = list(dict.fromkeys(drawing.columns["condition"]))
    for axis, quantity in zip(axes[0], quantities, strict=True):
        for condition in conditions:
            color, marker, dash = look(condition, conditions)
            part = drawing.where(condition=condition, quantity=quantity)
            if not part["value"]:
                continue
            angle, *curve = drawing.numbers("value", "mean", "low", "high", condition=condition, quantity=quantity)
            theta = [math.radians(a) for a in angle]
            starred = [v == 1 and quantity.startswith("perplexity") for v in part["violation"]]
            stars = [(t, m) for t, m, star in zip(theta, curve[0], starred, strict=True) if star]
            if condition in drawing.notes.get("draws", {}):
                # A control has few angles. They are joined along the circle, since straight lines would cut across it.
                axis.plot(theta, curve[0], color=color, marker=marker, ls="none", ms=2.5)
                marker, fine = "", [math.radians(a) for a in range(361)]
                curve, theta = [np.interp(fine, theta, v, period=2 * math.pi).tolist() for v in curve], fine
            elif len(theta) > 2:  # the curve is closed: its first point comes again after a full turn
                curve, theta = [[*v, v[0]] for v in curve], [*theta, theta[0] + 2 * math.pi]
            label = labelled(condition, drawing)
            banded(axis, theta, *curve, color=color, marker=marker, ls=dash, ms=2.5, lw=1, label=label)
            at, starred_mean = zip(*stars, strict=True) if stars else ((), ())
            axis.plot(at, starred_mean, color=VERMILION, marker="*", ms=7, ls="none", zorder=5)
        base = drawing.notes["base"].get(quantity)
        if base is not None:
            circle = [math.radians(a) for a in range(0, 361, 5)]
            axis.plot(circle, [base] * len(circle), color=GREY, ls=(0, (1, 2)), lw=1, label="no steering")
        axis.set_title(counted(quantity, drawing))
        axis.set_xticks([math.radians(a) for a in range(0, 360, 45)])
        axis.set_rlabel_position(112)
        axis.set_ylim(0, None)
    legend_below(legend, axes[0][:1], ncols=4, title=split_told(drawing))
    return fig, list(axes[0])


@figure
def coherence(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw text metrics against the angle, one panel for each metric, with 95 % intervals."""
    quantities = list(drawing.notes["quantities"])
    rows = math.ceil(len(quantities) / 3)
    size = (TWO_COLUMNS, 1.75 * rows + 0.5)
    fig, axes, legend = canvas(ax, rows, 3, used=len(quantities), figsize=size, sharex=True, layout="constrained")
    conditions = list(dict.fromkeys(drawing.columns["condition"]))
    for axis, quantity in zip(axes, quantities, strict=True):
        for condition in conditions:
            color, marker, dash = look(condition, conditions)
            curve = drawing.numbers("value", "mean", "low", "high", condition=condition, quantity=quantity)
            banded(axis, *curve, color=color, marker=marker, ls=dash, ms=2, lw=1, label=labelled(condition, drawing))
        base = drawing.notes["base"].get(quantity)
        if base is not None:
            axis.axhline(base, color=GREY, ls=(0, (1, 2)), lw=1, label="no steering")
        axis.set_title(counted(quantity, drawing), fontsize=7)
        axis.set_xticks(range(0, 361, 90))
    for axis in axes[3 * (rows - 1) :]:
        axis.set_xlabel("angle (degrees)")
    legend_below(legend, axes[:1], ncols=5, title=split_told(drawing))
    return fig, list(axes)


@figure
def class_swap(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the effect of one angle on both classes.

    Curves are the share of harmful requests complied with and of harmless requests refused or answered incoherently.
    The angle that was chosen for the harmful requests is marked.
    """
    conditions = list(dict.fromkeys(drawing.columns["condition"]))
    fig, axes, legend = canvas(
        ax, 1, len(conditions), figsize=(TWO_COLUMNS, 2.5), sharey=True, layout="constrained", squeeze=False
    )
    looks = dict(zip(SWAP, ((GREEN, "o", "-"), (VERMILION, "s", "--"), (BLUE, "^", ":")), strict=True))
    for axis, condition in zip(axes[0], conditions, strict=True):
        for quantity, (color, marker, dash) in looks.items():
            curve = drawing.numbers("value", "mean", "low", "high", condition=condition, quantity=quantity)
            banded(axis, *curve, color=color, marker=marker, ls=dash, ms=2.5, lw=1, label=counted(quantity, drawing))
        chosen = drawing.notes["chosen"].get(condition)
        if chosen is not None:
            axis.axvline(float(chosen), color=BLACK, lw=0.8, ls=(0, (4, 2)), label="chosen angle")
        axis.set(title=condition, xlabel="angle (degrees)", xticks=range(0, 361, 90), ylim=(-0.03, 1.03))
    axes[0][0].set_ylabel("share of answers")
    legend_below(legend, axes[0][:1], ncols=2, title="select split")
    return fig, list(axes[0])


@figure
def equal_kl(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw compliance against divergence on harmless prompts at every setting of the select split.

    A line marks the divergence that is matched.
    """
    conditions = list(dict.fromkeys(drawing.columns["condition"]))
    fig, ax, legend = canvas(ax, figsize=(TWO_COLUMNS, 3.2), layout="constrained")
    for condition in conditions:
        color, marker, _ = look(condition, conditions)
        kl, shares = drawing.numbers("kl", "positive_right", condition=condition)
        drawn = [max(v, 1e-6) for v in kl]
        ax.plot(drawn, shares, color=color, marker=marker, ls="none", ms=3.5, alpha=0.8, label=condition)
    ax.axvline(float(drawing.notes["target"]), color=BLACK, lw=0.8, ls=(0, (4, 2)), label="matched divergence")
    ax.set(
        xscale="log",
        xlabel="KL(unsteered ‖ steered) on harmless prompts (nats a token)",
        ylabel=(NAMES if drawing.notes.get("graded", True) else UNGRADED)["positive_right"],
        ylim=(-0.03, 1.03),
    )
    legend(
        *ax.get_legend_handles_labels(), loc="outside right center", title=f"n = {drawing.notes['n']}\nharmful prompts"
    )
    return fig, [ax]
