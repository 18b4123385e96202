"""Teacher forcing: the logits that predict each token of a fixed response, under the plans active on the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.batching import chats
from lens_steer.inference.engines import check_engine
from lens_steer.inference.forward import batches_of, logits_on
from lens_steer.models.loading import info_of

MAX_LOGITS = 2**28  # The maximal number of logits in a batch: 1 GiB in float32.


def with_responses(prompts: PromptSet | Sequence[Prompt] | Sequence[str], responses: Sequence[str]) -> PromptSet:
    """Return the prompts (strings are single user turns) with the given texts as their fixed responses.

    >>> with_responses([Prompt.of("Hello")], ["Hi."])[0].response
    'Hi.'

    Raises:
        LensSteerError: If the numbers of responses and prompts differ.
    """
    if len(prompts) != len(responses):
        raise LensSteerError(f"{len(responses)} responses for {len(prompts)} prompts: give one each")
    answered = (replace(p, response=r) for p, r in zip(chats(prompts), responses, strict=True))
    return PromptSet(tuple(answered), getattr(prompts, "name", "responses"))


def response_logits(
    model: Any, prompts: PromptSet | Sequence[Prompt], *, engine: str = ENGINE, batch_size: int = 64
) -> Iterator[tuple[int, Float[Tensor, "pos d_vocab"], Int[Tensor, " pos"]]]:
    """Yield for each prompt with a response its row, float32 logits, and the token ids of the response.

    ``logits[t]`` predicts ``ids[t]``, given the prompt and ``ids[:t]``; the first row of logits comes from the last
    token of the prompt. The response is tokenised on its own, without the end token. A prompt with an empty response is
    left out. Prompts run in batches, shortest first. Every batch is one forward without a cache, and logits exist only
    at response positions.

    Args:
        model: A model from :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or not.
        prompts: The prompts with their responses.
        engine: ``"tl"`` or ``"hf"``; see :func:`lens_steer.generate`.
        batch_size: The maximal number of prompts in a batch.

    Raises:
        LensSteerError: If a prompt has no response (None), if a prompt is too long, if the engine is unknown, or if an
            active plan holds values for another number of prompts.
    """
    missing = [i for i, p in enumerate(prompts) if p.response is None]
    if missing:
        raise LensSteerError(
            f"prompt {missing[0]} ({prompts[missing[0]].text[:40]!r}…) has no response: teacher forcing needs one"
        )
    check_engine(engine)
    for batch in batches_of(model, prompts, with_response=True, max_rows=batch_size, max_logits=logits_budget(model)):
        longest = max(batch.response_lengths)
        if not longest:
            continue
        logits = logits_on(model, batch, longest + 1, engine)
        for i, (row, length) in enumerate(zip(batch.rows, batch.response_lengths, strict=True)):
            if length:
                yield row, logits[i, -length - 1 : -1].float(), batch.ids[i, -length:]


def first_logits(
    model: Any, prompts: PromptSet | Sequence[Prompt], *, engine: str = ENGINE, batch_size: int = 64
) -> Float[Tensor, "n d_vocab"]:
    """Return the logits that predict the first token of each prompt's answer.

    They are float32 on the CPU, in the order of the prompts. Fixed responses of the prompts are ignored. If the logits
    of all prompts do not fit into memory, use :func:`first_logits_by_batch`.

    Args:
        model: A model from :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or not.
        prompts: The prompts, at least one.
        engine, batch_size: See :func:`response_logits`.

    Raises:
        LensSteerError: If there are no prompts; otherwise as :func:`response_logits`.

    >>> import lens_steer as ls
    >>> model = ls.load_model("organism/qwen2")
    >>> model.lens_info.tokenizer.decode(first_logits(model, [Prompt.of("What is 4 plus 3?")]).argmax(dim=-1))
    '7'
    """
    if not len(prompts):
        raise LensSteerError("prompts is empty: give at least one")
    found: Tensor | None = None
    for rows, logits in first_logits_by_batch(model, prompts, engine=engine, batch_size=batch_size):
        found = torch.empty(len(prompts), logits.shape[-1]) if found is None else found
        found[list(rows)] = logits.cpu()
    return torch.empty(0, 0) if found is None else found


def first_logits_by_batch(
    model: Any, prompts: PromptSet | Sequence[Prompt], *, engine: str = ENGINE, batch_size: int = 64
) -> Iterator[tuple[tuple[int, ...], Float[Tensor, "batch d_vocab"]]]:
    """Yield :func:`first_logits` batch by batch, shortest prompts first, on the model's device.

    Each item holds the rows of the prompts in the batch and their float32 logits.
    """
    check_engine(engine)
    for batch in batches_of(model, prompts, max_rows=batch_size):
        yield batch.rows, logits_on(model, batch, 1, engine)[:, -1].float()


def logits_budget(model: Any) -> int:
    """Return the number of positions in a batch whose logits have at most :data:`MAX_LOGITS` numbers together."""
    vocabulary = model.config.vocab_size if info_of(model).backend == "hf" else model.cfg.d_vocab
    return max(1, MAX_LOGITS // int(vocabulary))
