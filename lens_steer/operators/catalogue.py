"""Every operator under one name: how it is bound to its parameters, and what it did to a batch of activations.

A bound operator is :func:`functools.partial` over a pure function, with all that does not depend on the activation made once (unit directions,
writers, products); it computes in the dtype it was bound in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators import addition, projection, rotation

Bound = Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch d_model"]]
Parameters = Mapping[str, Any]  # a vector or basis, numbers, one number a row, or a name


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        name: of the operator.
        function: the pure function of tensors, called with the vectors and the parameters by name.
        bind: parameters and a tensor of the wanted device and dtype → ``h ↦ h'``.
        needs, takes: names of the parameters without and with a default.
        by_row: the parameter that may hold one value for each row of a batch.
        gate: parameters → ``h ↦`` where it moves anything; None for an operator without a gate.
        vectors: the parameters that are vectors or planes.
        choices: the parameters that are names or axes.
        optional: the numbers that may be None. Every other parameter is a number, and one of ``by_row`` may be several.
    """

    name: str
    function: Callable[..., Tensor]
    bind: Callable[[Parameters, Tensor], Bound]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()
    by_row: str | None = None
    gate: Callable[[Parameters, Tensor], Callable[[Tensor], Tensor]] | None = None
    vectors: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def is_number(self, parameter: str, value: object) -> bool:
        """Whether a value of one of its parameters has to be a number, or one a row.

        >>> [operator("mirror").is_number(name, None) for name in ("direction", "gate", "cap", "coefficient")]
        [False, False, False, True]
        """
        return parameter not in (*self.vectors, *self.choices) and not (value is None and parameter in self.optional)


@dataclass(frozen=True)
class Effect:
    """What an operator did to each vector.

    ``displacement² = radial² + angular²`` exactly: ``radial = ‖h'‖ − ‖h‖`` is the change of length, ``angular = √(‖h‖‖h'‖) ‖ĥ' − ĥ‖`` what turning
    the direction costs. For a rotation ``radial`` is zero.

    Attributes:
        fired: where the gate fired; everywhere for an operator without one.
        displacement: ‖h' − h‖.
        radial, angular: its two parts.
    """

    fired: Bool[Tensor, "*batch"]
    displacement: Float[Tensor, "*batch"]
    radial: Float[Tensor, "*batch"]
    angular: Float[Tensor, "*batch"]

    @property
    def gate_fire_rate(self) -> float:
        """Share of the vectors for which the gate fired."""
        return float(self.fired.double().mean())

    def __repr__(self) -> str:
        mean = {name: float(getattr(self, name).double().mean()) for name in ("displacement", "radial", "angular")}
        return (
            f"Effect({self.fired.numel()} vectors, gate fired on {100 * self.gate_fire_rate:.1f} %, mean displacement "
            f"{mean['displacement']:.4g}: radial {mean['radial']:+.4g}, angular {mean['angular']:.4g})"
        )


def bind(name: str, parameters: Parameters, like: Tensor) -> Bound:
    """An operator with its parameters, on the device of ``like``, computing in float32 (float64 for float64).

    Raises:
        LensSteerError: unknown name, or parameters that the operator refuses.

    >>> halve = bind("clamp", {"direction": torch.tensor([0.0, 2.0]), "target": 1.0}, torch.zeros(2))
    >>> halve(torch.tensor([3.0, 4.0]))
    tensor([3., 1.])
    """
    found = operator(name)
    absent = [key for key in found.needs if key not in parameters]
    unknown = [key for key in parameters if key not in (*found.needs, *found.takes)]
    if absent or unknown:
        raise LensSteerError(
            f"operator {name!r} takes {', '.join((*found.needs, *found.takes))}: "
            + "; ".join(
                [*(f"{key} is missing" for key in absent), *(f"{key}={parameters[key]!r} is not one of them" for key in unknown)]
            )
        )
    return found.bind(parameters, like)


def operator(name: str) -> Operator:
    """The operator of a name; refuses an unknown one.

    >>> operator("selective").by_row
    'angle'
    """
    if name not in OPERATORS:
        raise LensSteerError(f"operator={name!r}: use one of {', '.join(OPERATORS)}")
    return OPERATORS[name]


