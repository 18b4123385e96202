"""Loading the Hugging Face model of a judge, and cutting its inputs into batches."""

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
    """A judge's model in evaluation mode and its tokenizer.

    Args:
        kind: which of Hugging Face's classes reads it.
        model: a hub name, a local folder, an ``organism/…``; or a model loaded already (quantised, split over devices),
            which stays where it is.
        tokenizer: of a model loaded already.
        device: the first accelerator if there is one, else the CPU.
        dtype: ``"auto"`` is the checkpoint's.

    Raises:
        LensSteerError: nothing of that name, weights that are missing or unreadable, a loaded model without its
            tokenizer, a bad device or dtype.
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
    except Exception as error:  # the library raises many kinds; the user needs one line
        raise LensSteerError(f"judge model {str(model)!r} could not be loaded as {kind}: {first_line(error)}") from None
    if notes["missing_keys"]:  # it would judge with random numbers
        raise LensSteerError(
            f"judge model {str(model)!r} has no weights for {', '.join(sorted(notes['missing_keys'])[:3])}: it "
            f"was not trained as {kind}, "
            "give a model that was"
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
    """How many tokens the model takes; None where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def name_of(model: Any) -> str:
    """A short name: the last part of a folder's or hub's name.

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
    """Rows in batches, shortest first, so that little is padded.

    >>> list(batches_by_length([5, 1, 3], 2))
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def check_counts(**counts: int) -> None:
    """Refuse sizes below 1.

    Raises:
        LensSteerError: with the argument's name.

    >>> check_counts(batch_size=8)
    """
    for name, value in counts.items():
        if value < 1:
            raise LensSteerError(f"{name}={value}: at least 1 is needed")
