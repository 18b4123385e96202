"""Calibrations of resampled or relabelled prompts, from class means alone.

A resample is a row of counts, one for each prompt: how often this prompt is in the resample. Its class means are
``counts @ X / Σ counts`` in float64. Everything that :func:`lens_steer.geometry.calibration.calibrate` does after the
class means is done here with the same functions. No prompt is copied and there is no loop over prompts, so a resample
costs as much as one plane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.directions import UNIT_SAMPLES, candidates_and_span, class_means, select_direction, zero_rows
from lens_steer.geometry.discriminative import mean_rule
from lens_steer.geometry.planes import build_plane
from lens_steer.geometry.separation import weighted_means
from lens_steer.inference.record import Activations

CHUNK_ENTRIES = 4_000_000  # the most numbers in one block of resampled means (32 MB)


@dataclass(frozen=True)
class Options:
    """The options of :func:`lens_steer.geometry.calibration.calibrate`, by the same names."""

    rule: str = "paper"
    candidate_norm: str = "unit"
    pca_center: bool = True
    component: int = 0

    @property
    def unit_samples(self) -> bool:
        """Return whether any part needs the means of activations that are scaled to unit length one by one."""
        return self.rule == "official" or self.candidate_norm in UNIT_SAMPLES


@dataclass(frozen=True, eq=False)
class Samples:
    """The activations of some prompts in float64.

    Attributes:
        raw: The activations as they are.
        unit: The activations scaled to unit length; None where the options do not need them.
    """

    raw: Float[Tensor, "n n_sites d_model"]
    unit: Float[Tensor, "n n_sites d_model"] | None

    def rows(self, start: int, stop: int) -> Samples:
        """Return some of the prompts, without a copy."""
        return Samples(self.raw[start:stop], None if self.unit is None else self.unit[start:stop])


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """The results of ``calibrate`` on each resample.

    Attributes:
        selected: The row of the selected site; −1 where every candidate is zero.
        direction: The unit selected direction; NaN where there is none.
        top_cosine: The mean cosine of the selected candidate with all candidates; NaN where there is none.
        discriminative: The mask of L_disc; all False where there is no direction.
        basis: The rows b1 and b2; NaN where the plane is degenerate or there is no direction.
    """

    selected: Int[Tensor, " resamples"]
    direction: Float[Tensor, "resamples d_model"]
    top_cosine: Float[Tensor, " resamples"]
    discriminative: Bool[Tensor, "resamples n_sites"]
    basis: Float[Tensor, "resamples 2 d_model"]


def pooled(activations: Activations, options: Options) -> Samples:
    """Return the samples of all prompts, the positive ones first.

    Raises:
        LensSteerError: If activations are not finite.
    """
    both = torch.cat([activations.positive, activations.negative])
    if not bool(torch.isfinite(both).all()):
        raise LensSteerError("activations hold values that are not finite: record them again in float32 or bfloat16")
    if not options.unit_samples:
        return Samples(both.double(), None)
    flat = both.reshape(1, -1, both.shape[-1])  # one "prompt": class_means then only scales every row
    return Samples(both.double(), class_means(flat, flat[:0], unit_samples=True)[0].reshape(both.shape))


def bootstrap_counts(
    n_positive: int, n_negative: int, *, resamples: int, seed: int
) -> tuple[Float[Tensor, "resamples n_positive"], Float[Tensor, "resamples n_negative"]]:
    """Draw how often each prompt is in each resample.

    Each class is drawn separately with replacement, as many prompts as it has.

    >>> positive, negative = bootstrap_counts(4, 6, resamples=3, seed=0)
    >>> positive.sum(dim=1).tolist(), negative.sum(dim=1).tolist()
    ([4.0, 4.0, 4.0], [6.0, 6.0, 6.0])
    """
    rng = np.random.default_rng([seed, 0])
    drawn = [
        torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), size=resamples)).double()
        for n in (n_positive, n_negative)
    ]
    return drawn[0], drawn[1]


def label_counts(n_positive: int, n_negative: int, *, resamples: int, seed: int) -> Float[Tensor, "resamples n"]:
    """Draw shuffled labels: 1 for the ``n_positive`` prompts that are called positive in a shuffle, else 0.

    >>> label_counts(2, 3, resamples=4, seed=0).sum(dim=1).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    labels = np.repeat([1.0, 0.0], [n_positive, n_negative])
    rng = np.random.default_rng([seed, 1])
    return torch.from_numpy(rng.permuted(np.tile(labels, (resamples, 1)), axis=1))


