"""Construction of a HookedTransformer from a Hugging Face model.

The configuration is mapped field by field, and the weights come from the library's own converters.
``HookedTransformer.from_pretrained`` refuses local folders, and knows some families only by the names of their models.
Everything that cannot be mapped exactly is refused.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from lens_steer.errors import LensSteerError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

# The weight converter of TransformerLens for each family.
CONVERTERS = {
    "qwen2": "convert_qwen2_weights",
    "qwen3": "convert_qwen3_weights",
    "llama": "convert_llama_weights",
    "mistral": "convert_mistral_weights",
    "gemma2": "convert_gemma_weights",
    "gemma3_text": "convert_gemma_weights",
}
# Families that also normalise queries and keys. These norms act on single heads after a projection, so they are no
# sites.
QK_NORMS = ("qwen3", "gemma3_text")
GEMMAS = ("gemma2", "gemma3_text")


class NotHeldError(LensSteerError):
    """The error for a model that a TransformerBridge can hold exactly but a HookedTransformer cannot."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            f"model {name!r} has {what}, which the HookedTransformer mapping does not cover: load it with "
            "backend='bridge'"
        )


def hooked_transformer(
    source: Any,
    config: Any,
    mapped: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    n_devices: int,
    tokenizer: Any,
) -> HookedTransformer:
    """Build a HookedTransformer that shares the weights of a plain Hugging Face model.

    The weights are views of the source wherever the layout allows. The converters of the library only rearrange views,
    so nothing is copied except the weights that the two models store differently: Gemma's embedding (times √d_model)
    and gains (plus 1). Biases that the family does not have are separate zeros. A change in place of a shared weight
    changes both models.

    Args:
        source: The Hugging Face model on ``device``. If the blocks are split over several devices, it is on the CPU,
            and the weights are copied.
        config: The configuration of the Hugging Face model.
        mapped: The configuration from :func:`hooked_config`.
        dtype, device, n_devices: The dtype, the device and the number of devices of the model.
        tokenizer: The tokenizer of the model.

    Raises:
        LensSteerError: If a parameter of the HookedTransformer has no weight in the source.
    """
    from accelerate import init_empty_weights
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    placed = {"dtype": dtype, "device": str(device), "n_devices": n_devices, "init_weights": False}
    cfg = HookedTransformerConfig.from_dict(mapped | placed)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        with init_empty_weights(include_buffers=False), rotary_tables_once():
            model = HookedTransformer(cfg, move_to_device=False)
        weights = getattr(weight_conversions, CONVERTERS[config.model_type])(source, cfg)
        own = {name: torch.nn.Parameter(tensor.detach().to(dtype)) for name, tensor in weights.items()}
        left = set(model.load_state_dict(own, strict=False, assign=True).missing_keys) & set(
            dict(model.named_parameters())
        )
        if left:
            raise LensSteerError(
                f"the HookedTransformer has {min(left)!r}, for which {config.model_type!r} has no weight: use "
                "backend='bridge'"
            )
        model.move_model_modules_to_device() if n_devices > 1 else model.to(device, print_details=False)
    _give_tokenizer(model, tokenizer)
    return model


@contextmanager
def rotary_tables_once() -> Iterator[None]:
    """Share the rotary tables of sines and cosines among the blocks that are built inside the ``with`` block.

    TransformerLens computes them for each block, although they depend only on the configuration and on the kind of
    attention of the block.
    """
    from transformer_lens.components.abstract_attention import AbstractAttention

    compute, known = AbstractAttention.calculate_sin_cos_rotary, {}

    def shared(
        attention: Any, rotary_dim: int, n_ctx: int, base: float | int = 10000, dtype: torch.dtype = torch.float32
    ) -> Any:
        key = (rotary_dim, n_ctx, base, dtype, attention.attn_type)
        if key not in known:
            known[key] = compute(attention, rotary_dim, n_ctx, base, dtype)
        return known[key]

    AbstractAttention.calculate_sin_cos_rotary = shared  # type: ignore[method-assign]
    try:
        yield
    finally:
        AbstractAttention.calculate_sin_cos_rotary = compute  # type: ignore[method-assign]


def _give_tokenizer(model: Any, tokenizer: Any) -> None:
    """Set the tokenizer of a model without reading it from disk again.

    The library gets a copy over the same vocabulary with its own special tokens. ``set_tokenizer`` changes the
    tokenizer in two ways: a tokenizer without a beginning-of-sequence token gets its end token as one, and a tokenizer
    that does not add its beginning-of-sequence token is read from disk again, unless it declares that it adds the
    token. The copy declares this during the call. The configuration alone decides which tokens a HookedTransformer
    adds, and here it adds none.
    """
    own = copy.copy(tokenizer)
    for name in ("_special_tokens_map", "_extra_special_tokens", "deprecation_warnings"):
        setattr(own, name, copy.copy(getattr(tokenizer, name)))
    own.init_kwargs = {**tokenizer.init_kwargs, "add_bos_token": True}
    model.set_tokenizer(own, default_padding_side="left")
    own.init_kwargs = dict(tokenizer.init_kwargs)


