"""The interval of a method's difference from the mean of a control's draws, over prompts and over draws."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from lens_steer.errors import LensSteerError
from lens_steer.stats.clusters import Clusters
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import clustered_mean
from lens_steer.stats.rates import clustered_rate


def less_mean_of_draws(
    own: Float[np.ndarray, " n"],
    draws: Float[np.ndarray, "n_draws n"],
    clusters: Clusters | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Return the method less the mean of the draws on the same prompts, with an interval over prompts and over draws.

    For outcomes that are 0 or 1 both rates have Wilson's interval, that of the draws at the mean of their rates, with
    the effective number of prompts where these share clusters. The distances from the rates to the ends of their
    intervals are joined as the root of the sum of their squares (the method of variance estimates recovery, MOVER). No
    covariance is taken off, although the prompts are the same: this is the cautious end. For all other values the
    interval over prompts is a bootstrap of the paired differences.

    What the draws differ by is joined in the same way, ``t · s / √n_draws`` with Student's t at the level. On each side
    ``s²`` is twice the mean square of the deviations on that side alone. A single draw that does badly then widens
    nothing on the side on which the method is compared with draws that do well. With the standard deviation it would,
    so that the lower end could rise where the control is made better.

    Args:
        own: The value of each prompt under the method.
        draws: The values of the same prompts under each draw.
        clusters: The name of each prompt's cluster; None for a prompt that is a cluster alone, or instead of all names.
        level: The level of the interval.
        seed: The seed of the bootstrap.

    Returns:
        The difference with its interval, which is not bounded for a single draw, because one says nothing of others.

    Raises:
        LensSteerError: If there are no draws or no prompts.

    Source: Zou and Donner (2008), Statistics in Medicine 27, 1693–1702 (MOVER); Wilson (1927).

    >>> some = np.repeat([[1.0, 0.0]], [8, 56], axis=1)[0]
    >>> print(f"{less_mean_of_draws(some, np.zeros((19, 64))):.2f}")
    0.12 [0.04, 0.23]
    """
    if not len(draws) or not len(own):
        raise LensSteerError(f"draws={draws.shape}: give at least one draw and one prompt, as (draws, prompts)")
    mean = draws.mean(axis=0)
    if np.isin(own, (0, 1)).all() and np.isin(draws, (0, 1)).all():
        one, two = (clustered_rate(x, clusters, level=level) for x in (own, mean))
        value = one.value - two.value
        below = math.hypot(one.value - one.low, two.high - two.value)
        above = math.hypot(one.high - one.value, two.value - two.low)
        ends = (-1.0, 1.0)
    else:
        paired = clustered_mean(own - mean, clusters, seed=seed, level=level)
        value, below, above = paired.value, paired.value - paired.low, paired.high - paired.value
        ends = (-math.inf, math.inf)
    over, under = _spread(draws.mean(axis=1), level)
    low, high = value - math.hypot(below, over), value + math.hypot(above, under)
    return Estimate(value, max(ends[0], low), min(ends[1], high), len(own))


def _spread(values: Float[np.ndarray, " n_draws"], level: float) -> tuple[float, float]:
    """Return how far the mean of the draws may lie above and below, by what the draws differ by."""
    n = len(values)
    if n == 1:
        return math.inf, math.inf
    from scipy.stats import t

    reach = float(t.ppf((1 + level) / 2, n - 1)) / math.sqrt(n)
    apart = values - values.mean()
    over, under = (math.sqrt(2 * float((np.maximum(side, 0.0) ** 2).sum()) / (n - 1)) for side in (apart, -apart))
    return reach * over, reach * under
