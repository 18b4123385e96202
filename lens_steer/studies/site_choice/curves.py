"""Effect and side effect of steering at each set of sites, over the angles, from single forward passes.

The *effect* is the fall of the refusal score of harmful prompts (log-odds of the first token's refusal mass). The *side
effect* is the divergence ``KL(unsteered ‖ steered)`` along the unsteered model's own answers to harmless prompts, in
nats a token. Both need no generation, so every set can be measured at every angle; answers are generated at the chosen
angles alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer._defaults import ENGINE
from lens_steer._io.rowstore import Row, RowStore
from lens_steer.data import Contrast
from lens_steer.evaluation.budgeted import within
from lens_steer.evaluation.conditions import plan_at_value
from lens_steer.evaluation.sweep_protocol import NEGATIVE, POSITIVE
from lens_steer.geometry.calibration import Calibration
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.metrics.refusal_score import refusal_scores_by_value
from lens_steer.studies.site_choice.sets import SiteSet

COLUMNS = ("set", "value", "side", "prompt", "score", "kl")


@dataclass(frozen=True, eq=False)
class SetCurve:
    """What steering at one set of sites does to each prompt, at each angle.

    Attributes:
        set: The sites.
        values: The angles in degrees, in order, between 0 and 360.
        plain: The refusal score of each harmful prompt without steering.
        harmful: The refusal score of each harmful prompt at each angle.
        kl: The divergence of each harmless prompt at each angle, in nats a token; NaN for an empty answer.
    """

    set: SiteSet
    values: tuple[float, ...]
    plain: Float[np.ndarray, " n_harmful"]
    harmful: Float[np.ndarray, "n_harmful values"]
    kl: Float[np.ndarray, "n_harmless values"]

    @property
    def effect(self) -> Float[np.ndarray, " values"]:
        """Return the mean fall of the refusal score of harmful prompts at each angle."""
        return (self.plain[:, None] - self.harmful).mean(axis=0)

    @property
    def cost(self) -> Float[np.ndarray, " values"]:
        """Return the mean divergence of harmless prompts at each angle."""
        return np.nanmean(self.kl, axis=0)

    def within(self, budget: float) -> int | None:
        """Return the index of the angle under a budget; None where there is none.

        See :func:`lens_steer.evaluation.budgeted.within`.

        >>> one, values = SiteSet("sign", ()), (90.0, 180.0)
        >>> curve = SetCurve(one, values, np.array([5.0]), np.array([[4.0, 1.0]]), np.array([[0.1, 0.4]]))
        >>> curve.within(0.2), curve.within(0.5), curve.within(0.05)
        (0, 1, None)
        """
        return within(self.effect, self.cost, budget)

    def crossings(self, budget: float) -> tuple[tuple[float, float], ...]:
        """Return the neighbouring angles of which one is within a budget and the other is not.

        At 0° and 360° nothing is turned, which costs nothing.

        >>> flat, kl = np.zeros((1, 2)), np.array([[0.1, 0.4]])
        >>> SetCurve(SiteSet("all", ()), (90.0, 180.0), flat[:, 0], flat, kl).crossings(0.2)
        ((90.0, 180.0), (180.0, 360.0))
        """
        ends = [(0.0, True), *zip(self.values, (self.cost <= budget).tolist(), strict=True), (360.0, True)]
        return tuple((a, b) for (a, one), (b, two) in pairwise(ends) if one != two)

    def joined(self, other: SetCurve) -> SetCurve:
        """Return the curve with the angles of another one of the same sites and prompts."""
        values = (*self.values, *other.values)
        order = np.argsort(values)

        def both(name: str) -> Float[np.ndarray, "n values"]:
            return np.concatenate([getattr(self, name), getattr(other, name)], axis=1)[:, order]

        tables = {name: both(name) for name in ("harmful", "kl")}
        return replace(self, values=tuple(values[i] for i in order), **tables)


def curves(
    model: Any,
    calibration: Calibration,
    sets: Sequence[SiteSet],
    contrast: Contrast,
    responses: Sequence[str],
    out: str | Path,
    name: str,
    *,
    values: Sequence[Sequence[float]],
    openings: Sequence[str] | None = None,
    engine: str = ENGINE,
    identity: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[SetCurve]:
    """Measure every set of sites at its angles; an interrupted run goes on. Equal sets are measured once.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        calibration: The direction and the plane.
        sets: The sets of sites.
        contrast: The prompts of one split.
        responses: The unsteered model's answer to each harmless prompt.
        out, name: The folder, and the name of the file of the rows.
        values: The angles of each set in degrees, at least one; equal sets have equal angles.
        openings: See :func:`lens_steer.metrics.refusal_score.refusal_tokens`.
        engine, identity, progress: See :func:`lens_steer.evaluation.sweeps.run`.

    Returns:
        One curve for each set, in the order of the sets.
    """
    angles = {s.sites: tuple(map(float, own)) for s, own in zip(sets, values, strict=True)}
    at = {sites: i for i, sites in enumerate(angles)}
    store = RowStore(
        out,
        name,
        COLUMNS,
        ("side",),
        {
            **(identity or {}),
            "sets": [[list(sites), list(own)] for sites, own in angles.items()],
            "prompts": [contrast.positive.hash, contrast.negative.hash],
            "responses": list(responses),
            "openings": None if openings is None else list(openings),
            "basis": calibration.basis.tolist(),
        },
    )

    def part(sites: tuple[str, ...]) -> list[Row]:
        build = partial(plan_at_value, "selective", calibration, {"at": sites})
        how: dict[str, Any] = {"engine": engine}
        own_angles = angles[sites]
        kl = mean_kl_by_value(model, build, own_angles, contrast.negative, responses, **how)
        plain, steered = refusal_scores_by_value(model, build, own_angles, contrast.positive, openings=openings, **how)
        rows = []
        for i in range(len(contrast.positive)):
            own = {"set": at[sites], "side": POSITIVE, "prompt": i, "kl": None}
            rows.append(own | {"value": None, "score": float(plain[i])})
            rows += [own | {"value": v, "score": float(steered[i, j])} for j, v in enumerate(own_angles)]
        for i in range(len(contrast.negative)):
            own = {"set": at[sites], "side": NEGATIVE, "prompt": i, "score": None}
            rows += [own | {"value": v, "kl": _finite(kl[i, j])} for j, v in enumerate(own_angles)]
        return rows

    rows = store.run({f"{i:03}": partial(part, sites) for i, sites in enumerate(angles)}, progress=progress)
    by_set: dict[int, list[Row]] = {}
    for row in rows:
        by_set.setdefault(int(row["set"]), []).append(row)
    return [_curve(s, by_set[at[s.sites]], angles[s.sites]) for s in sets]


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _curve(of: SiteSet, rows: Sequence[Row], values: Sequence[float]) -> SetCurve:
    def table(side: str, column: str) -> Float[np.ndarray, "n values"]:
        found: dict[int, dict[float, float]] = {}
        for r in rows:
            if r["side"] == side and r["value"] is not None:
                value = np.nan if r[column] is None else float(r[column])
                found.setdefault(int(r["prompt"]), {})[float(r["value"])] = value
        return np.array([[found[i][v] for v in values] for i in sorted(found)])

    plain = {int(r["prompt"]): float(r["score"]) for r in rows if r["side"] == POSITIVE and r["value"] is None}
    return SetCurve(
        of,
        tuple(values),
        np.array([plain[i] for i in sorted(plain)]),
        table(POSITIVE, "score"),
        table(NEGATIVE, "kl"),
    )
