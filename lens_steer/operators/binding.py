"""Binding of each operator to its parameters, so that a hook runs only what depends on the activations.

Everything else is computed once. Each function takes all parameters of its operator and a tensor of the wanted device
and dtype.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from lens_steer.operators import addition, projection, rotation, scaling
from lens_steer.operators.exact import prepared
from lens_steer.operators.operator import Bound, Fires, Parameters


def selective(p: Parameters, like: Tensor) -> Bound:
    basis = prepared(p["basis"], like, "basis")
    return partial(rotation.turn, basis=basis, writer=rotation.rotation_writer(basis, p["angle"]))


def scaled(p: Parameters, like: Tensor) -> Bound:
    basis = rotation.prepared(p["basis"], like)
    writer = rotation.rotation_writer(basis, p["angle"])
    return partial(scaling.turn_and_scale, basis=basis, writer=writer, scale=scaling.factor(p["scale"]))


def from_mean_phase(p: Parameters) -> dict[str, Tensor]:
    """Return the parameters of the equivalent relative rotation, by the angle minus the mean phase."""
    return {"basis": p["basis"], "angle": rotation.degrees(p["angle"]) - rotation.degrees(p["mean_phase"])}


def mean_phase(p: Parameters, like: Tensor) -> Bound:
    return selective(from_mean_phase(p), like)


def standard(p: Parameters, like: Tensor) -> partial[Tensor]:
    basis = prepared(p["basis"], like, "basis")
    gram = rotation.gram_unless_identity(basis)
    return partial(rotation.put_at_phase, basis=basis, writer=rotation.phase_writer(basis, p["angle"]), gram=gram)


def phase_collapse(p: Parameters, like: Tensor) -> Bound:
    return standard({"basis": p["basis"], "angle": p["mean_phase"]}, like)


def adaptive(p: Parameters, like: Tensor) -> Bound:
    ungated = standard(p, like).keywords
    return partial(rotation.put_gated_at_phase, **ungated, threshold=p["threshold"], gate_axis=p["gate_axis"])


def adaptive_gate(p: Parameters, like: Tensor) -> Fires:
    basis = prepared(p["basis"], like, "basis")
    return partial(rotation.above_threshold, basis=basis, threshold=p["threshold"], gate_axis=p["gate_axis"])


def _step(p: Parameters, like: Tensor) -> Tensor:
    return addition.displacement(prepared(p["direction"], like), p["coefficient"])


def add(p: Parameters, like: Tensor) -> Bound:
    return partial(addition.shift, step=_step(p, like))


def add_keep_norm(p: Parameters, like: Tensor) -> Bound:
    return partial(addition.shift_keep_norm, step=_step(p, like))


def _unit(direction: Tensor, like: Tensor) -> Tensor:
    return addition.unit_direction(prepared(direction, like))


def clamp(p: Parameters, like: Tensor) -> Bound:
    unit = _unit(p["direction"], like)
    return partial(addition.set_projection, unit=unit, target=addition.values("target", p["target"], unit))


def ablate(p: Parameters, like: Tensor) -> Bound:
    return clamp({**p, "target": 0.0}, like)


def _gated(p: Parameters, like: Tensor) -> dict[str, Any]:
    """Return the arguments that StTP and StMP have in common."""
    along = None if p["along"] is None else _unit(p["along"], like)
    return {"unit": _unit(p["direction"], like), "threshold": p["threshold"], "gate": p["gate"], "along": along}


def target(p: Parameters, like: Tensor) -> Bound:
    shared = _gated(p, like)
    return partial(projection.put_gated, **shared, target=addition.values("target", p["target"], shared["unit"]))


def mirror(p: Parameters, like: Tensor) -> Bound:
    shared = _gated(p, like)
    coefficient = addition.values("coefficient", p["coefficient"], shared["unit"])
    return partial(projection.mirror_gated, **shared, coefficient=coefficient, cap=p["cap"])


def projection_gate(p: Parameters, like: Tensor) -> Fires:
    direction = prepared(p["direction"], like)
    return partial(projection.past_threshold, direction=direction, threshold=p["threshold"], gate=p["gate"])