def check_family(config: Any, name: str) -> None:
    """Refuse a model that no backend supports here.

    Raises:
        LensSteerError: If its tokens attend to later tokens, or if it has a cap of the attention logits that the two
            libraries treat differently.
    """
    if getattr(config, "use_bidirectional_attention", False):
        raise LensSteerError(
            f"model {name!r} has use_bidirectional_attention=True, an encoder whose tokens attend to later ones: "
            "load a model that generates text"
        )
    if config.model_type == "gemma3_text" and config.attn_logit_softcapping:
        raise LensSteerError(
            f"model {name!r} has attn_logit_softcapping={config.attn_logit_softcapping}, which Transformers "
            "leaves out of Gemma-3 and TransformerLens does not: "
            "set it to null in config.json if the weights were trained without"
        )


def check_biases(config: Any, name: str) -> None:
    """Refuse biases that the converters of the library drop silently.

    Raises:
        NotHeldError: If the model has such biases; the message names the flag of the configuration.
    """
    for flag in ("attention_bias", "mlp_bias"):
        if getattr(config, flag, False):
            raise NotHeldError(name, f"{flag}=True")


def hooked_config(config: Any, name: str) -> dict[str, Any]:
    """Map a Hugging Face configuration to the configuration of a HookedTransformer, as a dictionary.

    Raises:
        LensSteerError: See :func:`check_family`. Also if the architecture is not mapped.
        NotHeldError: If something cannot be mapped exactly.
    """
    if config.model_type not in CONVERTERS:
        raise LensSteerError(
            f"model {name!r} has architecture {config.model_type!r}, and a HookedTransformer is built for "
            f"{', '.join(CONVERTERS)}: load it with backend='hf'"
        )
    check_family(config, name)
    check_biases(config, name)
    kind = config.model_type
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
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
        "rotary_adjacent_pairs": False,
        "rotary_dim": d_head,
        "use_attn_scale": True,
        "use_qk_norm": kind in QK_NORMS,
        "default_prepend_bos": False,
        "tokenizer_prepends_bos": False,
    }
    types = attention_types(config)
    return common | _window(config, types) | _rotary(config, types, name) | (_gemma(config) if kind in GEMMAS else {})


def attention_types(config: Any) -> list[str]:
    """Return ``"local"`` for each block that attends only within the sliding window, and ``"global"`` for all others.

    >>> from transformers import MistralConfig
    >>> (
    ...     attention_types(MistralConfig(num_hidden_layers=2, sliding_window=8)),
    ...     attention_types(MistralConfig(num_hidden_layers=1, sliding_window=None)),
    ... )
    (['local', 'local'], ['global'])
    """
    if config.model_type == "mistral":  # It ignores layer_types.
        return ["global" if config.sliding_window is None else "local"] * config.num_hidden_layers
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return ["local" if t == "sliding_attention" else "global" for t in types]


def _window(config: Any, types: list[str]) -> dict[str, Any]:
    if "local" not in types:
        return {}
    return {"use_local_attn": True, "window_size": config.sliding_window, "attn_types": types}


def _rotary(config: Any, types: list[str], name: str) -> dict[str, Any]:
    """Return the base and the scaling of the rotary embedding.

    On Gemma-3 the sliding-window blocks have a separate base without scaling.
    """
    every = dict(getattr(config, "rope_parameters", None) or {})
    apart = "full_attention" in every
    rope, mapped = (every["full_attention"], {}) if apart else (every, {})
    if apart:
        local = every["sliding_attention"]
        if local.get("rope_type", "default") != "default":
            raise NotHeldError(name, f"a rotary embedding scaled by {local['rope_type']!r} in its sliding blocks")
        mapped["rotary_base_local"] = local["rope_theta"]
    kind, base = rope.get("rope_type", "default"), rope.get("rope_theta", 10000.0)
    return {"rotary_base": base, **mapped, **_rope_scaling(config, rope, kind, apart, "local" in types, name)}


def _rope_scaling(
    config: Any, rope: dict[str, Any], kind: str, apart: bool, some_local: bool, name: str
) -> dict[str, Any]:
    """Return the scaling of the rotary embedding, or refuse a scaling that TransformerLens cannot hold.

    TransformerLens applies linear scaling only in global blocks, scaling by parts (``llama3``) in all blocks, and YaRN
    scaling where the configuration says.
    """
    if kind == "default":
        return {}
    if kind == "linear" and (apart or not some_local):
        return {"rotary_scaling_factor": float(rope["factor"])}
    if kind == "llama3" and not (apart and some_local):
        return {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    if kind == "yarn" and rope.get("factor") is not None:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        _, scale = ROPE_INIT_FUNCTIONS["yarn"](config, None, **({"layer_type": "full_attention"} if apart else {}))
        return {
            "use_yarn_rope": True,
            "yarn_factor": float(rope["factor"]),
            "yarn_attention_factor": float(scale),
            "yarn_beta_fast": float(rope.get("beta_fast") or 32),
            "yarn_beta_slow": float(rope.get("beta_slow") or 1),
            "yarn_original_max_position_embeddings": rope["original_max_position_embeddings"],
            "yarn_truncate": config.rope_parameters.get("truncate", True),
            "yarn_global_attn_only": apart,
        }
    where = " in sliding and other blocks alike" if kind in ("linear", "llama3") else ""
    raise NotHeldError(name, f"a rotary embedding scaled by {kind!r}{where}")


def _gemma(config: Any) -> dict[str, Any]:
    return {
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
        "attn_scale": float(config.query_pre_attn_scalar) ** 0.5,
    }
