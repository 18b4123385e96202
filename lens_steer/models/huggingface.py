"""The plain Hugging Face side: reading a folder's weights, the twin of a model, and a TransformerBridge over the same
weights.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.hub import only_here
from lens_steer.models.quantization import compute_as_told, reading_options

DeviceMap = str | Mapping[str, Any] | None
SMALL = 10_000  # blocks × width up to which loading takes a blink and shows no bar
WITH_IMAGES = ("gemma3",)  # families whose checkpoints hold a text model of a family of its own beside a vision tower
# how such checkpoints name the text model's weights, as Transformers writes them now and as hubs hold them
TEXT_WEIGHTS = {
    r"^(language_model\.model|model\.language_model)\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def text_part(config: Any) -> Any:
    """The configuration itself; of a checkpoint with images that of its text model, with what only the whole says.

    >>> from transformers import Gemma3Config, LlamaConfig
    >>> text_part(Gemma3Config()).model_type, text_part(LlamaConfig()).model_type
    ('gemma3_text', 'llama')
    """
    if config.model_type not in WITH_IMAGES:
        return config
    text = copy.deepcopy(config.get_text_config())
    text.architectures = ["Gemma3ForCausalLM"]
    text.tie_word_embeddings = config.tie_word_embeddings
    if text.dtype is None:
        text.dtype = config.dtype
    return text


def is_gguf(path: str | Path) -> bool:
    """Whether a path is one of a GGUF file, by its name."""
    return Path(path).suffix == ".gguf"


def source(folder: str) -> dict[str, Any]:
    """How Transformers' readers are told where a model lies: a folder, a hub name, or a GGUF file, which they
    dequantise.

    >>> source("some/model")["pretrained_model_name_or_path"], source("/models/m.Q4_K_M.gguf")["gguf_file"]
    ('some/model', 'm.Q4_K_M.gguf')
    """
    path = Path(folder)
    if is_gguf(path):
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    return {"pretrained_model_name_or_path": folder, "local_files_only": only_here(folder)}


def is_text_part(folder: str) -> bool:
    """Whether a folder's (or hub name's) model is read out of a checkpoint with images."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(**source(folder)).model_type in WITH_IMAGES


