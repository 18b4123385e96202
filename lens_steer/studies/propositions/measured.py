"""What the experiments measure of one condition on the report split, as values that are paired by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lens_steer._io.rowstore import Row
from lens_steer.evaluation.sweeps import CAPABILITY, NEGATIVE, POSITIVE
from lens_steer.stats import Estimate, bootstrap_mean, wilson

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
        )

    def row(self) -> dict[str, Any]:
        """Return rates with Wilson intervals, and the perplexity with a bootstrap interval over prompts."""
        row: dict[str, Any] = {"condition": self.condition, "angle": self.angle, "at_nominal": self.at_nominal}
        for name in RATES:
            hits = getattr(self, name)
            rate = wilson(int(hits.sum()), len(hits)) if len(hits) else None
            for end, value in zip(("", "_low", "_high", "_n"), _parts(rate), strict=True):
                row[name + end] = value
        said = self.surprise[~np.isnan(self.surprise)]
        surprise = bootstrap_mean(said) if len(said) else None
        for end, value in zip(("", "_low", "_high", "_n"), _parts(surprise), strict=True):
            row[f"perplexity{end}"] = value if end == "_n" or value is None else float(np.exp(value))
        return row | {"tied": self.tied}


def _parts(estimate: Estimate | None) -> tuple[float | None, float | None, float | None, int]:
    return (None, None, None, 0) if estimate is None else (estimate.value, estimate.low, estimate.high, estimate.n)
