"""Figure of graded outcomes against the steering angle."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from lens_steer.figures.core import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
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
from lens_steer.metrics.grading import CLASSES, Outcome

STYLES = {  # colour, marker and dash of a grade, and what figures and reports call it
    "correct": (GREEN, "o", "-", "complied, right"),
    "wrong": (ORANGE, "D", (0, (3, 1, 1, 1)), "complied, wrong"),
    "answered": (GREEN, "o", "-", "answered"),
    "refused": (VERMILION, "s", "--", "refused"),
    "degenerate": (BLUE, "^", ":", "degenerate"),
    "cut off": (ORANGE, "D", (0, (3, 1, 1, 1)), "cut off in a thought"),
    "answer": (GREEN, "o", "-", "answered"),  # in old reports, which had no grade for degenerate answers
    "refusal": (VERMILION, "s", "--", "refused"),
    "incoherent": (BLUE, "^", ":", "incoherent"),
}
TITLES = {"positive": "positive (harmful) prompts", "negative": "negative (harmless) prompts"}


def drawing(outcomes: Sequence[Outcome], *, model: str, titles: dict[str, str] | None = None) -> Drawing:
    """Build the figure's data from measured outcomes: one row for each condition, angle, class and grade."""
    names = ("condition", "angle", "side", "grade", "count", "n", "rate", "low", "high")
    rows = [
        (o.condition, o.angle, o.side, grade, count, rate.n, rate.value, rate.low, rate.high)
        for o in outcomes
        for grade, count in o.counts.items()
        for rate in (o.rate(grade),)
    ]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return Drawing("outcomes_by_angle", columns, {"model": model, "titles": titles or TITLES})


@figure
def outcomes_by_angle(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the share of each graded outcome against the angle, with Wilson intervals as bands.

    Grey lines are the controls. No steering is a horizontal line. A single random plane is a line; several draws are
    shown as their median and range.
    """
    fig, axes, legend = canvas(ax, 1, 2, figsize=(TWO_COLUMNS, 2.7), sharey=True)
    grades = list(dict.fromkeys(drawing.columns["grade"]))
    for axis, side in zip(axes, CLASSES, strict=True):
        n = 0
        for grade in grades:
            color, marker, dash, label = STYLES[str(grade)]
            part = drawing.where(condition="steering plane", side=side, grade=grade)
            n = part["n"][0] if part["n"] else n
            curve = (part[k] for k in ("angle", "rate", "low", "high"))
            banded(axis, *curve, color=color, alpha=0.18, marker=marker, ls=dash, label=label)
        first, said = grades[0], STYLES[str(grades[0])][3]
        _random_planes(axis, *drawing.numbers("angle", "rate", condition="random plane", side=side, grade=first), said)
        base = drawing.where(condition="no steering", side=side, grade=first)
        if base["rate"]:
            axis.axhline(base["rate"][0], color=GREY, ls=(0, (1, 2)), lw=1, label=f"no steering: {said}")
        axis.set_xticks(range(0, 361, 60))
        axis.set_xlim(-8, 368)
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("rotation angle (degrees)")
        axis.set_title(f"{drawing.notes['titles'][side]}, n = {n}")
    axes[0].set_ylabel("share of answers")
    legend_below(legend, axes[:1], ncols=3)
    return fig, list(axes)


def _random_planes(axis: Any, angles: Sequence[float], rates: Sequence[float], grade: str) -> None:
    """Draw the rates of random planes over the angle.

    A single draw is a line. Several draws are shown as their median, with a bar from the least to the greatest.
    """
    by_angle: dict[float, list[float]] = {}
    for angle, rate in zip(angles, rates, strict=True):
        by_angle.setdefault(angle, []).append(rate)
    draws = max(map(len, by_angle.values()), default=1)
    at = sorted(by_angle)
    middle = [median(by_angle[a]) for a in at]
    if draws == 1:
        axis.plot(at, middle, color=GREY, marker="x", ls="-", lw=0.8, label=f"random plane: {grade}")
        return
    below = [m - min(by_angle[a]) for a, m in zip(at, middle, strict=True)]
    above = [max(by_angle[a]) - m for a, m in zip(at, middle, strict=True)]
    label = f"{draws} random planes: {grade}, median and range"
    axis.errorbar(at, middle, yerr=[below, above], color=GREY, marker="x", ls="none", lw=0.8, capsize=2, label=label)