def read_weights(
    folder: str,
    config: Any,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    device_map: DeviceMap = None,
    quantization: str = "",
    adapter: str = "",
) -> Any:
    """The folder's model as Hugging Face has it, in evaluation mode; of a checkpoint with images its text part.

    Args:
        folder, config, dtype: of the model.
        device: where it goes, unless a ``device_map`` says where each part does.
        device_map: as Transformers takes it.
        quantization: see :mod:`lens_steer.models.quantization`.
        adapter: folder of a PEFT adapter that is merged into the weights.

    Raises:
        LensSteerError: weights that cannot be read, or that are not all there; an adapter that cannot be merged.
    """
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        stored = getattr(config, "quantization_config", None) is not None
        options: dict[str, Any] = {} if stored else reading_options(quantization, dtype)
        if device_map is not None or quantization:
            options["device_map"] = {"": str(device)} if device_map is None else device_map
        if config.model_type == "gemma3_text" and is_text_part(folder):
            options |= {"config": config, "key_mapping": TEXT_WEIGHTS}
        with without_bar(small=config.num_hidden_layers * config.hidden_size <= SMALL):
            model, notes = load(**source(folder), dtype=dtype, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise LensSteerError(f"the weights in {folder!r} cannot be read: {first_line(error)}") from None
    if "key_mapping" in options:
        vars(model).pop("_weight_conversions", None)  # Transformers would save under the names that it read
    if missing := sorted(notes["missing_keys"]):
        raise LensSteerError(
            f"the weights in {folder!r} lack "
            f"{missing[0]!r}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: fetch or save the "
            "whole model again"
        )
    if adapter:
        model = merged_with(model, adapter)
    return compute_as_told(model if "device_map" in options else model.to(device)).eval()


def merged_with(model: Any, adapter: str) -> Any:
    """The same model with a PEFT adapter added to its weights, in their dtype.

    Args:
        model: plain Hugging Face; it is used up.
        adapter: folder.

    Raises:
        LensSteerError: PEFT is not installed, the folder holds no adapter, one that does not fit the model, or one that
            no weights can hold.
    """
    if getattr(model, "is_quantized", False):
        raise LensSteerError(
            f"adapter={adapter!r} cannot be merged into weights in few bits: load the model without quantization"
        )
    path = check_adapter(adapter, model.config)
    import peft

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped: Any = peft.PeftModel.from_pretrained(model, str(path))
        return wrapped.merge_and_unload()
    except AttributeError:
        raise LensSteerError(
            f"adapter={adapter!r} is of a kind that has no weights to merge: give a LoRA adapter"
        ) from None
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise LensSteerError(
            f"adapter={adapter!r} does not fit the model, or cannot be read: {first_line(error)}"
        ) from None


def check_adapter(adapter: str, config: Any) -> Path:
    """The folder of an adapter; refuses, before any weight of the model is read, one that is none or cannot be the
    model's.

    Args:
        adapter: folder.
        config: of the model.

    Raises:
        LensSteerError: PEFT is not installed, a folder without an adapter or its weights, one that was made for a model
            of another width or depth.
    """
    path = Path(adapter).expanduser()
    if not (path / "adapter_config.json").exists():
        raise LensSteerError(f"adapter={adapter!r} holds no PEFT adapter (adapter_config.json is missing)")
    weights = path / "adapter_model.safetensors"
    if not (weights.exists() or (path / "adapter_model.bin").exists()):
        raise LensSteerError(
            f"adapter={adapter!r} holds no weights (adapter_model.safetensors is missing): save it again"
        )
    if find_spec("peft") is None:
        raise LensSteerError("adapters need PEFT, which is not installed: pip install 'lens-steer[export]'")
    if weights.exists():
        _check_sizes(adapter, weights, config)
    return path


def _check_sizes(adapter: str, weights: Path, config: Any) -> None:
    """Refuse an adapter whose tensors tell another width or depth than the model's; no tensor is read."""
    try:
        with safe_open(weights, framework="pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LensSteerError(f"adapter={adapter!r} cannot be read: {first_line(error)}") from None
    for name, shape in shapes.items():
        block = re.search(r"\.layers\.(\d+)\.", name)
        if block is not None and int(block[1]) >= config.num_hidden_layers:
            told = f"block {block[1]}, and the model has {config.num_hidden_layers} blocks"
        elif re.search(r"\.(q|k|v|gate|up)_proj\.lora_A\.", name) and shape[-1] != config.hidden_size:
            told = f"vectors of {shape[-1]} numbers, and the model's have {config.hidden_size}"
        else:
            continue
        raise LensSteerError(
            f"adapter={adapter!r} does not fit the model: it has {told}: give the model that it was made for"
        )


def bridge_and_twin(
    folder: str, config: Any, dtype: torch.dtype, device: torch.device, tokenizer: Any, **placed: Any
) -> tuple[Any, Any]:
    """A TransformerBridge, and a plain Hugging Face model over the very same parameters (the Bridge rewrites the
    modules of the one it is given).

    Args:
        folder, config, dtype, device: see :func:`read_weights`.
        tokenizer: of the model.
        placed: ``device_map``, ``quantization`` and ``adapter`` of :func:`read_weights`.

    Raises:
        LensSteerError: weights that cannot be read, parts that are left on disk.
    """
    from transformer_lens.model_bridge import TransformerBridge

    model = read_weights(folder, config, dtype, device, **placed)
    where = {str(d) for d in (getattr(model, "hf_device_map", None) or {}).values()}
    if where & {"disk", "meta"}:
        raise LensSteerError(
            "device_map leaves parts of the model on disk, where hooks do not see them: give it more memory, or "
            "quantization='nf4'"
        )
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # any name without a network: the model and a copy of the tokenizer (it is given a beginning token) are handed
        # over
        bridge = TransformerBridge.boot_transformers(
            "local/model", hf_model=model, tokenizer=copy.deepcopy(tokenizer), device=str(model.device)
        )
    return bridge, twin


@contextmanager
def without_bar(*, small: bool) -> Iterator[None]:
    """No progress bar for what is read or written in a blink."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    if small:
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
