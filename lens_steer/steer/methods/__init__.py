"""The published steering methods as plan constructors: where each one writes, along what, and with which parameters.

Every constructor takes a calibration and returns a :class:`~lens_steer.steer.plans.SteeringPlan`. ``at`` names other sites than the method's own, ``positions`` the tokens
(:mod:`lens_steer.inference.positions`). An angle, a coefficient or a target is one number, or one for each prompt. :data:`METHODS` lists them by the name that the command line
uses; :mod:`lens_steer.steer.method_table` says what each is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.geometry.boundary import Boundary
from lens_steer.geometry.calibration import Calibration
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
ALIASES = {"fixed_coefficient": "swfc", "target_projection": "sttp", "mirror_projection": "stmp"}
BY_BOUNDARY = ("swfc", "sttp", "stmp")  # those that take a probe


def method_name(method: str) -> str:
    """A method's name in :data:`METHODS`, from that or from the function's.

    Raises:
        LensSteerError: an unknown method.

    >>> method_name("target_projection")
    'sttp'
    """
    found = ALIASES.get(method, method)
    if found not in METHODS:
        raise LensSteerError(f"method={method!r}: use one of {', '.join(METHODS)}")
    return found


def make_plan(method: str, calibration: Calibration | Boundary, **options: Any) -> SteeringPlan:
    """A plan by the method's name, with only the options that are given; a probe or another boundary serves those of :data:`BY_BOUNDARY`.

    Raises:
        LensSteerError: an unknown method, an option that it does not take, a required one that is missing.

    >>> from lens_steer import load_calibration
    >>> make_plan("act-add", load_calibration("figures/calibration"), coefficient="2").row()["coefficient"]
    2.0
    """
    method = method_name(method)
    if isinstance(calibration, Boundary) and method not in BY_BOUNDARY:
        raise LensSteerError(f"method {method!r} needs a calibration, and a probe was given: use one of {', '.join(BY_BOUNDARY)}")
    known = dict(list(signature(METHODS[method]).parameters.items())[1:])  # the first is the calibration
    for name, value in options.items():
        if name not in known:
            raise LensSteerError(f"{name}={value!r}: method {method!r} does not take it; it takes {', '.join(known)}")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in options]
    if missing:
        raise LensSteerError(f"method {method!r} needs {missing[0]}: give it")
    return METHODS[method](calibration, **options)
