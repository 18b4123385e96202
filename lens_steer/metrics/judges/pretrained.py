"""Loading of a judge's Hugging Face model, and batches of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.hub import only_here
from lens_steer.models.loading import usable_device
from lens_steer.models.location import locate

Kind = Literal["AutoModelForCausalLM", "AutoModelForSequenceClassification"]
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_judge_model(
    kind: Kind, model: Any, tokenizer: Any = None, *, device: str | torch.device | None = None, dtype: str = "auto"
) -> tuple[Any, Any]:
    """Return a judge's model in evaluation mode, and its tokenizer.

    Args:
        kind: The Hugging Face class that loads the model.
        model: A hub name, a local folder or ``organism/…``. Or a loaded model (quantised, spread over devices), which
            stays on its devices.
        tokenizer: The tokenizer of a loaded model; None otherwise.
        device: The device to load to. None stands for the first accelerator or, without one, the CPU.
        dtype: ``"auto"`` (the dtype of the checkpoint), ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Raises:
        LensSteerError: If there is no model of that name, if weights are missing or unreadable, if a loaded model comes
            without a tokenizer or a named one with a tokenizer, or if the device or the dtype is not valid.
    """
    import transformers

    if not isinstance(model, (str, Path)):
        if tokenizer is None:
            raise LensSteerError(
                f"model is a loaded {type(model).__name__} and tokenizer is missing: give tokenizer= too"
            )
        return model.eval(), _with_padding(tokenizer)
    if tokenizer is not None:
        raise LensSteerError(f"model={str(model)!r} is loaded by name with its own tokenizer: leave tokenizer out")
    if dtype not in DTYPES:
        raise LensSteerError(f"dtype={dtype!r}: use one of {', '.join(DTYPES)}")
    folder, place = locate(model), usable_device(device)
    try:
        here = only_here(folder)
        loaded, notes = getattr(transformers, kind).from_pretrained(
            folder, dtype=dtype, output_loading_info=True, local_files_only=here
        )
        found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=here)
    except Exception as error:  # transformers raises many types; the user needs one line
        raise LensSteerError(f"judge model {str(model)!r} could not be loaded as {kind}: {first_line(error)}") from None
    if notes["missing_keys"]:  # missing weights are initialised at random, so that the verdicts would be random
        raise LensSteerError(
            f"judge model {str(model)!r} has no weights for {', '.join(sorted(notes['missing_keys'])[:3])}: it was "
            f"not trained as {kind}, give a model that was"
        )
    return loaded.to(place).eval(), _with_padding(found)


def _with_padding(tokenizer: Any) -> Any:
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise LensSteerError(
                "the judge's tokenizer has neither a padding nor an end token: set tokenizer.pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context_of(model: Any) -> int | None:
    """Return the length of the model's context in tokens; None if its configuration does not give it."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def name_of(model: Any) -> str:
    """Return a short name of a model: the last part of its hub name or folder.

    >>> name_of("organism/qwen2")
    'qwen2'
    """
    full = (
        str(model)
        if isinstance(model, (str, Path))
        else str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    )
    return Path(full).name


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield the rows in batches, shortest inputs first, so that there is little padding.

    >>> list(batches_by_length([5, 1, 3], 2))
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def check_counts(**counts: int) -> None:
    """Refuse sizes below 1.

    Raises:
        LensSteerError: If a size is below 1; the message names the argument.

    >>> check_counts(batch_size=8)
    """
    for name, value in counts.items():
        if value < 1:
            raise LensSteerError(f"{name}={value}: at least 1 is needed")
