"""What the experiments measure of one condition on the report split, as values that are paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lens_steer._io.rowstore import Row
from lens_steer.evaluation.cells import clusters_of
from lens_steer.evaluation.sweep_protocol import CAPABILITY, NEGATIVE, POSITIVE
from lens_steer.stats.clusters import Clusters
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import clustered_mean
from lens_steer.stats.rates import clustered_rate

RATES = ("positive_right", "negative_right", "broken", "capable")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One condition, measured on the report split.

    Attributes:
        condition: Name of the condition.
        angle: Angle in degrees; None without steering, for X2, which has no angle, and where the choice is a tie.
        at_nominal: True if the angle is the nominal one instead of the condition's own best.
        tied: True if the choice on select is a tie at nothing. No angle is then taken from it, and nothing is measured:
            the values are empty.
        positive_right: For each harmful prompt, whether the model complied (graded right).
        negative_right: For each harmless prompt, whether the model helped (graded right).
        broken: For each prompt of both classes, whether the answer is incoherent.
        surprise: For each prompt of both classes, mean −log p per token of the answer under the unsteered model, in
            nats; NaN for an empty answer.
        capable: For each capability task, whether it was done right; empty where the model has no such tasks.
        clusters: For each of these fields the clusters of its prompts; a field is missing, or None, where every prompt
            is a cluster alone.
    """

    condition: str
    angle: float | None
    at_nominal: bool = False
    tied: bool = False
    positive_right: Bool[np.ndarray, " n_harmful"]
    negative_right: Bool[np.ndarray, " n_harmless"]
    broken: Bool[np.ndarray, " n"]
    surprise: Float[np.ndarray, " n"]
    capable: Bool[np.ndarray, " n_tasks"]
    clusters: Mapping[str, Clusters | None] = field(default_factory=dict)

    @staticmethod
    def of(
        rows: Sequence[Row], condition: str, angle: float | None, *, tied: bool = False, at_nominal: bool = False
    ) -> Measured:
        """Read a condition from the rows of its setting, in the order of the prompts of each side.

        >>> row = {"side": "positive", "right": 1, "broken": 0, "surprise_ref": None}
        >>> found = Measured.of([row, {**row, "side": "negative", "surprise_ref": 0.5}], "SS", 150.0)
        >>> found.positive_right, found.surprise, len(found.capable)
        (array([ True]), array([nan, 0.5]), 0)
        """
        by_side = {side: [r for r in rows if r["side"] == side] for side in (POSITIVE, NEGATIVE, CAPABILITY)}
        both = by_side[POSITIVE] + by_side[NEGATIVE]
        right = {side: np.array([r["right"] for r in found], dtype=bool) for side, found in by_side.items()}
        said = [np.nan if r["surprise_ref"] is None else r["surprise_ref"] for r in both]
        return Measured(
            condition=condition,
            angle=angle,
            at_nominal=at_nominal,
            tied=tied,
            positive_right=right[POSITIVE],
            negative_right=right[NEGATIVE],
            broken=np.array([r["broken"] for r in both], dtype=bool),
            surprise=np.array(said, dtype=np.float64),
            capable=right[CAPABILITY],
            clusters={
                "positive_right": clusters_of(by_side[POSITIVE]),
                "negative_right": clusters_of(by_side[NEGATIVE]),
                "capable": clusters_of(by_side[CAPABILITY]),
                **dict.fromkeys(("broken", "surprise"), clusters_of(both)),
            },
        )

    def clusters_at(self, name: str, kept: Bool[np.ndarray, " n"]) -> list[str | None] | None:
        """Return the clusters of some prompts of a field; None where every prompt is a cluster alone."""
        found = self.clusters.get(name)
        return None if found is None else [c for c, keep in zip(found, kept, strict=True) if keep]

    def row(self) -> dict[str, Any]:
        """Return rates with Wilson intervals, and the perplexity with a bootstrap interval over prompts.

        Where prompts share clusters, the intervals account for them.
        """
        row: dict[str, Any] = {"condition": self.condition, "angle": self.angle, "at_nominal": self.at_nominal}
        for name in RATES:
            hits = getattr(self, name)
            rate = clustered_rate(hits, self.clusters.get(name)) if len(hits) else None
            for end, value in zip(("", "_low", "_high", "_n"), _parts(rate), strict=True):
                row[name + end] = value
        known = ~np.isnan(self.surprise)
        clusters = self.clusters_at("surprise", known)
        surprise = clustered_mean(self.surprise[known], clusters) if known.any() else None
        for end, value in zip(("", "_low", "_high", "_n"), _parts(surprise), strict=True):
            row[f"perplexity{end}"] = value if end == "_n" or value is None else float(np.exp(value))
        return row | {"tied": self.tied}


def paired(
    a: Measured,
    b: Measured,
    name: str,
    *,
    level: float = 0.95,
    seed: int = 0,
    among: Bool[np.ndarray, " n"] | None = None,
) -> Estimate | None:
    """Return the mean difference ``a − b`` of a field over the same prompts; its interval accounts for their clusters.

    Args:
        a, b: The conditions.
        name: The name of a field.
        level: The level of the interval, which is that of :func:`lens_steer.stats.differences.paired_difference`.
        seed: The seed of the bootstrap.
        among: For each prompt of the field whether it counts; None counts them all.

    Returns:
        The difference; None if no prompt that counts has a value under both conditions.

    >>> row = {"side": "positive", "broken": 0, "surprise_ref": 1.0}
    >>> one, two = (Measured.of([{**row, "right": k}] * 4, "SS", 150.0) for k in (1, 0))
    >>> paired(one, two, "positive_right").value, paired(one, two, "capable")
    (1.0, None)
    """
    one, two = (getattr(m, name).astype(float) for m in (a, b))
    kept = ~(np.isnan(one) | np.isnan(two)) & (True if among is None else among)
    if not kept.any():
        return None
    return paired_difference(one[kept], two[kept], level=level, seed=seed, clusters=a.clusters_at(name, kept))


def _parts(estimate: Estimate | None) -> tuple[float | None, float | None, float | None, int]:
    return (None, None, None, 0) if estimate is None else (estimate.value, estimate.low, estimate.high, estimate.n)
