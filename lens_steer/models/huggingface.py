"""Plain Hugging Face models: reading of weights and adapters, and a TransformerBridge over the weights of its twin."""

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
SMALL = 10_000  # The product of blocks and width up to which loading is so fast that no progress bar is shown.
# The names of the text model's weights in checkpoints with images: those that Transformers writes now, and those on the
# hub.
TEXT_WEIGHTS = {
    r"^(language_model\.model|model\.language_model)\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def text_part(config: Any) -> Any:
    """Return the configuration of the text model; a configuration without images is returned unchanged.

    For a checkpoint with images (Gemma-3 and 4, Llama-4, Qwen3.5, …), the fields that only the whole configuration has
    are copied into the text configuration. If Transformers has no causal language model for the text part, the
    configuration is returned unchanged.

    >>> from transformers import Gemma3Config, LlamaConfig
    >>> text_part(Gemma3Config()).model_type, text_part(LlamaConfig()).model_type
    ('gemma3_text', 'llama')
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    found = config if config.is_encoder_decoder else config.get_text_config()
    if found is config or found.model_type not in CAUSAL:
        return config
    text = copy.deepcopy(found)
    text.architectures = [CAUSAL[found.model_type]]
    text.tie_word_embeddings = getattr(config, "tie_word_embeddings", found.tie_word_embeddings)
    if text.dtype is None:
        text.dtype = config.dtype
    return text


def is_gguf(path: str | Path) -> bool:
    """Return True if the path has the name of a GGUF file."""
    return Path(path).suffix == ".gguf"


def source(folder: str) -> dict[str, Any]:
    """Return the arguments that tell Transformers' readers where a model is.

    The model is a folder, a hub name, or a GGUF file, which Transformers dequantises.

    >>> source("some/model")["pretrained_model_name_or_path"], source("/models/m.Q4_K_M.gguf")["gguf_file"]
    ('some/model', 'm.Q4_K_M.gguf')
    """
    path = Path(folder)
    if is_gguf(path):
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    return {"pretrained_model_name_or_path": folder, "local_files_only": only_here(folder)}


def is_text_part(folder: str) -> bool:
    """Return True if the model of a folder or a hub name is the text part of a checkpoint with images.

    A GGUF file holds one model, and reading its header takes seconds.
    """
    from transformers import AutoConfig

    if is_gguf(folder):
        return False
    whole = AutoConfig.from_pretrained(**source(folder))
    return text_part(whole) is not whole


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
    """Read the Hugging Face model of a folder, in evaluation mode; of a checkpoint with images only its text part.

    Args:
        folder, config, dtype: The folder, the configuration and the dtype of the model.
        device: The device of the model, unless a ``device_map`` places each part.
        device_map: A device map in the form of Transformers. None: the whole model goes to ``device``.
        quantization: A 4-bit type, see :mod:`lens_steer.models.quantization`; empty for plain weights.
        adapter: The folder of a PEFT adapter to merge into the weights; empty without an adapter.

    Raises:
        LensSteerError: If weights cannot be read or are missing, if the device map leaves parts of the model on disk,
            or if the adapter cannot be merged.
    """
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        stored = getattr(config, "quantization_config", None) is not None
        options: dict[str, Any] = {} if stored else reading_options(quantization, dtype)
        if device_map is not None or quantization:
            options["device_map"] = {"": str(device)} if device_map is None else device_map
        if is_text_part(folder):
            options |= {"config": config, "key_mapping": TEXT_WEIGHTS}
        if getattr(config, "attn_logit_softcapping", None):
            # Transformers 5.19 runs Gemma-2 with an attention that leaves its softcapping out, and says nothing.
            options["attn_implementation"] = "eager"
        small = config.num_hidden_layers * config.hidden_size <= SMALL
        with without_bar(small=small), without_report(of_part="key_mapping" in options):
            model, notes = load(**source(folder), dtype=dtype, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise LensSteerError(f"the weights in {folder!r} cannot be read: {first_line(error)}") from None
    where = {str(d) for d in (getattr(model, "hf_device_map", None) or {}).values()}
    if where & {"disk", "meta"}:
        raise LensSteerError(
            "device_map leaves parts of the model on disk, where hooks do not see them: give it more memory, or "
            "quantization='nf4'"
        )
    if "key_mapping" in options:
        # Otherwise Transformers would save the weights under the names that it read.
        vars(model).pop("_weight_conversions", None)
    if missing := sorted(notes["missing_keys"]):
        lost = f"{missing[0]!r}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}"
        mend = "fetch or save the whole model again"
        if "key_mapping" in options:
            mend += ", or save its text part as a model of its own (its weights may have names that are not known here)"
        raise LensSteerError(f"the weights in {folder!r} lack {lost}: {mend}")
    if adapter:
        model = merged_with(model, adapter)
    return compute_as_told(model if "device_map" in options else model.to(device)).eval()


def merged_with(model: Any, adapter: str) -> Any:
    """Merge a PEFT adapter into the weights of a model, in their dtype.

    Args:
        model: A plain Hugging Face model; it is changed and must not be used afterwards.
        adapter: The folder of the adapter.

    Returns:
        The merged model.

    Raises:
        LensSteerError: If PEFT is not installed, if the folder holds no adapter, if the adapter does not fit the model,
            if it is of a kind that cannot be merged into weights, or if the weights are quantised.
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
        told = f"adapter={adapter!r} is of a kind that has no weights to merge: give a LoRA adapter"
        raise LensSteerError(told) from None
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise LensSteerError(
            f"adapter={adapter!r} does not fit the model, or cannot be read: {first_line(error)}"
        ) from None


def check_adapter(adapter: str, config: Any) -> Path:
    """Return the folder of an adapter, after a check that it can belong to the model.

    The check runs before any weight of the model is read.

    Args:
        adapter: The folder of the adapter.
        config: The configuration of the model.

    Raises:
        LensSteerError: If PEFT is not installed, if the folder holds no adapter or no weights of one, or if the adapter
            was made for a model of another width or depth.
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
    """Refuse an adapter whose tensor shapes show another width or depth than the model's; no tensor is read."""
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
    """Build a TransformerBridge, and a plain Hugging Face model over the same parameters.

    Two module trees are needed because the Bridge rewrites the modules of the model that it receives.

    Args:
        folder, config, dtype, device: See :func:`read_weights`.
        tokenizer: The tokenizer of the model.
        placed: The arguments ``device_map``, ``quantization`` and ``adapter`` of :func:`read_weights`.

    Returns:
        The TransformerBridge and its twin.

    Raises:
        LensSteerError: If the weights cannot be read, or if the device map leaves parts of the model on disk.
    """
    from transformer_lens.model_bridge import TransformerBridge

    model = read_weights(folder, config, dtype, device, **placed)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    # A deep copy with every parameter and buffer in its memo copies the modules but keeps the tensors themselves.
    twin = copy.deepcopy(model, shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # The name is arbitrary and nothing is downloaded, because the model and the tokenizer are given. The tokenizer
        # is a copy, because the Bridge sets a beginning-of-sequence token on it.
        bridge = TransformerBridge.boot_transformers(
            "local/model", hf_model=model, tokenizer=copy.deepcopy(tokenizer), device=str(model.device)
        )
    return bridge, twin


@contextmanager
def without_report(*, of_part: bool) -> Iterator[None]:
    """Hide Transformers' report on weights that a text part leaves out: those of the other parts are expected there."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    if of_part:
        hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)


@contextmanager
def without_bar(*, small: bool) -> Iterator[None]:
    """Hide the progress bar of Transformers for a small model, which is read or written in an instant.

    The bar is hidden inside the ``with`` block if ``small`` is True.
    """
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    if small:
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
