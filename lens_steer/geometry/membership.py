"""The probability that a site belongs to L_disc: the share of bootstrap resamples of the prompts in which it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.discriminative import BOUNDS, check_rule, mean_rule, measured
from lens_steer.geometry.separation import weighted_means
from lens_steer.inference.class_means import UNIT_EPS

RESAMPLES = 1000
CHUNK_ENTRIES = 4_000_000  # the most counts in one block of resamples (32 MB)


def membership(
    positive: Float[Tensor, "n_positive n_sites"],
    negative: Float[Tensor, "n_negative n_sites"],
    names: Sequence[str],
    *,
    rule: str = "paper",
    bound: float | int | None = None,
    norms: tuple[Float[Tensor, "n_positive n_sites"], Float[Tensor, "n_negative n_sites"]] | None = None,
    zero: Bool[Tensor, " n_sites"] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Float[Tensor, " n_sites"]:
    """Return the bootstrap probability that each site is in L_disc.

    In every resample the prompts of each class are drawn again with replacement, as many as the class has, and the rule
    is applied again. The probability is the share of resamples in which the site is in L_disc. The direction is not
    selected again: all projections are on the direction from all prompts. The probability therefore tells how much the
    *rule's* answer depends on the drawn prompts. :func:`lens_steer.geometry.stability.stability` selects the direction
    again in every resample, at the cost of one calibration each. Under ``paper``, a site where one or both class means
    are distributed around zero has a probability of one half on average.

    Args:
        positive, negative: The projections on the unit selected direction, one for each prompt and site.
        names: The names of the sites.
        rule, bound: See :mod:`lens_steer.geometry.discriminative`.
        norms: The lengths of the activations of both classes. ``official`` needs them, since it uses the means of
            unit-scaled activations.
        zero: The sites whose class means are equal up to rounding. They are never discriminative under a rule with a
            bound. None stands for no such site.
        resamples: The number of resamples.
        seed: The seed of the draws; the same seed gives the same numbers.

    Raises:
        LensSteerError: If a class has no prompts, the rule is unknown, the bound does not fit it, ``official`` has no
            norms, or the count or the seed is invalid.

    >>> always, sometimes = torch.tensor([[2.0, 1.0], [3.0, -1.0]]), torch.tensor([[-1.0, -1.0], [-2.0, -1.0]])
    >>> found = membership(always, sometimes, ["blocks.0.ln1.hook_out", "blocks.0.ln2.hook_out"])
    >>> float(found[0]), abs(float(found[1]) - 0.25) < 0.05  # there only the resample of two ones has a positive mean
    (1.0, True)
    """
    limit = check_rule(rule, bound)
    for name, side in (("positive", positive), ("negative", negative)):
        if not len(side):
            raise LensSteerError(f"{name} holds no prompts: a bootstrap needs at least one of each class")
    if resamples < 1 or seed < 0:
        raise LensSteerError(f"resamples={resamples}, seed={seed}: use at least one resample, and a seed from 0 up")
    if rule == "official":
        if norms is None:
            raise LensSteerError(
                "rule='official' goes by unit-scaled activations: give norms=, the lengths of the activations"
            )
        positive, negative = (unit_projections(p, n) for p, n in zip((positive, negative), norms, strict=True))
    none = torch.zeros(len(names), dtype=torch.bool) if zero is None else zero
    hits = torch.zeros(len(names), dtype=torch.float64)
    for counts in _counts(len(positive), len(negative), resamples, seed):
        if limit is not None and rule in BOUNDS:
            inside = (measured(rule, positive, negative, none, counts) > limit) & ~none
        else:
            a, b = (weighted_means(c, x) for c, x in zip(counts, (positive, negative), strict=True))
            inside = mean_rule(a, b, names, rule=rule)
        hits += inside.sum(dim=0)
    return hits / resamples


def unit_projections(projections: Float[Tensor, "n n_sites"], norms: Float[Tensor, "n n_sites"]) -> Tensor:
    """Return the projections of the same activations scaled to unit length, with the eps of the released code."""
    return projections.double() / (norms.double() + UNIT_EPS)


def _counts(n_positive: int, n_negative: int, resamples: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield how often each prompt is drawn, for a block of resamples at a time.

    Each class has its own random stream, so the size of the blocks does not change the draws.
    """
    streams = [np.random.default_rng([seed, 3, side]) for side in (0, 1)]
    step = max(1, CHUNK_ENTRIES // (n_positive + n_negative))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = [
            torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), size=size)).double()
            for rng, n in zip(streams, (n_positive, n_negative), strict=True)
        ]
        yield drawn[0], drawn[1]
