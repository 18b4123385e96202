"""Methods that add, remove or set something along one direction, for every token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.boundary import boundary
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.selected_direction import StreamDirection
from lens_steer.models import sites
from lens_steer.steer.methods.common import (
    Numbers,
    Positions,
    Sites,
    check_calibration,
    check_direction_source,
    chosen_sites,
    class_means,
    made,
    own_site,
    row_of,
)
from lens_steer.steer.plans import SteeringPlan, Step, numbers


def act_add(
    calibration: Calibration | StreamDirection,
    coefficient: Numbers = 1.0,
    *,
    keep_norm: bool = False,
    at: Sites = None,
    direction: Float[Tensor, " d_model"] | None = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """Make a plan of ActAdd: ``h + α d``, where d is the raw difference of the class means at each steered site.

    α = 1 moves a harmless prompt by one difference of the means; α = −1 moves a harmful one back.

    Args:
        calibration: The calibration with the class means, or a selected direction
            (:func:`lens_steer.select_direction`), whose raw difference is added at the input of the block where it was
            read. This is the method as published.
        coefficient: The coefficient α, or one for each prompt.
        keep_norm: Whether to scale each sum to the length of the vector before steering.
        at: The sites to steer; None steers the site of the direction.
        direction: A vector that replaces d at every steered site.
        positions: The tokens to steer.

    Source: Arditi et al. (arXiv 2406.11717), section 2.4.

    >>> from lens_steer import load_calibration
    >>> act_add(load_calibration("figures/calibration"), -1).row()["coefficient"]
    -1.0
    """
    check_direction_source(calibration)
    vectors, alpha = _differences(calibration, at, direction), numbers("coefficient", coefficient)
    used = "add_keep_norm" if keep_norm else "add"
    steps = [Step(used, (name,), {"direction": d, "coefficient": alpha}) for name, d in vectors.items()]
    return made("act-add-keep-norm" if keep_norm else "act-add", calibration, steps, positions)


def unit_addition(
    calibration: Calibration, coefficient: Numbers = 1.3, *, at: Sites = None, positions: Positions = "all"
) -> SteeringPlan:
    """Make a plan of STEER-COMPLIANCE's form: ``h + α v``, with a unit vector v of its own at every steered site.

    Here v is the candidate direction of the site with its sign reversed, ``v = −d̂``: it points from the positive class
    (harmful, refused) to the negative one, so a positive α moves towards compliance, as in the paper
    (``v_comply = −v_refusal``). The discriminative sites are steered unless ``at`` names others.

    Source: Steering Externalities (arXiv 2602.04896), which takes v from a PCA of refusal- against compliance-prefixed
    answers, and α ≈ 1.3.

    >>> from lens_steer import load_calibration
    >>> unit_addition(load_calibration("figures/calibration")).row()["coefficient"]
    1.3
    """
    check_calibration(calibration)
    chosen = chosen_sites(calibration, at, calibration.discriminative_sites)
    alpha = numbers("coefficient", coefficient)
    steps = [
        Step("add", (name,), {"direction": -_candidate(calibration, name), "coefficient": alpha}) for name in chosen
    ]
    return SteeringPlan.of(calibration, "compliance", steps, positions)


def directional_ablation(
    calibration: Calibration | StreamDirection,
    *,
    everywhere: bool = False,
    at: Sites = None,
    direction: Float[Tensor, " d_model"] | None = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """Make a plan of directional ablation: ``h − (d̂·h) d̂`` with the selected direction.

    It acts at the selected site, at the sites that ``at`` names, or everywhere. ``everywhere`` means every block's
    input and the output that every attention and every MLP adds to the residual stream, so that no block can write the
    direction back. It acts on the stream, so the direction must have been read there. For a calibration of norm outputs
    the direction is :attr:`~lens_steer.geometry.calibration.Calibration.stream_direction`. It was recorded beside them
    and equals the direction that a calibration with ``sites="resid_pre"`` selects.

    Args:
        calibration: The calibration with the direction, or a selected direction (:func:`lens_steer.select_direction`),
            with which ``everywhere`` is the method as published.
        everywhere: Whether to ablate at the inputs of all blocks and at all outputs of attention and MLP.
        at: The sites to steer; None steers the site of the direction.
        direction: A vector that replaces the direction of the calibration.
        positions: The tokens to steer.

    Raises:
        LensSteerError: If ``everywhere`` is given together with ``at``, or with a direction that was read at a norm's
            output where no means of the stream were recorded.

    Source: Arditi et al. (arXiv 2406.11717), section 2.4.

    >>> from lens_steer import load_calibration
    >>> directional_ablation(load_calibration("figures/calibration")).describe()["positions"]
    'all'
    """
    check_direction_source(calibration)
    unit = _vector(calibration, direction) if direction is not None else _own_direction(calibration)
    if everywhere:
        if at is not None:
            raise LensSteerError(f"at={at!r}: everywhere=True names its own sites; leave one of the two out")
        if direction is None and isinstance(calibration, Calibration) and sites.parse(own_site(calibration)).is_norm:
            unit = _of_the_stream(calibration)
        at = ("resid_pre", "attn_out", "mlp_out")
    steps = [Step("ablate", chosen_sites(calibration, at, (own_site(calibration),)), {"direction": unit})]
    return made("ablation-everywhere" if everywhere else "ablation", calibration, steps, positions)


def projection_clamp(
    calibration: Calibration, target: Numbers | None = None, *, at: Sites = None, positions: Positions = "all"
) -> SteeringPlan:
    """Make a plan of STEER-JSON's form: set every token's projection on the selected direction to a target.

    The target is the mean of the positive class at the site unless one is given. The selected site is steered unless
    ``at`` names others.

    Source: Steering Externalities (arXiv 2602.04896), Eq. 4.

    >>> from lens_steer import load_calibration
    >>> projection_clamp(load_calibration("figures/calibration"), 2).row()["target"]
    2.0
    """
    check_calibration(calibration)
    unit, steps = calibration.basis[0], []
    for name in chosen_sites(calibration, at, (calibration.selected_site,)):
        to = boundary(calibration, name).mean_positive if target is None else numbers("target", target)
        steps.append(Step("clamp", (name,), {"direction": unit, "target": to}))
    return SteeringPlan.of(calibration, "clamp", steps, positions)


def _own_direction(source: Calibration | StreamDirection) -> Tensor:
    return source.direction if isinstance(source, StreamDirection) else source.basis[0]


def _of_the_stream(calibration: Calibration) -> Tensor:
    """Return the direction of the residual stream that was recorded beside the norm outputs."""
    found = calibration.stream_direction
    if found is None:
        raise LensSteerError(
            "everywhere=True ablates in the residual stream, and the direction was read at "
            f"{calibration.selected_site}, after a norm and its gain, with nothing of the stream "
            "recorded beside it: calibrate again (with sites='norm_out', 'resid_pre' or 'resid'), or give direction="
        )
    return found[1]


def _candidate(calibration: Calibration, name: str) -> Tensor:
    found = calibration.candidates[row_of(calibration, name)]
    if not bool(found.any()):
        raise LensSteerError(f"site {name!r} has no direction: its class means are equal; steer other sites with at=…")
    return found


def _differences(calibration: Calibration | StreamDirection, at: Sites, direction: Tensor | None) -> dict[str, Tensor]:
    chosen = chosen_sites(calibration, at, (own_site(calibration),))
    if direction is not None:
        return dict.fromkeys(chosen, _vector(calibration, direction))
    if isinstance(calibration, StreamDirection):
        return dict.fromkeys(chosen, calibration.direction)
    positive, negative = class_means(calibration, "the raw difference of means")
    return {name: (positive - negative)[row_of(calibration, name)] for name in chosen}


def _vector(calibration: Calibration | StreamDirection, direction: Tensor) -> Tensor:
    sound = direction.shape == (calibration.d_model,) and bool(torch.isfinite(direction).all() & direction.any())
    if not sound:
        raise LensSteerError(
            f"direction of shape {tuple(direction.shape)} is not usable: the model needs "
            f"({calibration.d_model},), finite and not zero"
        )
    return direction
