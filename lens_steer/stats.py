"""Intervals (Wilson for rates, a percentile bootstrap over prompts or clusters for means), and the rule for ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from lens_steer._clusters import Clusters, alone, cluster_numbers, effective_size
from lens_steer._display import Shown

T = TypeVar("T")
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate(Shown, view="estimates"):
    """A value with its 95 % interval.

    Attributes:
        value: The estimate.
        low, high: The ends of the interval.
        n: The number of units; of groups where only they are independent.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self:.3f} (n = {self.n})"

    def __float__(self) -> float:
        return float(self.value)

    def __format__(self, spec: str) -> str:
        """Format value and interval with a float format; without a format, as ``str`` does.

        >>> f"{wilson(9, 10):.0%}"
        '90% [60%, 98%]'
        """
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]" if spec else str(self)


def percent(
    share: float | Estimate | None,
    low: float | None = None,
    high: float | None = None,
    *,
    form: str = ".0f",
    unit: str = "",
) -> str:
    """Write a share in percent, with its interval if it has one.

    Args:
        share: A share between 0 and 1, or an estimate of one; None is written as a dash.
        low: The lower end of the interval, as a share. None: no interval is written.
        high: The upper end of the interval, as a share. None: no interval is written.
        form: The format of each number.
        unit: The text after the value, such as " %".

    >>> percent(Estimate(0.5, 0.25, 0.75, 8)), percent(0.125, form=".1f", unit=" %"), percent(None)
    ('50 [25, 75]', '12.5 %', '—')
    """
    if isinstance(share, Estimate):
        share, low, high = share.value, share.low, share.high
    if share is None:
        return "—"
    interval = "" if low is None or high is None else f" [{100 * low:{form}}, {100 * high:{form}}]"
    return f"{100 * share:{form}}{unit}{interval}"


def columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Return the three columns of an estimate in a table: its value and both ends of its interval.

    >>> columns("rate", Estimate(0.5, 0.25, 0.75, 8))
    {'rate': 0.5, 'rate_low': 0.25, 'rate_high': 0.75}
    """
    e = estimate
    return {name: e and e.value, f"{name}_low": e and e.low, f"{name}_high": e and e.high}


def points(difference: Estimate) -> str:
    """Write a difference of shares in signed percentage points, in bold (Markdown) if its interval excludes 0.

    >>> points(Estimate(0.5, 0.25, 0.75, 8)), points(Estimate(0.5, -0.25, 0.75, 8))
    ('**+50 [+25, +75]**', '+50 [-25, +75]')
    """
    text = percent(difference, form="+.0f")
    return f"**{text}**" if difference.low > 0 or difference.high < 0 else text


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
    return _wilson(successes / n, n, z, n)


def _wilson(p: float, trials: float | int, z: float, n: int) -> Estimate:
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

    The effective number is that of :func:`lens_steer._clusters.effective_size`. If every unit is a cluster alone, this
    is :func:`wilson`. ``n`` is the number of units.

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
    return _wilson(float(values.sum()) / n, trials, z, n)


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
    """Return :func:`bootstrap_means` of a single quantity, as an :class:`Estimate`.

    Without a number of resamples it takes 2,000, or as many as put 25 into each tail.
    """
    many = max(2000, round(50 / (1 - level))) if resamples is None else resamples
    mean, low, high = bootstrap_means(values, resamples=many, seed=seed, level=level)
    return Estimate(float(mean), float(low), float(high), len(values))


def middle(values: Float[np.ndarray, " n"]) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return the 2.5 %, 50 % and 97.5 % quantiles of the values that are not NaN; None where there are none.

    >>> middle(np.array([1.0, np.nan, 3.0, 2.0]))
    (1.05, 2.0, 2.95)
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return None, None, None
    low, median, high = np.quantile(known, [0.025, 0.5, 0.975]).tolist()
    return low, median, high


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
    (:func:`lens_steer._clusters.effective_size` of the differences), and the bootstrap draws whole clusters.

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
    one, two = (_wilson(int(x.sum()) / n, trials, z, n) for x in (first, second))
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


def middle_of_best(items: Sequence[T], scores: Sequence[Any]) -> tuple[T, int]:
    """Return the item that represents those with the highest score, and the number of items with this score.

    Among equals it is the middle one in their order. This is the middle of a plateau, and not the identity at its edge,
    where nothing has an effect. Every choice of an angle, a coefficient, a layer or a setting on the select
    split breaks ties by this rule. What is fitted has rules of its own: of equal penalties a probe takes the strongest,
    and of equal candidates the first site gives the selected direction.

    Args:
        items: The items, in an order in which neighbours are adjacent.
        scores: One score per item; scores must be comparable with each other.

    Raises:
        ValueError: If there are no items, or if the numbers of items and scores differ.

    >>> middle_of_best([0, 30, 60, 90, 120], [1, 5, 5, 5, 2])
    (60, 3)
    """
    if not len(items) or len(items) != len(scores):
        raise ValueError(f"{len(items)} items and {len(scores)} scores: one score an item is needed, at least one")
    best = max(scores)
    equals = [item for item, score in zip(items, scores, strict=True) if score == best]
    return equals[len(equals) // 2], len(equals)


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
    return _wilson(float(np.mean(hits)), len(set(groups)), Z_95, len(set(groups)))


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


def _resample_counts(n: int, resamples: int, seed: int) -> Float[np.ndarray, "resamples n"]:
    """Draw how often each row occurs in each resample; the counts are multinomial, with one row per resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
