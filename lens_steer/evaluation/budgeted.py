"""An angle under a budget of side effects: the one of the largest effect among those that keep to it.

The studies that compare steering at equal cost choose by this rule. The *effect* is the mean fall of the refusal score
of harmful prompts, the *cost* the mean ``KL(unsteered ‖ steered)`` along the unsteered model's own answers to harmless
prompts, in nats a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lens_steer.errors import LensSteerError
from lens_steer.stats.ties import middle_of_best

ANGLES = tuple(float(a) for a in range(30, 360, 30))  # degrees
BUDGET = 0.1  # nats a token, fixed before any result


def check_angles(values: Sequence[float], budget: float) -> tuple[float, ...]:
    """Return the angles in order, between 0 and 360 degrees, each once and without 0.

    Raises:
        LensSteerError: If none is left, or if the budget is not above 0.

    >>> check_angles([180.0, -90.0, 0.0, 270.0], 0.1)
    (180.0, 270.0)
    """
    if not budget > 0:
        raise LensSteerError(f"budget={budget:g}: give a divergence above 0, in nats a token")
    if not (found := sorted({float(v) % 360 for v in values} - {0.0})):
        raise LensSteerError(f"values={list(values)!r}: give an angle at which something is turned")
    return tuple(found)


def within(effect: Float[np.ndarray, " values"], cost: Float[np.ndarray, " values"], budget: float) -> int | None:
    """Return the index of the largest effect among the values whose cost is at most a budget; of equals the middle one.

    None where no value keeps to the budget, or where none of those that do has an effect above 0.

    >>> effect, cost = np.array([1.0, 4.0]), np.array([0.1, 0.4])
    >>> within(effect, cost, 0.2), within(effect, cost, 0.5), within(effect, cost, 0.05)
    (0, 1, None)
    """
    allowed = [i for i in range(len(effect)) if cost[i] <= budget and effect[i] > 0]
    return middle_of_best(allowed, [float(effect[i]) for i in allowed])[0] if allowed else None
