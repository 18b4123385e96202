"""The published steering methods as plan constructors: where each one writes, along what, and with which parameters.

Every constructor takes a calibration and returns a :class:`~lens_steer.plans.SteeringPlan`. ``at`` names other sites than the method's own, ``positions`` the tokens
(:mod:`lens_steer.positions`). An angle, a coefficient or a target is one number, or one for each prompt. :data:`METHODS` lists them by the name that the command line
uses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer import sites
from lens_steer.errors import LensSteerError
from lens_steer.geometry.boundary import Boundary, boundary
from lens_steer.geometry.calibration import Calibration
from lens_steer.operators.projection import GATES
from lens_steer.plans import SteeringPlan, Step, numbers
from lens_steer.positions import normalized

log = logging.getLogger(__name__)

Number = float | int | str
Numbers = float | int | str | Sequence[float] | Sequence[int] | Tensor  # one, or one for each prompt
Sites = str | Sequence[str] | None
Positions = str | Sequence[int]
CAP_IN_SIGMAS = 40.0  # of the released StMP


def selective_steering(
    calibration: Calibration, angle: Numbers, *, at: Sites = None, basis: Tensor | None = None, positions: Positions = "all"
) -> SteeringPlan:
    """SS: rotate by a relative angle at the discriminative sites. 0 and 360 leave the model as it is.

    Args:
        calibration: the plane, and the discriminative sites that are steered.
        angle: degrees.
        at: other sites to steer instead.
        basis: another orthonormal plane, for controls.
        positions: which tokens.

    Raises:
        LensSteerError: no discriminative site, or an angle that is not a number.

    Source: Selective Steering (arXiv 2601.19375), Eqs. 6 and 10.
    """
    return _rotation("selective", calibration, angle, at, basis, positions)


def standard_angular(
    calibration: Calibration, angle: Numbers, *, at: Sites = None, basis: Tensor | None = None, positions: Positions = "all"
) -> SteeringPlan:
    """SAS: set an absolute angle at the discriminative sites, or at those given (the paper's runs at every norm: ``at="norm_out"``).

    Source: Angular Steering (arXiv 2510.26243); Selective Steering, Eq. 2.
    """
    return _rotation("standard", calibration, angle, at, basis, positions)


def adaptive_angular(
    calibration: Calibration,
    angle: Numbers,
    *,
    threshold: Number = 0.0,
    gate_axis: int = 0,
    at: Sites = None,
    basis: Tensor | None = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """AAS: set an absolute angle where ``h·b1 > threshold`` (``gate_axis=1``: ``h·b2``). Sites as :func:`standard_angular`."""
    if gate_axis not in (0, 1):
        raise LensSteerError(f"gate_axis={gate_axis!r}: use 0 (b1) or 1 (b2)")
    gate = {"threshold": _number("threshold", threshold), "gate_axis": gate_axis}
    return _rotation("adaptive", calibration, angle, at, basis, positions, gate)


def mean_phase_rotation(
    calibration: Calibration, angle: Numbers, *, at: Sites = None, phase_of: str = "both", positions: Positions = "all"
) -> SteeringPlan:
    """X1, the rotating half of SAS: at each site rotate by θ − φ̄, so that the mean lands where SAS puts it and every token keeps its own phase about it.

    φ̄ is the in-plane phase of the site's mean activation: of both classes weighted alike, or of one (``phase_of="positive"``, ``"negative"``).
    """
    phases = _mean_phases(calibration, at, phase_of)
    degrees = numbers("angle", angle)
    steps = [Step("mean_phase", (n,), {"basis": calibration.basis, "angle": degrees, "mean_phase": p}) for n, p in phases.items()]
    return _plan("mean-phase", calibration, steps, positions)


def phase_collapse(
    calibration: Calibration, *, at: Sites = None, phase_of: str = "both", positions: Positions = "all"
) -> SteeringPlan:
    """X2, the collapsing half of SAS: at each site put every token at the mean phase φ̄ (as :func:`mean_phase_rotation` has it); lengths are kept."""
    phases = _mean_phases(calibration, at, phase_of)
    steps = [Step("phase_collapse", (n,), {"basis": calibration.basis, "mean_phase": p}) for n, p in phases.items()]
    return _plan("phase-collapse", calibration, steps, positions)


def act_add(
    calibration: Calibration,
    coefficient: Numbers = 1.0,
    *,
    keep_norm: bool = False,
    at: Sites = None,
    direction: Float[Tensor, " d_model"] | None = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """ActAdd: ``h + α d`` with d the raw difference of class means at each steered site (the selected one unless ``at`` names others).

    α = 1 moves a harmless prompt by one difference of means, α = −1 a harmful one back. ``keep_norm`` scales each sum to the vector's own length.

    Source: Arditi et al. (arXiv 2406.11717), section 2.4.
    """
    steps = [
        Step(
            "add_keep_norm" if keep_norm else "add", (name,), {"direction": d, "coefficient": numbers("coefficient", coefficient)}
        )
        for name, d in _differences(calibration, at, direction).items()
    ]
    return _plan("act-add-keep-norm" if keep_norm else "act-add", calibration, steps, positions)


def unit_addition(
    calibration: Calibration, coefficient: Numbers = 1.3, *, at: Sites = None, positions: Positions = "all"
) -> SteeringPlan:
    """STEER-COMPLIANCE's form: ``h + α v`` with a unit v of its own at every steered site, here the site's candidate; at the discriminative sites.

    Source: Steering Externalities (arXiv 2602.04896), which takes v from a PCA of refusal- against compliance-prefixed answers, and α ≈ 1.3.
    """
    chosen = _sites(calibration, at, calibration.discriminative_sites)
    alpha = numbers("coefficient", coefficient)
    steps = [Step("add", (name,), {"direction": _candidate(calibration, name), "coefficient": alpha}) for name in chosen]
    return _plan("compliance", calibration, steps, positions)


def directional_ablation(
    calibration: Calibration,
    *,
    everywhere: bool = False,
    at: Sites = None,
    direction: Float[Tensor, " d_model"] | None = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """``h − (d̂·h) d̂`` with the selected direction: at the selected site, at those given, or everywhere.

    ``everywhere``: at every block's input and at what every attention and MLP adds to the stream, so that no block can write the direction back. That is a
    statement about the stream, so the direction must have been read there.

    Raises:
        LensSteerError: ``everywhere`` with a direction that was read at a norm's output.

    Source: Arditi et al. (arXiv 2406.11717), section 2.4.
    """
    unit = calibration.basis[0] if direction is None else _vector(calibration, direction)
    if everywhere:
        if direction is None and sites.parse(calibration.selected_site).is_norm:
            raise LensSteerError(
                f"everywhere=True ablates in the residual stream, and the direction was read at {calibration.selected_site}, after a norm and its gain: "
                "calibrate with sites='resid_pre' or 'resid', or give direction="
            )
        at = ("resid_pre", "attn_out", "mlp_out")
    steps = [Step("ablate", _sites(calibration, at, (calibration.selected_site,)), {"direction": unit})]
    return _plan("ablation-everywhere" if everywhere else "ablation", calibration, steps, positions)


def projection_clamp(
    calibration: Calibration, target: Numbers | None = None, *, at: Sites = None, positions: Positions = "all"
) -> SteeringPlan:
    """STEER-JSON's form: set every token's projection on the selected direction to a target, the positive class's mean there unless given.

    Source: Steering Externalities (arXiv 2602.04896), Eq. 4.
    """
    unit, steps = calibration.basis[0], []
    for name in _sites(calibration, at, (calibration.selected_site,)):
        to = boundary(calibration, name).mean_positive if target is None else numbers("target", target)
        steps.append(Step("clamp", (name,), {"direction": unit, "target": to}))
    return _plan("clamp", calibration, steps, positions)


def fixed_coefficient(
    source: Calibration | Boundary, coefficient: Numbers = 1.0, *, positions: Positions = "all"
) -> SteeringPlan:
    """SwFC: ``h + α Δμ v̂`` at the boundary's site, for every token; α = 1 is one separation of the class means.

    Source: arXiv 2604.08169, Eq. 3.
    """
    found = _boundary(source)
    step = Step(
        "add",
        (found.site,),
        {"direction": found.separation * found.direction, "coefficient": numbers("coefficient", coefficient)},
    )
    return _plan("swfc", found, [step], positions)


def target_projection(
    source: Calibration | Boundary, coefficient: Number = 0.0, *, gate: str = "below", positions: Positions = "all"
) -> SteeringPlan:
    """StTP: tokens with ``ρ < m`` get the projection ``s = μ⁺ + α σ⁺``; with ``gate="above"`` those with ``ρ > m`` get ``μ⁻ + α σ⁻``.

    Source: arXiv 2604.08169, Eq. 4; ``gate="above"`` is the released operators' ``direction="negative"``.
    """
    found, alpha = _boundary(source), _number("coefficient", coefficient)
    if _gate(gate) == "below":
        target, wrong_way = found.mean_positive + alpha * found.std_positive, -1.0
    else:
        target, wrong_way = found.mean_negative + alpha * found.std_negative, 1.0
    if (target - found.threshold) * wrong_way > 0:
        log.warning(
            "target projection %.4g lies on the gated side of the threshold %.4g: tokens are moved the wrong way",
            target,
            found.threshold,
        )
    step = Step(
        "target", (found.site,), {"direction": found.direction, "threshold": found.threshold, "target": target, "gate": gate}
    )
    return _plan("sttp", found, [step], positions)


def mirror_projection(
    source: Calibration | Boundary,
    coefficient: Numbers = 1.0,
    *,
    gate: str = "below",
    cap_in_sigmas: Number | None = CAP_IN_SIGMAS,
    positions: Positions = "all",
) -> SteeringPlan:
    """StMP: tokens with ``ρ < m`` (``gate="above"``: ``ρ > m``) are carried to ``ρ + 2α (m − ρ)``: α = ½ to the boundary, 1 mirrored at it, above 1 beyond.

    The new projection is at most ``μ⁺ + cap_in_sigmas σ⁺``, for both gates as in the released operators; None lifts the cap.

    Source: arXiv 2604.08169, Eq. 5.
    """
    found = _boundary(source)
    cap = None if cap_in_sigmas is None else found.mean_positive + _number("cap_in_sigmas", cap_in_sigmas) * found.std_positive
    step = Step(
        "mirror", (found.site,),
        {"direction": found.direction, "threshold": found.threshold, "coefficient": numbers("coefficient", coefficient), "cap": cap,
         "gate": _gate(gate)},
    )  # fmt: skip
    return _plan("stmp", found, [step], positions)


METHODS: dict[str, Callable[..., SteeringPlan]] = {
    "selective": selective_steering,
    "standard": standard_angular,
    "adaptive": adaptive_angular,
    "mean-phase": mean_phase_rotation,
    "phase-collapse": phase_collapse,
    "act-add": act_add,
    "act-add-keep-norm": partial(act_add, keep_norm=True),
    "ablation": directional_ablation,
    "ablation-everywhere": partial(directional_ablation, everywhere=True),
    "compliance": unit_addition,
    "clamp": projection_clamp,
    "swfc": fixed_coefficient,
    "sttp": target_projection,
    "stmp": mirror_projection,
}


def make_plan(method: str, calibration: Calibration, **options: Any) -> SteeringPlan:
    """A plan by the method's name, with only the options that are given.

    Raises:
        LensSteerError: an unknown method, an option that it does not take, a required one that is missing.
    """
    if method not in METHODS:
        raise LensSteerError(f"method={method!r}: use one of {', '.join(METHODS)}")
    known = dict(list(signature(METHODS[method]).parameters.items())[1:])  # the first is the calibration
    for name, value in options.items():
        if name not in known:
            raise LensSteerError(f"{name}={value!r}: method {method!r} does not take it; it takes {', '.join(known)}")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in options]
    if missing:
        raise LensSteerError(f"method {method!r} needs {missing[0]}: give it")
    return METHODS[method](calibration, **options)


def _plan(method: str, source: Calibration | Boundary, steps: Sequence[Step], positions: Positions) -> SteeringPlan:
    width = source.d_model if isinstance(source, Calibration) else len(source.direction)
    return SteeringPlan(method, tuple(steps), normalized(positions), source.model, source.architecture, source.n_layers, width)


def _rotation(
    method: str,
    calibration: Calibration,
    angle: Numbers,
    at: Sites,
    basis: Tensor | None,
    positions: Positions,
    gate: dict[str, Any] | None = None,
) -> SteeringPlan:
    plane = calibration.basis if basis is None else basis
    if plane.shape != calibration.basis.shape:
        raise LensSteerError(f"basis has shape {tuple(plane.shape)}, the calibration needs {tuple(calibration.basis.shape)}")
    chosen = _sites(calibration, at, calibration.discriminative_sites)
    step = Step(method, chosen, {"basis": plane, "angle": numbers("angle", angle), **(gate or {})})
    return _plan(method, calibration, [step], positions)


def _sites(calibration: Calibration, at: Sites, default: tuple[str, ...]) -> tuple[str, ...]:
    """The method's own sites, or those asked for."""
    if at is None and not default:
        raise LensSteerError(
            f"the calibration of {calibration.model!r} has no discriminative site (rule {calibration.rule!r}), so there is nothing to steer: "
            "name the sites with at=…, or calibrate with other sites or the other rule"
        )
    if at is None:
        return default
    return sites.resolve(at, n_layers=calibration.n_layers, architecture=calibration.architecture)


def _means(calibration: Calibration, what: str) -> tuple[Tensor, Tensor]:
    if calibration.mean_positive is None or calibration.mean_negative is None:
        raise LensSteerError(
            f"the calibration of {calibration.model!r} has no class means, which {what} needs: calibrate on this model"
        )
    return calibration.mean_positive, calibration.mean_negative


def _row(calibration: Calibration, name: str) -> int:
    if name not in calibration.sites:
        raise LensSteerError(
            f"site {name!r} was not recorded: calibrate with it, or steer one of {', '.join(calibration.sites[:3])}, …"
        )
    return calibration.sites.index(name)


def _candidate(calibration: Calibration, name: str) -> Tensor:
    found = calibration.candidates[_row(calibration, name)]
    if not bool(found.any()):
        raise LensSteerError(f"site {name!r} has no direction: its class means are equal; steer other sites with at=…")
    return found


def _mean_phases(calibration: Calibration, at: Sites, phase_of: str) -> dict[str, float]:
    """The phase of the mean activation in the plane, in degrees, at each steered site."""
    weights = {"both": (0.5, 0.5), "positive": (1.0, 0.0), "negative": (0.0, 1.0)}
    if phase_of not in weights:
        raise LensSteerError(f"phase_of={phase_of!r}: use one of {', '.join(weights)}")
    positive, negative = _means(calibration, "a mean phase")
    mean = weights[phase_of][0] * positive.double() + weights[phase_of][1] * negative.double()
    c = mean @ calibration.basis.double().mT
    phase = torch.rad2deg(torch.atan2(c[:, 1], c[:, 0]))
    return {n: float(phase[_row(calibration, n)]) for n in _sites(calibration, at, calibration.discriminative_sites)}


def _differences(calibration: Calibration, at: Sites, direction: Tensor | None) -> dict[str, Tensor]:
    chosen = _sites(calibration, at, (calibration.selected_site,))
    if direction is not None:
        return dict.fromkeys(chosen, _vector(calibration, direction))
    positive, negative = _means(calibration, "the raw difference of means")
    return {name: (positive - negative)[_row(calibration, name)] for name in chosen}


def _vector(calibration: Calibration, direction: Tensor) -> Tensor:
    if direction.shape != (calibration.d_model,):
        raise LensSteerError(f"direction has shape {tuple(direction.shape)}, the model needs ({calibration.d_model},)")
    return direction


def _boundary(source: Calibration | Boundary) -> Boundary:
    return source if isinstance(source, Boundary) else boundary(source)


def _number(name: str, value: Any) -> float:
    found = numbers(name, value)
    if isinstance(found, Tensor):
        raise LensSteerError(f"{name}={value!r}: one number is needed here")
    return found


def _gate(gate: str) -> str:
    if gate not in GATES:
        raise LensSteerError(f"gate={gate!r}: use one of {', '.join(GATES)}")
    return gate
