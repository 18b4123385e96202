"""The dtype and the device of the arithmetic: float64 on whatever device there is, and vectors made ready for it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError


def exact_device(device: torch.device) -> torch.device:
    """Return the device on which values of a device are computed in float64.

    It is the same device, or the CPU if the device (MPS) has no float64.

    >>> exact_device(torch.device("cuda", 1)), exact_device(torch.device("mps"))
    (device(type='cuda', index=1), device(type='cpu'))
    """
    return torch.device("cpu") if device.type == "mps" else device


def exact(values: Any) -> Float[Tensor, "..."]:
    """Return a tensor in float64, on :func:`exact_device` of its device; numbers become a tensor on the CPU.

    >>> exact(torch.tensor([1, 2])), exact(0.1)
    (tensor([1., 2.], dtype=torch.float64), tensor(0.1000, dtype=torch.float64))
    """
    if isinstance(values, Tensor):
        return values.to(exact_device(values.device), torch.float64)
    return torch.as_tensor(values, dtype=torch.float64)


def prepared(
    vectors: Float[Tensor, "*rows d_model"], h: Float[Tensor, "... width"], name: str = "direction"
) -> Float[Tensor, "*rows d_model"]:
    """Return a direction or a basis on the device of activations, in the dtype of the arithmetic.

    The dtype is float64 for float64 activations and float32 for all others.

    Raises:
        LensSteerError: If the vectors have another width than the activations; the message names them by ``name``.

    >>> prepared(torch.ones(2, dtype=torch.float16), torch.zeros(5, 2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    if vectors.shape[-1] != h.shape[-1]:
        raise LensSteerError(
            f"{name} has d_model {vectors.shape[-1]}, the activations have {h.shape[-1]}: use this model's "
            "own calibration"
        )
    return vectors.to(h.device, torch.float64 if h.dtype == torch.float64 else torch.float32)
