"""Figures of the side effects of benign steering: strength, attack success, divergence, prefixes and depth."""

from __future__ import annotations

from typing import Any

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    NEGATIVE,
    ORANGE,
    POSITIVE,
    PURPLE,
    TWO_COLUMNS,
    Drawing,
    Drawn,
    Target,
    banded,
    canvas,
    figure,
    legend_below,
)

TITLES = {"compliance": "towards compliance", "json": "towards JSON"}
PANELS = {**{k: f"steering {v}" for k, v in TITLES.items()}, "StTP against refusal": "StTP against refusal"}
STRENGTH = {
    "attack": (POSITIVE, "o", "-", "harmful: complied, right"),
    "positive_refused": (POSITIVE, "x", ":", "harmful: refused"),
    "negative_right": (NEGATIVE, "s", "-", "harmless: right"),
    "negative_refused": (NEGATIVE, "+", ":", "harmless: refused"), "capable": (PURPLE, "D", "--", "tasks: right"),
    "json_unasked": (GREEN, "^", "-", "JSON, not asked for"), "json_asked": (ORANGE, "v", ":", "JSON, asked for"),
}  # fmt: skip
SERIES = {
    ("steering", "harmful"): (POSITIVE, "o", "-", "harmful responses"),
    ("steering", "benign"): (NEGATIVE, "s", "--", "benign responses"),
    ("random", "harmful"): (GREY, "^", "-.", "random direction, harmful"),
    ("random", "benign"): (GREY, "v", ":", "random direction, benign"),
}  # fmt: skip
LEAST = 1e-6  # nats; smaller values are drawn at this value
# label → label without a ground truth
UNGRADED = {"complied, right": "answered", "harmless: right": "harmless: answered"}
SHARES = {
    "attack": (POSITIVE, "o", "complied, right"),
    "positive_refused": (BLUE, "s", "refused"),
    "positive_degenerate": (GREY, "^", "incoherent"),
}
FAMILIES = {
    "first k": (POSITIVE, "o", "-"), "prompt and first k": (ORANGE, "D", "-"), "all but first k": (NEGATIVE, "s", "--"),
    "after first k, no prompt": (PURPLE, "^", "--"),
}  # fmt: skip
KINDS = {
    "harmful": (POSITIVE, "o", "-", "harmful"),
    "harmless": (NEGATIVE, "s", "--", "harmless"),
    "steered": (BLACK, "D", "-.", "harmful, steered"),
}


@figure
def externality_strength(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the settings of the select split, with the choice as a vertical line.

    The figure shows the effect of the strength of STEER-COMPLIANCE, and of the block of STEER-JSON, on harmful and
    harmless requests, on tasks and on JSON.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    fig, axes, legend = canvas(ax, 2, 2, figsize=(TWO_COLUMNS, 4.0), sharey=True, sharex="col", layout="constrained")
    shown: dict[str, Any] = {}
    for column, name in enumerate(TITLES):
        for quantity, (color, marker, dash, label) in STRENGTH.items():
            axis = axes[0 if quantity in ("attack", "positive_refused") else 1][column]
            part = drawing.where(steering=name, quantity=quantity)
            if not part["x"]:
                continue
            curve = (part[k] for k in ("x", "mean", "low", "high"))
            line = banded(
                axis, *curve, color=color, alpha=0.12, marker=marker, ls=dash, ms=3.5, lw=1, label=label, clip_on=False
            )
            shown.setdefault(f"{_graded(label, drawing)}, n = {part['n'][0]}", line)
        for axis in axes[:, column]:
            chosen = axis.axvline(drawing.notes["chosen"][name], color=BLACK, lw=0.8, ls=(0, (4, 2)))
            shown.setdefault("chosen", chosen)
            axis.set(ylim=(-0.03, 1.03), ylabel="" if column else "share of answers")
    axes[1][0].set(xscale="log", xlabel="towards compliance: α (units of the residual stream)")
    length = float(drawing.notes["length"])
    top = axes[0][0].secondary_xaxis("top", functions=(lambda x: x / length, lambda x: x * length))
    top.set_xlabel("α / mean length of a response token's vector")
    for axis in (axes[1][0].xaxis, top.xaxis):  # at most three labels per decade, for any range of values
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes[1][1].set(xlabel="towards JSON: block")
    axes[1][1].locator_params(axis="x", integer=True)
    legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3)
    return fig, list(axes.flat)


