"""Float64, on whatever device there is."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


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
