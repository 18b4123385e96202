"""Figures of changes of the length of activations."""

from __future__ import annotations

from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREEN,
    ONE_COLUMN,
    ORANGE,
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

DTYPES = ("float32", "float16", "bfloat16")
LOOKS = {
    "SAS": (VERMILION, "o", "-"), "AAS": (ORANGE, "D", "-."), "SS": (BLUE, "s", "--"), "ActAdd": (PURPLE, "v", ":"),
    "directional ablation": (GREEN, "^", ":"), "bound on SS": (BLACK, "", (0, (1, 1))),
}  # fmt: skip
FLOOR = 1e-9  # smaller values are drawn here, since a log scale cannot show 0


@figure
def norm_change(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the largest ``|‖h'‖/‖h‖ − 1|`` against the angle, on a log scale.

    Columns differ by the dtype of the basis, rows by that of the arithmetic. The bound on SS holds in exact arithmetic.
    """
    fig, axes, legend = canvas(ax, 3, 3, figsize=(TWO_COLUMNS, 5.0), sharex=True, sharey=True, layout="constrained")
    for row, arithmetic in enumerate(DTYPES):
        for column, kept in enumerate(DTYPES):
            axis = axes[row][column]
            for operator, (color, marker, line) in LOOKS.items():
                part = drawing.where(operator=operator, basis_dtype=kept, arithmetic=arithmetic)
                values = [max(v, FLOOR) for v in part["largest"]]
                axis.plot(part["angle"], values, color=color, marker=marker, ls=line, ms=2.5, lw=1, label=operator)
            axis.set(yscale="log", xticks=range(0, 361, 90), ylim=(FLOOR / 2, None))
            if not row:
                axis.set_title(f"{kept} basis")
        axes[row][0].set_ylabel(f"{arithmetic} arithmetic\nlargest |‖h'‖/‖h‖ − 1|")
    for axis in axes[-1]:
        axis.set_xlabel("angle (degrees)")
    title = f"n = {drawing.notes['n']} vectors; below {FLOOR:g} drawn at {FLOOR:g}"
    legend_below(legend, [axes[0][0]], ncols=len(LOOKS), title=title)
    return fig, list(axes.flat)


@figure
def norm_drift(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the mean ``|‖h'‖/‖h‖ − 1|`` of the activations that later norms read.

    Bands are bootstrap intervals over prompts.
    """
    fig, ax, _ = canvas(ax, figsize=(ONE_COLUMN, 2.4), layout="constrained")
    for operator in ("SAS", "SS"):
        color, marker, line = LOOKS[operator]
        rows = drawing.where(operator=operator)
        curve = ([100 * float(v) for v in rows[k]] for k in ("mean", "low", "high"))
        banded(ax, rows["depth"], *curve, color=color, alpha=0.2, marker=marker, ls=line, ms=3, label=operator)
    ax.set(xlabel="depth at which a norm reads the stream (blocks)", ylim=(0, None))
    ax.set_ylabel("mean change of its length (%)")
    ax.legend(title=f"n = {drawing.notes['n']} prompts")
    return fig, [ax]
