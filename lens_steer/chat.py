"""Chat prompts to left-padded token batches, with exactly one beginning-of-sequence token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.prompts import Prompt

MAX_BATCH_TOKENS = 8192
MAX_BATCH_ROWS = 128


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts of similar length.

    Attributes:
        rows: positions of the prompts in the list that was batched.
        ids: token ids, padded on the left.
        mask: 1 for a token, 0 for padding.
        response_lengths: tokens of each fixed response at the right end (0 without one).
        offset: where rows hold several turns: 0, 1, … for the tokens of an answer, and for a token that is no answer's its distance to the start of the answer that
            follows (−1 stands right before it).
        call: the same object for all batches of one call.
    """

    rows: tuple[int, ...]
    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    response_lengths: tuple[int, ...]
    offset: Int[Tensor, "batch pos"] | None = None
    call: object = None


def render(tokenizer: Any, prompt: Prompt) -> str:
    """The chat as text up to where the model answers, in the tokenizer's own template.

    A template that knows no system role (Gemma's raises) gets the system text at the head of the first user message.

    Raises:
        LensSteerError: the tokenizer has no chat template, or the template refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise LensSteerError(
            "the model has no chat template: load it with load_model(name, chat_template='plain') for 'User: …' turns, "
            "or give chat_template a Jinja template or a file with one"
        )
    messages = [dict(m) for m in prompt.messages]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        if messages[0]["role"] != "system" or len(messages) < 2:
            raise LensSteerError(f"the chat template refuses the messages: {error}") from None
    merged = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return tokenizer.apply_chat_template([merged, *messages[2:]], tokenize=False, add_generation_prompt=True)


def encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the rendered chat; one beginning-of-sequence token where the tokenizer has one, never two."""
    ids = list(tokenizer(render(tokenizer, prompt), add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    if bos is None:
        return ids
    while len(ids) > 1 and ids[0] == bos and ids[1] == bos:
        ids = ids[1:]
    return ids if ids and ids[0] == bos else [bos, *ids]


def encode_response(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the prompt's fixed response, without the end token; empty if there is none."""
    return list(tokenizer(prompt.response, add_special_tokens=False)["input_ids"]) if prompt.response else []


def rows_a_batch(tokenizer: Any, prompts: Iterable[Prompt], max_new_tokens: int) -> int:
    """How many answers to such prompts run in one batch at most, the longest of them taken.

    >>> from lens_steer.folders import locate
    >>> from lens_steer.tokenization import read_tokenizer
    >>> tokenizer = read_tokenizer(locate("organism/qwen2"))
    >>> rows_a_batch(tokenizer, [Prompt.of("Hello")], 48), rows_a_batch(tokenizer, [Prompt.of("word " * 400)], 48)
    (128, 9)
    """
    longest = max(len(encode(tokenizer, prompt)) for prompt in prompts) + max_new_tokens
    return max(1, min(MAX_BATCH_ROWS, MAX_BATCH_TOKENS // longest))


def batches(
    tokenizer: Any,
    prompts: Iterable[Prompt],
    *,
    n_ctx: int,
    max_new_tokens: int = 0,
    with_response: bool = False,
    max_tokens: int = MAX_BATCH_TOKENS,
    max_rows: int = MAX_BATCH_ROWS,
    max_logits: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Cut prompts into left-padded batches, shortest first, within the limits of :func:`padded`.

    Everything is tokenised and checked before the first batch is given out.

    Raises:
        LensSteerError: a prompt that is longer than the context leaves room for.
    """
    encoded: list[tuple[int, list[int], int]] = []
    for row, prompt in enumerate(prompts):
        ids = encode(tokenizer, prompt)
        response = encode_response(tokenizer, prompt) if with_response else []
        total = len(ids) + len(response) + max_new_tokens
        if total > n_ctx:
            raise LensSteerError(
                f"prompt {row} ({prompt.text[:40]!r}…) needs {total} tokens with its answer, more than the model's context of {n_ctx}: shorten it"
            )
        encoded.append((row, ids + response, len(response)))
    return padded(
        encoded,
        tokenizer.pad_token_id,
        extra=max_new_tokens,
        max_tokens=max_tokens,
        max_rows=max_rows,
        max_logits=max_logits,
        device=device,
    )


def padded(
    sequences: Sequence[tuple[int, list[int], int]],
    pad: int,
    *,
    offsets: Mapping[int, list[int]] | None = None,
    call: object = None,
    extra: int = 0,
    max_tokens: int = MAX_BATCH_TOKENS,
    max_rows: int = MAX_BATCH_ROWS,
    max_logits: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Left-padded batches, shortest first.

    Args:
        sequences: row, token ids, and how many of them, at the end, belong to the answer.
        pad: token that fills up.
        offsets: of each row's tokens, where rows hold several turns; see :class:`Batch`.
        call: stands for the call that the batches belong to; a new one unless given.
        extra: tokens that will be generated.
        max_tokens: padded and generated tokens a batch at most.
        max_rows: sequences a batch at most.
        max_logits: positions a batch at most whose logits are kept: an answer's, and the one before it.
        device: of the tensors.
    """
    order = sorted(sequences, key=lambda item: (len(item[1]), item[0]))
    call = object() if call is None else call
    start = 0
    while start < len(order):
        stop, longest = start + 1, order[start][2]
        while stop < len(order) and stop - start < max_rows:
            rows, longest = stop - start + 1, max(longest, order[stop][2])
            if (len(order[stop][1]) + extra) * rows > max_tokens or (max_logits and (longest + 1) * rows > max_logits):
                break
            stop += 1
        group, width = order[start:stop], len(order[stop - 1][1])
        ids = torch.tensor([[pad] * (width - len(i)) + i for _, i, _ in group], device=device)
        mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for _, i, _ in group], device=device)
        rows, offset = tuple(row for row, _, _ in group), None
        if offsets is not None:
            offset = torch.tensor([[-width] * (width - len(offsets[r])) + offsets[r] for r in rows], device=device)
        yield Batch(rows, ids, mask, tuple(n for _, _, n in group), offset, call)
        start = stop
