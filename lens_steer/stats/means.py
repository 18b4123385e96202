"""Intervals of means and of any other statistic, by a percentile bootstrap over units or over whole clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from lens_steer.stats.clusters import Clusters, alone, cluster_numbers
from lens_steer.stats.estimates import Estimate


def bootstrap_means(
    values: Float[np.ndarray, "n *features"], *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[Float[np.ndarray, "*features"], Float[np.ndarray, "*features"], Float[np.ndarray, "*features"]]:
    """Return the mean over the first axis (the prompts) with a percentile bootstrap interval for every remaining entry.

    Every feature is resampled with the same prompts, so intervals at several sites of one prompt set are comparable.

    Returns:
        The mean and the lower and upper ends of the interval, each in the shape of the features.

    Raises:
        ValueError: If there are no rows, or if a value is not finite.

    >>> mean, low, high = bootstrap_means(np.array([[1.0], [3.0]]), resamples=100)
    >>> float(mean[0]), bool(low[0] <= 2.0 <= high[0])
    (2.0, True)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape[0] == 0:
        raise ValueError("values has no rows: a mean needs at least one prompt")
    if not np.isfinite(array).all():
        raise ValueError("values holds entries that are not finite: drop or mend them before averaging")
    counts = _resample_counts(array.shape[0], resamples, seed)
    flat = array.reshape(array.shape[0], -1)
    means = counts @ flat / array.shape[0]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    shape = array.shape[1:]
    return flat.mean(axis=0).reshape(shape), low.reshape(shape), high.reshape(shape)


def bootstrap_mean(
    values: Float[np.ndarray, " n"], *, resamples: int | None = None, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Return :func:`bootstrap_means` of a single quantity, as an :class:`~lens_steer.stats.estimates.Estimate`.

    Without a number of resamples it takes 2,000, or as many as put 25 into each tail.
    """
    many = max(2000, round(50 / (1 - level))) if resamples is None else resamples
    mean, low, high = bootstrap_means(values, resamples=many, seed=seed, level=level)
    return Estimate(float(mean), float(low), float(high), len(values))


def clustered_mean(
    values: Float[np.ndarray, " n"], clusters: Clusters | None, *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Return the mean of units that come in clusters, with a percentile bootstrap interval that draws whole clusters.

    If every unit is a cluster alone, this is :func:`bootstrap_mean`. ``n`` is the number of units.

    Args:
        values: The values of the units.
        clusters: The name of each unit's cluster; None for a unit that is a cluster alone, or instead of all names.
        seed: The seed of the resamples.
        level: The level of the interval.

    Raises:
        ValueError: If there are no units, if the numbers of units and clusters differ, or if a value is not finite.

    >>> print(clustered_mean(np.array([1.0, 1.0, 3.0]), ["a", "a", "b"]))
    1.667 [1.000, 3.000] (n = 3)
    """
    if clusters is not None and len(clusters) != len(values):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters: one cluster a value is needed")
    if clusters is None or alone(clusters) or not np.isfinite(values).all():
        return bootstrap_mean(values, seed=seed, level=level)
    tail = (1 - level) / 2
    many = max(2000, round(50 / (1 - level)))
    low, high = _over_groups(values, cluster_numbers(clusters), many, seed, (tail, 1 - tail))
    return Estimate(float(np.mean(values)), low, high, len(values))


def grouped_mean(
    values: Float[np.ndarray, " n"], groups: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Return the mean over the rows, with a percentile bootstrap interval that draws whole groups.

    Raises:
        ValueError: If there are no rows.

    >>> print(grouped_mean(np.array([1.0, 1.0, 3.0]), ["a", "a", "b"], resamples=200))
    1.667 [1.000, 3.000] (n = 2)
    """
    if not len(values):
        raise ValueError("values has no rows: a mean needs at least one")
    names, of = np.unique(np.asarray(groups), return_inverse=True)
    low, high = _over_groups(values, of, resamples, seed, (0.025, 0.975))
    return Estimate(float(np.mean(values)), low, high, len(names))


def _over_groups(
    values: Float[np.ndarray, " n"], of: Int[np.ndarray, " n"], resamples: int, seed: int, tails: tuple[float, float]
) -> tuple[float, float]:
    """Return two quantiles of the mean over resamples of whole groups; ``of`` has the number of each row's group."""
    sums, sizes = np.bincount(of, weights=values), np.bincount(of)
    counts = _resample_counts(len(sizes), resamples, seed)
    low, high = np.quantile((counts @ sums) / (counts @ sizes), tails)
    return float(low), float(high)


def bootstrap(
    statistic: Callable[[Int[np.ndarray, " n"]], float], n: int, *, resamples: int = 500, seed: int = 0
) -> Estimate:
    """Return a percentile bootstrap interval of any statistic of row indices.

    The reported value is ``statistic(arange(n))``.

    Raises:
        ValueError: If ``n`` is not positive.
    """
    if n <= 0:
        raise ValueError(f"n={n}: a bootstrap needs at least one row")
    rng = np.random.default_rng(seed)
    draws = [statistic(rng.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(statistic(np.arange(n))), float(low), float(high), n)


def middle(
    values: Float[np.ndarray, " n"], *, level: float = 0.95
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return the median of the values that are not NaN between the ends of their middle; None where there are none.

    Args:
        values: The values.
        level: The share of the values between the ends; 0.95 gives the 2.5 % and 97.5 % quantiles.

    >>> middle(np.array([1.0, np.nan, 3.0, 2.0]))
    (1.05, 2.0, 2.95)
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return None, None, None
    tail = round((1 - level) / 2, 9)
    low, median, high = np.quantile(known, [tail, 0.5, 1 - tail]).tolist()
    return low, median, high


def _resample_counts(n: int, resamples: int, seed: int) -> Float[np.ndarray, "resamples n"]:
    """Draw how often each row occurs in each resample; the counts are multinomial, with one row per resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
