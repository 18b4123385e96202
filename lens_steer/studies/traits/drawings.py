"""The data of the figures of a trait study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lens_steer.evaluation.conditions import NONE
from lens_steer.figures.core import Drawing
from lens_steer.models import sites
from lens_steer.studies.traits.conditions import ALIGNED_TRAIT, TRAIT, condition_of
from lens_steer.studies.traits.figures import DOTS, KINDS
from lens_steer.studies.traits.found import TraitReport


def drawings(report: TraitReport, rows: Sequence[Mapping[str, Any]]) -> dict[str, Drawing]:
    """Return the drawings of a report, by figure name."""
    return {"trait_depth": depth_drawing(report), "trait_conditions": conditions_drawing(rows)}


def depth_drawing(report: TraitReport) -> Drawing:
    """Return the largest share recovered on the select split, by method, position mode and site.

    The share is the largest over the coefficients, once among the coherent settings and once among all settings.
    """
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    base = next(s for s in report.pooled.select if s.condition == NONE)
    for s in report.pooled.select:
        if s.condition == NONE:
            continue
        c = condition_of(s.condition)
        unknown = {"recovered": None, "recovered_low": None, "recovered_high": None, "any": None}
        row = best.setdefault((c.method, c.mode, s.variant), unknown)
        e = s.measured[TRAIT]
        row["any"] = e.value if row["any"] is None else max(row["any"], e.value)
        if report.pooled.bound.met(s, base) and (row["recovered"] is None or e.value > row["recovered"]):
            row |= {"recovered": e.value, "recovered_low": e.low, "recovered_high": e.high}
    table = [
        {"method": m, "mode": mode, "site": site, "block": sites.parse(site).block, **row}
        for (m, mode, site), row in best.items()
    ]
    unsteered, aligned = base.measured[TRAIT], base.measured[ALIGNED_TRAIT]
    notes = {"n": unsteered.n, "unsteered": unsteered.value, "aligned": aligned.value}
    return Drawing.of("trait_depth", table, notes)


def conditions_drawing(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Return the rates of every condition on the report split."""
    kept = [r for r in rows if r["kind"] in KINDS]
    names = ["condition", "kind", *(f"{k}{e}" for k in DOTS for e in ("", "_low", "_high"))]
    return Drawing.of("trait_conditions", kept, names=names)
