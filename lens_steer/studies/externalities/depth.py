"""Across depth: the angle between each benign direction and the refusal direction, and on which side of the boundary
between harmful and harmless prompts stand once they are steered.
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
from lens_steer.stats import Z_95, Estimate, bootstrap_mean, wilson
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.externalities.calibration import oriented_component
from lens_steer.studies.externalities.controls import Vectors, split
from lens_steer.studies.externalities.steerings import Benign, ComplianceCalibration

GROUPS = 20  # of the jackknife: prompts are left out a twentieth at a time
DRAWN = 20_000
Estimator = Callable[[Tensor, Tensor], Tensor]  # both classes at one site → unit direction


@dataclass(frozen=True)
class Angle:
    """How a benign direction lies to refusal at one block's output.

    Attributes:
        steering: whose direction.
        block: of the site.
        steered: whether the steering writes there.
        cosine: with the unit difference of means of harmful less harmless prompts, with a jackknife interval.
        angle: the same in degrees.
        in_plane: share of the direction's squared length in the refusal plane and the site's difference of means.
        with_difference: cosine with the unit difference of its own two class means.
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
    """Prompts of one kind at one block's output, the last prompt token.

    Attributes:
        kind: ``harmful``, ``harmless``, or the steering under which the harmful ones are.
        block: of the site.
        position: mean of ``(v̂·h − m) / (Δμ/2)``: 0 on the probe's boundary, 1 where it is as far from it as half the
            distance of the class means of the fit split.
        crossed: share on the boundary's harmless side.
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
    """The angle at every block.

    The interval is the estimate ± 1.96 standard errors of a delete-a-group jackknife: pairs of the benign contrast,
    harmful and harmless prompts are each dealt into 20 groups, and the squared errors of leaving out one group after
    the other add up over the three. (A bootstrap's copies make directions noisier, and so pull every cosine to 0.)

    Args:
        name: of the steering.
        source: its calibration.
        own: the activations that it was made from.
        refusal: of harmful and harmless prompts at the same sites.
        bases: by site; see :func:`lens_steer.studies.externalities.controls.refusal_bases`.
        steered: sites that it writes to.
        seed: of the groups.
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
    """Of two random directions: the mean of ``|cosine|``, and the bound that 95 % of cosines stay within; drawn.

    >>> mean, bound = random_cosine(128)
    >>> round(mean, 2), round(bound, 2)  # √(2/πd), 1.96/√d
    (0.07, 0.17)
    """
    rng = np.random.default_rng(seed)
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
    """Where prompts stand to the boundary of each probe, without steering and, the harmful ones, under each plan.

    Args:
        model: from :func:`lens_steer.load_model`.
        probes: by site, fitted on other prompts; label 1 is harmful.
        harmful, harmless: of the report split.
        plans: steering → plan.
        engine: see :func:`lens_steer.record`.
        seed: of intervals.
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
    """How the source's directions were made."""
    if isinstance(source, ComplianceCalibration):
        return lambda positive, negative: oriented_component(positive, negative, method=source.method)[0]
    return _mean_gap


def _mean_gap(positive: Tensor, negative: Tensor) -> Float[Tensor, " d_model"]:
    gap = positive.double().mean(dim=0) - negative.double().mean(dim=0)
    return gap / gap.norm().clamp_min(torch.finfo(torch.float64).tiny)


def _jackknifed(
    estimator: Estimator, positive: Tensor, negative: Tensor, harmful: Tensor, harmless: Tensor, seed: int
) -> Estimate:
    """Cosine of the two directions, ± 1.96 jackknife errors, within −1 … 1; n: the fewest of the prompts behind one of
    the means.
    """
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
    """What is kept when one group after the other is left out."""
    order = np.random.default_rng(seed).permutation(n)
    groups = min(GROUPS, n)
    return [np.sort(order[np.arange(n) % groups != g]) for g in range(groups)]


def _weight(n: int) -> float:
    groups = min(GROUPS, n)
    return (groups - 1) / groups
