"""What a benign steering is held against: its parts inside and outside of the refusal plane, random directions, and a
rotation that keeps norms.

A control writes at the same sites and tokens; its vectors w take the place of the directions, so that ``h + α v̂``
becomes ``h + α w`` and the clamp's step ``(z̄ − ⟨h, u⟩) w``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.equal_divergence import Curve, Match, curve, match
from lens_steer.evaluation.sweeps import Grid
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.planes import orthonormalise, turned_at_random
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.steer.plans import SteeringPlan, Step, numbers
from lens_steer.steer.value_sweep import Build
from lens_steer.studies.externalities.steerings import Benign

Vectors = Mapping[str, Tensor]  # site → vector
ANGLES = (2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 150.0, 180.0)
LEAST_LEFT = 1e-3  # of a unit direction; a shorter part is no direction


def refusal_bases(calibration: Calibration) -> dict[str, Float[Tensor, "rank d_model"]]:
    """At every site an orthonormal basis of what refusal is made of there: the calibration's plane, and the site's own
    difference of means; rank 2 or 3.

    >>> from lens_steer import load_calibration
    >>> found = refusal_bases(load_calibration("figures/calibration"))
    >>> {len(b) for b in found.values()}
    {2, 3}
    """
    found = {}
    for site, own in zip(calibration.sites, calibration.candidates, strict=True):
        rows = torch.cat([calibration.basis, own[None]]).double()
        _, singular, right = torch.linalg.svd(rows, full_matrices=False)
        found[site] = right[singular > LEAST_LEFT]
    return found


def split(
    direction: Float[Tensor, " d_model"], basis: Float[Tensor, "rank d_model"]
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """A direction's part inside of a subspace and its part outside, in float64; they add up to it.

    >>> inside, outside = split(torch.tensor([0.6, 0.8]), torch.tensor([[1.0, 0.0]]))
    >>> [round(x, 6) for x in (*inside.tolist(), *outside.tolist())]
    [0.6, 0.0, 0.0, 0.8]
    """
    b, v = basis.double(), direction.double()
    inside = b.mT @ (b @ v)
    outside = v - inside
    return inside, outside - b.mT @ (b @ outside)


def parts(
    directions: Vectors, bases: Vectors, *, equal_norm: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parts inside and outside at every site; with ``equal_norm`` the one outside at the length that the whole
    direction has.

    Raises:
        LensSteerError: a direction with no part outside to be lengthened.
    """
    inside, outside = {}, {}
    for site, direction in directions.items():
        inside[site], rest = split(direction, bases[site])
        length, left = float(direction.norm()), float(rest.norm())
        if equal_norm and left < LEAST_LEFT * length:
            raise LensSteerError(
                f"the direction at {site} lies in the refusal plane up to {left:.1e}: nothing is left to be "
                "steered along"
            )
        outside[site] = rest * (length / left) if equal_norm else rest
    return {s: v.float() for s, v in inside.items()}, {s: v.float() for s, v in outside.items()}


def random_like(directions: Vectors, seed: int) -> dict[str, Float[Tensor, " d_model"]]:
    """Random vectors with the lengths of the directions and the same cosines among each other: the directions, turned
    all together at random.

    >>> a = {"x": torch.tensor([1.0, 0.0, 0.0]), "y": torch.tensor([0.6, 0.8, 0.0])}
    >>> b = random_like(a, seed=0)
    >>> round(float(b["x"].norm()), 5), round(float(b["x"] @ b["y"]), 5)
    (1.0, 0.6)
    """
    return dict(zip(directions, turned_at_random(torch.stack(list(directions.values())), seed), strict=True))


def rotation(source: Benign, sites: Sequence[str], angle: Any, *, positions: str = "all") -> SteeringPlan:
    """Selective rotation at each site in the plane of the mean activation and the benign direction; norms stay as they
    are.

    The second vector is the mean of what was recorded there, because an addition moves it within just this plane:
    ``h̄ + α v̂`` lies in the span of h̄ and v̂. So a positive angle turns the mean activation towards v̂ as the
    addition does, and keeps its length.

    Args:
        source: a calibration.
        sites: to steer.
        angle: degrees, or one for each prompt.
        positions: which tokens.

    Raises:
        LensSteerError: a mean that is parallel to the direction.
    """
    degrees, steps = numbers("angle", angle), []
    for site in sites:
        basis = orthonormalise(source.direction(site), source.mean[source.row(site)])[0].flip(0).contiguous()
        steps.append(Step("selective", (site,), {"basis": basis, "angle": degrees}))
    return SteeringPlan.of(source, "selective", steps, positions)


def divergence_of(
    model: Any,
    build: Build,
    value: float,
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    *,
    engine: str = ENGINE,
) -> float:
    """Mean over responses of the mean over their tokens of KL(unsteered ‖ steered), in nats."""
    return float(np.nanmean(mean_kl_by_value(model, build, [value], prompts, responses, engine=engine)))


def match_rotation(
    model: Any,
    source: Benign,
    sites: Sequence[str],
    target: float,
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    *,
    engine: str = ENGINE,
) -> Match:
    """The smallest angle in (0, 180] at which :func:`rotation` has the target's divergence, or why there is none; see
    :mod:`lens_steer.evaluation.equal_divergence`.
    """
    build = partial(_rotated, source, tuple(sites))
    measured = curve(model, Grid("selective", build, ANGLES), prompts, responses, engine=engine)
    half = measured.values.index(180.0) + 1
    cut = Curve(measured.grid, measured.values[:half], measured.kl[:half])
    found = match(model, cut, target, prompts, responses, engine=engine)
    return next((m for m in found if m.grid is not None), found[0])


def _rotated(source: Benign, sites: tuple[str, ...], angle: Any) -> SteeringPlan:
    return rotation(source, sites, angle)
