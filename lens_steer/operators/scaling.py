"""A rotation whose result is too long or too short by a known factor: a norm error alone, with every phase kept.

No published method is this operator. It is for the question what an error of the norm does by itself.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.operators.rotation import Angle, prepared, rotation_writer, turn


def scaled_rotation(
    h: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "2 d_model"], angle: Angle, scale: float | int
) -> Float[Tensor, "*batch d_model"]:
    """Rotate by a relative angle and multiply the result: ``h' = s · SS_θ(h)``.

    The direction of ``h'`` is that of SS, and ``‖h'‖ = s ‖h‖`` for an orthonormal basis, so the relative error of the
    norm is ``s − 1`` for every vector. At ``s = 1`` the result is that of SS to the bit.

    Args:
        h: The activations.
        basis: The plane; its rows b1, b2 are orthonormal.
        angle: The angle in degrees, or one for each row of the batch.
        scale: The factor s, above zero.

    Raises:
        LensSteerError: If the scale is not a finite number above zero, or the basis has another width than the vectors.

    >>> import torch
    >>> scaled_rotation(torch.tensor([3.0, 4.0, 1.0]), torch.eye(3)[:2], 180.0, scale=2.0).round()
    tensor([-6., -8.,  2.])
    """
    b = prepared(basis, h)
    return turn_and_scale(h, b, rotation_writer(b, angle), factor(scale))


def turn_and_scale(
    h: Float[Tensor, "*batch d_model"],
    basis: Float[Tensor, "2 d_model"],
    writer: Float[Tensor, "*rows 2 d_model"],
    scale: float,
) -> Float[Tensor, "*batch d_model"]:
    """Return ``s (h + c W)``: :func:`scaled_rotation` with a precomputed writer, in the dtype of the basis.

    This is the function that a hook runs.
    """
    return (scale * turn(h.to(basis.dtype), basis, writer)).to(h.dtype)


def factor(scale: float | int) -> float:
    """Return the factor of a scaled rotation as a float.

    Raises:
        LensSteerError: If it is not a finite number above zero.

    >>> factor(2)
    2.0
    """
    if not math.isfinite(scale) or scale <= 0:
        raise LensSteerError(f"scale={scale!r} is not a finite number above zero: give one such as 1.05")
    return float(scale)
