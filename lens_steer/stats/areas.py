"""The area under a ROC curve with its interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import Z_95


def auroc(positive: Float[np.ndarray, " m"], negative: Float[np.ndarray, " n"], z: float = Z_95) -> Estimate:
    """Return the area under the ROC curve, with Newcombe's interval.

    The area is the probability that a positive score is above a negative one, where ties count half. The ends θ of the
    interval solve ``|θ − θ̂| = z √V(θ)`` with ``V(θ) = θ(1−θ)/(mn) · [1 + (n* − 1)((1−θ)/(2−θ) + θ/(1+θ))]``,
    ``n* = (m + n)/2``. The variance is taken at θ and not at θ̂, so the interval has a width even if the classes are
    fully separated, θ̂ = 1.

    Returns:
        The area, its interval, and the number m + n of scores.

    Source: Newcombe (2006), Statistics in Medicine 25, 559–573, method 5.

    Raises:
        ValueError: If a class has no score, or if a score is not finite.

    >>> print(auroc(np.array([2.0, 3.0, 4.0]), np.array([0.0, 1.0, 2.0])))
    0.944 [0.448, 0.997] (n = 6)
    """
    first, second = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    m, n = len(first), len(second)
    if not m or not n:
        raise ValueError(f"{m} positive and {n} negative scores: an area needs at least one of each")
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise ValueError("scores hold entries that are not finite: drop or mend them first")
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, side="left") + np.searchsorted(ordered, first, side="right")
    value = int(below.sum()) / (2 * m * n)

    def inside(theta: float) -> bool:
        pairs = 1 + ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (theta - value) ** 2 <= z * z * theta * (1 - theta) / (m * n) * pairs

    return Estimate(value, _edge(inside, 0.0, value), _edge(inside, 1.0, value), m + n)


def _edge(inside: Callable[[float], bool], outer: float, inner: float) -> float:
    """Find by bisection where an interval around ``inner`` ends on the way to ``outer``."""
    for _ in range(60):
        middle = (outer + inner) / 2
        outer, inner = (outer, middle) if inside(middle) else (middle, inner)
    return outer
