"""The figure of the study: effect and side effects over the turns of a conversation."""

from __future__ import annotations

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREY,
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

UNSTEERED, STEERING, RANDOM, CONTROL = "none", "selective", "random", "control"  # the kinds of conditions
LOOKS = {
    UNSTEERED: (BLACK, "o", ":"), STEERING: (VERMILION, "s", "-"), RANDOM: (GREY, "^", "--"),
    CONTROL: (BLUE, "D", "-."),
}  # fmt: skip
PANELS = {
    "fall": "fall of the refusal score\nof harmful prompts",
    "kl": "KL along the unsteered\ndialogue (nats a token)",
    "broken": "harmless answers\nthat are degenerate (%)",
    "repeated": "4-grams that an earlier\nanswer has (%)",
}


@figure
def conversation_turns(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw effect and side effects of every condition by turn, with 95 % intervals over dialogues.

    The fall of the refusal score and the divergence are measured at the probes, and are of steered conditions; shares
    are of the dialogues' own turns.
    """
    fig, axes, legend = canvas(ax, 2, 2, figsize=(TWO_COLUMNS, 4.2), sharex=True, layout="constrained")
    panels = [axis for row in axes for axis in row]
    for axis, (quantity, label) in zip(panels, PANELS.items(), strict=True):
        percent = 100 if quantity in ("broken", "repeated") else 1
        for condition in dict.fromkeys(r["condition"] for r in drawing.rows()):
            rows = [r for r in drawing.rows() if r["condition"] == condition and r["quantity"] == quantity]
            rows = rows[quantity == "repeated" :]  # nothing stands before the first turn
            if not rows:
                continue
            color, marker, dash = LOOKS[str(rows[0]["line"])]
            value, low, high = ([percent * float(r[k]) for r in rows] for k in ("value", "low", "high"))  # type: ignore[arg-type]
            turns = [int(r["turn"]) for r in rows]  # type: ignore[arg-type]
            look = {"marker": marker, "ls": dash, "ms": 3.5, "lw": 1.2, "label": str(condition)}
            banded(axis, turns, value, low, high, color=color, alpha=0.1, **look)
        if quantity in ("fall", "kl"):
            axis.axhline(0, color=GREY, lw=0.5)
        axis.set(ylabel=label)
    last = max(int(r["turn"]) for r in drawing.rows())  # type: ignore[arg-type]
    for axis in panels:
        axis.set_xticks(range(1, last + 1, max(1, round(last / 10))))
    for axis in panels[2:]:
        axis.set_xlabel("turn")
    angle = drawing.notes["angle"]
    chosen = "no angle has an effect within the budget" if angle is None else f"both rotations at {angle:g}°"
    legend_below(legend, panels[2:3], ncols=4, title=f"{drawing.notes['n']} dialogues, {chosen}")
    return fig, panels
