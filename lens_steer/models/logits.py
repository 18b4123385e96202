"""From the output of the unembedding to the logits: a family can multiply it by a number, and cap it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TOKENS = 5  # A number is fitted to five times as many logits as there are tokens in the vocabulary.


def soft_cap(config: Any) -> float | None:
    """Return the cap c of ``c · tanh(logits / c)``; None if the logits are not capped.

    >>> from transformers import Gemma2Config, LlamaConfig
    >>> soft_cap(Gemma2Config()), soft_cap(LlamaConfig())
    (30.0, None)
    """
    found = getattr(config, "final_logit_softcapping", None)
    return found if found and found > 0 else None


def logit_scale(model: Any) -> float | None:
    """Return the number by which a model multiplies the output of its unembedding, measured on a short prompt.

    None: the logits are no multiple of that output, or the model has no such module.

    Args:
        model: A plain Hugging Face model, on which nothing is attached.

    >>> import lens_steer as ls
    >>> round(logit_scale(ls.hf_twin(ls.load_model("organism/gemma2"))), 6)
    1.0
    """
    found: list[Tensor] = []
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    if head is None:
        return None
    cap, ids = soft_cap(config), torch.arange(TOKENS)[None].to(model.device) % config.vocab_size
    handle = head.register_forward_hook(lambda module, args, output: found.append(output.detach().double().clone()))
    try:
        with torch.inference_mode():
            logits = model(ids, use_cache=False).logits.double()
    finally:
        handle.remove()
    if cap is not None:
        logits = cap * torch.atanh((logits / cap).clamp(-1 + 1e-12, 1 - 1e-12))
    raw = found[-1].reshape(logits.shape)
    usual = raw.abs() <= (0.5 * cap if cap is not None else torch.inf)  # near the cap rounding is large
    scale = float((raw * logits)[usual].sum() / raw.square()[usual].sum())
    error = float((scale * raw - logits)[usual].norm() / logits[usual].norm())
    if not error < 1e-2:
        return None
    return 1.0 if abs(scale - 1) < 1e-2 else scale
