"""The plain Hugging Face side: reading a folder's weights, the twin of a model, and a TransformerBridge over the same weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from lens_steer.errors import LensSteerError, first_line

SMALL = 10_000  # blocks × width up to which loading takes a blink and shows no bar


def read_weights(folder: str, config: Any, dtype: torch.dtype) -> Any:
    """The folder's model as Hugging Face has it, in evaluation mode, on the CPU.

    Raises:
        LensSteerError: weights that cannot be read.
    """
    from transformers import AutoModelForCausalLM

    try:
        with without_bar(small=config.num_hidden_layers * config.hidden_size <= SMALL):
            return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise LensSteerError(f"the weights in {folder!r} cannot be read: {first_line(error)}") from None


def bridge_and_twin(folder: str, config: Any, dtype: torch.dtype, device: torch.device, tokenizer: Any) -> tuple[Any, Any]:
    """A TransformerBridge, and a plain Hugging Face model over the very same parameters (the Bridge rewrites the modules of the one it is given)."""
    from transformer_lens.model_bridge import TransformerBridge

    source = read_weights(folder, config, dtype).to(device)
    shared = {id(tensor): tensor for tensor in (*source.parameters(), *source.buffers())}
    twin = copy.deepcopy(source, shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # any name without a network: the model and a copy of the tokenizer (it is given a beginning token) are handed over
        bridge = TransformerBridge.boot_transformers(
            "local/model", hf_model=source, tokenizer=copy.deepcopy(tokenizer), device=str(device)
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
