"""The data of the figures of the study."""

from __future__ import annotations

from typing import Any

import numpy as np

from lens_steer.evaluation.cells import clusters_of
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.sweep_protocol import POSITIVE
from lens_steer.figures.core import Drawing
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import clustered_mean
from lens_steer.studies.site_choice.figures import OUTCOMES
from lens_steer.studies.site_choice.study import SiteChoice

MEASURED = {"answered": "positive_answered", "over_refused": "negative_refused", "capable": "capable"}


def drawings(found: SiteChoice, *, seed: int = 0) -> dict[str, Drawing]:
    """Return the drawings of a study, by figure name."""
    return {"site_frontier": frontier(found, seed=seed), "site_outcomes": outcomes(found)}


def frontier(found: SiteChoice, *, seed: int = 0) -> Drawing:
    """Return effect and side effect on report of every set at the angle that select chose for each budget."""
    rows, clusters = [], clusters_of([r for r in found.rows if r["condition"] == NONE and r["side"] == POSITIVE])
    for on_select, on_report in zip(found.select, found.report, strict=True):
        for budget in found.budgets:
            at = on_select.within(budget)
            own = on_select.set
            row: dict[str, Any] = {"rule": own.rule, "n": len(own.sites), "draw": own.draw, "budget": budget}
            if at is None:
                rows.append(row | dict.fromkeys(("angle", "effect", "effect_low", "effect_high", "cost")))
                continue
            angle = on_select.values[at]
            there = on_report.values.index(angle)
            effect = clustered_mean(on_report.plain - on_report.harmful[:, there], clusters, seed=seed)
            rows.append(
                row
                | {"angle": angle, "effect": effect.value, "effect_low": effect.low}
                | {"effect_high": effect.high, "cost": float(on_report.cost[there])}
            )
    return Drawing.of("site_frontier", rows, {"n": len(found.report[0].plain)})


def outcomes(found: SiteChoice) -> Drawing:
    """Return the rates of no steering, the positive control and every set at its angle; draws as their range."""
    by: dict[str, list[Any]] = {}
    for s in found.settings:
        by.setdefault(s.condition, []).append(s)
    rows, random = [], {c.set.condition for c in found.select if c.set.draw}
    for condition, group in by.items():
        drawn = condition in random
        value = group[0].value
        row: dict[str, Any] = {"label": f"{condition}, {len(group)} draws" if drawn else _label(condition, value)}
        for name, quantity in MEASURED.items():
            measured = [s.measured[quantity] for s in group if quantity in s.measured]
            row |= _ends(name, measured if not drawn else [_range(measured)] if measured else [])
        rows.append(row)
    idle = [c.set for c in found.select if c.within(found.budget) is None and not c.set.draw]
    rows += [{"label": f"{s.condition}: no effect"} | _ends_of_none() for s in idle]
    names = ["label", *(f"{k}{e}" for k in OUTCOMES for e in ("", "_low", "_high"))]
    return Drawing.of("site_outcomes", rows, {"budget": found.budget}, names=names)


def _label(condition: str, value: float | None) -> str:
    return condition if value is None else f"{condition} at {value:g}°"


def _range(measured: list[Estimate]) -> Estimate:
    """Return the median of the draws with the least and the greatest as its ends."""
    values = [e.value for e in measured]
    return Estimate(float(np.median(values)), min(values), max(values), len(values))


def _ends(name: str, measured: list[Estimate]) -> dict[str, float | None]:
    e = measured[0] if measured else None
    return {name: e and e.value, f"{name}_low": e and e.low, f"{name}_high": e and e.high}


def _ends_of_none() -> dict[str, float | None]:
    return {f"{k}{e}": None for k in OUTCOMES for e in ("", "_low", "_high")}
