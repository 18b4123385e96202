"""Operators along one direction: addition, ablation, and the clamp of a projection.

``d`` is any vector, ``d̂ = d/‖d‖``. Arithmetic is in float32 (float64 for float64), the result is cast back. Coefficients and targets are
a scalar or one per row of the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError

Coefficient = float | int | Float[Tensor, "..."]


def add_direction(
    h: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"], coefficient: Coefficient
) -> Float[Tensor, "*batch d_model"]:
    """Constant addition ``h' = h + α d``.

    True ActAdd with d the raw difference of class means (Arditi et al., arXiv 2406.11717); STEER-COMPLIANCE with a unit d (Steering Externalities, arXiv 2602.04896).
    ``‖h'‖² − ‖h‖² = 2α d·h + α²‖d‖²``. The released code of Selective Steering runs SAS under this name.

    >>> add_direction(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), 3.0)
    tensor([1., 5.])
    """
    x, d = promote(h, direction)
    return (x + per_row(coefficient, x) * d).to(h.dtype)


def add_direction_keep_norm(
    h: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"], coefficient: Coefficient
) -> Float[Tensor, "*batch d_model"]:
    """:func:`add_direction` scaled back to each vector's own length: ``(h + αd) ‖h‖/‖h + αd‖``; a sum of zero stays zero.

    >>> add_direction_keep_norm(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0]), 1.0).norm().round()
    tensor(3.)
    """
    x, d = promote(h, direction)
    moved = x + per_row(coefficient, x) * d
    lengths = moved.norm(dim=-1, keepdim=True)
    scale = torch.where(lengths > 0, x.norm(dim=-1, keepdim=True) / lengths.clamp_min(torch.finfo(x.dtype).tiny), 0)
    return (moved * scale).to(h.dtype)


def ablate_direction(h: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Directional ablation ``h' = h − (d̂·h) d̂``. ``‖h'‖² − ‖h‖² = −(d̂·h)²``. Source: Arditi et al. (arXiv 2406.11717).

    >>> ablate_direction(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]))
    tensor([3., 0.])
    """
    return clamp_projection(h, direction, 0.0)


def clamp_projection(
    h: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"], target: Coefficient
) -> Float[Tensor, "*batch d_model"]:
    """Set the projection on d̂ to a target: ``h' = h + (z̄ − d̂·h) d̂``. Source: STEER-JSON (arXiv 2602.04896).

    >>> clamp_projection(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), 7.0)
    tensor([3., 7.])
    """
    x, d = promote(h, direction)
    unit = unit_direction(d)
    return (x + (per_row(target, x) - (x @ unit)[..., None]) * unit).to(h.dtype)


def promote(h: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors and the direction in the arithmetic's dtype, on the vectors' device."""
    if direction.shape[-1] != h.shape[-1]:
        raise LensSteerError(
            f"direction has d_model {direction.shape[-1]}, the activations have {h.shape[-1]}: use this model's own calibration"
        )
    dtype = torch.float64 if h.dtype == torch.float64 else torch.float32
    return h.to(dtype), direction.to(h.device, dtype)


def unit_direction(direction: Tensor) -> Tensor:
    """d/‖d‖; a direction that is zero or not finite is refused."""
    length = direction.norm()
    if not torch.isfinite(length) or float(length) == 0:
        raise LensSteerError("direction is zero or not finite: it has no unit vector")
    return direction / length


def per_row(value: Coefficient, x: Tensor) -> Tensor:
    """A scalar, or one value for each leading row, shaped to broadcast over the vectors; must be finite."""
    values = torch.as_tensor(value, dtype=torch.float64, device=x.device)
    if not torch.isfinite(values).all():
        raise LensSteerError(f"coefficient={value!r} is not a finite number")
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim)).to(x.dtype)
