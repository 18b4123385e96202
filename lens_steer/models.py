"""Loading a chat model as a HookedTransformer without weight processing, from an organism, a local folder or a hub name.

``HookedTransformer.from_pretrained`` refuses local folders, so the configuration is built here from the Hugging Face one and the
library's own weight converters are used. Activations then equal the Hugging Face model's.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from lens_steer.errors import LensSteerError
from lens_steer.sites import NORM_MODULES, add_norm_outputs

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

log = logging.getLogger(__name__)

ORGANISMS = ("organism/gemma2", "organism/llama", "organism/qwen2")
ORGANISM_FOLDER = Path(__file__).parent / "organisms" / "weights"
BACKENDS = ("auto", "hooked")
PLAIN_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}{% for message in messages %}"
    "{{ message['role'].capitalize() + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class ModelInfo:
    """What was loaded; attached to the model as ``model.lens_info``."""

    name: str
    folder: str
    architecture: str
    backend: str
    weight_processing: str
    dtype: str
    tokenizer: Any
    end_tokens: tuple[int, ...]

    def __repr__(self) -> str:
        return f"ModelInfo({self.name!r}, {self.architecture}, {self.backend}, {self.dtype}, weights {self.weight_processing})"


def load_model(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    n_devices: int = 1,
    backend: str = "auto",
    chat_template: str | None = None,
) -> HookedTransformer:
    """Load a chat model with hook points at every residual stream and every norm output.

    Args:
        name: ``"organism/qwen2"``, ``"organism/llama"``, ``"organism/gemma2"`` (embedded, no network), a local Hugging Face folder, or a hub name.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"auto"`` (the checkpoint's).
        device: where the model goes; the first accelerator if there is one, else the CPU.
        n_devices: split the blocks over so many accelerators.
        backend: ``"auto"`` or ``"hooked"``: a HookedTransformer.
        chat_template: for a model that has none: ``"plain"`` (``User: …``), a Jinja template, or a file with one.

    Returns:
        A HookedTransformer in evaluation mode, with ``model.lens_info``.

    Raises:
        LensSteerError: unknown name, folder without a model, unsupported architecture, bad dtype or backend.
    """
    if backend not in BACKENDS:
        raise LensSteerError(f"backend={backend!r}: use one of {', '.join(BACKENDS)}")
    folder = locate(name)
    config = _read_config(str(name), folder)
    hooked_config = _hooked_config(config, str(name))
    torch_dtype = _dtype(dtype, config)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = _tokenizer(folder, chat_template)
    model = _hooked_transformer(folder, config, hooked_config, torch_dtype, device, n_devices, tokenizer)
    add_norm_outputs(model)
    info = ModelInfo(
        str(name),
        folder,
        config.model_type,
        "hooked",
        "none",
        str(torch_dtype).removeprefix("torch."),
        tokenizer,
        _end_tokens(folder, tokenizer),
    )
    model.lens_info = info  # type: ignore[assignment]
    log.info(
        "loaded %s: %s, %d blocks, d_model %d, %s on %s",
        name,
        config.model_type,
        model.cfg.n_layers,
        model.cfg.d_model,
        info.dtype,
        device,
    )
    return model.eval()


def info_of(model: Any) -> ModelInfo:
    """The model's description; refuses a model whose weights were processed or that was not loaded by :func:`load_model`.

    Raises:
        LensSteerError: with how to load the model instead.
    """
    how = "load it with lens_steer.load_model(name), which leaves the weights as they are"
    normalization = str(getattr(getattr(model, "cfg", None), "normalization_type", ""))
    if normalization.endswith("Pre"):
        raise LensSteerError(
            f"model has its norm gains folded into the weights (normalization_type={normalization!r}), so its activations are not the model's own: {how}"
        )
    info = getattr(model, "lens_info", None)
    if not isinstance(info, ModelInfo):
        raise LensSteerError(f"model of type {type(model).__name__} carries no description: {how}")
    return info


def locate(name: str | Path) -> str:
    """The folder of an organism or a local model, or the name itself if it looks like a hub's.

    Raises:
        LensSteerError: nothing of that name, with what exists.
    """
    text = str(name)
    if text.startswith("organism/"):
        folder = ORGANISM_FOLDER / text.removeprefix("organism/")
        if text not in ORGANISMS or not (folder / "config.json").exists():
            raise LensSteerError(f"unknown organism {text!r}: the embedded models are {', '.join(ORGANISMS)}")
        return str(folder)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise LensSteerError(f"folder {text!r} holds no Hugging Face model (config.json is missing)")
        return str(path)
    looks_local = path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1
    if looks_local:
        raise LensSteerError(f"model folder {text!r} does not exist")
    return text


def _read_config(name: str, folder: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=Path(folder).is_dir())
    except (OSError, ValueError) as error:
        if Path(folder).is_dir():
            raise LensSteerError(f"model {name!r}: its config.json cannot be read: {_first_line(error)}") from None
        raise LensSteerError(
            f"model {name!r} is neither an embedded model ({', '.join(ORGANISMS)}) nor a local folder, "
            f"and could not be fetched from the Hugging Face hub: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _dtype(dtype: str | torch.dtype, config: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        found = getattr(config, "dtype", None)
        return found if isinstance(found, torch.dtype) else getattr(torch, str(found or "float32").removeprefix("torch."))
    if dtype not in ("float32", "bfloat16", "float16", "float64"):
        raise LensSteerError(f"dtype={dtype!r}: use float32, bfloat16, float16, float64 or auto")
    return getattr(torch, dtype)


def _tokenizer(folder: str, chat_template: str | None) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=Path(folder).is_dir())
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if chat_template is not None:
        path = Path(chat_template) if len(chat_template) < 500 and "{" not in chat_template else None
        if chat_template == "plain":
            tokenizer.chat_template = PLAIN_TEMPLATE
        elif path is not None:
            if not path.exists():
                raise LensSteerError(f"chat_template={chat_template!r}: use 'plain', a Jinja template or a file with one")
            tokenizer.chat_template = path.read_text(encoding="utf-8")
        else:
            tokenizer.chat_template = chat_template
    return tokenizer


def _end_tokens(folder: str, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's, and those of the generation configuration (Gemma ends a turn with its own)."""
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(folder, local_files_only=Path(folder).is_dir()).eos_token_id
    except OSError:
        found = None
    listed = found if isinstance(found, list) else [found]
    return tuple(sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None}))


def _hooked_transformer(
    folder: str,
    config: Any,
    hooked_config: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    n_devices: int,
    tokenizer: Any,
) -> HookedTransformer:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions
    from transformers import AutoModelForCausalLM

    cfg = HookedTransformerConfig.from_dict({**hooked_config, "dtype": dtype, "device": str(device), "n_devices": n_devices})
    try:
        with _quiet(small=Path(folder).is_relative_to(ORGANISM_FOLDER)):
            source: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise LensSteerError(f"the weights in {folder!r} cannot be read: {_first_line(error)}") from None
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


@contextmanager
def _quiet(*, small: bool) -> Iterator[None]:
    """No progress bar for what loads in a blink."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    if small:
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _hooked_config(config: Any, name: str) -> dict[str, Any]:
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
