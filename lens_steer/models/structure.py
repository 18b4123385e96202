"""The structure of a decoder, found from what its forward pass computes and not from the names of its modules.

A block adds the outputs of *branches* to the residual stream. The branch that attends over positions is called
attention, and the one that reads the stream after it (or, in a parallel block, beside it) is the MLP, also where it is
a mixture of experts. :mod:`lens_steer.models.block_reader` reads one block.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from lens_steer.errors import first_line
from lens_steer.models.block_reader import StructureError, read_block
from lens_steer.models.layout import KNOWN, Layout, known_layout
from lens_steer.models.norms import norm_formula
from lens_steer.models.trace import Trace, on_meta, traced

MEND = "; load a model of another architecture"


def find_layout(config: Any) -> Layout:
    """Find the layout of a model from its configuration; no weight is read.

    The model is built on the meta device, and one forward pass is traced.

    Args:
        config: The Hugging Face configuration of a model of text.

    Raises:
        StructureError: If the model cannot be built or traced without weights, or if it has another structure; the
            message says what was found.

    >>> from lens_steer.models.location import locate, read_config
    >>> found = find_layout(read_config("organism/gemma2", locate("organism/gemma2")))
    >>> found.layers, found.blocks[0].path["ln2"], found.blocks[0].formula["ln2"]
    ('model.layers', 'pre_feedforward_layernorm', 'RMSNorm (1 + w)')
    """
    kind = config.model_type
    if config.is_encoder_decoder:
        raise StructureError(f"architecture {kind!r} is an encoder with a decoder: load a model with a decoder alone")
    if config.get_text_config() is not config:
        raise StructureError(
            f"architecture {kind!r} holds more than a model of text, and Transformers has no causal language model for "
            f"its text part{MEND}"
        )
    try:
        model = on_meta(config)
        trace = traced(model)
    except Exception as error:  # whatever a family's own code raises
        raise StructureError(
            f"architecture {kind!r}: its forward pass cannot be traced without weights: {first_line(error)}{MEND}"
        ) from None
    try:
        return read_layout(model, trace, kind)
    except StructureError as error:
        raise StructureError(f"{error}{MEND}") from None


def layout_of(config: Any) -> Layout:
    """Return the layout of a model by the name of its architecture, or found as by :func:`find_layout`.

    >>> from lens_steer.models.location import locate, read_config
    >>> len(layout_of(read_config("organism/llama", locate("organism/llama"))).blocks)
    12
    """
    known = config.model_type in KNOWN
    return known_layout(config.model_type, config.num_hidden_layers) if known else find_layout(config)


def read_layout(model: Any, trace: Trace, kind: str) -> Layout:
    """Read the layout of a model from the trace of its forward pass.

    Args:
        model: The model that was traced.
        trace: From :func:`lens_steer.models.trace.traced`.
        kind: The name of its architecture, for messages.

    Raises:
        StructureError: If the model has another structure.

    >>> import transformers
    >>> made = on_meta(transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2))
    >>> read_layout(made, traced(made), "gpt2").blocks[0].path
    {'ln1': 'ln_1', 'attn_out': 'attn', 'ln2': 'ln_2', 'mlp_out': 'mlp'}
    """
    layers, paths = _layers(model, trace, kind)
    blocks = tuple(read_block(model, trace, path, f"architecture {kind!r}: {path}") for path in paths)
    last = trace.origin(trace.calls[paths[-1]].outputs[0])
    for name, module in model.named_modules():
        outside = name in trace.calls and not name.startswith(f"{layers}.")
        if outside and last in map(trace.origin, trace.calls[name].inputs) and (formula := norm_formula(module)):
            ends = [_path_of(model, m) for m in (model.get_input_embeddings(), model.get_output_embeddings())]
            return Layout(
                layers=layers,
                blocks=blocks,
                embedding=ends[0],
                final_norm=name,
                final_formula=formula,
                unembedding=ends[1],
            )
    raise StructureError(f"architecture {kind!r}: no norm reads the output of the last block, {paths[-1]}")


def _layers(model: nn.Module, trace: Trace, kind: str) -> tuple[str, list[str]]:
    """Return the path of the list of blocks, and the paths of the blocks: each one reads what the one before made."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        paths = [f"{name}.{index}" for index in range(len(module))]
        calls = [trace.calls[path] for path in paths if path in trace.calls]
        if len(calls) < len(paths) or not all(call.inputs and call.outputs for call in calls):
            continue
        if not all(trace.origin(a.outputs[0]) in map(trace.origin, b.inputs) for a, b in pairwise(calls)):
            continue
        if calls[0].count > 1:
            raise StructureError(f"architecture {kind!r}: its blocks, {name}, run {calls[0].count} times in a forward")
        return name, paths
    raise StructureError(f"architecture {kind!r}: it has no list of blocks of which each reads the output of the last")


def _path_of(model: nn.Module, wanted: nn.Module | None) -> str:
    """Return the path of a module; empty for None."""
    return next((name for name, module in model.named_modules() if module is wanted), "")
