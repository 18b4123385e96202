"""Greedy decoding in batches, under the plans that are active on the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer._io.progress import counting, stepping
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.batching import Prompts
from lens_steer.inference.clock import running
from lens_steer.inference.decoding import decode_answer
from lens_steer.inference.engines import on_engine, steered
from lens_steer.inference.forward import batches_of
from lens_steer.inference.remote import remote_answers, remote_of
from lens_steer.inference.shared_prefix import read_prefix, shared_prefix
from lens_steer.inference.thought_budget import ThoughtBudget, check_budget
from lens_steer.models.loading import embedding_of, info_of
from lens_steer.models.tokenization import pad_id

log = logging.getLogger(__name__)


def generate(
    model: Any,
    prompts: Prompts,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    engine: str = ENGINE,
    kv_cache: bool = True,
    max_thought_tokens: int | None = None,
    progress: bool = False,
) -> list[str]:
    """Return greedy answers in the order of the prompts.

    Prompts run left-padded in batches of similar length, each batch with a fresh key–value cache. An answer ends at the
    model's end-of-turn token, or is cut off after ``max_new_tokens`` tokens. If unsteered answers are cut off, a
    warning is logged. Answers of a batch equal the answers of the same prompts run one by one.

    What a reasoning model writes counts as a whole, thoughts and marks included, and is returned as a whole;
    :func:`lens_steer.metrics.thinking.split_thought` splits it.

    Args:
        model: A model from :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or not.
        prompts: A prompt set, a list of prompts, or plain strings (single user turns). A single prompt or string counts
            as a list of one.
        max_new_tokens: The maximal number of tokens of each answer.
        batch_size: The maximal number of prompts in a batch.
        engine: ``"hf"``: the Hugging Face twin of the model generates, with the same plans as forward hooks. ``"tl"``:
            TransformerLens generates; in float32 it gives the same tokens, but slower. ``"vllm"``: vLLM generates, with
            plans that fold as adapters; see :class:`lens_steer.interop.serving.vllm_engine.VllmEngine`.
        kv_cache: If False, every forward is computed from the first token on, without a cache.
        max_thought_tokens: The maximal number of tokens in the thoughts of each answer. A thought that reaches it is
            closed with the model's own mark, and a warning tells how many were. None: no limit beside
            ``max_new_tokens``. On engine ``hf`` alone.
        progress: If True, a progress bar is shown.

    Returns:
        One answer per prompt, without the end token.

    Raises:
        LensSteerError: If there are no prompts, if a prompt leaves no room for its answer in the context, if
            ``max_new_tokens`` is below 1, if an active plan holds one value per prompt for another number of prompts,
            if the engine is unknown, or if ``max_thought_tokens`` is given for another engine, or for a model without
            marks of thoughts that are known.
    """
    texts, cut, ended = answers(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        engine=engine,
        kv_cache=kv_cache,
        max_thought_tokens=max_thought_tokens,
        progress=progress,
    )
    tell_cut_off(model, cut, max_new_tokens)
    tell_closed(ended, max_thought_tokens)
    return texts


class Answers(NamedTuple):
    """Answers, with what ended them.

    Attributes:
        texts: The answers.
        cut: For each answer, True if it was cut off at ``max_new_tokens``.
        ended: For each answer, True if a thought was closed at ``max_thought_tokens``.
    """

    texts: list[str]
    cut: list[bool]
    ended: list[bool]


def answers(
    model: Any,
    prompts: Prompts,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    engine: str = ENGINE,
    kv_cache: bool = True,
    max_thought_tokens: int | None = None,
    progress: bool = False,
) -> Answers:
    """Return the answers of :func:`generate`, with what ended them.

    >>> from lens_steer import load_model
    >>> answers(load_model("organism/qwen2"), ["What is 4 plus 3?"], max_new_tokens=1)
    Answers(texts=['7'], cut=[True], ended=[False])
    """
    chats = asked(prompts, max_new_tokens)
    tokenizer, ends, n = info_of(model).tokenizer, info_of(model).end_tokens, len(chats)
    check_budget(max_thought_tokens, engine, model, max_new_tokens)
    if (remote := remote_of(model, engine)) is not None:
        found, cut = remote_answers(model, remote, chats, max_new_tokens)
        return Answers([decode_answer(tokenizer, ids) for ids in found], cut, [False] * n)
    most, said = max_thought_tokens, Answers([""] * n, [False] * n, [False] * n)
    with on_engine(model, engine) as runner, counting("generate", n, shown=progress):
        for batch in batches_of(runner, chats, max_new_tokens=max_new_tokens, max_rows=batch_size):
            budget = None if most is None else ThoughtBudget(tokenizer, batch, most, ends)
            written = answer_ids(runner, batch, max_new_tokens, kv_cache=kv_cache, heard=budget)
            for i, (row, ids) in enumerate(zip(batch.rows, written, strict=True)):
                said.texts[row] = decode_answer(tokenizer, ids)
                said.cut[row] = len(ids) == max_new_tokens
                said.ended[row] = budget is not None and budget.ended[i]
    return said


def asked(prompts: Prompts, max_new_tokens: int) -> list[Prompt]:
    """Return the prompts as chats, or refuse what cannot be answered."""
    chats = batching.chats(prompts)
    if not chats:
        raise LensSteerError(
            "prompts is empty: give at least one (a contrast of one's own has select and report prompts where "
            "load_contrast was given split=(0.5, 0.25, 0.25))"
        )
    if max_new_tokens < 1:
        raise LensSteerError(f"max_new_tokens={max_new_tokens}: at least 1 is needed")
    return chats


def tell_cut_off(model: Any, cut: Sequence[bool], max_new_tokens: int) -> None:
    """Log a warning if unsteered answers were cut off, because ``max_new_tokens`` was too small for them.

    Steered answers are not counted: a steered model may never end its answer.
    """
    if any(cut) and not steered(model):
        log.warning(
            "%d of %d unsteered answers were cut off at max_new_tokens=%d: what is made of them is no whole answer",
            sum(cut),
            len(cut),
            max_new_tokens,
        )


def tell_closed(ended: Sequence[bool], max_thought_tokens: int | None) -> None:
    """Log a warning if thoughts were closed, because ``max_thought_tokens`` was too small for them."""
    if any(ended):
        log.warning(
            "%d of %d thoughts were closed at max_thought_tokens=%s: their answers begin early",
            sum(ended),
            len(ended),
            max_thought_tokens,
        )


def answer_ids(
    model: Any,
    batch: batching.Batch,
    max_new_tokens: int,
    *,
    kv_cache: bool = True,
    until: Sequence[str] = (),
    heard: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[list[int]]:
    """Return the token ids of each row's greedy answer, without the end token.

    Args:
        model: The model of the chosen engine (for the twin see :func:`lens_steer.inference.engines.on_engine`).
        batch: The prompts.
        max_new_tokens: The maximal number of tokens of each answer.
        kv_cache: If False, every forward is computed from the first token on, without a cache.
        until: Stop sequences. A stop sequence that is a special token does not show in a decoded answer, so it ends an
            answer as an end token does. For all other stop sequences, a batch on Hugging Face stops as soon as each of
            its rows contains one, and the caller must cut the text.
        heard: A logits processor of Transformers, which is given the tokens and the logits of every step and returns
            the logits that decide; on Hugging Face alone.
    """
    info = info_of(model)
    ends = [*info.end_tokens, *_unseen(info.tokenizer, until)]
    n = shared_prefix(model, batch) if kv_cache else 0
    cache = read_prefix(model, batch, n) if n else None
    with running(batch), torch.inference_mode(), stepping(embedding_of(model), len(batch.rows), max_new_tokens):
        new = _continue(model, batch, max_new_tokens, kv_cache, ends, until, heard, cache)
    return [ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))] for ids in new.tolist()]


def _unseen(tokenizer: Any, until: Sequence[str]) -> list[int]:
    """Return the stop sequences that are special tokens, which do not show in a decoded answer."""
    encoded = [list(tokenizer(stop, add_special_tokens=False)["input_ids"]) for stop in until]
    return [ids[0] for ids in encoded if len(ids) == 1 and not tokenizer.decode(ids, skip_special_tokens=True)]


def _continue(
    model: Any,
    batch: batching.Batch,
    max_new_tokens: int,
    kv_cache: bool,
    ends: list[int],
    until: Sequence[str],
    heard: Callable[[Tensor, Tensor], Tensor] | None,
    cache: Any,
) -> Int[Tensor, "batch new"]:
    info, width = info_of(model), batch.ids.shape[1]
    if info.backend == "hf":
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=kv_cache,
            eos_token_id=ends or None,
            pad_token_id=pad_id(info.tokenizer),
        )
        texts = [stop for stop in until if stop]
        stops = StoppingCriteriaList([_stopped(info.tokenizer, width, texts)] if texts else [])
        # Transformers fills every field that the given config leaves open from the model's own config, for example a
        # checkpoint's repetition penalty. The model's own config is therefore replaced for the call.
        own, model.generation_config = model.generation_config, config
        try:
            out = model.generate(
                batch.ids,
                attention_mask=batch.mask,
                past_key_values=cache,
                generation_config=config,
                stopping_criteria=stops,
                logits_processor=LogitsProcessorList([] if heard is None else [heard]),
            )
        finally:
            model.generation_config = own
    else:
        with told_apart(model, batch) as (padded, further):
            out = model.generate(
                padded,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                stop_at_eos=bool(ends),
                eos_token_id=ends,
                use_past_kv_cache=kv_cache,
                prepend_bos=False,
                padding_side="left",
                verbose=False,
                return_type="tokens",
                **further,
            )
    return out[:, width:]


def _stopped(tokenizer: Any, width: int, stops: Sequence[str]) -> Callable[..., Any]:
    """Return a stopping criterion for Transformers that marks the rows which have written a stop sequence.

    The criterion runs after each new token and reads only the text after the first ``width`` columns, which are the
    prompt.
    """
    # Every token is at least one byte, so this many tokens hold the longest stop sequence.
    back = 2 + max(len(stop.encode()) for stop in stops)

    def stopped(ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = tokenizer.batch_decode(ids[:, max(width, ids.shape[1] - back) :], skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in stops) for text in texts], device=ids.device)

    return stopped


@contextmanager
def told_apart(model: Any, batch: batching.Batch) -> Iterator[tuple[Int[Tensor, "batch pos"], dict[str, Any]]]:
    """Yield a batch's ids and the arguments with which TransformerLens's ``generate`` masks exactly the padding.

    A TransformerBridge takes the mask as an argument. A HookedTransformer does not: it masks every token at the
    beginning of a row that equals the padding token of its tokenizer. That is wrong for rows that begin with the same
    token themselves (a checkpoint whose padding token is its beginning-of-sequence token). Inside the ``with`` block
    the padding token is therefore a token with which no row begins.
    """
    if info_of(model).backend != "hooked":
        yield batch.ids, {"attention_mask": batch.mask}
        return
    mask = batch.mask.bool()
    beginnings = set(batch.ids[torch.arange(len(mask), device=mask.device), mask.int().argmax(dim=1)].tolist())
    pad = next(token for token in range(len(beginnings) + 1) if token not in beginnings)
    tokenizer = model.tokenizer
    kept = tokenizer.pad_token
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    try:
        yield batch.ids.masked_fill(~mask, pad), {}
    finally:
        tokenizer.pad_token = kept
