"""The plain Hugging Face side: reading a folder's weights, the twin of a model, and a TransformerBridge over the same weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from lens_steer.errors import LensSteerError, first_line
from lens_steer.hub import only_here
from lens_steer.quantization import compute_as_told, reading_options

DeviceMap = str | Mapping[str, Any] | None
SMALL = 10_000  # blocks × width up to which loading takes a blink and shows no bar
WITH_IMAGES = ("gemma3",)  # families whose checkpoints hold a text model of a family of its own beside a vision tower
# how such checkpoints name the text model's weights, as Transformers writes them now and as hubs hold them
TEXT_WEIGHTS = {r"^(language_model\.model|model\.language_model)\.": "model.", r"^language_model\.lm_head\.": "lm_head."}


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


def is_text_part(folder: str) -> bool:
    """Whether a folder's (or hub name's) model is read out of a checkpoint with images."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=only_here(folder)).model_type in WITH_IMAGES


def read_weights(
    folder: str,
    config: Any,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    device_map: DeviceMap = None,
    quantization: str = "",
) -> Any:
    """The folder's model as Hugging Face has it, in evaluation mode; of a checkpoint with images its text part.

    Args:
        folder, config, dtype: of the model.
        device: where it goes, unless a ``device_map`` says where each part does.
        device_map: as Transformers takes it.
        quantization: see :mod:`lens_steer.quantization`.

    Raises:
        LensSteerError: weights that cannot be read, or that are not all there.
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
            model, notes = load(folder, dtype=dtype, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise LensSteerError(f"the weights in {folder!r} cannot be read: {first_line(error)}") from None
    if "key_mapping" in options:
        vars(model).pop("_weight_conversions", None)  # Transformers would save under the names that it read
    if missing := sorted(notes["missing_keys"]):
        raise LensSteerError(
            f"the weights in {folder!r} lack {missing[0]!r}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: fetch or save the whole model again"
        )
    return compute_as_told(model if "device_map" in options else model.to(device)).eval()


def bridge_and_twin(
    folder: str, config: Any, dtype: torch.dtype, device: torch.device, tokenizer: Any, **placed: Any
) -> tuple[Any, Any]:
    """A TransformerBridge, and a plain Hugging Face model over the very same parameters (the Bridge rewrites the modules of the one it is given).

    Args:
        folder, config, dtype, device: see :func:`read_weights`.
        tokenizer: of the model.
        placed: ``device_map`` and ``quantization`` of :func:`read_weights`.

    Raises:
        LensSteerError: weights that cannot be read, parts that are left on disk.
    """
    from transformer_lens.model_bridge import TransformerBridge

    source = read_weights(folder, config, dtype, device, **placed)
    where = {str(d) for d in (getattr(source, "hf_device_map", None) or {}).values()}
    if where & {"disk", "meta"}:
        raise LensSteerError(
            "device_map leaves parts of the model on disk, where hooks do not see them: give it more memory, or quantization='nf4'"
        )
    shared = {id(tensor): tensor for tensor in (*source.parameters(), *source.buffers())}
    twin = copy.deepcopy(source, shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # any name without a network: the model and a copy of the tokenizer (it is given a beginning token) are handed over
        bridge = TransformerBridge.boot_transformers(
            "local/model", hf_model=source, tokenizer=copy.deepcopy(tokenizer), device=str(source.device)
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
