"""Tiny random models of every family, saved as ordinary Hugging Face folders: wrong tensors show, since every gain is
random.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from lens_steer.organisms.training.dialogues import stream
from lens_steer.organisms.training.families import FAMILIES, VOCABULARY, build_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
GEMMA3_TYPES = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
CALMER = {"initializer_range": 0.1}  # scores that grow less, so that rounding does
# the organism's family whose tokenizer and chat template a family without organisms borrows
BORROWED = {"qwen3": "qwen2", "mistral": "llama", "gemma3_text": "gemma2"}


def config_of(family: str, tokenizer: Any, **changes: Any) -> Any:
    """Four blocks of width 48 with grouped-query attention and each family's own peculiarities switched on; windows are
    shorter than most prompts.
    """
    from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    heads = {"head_dim": 16, "sliding_window": 8}
    kind, own = {
        "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
        "qwen3": (
            Qwen3Config,
            heads
            | {"tie_word_embeddings": True, "use_sliding_window": True, "max_window_layers": 2, "rope_parameters": YARN}
            | CALMER,
        ),
        "llama": (LlamaConfig, {"tie_word_embeddings": False, "rope_parameters": LLAMA3}),
        "mistral": (MistralConfig, heads | {"sliding_window": 12, "tie_word_embeddings": False} | CALMER),
        "gemma2": (Gemma2Config, heads | {"query_pre_attn_scalar": 24}),
        "gemma3_text": (
            Gemma3TextConfig,
            heads | {"query_pre_attn_scalar": 24, "layer_types": GEMMA3_TYPES, "rope_parameters": GEMMA3_ROPE},
        ),
    }[family]
    return kind(**{**shape, **own, **changes})


def build(family: str, folder: Path, **changes: Any) -> Path:
    """Write a tiny model of a family; weights, gains and biases are all random.

    Args:
        family: of :data:`lens_steer.models.layout.KNOWN`.
        folder: to write to.
        changes: of the configuration.
    """
    texts = (m["content"] for messages in itertools.islice(stream(3), 300) for m in messages)
    tokenizer = build_tokenizer(FAMILIES[BORROWED.get(family, family)], texts, folder)
    return save_random(config_of(family, tokenizer, **changes), folder)


def save_random(config: Any, folder: Path) -> Path:
    """A model of that configuration with random weights, gains and biases, saved to a folder."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.5 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
