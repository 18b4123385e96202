"""Controls of a benign steering.

The controls are the parts of its direction inside and outside the refusal plane, random directions, and a rotation that
keeps norms. A control writes at the same sites and tokens. Its vectors w take the place of the directions: ``h + α v̂``
becomes ``h + α w``, and the step of the clamp becomes ``(z̄ − ⟨h, u⟩) w``.
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
from lens_steer.evaluation.grids import Grid
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.planes import orthonormalise, turned_at_random
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.steer.plans import SteeringPlan, Step, numbers
from lens_steer.steer.value_sweep import Build
from lens_steer.studies.externalities.steerings import Benign

Vectors = Mapping[str, Tensor]  # site → vector
ANGLES = (2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 150.0, 180.0)  # degrees at which divergence is measured
LEAST_LEFT = 1e-3  # length, relative to the direction, below which a part of it counts as zero


def refusal_bases(calibration: Calibration) -> dict[str, Float[Tensor, "rank d_model"]]:
    """Return at every site an orthonormal basis of the refusal subspace, of rank 2 or 3.

    The subspace is spanned by the plane of the calibration and by the site's own difference of means.

    >>> from lens_steer import load_calibration
    >>> found = refusal_bases(load_calibration("figures/calibration"))
    >>> {len(b) for b in found.values()}
    {2, 3}
    """
    found = {}
    for site, own in zip(calibration.sites, calibration.candidates, strict=True):
        # The right singular vectors of the three rows span the same subspace. A singular value near 0 means that the
        # site's own candidate lies in the plane or is zero; the rank is then 2.
        rows = torch.cat([calibration.basis, own[None]]).double()
        _, singular, right = torch.linalg.svd(rows, full_matrices=False)
        found[site] = right[singular > LEAST_LEFT]
    return found


def split(
    direction: Float[Tensor, " d_model"], basis: Float[Tensor, "rank d_model"]
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """Split a direction into its part inside a subspace and its part outside, in float64; the parts add up to it.

    >>> inside, outside = split(torch.tensor([0.6, 0.8]), torch.tensor([[1.0, 0.0]]))
    >>> [round(x, 6) for x in (*inside.tolist(), *outside.tolist())]
    [0.6, 0.0, 0.0, 0.8]
    """
    b, v = basis.double(), direction.double()
    inside = b.mT @ (b @ v)
    outside = v - inside
    return inside, outside - b.mT @ (b @ outside)  # a second projection removes what rounding left inside


def parts(
    directions: Vectors, bases: Vectors, *, equal_norm: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parts inside and outside the refusal subspace at every site.

    With ``equal_norm`` the part outside is scaled to the length of the whole direction.

    Raises:
        LensSteerError: If a direction has no part outside that could be scaled.
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
    """Draw random vectors with the lengths of the directions and with the same cosines among each other.

    All directions are turned together by one random rotation.

    >>> a = {"x": torch.tensor([1.0, 0.0, 0.0]), "y": torch.tensor([0.6, 0.8, 0.0])}
    >>> b = random_like(a, seed=0)
    >>> round(float(b["x"].norm()), 5), round(float(b["x"] @ b["y"]), 5)
    (1.0, 0.6)
    """
    return dict(zip(directions, turned_at_random(torch.stack(list(directions.values())), seed), strict=True))


def rotation(source: Benign, sites: Sequence[str], angle: Any) -> SteeringPlan:
    """Return the plan of a selective rotation at each site, in the plane of the mean activation and the direction.

    The rotation keeps norms. The second vector of the plane is the mean of the recorded activations, because an
    addition moves the mean within just this plane: ``h̄ + α v̂`` lies in the span of h̄ and v̂. A positive angle
    therefore turns the mean activation towards v̂, as the addition does, and keeps its length.

    Args:
        source: Calibration of the steering.
        sites: Sites to steer.
        angle: Angle in degrees, one number or one for each prompt.

    Raises:
        LensSteerError: If a mean is parallel to the direction.
    """
    degrees, steps = numbers("angle", angle), []
    for site in sites:
        basis = orthonormalise(source.direction(site), source.mean[source.row(site)])[0].flip(0).contiguous()
        steps.append(Step("selective", (site,), {"basis": basis, "angle": degrees}))
    return SteeringPlan.of(source, "selective", steps)


def divergence_of(
    model: Any,
    build: Build,
    value: float,
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    *,
    engine: str = ENGINE,
) -> float:
    """Return the mean KL(unsteered ‖ steered) in nats: the mean over tokens of each response, then over responses."""
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
    """Find the smallest angle in (0, 180] at which :func:`rotation` has the target divergence.

    If there is none, the match has the reason; see :mod:`lens_steer.evaluation.equal_divergence`.
    """
    build = partial(rotation, source, tuple(sites))
    # ``curve`` adds the identity angle 0 (and 360, the same angle). Only the half up to 180° is searched: it turns the
    # mean activation towards the benign direction, as the steering does.
    measured = curve(model, Grid("selective", build, ANGLES, method="selective"), prompts, responses, engine=engine)
    half = measured.values.index(180.0) + 1
    cut = Curve(measured.grid, measured.values[:half], measured.kl[:half])
    found = match(model, cut, target, prompts, responses, engine=engine)
    return next((m for m in found if m.grid is not None), found[0])
