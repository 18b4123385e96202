"""Figures of the experiments on behaviour."""

from __future__ import annotations

from typing import Any

from lens_steer.figures.core import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    TWO_COLUMNS,
    VERMILION,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
)

LOOKS = {False: (VERMILION, "o", "own best angle"), True: (BLUE, "s", "one nominal angle")}
OUTCOMES = {
    "positive_right": (100, "harmful: complied with\n(points)"),
    "negative_right": (100, "harmless: right\n(points)"),
    "surprise": (1, "log-perplexity of answers\n(nats a token)"),
    "capable": (100, "capability tasks done right\n(points)"),
}
DRAWN_OUTCOMES = {
    "positive_right": "harmful: complied with\n(%)",
    "surprise": "log-perplexity of answers\n(nats a token)",
    "capable": "capability tasks done right\n(%)",
}
ERRORS = ((VERMILION, "|"), (GREEN, "x"), (PURPLE, "^"))  # the looks of the published norm errors
RATES = {
    "positive_right": (VERMILION, "o", "harmful: complied"),
    "negative_right": (GREEN, "^", "harmless: right"),
    "capable": (PURPLE, "D", "capability tasks: right"),
    "broken": (BLUE, "s", "incoherent"),
}


@figure
def paired_differences(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw differences between two conditions, paired by prompt, with 95 % intervals, one panel per outcome.

    Each difference is shown at the conditions' own best angles and at one nominal angle.
    """
    asked = list(dict.fromkeys(drawing.columns["question"]))
    outcomes = drawing.notes["outcomes"]
    fig, axes, legend = canvas(
        ax,
        1,
        len(outcomes),
        figsize=(TWO_COLUMNS, 0.24 * len(asked) + 1.1),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axis, outcome in zip(axes[0], outcomes, strict=True):
        scale, title = OUTCOMES[outcome]
        for row, question in enumerate(asked):
            for at_nominal, (color, marker, label) in LOOKS.items():
                part = _matching(drawing, question=question, outcome=outcome, at_nominal=at_nominal)
                if not part["mean"]:
                    continue
                mean, low, high = (scale * float(part[k][0]) for k in ("mean", "low", "high"))
                y = row + (0.16 if at_nominal else -0.16)
                axis.plot([low, high], [y, y], color=color, linewidth=1.2)
                axis.plot(
                    [mean],
                    [y],
                    color=color,
                    marker=marker,
                    markersize=3.5,
                    linestyle="none",
                    label=None if row else label,
                )
        axis.axvline(0, color=GREY, linewidth=0.8)
        n = max(int(v) for v in _matching(drawing, outcome=outcome)["n"])
        axis.set_xlabel(f"{title}, n = {n}")
    pairs = [_matching(drawing, question=q) for q in asked]
    axes[0][0].set_yticks(range(len(asked)), [f"{p['first'][0]}  −  {p['second'][0]}" for p in pairs])
    axes[0][0].invert_yaxis()
    legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return fig, list(axes[0])


@figure
def conditions(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw every condition at its own best angle; where there is none, only its name, with the reason.

    Rates have Wilson intervals, the perplexity has a bootstrap interval over prompts.
    """
    part = _matching(drawing, at_nominal=False)
    tied = part.get("tied") or [False] * len(part["condition"])  # drawings of an earlier version do not tell ties
    names = [_named(*each) for each in zip(part["condition"], part["angle"], tied, strict=True)]
    fig, (ax, beside), legend = canvas(
        ax, 1, 2, figsize=(TWO_COLUMNS, 0.3 * len(names) + 1.0), sharey=True, layout="constrained", width_ratios=(3, 1)
    )
    for offset, (name, (color, marker, label)) in zip((-0.27, -0.09, 0.09, 0.27), RATES.items(), strict=True):
        _points(ax, part, name, offset, color, marker, label, 100)
    _points(beside, part, "perplexity", 0.0, ORANGE, "v", None, 1)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    bottom, top = ax.get_ylim()
    ax.set_ylim(max(bottom, len(names) - 0.5), top)  # the last lines may be names alone
    n = {name: max(int(v) for v in part[f"{name}_n"]) for name in ("positive_right", "negative_right", "capable")}
    ax.set(
        xlabel=f"share (%), n = {n['positive_right']} harmful, {n['negative_right']} harmless, {n['capable']} tasks",
        xlim=(-2, 102),
    )
    beside.set(xlabel="geometric mean perplexity of\nboth classes' answers, unsteered model")
    legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=4)
    return fig, [ax, beside]


def _named(condition: str, angle: Any, tied: Any) -> str:
    """Return a condition with its angle, or with the reason why it has none."""
    if str(tied) == "True":
        return f"{condition} (tie at nothing)"
    return f"{condition} ({float(angle):g}°)" if angle not in (None, "") else str(condition)


