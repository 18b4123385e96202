"""The three rotations in a steering plane: standard and adaptive angular steering, and selective steering.

With rows b1, b2 of an orthonormal basis, ``c = (h·b1, h·b2)`` and ``r = ‖c‖``:

    SAS_θ(h) = h + (r (cos θ, sin θ) − c) B          absolute angle; every token goes to one ray
    AAS_θ(h) = SAS_θ(h) where h·b1 > τ, else h        the same behind a gate
    SS_θ(h)  = h + (R_θ c − c) B                      relative angle; an isometry

No d×d matrix is formed: two inner products and two scaled additions a token. Whatever the hidden dtype, the arithmetic is
in float32 (float64 for float64) and the result is cast back. Angles are in degrees, a scalar or one per row of the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError

Angle = float | int | Float[Tensor, "..."]


def standard_angular(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: Angle
) -> Float[Tensor, "*batch d_model"]:
    """Put the in-plane part of every vector at one absolute angle, keeping its length.

    ``h' = h − Ph + ‖Ph‖ (cos θ b1 + sin θ b2)``. Keeps ‖h‖ for an orthonormal basis; a vector orthogonal to the plane is left as it is.
    Source: Angular Steering (arXiv 2510.26243); Selective Steering, Eq. 2.

    >>> standard_angular(torch.tensor([3.0, 4.0, 1.0]), torch.eye(3)[:2], 90.0)
    tensor([0., 5., 1.])
    """
    x, b, c = _in_plane(h, basis)
    cos, sin, _ = _unit(angle, x)
    radius = c.norm(dim=-1)
    target = torch.stack([radius * cos, radius * sin], dim=-1)
    return (x + (target - c) @ b).to(h.dtype)


def adaptive_angular(
    h: Float[Tensor, "*batch d_model"],
    basis: Float[Tensor, "2 d_model"],
    angle: Angle,
    *,
    threshold: float | int = 0.0,
    gate_axis: int = 0,
) -> Float[Tensor, "*batch d_model"]:
    """:func:`standard_angular` where ``h·b1 > threshold`` (strictly), the vector itself elsewhere; ``gate_axis=1`` gates on b2.

    Source: Angular Steering (adaptive mode); Selective Steering, section 2.

    >>> adaptive_angular(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.eye(2), 90.0).round()
    tensor([[ 0.,  1.],
            [-1.,  0.]])
    """
    gate = (h.to(_compute_dtype(h)) @ basis[gate_axis].to(h.device, _compute_dtype(h))) > threshold
    return torch.where(gate[..., None], standard_angular(h, basis, angle), h)


def selective_rotation(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: Angle
) -> Float[Tensor, "*batch d_model"]:
    """Rotate the in-plane part of every vector by a relative angle, counter-clockwise from b1 to b2.

    ``h' = (I − P + B R_θ Bᵀ) h``. Keeps ‖h‖ and all inner products; the identity at 0 and 360.
    Source: Selective Steering, Eqs. 6 and 10.

    >>> selective_rotation(torch.tensor([3.0, 4.0, 1.0]), torch.eye(3)[:2], 180.0).round()
    tensor([-3., -4.,  1.])
    """
    x, b, c = _in_plane(h, basis)
    _, sin, less = _unit(angle, x)
    moved = torch.stack([less * c[..., 0] - sin * c[..., 1], sin * c[..., 0] + less * c[..., 1]], dim=-1)  # R c − c
    return (x + moved @ b).to(h.dtype)


def rotate_by_mean_phase(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: Angle, mean_phase: Angle
) -> Float[Tensor, "*batch d_model"]:
    """The rotating half of SAS (X1): ``SS_{θ − φ̄}``. A token whose phase is the mean φ̄ lands where SAS puts it; all others keep their
    own phase relative to it. With :func:`collapse_phase`, ``SAS_θ = X1 ∘ X2`` at one φ̄."""
    return selective_rotation(h, basis, _degrees(angle) - _degrees(mean_phase))


def collapse_phase(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], mean_phase: Angle
) -> Float[Tensor, "*batch d_model"]:
    """The collapsing half of SAS (X2): every in-plane part is put at the mean phase φ̄, lengths kept, nothing rotated on average."""
    return standard_angular(h, basis, mean_phase)


def _compute_dtype(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype == torch.float64 else torch.float32


def _in_plane(h: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors and the basis in the arithmetic's dtype, and the two coordinates of every vector."""
    if basis.shape[-1] != h.shape[-1]:
        raise LensSteerError(
            f"basis has d_model {basis.shape[-1]}, the activations have {h.shape[-1]}: use this model's own calibration"
        )
    dtype = _compute_dtype(h)
    x, b = h.to(dtype), basis.to(h.device, dtype)
    return x, b, x @ b.T


def _degrees(angle: Angle) -> Tensor:
    """An angle, or several, in float64; must be finite."""
    degrees = torch.as_tensor(angle, dtype=torch.float64)
    if not torch.isfinite(degrees).all():
        raise LensSteerError(f"angle={angle!r} is not a finite number of degrees")
    return degrees


def _unit(angle: Angle, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """cos θ, sin θ and cos θ − 1 of an angle in degrees, one for all vectors or one for each leading row of them.

    The angle is wrapped to (−180, 180] first, so every multiple of 360 gives exactly (1, 0, 0) and the identity angle is the
    identity in every dtype; cos θ − 1 = −2 sin²(θ/2) is accurate near it too.
    """
    degrees = _degrees(angle).to(x.device)
    radians = torch.deg2rad(180 - torch.remainder(180 - degrees, 360))
    shape = degrees.shape + (1,) * (x.ndim - 1 - degrees.ndim)
    parts = torch.cos(radians), torch.sin(radians), -2 * torch.sin(radians / 2).square()
    return tuple(part.reshape(shape).to(x.dtype) for part in parts)  # type: ignore[return-value]
