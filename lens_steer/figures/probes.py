"""Figures of probes across depth: held-out accuracy, selectivity, the probe's direction, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.figures.core import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
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
)
from lens_steer.figures.geometry import KIND_LOOKS, depth_axis, positions_in_depth
from lens_steer.models import sites
from lens_steer.probes.depth import ProbeScan
from lens_steer.stats.estimates import columns

MAX_SHOWN = 4  # the most sites side by side in one figure
MANY = 40  # the markers are smaller from this number of sites on
# the label of each panel → its quantities, each with colour, dash and name
PANELS: dict[str, dict[str, tuple[str, Any, str]]] = {
    "on held-out prompts": {"accuracy": (BLUE, "-", "accuracy"), "auroc": (ORANGE, "--", "AUROC")},
    "selectivity": {
        "selectivity": (GREEN, "-", "over shuffled labels"),
        "selectivity_scenario": (PURPLE, "--", "over random labels of scenarios"),
    },
    "cosine of the probe's normal": {
        "cosine_to_difference": (BLACK, "-", "with the difference of means"),
        "cosine_to_fisher": (VERMILION, "--", "with Fisher's direction"),
    },
}
POOLINGS = {
    "last": "last prompt tokens",
    "response": "responses, averaged over tokens",
    "thought": "thoughts, averaged over tokens",
    "answer": "answers after thoughts, averaged over tokens",
    "token": "tokens",
    "prompt token": "tokens",
    "thought token": "tokens of thoughts",
    "answer token": "tokens of answers after thoughts",
}
SITE_LOOKS = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"))


def spread(scan: ProbeScan, n: int = MAX_SHOWN) -> tuple[str, ...]:
    """Return the names of ``n`` sites with a probe, evenly spread over depth and with the best site among them.

    If there are no more than ``n`` such sites, all are returned.
    """
    names = [r.probe.site for r in scan.results]
    if len(names) <= n:
        return tuple(names)
    best = names.index(scan.best.probe.site)
    at = [round(i * (len(names) - 1) / max(1, n - 1)) for i in range(n)]
    at[min(range(n), key=lambda i: abs(at[i] - best))] = best
    return tuple(names[i] for i in at)


def check_shown(shown: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the sites that one figure shows side by side, without repetition.

    Raises:
        LensSteerError: If there is no site, or if there are more than :data:`MAX_SHOWN`.
    """
    names = tuple(dict.fromkeys(shown))
    if not 1 <= len(names) <= MAX_SHOWN:
        raise LensSteerError(
            f"shown={list(names)}: name 1 to {MAX_SHOWN} sites, as many as fit side by side in a figure"
        )
    return names


def site_label(name: str) -> str:
    """Describe a site in words.

    >>> site_label("blocks.6.hook_resid_post")
    'block 6, stream after block'
    """
    site = sites.parse(name)
    return f"block {site.block}, {KIND_LOOKS[site.kind][1]}"


def probe_depth_drawing(scan: ProbeScan) -> Drawing:
    """Build the data of :func:`probe_depth`: the scan's rows in network order, with each site's position in depth."""
    rows = sorted(scan.rows(), key=lambda row: sites.parse(row["site"]).order)
    parsed = [sites.parse(row["site"]) for row in rows]
    table = [
        {"site": site.name, "block": site.block, "kind": site.kind, "position": position} | row
        for site, position, row in zip(parsed, positions_in_depth(parsed), rows, strict=True)
    ]
    best = scan.best.probe
    notes = {
        "model": best.model,
        "n_blocks": best.n_layers,
        "best_site": best.site,
        "pooling": best.pooling,
        "n_positive": best.n_positive,
        "n_negative": best.n_negative,
        "n_scenarios": scan.best.measured["accuracy"].n,
    }
    finite = [{k: None if v == float("inf") else v for k, v in row.items()} for row in table]
    return Drawing.of("probe_depth", finite, notes)


