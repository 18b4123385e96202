"""Tiny random models of every family, saved as ordinary Hugging Face folders: wrong tensors show, since every gain is random."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from lens_steer.organisms.dialogues import stream
from lens_steer.organisms.families import FAMILIES, VOCABULARY, build_tokenizer


def config_of(family: str, tokenizer: Any) -> Any:
    """Four blocks of width 48 with grouped-query attention and each family's own peculiarities switched on."""
    from transformers import Gemma2Config, LlamaConfig, Qwen2Config

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
    if family == "qwen2":
        return Qwen2Config(**shape, tie_word_embeddings=True)
    if family == "llama":
        rope = {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
        return LlamaConfig(**shape, tie_word_embeddings=False, rope_parameters=rope)
    return Gemma2Config(**shape, head_dim=16, query_pre_attn_scalar=24, sliding_window=8)


def build(family: str, folder: Path) -> Path:
    """Write a tiny model of a family; weights, gains and biases are all random."""
    from transformers import AutoModelForCausalLM

    texts = (m["content"] for messages in itertools.islice(stream(3), 300) for m in messages)
    tokenizer = build_tokenizer(FAMILIES[family], texts, folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.5 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
