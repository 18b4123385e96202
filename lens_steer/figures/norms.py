"""Figures of changes of length."""

from __future__ import annotations

from lens_steer.figures.core import BLUE, GREEN, TWO_COLUMNS, VERMILION, Drawing, Drawn, figure

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
