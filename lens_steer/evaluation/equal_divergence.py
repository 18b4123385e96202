"""Comparison at equal divergence: the value at which each method moves the model by the same amount on harmless
prompts, in place of equal coefficients.

The amount is the mean over tokens and prompts of ``KL(unsteered ‖ steered)`` along the unsteered model's own answers to
harmless prompts. Where a method has an identity (an angle or a coefficient at which it does nothing) the amount starts
at 0 there, and every target up to its largest is met. SAS has none: at any angle it sets the phase of every activation,
so its divergence has a floor, and no target below it can be met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import has_angle
from lens_steer.evaluation.sweeps import Grid
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.steer.method_table import METHODS

TOLERANCE = 0.05  # of the target, relative
STEPS = 8


@dataclass(frozen=True)
class Curve:
    """Divergence of one grid over its values.

    Attributes:
        grid: whose.
        values: sorted; with those at which the method is the identity.
        kl: nats a token, mean over prompts.
    """

    grid: Grid
    values: tuple[float, ...]
    kl: tuple[float, ...]

    @property
    def floor(self) -> float:
        """The smallest divergence on the grid."""
        return min(self.kl)

    @property
    def top(self) -> float:
        """The largest."""
        return max(self.kl)


@dataclass(frozen=True)
class Match:
    """A value at which a grid has the target's divergence, or why there is none.

    Attributes:
        grid: at that value alone; None without one.
        kl: its divergence.
        reason: why there is none; empty otherwise.
    """

    grid: Grid | None
    kl: float | None
    reason: str


def curve(
    model: Any, grid: Grid, prompts: PromptSet | Sequence[Prompt], responses: Sequence[str], *, engine: str = ENGINE
) -> Curve:
    """Divergence at every value of a grid.

    Raises:
        LensSteerError: a grid without values, or without a plan.
    """
    if grid.build is None or None in grid.values:
        raise LensSteerError(
            f"condition {grid.name!r} has no values: its divergence is one number, and nothing can be matched"
        )
    identity = METHODS[grid.condition].identities if grid.condition in METHODS else ()
    values = sorted({float(v) for v in grid.values if v is not None} | set(identity))
    measured = [v for v in values if v not in identity]
    found = dict(
        zip(
            measured,
            _means(mean_kl_by_value(model, grid.build, measured, prompts, responses, engine=engine)),
            strict=True,
        )
    )
    kl = [found.get(v, 0.0) for v in values]
    if not np.isfinite(kl).all():
        raise LensSteerError(
            f"condition {grid.name!r} has a divergence that is not finite: are all the responses empty?"
        )
    if has_angle(grid.condition) and values[0] == 0 and values[-1] < 360:  # a circle closes
        values, kl = [*values, 360.0], [*kl, kl[0]]
    return Curve(grid, tuple(values), tuple(kl))


def match(
    model: Any,
    measured: Curve,
    target: float,
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    *,
    engine: str = ENGINE,
) -> list[Match]:
    """The values at which the divergence crosses the target, one for each branch of the curve; a single match with a
    reason where there is none.

    Each crossing is sought between two neighbouring values by halving, until within 5 % of the target.

    Raises:
        LensSteerError: a target that is not positive.
    """
    if not target > 0:
        raise LensSteerError(f"target={target!r}: a divergence above 0 is needed")
    if target < measured.floor:
        return [
            Match(
                None,
                None,
                f"divergence is at least {measured.floor:.3g} on the grid: no identity to start from, so "
                f"{target:.3g} cannot be met",
            )
        ]
    if target > measured.top:
        return [
            Match(None, None, f"divergence is at most {measured.top:.3g} on the grid: {target:.3g} is out of reach")
        ]
    found = []
    for left in range(len(measured.values) - 1):
        a, b = measured.kl[left] - target, measured.kl[left + 1] - target
        if a * b < 0 or b == 0:
            found.append(_crossing(model, measured, left, target, prompts, responses, engine))
    return found


def _crossing(
    model: Any,
    measured: Curve,
    left: int,
    target: float,
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    engine: str,
) -> Match:
    low, high = measured.values[left], measured.values[left + 1]
    rising = measured.kl[left] < measured.kl[left + 1]
    value, kl = high, measured.kl[left + 1]
    assert measured.grid.build is not None
    for _ in range(STEPS):
        if abs(kl / target - 1) <= TOLERANCE:
            return Match(measured.grid.at(value), kl, "")
        value = (low + high) / 2
        kl = _means(mean_kl_by_value(model, measured.grid.build, [value], prompts, responses, engine=engine))[0]
        low, high = (value, high) if (kl < target) == rising else (low, value)
    if abs(kl / target - 1) <= TOLERANCE:
        return Match(measured.grid.at(value), kl, "")
    return Match(None, None, f"divergence jumps over {target:.3g} between {low:.4g} and {high:.4g}")


def _means(kl: Float[np.ndarray, "n values"]) -> list[float]:
    return np.nanmean(kl, axis=0).tolist()
