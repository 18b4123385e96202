"""Figures of the comparison of methods: conditions at their chosen settings, and the harmonic response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer.evaluation.harmonics import Degrees, fit_harmonic, how_many_angles
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
    banded,
    canvas,
    figure,
    legend_below,
)
from lens_steer.stats.means import bootstrap_means

SHORT = {
    "positive_right": "harmful:\ncomplied", "negative_right": "harmless:\nright",
    "negative_refused": "harmless:\nrefused", "capable": "tasks:\nright",
    "perplexity_ref": "perplexity of\nthe answers",
}  # fmt: skip
ANSWERED = {"positive_right": "harmful:\nanswered", "negative_right": "harmless:\nanswered"}
CLASS_LOOKS = {"positive": (POSITIVE, "o", "-", "harmful"), "negative": (NEGATIVE, "s", "--", "harmless")}


@figure
def method_dots(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw every condition at the setting chosen on select, as measured on report: one panel for each quantity.

    Lines are 95 % intervals; the dotted line is no steering.
    """
    quantities = list(drawing.notes["quantities"])
    names = list(dict.fromkeys(drawing.columns["label"]))
    size = (TWO_COLUMNS, 0.24 * len(names) + 0.9)
    fig, axes, legend = canvas(ax, 1, len(quantities), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axis, quantity in zip(axes[0], quantities, strict=True):
        for row, name in enumerate(names):
            mean, low, high, met = drawing.numbers("mean", "low", "high", "met", label=name, quantity=quantity)
            if not mean:
                continue
            color, marker = (BLUE, "o") if met[0] else (VERMILION, "X")
            axis.plot([low[0], high[0]], [row, row], color=color, lw=1.2)
            axis.plot(mean[:1], [row], color=color, marker=marker, ms=4, ls="none")
        base = drawing.notes["base"].get(quantity)
        if base is not None:
            axis.axvline(base, color=GREY, ls=(0, (1, 2)), lw=1)
        short = SHORT if drawing.notes.get("graded", True) else SHORT | ANSWERED
        axis.set_xlabel(f"{short.get(quantity, quantity)}\nn = {drawing.notes['n'].get(quantity, 0)}")
        if not quantity.startswith("perplexity"):
            axis.set(xlim=(-0.04, 1.04), xticks=(0, 0.5, 1))
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    looks: tuple[dict[str, Any], ...] = (
        {"color": BLUE, "marker": "o", "ms": 4, "label": "chosen setting"},
        {"color": VERMILION, "marker": "X", "ms": 4, "label": "no setting keeps to the constraints"},
        {"color": GREY, "ls": (0, (1, 2)), "label": "no steering"},
    )
    handles = [axes[0][0].plot([], [], **one)[0] for one in looks]
    legend(handles=handles, loc="outside upper right", ncols=3)
    return fig, list(axes[0])


def harmonic_drawing(angles: Degrees, scores: Mapping[str, Float[np.ndarray, "n angles"]]) -> Drawing:
    """Build the data of :func:`harmonic`.

    It holds the scores over the angle with 95 % intervals over prompts, their first harmonics, the R² of each prompt,
    and how well a harmonic from few angles predicts the scores at the others.

    Args:
        angles: The angles in degrees; one that comes back after a whole turn counts once.
        scores: The scores by prompt and angle in nats, for each class (``positive`` or ``negative``).

    Raises:
        LensSteerError: If there are fewer than three angles, or if the scores do not fit them; see
            :func:`lens_steer.evaluation.harmonics.fit_harmonic`.

    >>> grid = [30.0 * i for i in range(12)]
    >>> found = harmonic_drawing(grid, {"positive": np.cos(np.deg2rad(grid))[None]})
    >>> [(kind, len(found.where(part=kind)["x"])) for kind in ("score", "r2", "angles")]
    [('score', 12), ('r2', 1), ('angles', 3)]
    """
    rows: list[tuple[Any, ...]] = []
    for side, own in scores.items():
        fit = fit_harmonic(angles, own)
        grid, kept = list(fit.angles), own[:, list(fit.columns)]
        mean, low, high = bootstrap_means(kept)
        fitted = fit.at(grid).mean(axis=0)
        curves = (v.tolist() for v in (mean, low, high, fitted))
        rows += [("score", side, *point) for point in zip(grid, *curves, strict=True)]
        rows += [("r2", side, float(v), None, None, None, None) for v in fit.r2]
        few = how_many_angles(angles, own)
        rows += [("angles", side, row["n_angles"], row["error"], None, None, None) for row in few]
    names = ("part", "side", "x", "y", "low", "high", "fitted")
    return Drawing("harmonic", {name: [row[i] for row in rows] for i, name in enumerate(names)})


@figure
def harmonic(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw refusal scores over the angle with their first harmonics, R² by prompt, and the error of few angles.

    The scores and harmonics are means over prompts. The error is that of a harmonic from few angles at the other
    angles.
    """
    fig, axes, legend = canvas(ax, 1, 3, figsize=(TWO_COLUMNS, 2.6), layout="constrained")
    for side, (color, marker, dash, name) in CLASS_LOOKS.items():
        angle, *curve, fitted = drawing.numbers("x", "y", "low", "high", "fitted", part="score", side=side)
        banded(axes[0], angle, *curve, color=color, marker=marker, ls="none", ms=2.5, label=name)
        axes[0].plot(angle, fitted, color=color, ls=dash, lw=1)
        (r2,) = drawing.numbers("x", part="r2", side=side)
        r2.sort()
        upto = [(i + 1) / len(r2) for i in range(len(r2))]
        axes[1].step(r2, upto, color=color, ls=dash, where="post", label=f"{name}, n = {len(r2)}")
        axes[2].plot(
            *drawing.numbers("x", "y", part="angles", side=side), color=color, marker=marker, ls=dash, ms=3, label=name
        )
    axes[0].set(
        xlabel="angle (degrees)", ylabel="refusal score (nats)", xticks=range(0, 361, 90), title="lines: first harmonic"
    )
    axes[1].set(
        xlabel="R² of a prompt's harmonic", ylabel="share of prompts up to it", xlim=(-0.02, 1.02), ylim=(0, 1.02)
    )
    axes[2].set(
        xlabel="angles fitted on", ylabel="error at the other angles\n(in spreads of the scores)", ylim=(0, None)
    )
    axes[2].axhline(1, color=BLACK, lw=0.6, ls=":")
    legend_below(legend, axes[1:2], ncols=2)
    return fig, list(axes)