def recalibrate(
    positive: Samples,
    negative: Samples,
    counts: tuple[Float[Tensor, "resamples n_positive"], Float[Tensor, "resamples n_negative"]],
    names: Sequence[str],
    options: Options,
    *,
    planes: bool = True,
    tick: Callable[[], object] = lambda: None,
) -> Recalibrated:
    """Compute selection, plane and discriminative sites of every resample.

    Args:
        positive, negative: The prompts that the counts refer to. For shuffled labels both are all prompts.
        counts: The counts of both classes; every row has a positive sum.
        names: The names of the sites.
        options: The options of ``calibrate``.
        planes: Whether the planes are computed, which takes most of the time; otherwise every basis is NaN.
        tick: A function that is called after every resample, for a progress bar.
    """
    n, n_sites, d_model = len(counts[0]), *positive.raw.shape[1:]
    found = Recalibrated(
        torch.full((n,), -1),
        torch.full((n, d_model), torch.nan, dtype=torch.float64),
        torch.full((n,), torch.nan, dtype=torch.float64),
        torch.zeros(n, n_sites, dtype=torch.bool),
        torch.full((n, 2, d_model), torch.nan),
    )
    for row, (raw, unit) in enumerate(_means(positive, negative, counts)):
        _one(found, row, raw, unit, names, options, planes)
        tick()
    return found


Means = Float[Tensor, "2 n_sites d_model"]  # the means of the positive and the negative class


def _means(positive: Samples, negative: Samples, counts: tuple[Tensor, Tensor]) -> Iterator[tuple[Means, Means]]:
    """Yield the raw and the unit-scaled class means of each resample, computed for a block of resamples at a time.

    Where the samples have no unit-scaled vectors, the raw means stand in both places.
    """
    both = [(positive.raw, negative.raw)]
    if positive.unit is not None and negative.unit is not None:
        both.append((positive.unit, negative.unit))
    step = max(1, CHUNK_ENTRIES // positive.raw[0].numel())
    for start in range(0, len(counts[0]), step):
        part = [c[start : start + step] for c in counts]
        means = [
            torch.stack([weighted_means(c, x.flatten(1)) for c, x in zip(part, classes, strict=True)], dim=1)
            for classes in both
        ]
        yield from zip(*(m.unflatten(2, positive.raw.shape[1:]) for m in (means[0], means[-1])), strict=True)


def _one(
    found: Recalibrated, row: int, raw: Means, unit: Means, names: Sequence[str], options: Options, planes: bool
) -> None:
    """Fill in the results of one resample from its class means, as ``calibrate`` does."""
    candidates, span = candidates_and_span(options.candidate_norm, (raw[0], raw[1]), (unit[0], unit[1]))
    if bool(zero_rows(candidates).all()):
        return
    selection = select_direction(candidates)
    direction = candidates[selection.index]
    found.selected[row] = selection.index
    found.direction[row] = direction
    found.top_cosine[row] = selection.mean_cosine[selection.index]
    a, b = (unit if options.rule == "official" else raw) @ direction
    mask = mean_rule(a, b, names, rule=options.rule)
    found.discriminative[row] = mask
    if not planes:
        return
    try:
        plane = build_plane(
            span,
            selection.index,
            center=options.pca_center,
            component=options.component,
            positive_mean=raw[0][mask].mean(dim=0) if bool(mask.any()) else None,
        )
    except LensSteerError:  # the plane is degenerate: the row stays NaN, and its readers count such rows
        return
    found.basis[row] = plane.basis
