"""What is known of a model: its facts, which its configuration and tokenizer tell before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer._display import Shown
from lens_steer.models.hooked_transformer import check_family
from lens_steer.models.huggingface import DeviceMap, check_adapter
from lens_steer.models.location import locate, read_config
from lens_steer.models.templates import ChatTemplate, template_of
from lens_steer.models.tokenization import end_tokens, read_tokenizer

UNLOADED = "unloaded"


@dataclass(frozen=True)
class ModelInfo(Shown, view="models"):
    """What was loaded; attached to the model as ``model.lens_info``.

    Attributes:
        backend: ``hooked`` (HookedTransformer), ``bridge`` (TransformerBridge), ``hf`` (a plain Hugging Face twin) or
            ``unloaded``.
        dtype: that the model computes in; empty before it is loaded.
        quantization: of its weights (``nf4``, ``fp4``); empty for plain ones.
        device_map: as it was given.
        adapter: folder of the adapter that was merged into the weights; empty without one.
        revision: of the hub's model, as it was asked for (the folder's last part is the commit); empty without one.
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
    """A model's facts and its configuration, from what lies beside its weights; loading adds to the facts how it was
    loaded.

    Args:
        name, chat_template, template_args, template_date, adapter, revision: see :func:`lens_steer.load_model`.

    Raises:
        LensSteerError: unknown name, folder without a model or a tokenizer, unsupported architecture, a template that
            does not exist or has no use for what it is given, an adapter that is none or is one for a model of another
            size.

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
    info = ModelInfo(
        str(name),
        folder,
        config.model_type,
        UNLOADED,
        "none",
        "",
        config.num_hidden_layers,
        config.hidden_size,
        config.max_position_embeddings,
        tokenizer,
        end_tokens(folder, tokenizer),
        adapter=merged,
        revision=revision or "",
    )
    return info, config
