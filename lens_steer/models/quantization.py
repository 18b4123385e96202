"""4-bit weights: reading of quantised models, and dequantisation of the weights of their layers.

Operators compute in float32 for every dtype of the weights. A quantised layer does not have the layout of a
HookedTransformer, so quantised models are TransformerBridges or plain models. Only the 4-bit types of bitsandbytes are
accepted: they quantise only weights, so a layer stays linear and folding stays exact. 8-bit layers also quantise
activations.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_steer.errors import LensSteerError

KINDS = ("nf4", "fp4")
# TransformerLens imports bitsandbytes if it is installed. On a CPU bitsandbytes then logs a message about a kernel that
# is not used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def check_kind(kind: str | None, config: Any = None) -> str:
    """Return the 4-bit type of a model's weights, or ``""`` for weights that are not quantised.

    The type is the requested one, or the one that the checkpoint holds.

    Args:
        kind: One of :data:`KINDS`, or None for the weights of the checkpoint.
        config: The configuration of the checkpoint. None: no checkpoint is checked.

    Raises:
        LensSteerError: If the type is unknown, if a type is requested for a checkpoint that is already quantised, if
            the checkpoint has another quantisation, or if bitsandbytes is not installed.

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
    if found and find_spec("bitsandbytes") is None:
        raise LensSteerError(
            f"{found} weights need bitsandbytes, which is not installed: pip install 'lens-steer[lowbit]'"
        )
    return found


def _stored(config: Any) -> str:
    """Return the quantisation that the configuration of a checkpoint states; empty without one."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return ""
    facts = said if isinstance(said, dict) else said.to_dict()
    method = str(getattr(facts.get("quant_method"), "value", facts.get("quant_method")))
    in_4bit = method == "bitsandbytes" and facts.get("load_in_4bit")
    return str(facts.get("bnb_4bit_quant_type", "fp4")) if in_4bit else method


def reading_options(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the options with which Transformers reads the weights in a 4-bit type and computes in the model's dtype.

    They are empty for weights that are not quantised.
    """
    if not kind:
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config}


def compute_as_told(model: Any) -> Any:
    """Make the 4-bit layers of a model compute in their own dtype on every CPU, and return the model.

    Otherwise bitsandbytes would use bfloat16 instructions wherever the CPU has them, for every dtype, and change the
    layout of the weights.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def plain_weight(layer: nn.Module) -> Float[Tensor, "out in"] | None:
    """Return the weight of a linear layer or an embedding, dequantised if it has 4 bits; None for any other layer.

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
    """Return a 4-bit Hugging Face model with plain weights in its compute dtype; any other model is returned unchanged.

    The given model is changed and must not be used afterwards.
    """
    return model.dequantize().to(model.dtype) if getattr(model, "is_quantized", False) else model
