"""A HookedTransformer from a Hugging Face folder: the configuration mapped field by field, the library's own weight converters.

``HookedTransformer.from_pretrained`` refuses local folders, and knows some families by name only. What cannot be mapped exactly is refused.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch

from lens_steer.errors import LensSteerError
from lens_steer.huggingface import read_weights
from lens_steer.sites import NORM_MODULES

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


def hooked_transformer(
    folder: str,
    config: Any,
    mapped: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    n_devices: int,
    tokenizer: Any,
) -> HookedTransformer:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    cfg = HookedTransformerConfig.from_dict({**mapped, "dtype": dtype, "device": str(device), "n_devices": n_devices})
    source = read_weights(folder, config, dtype)
    convert = {
        "qwen2": weight_conversions.convert_qwen2_weights,
        "llama": weight_conversions.convert_llama_weights,
        "gemma2": weight_conversions.convert_gemma_weights,
    }[config.model_type]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        # a copy: set_tokenizer() gives a tokenizer without a beginning token its end token as one
        model = HookedTransformer(cfg, tokenizer=copy.deepcopy(tokenizer), move_to_device=False, default_padding_side="left")
        model.load_and_process_state_dict(
            convert(source, cfg), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
        )
        model.move_model_modules_to_device() if n_devices > 1 else model.to(device, print_details=False)
    return model


def check_biases(config: Any, name: str) -> None:
    """Refuse biases that the library's converters leave out without a word.

    Raises:
        LensSteerError: naming the configuration's flag.
    """
    for flag in ("attention_bias", "mlp_bias"):
        if getattr(config, flag, False):
            raise LensSteerError(
                f"model {name!r} has {flag}=True, which the HookedTransformer mapping does not cover: load it with backend='bridge'"
            )


def hooked_config(config: Any, name: str) -> dict[str, Any]:
    """The HookedTransformer configuration of a Hugging Face one, as a dict; refuses what cannot be mapped exactly."""
    kind = config.model_type
    if kind not in NORM_MODULES:
        raise LensSteerError(f"model {name!r} has architecture {kind!r}: supported are {', '.join(NORM_MODULES)}")
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = dict(getattr(config, "rope_parameters", None) or {})
    common: dict[str, Any] = {
        "model_name": name,
        "original_architecture": (config.architectures or [type(config).__name__.replace("Config", "ForCausalLM")])[0],
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "eps": config.rms_norm_eps,
        "act_fn": getattr(config, "hidden_activation", None) or config.hidden_act,
        "initializer_range": config.initializer_range,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_base": rope.get("rope_theta", 10000.0),
        "rotary_adjacent_pairs": False,
        "rotary_dim": d_head,
        "use_attn_scale": True,
        "default_prepend_bos": False,
        "tokenizer_prepends_bos": False,
    }
    return common | _rope_scaling(rope, name) | (_gemma2(config) if kind == "gemma2" else _window(config, name))


def _rope_scaling(rope: dict[str, Any], name: str) -> dict[str, Any]:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return {}
    if kind != "llama3":
        raise LensSteerError(f"model {name!r} scales its rotary embedding by {kind!r}: only 'default' and 'llama3' are supported")
    return {
        "use_NTK_by_parts_rope": True,
        "NTK_by_parts_factor": rope["factor"],
        "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
        "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
        "NTK_original_ctx_len": rope["original_max_position_embeddings"],
    }


def _window(config: Any, name: str) -> dict[str, Any]:
    if getattr(config, "use_sliding_window", False):
        raise LensSteerError(
            f"model {name!r} uses a sliding attention window, which the HookedTransformer mapping does not cover"
        )
    return {}


def _gemma2(config: Any) -> dict[str, Any]:
    return {
        "use_local_attn": True,
        "window_size": config.sliding_window,
        "attn_types": ["local" if t == "sliding_attention" else "global" for t in config.layer_types],
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
        "attn_scale": float(config.query_pre_attn_scalar) ** 0.5,
    }
