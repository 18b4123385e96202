"""Comparison at equal divergence: each method at the value at which it changes the model by the same amount.

This replaces a comparison at equal coefficients. The amount is the mean over tokens and prompts of
``KL(unsteered ‖ steered)`` along the unsteered model's own answers to harmless prompts. For a method with an identity
(an angle or a coefficient at which it does nothing), the amount starts at 0 there, and every target up to its maximum
can be met. SAS has no identity: at any angle it sets the phase of every activation. Its divergence therefore has a
minimum, and no target below that minimum can be met.
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
from lens_steer.evaluation.grids import Grid
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.steer.method_table import METHODS

TOLERANCE = 0.05  # relative to the target
STEPS = 8


@dataclass(frozen=True)
class Curve:
    """The divergence of one grid over its values.

    Attributes:
        grid: The grid.
        values: The values, sorted, including those at which the method is the identity; around a circle, the first
            one stands at the end once more, 360 degrees on.
        kl: The divergence at each value in nats per token, the mean over prompts.
    """

    grid: Grid
    values: tuple[float, ...]
    kl: tuple[float, ...]

    @property
    def floor(self) -> float:
        """Return the smallest divergence on the grid."""
        return min(self.kl)

    @property
    def top(self) -> float:
        """Return the largest divergence on the grid."""
        return max(self.kl)


@dataclass(frozen=True)
class Match:
    """A value at which a grid has the target's divergence, or the reason why there is none.

    Attributes:
        grid: The grid at only that value; None where there is none.
        kl: The divergence at that value; None where there is none.
        reason: The reason why there is none; empty otherwise.
        other: The nearest value that was measured on the other side of the crossing, and its divergence; None where
            there is no match.
    """

    grid: Grid | None
    kl: float | None
    reason: str
    other: tuple[float, float] | None = None


def curve(
    model: Any, grid: Grid, prompts: PromptSet | Sequence[Prompt], responses: Sequence[str], *, engine: str = ENGINE
) -> Curve:
    """Measure the divergence at every value of a grid.

    Raises:
        LensSteerError: If the grid has no values or no plan, or a divergence is not finite.
    """
    if grid.build is None or None in grid.values:
        raise LensSteerError(
            f"condition {grid.name!r} has no values: its divergence is one number, and nothing can be matched"
        )
    identity = METHODS[grid.method].identities if grid.method in METHODS else ()
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
    if grid.turns and values[-1] < values[0] + 360:  # the circle is closed
        values, kl = [*values, values[0] + 360], [*kl, kl[0]]
    return Curve(grid, tuple(values), tuple(kl))


def match(
    model: Any,
    measured: Curve,
    target: float,
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    *,
    engine: str = ENGINE,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
) -> list[Match]:
    """Return the values at which the divergence crosses the target, one for each crossing of the curve.

    If there is none, the result is a single match with a reason. Each crossing is searched between two neighbouring
    values by bisection, until the divergence is within the tolerance of the target, in at most so many steps. If it is
    not within the tolerance by then, the match has a reason and no value.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        measured: The curve of the grid, measured on the same prompts and responses.
        target: The divergence in nats a token.
        prompts: The prompts.
        responses: The unsteered model's answer to each prompt.
        engine: The engine that measures.
        tolerance: The largest difference from the target, as a share of it.
        steps: The largest number of bisections of each crossing.

    Raises:
        LensSteerError: If the target is not positive.
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
            found.append(_crossing(model, measured, left, target, prompts, responses, engine, tolerance, steps))
    return found


def _crossing(
    model: Any,
    measured: Curve,
    left: int,
    target: float,
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    engine: str,
    tolerance: float,
    steps: int,
) -> Match:
    low, high = zip(measured.values[left : left + 2], measured.kl[left : left + 2], strict=True)
    rising = low[1] < high[1]
    assert measured.grid.build is not None
    at = high
    for step in range(steps + 1):
        if abs(at[1] / target - 1) <= tolerance:
            value = at[0] - 360 if measured.grid.turns and at[0] > 360 else at[0]
            return Match(measured.grid.at(value), at[1], "", low if at == high else high)
        if step == steps:
            break
        value = (low[0] + high[0]) / 2
        kl = _means(mean_kl_by_value(model, measured.grid.build, [value], prompts, responses, engine=engine))[0]
        at = (value, kl)
        low, high = (at, high) if (kl < target) == rising else (low, at)
    return Match(None, None, f"divergence jumps over {target:.3g} between {low[0]:.4g} and {high[0]:.4g}")


def _means(kl: Float[np.ndarray, "n values"]) -> list[float]:
    return np.nanmean(kl, axis=0).tolist()
