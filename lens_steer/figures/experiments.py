"""Figures of the experiments on behaviour."""

from __future__ import annotations

from typing import Any

from lens_steer.figures.core import BLUE, GREEN, GREY, TWO_COLUMNS, VERMILION, Drawing, Drawn, figure

LOOKS = {False: (VERMILION, "o", "own best angle"), True: (BLUE, "s", "one nominal angle")}
RATES = {
    "complied": (VERMILION, "o", "harmful: complied"),
    "helped": (GREEN, "^", "harmless: right"),
    "broken": (BLUE, "s", "incoherent"),
}


@figure
def paired_differences(drawing: Drawing) -> Drawn:
    """Difference of harmful compliance between two conditions, paired by prompt, with 95 % bootstrap intervals: own best angles and one nominal angle."""
    import matplotlib.pyplot as plt

    questions = list(dict.fromkeys(drawing.columns["question"]))
    fig, ax = plt.subplots(figsize=(TWO_COLUMNS, 0.26 * len(questions) + 0.9), layout="constrained")
    labels = []
    for row, question in enumerate(questions):
        names = _matching(drawing, question=question)
        labels.append(f"{names['first'][0]}  −  {names['second'][0]}")
        for at_nominal, (color, marker, label) in LOOKS.items():
            part = _matching(drawing, question=question, at_nominal=at_nominal)
            mean, low, high = (100 * float(part[k][0]) for k in ("mean", "low", "high"))
            y = row + (0.16 if at_nominal else -0.16)
            ax.plot([low, high], [y, y], color=color, linewidth=1.2)
            ax.plot([mean], [y], color=color, marker=marker, markersize=4, linestyle="none", label=None if row else label)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlabel(f"difference of harmful requests complied with (points, n = {drawing.notes['n']} prompts)")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return fig, [ax]


@figure
def conditions(drawing: Drawing) -> Drawn:
    """Compliance, helpfulness and incoherence under every condition at its own best angle, with Wilson intervals."""
    import matplotlib.pyplot as plt

    part = _matching(drawing, at_nominal=False)
    names = [
        f"{c} ({float(a):g}°)" if a not in (None, "") else str(c) for c, a in zip(part["condition"], part["angle"], strict=True)
    ]
    fig, ax = plt.subplots(figsize=(TWO_COLUMNS, 0.28 * len(names) + 0.9), layout="constrained")
    for offset, (name, (color, marker, label)) in zip((-0.22, 0, 0.22), RATES.items(), strict=True):
        for row in range(len(names)):
            low, high = (100 * float(part[f"{name}_{end}"][row]) for end in ("low", "high"))
            ax.plot([low, high], [row + offset] * 2, color=color, linewidth=1.2)
            value = 100 * float(part[name][row])
            ax.plot(
                [value], [row + offset], color=color, marker=marker, markersize=4, linestyle="none", label=None if row else label
            )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="share of answers (%)", xlim=(-2, 102))
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return fig, [ax]


def _matching(drawing: Drawing, **wanted: object) -> dict[str, list[Any]]:
    """Rows by value, whether read back from text or not."""
    rows = [r for r in drawing.rows() if all(str(r[k]) == str(v) for k, v in wanted.items())]
    return {name: [r[name] for r in rows] for name in drawing.columns}
