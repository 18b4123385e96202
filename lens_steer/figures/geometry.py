"""Figures of a calibration: the directions across depth, and the plane."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from lens_steer.figures.core import (
    BLACK,
    GREEN,
    GREY,
    NEGATIVE,
    ONE_COLUMN,
    POSITIVE,
    Drawing,
    Drawn,
    Target,
    banded,
    canvas,
    figure,
    legend_below,
)
from lens_steer.models import sites

# The marker and the name of each kind of site.
KIND_LOOKS = {
    "ln1": ("o", "norm before attention"), "ln1_post": ("^", "norm after attention"), "ln2": ("s", "norm before MLP"),
    "ln2_post": ("v", "norm after MLP"), "resid_pre": ("D", "stream before block"),
    "resid_mid": ("P", "stream after attention"), "resid_post": ("X", "stream after block"),
    "attn_out": ("<", "attention's output"), "mlp_out": (">", "MLP's output"),
    "router_logits": ("h", "router's logits"),
}  # fmt: skip


def drawings(summary: dict[str, Any]) -> dict[str, Drawing]:
    """Return every figure that the summary of a calibration has data for, by file name and in the order of a report."""
    names: list[str] = summary["sites"]
    parsed = [sites.parse(n) for n in names]
    chosen = set(summary["discriminative"]["sites"])
    base = {
        "site": names,
        "block": [s.block for s in parsed],
        "kind": [s.kind for s in parsed],
        "position": positions_in_depth(parsed),
        "discriminative": [n in chosen for n in names],
    }
    notes = {
        "model": summary["model"], "selected_site": summary["selection"]["selected_site"],
        "selected_position": base["position"][summary["selection"]["selected_index"]], "n_blocks": summary["n_blocks"],
        "blocks": summary["discriminative"]["blocks"],
    }  # fmt: skip
    inside, cosine, plane = summary["candidates_in_plane"], summary["cosine_matrix"], summary["plane"]
    shares = {"share_centred": plane["share_in_plane_centred"]}
    shares["best_centred"] = plane.get("best_two_dimensions_centred")
    found = {
        "cosine_matrix": Drawing(
            "cosine_matrix",
            {
                "row": [i for i in range(len(names)) for _ in names],
                "column": list(range(len(names))) * len(names),
                "cosine": [v for row in cosine for v in row],
            },
            notes | {"block_of_site": base["block"], "selected_index": summary["selection"]["selected_index"]},
        ),
        "mean_cosine": Drawing("mean_cosine", base | {"mean_cosine": summary["selection"]["mean_cosine"]}, notes),
        "plane_path": Drawing(
            "plane_path",
            base | {"x": [c[0] for c in inside["coordinates"]], "y": [c[1] for c in inside["coordinates"]]},
            notes,
        ),
        "plane_share": Drawing("plane_share", base | {"fraction": inside["fraction"]}, notes | shares),
    }
    classes = summary["classes"]
    if classes is not None:
        for quantity in ("projection", "norm"):
            columns = dict(base)
            for side in ("positive", "negative"):
                columns |= {f"{side}_{part}": classes[f"{quantity}_{side}"][part] for part in ("mean", "low", "high")}
            counts = {name: classes[name] for name in ("n_positive", "n_negative", "split")}
            found[f"class_{quantity}s"] = Drawing(f"class_{quantity}s", columns, notes | counts)
    part = summary["discriminative"]
    if part.get("membership") is not None:
        columns = base | {"membership": part["membership"], "auroc": part["auroc"]}
        rule = part["rule"] if part["bound"] is None else f"{part['rule']}, bound {part['bound']:g}"
        found["site_membership"] = Drawing("site_membership", columns, notes | {"rule": rule})
    return found


def positions_in_depth(parsed: list[sites.Site]) -> list[float]:
    """Return the position of each site on the depth axis.

    The position is the block, with an offset between −0.5 and 0.5 that orders the sites of one block as in the network.
    """
    per_block = Counter(site.block for site in parsed)
    seen: Counter[int] = Counter()
    positions = []
    for site in parsed:
        positions.append(site.block + (seen[site.block] + 0.5) / per_block[site.block] - 0.5)
        seen[site.block] += 1
    return positions


def depth_axis(axis: Any, drawing: Drawing) -> None:
    n = int(drawing.notes["n_blocks"])
    step = max(1, math.ceil(n / 12))
    axis.set_xticks(range(0, n, step))
    axis.set_xlim(-0.7, n - 0.3)
    axis.set_xlabel("block")


def shade_blocks(axis: Any, drawing: Drawing) -> None:
    """Mark each discriminative site with a light band from half a site before it to half a site after it."""
    width = 1 / max(1, len(set(drawing.columns["kind"])))
    label: str | None = "discriminative site"
    for x, inside in zip(drawing.columns["position"], drawing.columns["discriminative"], strict=True):
        if inside:
            axis.axvspan(x - width / 2, x + width / 2, color=GREY, alpha=0.22, lw=0, label=label)
            label = None


@figure
def cosine_matrix(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the cosines between the candidate directions of all pairs of sites, and mark the selected one."""
    import numpy as np

    blocks = drawing.notes["block_of_site"]
    n = len(blocks)
    matrix = np.array([float(v or 0) for v in drawing.columns["cosine"]]).reshape(n, n)
    fig, axis, _ = canvas(ax, figsize=(ONE_COLUMN, 2.9))
    image = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", rasterized=True)
    firsts = [i for i in range(n) if i == 0 or blocks[i] != blocks[i - 1]]
    shown = firsts[:: max(1, math.ceil(len(firsts) / 9))]
    for ticks, labels in ((axis.set_xticks, axis.set_xticklabels), (axis.set_yticks, axis.set_yticklabels)):
        ticks(shown)
        labels([str(blocks[i]) for i in shown])
    k = int(drawing.notes["selected_index"])
    for line in (axis.axhline, axis.axvline):
        line(k, color=BLACK, lw=0.6, ls=":")
    axis.set_xlabel("block (sites in network order)")
    axis.set_ylabel("block")
    axis.set_title(f"dotted: selected, {drawing.notes['selected_site']}", fontsize=7)
    axis.spines[:].set_visible(False)
    fig.colorbar(image, ax=axis, label="cosine of candidates", shrink=0.85)
    return fig, [axis]


