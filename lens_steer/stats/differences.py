"""Intervals of differences between two conditions on the same units."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from lens_steer.stats.clusters import Clusters, effective_size
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import clustered_mean
from lens_steer.stats.rates import score_interval


def paired_difference(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    *,
    level: float = 0.95,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> Estimate:
    """Return the mean of ``first − second`` over the same units, with an interval at any level.

    For outcomes that are 0 or 1 it is Newcombe's score interval for paired rates. Its width does not vanish if all
    units agree, and it holds in the far tails, which a joint level over many comparisons needs. For all other values it
    is a percentile bootstrap with enough resamples for its tails.

    Where units share clusters, Newcombe's interval is that of the effective number of units
    (:func:`lens_steer.stats.clusters.effective_size` of the differences), and the bootstrap draws whole clusters.

    The package has its own implementation because SciPy has no such interval, and statsmodels has Newcombe's interval
    only for independent rates.

    Source: Newcombe (1998), Statistics in Medicine 17, 2635–2650, method 10.

    Args:
        first, second: The values of the same units under two conditions.
        level: The level of the interval.
        seed: The seed of the bootstrap.
        clusters: The name of each unit's cluster; None for a unit that is a cluster alone, or instead of all names.

    Raises:
        ValueError: If there are no units, or if the numbers of units or clusters differ.

    >>> print(paired_difference(np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0, 1.0])))
    0.000 [-0.427, 0.427] (n = 4)
    """
    if not len(first) or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values: the same units are needed in both, at least one")
    if not np.isin(first, (0, 1)).all() or not np.isin(second, (0, 1)).all():
        return clustered_mean(first - second, clusters, seed=seed, level=level)
    n = len(first)
    trials = n if clusters is None else effective_size(first - second, clusters, level=level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    one, two = (score_interval(int(x.sum()) / n, trials, z, n) for x in (first, second))
    both, neither = float((first * second).sum()), float(((1 - first) * (1 - second)).sum())
    only_first, only_second = float(first.sum()) - both, float(second.sum()) - both
    # The φ coefficient of the 2 × 2 table of the pairs, with a continuity correction if it is positive. It corrects the
    # widths of the two single intervals for the correlation of the pairs. The counts are those of all n pairs; in terms
    # of the effective number of pairs the correction is half of that number.
    product = first.sum() * (n - first.sum()) * second.sum() * (n - second.sum())
    agreement = both * neither - only_first * only_second
    corrected = max(agreement - n * n / (2 * trials), 0.0) if agreement > 0 else agreement
    phi = corrected / math.sqrt(product) if product else 0.0
    down_one, up_one = one.value - one.low, one.high - one.value
    down_two, up_two = two.value - two.low, two.high - two.value
    difference = one.value - two.value
    below = math.sqrt(max(0.0, down_one**2 - 2 * phi * down_one * up_two + up_two**2))
    above = math.sqrt(max(0.0, up_one**2 - 2 * phi * up_one * down_two + down_two**2))
    return Estimate(difference, max(-1.0, difference - below), min(1.0, difference + above), n)
