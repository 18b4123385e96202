"""What a norm computes, tried out on the module itself: which formula, with which gain."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

EPSILON = 1e-3  # Rows of length √d or more: what a norm adds to the variance hardly shows.


def norm_formula(module: nn.Module) -> str | None:
    """Return what a module computes if it is a norm, and None if it is not.

    A copy of the module gets a random gain ``w`` (and a bias ``b``), and is compared with each formula on random
    vectors, whose mean is not 0. The module itself is not changed, and may be on the meta device.

    Returns:
        ``"RMSNorm"`` (h / rms(h) · w), ``"RMSNorm (1 + w)"``, ``"LayerNorm"`` ((h − mean(h)) / std(h) · w),
        ``"LayerNorm (1 + w)"``, each with ``" + b"`` if it has a bias, or with ``" without gain"``; or None.

    >>> norm_formula(nn.LayerNorm(8)), norm_formula(nn.Linear(8, 8)), norm_formula(nn.RMSNorm(8))
    ('LayerNorm + b', None, 'RMSNorm')
    """
    given = dict(module.named_parameters())
    if any(p.ndim != 1 for p in given.values()) or len(given) > 2 or next(module.children(), None) is not None:
        return None
    sizes = {p.shape[0] for p in given.values()}
    if len(sizes) > 1 or isinstance(module, nn.Identity | nn.Dropout):
        return None
    width = sizes.pop() if sizes else _width(module)
    draw = torch.Generator().manual_seed(0)
    tried = copy.deepcopy(module).to_empty(device="cpu").float()
    for parameter in tried.parameters():
        parameter.data = torch.rand(parameter.shape, generator=draw) + 0.5
    parameters = [p.detach() for p in tried.parameters()]
    gain = next((p.detach() for n, p in tried.named_parameters() if "bias" not in n), None)
    bias = next((p for p in parameters if p is not gain and (gain is None or p.data_ptr() != gain.data_ptr())), None)
    vectors = 3 * torch.randn(1, 4, width, generator=draw) + 1
    try:
        with torch.no_grad():
            found = tried(vectors)
    except Exception:  # a module that takes other inputs, or needs a buffer
        return None
    if not isinstance(found, Tensor) or found.shape != vectors.shape:
        return None
    return _named(found, vectors, gain, bias)


def _named(found: Tensor, vectors: Tensor, gain: Tensor | None, bias: Tensor | None) -> str | None:
    gains = {"": gain, " (1 + w)": 1 + gain} if gain is not None else {" without gain": torch.ones(1)}
    for name, normed in FORMULAS.items():
        for how, by in gains.items():
            expected = normed(vectors) * by + (0 if bias is None else bias)
            if torch.allclose(found, expected, atol=EPSILON, rtol=EPSILON):
                return f"{name}{how}{'' if bias is None else ' + b'}"
    return None


def _rms(h: Tensor) -> Tensor:
    return h / h.square().mean(-1, keepdim=True).sqrt()


def _layer(h: Tensor) -> Tensor:
    return _rms(h - h.mean(-1, keepdim=True))


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {"RMSNorm": _rms, "LayerNorm": _layer}


def _width(module: nn.Module) -> int:
    """Return the width of a norm without parameters, from its own attributes; 8 where it takes any."""
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if isinstance(shape, tuple | list | torch.Size) and len(shape) else 8
