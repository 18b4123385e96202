"""Figure of the projections that a probe and its gate see, on held-out samples and on single tokens.

A probe that was fitted on averages or on last tokens gates single tokens when it steers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer.figures.core import (
    BLACK,
    GREEN,
    GREY,
    NEGATIVE,
    ONE_COLUMN,
    POSITIVE,
    TWO_COLUMNS,
    Drawing,
    Drawn,
    Target,
    canvas,
    figure,
)
from lens_steer.figures.probes import MAX_SHOWN, POOLINGS, check_shown, site_label
from lens_steer.inference.record import Activations
from lens_steer.probes.depth import ProbeScan
from lens_steer.probes.probe import groups_of
from lens_steer.stats.estimates import Estimate, percent
from lens_steer.stats.rates import grouped_rate

CLASSES = {"positive": (POSITIVE, "-"), "negative": (NEGATIVE, "--")}
TARGET = 4.0  # the coefficient α of StTP whose target is drawn
BINS = {"pooled": 24, "token": 36}
RESAMPLES = 500


def probe_projections_drawing(
    scan: ProbeScan,
    report: Activations,
    tokens: Activations,
    shown: Sequence[str],
    *,
    alpha: float | int = TARGET,
    seed: int = 0,
) -> Drawing:
    """Build the data of :func:`probe_projections`: histograms, one row for each site, kind of sample, class and bin.

    The notes hold each site's marks and each panel's numbers.

    Args:
        scan: The probes.
        report: Held-out samples, pooled in the same way as those that the probes were fitted on.
        tokens: Single tokens of the same prompts, or of some of them, at least at the sites shown.
        shown: The names of the sites to show.
        alpha: The coefficient α of StTP whose target is marked.
        seed: The seed of the bootstrap.

    Raises:
        LensSteerError: If there is no site, if there are too many, or if one has no probe or was not recorded.
    """
    table: list[dict[str, Any]] = []
    marks: dict[str, dict[str, float]] = {}
    panels: list[dict[str, Any]] = []
    for name in check_shown(shown):
        probe = scan.at(name).probe
        target = probe.mean_positive + alpha * probe.std_positive
        marks[name] = {
            "threshold": probe.threshold,
            "mu_positive": probe.mean_positive,
            "mu_negative": probe.mean_negative,
            "target": target,
        }
        projected = {
            kind: [probe.project(side).double().numpy() for side in found.at(name)]
            for kind, found in (("pooled", report), ("token", tokens))
        }
        seen = [np.array([probe.threshold, probe.mean_positive, probe.mean_negative])]
        for (kind, sides), found in zip(projected.items(), (report, tokens), strict=True):
            seen += sides
            edges = np.linspace(*view(seen), BINS[kind] + 1)
            shown_ = (float(edges[0]), float(edges[-1]))
            panels.append(
                {"site": name, "samples": kind} | _panel(sides, groups_of(found), probe.threshold, shown_, seed)
            )
            for side, rho in zip(CLASSES, sides, strict=True):
                share = np.histogram(rho, edges)[0] / len(rho)
                table += [
                    {"site": name, "samples": kind, "class": side, "low": a, "high": b, "share": v}
                    for a, b, v in zip(edges[:-1].tolist(), edges[1:].tolist(), share.tolist(), strict=True)
                ]
    notes = {
        "model": report.model,
        "pooling": report.pooling,
        "tokens": tokens.pooling,
        "alpha": float(alpha),
        "marks": marks,
        "panels": panels,
    }
    return Drawing.of("probe_projections", table, notes)


def _panel(
    sides: Sequence[Float[np.ndarray, " _"]],
    groups: Sequence[str],
    threshold: float,
    view: tuple[float, float],
    seed: int,
) -> dict[str, Any]:
    """Return the numbers of one panel.

    They are Cohen's d, the share of each class below the threshold, the numbers of samples and scenarios, and the share
    of samples out of view.
    """
    n = len(sides[0])
    split = groups[:n], groups[n:]
    found: dict[str, Any] = {
        "n_scenarios": len(set(groups)),
        "cohens_d": _listed(cohens_d(sides[0], sides[1], groups, seed=seed)),
    }
    for side, rho, own in zip(CLASSES, sides, split, strict=True):
        found[f"below_{side}"] = _listed(grouped_rate(rho < threshold, own))
        found[f"n_{side}"] = len(rho)
    both = np.concatenate(sides)
    return found | {"out_of_view": float(np.mean((both < view[0]) | (both > view[1])))}


def cohens_d(
    positive: Float[np.ndarray, " m"],
    negative: Float[np.ndarray, " n"],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate | None:
    """Return Cohen's d, ``(μ⁺ − μ⁻) / √((σ⁺² + σ⁻²)/2)``, with σ from n − 1 degrees of freedom.

    Both classes weigh alike, whatever their sizes; :func:`lens_steer.geometry.separation.cohens_d` pools their samples.
    The interval is a 95 % percentile bootstrap that draws whole groups.

    Args:
        positive: The values of the positive class.
        negative: The values of the negative class.
        groups: The group of every value, those of the positive class first.
        resamples: The number of bootstrap draws.
        seed: The seed of the bootstrap.

    Returns:
        The estimate, whose n is the number of groups. None if neither class spreads.

    >>> print(cohens_d(np.array([3.0, 5.0]), np.array([0.0, 2.0]), ["a", "b", "c", "d"], resamples=0))
    2.121 [2.121, 2.121] (n = 4)
    """
    names, of = np.unique(np.asarray(groups), return_inverse=True)
    both = np.concatenate([positive, negative])
    both = both - both.mean()
    sums = []
    for side in (np.arange(len(both)) < len(positive), np.arange(len(both)) >= len(positive)):
        sums += [np.bincount(of, weights=side * both**k, minlength=len(names)) for k in (0, 1, 2)]
    # A resample needs only the sums of 1, x and x² over each class. These are the sums of each group, weighted by how
    # often the group was drawn. Row 0 has every group once and is the estimate itself. The values were centred above,
    # so that a variance from a sum of squares loses few digits.
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    moments = np.concatenate([np.ones((1, len(names))), counts]) @ np.stack(sums, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, spread = [], []
        for n, first, second in (moments[:, :3].T, moments[:, 3:].T):
            mean.append(first / n)
            spread.append(np.maximum(second - first**2 / n, 0) / (n - 1))
        d = (mean[0] - mean[1]) / np.sqrt((spread[0] + spread[1]) / 2)
    if not np.isfinite(d[0]):
        return None
    drawn = d[1:][np.isfinite(d[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (d[0], d[0])
    return Estimate(float(d[0]), float(low), float(high), len(names))


def _listed(e: Estimate | None) -> list[float] | None:
    return None if e is None else [e.value, e.low, e.high]


def view(values: Sequence[Float[np.ndarray, " _"]]) -> tuple[float, float]:
    """Return the limits of an axis for some sets of values.

    They show all values, unless a few lie far out (such as the first token in many models). A set then shows at most
    its middle 80 % and one and a half times the length of that range on both sides.
    """
    ends = []
    for one in values:
        low, high = np.quantile(one, [0.1, 0.9])
        ends.append((max(one.min(), 2.5 * low - 1.5 * high), min(one.max(), 2.5 * high - 1.5 * low)))
    low, high = min(a for a, _ in ends), max(b for _, b in ends)
    margin = 0.03 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


@figure
def probe_projections(drawing: Drawing, ax: Target = None) -> Drawn:
    """Draw histograms of ``ρ = v̂·h`` of both classes, one column for each site, with threshold and class means.

    The upper row shows held-out samples, pooled as the probe was fitted; the lower row shows single tokens.
    """
    marks = drawing.notes["marks"]
    narrow = len(marks) <= MAX_SHOWN // 2
    fig, axes, legend = canvas(ax, 2, len(marks), figsize=(ONE_COLUMN if narrow else TWO_COLUMNS, 3.8), squeeze=False)
    panels = {(p["site"], p["samples"]): p for p in drawing.notes["panels"]}
    for column, (name, mark) in zip(axes.T, marks.items(), strict=True):
        for axis, kind in zip(column, ("pooled", "token"), strict=True):
            panel = panels[name, kind]
            edges: list[float] = []
            for side, (color, dash) in CLASSES.items():
                part = drawing.where(site=name, samples=kind, **{"class": side})
                edges = [float(v) for v in (*part["low"], part["high"][-1])]
                share: list[Any] = [float(v) for v in part["share"]]
                axis.stairs(share, edges, fill=True, color=color, alpha=0.25, lw=0)
                axis.stairs(share, edges, color=color, ls=dash, lw=0.8)
                axis.axvline(mark[f"mu_{side}"], color=color, ls=(0, (1, 1.5)), lw=0.9)
            axis.axvline(mark["threshold"], color=BLACK, lw=0.9)
            if edges[0] <= mark["target"] <= edges[-1]:
                axis.axvline(mark["target"], color=GREEN, ls="-.", lw=0.9)
            axis.set_xlim(edges[0], edges[-1])
            axis.set_ylim(bottom=0)
            axis.locator_params(axis="x", nbins=4)
            axis.locator_params(axis="y", nbins=4)
            head = f"{site_label(name).replace(', ', chr(10))}\n" if kind == "pooled" else ""
            axis.set_title(head + _numbers(panel, rates=kind == "token"), fontsize=7, linespacing=1.25)
        column[-1].set_xlabel("projection v̂·h")
    for axis, what in zip(axes[:, 0], ("samples", "tokens"), strict=True):
        axis.set_ylabel(f"share of {what}")
    made = legend(
        handles=_legend(axes[0][0], drawing),
        loc="outside lower center",
        ncols=2 if narrow else 5,
        columnspacing=1.4,
        handlelength=2.4,
        title=_projection_counts(drawing, narrow),
        title_fontsize=7,
    )
    made.get_title().set_multialignment("center")
    return fig, [axis for row in axes for axis in row]


def _numbers(panel: dict[str, Any], *, rates: bool) -> str:
    d = panel["cohens_d"]
    text = "no spread" if d is None else "d = {} [{}, {}]".format(*map(_short, d))
    if rates:
        for sign, side in (("+", "positive"), ("−", "negative")):
            text += f"\n{sign} below m: {percent(*panel[f'below_{side}'])} %"
    return text


def _short(value: float) -> str:
    return f"{value:z.{1 if abs(value) >= 10 else 2}f}".replace("-", "−")


def _legend(ax: Any, drawing: Drawing) -> list[Any]:
    def line(label: str, **look: Any) -> Any:
        return ax.plot([], [], label=label, **look)[0]

    dots: Any = (0, (1, 1.5))
    handles = [
        line("positive", color=POSITIVE, ls="-", lw=1.2),
        line("negative", color=NEGATIVE, ls="--", lw=1.2),
        line("class means (fit)", color=GREY, ls=dots, lw=0.9),
        line("threshold m", color=BLACK, lw=0.9),
    ]
    sight = [(r["low"], r["high"], r["site"]) for r in drawing.rows()]
    inside = [
        any(low <= m["target"] <= high for low, high, name in sight if name == s)
        for s, m in drawing.notes["marks"].items()
    ]
    if any(inside):
        handles.append(line(f"StTP's target at α = {drawing.notes['alpha']:g}", color=GREEN, ls="-.", lw=0.9))
    return handles


def _projection_counts(drawing: Drawing, narrow: bool) -> str:
    notes = drawing.notes
    pooled, token = (next(p for p in notes["panels"] if p["samples"] == kind) for kind in ("pooled", "token"))
    what = "responses" if notes["tokens"] == "token" else "prompts"
    text = (
        f"above: {pooled['n_positive']} + {pooled['n_negative']} held-out "
        f"{POOLINGS[notes['pooling']]};{chr(10) if narrow else ' '}"
        f"below: {token['n_positive']} + {token['n_negative']} tokens of the {what} of {token['n_scenarios']} scenarios"
    )
    far = max(p["out_of_view"] for p in notes["panels"])
    text += "\n[ ]: 95 % intervals"
    return f"{text}; up to {100 * far:.1f} % of a panel's tokens lie out of view" if far > 0 else text
