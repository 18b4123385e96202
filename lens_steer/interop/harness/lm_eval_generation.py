"""What :mod:`lens_steer.interop.harness.lm_eval` is asked to generate, and how it is done.

Kept apart from it, since none of this needs the harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.generation import told_apart
from lens_steer.inference.positions import running
from lens_steer.models.loading import info_of
from lens_steer.models.tokenization import pad_id

LENGTHS = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)  # the harness's names for one thing, first come
WITHOUT_EFFECT = ("temperature", "top_p", "top_k", "min_p", "typical_p")  # on a greedy answer


@dataclass(frozen=True)
class Wanted:
    """How one answer is to be generated.

    Attributes:
        tokens: at most.
        until: stop sequences.
    """

    tokens: int
    until: tuple[str, ...]

    @classmethod
    def of(cls, asked: Mapping[str, Any], default: int) -> Wanted:
        """From a task's generation arguments.

        Raises:
            LensSteerError: sampling, fewer than one token, or an argument that would change a greedy answer.

        >>> Wanted.of({"until": "Q:", "max_gen_toks": 8, "do_sample": False}, 256)
        Wanted(tokens=8, until=('Q:',))
        """
        left = dict(asked)
        until = left.pop("until", None) or ()
        lengths = [left.pop(name, None) for name in LENGTHS]
        tokens = int(next((length for length in lengths if length is not None), default))
        sampled = left.pop("do_sample", None)
        if sampled or (sampled is None and float(left.get("temperature") or 0) > 0):
            raise LensSteerError(
                f"do_sample={sampled}, temperature={left.get('temperature')}: answers under a plan are greedy; give gen_kwargs='do_sample=False'"
            )
        if others := sorted(set(left) - set(WITHOUT_EFFECT)):
            raise LensSteerError(f"generation argument {others[0]}={left[others[0]]!r} is not supported: answers are greedy")
        if tokens < 1:
            raise LensSteerError(f"max_gen_toks={tokens}: at least 1 is needed")
        return cls(tokens, (until,) if isinstance(until, str) else tuple(until))


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of the stop sequences.

    >>> cut("7. Q: what", ["Q:", "."])
    '7'
    """
    ends = [text.find(stop) for stop in until if stop]
    return text[: min((end for end in ends if end >= 0), default=len(text))]


def continued(model: Any, batch: batching.Batch, wanted: Wanted) -> list[list[int]]:
    """Token ids of each row's greedy answer up to its end token; on Hugging Face a batch stops once every row has written a stop sequence."""
    info = info_of(model)
    ends = [*info.end_tokens, *_unseen(info.tokenizer, wanted.until)]
    with running(batch), torch.inference_mode():
        if info.backend == "hf":
            out = _with_stops(model, batch, wanted, ends)
        else:
            with told_apart(model, batch) as (padded, further):
                out = model.generate(
                    padded, max_new_tokens=wanted.tokens, do_sample=False, stop_at_eos=bool(ends), eos_token_id=ends, prepend_bos=False,
                    padding_side="left", verbose=False, return_type="tokens", **further,
                )  # fmt: skip
    rows = out[:, batch.ids.shape[1] :].tolist()
    return [ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))] for ids in rows]


def _unseen(tokenizer: Any, until: Sequence[str]) -> list[int]:
    """The stop sequences that are special tokens, which a decoded answer does not show."""
    encoded = [list(tokenizer(stop, add_special_tokens=False)["input_ids"]) for stop in until]
    return [ids[0] for ids in encoded if len(ids) == 1 and not tokenizer.decode(ids, skip_special_tokens=True)]


def _with_stops(model: Any, batch: batching.Batch, wanted: Wanted, ends: list[int]) -> Int[Tensor, "batch pos"]:
    """Generate with the folder's own generation settings (a repetition penalty, say) out of force."""
    from transformers import GenerationConfig, StoppingCriteriaList

    tokenizer, width = info_of(model).tokenizer, batch.ids.shape[1]
    stops = [stop for stop in wanted.until if stop]
    back = 2 + max(
        (len(stop.encode()) for stop in stops), default=0
    )  # a token is a byte at least, so these hold the longest stop

    def stopped(ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = tokenizer.batch_decode(ids[:, max(width, ids.shape[1] - back) :], skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in stops) for text in texts], device=ids.device)

    config = GenerationConfig(
        max_new_tokens=wanted.tokens, do_sample=False, eos_token_id=ends or None, pad_token_id=pad_id(tokenizer)
    )
    kept, model.generation_config = model.generation_config, GenerationConfig()
    try:
        return model.generate(
            batch.ids, attention_mask=batch.mask, generation_config=config, stopping_criteria=StoppingCriteriaList([stopped])
        )
    finally:
        model.generation_config = kept
