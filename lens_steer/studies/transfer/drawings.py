"""The data of the figures of the study."""

from __future__ import annotations

from typing import Any

import numpy as np

from lens_steer.figures.core import Drawing
from lens_steer.stats.means import middle
from lens_steer.studies.transfer.claims import LEVEL
from lens_steer.studies.transfer.figures import QUANTITIES
from lens_steer.studies.transfer.study import Transfer


def drawings(found: Transfer) -> dict[str, Drawing]:
    """Return the drawings of the study, by figure name."""
    made = {"transfer_areas": Drawing.of("transfer_areas", pair_rows(found))}
    return made | ({"prompts_needed": Drawing.of("prompts_needed", size_rows(found))} if found.draws else {})


def pair_rows(found: Transfer) -> list[dict[str, Any]]:
    """Return one row a pair of sources, those on the same held-out prompts together."""
    rows = []
    for p in sorted(found.pairs, key=lambda p: [s.name for s in found.sources].index(p.on)):
        area, own = p.area(), p.own()
        rows.append(
            {"fitted": p.fitted, "on": p.on, "site": p.site, "area": area.value, "area_low": area.low}
            | {"area_high": area.high, "own": own.value, "random_low": p.random[0], "random_high": p.random[1]}
            | {"cosine": None if np.isnan(p.cosine) else p.cosine, "jaccard": p.jaccard}
            | {"n_positive": len(p.scores[0]), "n_negative": len(p.scores[1]), "left_out": p.left_out}
            | {"surface": max(p.surface.values()), "surface_by": max(p.surface, key=lambda look: p.surface[look])}
            | {"shared_negatives": p.shared}
        )
    return rows


def size_rows(found: Transfer) -> list[dict[str, Any]]:
    """Return one row a source and number of prompts: the median of each quantity, and its 5 and 95 % quantiles."""
    rows = []
    for d in found.draws:
        row: dict[str, Any] = {"source": d.source, "n": d.n, "half": d.half, "draws": len(d.area)}
        row |= {"same_site": float(d.same_site.mean()), "by_chance": float(np.median(d.chance))}
        for name in (*QUANTITIES, "lost"):
            row |= dict(zip((f"{name}_low", name, f"{name}_high"), middle(getattr(d, name), level=LEVEL), strict=True))
        rows.append(row)
    return rows
