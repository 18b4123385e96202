"""The catalogue of operators by name, with their parameters, their binding, their gate and their affine map.

A bound operator is a :func:`functools.partial` over a pure function. Everything that does not depend on the activation
(unit directions, writers, products) is computed once. The operator computes in the dtype in which it was bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators import addition, binding, projection, rotation, scaling
from lens_steer.operators.affine import addition_map, clamp_map, rotation_map
from lens_steer.operators.exact import exact
from lens_steer.operators.operator import Bound, Operator, Parameters
from lens_steer.operators.parameters import (
    ALONG,
    ANGLE,
    BASIS,
    CAP,
    COEFFICIENT,
    DIRECTION,
    GATE,
    GATE_AXIS,
    MEAN_PHASE,
    SCALE,
    TARGET,
    THRESHOLD,
)


@dataclass(frozen=True)
class Effect:
    """The change of each vector by an operator.

    ``displacement² = radial² + angular²`` exactly. ``radial = ‖h'‖ − ‖h‖`` is the change of length, and
    ``angular = √(‖h‖‖h'‖) ‖ĥ' − ĥ‖`` is the part that comes from the change of direction. For a rotation ``radial`` is
    zero.

    Attributes:
        fired: True where the gate fired; True everywhere for an operator without a gate.
        displacement: The length of the change, ‖h' − h‖.
        radial, angular: The two parts of the displacement.
    """

    fired: Bool[Tensor, "*batch"]
    displacement: Float[Tensor, "*batch"]
    radial: Float[Tensor, "*batch"]
    angular: Float[Tensor, "*batch"]

    @property
    def gate_fire_rate(self) -> float:
        """The share of the vectors for which the gate fired."""
        return float(exact(self.fired).mean())

    def __repr__(self) -> str:
        mean = {name: float(exact(getattr(self, name)).mean()) for name in ("displacement", "radial", "angular")}
        return (
            f"Effect({self.fired.numel()} vectors, gate fired on {100 * self.gate_fire_rate:.1f} %, mean displacement "
            f"{mean['displacement']:.4g}: radial {mean['radial']:+.4g}, angular {mean['angular']:.4g})"
        )


def bind(name: str, parameters: Parameters, like: Tensor) -> Bound:
    """Bind an operator to its parameters, on the device of ``like``, computing in float32 (float64 for float64).

    Raises:
        LensSteerError: If the name is unknown, if a parameter is missing or unknown, or if the operator refuses the
            parameters.

    >>> clamp = bind("clamp", {"direction": torch.tensor([0.0, 2.0]), "target": 1.0}, torch.zeros(2))
    >>> clamp(torch.tensor([3.0, 4.0]))
    tensor([3., 1.])
    """
    found = operator(name)
    absent = [key for key in found.needs if key not in parameters]
    unknown = [key for key in parameters if key not in (*found.needs, *found.takes)]
    if absent or unknown:
        wrong = [f"{key} is missing" for key in absent]
        wrong += [f"{key}={parameters[key]!r} is not one of them" for key in unknown]
        raise LensSteerError(f"operator {name!r} takes {', '.join((*found.needs, *found.takes))}: {'; '.join(wrong)}")
    return found.bind(parameters, like)


def operator(name: str) -> Operator:
    """Return the operator of a name.

    Raises:
        LensSteerError: If the name is unknown.

    >>> operator("selective").by_row
    'angle'
    """
    if name not in OPERATORS:
        raise LensSteerError(f"operator={name!r}: use one of {', '.join(OPERATORS)}")
    return OPERATORS[name]


def effect(
    name: str, h: Float[Tensor, "*batch d_model"], parameters: Parameters
) -> tuple[Float[Tensor, "*batch d_model"], Effect]:
    """Return the result of an operator, and its effect on each vector.

    >>> h = torch.tensor([[3.0, 0.0, 1.0], [-3.0, 0.0, 1.0]])
    >>> moved, did = effect("adaptive", h, {"basis": torch.eye(3)[:2], "angle": 90.0})
    >>> did.gate_fire_rate, did.radial.abs().max().item() < 1e-6
    (0.5, True)
    """
    moved = bind(name, parameters, h)(h)
    gate = operator(name).gate
    fired = torch.ones(h.shape[:-1], dtype=torch.bool, device=h.device) if gate is None else gate(parameters, h)(h)
    return moved, compare(h, moved, fired)


def compare(
    before: Float[Tensor, "*batch d_model"], after: Float[Tensor, "*batch d_model"], fired: Bool[Tensor, "*batch"]
) -> Effect:
    """Compute the effect from the vectors before and after, in float64.

    >>> compare(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0]), torch.tensor(True))
    Effect(1 vectors, gate fired on 100.0 %, mean displacement 5: radial +5, angular 0)
    """
    a, b = exact(before), exact(after)
    length_a, length_b = a.norm(dim=-1), b.norm(dim=-1)
    displacement, radial = (b - a).norm(dim=-1), length_b - length_a
    tiny = torch.finfo(torch.float64).tiny
    turned = (b / length_b.clamp_min(tiny)[..., None] - a / length_a.clamp_min(tiny)[..., None]).norm(dim=-1)
    return Effect(fired, displacement, radial, (length_a * length_b).sqrt() * turned)


_ONE_RAY = "puts every token on one ray: the length of its in-plane part is not linear in it"
_BEHIND_A_GATE = "acts behind a gate that differs from token to token"

OPERATORS: dict[str, Operator] = {
    o.name: o
    for o in (
        Operator(
            name="selective", function=rotation.selective_rotation, parameters=(BASIS, ANGLE),
            binder=binding.selective, affine=lambda p: rotation_map(p["basis"], p["angle"]), isometry=True,
        ),
        Operator(
            name="standard", function=rotation.standard_angular, parameters=(BASIS, ANGLE), binder=binding.standard,
            affine=_ONE_RAY,
        ),
        Operator(
            name="adaptive", function=rotation.adaptive_angular, parameters=(BASIS, ANGLE, THRESHOLD, GATE_AXIS),
            binder=binding.adaptive, gate_binder=binding.adaptive_gate, affine=_BEHIND_A_GATE,
        ),
        Operator(
            name="mean_phase", function=rotation.rotate_by_mean_phase, parameters=(BASIS, ANGLE, MEAN_PHASE),
            binder=binding.mean_phase, affine=lambda p: rotation_map(**binding.from_mean_phase(p)), isometry=True,
        ),
        Operator(
            name="phase_collapse", function=rotation.collapse_phase, parameters=(BASIS, MEAN_PHASE),
            binder=binding.phase_collapse, affine=_ONE_RAY,
        ),
        Operator(
            name="selective_scaled", function=scaling.scaled_rotation, parameters=(BASIS, ANGLE, SCALE),
            binder=binding.scaled, affine="multiplies the whole of each token by a factor",
        ),
        Operator(
            name="add", function=addition.add_direction, parameters=(DIRECTION, COEFFICIENT), binder=binding.add,
            affine=lambda p: addition_map(p["direction"], p["coefficient"]),
        ),
        Operator(
            name="add_keep_norm", function=addition.add_direction_keep_norm, parameters=(DIRECTION, COEFFICIENT),
            binder=binding.add_keep_norm, affine="scales each token back to its own length, which is not linear in it",
        ),
        Operator(
            name="ablate", function=addition.ablate_direction, parameters=(DIRECTION,), binder=binding.ablate,
            affine=lambda p: clamp_map(p["direction"], 0.0), removes=True,
        ),
        Operator(
            name="clamp", function=addition.clamp_projection, parameters=(DIRECTION, TARGET), binder=binding.clamp,
            affine=lambda p: clamp_map(p["direction"], p["target"]),
        ),
        Operator(
            name="target", function=projection.target_projection,
            parameters=(DIRECTION, THRESHOLD, TARGET, GATE, ALONG), binder=binding.target,
            gate_binder=binding.projection_gate, affine=_BEHIND_A_GATE,
        ),
        Operator(
            name="mirror", function=projection.mirror_projection,
            parameters=(DIRECTION, THRESHOLD, COEFFICIENT, CAP, GATE, ALONG), binder=binding.mirror,
            gate_binder=binding.projection_gate, affine=_BEHIND_A_GATE,
        ),
    )
}  # fmt: skip
