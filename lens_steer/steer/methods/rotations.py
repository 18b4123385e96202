"""Methods that rotate activations in the steering plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.planes import MAX_GRAM_ERROR, gram_error
from lens_steer.operators.parameters import GATE_AXIS
from lens_steer.steer.methods.common import (
    Number,
    Numbers,
    Positions,
    Sites,
    check_calibration,
    chosen_sites,
    class_means,
    one_number,
    row_of,
)
from lens_steer.steer.plans import SteeringPlan, Step, numbers

EVERYWHERE = ("ln1", "ln2")  # where the code of Angular Steering writes: the norms before attention and before the MLP


def selective_steering(
    calibration: Calibration,
    angle: Numbers,
    *,
    at: Sites = None,
    basis: Tensor | None = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """Make a plan of SS: rotate by a relative angle at the discriminative sites.

    The angles 0 and 360 leave the model as it is.

    Args:
        calibration: The calibration, with the plane and the discriminative sites that are steered.
        angle: The angle in degrees, or one for each prompt.
        at: Other sites to steer instead.
        basis: Another orthonormal plane, for controls.
        positions: The tokens to steer.

    Raises:
        LensSteerError: If the calibration has no discriminative site and ``at`` names none, if the angle is not a
            number, or if ``basis`` has the wrong shape or is not orthonormal.

    Source: Selective Steering (arXiv 2601.19375), Eqs. 6 and 10.

    >>> from lens_steer import load_calibration
    >>> selective_steering(load_calibration("figures/calibration"), 200).angle
    200.0
    """
    return _rotation("selective", calibration, angle, at, basis, positions)


def standard_angular(
    calibration: Calibration,
    angle: Numbers,
    *,
    everywhere: bool = False,
    at: Sites = None,
    basis: Tensor | None = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """Make a plan of SAS: set an absolute angle at the discriminative sites, at the sites that ``at`` names, or
    everywhere.

    ``everywhere`` means the output of every norm before attention and before the MLP, as in the authors' code. This is
    SAS as published where the calibration was made as theirs is: from the inputs of these norms (``norm_in``), with
    ``candidate_norm="angular"``. At the discriminative sites it is the ablation of Selective Steering's Table 6,
    "SAS at L_disc". The other arguments are those of :func:`selective_steering`.

    Raises:
        LensSteerError: If ``everywhere`` is given together with ``at``; otherwise see :func:`selective_steering`.

    Source: Angular Steering (arXiv 2510.26243); Selective Steering, Eq. 2.

    >>> from lens_steer import load_calibration
    >>> calibration = load_calibration("figures/calibration")
    >>> standard_angular(calibration, [0, 90]).n_rows
    2
    >>> len(standard_angular(calibration, 90, everywhere=True).sites), len(calibration.discriminative_sites)
    (24, 11)
    """
    where = _places(everywhere, at, calibration)
    return _rotation("standard", calibration, angle, where, basis, positions, everywhere=everywhere)


def adaptive_angular(
    calibration: Calibration,
    angle: Numbers,
    *,
    threshold: Number = 0.0,
    gate_axis: int = 0,
    everywhere: bool = False,
    at: Sites = None,
    basis: Tensor | None = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """Make a plan of AAS: set an absolute angle where ``h·b1 > threshold`` (``gate_axis=1``: ``h·b2 > threshold``).

    The sites are those of :func:`standard_angular`.

    >>> from lens_steer import load_calibration
    >>> adaptive_angular(load_calibration("figures/calibration"), 90, threshold=1).row()["threshold"]
    1.0
    """
    if gate_axis not in GATE_AXIS.choices:
        raise LensSteerError(f"gate_axis={gate_axis!r}: use 0 (b1) or 1 (b2)")
    gate = {"threshold": one_number("threshold", threshold), "gate_axis": gate_axis}
    where = _places(everywhere, at, calibration)
    return _rotation("adaptive", calibration, angle, where, basis, positions, everywhere=everywhere, **gate)


def mean_phase_rotation(
    calibration: Calibration, angle: Numbers, *, at: Sites = None, phase_of: str = "both", positions: Positions = "all"
) -> SteeringPlan:
    """Make a plan of X1, the rotating half of SAS: at each site rotate by θ − φ̄.

    The mean then lands where SAS puts it, and every token keeps its own phase relative to the mean. φ̄ is the in-plane
    phase of the site's mean activation: of both classes weighted alike, or of one class (``phase_of="positive"``,
    ``"negative"``).

    >>> from lens_steer import load_calibration
    >>> mean_phase_rotation(load_calibration("figures/calibration"), 90).method
    'mean-phase'
    """
    phases = _mean_phases(calibration, at, phase_of)
    shared = {"basis": calibration.basis, "angle": numbers("angle", angle)}
    steps = [Step("mean_phase", (n,), {**shared, "mean_phase": p}) for n, p in phases.items()]
    return SteeringPlan.of(calibration, "mean-phase", steps, positions)


def phase_collapse(
    calibration: Calibration, *, at: Sites = None, phase_of: str = "both", positions: Positions = "all"
) -> SteeringPlan:
    """Make a plan of X2, the collapsing half of SAS: at each site put every token at the mean phase φ̄.

    Lengths are kept. φ̄ is the phase of :func:`mean_phase_rotation`.

    >>> from lens_steer import load_calibration
    >>> phase_collapse(load_calibration("figures/calibration")).angle is None
    True
    """
    phases = _mean_phases(calibration, at, phase_of)
    steps = [Step("phase_collapse", (n,), {"basis": calibration.basis, "mean_phase": p}) for n, p in phases.items()]
    return SteeringPlan.of(calibration, "phase-collapse", steps, positions)


def _rotation(
    method: str,
    calibration: Calibration,
    angle: Numbers,
    at: Sites,
    basis: Tensor | None,
    positions: Positions,
    *,
    everywhere: bool = False,
    **gate: Any,
) -> SteeringPlan:
    check_calibration(calibration)
    plane = calibration.basis if basis is None else basis
    if plane.shape != calibration.basis.shape:
        raise LensSteerError(
            f"basis has shape {tuple(plane.shape)}, the calibration needs {tuple(calibration.basis.shape)}"
        )
    if not gram_error(plane) <= MAX_GRAM_ERROR:
        raise LensSteerError(
            f"basis is not orthonormal (max|G − I| = {gram_error(plane):.1e}): re-orthonormalise it first"
        )
    chosen = chosen_sites(calibration, at, calibration.discriminative_sites)
    step = Step(method, chosen, {"basis": plane, "angle": numbers("angle", angle), **gate})
    return SteeringPlan.of(calibration, f"{method}-everywhere" if everywhere else method, [step], positions)


def _places(everywhere: bool, at: Sites, calibration: Calibration) -> Sites:
    """Return the sites that the arguments name; None for the discriminative ones.

    In a parallel block one norm can feed both branches; where the model has no norm before a branch, none is left.
    """
    if everywhere and at is not None:
        raise LensSteerError(f"at={at!r}: everywhere=True names its own sites; leave one of the two out")
    if not everywhere:
        return at
    if not (there := tuple(kind for kind in EVERYWHERE if kind in calibration.layout.norms)):
        raise LensSteerError(
            f"everywhere=True writes at the norms before attention and MLP, and {calibration.model!r} has none: name "
            "sites with at=…, such as at='norm_out'"
        )
    return there


def _mean_phases(calibration: Calibration, at: Sites, phase_of: str) -> dict[str, float]:
    """Return the phase of the mean activation in the plane, in degrees, at each steered site."""
    check_calibration(calibration)
    weights = {"both": (0.5, 0.5), "positive": (1.0, 0.0), "negative": (0.0, 1.0)}
    if phase_of not in weights:
        raise LensSteerError(f"phase_of={phase_of!r}: use one of {', '.join(weights)}")
    positive, negative = class_means(calibration, "a mean phase")
    mean = weights[phase_of][0] * positive.double() + weights[phase_of][1] * negative.double()
    c = mean @ calibration.basis.double().mT
    phase = torch.rad2deg(torch.atan2(c[:, 1], c[:, 0]))
    chosen = chosen_sites(calibration, at, calibration.discriminative_sites)
    return {name: float(phase[row_of(calibration, name)]) for name in chosen}