def effect(
    name: str, h: Float[Tensor, "*batch d_model"], parameters: Parameters
) -> tuple[Float[Tensor, "*batch d_model"], Effect]:
    """An operator's result and what it did to each vector.

    >>> basis = torch.eye(3)[:2]
    >>> moved, did = effect("adaptive", torch.tensor([[3.0, 0.0, 1.0], [-3.0, 0.0, 1.0]]), {"basis": basis, "angle": 90.0})
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
    """The effect from the vectors before and after, in float64.

    >>> compare(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0]), torch.tensor(True))
    Effect(1 vectors, gate fired on 100.0 %, mean displacement 5: radial +5, angular 0)
    """
    a, b = before.double(), after.double()
    length_a, length_b = a.norm(dim=-1), b.norm(dim=-1)
    displacement, radial = (b - a).norm(dim=-1), length_b - length_a
    tiny = torch.finfo(torch.float64).tiny
    turned = (b / length_b.clamp_min(tiny)[..., None] - a / length_a.clamp_min(tiny)[..., None]).norm(dim=-1)
    return Effect(fired, displacement, radial, (length_a * length_b).sqrt() * turned)


def _selective(p: Parameters, like: Tensor) -> Bound:
    basis = rotation.prepared(p["basis"], like)
    return partial(rotation.turn, basis=basis, writer=rotation.rotation_writer(basis, p["angle"]))


def _mean_phase(p: Parameters, like: Tensor) -> Bound:
    return _selective({"basis": p["basis"], "angle": rotation.degrees(p["angle"]) - rotation.degrees(p["mean_phase"])}, like)


def _standard(p: Parameters, like: Tensor) -> partial[Tensor]:
    basis = rotation.prepared(p["basis"], like)
    gram = rotation.gram_unless_identity(basis)
    return partial(rotation.put_at_phase, basis=basis, writer=rotation.phase_writer(basis, p["angle"]), gram=gram)


def _phase_collapse(p: Parameters, like: Tensor) -> Bound:
    return _standard({"basis": p["basis"], "angle": p["mean_phase"]}, like)


def _adaptive(p: Parameters, like: Tensor) -> Bound:
    ungated = _standard({"basis": p["basis"], "angle": p["angle"]}, like).keywords
    return partial(rotation.put_gated_at_phase, **ungated, threshold=p.get("threshold", 0.0), gate_axis=p.get("gate_axis", 0))


def _adaptive_gate(p: Parameters, like: Tensor) -> Callable[[Tensor], Tensor]:
    basis = rotation.prepared(p["basis"], like)
    return partial(rotation.above_threshold, basis=basis, threshold=p.get("threshold", 0.0), gate_axis=p.get("gate_axis", 0))


def _add(p: Parameters, like: Tensor) -> Bound:
    return partial(addition.shift, step=addition.displacement(addition.prepared(p["direction"], like), p["coefficient"]))


def _add_keep_norm(p: Parameters, like: Tensor) -> Bound:
    return partial(
        addition.shift_keep_norm, step=addition.displacement(addition.prepared(p["direction"], like), p["coefficient"])
    )


def _unit(p: Parameters, like: Tensor, name: str = "direction") -> Tensor:
    return addition.unit_direction(addition.prepared(p[name], like))


def _along(p: Parameters, like: Tensor) -> Tensor | None:
    return None if p.get("along") is None else _unit(p, like, "along")


def _clamp(p: Parameters, like: Tensor) -> Bound:
    unit = _unit(p, like)
    return partial(addition.set_projection, unit=unit, target=addition.values(p.get("target", 0.0), unit))


def _target(p: Parameters, like: Tensor) -> Bound:
    unit = _unit(p, like)
    target = addition.values(p["target"], unit)
    return partial(
        projection.put_gated, unit=unit, target=target, threshold=p["threshold"], gate=p.get("gate", "below"), along=_along(p, like),
    )  # fmt: skip


def _mirror(p: Parameters, like: Tensor) -> Bound:
    unit = _unit(p, like)
    coefficient = addition.values(p.get("coefficient", 1.0), unit)
    return partial(
        projection.mirror_gated, unit=unit, coefficient=coefficient, threshold=p["threshold"], cap=p.get("cap"),
        gate=p.get("gate", "below"), along=_along(p, like),
    )  # fmt: skip


def _projection_gate(p: Parameters, like: Tensor) -> Callable[[Tensor], Tensor]:
    direction = addition.prepared(p["direction"], like)
    return partial(projection.past_threshold, direction=direction, threshold=p["threshold"], gate=p.get("gate", "below"))


_PLANE, _LINE = ("basis",), ("direction",)

OPERATORS: dict[str, Operator] = {
    o.name: o
    for o in (
        Operator("selective", rotation.selective_rotation, _selective, ("basis", "angle"), by_row="angle", vectors=_PLANE),
        Operator("standard", rotation.standard_angular, _standard, ("basis", "angle"), by_row="angle", vectors=_PLANE),
        Operator(
            "adaptive", rotation.adaptive_angular, _adaptive, ("basis", "angle"), ("threshold", "gate_axis"), by_row="angle",
            gate=_adaptive_gate, vectors=_PLANE, choices=("gate_axis",),
        ),
        Operator(
            "mean_phase", rotation.rotate_by_mean_phase, _mean_phase, ("basis", "angle", "mean_phase"), by_row="angle", vectors=_PLANE
        ),
        Operator("phase_collapse", rotation.collapse_phase, _phase_collapse, ("basis", "mean_phase"), vectors=_PLANE),
        Operator("add", addition.add_direction, _add, ("direction", "coefficient"), by_row="coefficient", vectors=_LINE),
        Operator(
            "add_keep_norm", addition.add_direction_keep_norm, _add_keep_norm, ("direction", "coefficient"), by_row="coefficient",
            vectors=_LINE,
        ),
        Operator("ablate", addition.ablate_direction, _clamp, ("direction",), vectors=_LINE),
        Operator("clamp", addition.clamp_projection, _clamp, ("direction", "target"), by_row="target", vectors=_LINE),
        Operator(
            "target", projection.target_projection, _target, ("direction", "threshold", "target"), ("gate", "along"), by_row="target",
            gate=_projection_gate, vectors=("direction", "along"), choices=("gate",),
        ),
        Operator(
            "mirror", projection.mirror_projection, _mirror, ("direction", "threshold"), ("coefficient", "cap", "gate", "along"),
            by_row="coefficient", gate=_projection_gate, vectors=("direction", "along"), choices=("gate",), optional=("cap",),
        ),
    )
}  # fmt: skip