@figure
def externality_attack(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the share of harmful requests complied with rightly, refused, or answered incoherently.

    The requests are those of the report split, under each steering and its controls, with Wilson intervals.
    """
    counts = [len(dict.fromkeys(drawing.where(steering=name)["condition"])) for name in TITLES]
    size, ratios = (TWO_COLUMNS, 1.1 + 0.2 * sum(counts)), {"height_ratios": counts}
    fig, axes, legend = canvas(ax, 2, 1, figsize=size, layout="constrained", sharex=True, gridspec_kw=ratios)
    n = 0
    for axis, name in zip(axes, TITLES, strict=True):
        names = list(dict.fromkeys(drawing.where(steering=name)["condition"]))
        for offset, (quantity, (color, marker, label)) in enumerate(SHARES.items()):
            part = drawing.where(steering=name, quantity=quantity)
            y = [names.index(c) + 0.22 * (offset - 1) for c in part["condition"]]
            axis.hlines(y, part["low"], part["high"], color=color, lw=1)
            shown = _graded(label, drawing)
            axis.plot(part["mean"], y, color=color, marker=marker, ls="none", ms=3.5, label=shown, clip_on=False)
            n = part["n"][0]
        axis.set_yticks(range(len(names)), names)
        axis.set(xlim=(-0.02, 1.02), title=f"{TITLES[name]}, n = {n} harmful requests")
        axis.grid(axis="y", color=GREY, lw=0.3, alpha=0.5)
        axis.invert_yaxis()
    axes[-1].set_xlabel("share of answers")
    legend_below(legend, axes[:1], ncols=3)
    return fig, list(axes)


@figure
def externality_kl(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw KL(unsteered ‖ steered) by response token on harmful and benign responses.

    The bands are bootstrap intervals over prompts. Grey: random directions of equal norm.
    """
    fig, axes, legend = canvas(ax, 1, 3, figsize=(TWO_COLUMNS, 2.5), sharey=True, layout="constrained")
    for axis, name in zip(axes, PANELS, strict=True):
        for (what, responses), (color, marker, dash, label) in SERIES.items():
            part = drawing.where(steering=name, what=what, responses=responses)
            if not part["position"]:
                continue
            said = label.replace("harmful", drawing.notes.get("harmful", "harmful"))
            mean, low, high = ([max(LEAST, float(v)) for v in part[k]] for k in ("mean", "low", "high"))
            look = {"marker": marker, "ls": dash, "ms": 2.5, "lw": 1, "label": f"{said}, {_counted(part)}"}
            banded(axis, part["position"], mean, low, high, color=color, alpha=0.2, **look)
        axis.set(title=PANELS[name], xlabel="response token", yscale="log")
        axis.locator_params(axis="x", integer=True)
    axes[0].set_ylabel("KL(unsteered ‖ steered), nats")
    axes[0].set_ylim(bottom=LEAST / 1.5)  # the panels share this axis, so the limit is set after everything is drawn
    legend_below(legend, axes[:1], ncols=2)
    return fig, list(axes)


@figure
def externality_prefix(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the attack success when only some tokens are steered, by the number k of first tokens that they decide.

    Dotted lines: all tokens steered, and none.
    """
    fig, axes, legend = canvas(ax, 1, 3, figsize=(TWO_COLUMNS, 2.4), sharey=True, layout="constrained")
    for axis, name in zip(axes, PANELS, strict=True):
        for i, (family, (color, marker, dash)) in enumerate(FAMILIES.items()):
            part = drawing.where(steering=name, family=family)
            x = [k * 1.03 ** (i - 1.5) for k in part["k"]]
            ends = (("low", "mean"), ("mean", "high"))
            error = [[b - a for a, b in zip(part[lower], part[upper], strict=True)] for lower, upper in ends]
            look = {"color": color, "marker": marker, "ls": dash, "ms": 3.5, "lw": 1, "label": f"steered: {family}"}
            axis.errorbar(x, part["mean"], yerr=error, elinewidth=0.7, **look)
        axis.axhline(drawing.notes[name]["full"], color=BLACK, lw=0.8, ls=":", label="all tokens")
        axis.axhline(drawing.notes[name]["none"], color=GREY, lw=0.8, ls=":", label="no steering")
        ks = sorted(set(drawing.columns["k"]))
        axis.set(title=PANELS[name], xlabel="k", xscale="log", ylim=(-0.03, 1.03))
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.minorticks_off()
    axes[0].set_ylabel("attack success" if drawing.notes.get("known", True) else "harmful: answered")
    title = f"n = {drawing.columns['n'][0]} harmful requests"
    legend_below(legend, axes[:1], ncols=3, title=title)
    return fig, list(axes)


@figure
def externality_depth(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the position of prompts relative to the boundary of each block's probe, and the share on its harmless side.

    The prompts are those of the report split, at the last prompt token. The positions are above, the shares below; the
    steered blocks are shaded.
    """
    fig, axes, legend = canvas(ax, 2, 3, figsize=(TWO_COLUMNS, 3.6), sharex=True, layout="constrained")
    for column, name in enumerate(PANELS):
        for kind, (color, marker, dash, label) in KINDS.items():
            part = drawing.where(kind=name if kind == "steered" else kind)
            look = {"marker": marker, "ls": dash, "ms": 3, "lw": 1, "label": f"{label}, n = {part['n'][0]}"}
            for axis, prefix in ((axes[0][column], ""), (axes[1][column], "crossed_")):
                curve = (part[f"{prefix}{k}"] for k in ("mean", "low", "high"))
                banded(axis, part["block"], *curve, color=color, alpha=0.18, **look)
        for axis in axes[:, column]:
            for block in drawing.notes["written"][name]:
                axis.axvspan(block - 0.5, block + 0.5, color=GREY, alpha=0.15, lw=0)
        axes[0][column].axhline(0, color=GREY, lw=0.6)
        axes[0][column].set(title=PANELS[name])
        axes[1][column].set(xlabel="block", ylim=(-0.03, 1.03))
        axes[1][column].locator_params(axis="x", integer=True)
    axes[0][0].set_ylabel("distance from boundary\n(in half class gaps)")
    axes[1][0].set_ylabel("on the harmless side")
    legend_below(legend, axes[0][:1], ncols=3)
    return fig, list(axes.flat)


@figure
def externality_angles(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the angle between each benign direction and the difference of means, harmful less harmless, by block.

    The intervals are jackknife intervals. Full markers: blocks at which the direction is written. Grey: 95 % of random
    directions.
    """
    import numpy as np

    fig, ax, legend = canvas(ax, figsize=(TWO_COLUMNS, 2.3), layout="constrained")
    half = float(np.rad2deg(np.arcsin(float(drawing.notes["random_cosine"]))))
    ax.axhspan(90 - half, 90 + half, color=GREY, alpha=0.2, lw=0, label="95 % of random directions")
    for i, (name, color, marker) in enumerate((("compliance", POSITIVE, "o"), ("json", GREEN, "^"))):
        part = drawing.where(steering=name)
        x = [float(b) + 0.12 * (2 * i - 1) for b in part["block"]]
        look, dash = {"color": color, "marker": marker, "ms": 4}, "-" if i == 0 else "--"
        ax.vlines(x, part["low"], part["high"], color=color, lw=1)
        ax.plot(x, part["mean"], ls=dash, mfc="white", lw=1, **look)
        written = [j for j, s in enumerate(part["steered"]) if s]
        ax.plot([x[j] for j in written], [part["mean"][j] for j in written], ls="none", **look)
        ax.plot([], [], ls=dash, label=f"{TITLES[name]}, n = {part['n'][0]} pairs", **look)
    ax.set(xlabel="block", ylabel="angle to refusal (degrees)", ylim=(0, 180), yticks=range(0, 181, 30))
    ax.locator_params(axis="x", integer=True)
    legend_below(legend, [ax], ncols=3)
    return fig, [ax]


def _graded(label: str, drawing: Drawing) -> str:
    """Return a label; without a ground truth, the label of what is counted instead.

    Older drawings have no note about a ground truth and count as having one.
    """
    if not drawing.notes.get("known", True):
        for right, answered in UNGRADED.items():
            label = label.replace(right, answered)
    return label


def _counted(part: dict[str, list[Any]]) -> str:
    """Return the number of responses at the first position of a series, and at the last one if those are fewer."""
    first, last = part["n"][0], part["n"][-1]
    return f"n = {first}" + (f", {last} at token {part['position'][-1]}" if last < first else "")
