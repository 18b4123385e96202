"""The published steering methods, as functions that make plans: the sites, the vectors and the parameters of each one.

Every constructor takes a calibration and returns a :class:`~lens_steer.steer.plans.SteeringPlan`; those of
:mod:`lens_steer.steer.methods.projections` also take a probe or another boundary, and those that Arditi et al.
published also take a direction selected by what it does. ``at`` names sites other than the method's own, for a method
that does not write at a boundary. ``positions`` names the tokens (:mod:`lens_steer.inference.positions`). An angle, a
coefficient or a target is one number, or one for each prompt. The record of each method is in
:data:`lens_steer.steer.method_table.METHODS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.geometry.boundary import Boundary
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.selected_direction import StreamDirection
from lens_steer.steer.method_table import METHODS, Method, boundary_methods, direction_methods, find_method
from lens_steer.steer.methods.directions import act_add, directional_ablation, projection_clamp, unit_addition
from lens_steer.steer.methods.projections import fixed_coefficient, mirror_projection, target_projection
from lens_steer.steer.methods.rotations import (
    adaptive_angular,
    mean_phase_rotation,
    phase_collapse,
    selective_steering,
    standard_angular,
)
from lens_steer.steer.plans import SteeringPlan

__all__ = [
    "METHODS",
    "act_add",
    "adaptive_angular",
    "check_options",
    "check_source",
    "directional_ablation",
    "fixed_coefficient",
    "make_plan",
    "mean_phase_rotation",
    "mirror_projection",
    "phase_collapse",
    "projection_clamp",
    "selective_steering",
    "standard_angular",
    "target_projection",
    "unit_addition",
]


Source = Calibration | Boundary | StreamDirection  # what a plan can be made from


def check_source(method: Method, source: Source) -> None:
    """Refuse a probe or another boundary, or a selected direction, for a method that needs something else.

    Raises:
        LensSteerError: If the source is a boundary and the method does not write at one, or if it is a selected
            direction and the method does not take one.
    """
    if isinstance(source, StreamDirection) and not method.takes_direction:
        raise LensSteerError(
            f"method {method.name!r} needs a calibration, and a selected direction was given: use one of "
            f"{', '.join(direction_methods())}, or make a calibration of the same prompts with 'lens-steer calibrate'"
        )
    if isinstance(source, Boundary) and method.writes != "boundary":
        raise LensSteerError(
            f"method {method.name!r} needs a calibration, and a probe was given: use one of "
            f"{', '.join(boundary_methods())}"
        )


def check_options(method: str, source: Source, options: Mapping[str, Any]) -> None:
    """Refuse a source, or names of options, that :func:`make_plan` refuses for a method.

    Raises:
        LensSteerError: If the method is unknown, does not take the source or one of the options, or lacks an option
            that it needs.
    """
    record = find_method(method)
    check_source(record, source)
    known = dict(list(signature(record.build).parameters.items())[1:])  # the first parameter is the source
    for name, value in options.items():
        if name not in known:
            raise LensSteerError(
                f"{name}={value!r}: method {record.name!r} does not take it; it takes {', '.join(known)}"
            )
    missing = [name for name, p in known.items() if p.default is p.empty and name not in options]
    if missing:
        raise LensSteerError(f"method {record.name!r} needs {missing[0]}: give it")


def make_plan(method: str, calibration: Source, **options: Any) -> SteeringPlan:
    """Make a plan by the method's name.

    Args:
        method: The name of the method.
        calibration: The calibration; a probe or another boundary for a method that writes at one; or a selected
            direction for a method that takes one.
        **options: The arguments of the method's constructor; the others keep their defaults.

    Raises:
        LensSteerError: If :func:`check_options` or the method's constructor refuses an argument.

    >>> from lens_steer import load_calibration
    >>> make_plan("act-add", load_calibration("figures/calibration"), coefficient=2).row()["coefficient"]
    2.0
    """
    check_options(method, calibration, options)
    return find_method(method).build(calibration, **options)
