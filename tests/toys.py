"""What a newcomer writes to add an operator and a method: two operators under new names of parameters, and a method on
each.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lens_steer.operators import rotation
from lens_steer.operators.addition import values
from lens_steer.operators.affine import rotation_map
from lens_steer.operators.catalogue import OPERATORS
from lens_steer.operators.exact import prepared
from lens_steer.operators.operator import Operator
from lens_steer.operators.parameters import Parameter
from lens_steer.steer.method_table import METHODS, Method
from lens_steer.steer.methods.common import Numbers, Positions, Sites, chosen_sites, class_means, row_of
from lens_steer.steer.plans import SteeringPlan, Step, numbers

ANCHOR = Parameter(name="anchor", kind="direction")
STRENGTH = Parameter(name="strength", by_row=True, help="Share of the way to the anchor")
MODE = Parameter(
    name="mode", kind="choice", choices=("all", "far"), help="Which tokens pull moves", values="all or far"
)
LIMIT = Parameter(name="limit")
FRAME = Parameter(name="frame", kind="plane")
THETA = Parameter(name="theta", unit="degrees", by_row=True, help="Degrees of twist")


def pull(h: Tensor, anchor: Tensor, *, strength: Any, mode: str = "all", limit: float | None = None) -> Tensor:
    """``h' = h + s (a − h)``: a token's way to a point, or with ``mode="far"`` only that of tokens farther from it than
    the limit.
    """
    return _pulled(h, prepared(anchor, h), values("strength", strength, prepared(anchor, h)), mode, limit)


def _pulled(h: Tensor, anchor: Tensor, strength: Tensor, mode: str, limit: float | None) -> Tensor:
    x = h.to(anchor.dtype)
    step = strength.reshape(*strength.shape, *[1] * (x.ndim - strength.ndim)) * (anchor - x)
    return torch.where(_far(h, anchor, mode, limit)[..., None], (x + step).to(h.dtype), h)


def _far(h: Tensor, anchor: Tensor, mode: str, limit: float | None) -> Tensor:
    return (mode == "all") | ((anchor - h.to(anchor.dtype)).norm(dim=-1) > (limit or 0.0))


def _bind_pull(p: Any, like: Tensor) -> Any:
    anchor = prepared(p["anchor"], like)
    return partial(
        _pulled, anchor=anchor, strength=values("strength", p["strength"], anchor), mode=p["mode"], limit=p["limit"]
    )


def _gate_of_pull(p: Any, like: Tensor) -> Any:
    return partial(_far, anchor=prepared(p["anchor"], like), mode=p["mode"], limit=p["limit"])


def twist(h: Tensor, frame: Tensor, theta: Any) -> Tensor:
    """A rotation whose parameters have other names."""
    return rotation.selective_rotation(h, frame, theta)


def _bind_twist(p: Any, like: Tensor) -> Any:
    frame = prepared(p["frame"], like, "frame")
    return partial(rotation.turn, basis=frame, writer=rotation.rotation_writer(frame, p["theta"]))


def pull_to_mean(
    calibration: Any,
    strength: Numbers = 0.5,
    *,
    mode: str = "all",
    at: Sites = None,
    positions: Positions = "all",
) -> SteeringPlan:
    """Every token's way to the mean of the negative class."""
    _, negative = class_means(calibration, "pull")
    share = numbers("strength", strength)
    steps = [
        Step("pull", (name,), {"anchor": negative[row_of(calibration, name)], "strength": share, "mode": mode})
        for name in chosen_sites(calibration, at, calibration.discriminative_sites)
    ]
    return SteeringPlan.of(calibration, "pull", steps, positions)


def twisted(calibration: Any, theta: Numbers, *, at: Sites = None, positions: Positions = "all") -> SteeringPlan:
    """A rotation in the calibration's plane."""
    where = chosen_sites(calibration, at, calibration.discriminative_sites)
    step = Step("twist", where, {"frame": calibration.basis, "theta": numbers("theta", theta)})
    return SteeringPlan.of(calibration, "twist", [step], positions)


TOY_OPERATORS = (
    Operator(
        name="pull",
        function=pull,
        parameters=(ANCHOR, STRENGTH, MODE, LIMIT),
        binder=_bind_pull,
        gate_binder=_gate_of_pull,
        affine="moves every token towards a point, which takes full rank",
    ),
    Operator(
        name="twist",
        function=twist,
        parameters=(FRAME, THETA),
        binder=_bind_twist,
        affine=lambda p: rotation_map(p["frame"], p["theta"]),
        isometry=True,
    ),
)
TOY_METHODS = (
    Method(
        name="pull",
        constructor=pull_to_mean,
        operator="pull",
        writes="discriminative",
        parameters=(STRENGTH, MODE),
        grid=(0.25, 0.5, 1.0),
        identities=(0.0,),
        help="Toy: go --strength of the way to the negative mean",
        formula="h + s (a − h)",
        keeps="the line to a",
        defaults="s = ½",
        source="nowhere",
    ),
    Method(
        name="twist",
        constructor=twisted,
        operator="twist",
        writes="discriminative",
        parameters=(THETA,),
        grid=(0.0, 90.0, 180.0, 270.0),
        identities=(0.0, 360.0),
        compared=True,
        help="Toy: turn by --theta",
        formula="h + (R_θ c − c) B",
        keeps="norm",
        defaults="θ relative",
        source="nowhere",
    ),
)


def register() -> None:
    """Add the toys to the operators and methods there are."""
    OPERATORS.update({o.name: o for o in TOY_OPERATORS})
    METHODS.update({m.name: m for m in TOY_METHODS})
