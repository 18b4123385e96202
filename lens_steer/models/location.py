"""The location of a model (organism, local Hugging Face folder, GGUF file or hub name) and its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.hub import why_not
from lens_steer.models.huggingface import is_gguf, source, text_part

ORGANISMS = ("organism/gemma2", "organism/llama", "organism/qwen2")
ORGANISM_FOLDER = Path(__file__).parents[1] / "organisms" / "weights"
# The files that are fetched from the hub for a given revision.
FETCHED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "vocab_size")
# The exceptions that Transformers raises while it reads a configuration that is no mapping, or that holds values of a
# wrong type.
MALFORMED = (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def locate(name: str | Path, revision: str | None = None) -> str:
    """Return the folder of an organism or a local model, a GGUF file, or the name itself if it looks like a hub name.

    With a ``revision``, the model is fetched from the hub, and the folder of the downloaded files is returned.

    Args:
        name: The name of the model.
        revision: A branch, tag or commit of a model on the hub. None: no specific revision.

    Raises:
        LensSteerError: If no model has that name (the message lists what exists), if a revision is given for a model
            that is not on the hub, if the revision cannot be fetched, or if the folder holds an adapter and no model.

    >>> locate("Qwen/Qwen2.5-1.5B-Instruct"), Path(locate("organism/qwen2")).name
    ('Qwen/Qwen2.5-1.5B-Instruct', 'qwen2')
    """
    text = str(name)
    if revision is not None:
        return _snapshot(text, revision)
    if text.startswith("organism/"):
        folder = ORGANISM_FOLDER / text.removeprefix("organism/")
        if text not in ORGANISMS or not (folder / "config.json").exists():
            raise LensSteerError(f"unknown organism {text!r}: the embedded models are {', '.join(ORGANISMS)}")
        return str(folder)
    path = Path(text).expanduser()
    if is_gguf(path) and path.is_file():
        return str(path)
    if path.is_dir():
        if not (path / "config.json").exists():
            if (path / "adapter_config.json").exists():
                raise LensSteerError(
                    f"folder {text!r} holds an adapter and no model: load its base, {_base_of(path)}, with "
                    f"adapter={text!r}"
                )
            raise LensSteerError(f"folder {text!r} holds no Hugging Face model (config.json is missing)")
        return str(path)
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise LensSteerError(f"model {'file' if is_gguf(path) else 'folder'} {text!r} does not exist")
    return text


def _base_of(adapter: Path) -> str:
    """Return the name of the base model that an adapter's configuration names."""
    try:
        base = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    return repr(base) if base else "which its adapter_config.json does not name"


def _snapshot(name: str, revision: str) -> str:
    """Fetch a model from the hub at a revision and return the folder, whose last part is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if name.startswith("organism/") or Path(name).expanduser().exists():
        raise LensSteerError(
            f"revision={revision!r}: {name!r} is no hub name, and only those have revisions: leave it out"
        )
    try:
        return snapshot_download(name, revision=revision, allow_patterns=FETCHED, ignore_patterns=["*/*"])
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise LensSteerError(
            f"model {name!r} at revision={revision!r} cannot be fetched from the Hugging Face hub: {first_line(error)}"
        ) from None


def read_config(name: str, folder: str) -> Any:
    """Read the configuration of a model; for a checkpoint with images, that of its text part.

    Raises:
        LensSteerError: If there is no such model, if the file cannot be read or is no configuration, or if a size is
            below 1.

    >>> read_config("organism/llama", locate("organism/llama")).model_type
    'llama'
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = text_part(AutoConfig.from_pretrained(**source(folder)))
    except (OSError, ValueError, ImportError, StrictDataclassError, *MALFORMED) as error:
        if is_gguf(folder):
            raise LensSteerError(
                f"model {name!r}: Transformers cannot read this GGUF file: {first_line(error)}"
            ) from None
        if Path(folder).is_dir():
            # The first line of a validation error names the wrong field, and the next line says what is wrong.
            why = " ".join(str(error).split()) if isinstance(error, StrictDataclassError) else first_line(error)
            raise LensSteerError(f"model {name!r}: its config.json cannot be read: {why}") from None
        raise LensSteerError(
            f"model {name!r} is neither an embedded model ({', '.join(ORGANISMS)}) nor a local folder, "
            f"and could not be fetched from the Hugging Face hub: {_why(error)}"
        ) from None
    for size in SIZES:
        if isinstance(value := getattr(config, size, None), int) and value < 1:
            raise LensSteerError(f"model {name!r}: its config.json says {size}={value}: at least 1 is needed")
    return config


def _why(error: Exception) -> str:
    """Return why a model could not be fetched.

    If the hub was not asked, this is the reason and a remedy; otherwise it is the first line of the library's error.
    """
    if (reason := why_not()) is None:
        return first_line(error)
    return f"{reason}, and it is not in the cache; give the folder of a copy, or fetch it"
