"""Measurements across depth: angles between benign directions and refusal, and sides of the harmful boundary.

Each benign direction has an angle to the refusal direction at every block. Steered prompts lie on one side or the other
of the boundary between harmful and harmless prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import PromptSet
from lens_steer.inference.record import Activations, record_prompts
from lens_steer.models import sites
from lens_steer.probes.probe import Probe
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import bootstrap_mean
from lens_steer.stats.rates import Z_95, wilson
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.externalities.calibration import oriented_component
from lens_steer.studies.externalities.controls import Vectors, split
from lens_steer.studies.externalities.steerings import Benign, ComplianceCalibration

GROUPS = 20  # number of groups of the jackknife, which leaves out one twentieth of the prompts at a time
DRAWN = 20_000  # number of random cosines that are drawn
Estimator = Callable[[Tensor, Tensor], Tensor]  # (positive, negative activations at one site) → unit direction


@dataclass(frozen=True)
class Angle:
    """The angle between a benign direction and refusal at one block's output.

    Attributes:
        steering: Name of the steering that has the direction.
        block: Block of the site.
        steered: True if the steering writes at this site.
        cosine: Cosine with the unit difference of means, harmful less harmless prompts, with a jackknife interval.
        angle: The same as an angle in degrees.
        in_plane: Share of the squared length of the direction that lies in the span of the refusal plane and the site's
            difference of means.
        with_difference: Cosine of the direction with the unit difference of its own two class means.
    """

    steering: str
    block: int
    steered: bool
    cosine: Estimate
    angle: Estimate
    in_plane: float
    with_difference: float


@dataclass(frozen=True)
class Projection:
    """Prompts of one kind at one block's output, at the last prompt token.

    Attributes:
        kind: ``harmful``, ``harmless``, or the name of the steering under which the harmful prompts are run.
        block: Block of the site.
        position: Mean of ``(v̂·h − m) / (Δμ/2)``. It is 0 on the boundary of the probe, and 1 at a distance from the
            boundary of half the distance between the class means of the fit split.
        crossed: Share of the prompts on the harmless side of the boundary.
    """

    kind: str
    block: int
    position: Estimate
    crossed: Estimate


def angles(
    name: str,
    source: Benign,
    own: Activations,
    refusal: Activations,
    bases: Vectors,
    steered: Sequence[str],
    *,
    seed: int = 0,
) -> list[Angle]:
    """Return the angle between a benign direction and refusal at every block.

    The interval is the estimate ± 1.96 standard errors of a delete-a-group jackknife. The pairs of the benign contrast,
    the harmful prompts and the harmless prompts are each dealt into 20 groups. One group after the other is left out,
    and the squared errors add up over the three sets of prompts. (The copies in a bootstrap sample would make
    directions noisier, and so pull every cosine towards 0.)

    Args:
        name: Name of the steering.
        source: Calibration of the steering.
        own: Activations from which the calibration was made.
        refusal: Activations of harmful and harmless prompts at the same sites.
        bases: Bases by site; see :func:`lens_steer.studies.externalities.controls.refusal_bases`.
        steered: Sites at which the steering writes.
        seed: Seed of the groups.
    """
    found = []
    for site in source.sites:
        (positive, negative), (harmful, harmless) = own.at(site), refusal.at(site)
        cosine = _jackknifed(_estimator(source), positive, negative, harmful, harmless, seed)
        low, high = (math.degrees(math.acos(min(1.0, max(-1.0, c)))) for c in (cosine.high, cosine.low))
        angle = Estimate(math.degrees(math.acos(min(1.0, max(-1.0, cosine.value)))), low, high, cosine.n)
        inside, _ = split(source.direction(site), bases[site])
        gap = _mean_gap(positive, negative)
        found.append(
            Angle(
                name,
                sites.parse(site).block,
                site in steered,
                cosine,
                angle,
                float(inside.square().sum()),
                float(source.direction(site).double() @ gap),
            )
        )
    return found


def random_cosine(d_model: int, *, seed: int = 0) -> tuple[float, float]:
    """Return the mean ``|cosine|`` of two random directions, and the bound within which 95 % of the cosines lie.

    Both are estimated from random draws.

    >>> mean, bound = random_cosine(128)
    >>> round(mean, 2), round(bound, 2)  # √(2/πd), 1.96/√d
    (0.07, 0.17)
    """
    rng = np.random.default_rng(seed)
    # The cosine of a random direction with a fixed one is the first coordinate of a Gaussian vector over its length.
    # The squares of the other d_model − 1 coordinates sum to a χ² variable, so the vectors need not be drawn.
    first, rest = rng.standard_normal(DRAWN), rng.chisquare(d_model - 1, DRAWN)
    cosine = np.abs(first) / np.sqrt(first**2 + rest)
    return float(cosine.mean()), float(np.quantile(cosine, 0.95))


def projections(
    model: Any,
    probes: Mapping[str, Probe],
    harmful: PromptSet,
    harmless: PromptSet,
    plans: Mapping[str, SteeringPlan],
    *,
    engine: str = ENGINE,
    seed: int = 0,
) -> list[Projection]:
    """Measure the position of prompts relative to the boundary of each probe.

    Both classes are measured without steering, and the harmful prompts under each plan too.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        probes: Probes by site, fitted on other prompts. Label 1 is harmful.
        harmful, harmless: Prompts of the report split.
        plans: Name of the steering → plan.
        engine: See :func:`lens_steer.record`.
        seed: Seed of the intervals.
    """
    names = list(probes)
    at = {
        "harmful": record_prompts(model, harmful, names, engine=engine),
        "harmless": record_prompts(model, harmless, names, engine=engine),
    }
    for steered, plan in plans.items():
        with steering(model, plan):
            at[steered] = record_prompts(model, harmful, names, engine=engine)
    found = []
    for kind, activations in at.items():
        for i, (site, probe) in enumerate(probes.items()):
            distance = (probe.project(activations[:, i]).double() - probe.threshold).numpy()
            found.append(
                Projection(
                    kind,
                    sites.parse(site).block,
                    bootstrap_mean(distance / (probe.separation / 2), seed=seed),
                    wilson(int((distance < 0).sum()), len(distance)),
                )
            )
    return found


def _estimator(source: Benign) -> Estimator:
    """Return the function that computes the directions of a calibration from the activations of both classes."""
    if isinstance(source, ComplianceCalibration):
        return lambda positive, negative: oriented_component(positive, negative, method=source.method)[0]
    return _mean_gap


def _mean_gap(positive: Tensor, negative: Tensor) -> Float[Tensor, " d_model"]:
    gap = positive.double().mean(dim=0) - negative.double().mean(dim=0)
    return gap / gap.norm().clamp_min(torch.finfo(torch.float64).tiny)


def _jackknifed(
    estimator: Estimator, positive: Tensor, negative: Tensor, harmful: Tensor, harmless: Tensor, seed: int
) -> Estimate:
    """Return the cosine of the two directions ± 1.96 jackknife errors, clipped to −1 … 1.

    ``n`` is the smallest number of prompts behind one of the means.
    """
    # Delete-a-group jackknife with G groups: the variance of an estimate is (G − 1)/G times the sum of its squared
    # changes when one group is left out. The three sets of prompts are independent, so their variances add up.
    own, refusal = estimator(positive, negative), _mean_gap(harmful, harmless)
    value = float(own @ refusal)
    variance = 0.0
    for keep in _left_out(len(positive), seed):
        variance += (float(estimator(positive[keep], negative[keep]) @ refusal) - value) ** 2 * _weight(len(positive))
    for keep in _left_out(len(harmful), seed + 1):
        variance += (float(own @ _mean_gap(harmful[keep], harmless)) - value) ** 2 * _weight(len(harmful))
    for keep in _left_out(len(harmless), seed + 2):
        variance += (float(own @ _mean_gap(harmful, harmless[keep])) - value) ** 2 * _weight(len(harmless))
    error = Z_95 * math.sqrt(variance)
    return Estimate(
        value, max(-1.0, value - error), min(1.0, value + error), min(len(positive), len(harmful), len(harmless))
    )


def _left_out(n: int, seed: int) -> list[Int[np.ndarray, " kept"]]:
    """Return for each group the sorted indices that remain when this group is left out."""
    order = np.random.default_rng(seed).permutation(n)
    groups = min(GROUPS, n)
    return [np.sort(order[np.arange(n) % groups != g]) for g in range(groups)]


def _weight(n: int) -> float:
    groups = min(GROUPS, n)
    return (groups - 1) / groups