@figure
def control_draws(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw every draw of the random controls, one panel per outcome: draws, their median and range, and SS beside them.

    All are at the angle that was chosen for SS at the discriminative sites. The value of SS stands on each line for the
    prompts of that control, which may be fewer where a draw has an empty answer.
    """
    outcomes = drawing.notes["outcomes"]
    controls = list(dict.fromkeys(drawing.columns["control"]))
    fig, axes, legend = canvas(
        ax,
        1,
        len(outcomes),
        figsize=(TWO_COLUMNS, 0.34 * len(controls) + 1.1),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axis, outcome in zip(axes[0], outcomes, strict=True):
        scale = OUTCOMES[outcome][0]
        for row, control in enumerate(controls):
            part = _matching(drawing, outcome=outcome, control=control)
            values = sorted(scale * float(v) for v in part["value"])
            if not values:
                continue
            n = len(values)
            median = (values[(n - 1) // 2] + values[n // 2]) / 2
            lift = [0.09 * (k % 3 - 1) for k in range(n)]  # equal values stay apart
            axis.plot([values[0], values[-1]], [row, row], color=GREY, linewidth=1.2, label="range of the draws")
            axis.plot(
                values,
                [row + y for y in lift],
                color=GREY,
                marker=".",
                markersize=3,
                linestyle="none",
                label="one draw",
            )
            axis.plot([median], [row], color=BLUE, marker="|", markersize=9, linestyle="none", label="their median")
            at = scale * float(part["method"][0])
            axis.plot([at, at], [row - 0.5, row + 0.5], color=VERMILION, linewidth=1.0, label="SS, L_disc")
        sizes = sorted({int(v) for v in _matching(drawing, outcome=outcome)["n"]})
        axis.set_xlabel(f"{DRAWN_OUTCOMES[outcome]}, n = {' to '.join(dict.fromkeys(map(str, (sizes[0], sizes[-1]))))}")
    counts = [len(_matching(drawing, outcome=outcomes[0], control=c)["value"]) for c in controls]
    axes[0][0].set_yticks(range(len(controls)), [f"{c} ({n} draws)" for c, n in zip(controls, counts, strict=True)])
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    legend(list(once.values()), list(once), loc="outside upper right", ncols=4)
    return fig, list(axes[0])


@figure
def norm_dose(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the effect of a norm error alone, one panel per outcome: the difference from no error, with 95 % intervals.

    Dashed lines mark the smallest effect of interest. At half height stand the norm errors of released planes and of
    rounding, in both directions.
    """
    outcomes, notes = drawing.notes["outcomes"], drawing.notes
    fig, axes, legend = canvas(
        ax, 2, 2, used=len(outcomes), figsize=(TWO_COLUMNS, 4.2), sharex=True, layout="constrained"
    )
    panels = list(axes.flat[: len(outcomes)])
    for axis, outcome in zip(panels, outcomes, strict=True):
        scale, title = OUTCOMES[outcome]
        for height, (label, low, high) in enumerate(notes["published"]):
            color, marker = ERRORS[height % len(ERRORS)]
            for sign in (1, -1):
                axis.plot(
                    [sign * float(low), sign * float(high)],
                    [0.4 + 0.07 * height] * 2,
                    transform=axis.get_xaxis_transform(),
                    color=color,
                    marker=marker,
                    markersize=3.5,
                    linewidth=1.8,
                    label=label if sign > 0 else None,
                )
        for sign in (1, -1):
            axis.axhline(sign * scale * float(notes["smallest"]), color=GREY, linewidth=0.8, linestyle="--")
        axis.axhline(0, color=GREY, linewidth=0.8)
        part = _matching(drawing, outcome=outcome)
        errors = [float(s) - 1 for s in part["scale"]]
        mean, low, high = ([scale * float(v) for v in part[name]] for name in ("mean", "low", "high"))
        axis.vlines(errors, low, high, color=BLUE, linewidth=1.2)
        axis.plot(errors, mean, color=BLUE, marker="o", markersize=3.5, linewidth=0.8, label="difference from s = 1")
        axis.set_xscale("symlog", linthresh=1e-3, linscale=0.4)
        axis.set_xticks([-0.5, -0.05, -0.004, 0, 0.004, 0.05, 1], ["−0.5", "−0.05", "−.004", "0", ".004", "0.05", "1"])
        axis.set(ylabel=title, title=f"n = {max(int(v) for v in part['n'])}")
    for axis in panels[-2:]:
        axis.set_xlabel("norm error s − 1 at every steered site")
    legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig, panels


def _points(
    ax: Any,
    part: dict[str, list[Any]],
    name: str,
    offset: float,
    color: str,
    marker: str,
    label: str | None,
    scale: int,
) -> None:
    """Draw one quantity of every condition with its interval, slightly above or below the line of the condition."""
    for row, value in enumerate(part[name]):
        if value in (None, ""):
            continue
        low, high = (scale * float(part[f"{name}_{end}"][row]) for end in ("low", "high"))
        ax.plot([low, high], [row + offset] * 2, color=color, linewidth=1.2)
        ax.plot(
            [scale * float(value)],
            [row + offset],
            color=color,
            marker=marker,
            markersize=3.5,
            linestyle="none",
            label=label if not row else None,
        )


def _matching(drawing: Drawing, **wanted: object) -> dict[str, list[Any]]:
    """Return the columns of the rows with the wanted values, compared as text.

    The comparison as text also works for a drawing that was read back from a file.
    """
    rows = [r for r in drawing.rows() if all(str(r[k]) == str(v) for k, v in wanted.items())]
    return {name: [r[name] for r in rows] for name in drawing.columns}
