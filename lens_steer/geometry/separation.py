"""Separation of two classes along a direction, at every site: Cohen's d and the area under the ROC curve.

Both are computed for all prompts once, or for every row of bootstrap counts. A row says how often each prompt is in a
resample. Both measures of all rows are computed from the projections and the counts; no resample is copied.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TOO_ALIKE = 1e-6  # a pooled deviation below this share of the largest projection is rounding, not spread


def weighted_means(
    counts: Float[Tensor, "rows n"], values: Float[Tensor, "n n_sites"]
) -> Float[Tensor, "rows n_sites"]:
    """Return the mean of every row's prompts at every site, ``C x / Σ C``, in float64.

    >>> weighted_means(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0], [3.0]])).tolist()
    [[1.0], [2.0]]
    """
    weights = counts.double()
    return weights @ values.double() / weights.sum(dim=1, keepdim=True)


def cohens_d(
    positive: Float[Tensor, "n_positive n_sites"],
    negative: Float[Tensor, "n_negative n_sites"],
    counts: tuple[Float[Tensor, "rows n_positive"], Float[Tensor, "rows n_negative"]] | None = None,
) -> Float[Tensor, "*rows n_sites"]:
    """Return Cohen's d of the projections: the difference of the class means in pooled standard deviations.

    ``d = (x̄ − ȳ)/s`` with ``s² = (Σ(x − x̄)² + Σ(y − ȳ)²)/(m + n − 2)``, where x are the projections of the positive
    class. It is negative if the positive mean is the lower one. It is NaN if there is no spread to divide by: the
    projections within each class are equal up to rounding (1e-6 of the largest), or there are fewer than three prompts
    in all.

    Args:
        positive, negative: The projections, one for each prompt and site.
        counts: The counts of resamples. None counts every prompt once, and the result has no ``rows``.

    Source: Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, section 2.2, with the pooled sample
    deviation.

    >>> cohens_d(torch.tensor([[3.0], [5.0]]), torch.tensor([[0.0], [2.0]])).round(decimals=3).tolist()
    [2.121]
    """
    if counts is None:
        return cohens_d(positive, negative, _once(positive, negative))[0]
    squares, means, n = torch.zeros((), dtype=torch.float64), [], torch.zeros((), dtype=torch.float64)
    for values, drawn in zip((positive, negative), counts, strict=True):
        x, weights = values.double(), drawn.double()
        total, centre = weights.sum(dim=1, keepdim=True), x.mean(dim=0)
        shift = weights @ (x - centre) / total  # relative to the class mean, so that no large squares are subtracted
        squares = squares + (weights @ (x - centre) ** 2 - total * shift**2).clamp_min(0)
        means.append(centre + shift)
        n = n + total
    spread = (squares / (n - 2)).sqrt()
    scale = torch.maximum(positive.abs().amax(dim=0), negative.abs().amax(dim=0)).double()
    return torch.where((n > 2) & (spread > TOO_ALIKE * scale), (means[0] - means[1]) / spread, torch.nan)


def areas(
    positive: Float[Tensor, "n_positive n_sites"],
    negative: Float[Tensor, "n_negative n_sites"],
    counts: tuple[Float[Tensor, "rows n_positive"], Float[Tensor, "rows n_negative"]] | None = None,
) -> Float[Tensor, "*rows n_sites"]:
    """Return the area under the ROC curve: the probability that a positive prompt projects higher than a negative one.

    ``Σᵢⱼ cᵢ dⱼ ([xᵢ > yⱼ] + ½[xᵢ = yⱼ]) / (Σc Σd)`` over counts c and d: ties count half. It is below one half if the
    negative class lies higher. The negative projections of a site are sorted once, and cumulative sums of their counts
    give the area of every row. :func:`lens_steer.stats.areas.auroc` also gives an interval.

    Args:
        positive, negative, counts: See :func:`cohens_d`.

    >>> areas(torch.tensor([[2.0], [3.0], [4.0]]), torch.tensor([[0.0], [1.0], [2.0]])).round(decimals=3).tolist()
    [0.944]
    """
    if counts is None:
        return areas(positive, negative, _once(positive, negative))[0]
    first, second = (c.double() for c in counts)
    found = torch.empty(len(first), positive.shape[1], dtype=torch.float64)
    for site in range(positive.shape[1]):
        x, (y, order) = positive[:, site].contiguous(), negative[:, site].sort()
        # For each positive projection: the counts of the negative ones below it, plus those below or equal to it. This
        # counts a tie once and every other one twice, so half of it counts ties half.
        below = torch.nn.functional.pad(second[:, order].cumsum(dim=1), (1, 0))
        ranks = below[:, torch.searchsorted(y, x)] + below[:, torch.searchsorted(y, x, right=True)]
        found[:, site] = (first * ranks).sum(dim=1) / (2 * first.sum(dim=1) * second.sum(dim=1))
    return found


def _once(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the counts of one row that holds every prompt once."""
    return torch.ones(1, len(positive), dtype=torch.float64), torch.ones(1, len(negative), dtype=torch.float64)
