"""Figures of changes of length."""

from __future__ import annotations

from lens_steer.figures.core import BLUE, GREEN, ONE_COLUMN, TWO_COLUMNS, VERMILION, Drawing, Drawn, figure

DTYPES = ("float32", "float16", "bfloat16")
LOOKS = {"SAS": (VERMILION, "o", "-"), "SS": (BLUE, "s", "--"), "directional ablation": (GREEN, "^", ":")}


@figure
def norm_change(drawing: Drawing) -> Drawn:
    """Largest |‖h'‖/‖h‖ − 1| against the angle, on a log scale: one panel a dtype of the arithmetic, the basis rounded to it too."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(DTYPES), figsize=(TWO_COLUMNS, 2.2), sharey=True, layout="constrained")
    for ax, dtype in zip(axes, DTYPES, strict=True):
        for operator, (color, marker, line) in LOOKS.items():
            rows = drawing.where(operator=operator, basis_dtype=dtype, arithmetic=dtype)
            values = [max(float(v), 1e-9) for v in rows["largest"]]
            ax.plot(
                [float(a) for a in rows["angle"]],
                values,
                color=color,
                marker=marker,
                linestyle=line,
                markersize=3,
                label=operator,
            )
        ax.set(title=f"{dtype} basis and arithmetic", xlabel="angle (degrees)", yscale="log", xticks=range(0, 361, 90))
    axes[0].set_ylabel("largest |‖h'‖/‖h‖ − 1|")
    fig.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(LOOKS),
        title=f"n = {drawing.notes['n']} vectors",
    )
    return fig, list(axes)


@figure
def norm_drift(drawing: Drawing) -> Drawn:
    """Mean |‖h'‖/‖h‖ − 1| of every later block's output, with bootstrap intervals over prompts."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(ONE_COLUMN, 2.4), layout="constrained")
    for operator, (color, marker, line) in LOOKS.items():
        rows = drawing.where(operator=operator)
        if not rows["block"]:
            continue
        mean, low, high = ([100 * float(v) for v in rows[k]] for k in ("mean", "low", "high"))
        blocks = [int(b) for b in rows["block"]]
        ax.plot(blocks, mean, color=color, marker=marker, linestyle=line, markersize=3, label=operator)
        ax.fill_between(blocks, low, high, color=color, alpha=0.2, linewidth=0)
    ax.set(xlabel="block", ylabel="mean change of the norm (%)", ylim=(0, None))
    ax.legend(title=f"n = {drawing.notes['n']} prompts")
    return fig, [ax]
