"""Five rotations in a steering plane: standard, adaptive and selective steering, and the halves of the standard one.

With rows b1, b2 of an orthonormal basis B, ``c = (h·b1, h·b2)`` and ``r = ‖c‖``::

    SAS_θ(h) = h + (r (cos θ, sin θ) − c) B          absolute angle; every token goes to one ray
    AAS_θ(h) = SAS_θ(h) where h·b1 > τ, else h        the same, behind a gate
    SS_θ(h)  = h + (R_θ c − c) B                      relative angle; an isometry
    X1_θ(h)  = SS_{θ − φ̄}(h)                          the rotating half of SAS, φ̄ the mean phase
    X2(h)    = SAS_φ̄(h)                               its collapsing half; SAS_θ = X1_θ ∘ X2

No d×d matrix is formed. The part of the computation that depends only on the angle is a *writer*: a few rows of d_model
numbers, which are computed once. SS is ``h + c W`` with ``W = (R_θ − I)ᵀ B``, SAS is ``h + (c, r) W`` with
``W = (−B; u_θ B)``, where ``u_θ = (cos θ, sin θ)``. The arithmetic is in float32 for every hidden dtype (float64 for
float64), and the result is cast back. Angles are in degrees, either a scalar or one per row of the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators.exact import exact, exact_device, prepared
from lens_steer.operators.parameters import GATE_AXIS

Angle = float | int | Float[Tensor, "..."]


def standard_angular(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: Angle
) -> Float[Tensor, "*batch d_model"]:
    """Put the in-plane part of every vector at one absolute angle, and keep its length.

    ``h' = h − Ph + ‖Ph‖ (cos θ b1 + sin θ b2)`` with ``Ph = c B``. For an orthonormal basis ‖h‖ is kept. For any other
    basis the formula is applied as written, with ``‖Ph‖² = c (B Bᵀ) cᵀ``. A vector orthogonal to the plane is
    unchanged. Source: Angular Steering (arXiv 2510.26243); Selective Steering, Eq. 2.

    >>> standard_angular(torch.tensor([3.0, 4.0, 1.0]), torch.eye(3)[:2], 90.0)
    tensor([0., 5., 1.])
    """
    b = prepared(basis, h, "basis")
    return put_at_phase(h, b, phase_writer(b, angle), gram=gram_unless_identity(b))


def adaptive_angular(
    h: Float[Tensor, "*batch d_model"],
    basis: Float[Tensor, "2 d_model"],
    angle: Angle,
    *,
    threshold: float | int = 0.0,
    gate_axis: int = 0,
) -> Float[Tensor, "*batch d_model"]:
    """Apply :func:`standard_angular` where ``h·b1 > threshold`` (strictly); return all other vectors unchanged.

    With ``gate_axis=1`` the gate reads the projection on b2. Source: Angular Steering (adaptive mode); Selective
    Steering, section 2.

    >>> adaptive_angular(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.eye(2), 90.0).round()
    tensor([[ 0.,  1.],
            [-1.,  0.]])
    """
    b = prepared(basis, h, "basis")
    return put_gated_at_phase(
        h, b, phase_writer(b, angle), gram=gram_unless_identity(b), threshold=threshold, gate_axis=gate_axis
    )


def selective_rotation(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: Angle
) -> Float[Tensor, "*batch d_model"]:
    """Rotate the in-plane part of every vector by a relative angle, counter-clockwise from b1 to b2.

    ``h' = (I − P + B R_θ Bᵀ) h``. It keeps ‖h‖ and all inner products, and is the identity at 0 and 360. Source:
    Selective Steering, Eqs. 6 and 10.

    >>> selective_rotation(torch.tensor([3.0, 4.0, 1.0]), torch.eye(3)[:2], 180.0).round()
    tensor([-3., -4.,  1.])
    """
    b = prepared(basis, h, "basis")
    return turn(h, b, rotation_writer(b, angle))


def rotate_by_mean_phase(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: Angle, mean_phase: Angle
) -> Float[Tensor, "*batch d_model"]:
    """Apply the rotating half of SAS (X1): ``SS_{θ − φ̄}``.

    A token at the mean phase φ̄ lands where SAS puts it; all other tokens keep their phase relative to it. Together
    with :func:`collapse_phase`, ``SAS_θ = X1 ∘ X2`` for the same φ̄.

    >>> rotate_by_mean_phase(torch.tensor([0.0, 2.0]), torch.eye(2), 180.0, mean_phase=90.0).round().abs()
    tensor([2., 0.])
    """
    return selective_rotation(h, basis, degrees(angle) - degrees(mean_phase))


def collapse_phase(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], mean_phase: Angle
) -> Float[Tensor, "*batch d_model"]:
    """Apply the collapsing half of SAS (X2): put every in-plane part at the mean phase φ̄.

    Lengths are kept, and the mean rotation is zero.

    >>> collapse_phase(torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.eye(2), mean_phase=90.0).round()
    tensor([[0., 2.],
            [0., 3.]])
    """
    return standard_angular(h, basis, mean_phase)


def rotation_writer(basis: Float[Tensor, "2 d_model"], angle: Angle) -> Float[Tensor, "*rows 2 d_model"]:
    """Return ``W = (R_θ − I)ᵀ B``, the rows that :func:`turn` adds for each in-plane coordinate.

    They are exactly zero at every multiple of 360.

    >>> rotation_writer(torch.eye(2), 180.0).round()
    tensor([[-2.,  0.],
            [-0., -2.]])
    """
    _, sin, less = _unit(angle, basis)
    turned = torch.stack([torch.stack([less, sin], dim=-1), torch.stack([-sin, less], dim=-1)], dim=-2)  # (R − I)ᵀ
    return (turned @ exact(basis)).to(basis)


def phase_writer(basis: Float[Tensor, "2 d_model"], angle: Angle) -> Float[Tensor, "*rows 3 d_model"]:
    """Return ``W = (−B; cos θ b1 + sin θ b2)``.

    These are the rows that :func:`put_at_phase` adds for each in-plane coordinate and for the radius.

    >>> phase_writer(torch.eye(2), 90.0).round()
    tensor([[-1., -0.],
            [-0., -1.],
            [ 0.,  1.]])
    """
    cos, sin, _ = _unit(angle, basis)
    b = exact(basis)
    ray = torch.stack([cos, sin], dim=-1)[..., None, :] @ b
    return torch.cat([(-b).expand(*ray.shape[:-2], 2, -1), ray], dim=-2).to(basis)


def turn(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], writer: Float[Tensor, "*rows 2 d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """Return ``h + c W``: :func:`selective_rotation` with a precomputed writer, in the dtype of the basis.

    This is the function that a hook runs.
    """
    x = h.to(basis.dtype)
    return _add_written(x, torch.nn.functional.linear(x, basis), writer).to(h.dtype)


def put_at_phase(
    h: Float[Tensor, "*batch d_model"],
    basis: Float[Tensor, "2 d_model"],
    writer: Float[Tensor, "*rows 3 d_model"],
    *,
    gram: Float[Tensor, "2 2"] | None,
) -> Float[Tensor, "*batch d_model"]:
    """Return ``h + (c, r) W``: :func:`standard_angular` with a precomputed writer, in the dtype of the basis.

    This is the function that a hook runs.
    """
    x = h.to(basis.dtype)
    c = torch.nn.functional.linear(x, basis)
    radius = c.norm(dim=-1, keepdim=True) if gram is None else _root(((c @ gram) * c).sum(dim=-1, keepdim=True))
    return _add_written(x, torch.cat([c, radius], dim=-1), writer).to(h.dtype)


def put_gated_at_phase(
    h: Float[Tensor, "*batch d_model"],
    basis: Float[Tensor, "2 d_model"],
    writer: Float[Tensor, "*rows 3 d_model"],
    *,
    gram: Float[Tensor, "2 2"] | None,
    threshold: float | int,
    gate_axis: int,
) -> Float[Tensor, "*batch d_model"]:
    """Apply :func:`put_at_phase` where :func:`above_threshold` is True; other vectors keep every byte."""
    fires = above_threshold(h, basis, threshold=threshold, gate_axis=gate_axis)
    return torch.where(fires[..., None], put_at_phase(h, basis, writer, gram=gram), h)


def gram_unless_identity(basis: Float[Tensor, "2 d_model"]) -> Float[Tensor, "2 2"] | None:
    """Return ``G = B Bᵀ``, or None if G is the identity up to the rounding of the basis' dtype.

    With None, ``‖Ph‖ = ‖c‖``. If the basis requires gradients, G is always returned.

    >>> gram_unless_identity(torch.eye(3)[:2]) is None, gram_unless_identity(2 * torch.eye(2))
    (True, tensor([[4., 0.],
            [0., 4.]]))
    """
    gram = exact(basis) @ exact(basis).mT
    error = (gram.detach() - torch.eye(2, dtype=gram.dtype, device=gram.device)).abs().max()
    return None if not basis.requires_grad and float(error) <= 8 * torch.finfo(basis.dtype).eps else gram.to(basis)


def above_threshold(
    h: Float[Tensor, "*batch d_model"],
    basis: Float[Tensor, "2 d_model"],
    *,
    threshold: float | int = 0.0,
    gate_axis: int = 0,
) -> Bool[Tensor, "*batch"]:
    """Return the gate of AAS: True where ``h·b`` exceeds the threshold strictly.

    b is b1 (``gate_axis=0``) or b2 (``gate_axis=1``).

    Raises:
        LensSteerError: If ``gate_axis`` is neither 0 nor 1.

    >>> above_threshold(torch.tensor([[1.0, -1.0], [0.0, 1.0]]), torch.eye(2), threshold=0.0)
    tensor([ True, False])
    """
    if gate_axis not in GATE_AXIS.choices:
        raise LensSteerError(f"gate_axis={gate_axis!r}: use 0 (b1) or 1 (b2)")
    return (h.to(basis.dtype) @ basis[gate_axis]) > threshold


def degrees(angle: Angle) -> Tensor:
    """Return one or several angles in float64.

    Raises:
        LensSteerError: If an angle is not finite.

    >>> degrees(200)
    tensor(200., dtype=torch.float64)
    """
    values = exact(angle)
    if not torch.isfinite(values).all():
        raise LensSteerError(f"angle={angle!r} is not a finite number of degrees")
    return values


def _root(square: Tensor) -> Tensor:
    """Return the square root of numbers that are negative only by rounding; the gradient at zero is zero."""
    positive = square > 0
    # The inner torch.where keeps zeros away from sqrt, whose gradient at zero is infinite and would become NaN.
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _add_written(x: Tensor, coordinates: Tensor, writer: Tensor) -> Tensor:
    """Return ``x + coordinates @ writer``, with one writer for all vectors or one per leading row."""
    if writer.ndim == 2:
        return x + coordinates @ writer
    by_row = coordinates.reshape(*writer.shape[:-2], -1, coordinates.shape[-1])
    return x + (by_row @ writer).reshape(x.shape)


def _unit(angle: Angle, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return cos θ, sin θ and cos θ − 1 in float64 for one or several angles in degrees.

    The angle is first wrapped to (−180, 180]. Every multiple of 360 therefore gives exactly (1, 0, 0), and the rotation
    by it is the identity in every dtype. The form cos θ − 1 = −2 sin²(θ/2) is also accurate for small angles.
    """
    radians = torch.deg2rad(180 - torch.remainder(180 - degrees(angle).to(exact_device(like.device)), 360))
    return torch.cos(radians), torch.sin(radians), -2 * torch.sin(radians / 2).square()
