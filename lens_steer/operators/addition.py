"""Operators along one direction: addition, ablation, and the clamp of a projection.

``d`` is any vector and ``d̂ = d/‖d‖``. The arithmetic is in float32 (float64 for float64), and the result is cast back.
Coefficients and targets are a scalar or one per row of the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators.exact import exact, prepared

Coefficient = float | int | Float[Tensor, "..."]


def add_direction(
    h: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"], coefficient: Coefficient
) -> Float[Tensor, "*batch d_model"]:
    """Add a constant multiple of a direction: ``h' = h + α d``.

    This is ActAdd if d is the raw difference of class means (Arditi et al., arXiv 2406.11717), STEER-COMPLIANCE if d is
    a unit vector (Steering Externalities, arXiv 2602.04896), and SwFC if ``d = Δμ v̂`` (arXiv 2604.08169, Eq. 3).
    ``‖h'‖² − ‖h‖² = 2α d·h + α²‖d‖²``. The released code of Selective Steering runs SAS under the name ActAdd.

    >>> add_direction(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), 3.0)
    tensor([1., 5.])
    """
    return shift(h, displacement(prepared(direction, h), coefficient))


def add_direction_keep_norm(
    h: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"], coefficient: Coefficient
) -> Float[Tensor, "*batch d_model"]:
    """Apply :func:`add_direction` and scale each vector back to its own length: ``(h + αd) ‖h‖/‖h + αd‖``.

    A sum of zero stays zero.

    >>> add_direction_keep_norm(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0]), 1.0).norm().round()
    tensor(3.)
    """
    return shift_keep_norm(h, displacement(prepared(direction, h), coefficient))


def ablate_direction(
    h: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """Remove the part along a direction: ``h' = h − (d̂·h) d̂``.

    ``‖h'‖² − ‖h‖² = −(d̂·h)²``. Source: directional ablation, Arditi et al. (arXiv 2406.11717).

    >>> ablate_direction(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]))
    tensor([3., 0.])
    """
    return clamp_projection(h, direction, 0.0)


def clamp_projection(
    h: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"], target: Coefficient
) -> Float[Tensor, "*batch d_model"]:
    """Set the projection on d̂ to a target: ``h' = h + (z̄ − d̂·h) d̂``.

    Source: STEER-JSON (arXiv 2602.04896).

    >>> clamp_projection(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), 7.0)
    tensor([3., 7.])
    """
    unit = unit_direction(prepared(direction, h))
    return set_projection(h, unit, values("target", target, unit))


def displacement(direction: Float[Tensor, " d_model"], coefficient: Coefficient) -> Float[Tensor, "*rows d_model"]:
    """Return ``α d`` in the dtype of the direction, the step that :func:`shift` adds.

    >>> displacement(torch.tensor([0.0, 2.0]), 3)
    tensor([0., 6.])
    """
    return (exact(values("coefficient", coefficient, direction))[..., None] * exact(direction)).to(direction)


def shift(h: Float[Tensor, "*batch d_model"], step: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Return ``h + αd`` with a precomputed ``αd``, in its dtype; this is what a hook runs for :func:`add_direction`."""
    return (h.to(step.dtype) + across(step, h.ndim)).to(h.dtype)


def shift_keep_norm(
    h: Float[Tensor, "*batch d_model"], step: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """Apply :func:`add_direction_keep_norm` with a precomputed ``αd``; this is what a hook runs."""
    x = h.to(step.dtype)
    moved = x + across(step, h.ndim)
    lengths = moved.norm(dim=-1, keepdim=True)
    scale = torch.where(lengths > 0, x.norm(dim=-1, keepdim=True) / lengths.clamp_min(torch.finfo(x.dtype).tiny), 0)
    return (moved * scale).to(h.dtype)


def set_projection(
    h: Float[Tensor, "*batch d_model"], unit: Float[Tensor, " d_model"], target: Float[Tensor, "*rows"]
) -> Float[Tensor, "*batch d_model"]:
    """Apply :func:`clamp_projection` or :func:`ablate_direction` with a precomputed unit direction, in its dtype.

    This is the function that a hook runs.
    """
    x = h.to(unit.dtype)
    wanted = across(target[..., None], h.ndim) if target.ndim else target
    return torch.addcmul(x, wanted - x @ unit[:, None], unit).to(h.dtype)


def unit_direction(direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """Return d/‖d‖.

    Raises:
        LensSteerError: If the direction is zero or not finite.

    >>> unit_direction(torch.tensor([0.0, 2.0]))
    tensor([0., 1.])
    """
    length = direction.norm()
    if not torch.isfinite(length) or not bool(length):
        raise LensSteerError("direction is zero or not finite: it has no unit vector")
    return direction / length


def values(name: str, value: Coefficient, like: Tensor) -> Float[Tensor, "*rows"]:
    """Return a scalar parameter, or one value of it per leading row, in the dtype of ``like``.

    Raises:
        LensSteerError: If a value is not finite in that dtype; the message gives the parameter's ``name``.

    >>> values("target", 2, torch.zeros(3))
    tensor(2.)
    """
    found = exact(value).to(like)
    if not torch.isfinite(found).all():
        raise LensSteerError(f"{name}={value!r} is not a finite number in {str(like.dtype).removeprefix('torch.')}")
    return found


def across(by_row: Float[Tensor, "*rows width"], ndim: int) -> Float[Tensor, "..."]:
    """Reshape one vector per leading row so that it broadcasts over the axes in between.

    The result broadcasts against a tensor with ``ndim`` dimensions, whose first axes are the rows and whose last axis
    is the width.
    """
    missing = 0 if by_row.ndim == 1 else max(0, ndim - by_row.ndim)
    return by_row.reshape(*by_row.shape[:-1], *(1,) * missing, by_row.shape[-1])
