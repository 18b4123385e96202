"""The data of the figure of the study."""

from __future__ import annotations

from typing import Any

from lens_steer.figures.core import Drawing
from lens_steer.stats.means import clustered_mean
from lens_steer.studies.angle_transfer.study import AngleTransfer

SETTINGS = ("falls", "falls_again", "falls_own")


def drawings(found: AngleTransfer, *, seed: int = 0) -> dict[str, Drawing]:
    """Return the drawing of the study, by figure name."""
    return {"angle_falls": Drawing.of("angle_falls", pair_rows(found, seed=seed))}


def pair_rows(found: AngleTransfer, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row a pair of sources, those on the same prompts together: mean falls with their intervals."""
    names = list(found.sites)
    rows = []
    for t in sorted(found.turned, key=lambda t: names.index(t.on)):
        draws = [float(draw.mean()) for draw in found.random[t.on]] if t.fitted == t.on else []
        row: dict[str, Any] = {"fitted": t.fitted, "on": t.on, "sites": found.sites[t.fitted], "n": len(t.falls)}
        row |= {"left_out": t.left_out, "angle": t.angle, "again": t.again, "own": found.pair(t.on, t.on).angle}
        for name in SETTINGS:
            mean = clustered_mean(getattr(t, name), t.clusters, seed=seed)
            row |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
        rows.append(row | {"random_low": min(draws, default=None), "random_high": max(draws, default=None)})
    return rows
