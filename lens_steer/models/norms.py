"""What a norm computes, tried out on the module itself: which formula, with which gain."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

TOLERANCE = 1e-3  # For rows of length √d or more, where what a norm adds to the variance hardly shows.


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
    width = _width(module)
    draw = torch.Generator().manual_seed(0)
    tried = _alone(module).to_empty(device="cpu").float()
    for parameter in tried.parameters():
        parameter.data = torch.rand(parameter.shape, generator=draw) + 0.5
    gain, bias = _gain_and_bias(tried)
    vectors = 3 * torch.randn(1, 4, width, generator=draw) + 1
    try:
        with torch.no_grad():
            found = tried(vectors)
    except Exception:  # a module that takes other inputs, or needs a buffer
        return None
    if not isinstance(found, Tensor) or found.shape != vectors.shape:
        return None
    return _named(found, vectors, gain, bias)


def normed(module: nn.Module, formula: str, vectors: Tensor) -> Tensor:
    """Return what a formula of :func:`norm_formula` gives for some vectors, with the gain and the bias of a module.

    It is computed in float64.

    >>> norm, h = nn.LayerNorm(8), torch.arange(8.0)
    >>> bool(torch.allclose(normed(norm, "LayerNorm + b", h).float(), norm(h), atol=1e-4))
    True
    """
    gain, bias = _gain_and_bias(module)
    made = FORMULAS[formula.split(maxsplit=1)[0]](vectors.double(), epsilon_of(module))
    if gain is not None:
        made = made * (gain.cpu().double() + float("(1 + w)" in formula))
    return made if bias is None else made + bias.cpu().double()


def _alone(module: nn.Module) -> nn.Module:
    """Return a copy of a module without what Accelerate adds to a module that it places."""
    tried = copy.deepcopy(module)
    if hasattr(tried, "_hf_hook"):
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(tried)
    return tried


def _gain_and_bias(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return the gain and the bias of a norm, told apart by the name of the bias."""
    named = {name: parameter.detach() for name, parameter in module.named_parameters()}
    gain = next((value for name, value in named.items() if "bias" not in name), None)
    return gain, next((value for name, value in named.items() if "bias" in name), None)


def _named(found: Tensor, vectors: Tensor, gain: Tensor | None, bias: Tensor | None) -> str | None:
    gains = {"": gain, " (1 + w)": 1 + gain} if gain is not None else {" without gain": torch.ones(1)}
    for name, formula in FORMULAS.items():
        for how, by in gains.items():
            expected = formula(vectors) * by + (0 if bias is None else bias)
            if torch.allclose(found, expected, atol=TOLERANCE, rtol=TOLERANCE):
                return f"{name}{how}{'' if bias is None else ' + b'}"
    return None


def epsilon_of(module: nn.Module) -> float:
    """Return what a norm adds to the mean square of its input, found from what it gives for a very short vector.

    >>> round(epsilon_of(nn.LayerNorm(8, eps=1e-5)), 9)
    1e-05
    """
    tried = _alone(module).cpu().float()
    _, bias = _gain_and_bias(tried)
    short = 1e-4 * torch.tensor([1.0, -1.0]).repeat((_width(module) + 1) // 2)[: _width(module)]
    short = short - short.mean()
    with torch.no_grad():
        long = tried(short.expand(1, 1, -1) * 1e6)
        found = tried(short.expand(1, 1, -1))
    if bias is not None:
        long, found = long - bias, found - bias
    at = int(long.abs().argmax())
    ratio = float(long.flatten()[at].double() / found.flatten()[at].double())  # √((m + ε) / m) if ε is small beside 1e4
    return max(0.0, (ratio**2 - 1) * float(short.double().square().mean()))


def _rms(h: Tensor, epsilon: float = 0.0) -> Tensor:
    return h / (h.square().mean(-1, keepdim=True) + epsilon).sqrt()


def _layer(h: Tensor, epsilon: float = 0.0) -> Tensor:
    return _rms(h - h.mean(-1, keepdim=True), epsilon)


FORMULAS: dict[str, Callable[..., Tensor]] = {"RMSNorm": _rms, "LayerNorm": _layer}


def _width(module: nn.Module) -> int:
    """Return the width of a norm, from its gain or its own attributes; 8 where it takes any."""
    for parameter in module.parameters():
        return len(parameter)
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if isinstance(shape, tuple | list | torch.Size) and len(shape) else 8
