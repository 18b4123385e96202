"""Affine maps ``h ↦ h + U (V h) + t`` of low rank, in float64, and the operators that are such maps.

A rotation has ``V = B`` (rows b1, b2) and ``U = Bᵀ(R_θ − I)``. An ablation has ``V = v̂ᵀ`` and ``U = −v̂``. A clamp has
the same factors and ``t = z̄ v̂``. An addition has only ``t = α d``. Maps are composed in the order of their operators,
one after the other, and their ranks add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lens_steer.operators.rotation import Angle, rotation_writer


@dataclass(frozen=True, eq=False)
class AffineMap:
    """The affine map ``h ↦ h + up (down h) + shift``.

    Attributes:
        up, down: The factors U and V.
        shift: The constant t.
    """

    up: Float64[Tensor, "d_model rank"]
    down: Float64[Tensor, "rank d_model"]
    shift: Float64[Tensor, " d_model"]

    @staticmethod
    def identity(d_model: int) -> AffineMap:
        """Return the identity map, of rank 0.

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
        """True if the map adds a constant that is not zero."""
        return bool(self.shift.any())

    @property
    def does_nothing(self) -> bool:
        return not self.rank and not self.shifts

    def __call__(self, h: Float64[Tensor, "*batch d_model"]) -> Float64[Tensor, "*batch d_model"]:
        """Apply the map to the vectors in the last axis.

        >>> addition_map(torch.tensor([0.0, 2.0]), 3.0)(torch.ones(2).double())
        tensor([1., 7.], dtype=torch.float64)
        """
        return h + (h @ self.down.T) @ self.up.T + self.shift

    def then(self, later: AffineMap) -> AffineMap:
        """Return the composition of this map with a later one."""
        # (I + U₂V₂)(h + U₁V₁h + t₁) + t₂ = h + (U₁ + U₂V₂U₁) V₁h + U₂ V₂h + t₁ + t₂ + U₂V₂t₁: the factors of both maps
        # stand side by side, so the rank of the result is the sum of the ranks.
        up = torch.cat([self.up + later.up @ (later.down @ self.up), later.up], dim=1)
        shift = self.shift + later.shift + later.up @ (later.down @ self.shift)
        return AffineMap(up, torch.cat([self.down, later.down]), shift)

    def linear(self) -> AffineMap:
        """Return the map without its constant."""
        return AffineMap(self.up, self.down, torch.zeros_like(self.shift))

    def inverse(self) -> AffineMap:
        """Return the inverse of the linear part, ``I − U (I + V U)⁻¹ V``.

        The linear part must be invertible, as that of a rotation is.
        """
        core = torch.eye(self.rank, dtype=torch.float64) + self.down @ self.up
        return AffineMap(-self.up @ torch.linalg.inv(core), self.down, torch.zeros_like(self.shift))

    def rescaled(self, gain: Float64[Tensor, " d_model"]) -> AffineMap:
        """Return the linear part for vectors multiplied by a gain: ``D (I + U V) D⁻¹`` with ``D = diag(gain)``."""
        return AffineMap(gain[:, None] * self.up, self.down / gain, torch.zeros_like(self.shift))

    def compressed(self, tolerance: float = 1e-13) -> AffineMap:
        """Return the same map with the lowest possible rank.

        Singular values of ``U V`` below the tolerance are dropped.

        >>> turn = rotation_map(torch.eye(3)[:2], 30.0)
        >>> twice = turn.then(turn)
        >>> twice.rank, twice.compressed().rank
        (4, 2)
        """
        # The QR factors reduce the singular value decomposition of the d_model × d_model matrix U V to one of the small
        # matrix r_up r_downᵀ, which has the same singular values.
        q_up, r_up = torch.linalg.qr(self.up)
        q_down, r_down = torch.linalg.qr(self.down.T)
        left, values, right = torch.linalg.svd(r_up @ r_down.T)
        kept = int((values > tolerance).sum())
        return AffineMap((q_up @ left[:, :kept]) * values[:kept], right[:kept] @ q_down.T, self.shift)

    def annihilates(self, unit: Float64[Tensor, " d_model"], tolerance: float = 1e-6) -> bool:
        """Return True if every output of the map is orthogonal to a unit vector v, up to float32 rounding.

        The conditions are ``v (I + U V) = 0`` and ``v·t = 0``.
        """
        rest = unit + (unit @ self.up) @ self.down
        return float(rest.norm()) <= tolerance and abs(float(unit @ self.shift)) <= tolerance * max(
            1.0, float(self.shift.norm())
        )


def rotation_map(basis: Float[Tensor, "2 d_model"], angle: Angle) -> AffineMap:
    """Return the map that rotates the in-plane part by a relative angle in degrees.

    >>> rotation_map(torch.eye(2), 90.0)(torch.tensor([2.0, 0.0]).double()).round()
    tensor([0., 2.], dtype=torch.float64)
    """
    rows = basis.detach().cpu().double()
    return AffineMap(rotation_writer(rows, angle).T.contiguous(), rows, torch.zeros(rows.shape[1], dtype=torch.float64))


def addition_map(direction: Float[Tensor, " d_model"], coefficient: float | int) -> AffineMap:
    """Return the map that adds a multiple of a direction.

    >>> addition_map(torch.tensor([0.0, 2.0]), 3.0).rank
    0
    """
    nothing = AffineMap.identity(len(direction))
    return AffineMap(nothing.up, nothing.down, float(coefficient) * direction.detach().cpu().double())


def clamp_map(direction: Float[Tensor, " d_model"], target: float | int) -> AffineMap:
    """Return the map that sets the projection on a direction to a target; a target of 0 gives the ablation.

    >>> clamp_map(torch.tensor([0.0, 2.0]), 0.0)(torch.ones(2).double())
    tensor([1., 0.], dtype=torch.float64)
    """
    vector = direction.detach().cpu().double()
    unit = vector / vector.norm()
    return AffineMap(-unit[:, None], unit[None], float(target) * unit)