@figure
def probe_depth(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw held-out accuracy and AUROC, selectivity, and the cosines of the probe's normal across depth.

    Bands are 95 % intervals. Kinds of sites differ by marker.
    """
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import offset_copy

    kinds = list(dict.fromkeys(str(k) for k in drawing.columns["kind"]))
    fig, axes, legend = canvas(ax, 1, len(PANELS), figsize=(TWO_COLUMNS, 2.9 + 0.2 * (len(kinds) > 1)))
    for axis, (label, quantities) in zip(axes, PANELS.items(), strict=True):
        drawn = [name for name in quantities if any(v is not None for v in drawing.columns[name])]
        for name in drawn:
            for kind in kinds:
                _series(axis, drawing, name, kind, quantities[name])
        _without(axis, drawing)
        depth_axis(axis, drawing)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.set_ylabel(label)
    axes[0].axhline(0.5, color=GREY, lw=0.6, zorder=0)
    axes[0].set_ylim(top=1.06)
    axes[1].axhline(0, color=GREY, lw=0.6, zorder=0)
    axes[1].set_ylim(top=max(0.55, axes[1].get_ylim()[1]))
    axes[2].set_ylim(min(-0.04, axes[2].get_ylim()[0]), 1.04)
    axes[2].axhline(0, color=GREY, lw=0.6, zorder=0)
    best = list(drawing.columns["site"]).index(drawing.notes["best_site"])
    above = offset_copy(axes[0].transData, fig, 0, 7, units="points")  # above the point: the star hides no marker
    highest = max(drawing.columns[name][best] for name in ("accuracy", "auroc"))
    x = drawing.columns["position"][best]
    axes[0].plot([x], [highest], "*", color=BLACK, ms=8, transform=above, clip_on=False, zorder=5)
    legend(
        handles=_legend(axes[0], drawing),
        loc="outside lower center",
        ncols=3,
        columnspacing=1.6,
        handlelength=2.8,
        title=_depth_counts(drawing),
        title_fontsize=7,
    )
    if len(kinds) > 1:
        looks = [KIND_LOOKS[kind] for kind in kinds]
        handles = [axes[0].plot([], [], color=GREY, ls="", marker=m, label=label)[0] for m, label in looks]
        legend(handles=handles, loc="outside upper center", ncols=min(4, len(kinds)), columnspacing=1.6)
    return fig, list(axes)


def _series(ax: Any, drawing: Drawing, name: str, kind: str, look: tuple[str, Any, str]) -> None:
    """Draw one quantity at the sites of one kind.

    The marker is open where the boundary does not lie between the class means.
    """
    color, dash, _ = look
    rows = [r for r in Drawing(drawing.kind, drawing.where(kind=kind)).rows() if r[name] is not None]
    x: list[Any] = [r["position"] for r in rows]
    y, low, high = ([float(r[f"{name}{end}"] or 0) for r in rows] for end in ("", "_low", "_high"))
    size = 3.0 if len(drawing.columns["site"]) < MANY else 1.8
    banded(ax, x, y, low, high, color=color, alpha=0.18, ls=dash, lw=0.9)
    for between in (True, False):
        own = [(a, b) for a, b, r in zip(x, y, rows, strict=True) if bool(r["between"]) == between]
        fill = {"ms": size} if between else {"ms": size + 1, "mfc": "white"}
        ax.plot([a for a, _ in own], [b for _, b in own], color=color, ls="", marker=KIND_LOOKS[kind][0], **fill)


def _without(ax: Any, drawing: Drawing) -> None:
    """Mark on the axis the sites that have no probe."""
    x = [p for p, value in zip(drawing.columns["position"], drawing.columns["accuracy"], strict=True) if value is None]
    if x:  # an empty line that is not in data coordinates upsets the layout
        ax.plot(x, [0.02] * len(x), "x", color=GREY, ms=4, transform=ax.get_xaxis_transform())


def _legend(ax: Any, drawing: Drawing) -> list[Any]:
    """Return the legend's handles: one column for each panel, and below them the marks that occur."""
    kinds = set(drawing.columns["kind"])
    marker = KIND_LOOKS[kinds.pop()][0] if len(kinds) == 1 else None
    columns = [
        [
            ax.plot([], [], color=color, ls=dash, marker=marker, ms=3, lw=0.9, label=label)[0]
            for name, (color, dash, label) in panel.items()
            if any(v is not None for v in drawing.columns[name])
        ]
        for panel in PANELS.values()
    ]
    marks = [ax.plot([], [], "*", color=BLACK, ms=7, label="best site")[0]]
    if False in drawing.columns["between"]:
        marks.append(ax.plot([], [], "o", color=GREY, mfc="white", label="open: boundary not between the means")[0])
    if None in drawing.columns["accuracy"]:
        marks.append(ax.plot([], [], "x", color=GREY, ms=4, label="no probe: samples all the same")[0])
    for i, mark in enumerate(marks):
        columns[i].append(mark)
    height = max(map(len, columns))
    blank = [ax.plot([], [], ls="", label=" ")[0] for _ in range(3 * height)]
    return [h for column in columns for h in (*column, *(blank.pop() for _ in range(height - len(column))))]


def _depth_counts(drawing: Drawing) -> str:
    notes = drawing.notes
    return (
        f"fit on {notes['n_positive']} + {notes['n_negative']} {POOLINGS[notes['pooling']]}; "
        f"held out: {notes['n_scenarios']} scenarios; bands: 95 % intervals"
    )


def reliability_drawing(scan: ProbeScan, shown: Sequence[str]) -> Drawing:
    """Build the data of :func:`reliability`: one row for each site and bin that is not empty.

    Args:
        scan: The probes.
        shown: The names of the sites to show.

    Raises:
        LensSteerError: If there is no site, if there are too many, or if one has no probe.
    """
    names = check_shown(shown)
    results = [scan.at(name) for name in names]
    table = []
    for r in results:
        for b in r.reliability:
            row = {"site": r.probe.site, "low": b.low, "high": b.high, "predicted": b.predicted}
            table.append(row | columns("observed", b.observed) | {"n": b.observed.n})
    brier = {r.probe.site: list(columns("", r.measured["brier"]).values()) for r in results}
    notes = {"model": results[0].probe.model, "brier": brier, "n": sum(b.observed.n for b in results[0].reliability)}
    return Drawing.of("reliability", table, notes)


@figure
def reliability(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw the share of the positive class against the predicted probability, beside the diagonal.

    Bars are Wilson intervals. The legend gives the Brier scores, and the lower panels the number of prompts in each
    bin.
    """
    names = list(drawing.notes["brier"])
    narrow = len(names) <= MAX_SHOWN // 2
    how: dict[str, Any] = {"height_ratios": (3, 1), "sharex": True, "sharey": "row", "squeeze": False}
    fig, axes, legend = canvas(ax, 2, len(names), figsize=(ONE_COLUMN if narrow else TWO_COLUMNS, 3.1), **how)
    handles = []
    for (curve, counts), name, (color, marker) in zip(axes.T, names, SITE_LOOKS, strict=False):
        part = drawing.where(site=name)
        low, high, x, y, down, up, n = (
            [float(v) for v in part[k]]
            for k in ("low", "high", "predicted", "observed", "observed_low", "observed_high", "n")
        )
        curve.plot([0, 1], [0, 1], color=GREY, lw=0.7, ls=":")
        curve.vlines(x, down, up, color=color, lw=0.9, clip_on=False)
        value, least, most = drawing.notes["brier"][name]
        label = f"{site_label(name)}: Brier {value:.3f} [{least:.3f}, {most:.3f}]"
        handles += curve.plot(x, y, color=color, marker=marker, ls="-", lw=0.7, ms=4, label=label, clip_on=False)
        widths = [b - a for a, b in zip(low, high, strict=True)]
        counts.bar(low, n, width=widths, align="edge", color=color, alpha=0.45, ec=color, lw=0.6)
        curve.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), title=site_label(name).replace(", ", "\n"))
        counts.set(xlabel="predicted probability", xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
    axes[0][0].set_ylabel("share positive")
    axes[1][0].set_ylabel("prompts")
    handles.append(axes[0][0].plot([], [], color=GREY, ls=":", lw=0.7, label="as predicted")[0])
    legend(
        handles=handles,
        loc="outside lower center",
        ncols=1 if narrow else 2,
        handlelength=2.2,
        title_fontsize=7,
        title=f"{drawing.notes['n']} held-out samples a site; bars: 95 % intervals (Wilson)",
    )
    return fig, [axis for row in axes for axis in row]
