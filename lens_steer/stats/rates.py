"""Intervals of rates: Wilson's, also for units that share clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float

from lens_steer.stats.clusters import Clusters, alone, effective_size
from lens_steer.stats.estimates import Estimate

Z_95 = 1.959963984540054


def wilson(successes: int, n: int, z: float = Z_95) -> Estimate:
    """Return the Wilson score interval of a rate.

    ``(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)`` with ``p = successes / n``.

    Source: Wilson (1927), Journal of the American Statistical Association 22.

    Raises:
        ValueError: If ``n`` is not positive, or if ``successes`` lies outside 0 … n.

    >>> print(wilson(9, 10))
    0.900 [0.596, 0.982] (n = 10)
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n}: a rate needs n > 0 and 0 <= successes <= n")
    return score_interval(successes / n, n, z, n)


def score_interval(p: float, trials: float | int, z: float, n: int) -> Estimate:
    """Return the Wilson interval of a share p of some trials, as an estimate from n units.

    Neither the trials nor their share ``p`` need be whole numbers.
    """
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return Estimate(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), n)


def clustered_rate(
    hits: Sequence[bool | int] | Bool[np.ndarray, " n"] | Float[np.ndarray, " n"],
    clusters: Clusters | None,
    *,
    level: float = 0.95,
) -> Estimate:
    """Return a share of units that come in clusters, with the Wilson interval of their effective number.

    The effective number is that of :func:`lens_steer.stats.clusters.effective_size`. If every unit is a cluster
    alone, this is :func:`wilson`. ``n`` is the number of units.

    A unit may also have a share of its own, such as that of the trials in which it counts. The mean of such shares
    varies no more than a rate of the same value does, so the interval is then wide enough.

    Args:
        hits: True or 1 for each unit that counts, or a share between 0 and 1.
        clusters: The name of each unit's cluster; None for a unit that is a cluster alone, or instead of all names.
        level: The level of the interval.

    Raises:
        ValueError: If there are no units, if the numbers of units and clusters differ, or if a share lies outside
            0 … 1.

    >>> hits, pairs = [1] * 8 + [0] * 8, [str(i // 4) for i in range(16)]
    >>> f"{wilson(8, 16):.2f}", f"{clustered_rate(hits, pairs):.2f}"
    ('0.50 [0.28, 0.72]', '0.50 [0.07, 0.93]')
    """
    n = len(hits)
    if clusters is not None and len(clusters) != n:
        raise ValueError(f"{n} hits and {len(clusters)} clusters: one cluster a hit is needed")
    values = np.asarray(hits, dtype=np.float64)
    if not n or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"successes={values.sum():g}, n={n}: a rate needs n > 0, and hits between 0 and 1")
    z = Z_95 if level == 0.95 else NormalDist().inv_cdf((1 + level) / 2)
    trials = n if clusters is None or alone(clusters) else effective_size(values, clusters, level=level)
    return score_interval(float(values.sum()) / n, trials, z, n)


def grouped_rate(hits: Bool[np.ndarray, " n"], groups: Sequence[str]) -> Estimate:
    """Return a share of rows, with the Wilson interval of as many trials as there are groups.

    The groups count as trials because the rows of one group may all fail together.

    Raises:
        ValueError: If there are no rows.

    >>> print(grouped_rate(np.array([True, True, True, False]), ["a", "a", "b", "b"]))
    0.750 [0.198, 0.973] (n = 2)
    """
    if not len(hits):
        raise ValueError("hits has no rows: a rate needs at least one")
    return score_interval(float(np.mean(hits)), len(set(groups)), Z_95, len(set(groups)))
