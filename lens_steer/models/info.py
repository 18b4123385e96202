"""The description of a model: facts that its configuration and its tokenizer tell before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError
from lens_steer.models.hooked_transformer import check_family
from lens_steer.models.huggingface import DeviceMap, check_adapter
from lens_steer.models.layout import KNOWN, Layout, WithLayout
from lens_steer.models.location import locate, read_config
from lens_steer.models.structure import find_layout
from lens_steer.models.templates import ChatTemplate, template_of
from lens_steer.models.tokenization import end_tokens, read_tokenizer

UNLOADED = "unloaded"


@dataclass(frozen=True)
class ModelInfo(WithLayout, Shown, view="models"):
    """The description of a loaded model, attached to it as ``model.lens_info``.

    Attributes:
        name: The name of the model, as it was given.
        folder: The folder or file of the model, or its hub name.
        architecture: The model type of Hugging Face.
        backend: ``hooked`` (HookedTransformer), ``bridge`` (TransformerBridge), ``hf`` (a plain Hugging Face model, or
            the twin of another) or ``unloaded``.
        weight_processing: The processing of the weights; ``none`` for every model that is loaded here.
        dtype: The dtype in which the model computes; empty before it is loaded.
        n_layers: The number of blocks.
        d_model: The width of the residual stream.
        n_ctx: The length of the context in tokens.
        tokenizer: The tokenizer, with its chat template.
        end_tokens: The ids of the tokens that end an answer.
        quantization: The 4-bit type of the weights (``nf4``, ``fp4``); empty for weights that are not quantised.
        device_map: The device map, as it was given.
        adapter: The folder of the adapter that was merged into the weights; empty without an adapter.
        revision: The requested revision of a model on the hub (the last part of the folder is the commit); empty
            without a revision.
        own_layout: See :class:`lens_steer.models.layout.WithLayout`.
    """

    name: str
    folder: str
    architecture: str
    backend: str
    weight_processing: str
    dtype: str
    n_layers: int
    d_model: int
    n_ctx: int
    tokenizer: Any
    end_tokens: tuple[int, ...]
    quantization: str = ""
    device_map: DeviceMap = None
    adapter: str = ""
    revision: str = ""
    own_layout: Layout | None = None

    @property
    def template(self) -> ChatTemplate:
        """The chat template, with its arguments and its date."""
        return template_of(self.tokenizer)

    def __repr__(self) -> str:
        bits = f", {self.quantization}" if self.quantization else ""
        bits += f", revision {self.revision}" if self.revision else ""
        bits += f", adapter {self.adapter}" if self.adapter else ""
        return (
            f"ModelInfo({self.name!r}, {self.architecture}, {self.backend}, {self.dtype}{bits}, weights "
            f"{self.weight_processing})"
        )


def read_info(
    name: str | Path,
    *,
    chat_template: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    template_date: str | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
) -> tuple[ModelInfo, Any]:
    """Read the facts about a model and its configuration, without its weights.

    Loading completes the facts with the backend, the dtype, the quantisation and the device map.

    Args:
        name, chat_template, template_args, template_date, adapter, revision: See :func:`lens_steer.load_model`.

    Returns:
        The description and the Hugging Face configuration.

    Raises:
        LensSteerError: If the name is unknown; if the folder holds no model or no tokenizer; if the structure of the
            model is not found or its configuration names no longest prompt; if the template does not exist or does not
            use what it is given; or if the adapter folder holds no adapter or one for a model of another size.

    >>> info, config = read_info("organism/llama")
    >>> info.n_layers == config.num_hidden_layers, info.backend
    (True, 'unloaded')
    """
    folder = locate(name, revision)
    config = read_config(str(name), folder)
    check_family(config, str(name))
    merged = str(adapter or "")
    if merged:
        check_adapter(merged, config)
    tokenizer = read_tokenizer(folder, chat_template, template_args, template_date)
    layout = None if config.model_type in KNOWN else find_layout(config)
    if getattr(config, "max_position_embeddings", None) is None:
        raise LensSteerError(
            f"model {str(name)!r}: its config.json has no max_position_embeddings: add the longest prompt, in tokens"
        )
    info = ModelInfo(
        str(name),
        folder,
        config.model_type,
        UNLOADED,
        "none",
        "",
        config.num_hidden_layers if layout is None else len(layout.blocks),
        config.hidden_size,
        config.max_position_embeddings,
        tokenizer,
        end_tokens(folder, tokenizer),
        adapter=merged,
        revision=revision or "",
        own_layout=layout,
    )
    return info, config
