"""The number of independent units that are worth as much as units in clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

Clusters = Sequence[str | None]  # the name of each unit's cluster; None for a unit that is a cluster alone


def cluster_numbers(clusters: Clusters) -> Int[np.ndarray, " n"]:
    """Return the number of each unit's cluster, from 0 in the order of the units.

    >>> cluster_numbers(["a", None, "a", None]).tolist()
    [0, 1, 0, 2]
    """
    names: dict[object, int] = {}
    return np.array(
        [names.setdefault(("alone", i) if c is None else c, len(names)) for i, c in enumerate(clusters)], dtype=np.int64
    )


def alone(clusters: Clusters | None) -> bool:
    """Return True if every unit is a cluster alone, which None stands for.

    >>> alone(None), alone([None, None, "a"]), alone(["a", "b", "a"])
    (True, True, False)
    """
    named = [c for c in clusters or () if c is not None]
    return len(set(named)) == len(named)


def effective_size(values: Float[np.ndarray, " n"], clusters: Clusters, *, level: float = 0.95) -> float:
    """Return the number of independent units whose mean would be as precise as that of these units in clusters.

    With the cluster totals ``e_g`` of ``x − x̄`` and the sizes ``m_g`` it is
    ``n / deff · (t(n − 1) / t(G − 1))²``, at most ``n`` and at least 1. The design effect
    ``deff = G / (G − 1) · Σ e_g² / Σ (x − x̄)²`` is the variance of the linearised mean between clusters over that of
    a simple random sample. ``t`` is the quantile of Student's t at the level, which allows for a variance that comes
    from few clusters. ``G = n² / Σ m_g²`` is the effective number of clusters; for clusters of one size it is their
    number.

    Values that are all equal say nothing about the correlation within a cluster. Then it is taken to be perfect, and
    the size is ``G``: 0 of 32 in 8 clusters of 4 counts as 0 of 8. This is the cautious end; the other convention
    (``deff = 1``) would count it as 0 of 32, whatever the clusters.

    Args:
        values: The values of the units, such as 0 and 1.
        clusters: The name of each unit's cluster; None for a unit that is a cluster alone.
        level: The level of the interval that is made from it.

    Source: Kish (1965), Survey Sampling, sections 5.4 and 8.2 (deff) and 11.2C (sizes); Korn and Graubard (1998),
    Survey Methodology 24, 193–201 (effective size with degrees of freedom, truncated at n).

    Raises:
        ValueError: If there are no values, or if the numbers of values and clusters differ.

    >>> hits = np.repeat([1.0, 0.0], 16)
    >>> by_four = [str(i // 4) for i in range(32)]
    >>> [round(effective_size(x, by_four), 1) for x in (hits, np.tile([1.0, 0.0], 16), np.zeros(32))]
    [5.2, 32.0, 8.0]
    >>> effective_size(hits, [None] * 32)
    32.0
    """
    n = len(values)
    if not n or n != len(clusters):
        raise ValueError(f"{n} values and {len(clusters)} clusters: one cluster a value is needed, at least one")
    of = cluster_numbers(clusters)
    sizes = np.bincount(of)
    if sizes.max() == 1:
        return float(n)
    worth = n * n / float((sizes.astype(np.float64) ** 2).sum())
    if len(sizes) == 1 or np.ptp(values) == 0:
        return worth
    from scipy.stats import t

    centred = np.asarray(values, dtype=np.float64) - np.mean(values)
    between = float((np.bincount(of, weights=centred) ** 2).sum()) * worth / (worth - 1)
    if between == 0:
        return float(n)
    tail = (1 + level) / 2
    ratio = float(t.ppf(tail, n - 1) / t.ppf(tail, worth - 1))
    return min(float(n), max(1.0, n * float((centred**2).sum()) / between * ratio**2))
