"""Operators as affine maps ``h ↦ h + U (V h) + t`` of low rank, in float64; the ones that are not affine, with the reason.

A rotation has ``V = B`` (rows b1, b2) and ``U = Bᵀ(R_θ − I)``, an ablation ``V = v̂ᵀ`` and ``U = −v̂``, a clamp that and ``t = z̄ v̂``, an addition ``t = α d`` alone. Maps are
composed as their operators are, one after the other; ranks add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import MAX_GRAM_ERROR, gram_error
from lens_steer.operators.catalogue import operator
from lens_steer.operators.rotation import degrees, rotation_writer

NOT_AFFINE = {
    "standard": "puts every token on one ray: the length of its in-plane part is not linear in it",
    "adaptive": "acts behind a gate that differs from token to token",
    "phase_collapse": "puts every token on one ray: the length of its in-plane part is not linear in it",
    "add_keep_norm": "scales each token back to its own length, which is not linear in it",
    "target": "acts behind a gate that differs from token to token",
    "mirror": "acts behind a gate that differs from token to token",
}


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``h ↦ h + up (down h) + shift``.

    Attributes:
        up, down: the factors U and V.
        shift: the constant t.
    """

    up: Float64[Tensor, "d_model rank"]
    down: Float64[Tensor, "rank d_model"]
    shift: Float64[Tensor, " d_model"]

    @staticmethod
    def identity(d_model: int) -> AffineMap:
        """The map that leaves everything as it is, of rank 0.

        >>> AffineMap.identity(3).rank
        0
        """
        zero = torch.zeros(d_model, 0, dtype=torch.float64)
        return AffineMap(zero, zero.T, torch.zeros(d_model, dtype=torch.float64))

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def shifts(self) -> bool:
        """Whether it adds a constant."""
        return bool(self.shift.any())

    @property
    def does_nothing(self) -> bool:
        return not self.rank and not self.shifts

    def __call__(self, h: Float64[Tensor, "*batch d_model"]) -> Float64[Tensor, "*batch d_model"]:
        """The map applied to vectors in the last axis.

        >>> affine_map("add", {"direction": torch.tensor([0.0, 2.0]), "coefficient": 3.0})(torch.ones(2).double())
        tensor([1., 7.], dtype=torch.float64)
        """
        return h + (h @ self.down.T) @ self.up.T + self.shift

    def then(self, later: AffineMap) -> AffineMap:
        """This map, and another one after it."""
        up = torch.cat([self.up + later.up @ (later.down @ self.up), later.up], dim=1)
        shift = self.shift + later.shift + later.up @ (later.down @ self.shift)
        return AffineMap(up, torch.cat([self.down, later.down]), shift)

    def linear(self) -> AffineMap:
        """The map without its constant."""
        return AffineMap(self.up, self.down, torch.zeros_like(self.shift))

    def inverse(self) -> AffineMap:
        """The inverse of the linear part, ``I − U (I + V U)⁻¹ V``; the map must have one (rotations do)."""
        core = torch.eye(self.rank, dtype=torch.float64) + self.down @ self.up
        return AffineMap(-self.up @ torch.linalg.inv(core), self.down, torch.zeros_like(self.shift))

    def rescaled(self, gain: Float64[Tensor, " d_model"]) -> AffineMap:
        """The linear part for vectors that a gain has multiplied: ``D (I + U V) D⁻¹`` with ``D = diag(gain)``."""
        return AffineMap(gain[:, None] * self.up, self.down / gain, torch.zeros_like(self.shift))

    def compressed(self, tolerance: float = 1e-13) -> AffineMap:
        """The same map with as few factors as it needs: singular values of ``U V`` below the tolerance are left out.

        >>> turn = affine_map("selective", {"basis": torch.eye(3)[:2], "angle": 30.0})
        >>> twice = turn.then(turn)
        >>> twice.rank, twice.compressed().rank
        (4, 2)
        """
        q_up, r_up = torch.linalg.qr(self.up)
        q_down, r_down = torch.linalg.qr(self.down.T)
        left, values, right = torch.linalg.svd(r_up @ r_down.T)
        kept = int((values > tolerance).sum())
        return AffineMap((q_up @ left[:, :kept]) * values[:kept], right[:kept] @ q_down.T, self.shift)

    def annihilates(self, unit: Float64[Tensor, " d_model"], tolerance: float = 1e-6) -> bool:
        """Whether all that it returns is orthogonal to a unit vector, to float32's rounding: ``v (I + U V) = 0`` and ``v·t = 0``."""
        rest = unit + (unit @ self.up) @ self.down
        return float(rest.norm()) <= tolerance and abs(float(unit @ self.shift)) <= tolerance * max(1.0, float(self.shift.norm()))


def affine_map(name: str, parameters: Any) -> AffineMap:
    """The map of one operator.

    Args:
        name: of :data:`lens_steer.operators.catalogue.OPERATORS`.
        parameters: the operator's, one value for all rows.

    Raises:
        LensSteerError: an operator that is not affine (:data:`NOT_AFFINE`), or one with a value for each row.

    >>> affine_map("ablate", {"direction": torch.tensor([0.0, 2.0])})(torch.ones(2).double())
    tensor([1., 0.], dtype=torch.float64)
    """
    if (reason := not_affine(name, parameters)) is not None:
        raise LensSteerError(f"operator {name!r} {reason}: it is no affine map")
    if name in ("selective", "mean_phase"):
        basis = parameters["basis"].detach().cpu().double()
        zero = degrees(parameters["mean_phase"]) if name == "mean_phase" else 0.0
        writer = rotation_writer(basis, degrees(parameters["angle"]) - zero)
        return AffineMap(writer.T.contiguous(), basis, torch.zeros(basis.shape[1], dtype=torch.float64))
    if name not in ("add", "ablate", "clamp"):
        raise LensSteerError(
            f"operator {name!r} has no affine map here: write it in affine_map, or say in NOT_AFFINE why it has none"
        )
    direction = parameters["direction"].detach().cpu().double()
    nothing = AffineMap.identity(len(direction))
    if name == "add":
        return AffineMap(nothing.up, nothing.down, float(parameters["coefficient"]) * direction)
    unit = direction / direction.norm()
    return AffineMap(-unit[:, None], unit[None], float(parameters.get("target", 0.0)) * unit)


def not_affine(name: str, parameters: Any) -> str | None:
    """Why an operator is no affine map; None for one that is.

    >>> not_affine("standard", {})
    'puts every token on one ray: the length of its in-plane part is not linear in it'
    """
    if name in NOT_AFFINE:
        return NOT_AFFINE[name]
    by_row = operator(name).by_row
    value = parameters.get(by_row or "")
    if isinstance(value, Tensor) and value.ndim:
        return f"has a value of {by_row} for each of {len(value)} prompts, and weights have one for all"
    return None


def is_isometry(name: str, parameters: Any) -> bool:
    """Whether an operator keeps all lengths: a rotation in an orthonormal plane.

    >>> is_isometry("selective", {"basis": torch.eye(3)[:2]}), is_isometry("ablate", {})
    (True, False)
    """
    return name in ("selective", "mean_phase") and gram_error(parameters["basis"].detach().cpu()) <= MAX_GRAM_ERROR
