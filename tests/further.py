"""Tiny random models of many families that are known by structure alone, with each family's peculiarities on."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lens_steer.models.layout import Layout
from lens_steer.models.structure import find_layout
from lens_steer.organisms.training.dialogues import stream
from lens_steer.organisms.training.families import FAMILIES, VOCABULARY, build_tokenizer
from tests.tiny import save_random

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.12,
}
HEADS = {"head_dim": 16}
EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
LINEAR_HEADS = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}
# What is left out of the shape (None) or added to it.
FURTHER: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "cohere": {},  # one norm feeds attention and MLP, which are added at once
    "cohere2": HEADS | WINDOWS,
    "deepseek_v3": {
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 24},
        **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12},
        **{"first_k_dense_replace": 1, "num_key_value_heads": 4},
    },
    "ernie4_5": HEADS,
    "exaone4": WINDOWS,
    "falcon": {"alibi": False},  # parallel, and it changes the output of its MLP in place
    "falcon_h1": {  # a state space beside attention
        **{"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
        **{"mamba_chunk_size": 8, "attention_out_multiplier": 0.7, "ssm_out_multiplier": 0.5},
    },
    "gemma": HEADS,
    "gemma4_text": HEADS  # three branches, and the stream is multiplied
    | {
        **{"global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY},
        **{"num_kv_shared_layers": 0, "sliding_window": 8},
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "glm4": HEADS,
    "gpt2": {  # other names of the sizes
        **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")),
        **{"num_key_value_heads": None, "max_position_embeddings": None},
        **{"n_embd": 48, "n_layer": 3, "n_head": 4, "n_inner": 64, "n_positions": 128},
    },
    "gpt_neox": {"num_key_value_heads": None},
    "gpt_oss": HEADS | EXPERTS | WINDOWS,  # attention sinks
    "granite": {"residual_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 3.0},
    "granitemoe": EXPERTS | {"residual_multiplier": 0.5},
    "internlm3": {},
    "jamba": {  # state spaces and attention in turn, dense and sparse MLPs in turn
        **{"num_experts": 2, "num_experts_per_tok": 1, "use_mamba_kernels": False, "mamba_d_state": 8},
        **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8},
    "llama4_text": HEADS
    | {
        **{"num_local_experts": 4, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 2},
        **{"attention_chunk_size": 16, "layer_types": ["chunked_attention", "chunked_attention", "full_attention"]},
    },
    "mixtral": EXPERTS,
    "nanochat": {},  # norms without a gain
    "olmo": {},
    "olmo2": {},  # no norm before a branch
    "olmo3": WINDOWS,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 48, "num_key_value_heads": None, "intermediate_size": None},
    "phi": {},
    "phi3": {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 128},  # as Phi-4-mini
    "qwen3_5_text": HEADS | LINEAR_HEADS,
    "qwen3_moe": HEADS | {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "qwen3_next": HEADS
    | LINEAR_HEADS
    | {
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
        "shared_expert_intermediate_size": 24,
    },
    "seed_oss": HEADS,
    "smollm3": HEADS,
    "stablelm": {"use_parallel_residual": True, "partial_rotary_factor": 0.5},
    "starcoder2": {},
}


def default_config(family: str, **changes: Any) -> Any:
    """A configuration of a family with Transformers' defaults, but for the changes."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made: Any = CONFIG_MAPPING[family]
    return made(**changes)


def further_config(family: str, tokenizer: Any = None, **changes: Any) -> Any:
    """The configuration of a tiny model of a family of :data:`FURTHER`."""
    ids = {name: getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    given = {**SHAPE, **ids, **FURTHER[family], **changes}
    kept = {name: value for name, value in given.items() if value is not None or name in ids}
    return default_config(family, **kept)


def build_further(family: str, folder: Path, **changes: Any) -> Path:
    """Write a tiny model of a family of :data:`FURTHER` with the tokenizer of the Qwen2 organism's family."""
    texts = (m["content"] for messages in itertools.islice(stream(3), 300) for m in messages)
    tokenizer = build_tokenizer(FAMILIES["qwen2"], texts, folder)
    return save_random(further_config(family, tokenizer, **changes), folder)


def random_model(config: Any) -> Any:
    """A model of a configuration in float32 with random weights, gains and biases."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


@cache
def layout_by(family: str) -> Layout:
    """The layout that is found on a tiny model of a family."""
    return find_layout(further_config(family))
