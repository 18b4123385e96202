"""4-bit weights: reading a model with them, and its layers' weights as what they stand for.

Operators compute in float32 whatever the weights are. A quantised layer is not laid out as a HookedTransformer wants
it, so such models are TransformerBridges. Only bitsandbytes' 4 bits are taken: they quantise weights alone, so a layer
stays linear and folding stays exact; 8-bit layers quantise activations too.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_steer.errors import LensSteerError

KINDS = ("nf4", "fp4")
# TransformerLens imports bitsandbytes where it is installed, and on a CPU that tells of a kernel that is not used here
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def check_kind(kind: str | None, config: Any = None) -> str:
    """The kind of a model's weights: the one asked for, what the checkpoint holds, or ``""`` for plain ones.

    Args:
        kind: one of :data:`KINDS`, or None.
        config: of the checkpoint.

    Raises:
        LensSteerError: an unknown kind, one asked for where the checkpoint is quantised already, a checkpoint that is
            quantised otherwise, bitsandbytes not installed.

    >>> check_kind(None)
    ''
    """
    if kind is not None and kind not in KINDS:
        raise LensSteerError(
            f"quantization={kind!r}: use one of {', '.join(KINDS)}, or None for the checkpoint's own weights"
        )
    stored = _stored(config)
    if stored and kind is not None:
        raise LensSteerError(f"quantization={kind!r}: the checkpoint is quantised already ({stored}), leave it out")
    if stored and stored not in KINDS:
        raise LensSteerError(
            f"the checkpoint is quantised by {stored!r}: only bitsandbytes' {' and '.join(KINDS)} are supported, "
            "load the unquantised checkpoint"
        )
    found = stored or kind or ""
    if found:
        _need_library(found)
    return found


def _stored(config: Any) -> str:
    """What a checkpoint's configuration says of its weights."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return ""
    facts = said if isinstance(said, dict) else said.to_dict()
    method = str(getattr(facts.get("quant_method"), "value", facts.get("quant_method")))
    return (
        str(facts.get("bnb_4bit_quant_type", "fp4"))
        if method == "bitsandbytes" and facts.get("load_in_4bit")
        else method
    )


def _need_library(kind: str) -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise LensSteerError(
            f"{kind} weights need bitsandbytes, which is not installed: pip install 'lens-steer[lowbit]'"
        )


def reading_options(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """What Transformers is told to read a model's weights in so many bits, computing in the model's dtype; nothing for
    plain ones.
    """
    if not kind:
        return {}
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype
        )
    }


def compute_as_told(model: Any) -> Any:
    """The same model, its 4-bit layers computing in their dtype on any CPU: where a CPU has bfloat16 instructions they
    would be used whatever the dtype, and the weights be laid out anew.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def plain_weight(layer: nn.Module) -> Float[Tensor, "out in"] | None:
    """What a linear layer's or an embedding's weight stands for, dequantised where it is in 4 bits; None for any other
    layer.

    >>> plain_weight(nn.Linear(3, 2)).shape, plain_weight(nn.LayerNorm(3))
    (torch.Size([2, 3]), None)
    """
    weight: Any = getattr(layer, "weight", None)
    if type(weight).__name__ == "Params4bit":
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        return dequantize_bnb_weight(weight).detach()
    plain = isinstance(layer, (nn.Linear, nn.Embedding)) and weight.is_floating_point()
    return weight.detach() if plain else None


def dequantized(model: Any) -> Any:
    """A 4-bit Hugging Face model with plain weights in the dtype that it computes in; another model as it is. The model
    given is used up.
    """
    return model.dequantize().to(model.dtype) if getattr(model, "is_quantized", False) else model
