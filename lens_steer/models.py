"""Loading a chat model as a HookedTransformer without weight processing, from an organism, a local folder or a hub name.

Activations equal the Hugging Face model's. How the model is built is in :mod:`lens_steer.hooked`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lens_steer.errors import LensSteerError, first_line
from lens_steer.hooked import hooked_config, hooked_transformer
from lens_steer.sites import add_norm_outputs

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
    mapped = hooked_config(config, str(name))
    torch_dtype = _dtype(dtype, config)
    device = _device(device)
    tokenizer = _tokenizer(folder, chat_template)
    model = hooked_transformer(folder, config, mapped, torch_dtype, device, n_devices, tokenizer)
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
            raise LensSteerError(f"model {name!r}: its config.json cannot be read: {first_line(error)}") from None
        raise LensSteerError(
            f"model {name!r} is neither an embedded model ({', '.join(ORGANISMS)}) nor a local folder, "
            f"and could not be fetched from the Hugging Face hub: {first_line(error)}"
        ) from None


def _dtype(dtype: str | torch.dtype, config: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        found = getattr(config, "dtype", None)
        return found if isinstance(found, torch.dtype) else getattr(torch, str(found or "float32").removeprefix("torch."))
    if dtype not in ("float32", "bfloat16", "float16", "float64"):
        raise LensSteerError(f"dtype={dtype!r}: use float32, bfloat16, float16, float64 or auto")
    return getattr(torch, dtype)


def _device(device: str | torch.device | None) -> torch.device:
    """The device asked for, tried out; without one the first accelerator, else the CPU."""
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise LensSteerError(f"device={str(device)!r} cannot be used here: {first_line(error)}") from None
    return torch.device(wanted)


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
