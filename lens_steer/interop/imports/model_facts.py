"""Facts on a model that an importer needs: its architecture, its number of blocks and its width.

They are read from the model's configuration alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.hub import only_here
from lens_steer.models.huggingface import text_part
from lens_steer.models.layout import KNOWN, Layout
from lens_steer.models.location import locate
from lens_steer.models.structure import StructureError, find_layout


@dataclass(frozen=True)
class ModelFacts:
    """Facts on a model that is not loaded.

    Attributes:
        name: The name that was asked for.
        architecture: Hugging Face's ``model_type``.
        n_layers, d_model: The number of blocks and the width.
        own_layout: See :class:`lens_steer.models.layout.WithLayout`.
    """

    name: str
    architecture: str
    n_layers: int
    d_model: int
    own_layout: Layout | None = None


def model_facts(name: str) -> ModelFacts:
    """Read the configuration of a model: an organism, a local folder, or a hub name that can be reached.

    Raises:
        LensSteerError: If there is no such model, or if its configuration cannot be read.

    >>> model_facts("organism/qwen2").architecture
    'qwen2'
    """
    from transformers import AutoConfig

    folder = locate(name)
    try:
        config = text_part(AutoConfig.from_pretrained(folder, local_files_only=only_here(folder)))
        kind, n_layers, width = config.model_type, int(config.num_hidden_layers), int(config.hidden_size)
        return ModelFacts(name, kind, n_layers, width, None if kind in KNOWN else _layout(config))
    except (OSError, ValueError, AttributeError) as error:
        raise LensSteerError(
            f"the configuration of model {name!r} cannot be read here ({first_line(error)}): name a local folder, "
            "or give architecture and n_layers instead"
        ) from None


def _layout(config: Any) -> Layout | None:
    """Return the layout, or None for a model whose layout cannot be found: its sizes are enough for most files."""
    try:
        return find_layout(config)
    except StructureError:
        return None


def n_blocks(modules: Iterable[str]) -> int:
    """Return the number of blocks up to the last one that module paths name.

    >>> n_blocks(["model.layers.0.input_layernorm", "model.layers.11.mlp"])
    12
    """
    found = (re.search(r"\.(\d+)\.", module) for module in modules)
    return 1 + max((int(match[1]) for match in found if match is not None), default=0)


def guessed_architecture(name: str) -> str:
    """Return the architecture that a model's name states.

    Raises:
        LensSteerError: If the name states none of the supported architectures or several, or if it is that of a mixture
            of experts (``A3B``), which is a family of its own.

    >>> (
    ...     guessed_architecture("Qwen2.5-3B-Instruct"),
    ...     guessed_architecture("google/gemma-2-9b-it"),
    ...     guessed_architecture("gemma-3-1b-it"),
    ... )
    ('qwen2', 'gemma2', 'gemma3_text')
    """
    plain = re.sub(r"[-_]", "", name.lower())
    found = [family for family in KNOWN if family.removesuffix("_text") in plain]
    if len(found) != 1 or re.search(r"(?<![a-z])a\d+b|moe", name.lower()):
        raise LensSteerError(f"model={name!r} does not say its architecture: give architecture=… ({', '.join(KNOWN)})")
    return found[0]
