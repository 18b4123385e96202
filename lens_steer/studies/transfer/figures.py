"""Figures of the study: every direction on every source's held-out prompts, and what few prompts give."""

from __future__ import annotations

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
    canvas,
    figure,
    legend_below,
)

LOOKS = ((VERMILION, "o"), (BLUE, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"))
QUANTITIES = {
    "area": "AUROC, other prompts", "cosine": "cosine with the direction\nfrom as many others",
    "jaccard": "Jaccard index of $L_{disc}$\nwith that from as many others",
}  # fmt: skip


@figure
def transfer_areas(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the area under the ROC curve of every direction on every source's held-out prompts, with its interval.

    The source's own direction is a filled dot. The grey bar is the range of random directions at the same site, the
    cross what the number of words or the mark at the end of a prompt separates.
    """
    rows = drawing.rows()
    fig, ax, legend = canvas(ax, figsize=(TWO_COLUMNS, 0.9 + 0.22 * len(rows)), layout="constrained")
    for i, row in enumerate(rows):
        low, high = float(row["random_low"]), float(row["random_high"])  # type: ignore[arg-type]
        ax.barh(i, high - low, left=low, height=0.5, color=GREY, alpha=0.3, lw=0, label="random directions")
    ax.plot([float(r["surface"]) for r in rows], range(len(rows)), "x", color=BLUE, ms=5, label="length or final mark")  # type: ignore[arg-type]
    for own, label, face in ((True, "the source's own direction", BLACK), (False, "another source's", "white")):
        kept = [(i, r) for i, r in enumerate(rows) if (r["fitted"] == r["on"]) == own]
        value, start, end = ([float(r[k]) for _, r in kept] for k in ("area", "area_low", "area_high"))  # type: ignore[arg-type]
        error = [[v - a for v, a in zip(value, start, strict=True)], [b - v for v, b in zip(value, end, strict=True)]]
        at = [i for i, _ in kept]
        ax.errorbar(value, at, xerr=error, color=BLACK, marker="o", mfc=face, ls="none", ms=4, lw=0.8, label=label)
    ax.set(yticks=range(len(rows)), yticklabels=[f"{r['fitted']} on {r['on']}" for r in rows])
    ax.set(xlim=(0.45, 1.01), xlabel="area under the ROC curve")
    ax.invert_yaxis()
    legend_below(legend, [ax], ncols=4)
    return fig, [ax]


@figure
def prompts_needed(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw what calibrations from few prompts give, over their number: medians, with 90 % of the draws as a band.

    Dotted lines are the Jaccard index of random sets of the same sizes.
    """
    fig, axes, legend = canvas(ax, 1, len(QUANTITIES), figsize=(TWO_COLUMNS, 2.4), layout="constrained")
    sources = list(dict.fromkeys(str(r["source"]) for r in drawing.rows()))
    for axis, (name, label) in zip(axes, QUANTITIES.items(), strict=True):
        for source, (color, marker) in zip(sources, LOOKS * len(sources), strict=False):
            rows = [r for r in drawing.rows() if r["source"] == source and r[name] is not None]
            x = [float(r["n"]) for r in rows]  # type: ignore[arg-type]
            value, low, high = ([float(r[f"{name}{e}"]) for r in rows] for e in ("", "_low", "_high"))  # type: ignore[arg-type]
            axis.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
            axis.plot(x, value, color=color, marker=marker, ms=3.5, label=source)
            if name == "jaccard":
                axis.plot(x, [float(r["by_chance"]) for r in rows], ":", color=color, lw=1)  # type: ignore[arg-type]
        axis.set_xscale("log", base=2)
        ticks: list[int] = []
        for n in sorted({int(r["n"]) for r in drawing.rows()}):  # type: ignore[arg-type]
            ticks += [n] if not ticks or n >= 1.5 * ticks[-1] else []  # labels that do not meet
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.set(xlabel="prompts of a class", ylabel=label)
    legend_below(legend, axes[:1], ncols=min(4, len(sources)))
    return fig, list(axes)