@figure
def mean_cosine(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the mean cosine of each candidate with all candidates; the highest is the selected direction."""
    fig, axis, legend = canvas(ax, figsize=(ONE_COLUMN, 2.2))
    shade_blocks(axis, drawing)
    for kind in dict.fromkeys(drawing.columns["kind"]):
        part, (marker, label) = drawing.where(kind=kind), KIND_LOOKS[kind]
        axis.plot(part["position"], part["mean_cosine"], marker=marker, label=label, lw=0.9)
    index = list(drawing.columns["site"]).index(drawing.notes["selected_site"])
    x, y = (drawing.columns[name][index] for name in ("position", "mean_cosine"))
    axis.plot(x, y, marker="*", ms=11, color=BLACK, ls="", label="selected")
    depth_axis(axis, drawing)
    axis.set_ylabel("mean cosine with all")
    _legend_below(legend, axis)
    return fig, [axis]


@figure
def class_projections(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the mean projection of both classes on the selected direction across depth, with bootstrap intervals."""
    return _two_classes(drawing, ax, "mean projection on $b_1$", log=False)


@figure
def class_norms(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the mean length of the activations of both classes across depth, with bootstrap intervals."""
    return _two_classes(drawing, ax, "mean length of activations", log=True)


@figure
def site_membership(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the share of bootstrap resamples in which each site is discriminative, and the AUROC of its projections."""
    fig, axis, legend = canvas(ax, figsize=(ONE_COLUMN, 2.3))
    shade_blocks(axis, drawing)
    x = drawing.columns["position"]
    axis.plot(x, drawing.columns["membership"], color=POSITIVE, marker="o", ms=2.8, label="bootstrap probability")
    axis.plot(x, drawing.columns["auroc"], color=GREEN, marker="s", ls="--", ms=2.8, label="AUROC of the projections")
    for k, level in enumerate((0.05, 0.95)):
        axis.axhline(level, color=BLACK, lw=0.6, ls=":", label=None if k else "0.05 and 0.95")
    axis.set_ylim(-0.03, 1.03)
    depth_axis(axis, drawing)
    axis.set_ylabel("probability, area")
    axis.set_title(f"rule: {drawing.notes['rule']}", fontsize=7)
    _legend_below(legend, axis)
    return fig, [axis]


def _two_classes(drawing: Drawing, ax: Target, quantity: str, *, log: bool) -> Drawn:
    fig, axis, legend = canvas(ax, figsize=(ONE_COLUMN, 2.3))
    shade_blocks(axis, drawing)
    x = drawing.columns["position"]
    for side, color, marker, dash in (("positive", POSITIVE, "o", "-"), ("negative", NEGATIVE, "s", "--")):
        curve = (drawing.columns[f"{side}_{part}"] for part in ("mean", "low", "high"))
        label = f"{side} (n = {drawing.notes[f'n_{side}']})"
        banded(axis, x, *curve, color=color, alpha=0.25, marker=marker, ls=dash, ms=2.8, label=label)
    if log:
        axis.set_yscale("log")
    else:
        axis.axhline(0, color=BLACK, lw=0.6)
    depth_axis(axis, drawing)
    axis.set_ylabel(quantity)
    _legend_below(legend, axis)
    return fig, [axis]


@figure
def plane_path(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the coordinates of the unit candidates in the steering plane, joined in network order.

    No unit vector lies outside the unit circle, which is drawn too.
    """
    import numpy as np

    fig, axis, legend = canvas(ax, figsize=(ONE_COLUMN, 2.9))
    turn = np.linspace(0, 2 * np.pi, 200)
    axis.plot(np.cos(turn), np.sin(turn), color=GREY, lw=0.7)
    axis.axhline(0, color=GREY, lw=0.4)
    axis.axvline(0, color=GREY, lw=0.4)
    x, y = (np.array([float(v or 0) for v in drawing.columns[name]]) for name in ("x", "y"))
    axis.plot(x, y, color=GREY, lw=0.5, zorder=1)
    inside = np.array(drawing.columns["discriminative"], dtype=bool)
    depth = np.array(drawing.columns["block"], dtype=float)
    look = {"s": 16, "cmap": "viridis", "vmin": 0, "vmax": depth.max(), "zorder": 2, "edgecolors": "none"}
    for mask, marker, label in ((~inside, "o", "other site"), (inside, "^", "discriminative site")):
        dots = axis.scatter(x[mask], y[mask], c=depth[mask], marker=marker, label=label, **look)
    k = list(drawing.columns["site"]).index(drawing.notes["selected_site"])
    axis.plot(x[k], y[k], marker="*", ms=11, color=BLACK, ls="", label="selected ($b_1$)", zorder=3)
    axis.set_aspect("equal")
    axis.set_xlabel("along $b_1$")
    axis.set_ylabel("along $b_2$")
    fig.colorbar(dots, ax=axis, label="block", shrink=0.8)
    _legend_below(legend, axis)
    return fig, [axis]


@figure
def plane_share(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the share of each candidate's squared length that lies in the plane."""
    fig, axis, legend = canvas(ax, figsize=(ONE_COLUMN, 2.2))
    shade_blocks(axis, drawing)
    x, shares = drawing.columns["position"], drawing.columns["fraction"]
    axis.vlines(x, 0, [v or 0 for v in shares], color=GREEN, lw=1)
    axis.plot(x, shares, "o", color=GREEN, ms=3, label="candidate at the site")
    for note, dash, label in (
        ("share_centred", "--", "share of the candidates' variance"),
        ("best_centred", ":", "most that any plane can hold"),
    ):
        if drawing.notes.get(note) is not None:
            axis.axhline(drawing.notes[note], color=BLACK, lw=0.8, ls=dash, label=label)
    axis.set_ylim(0, 1.02)
    depth_axis(axis, drawing)
    axis.set_ylabel("share in the plane")
    _legend_below(legend, axis)
    return fig, [axis]


def _legend_below(legend: Callable[..., Any], axis: Any) -> None:
    """Put the legend under the axes, where it covers nothing."""
    legend_below(legend, [axis], ncols=2, columnspacing=1.2, handlelength=2.2)
