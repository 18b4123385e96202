"""Steering plans and the typed hooks that carry them out.

A :class:`SteeringPlan` binds one rotation to sites. ``with steering(model, plan):`` adds exactly the plan's hooks and removes exactly
those, also after an exception. A hook is :func:`functools.partial` over a pure operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer import sites
from lens_steer.artifacts import check_fits
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration
from lens_steer.models import info_of
from lens_steer.operators import rotation

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

Degrees = float | int | str  # what a plan accepts as an angle; checked and made a float

OPERATORS: dict[str, Callable[..., Tensor]] = {
    "selective": rotation.selective_rotation,
    "standard": rotation.standard_angular,
    "adaptive": rotation.adaptive_angular,
}


class SteeringHook(Protocol):
    """What TransformerLens calls at a hook point; returns the tensor that takes the activation's place."""

    def __call__(
        self, activation: Float[Tensor, "batch pos d_model"], *, hook: HookPoint
    ) -> Float[Tensor, "batch pos d_model"]: ...


@dataclass(frozen=True, eq=False)
class SteeringPlan:
    """One operator at some sites of one model: everything needed to steer.

    Attributes:
        method: ``selective``, ``standard`` or ``adaptive``.
        angle: degrees; relative for ``selective``, absolute for the others.
        basis: rows b1, b2.
        sites: where, in network order.
        calibration: what the plan was made from; it must fit the model.
        threshold: the gate of ``adaptive``; None for the others.
    """

    method: str
    angle: float
    basis: Float[Tensor, "2 d_model"]
    sites: tuple[str, ...]
    calibration: Calibration
    threshold: float | None = None

    def __repr__(self) -> str:
        return f"SteeringPlan({self.method}, {self.angle:g}°, {len(self.sites)} sites in {len(sites.blocks_of(self.sites))} blocks of {self.calibration.model})"

    def describe(self) -> dict[str, Any]:
        """The plan's parameters as plain values, as they are written beside every generation."""
        facts: dict[str, Any] = {"method": self.method, "angle": self.angle, "n_sites": len(self.sites)}
        return facts if self.threshold is None else facts | {"threshold": self.threshold}

    def at(self, angle: Degrees) -> SteeringPlan:
        """The same plan at another angle."""
        return replace(self, angle=check_angle(angle))

    def operator(self) -> Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch d_model"]]:
        """The plan's pure operator with its parameters filled in."""
        extra = {} if self.threshold is None else {"threshold": self.threshold}
        return partial(OPERATORS[self.method], basis=self.basis, angle=self.angle, **extra)


def check_angle(angle: Any) -> float:
    """An angle in degrees as a float.

    Raises:
        LensSteerError: not a finite number.

    >>> check_angle("200")
    200.0
    """
    try:
        value = float(angle)
    except (TypeError, ValueError):
        raise LensSteerError(f"angle={angle!r} is not a number of degrees") from None
    if not math.isfinite(value):
        raise LensSteerError(f"angle={angle!r} is not a finite number of degrees")
    return value


def selective_steering(
    calibration: Calibration, angle: Degrees, *, at: tuple[str, ...] | None = None, basis: Tensor | None = None
) -> SteeringPlan:
    """Rotate by a relative angle at the discriminative sites (Selective Steering, Eq. 10). 0 and 360 leave the model as it is.

    Args:
        calibration: the plane, and the discriminative sites that are steered.
        angle: degrees.
        at: other sites to steer instead.
        basis: another orthonormal plane, for controls.

    Raises:
        LensSteerError: no discriminative site, or an angle that is not a number.
    """
    return _plan("selective", calibration, angle, at, basis)


def standard_angular(
    calibration: Calibration, angle: Degrees, *, at: tuple[str, ...] | None = None, basis: Tensor | None = None
) -> SteeringPlan:
    """Set an absolute angle (Selective Steering, Eq. 2) at the discriminative sites, or at those given."""
    return _plan("standard", calibration, angle, at, basis)


def adaptive_angular(
    calibration: Calibration,
    angle: Degrees,
    *,
    threshold: float | int = 0.0,
    at: tuple[str, ...] | None = None,
    basis: Tensor | None = None,
) -> SteeringPlan:
    """Set an absolute angle where ``h·b1 > threshold``, at the discriminative sites or at those given."""
    return replace(_plan("adaptive", calibration, angle, at, basis), threshold=float(threshold))


METHODS: dict[str, Callable[..., SteeringPlan]] = {
    "selective": selective_steering,
    "standard": standard_angular,
    "adaptive": adaptive_angular,
}


def _plan(
    method: str, calibration: Calibration, angle: Degrees, at: tuple[str, ...] | None, basis: Tensor | None
) -> SteeringPlan:
    chosen = calibration.discriminative_sites if at is None else tuple(sorted(at, key=lambda n: sites.parse(n).order))
    if not chosen:
        raise LensSteerError(
            f"the calibration of {calibration.model!r} has no discriminative site (rule {calibration.rule!r}), so there is nothing to steer: "
            "name the sites with at=…, or calibrate with other sites or the other rule"
        )
    if not any(sites.parse(name).block < calibration.n_layers for name in chosen):
        raise LensSteerError(f"at={chosen!r} names no site of the model's {calibration.n_layers} blocks")
    plane = calibration.basis if basis is None else basis
    if plane.shape != calibration.basis.shape:
        raise LensSteerError(f"basis has shape {tuple(plane.shape)}, the calibration needs {tuple(calibration.basis.shape)}")
    return SteeringPlan(method, check_angle(angle), plane, chosen, calibration)


def _steer(
    activation: Float[Tensor, "batch pos d_model"],
    hook: HookPoint,
    *,
    operator: Callable[[Tensor], Tensor],
) -> Float[Tensor, "batch pos d_model"]:
    """The hook: every position through the operator."""
    return operator(activation)


@contextmanager
def steering(model: Any, plan: SteeringPlan) -> Iterator[Any]:
    """Steer a model for the length of a ``with`` block.

    Adds exactly the plan's hooks and removes exactly those, also after an exception; hooks that were there before stay.

    Raises:
        LensSteerError: a model with processed weights, a plan made for another model, a site that the model does not have.
    """
    info_of(model)
    check_fits(plan.calibration, model)
    absent = [name for name in plan.sites if name not in model.hook_dict]
    if absent:
        raise LensSteerError(f"the model has no hook point {absent[0]!r}: load it with lens_steer.load_model")
    basis = plan.basis.to(device=model.cfg.device, dtype=torch.float32)
    hook: SteeringHook = partial(_steer, operator=replace(plan, basis=basis).operator())
    # Not model.hooks(): at its end that would remove every hook of its context level, a user's own among them.
    handles: list[tuple[Any, Any]] = []
    try:
        for name in plan.sites:
            point = model.hook_dict[name]
            point.add_hook(hook)
            handles.append((point, point.fwd_hooks[-1]))
        yield model
    finally:
        for point, handle in handles:
            handle.hook.remove()
            if handle in point.fwd_hooks:
                point.fwd_hooks.remove(handle)
