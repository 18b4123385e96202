"""Projection-aware operators: a gate on each token's projection decides whether it is moved (arXiv 2604.08169).

With the unit direction v̂ and ``ρ = h·v̂``, a token is moved where ``ρ < m`` (strictly), or with ``gate="above"`` where ``ρ > m``:

    StTP   ρ' = s                        to a target
    StMP   ρ' = ρ + 2α (m − ρ)           mirrored at the threshold for α = 1, to it for α = ½

The orthogonal complement is never touched, an ungated token is returned as it is.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators.addition import Coefficient, per_row, promote, unit_direction

GATES = ("below", "above")


def target_projection(
    h: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, " d_model"],
    *,
    threshold: float | int,
    target: Coefficient,
    gate: str = "below",
) -> Float[Tensor, "*batch d_model"]:
    """StTP: gated tokens get the projection s, ``h' = h + (s − ρ) v̂``. Idempotent where s is not on the gated side. Source: Eq. 4.

    >>> target_projection(torch.tensor([[-1.0, 5.0], [1.0, 5.0]]), torch.tensor([1.0, 0.0]), threshold=0.0, target=2.0)
    tensor([[2., 5.],
            [1., 5.]])
    """
    x, unit, rho, fires = _gated(h, direction, threshold, gate)
    moved = x + (per_row(target, x) - rho[..., None]) * unit
    return torch.where(fires[..., None], moved.to(h.dtype), h)


def mirror_projection(
    h: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, " d_model"],
    *,
    threshold: float | int,
    coefficient: Coefficient = 1.0,
    cap: float | int | None = None,
    gate: str = "below",
) -> Float[Tensor, "*batch d_model"]:
    """StMP: gated tokens are carried across the threshold, ``h' = h + 2α (m − ρ) v̂``. Idempotent for α ≥ ½. Source: Eq. 5.

    ``cap`` bounds the new projection from above (the released operators use μ⁺ + 40σ⁺, for both gates).

    >>> mirror_projection(torch.tensor([[-1.0, 5.0], [1.0, 5.0]]), torch.tensor([1.0, 0.0]), threshold=0.0)
    tensor([[1., 5.],
            [1., 5.]])
    """
    x, unit, rho, fires = _gated(h, direction, threshold, gate)
    landed = rho[..., None] + 2 * per_row(coefficient, x) * (threshold - rho[..., None])
    if cap is not None:
        landed = landed.clamp_max(cap)
    moved = x + (landed - rho[..., None]) * unit
    return torch.where(fires[..., None], moved.to(h.dtype), h)


def _gated(
    h: Tensor, direction: Tensor, threshold: float | int, gate: str
) -> tuple[Tensor, Tensor, Float[Tensor, "..."], Bool[Tensor, "..."]]:
    """The vectors, the unit direction, every projection, and where the gate fires."""
    if gate not in GATES:
        raise LensSteerError(f"gate={gate!r}: use one of {', '.join(GATES)}")
    x, d = promote(h, direction)
    unit = unit_direction(d)
    rho = x @ unit
    return x, unit, rho, (rho < threshold) if gate == "below" else (rho > threshold)
