"""Where a model lies: an organism, a local Hugging Face folder or a hub name; and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError, first_line
from lens_steer.hub import only_here, why_not
from lens_steer.huggingface import text_part

ORGANISMS = ("organism/gemma2", "organism/llama", "organism/qwen2")
ORGANISM_FOLDER = Path(__file__).parent / "organisms" / "weights"


def locate(name: str | Path) -> str:
    """The folder of an organism or a local model, or the name itself if it looks like a hub's.

    Raises:
        LensSteerError: nothing of that name, with what exists.

    >>> locate("Qwen/Qwen2.5-1.5B-Instruct"), Path(locate("organism/qwen2")).name
    ('Qwen/Qwen2.5-1.5B-Instruct', 'qwen2')
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


def read_config(name: str, folder: str) -> Any:
    """The model's configuration; of a checkpoint with images (Gemma-3), that of its text part.

    Raises:
        LensSteerError: no such model, a file that cannot be read.

    >>> read_config("organism/llama", locate("organism/llama")).model_type
    'llama'
    """
    from transformers import AutoConfig

    try:
        return text_part(AutoConfig.from_pretrained(folder, local_files_only=only_here(folder)))
    except (OSError, ValueError) as error:
        if Path(folder).is_dir():
            raise LensSteerError(f"model {name!r}: its config.json cannot be read: {first_line(error)}") from None
        raise LensSteerError(
            f"model {name!r} is neither an embedded model ({', '.join(ORGANISMS)}) nor a local folder, "
            f"and could not be fetched from the Hugging Face hub: {_why(error)}"
        ) from None


def _why(error: Exception) -> str:
    """Where the hub was not asked, why, and what to do; else what the library says of it."""
    reason = why_not()
    return (
        first_line(error) if reason is None else f"{reason}, and it is not in the cache; give the folder of a copy, or fetch it"
    )
