"""Chat prompts to left-padded token batches; token ids are exactly the chat template's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.templates import template_of
from lens_steer.models.tokenization import pad_id

MAX_BATCH_TOKENS = 8192
MARK = "⟪system⟫"  # stands for a system message to see whether a template writes it
MAX_BATCH_ROWS = 128


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts of similar length.

    Attributes:
        rows: positions of the prompts in the list that was batched.
        ids: token ids, padded on the left.
        mask: 1 for a token, 0 for padding.
        response_lengths: tokens of each fixed response at the right end (0 without one).
        offset: where rows hold several turns: 0, 1, … for the tokens of an answer, and for a token that is no answer's
            its distance to the start of the answer that follows (−1 stands right before it).
        call: the same object for all batches of one call.
    """

    rows: tuple[int, ...]
    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    response_lengths: tuple[int, ...]
    offset: Int[Tensor, "batch pos"] | None = None
    call: object = None

    @property
    def in_response(self) -> Bool[Tensor, "batch pos"]:
        """Which tokens belong to the fixed responses, which stand at the right end."""
        width, device = self.ids.shape[1], self.ids.device
        starts = width - torch.tensor(self.response_lengths, device=device)
        return torch.arange(width, device=device)[None] >= starts[:, None]


def render(tokenizer: Any, prompt: Prompt) -> str:
    """The chat as text up to where the model answers, in the tokenizer's own template, with the arguments and the date
    that were laid down for it.

    A template that refuses a system role (Gemma's raises) gets the system text at the head of the first user message.

    Raises:
        LensSteerError: the tokenizer has no chat template, or the template refuses the messages or leaves out the
            system message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise LensSteerError(
            "the model has no chat template: load it with load_model(name, chat_template='plain') for 'User: …' turns, "
            "or give chat_template a Jinja template or a file with one"
        )
    options = template_of(tokenizer).options
    messages = [dict(m) for m in prompt.messages]
    with_system = messages[0]["role"] == "system" and len(messages) > 1
    try:
        text = _applied(tokenizer, messages, options)
    except Exception as error:  # the template's own, of any kind
        if not with_system:
            raise LensSteerError(f"the chat template refuses the messages: {first_line(error)}") from None
        merged = {"role": messages[1]["role"], "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        try:
            return _applied(tokenizer, [merged, *messages[2:]], options)
        except Exception as further:
            raise LensSteerError(f"the chat template refuses the messages: {first_line(further)}") from None
    if with_system and MARK not in _applied(tokenizer, [{"role": "system", "content": MARK}, *messages[1:]], options):
        raise LensSteerError(
            "the chat template leaves out the system message: give prompts without one, put its text into the "
            "user message, or give another chat_template"
        )
    return text


def encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the rendered chat: those of ``apply_chat_template(tokenize=True, add_generation_prompt=True)``,
    nothing added and nothing taken away.

    Under ``chat_template="plain"``, which writes no special tokens, they are those of ``tokenizer(text)``.
    """
    text = render(tokenizer, prompt)
    return list(tokenizer(text, add_special_tokens=template_of(tokenizer).plain, truncation=False)["input_ids"])


def opening(tokenizer: Any) -> str:
    """How every chat begins in the tokenizer's template, by which a rendered one is known; empty without a template, or
    where chats begin as any text may.

    >>> from lens_steer.models.location import locate
    >>> from lens_steer.models.tokenization import read_tokenizer
    >>> opening(read_tokenizer(locate("organism/qwen2")))
    '<|im_start|>'
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    texts = []
    for prompt in (Prompt.of("a"), Prompt.of("b"), Prompt.of("a", system="c"), Prompt.of("a", system="d")):
        with suppress(LensSteerError):  # a template without a system role has chats without one alone
            texts.append(render(tokenizer, prompt))
    shortest = min(texts, key=len, default="")
    return next(
        (shortest[:n] for n in range(len(shortest), 0, -1) if all(t.startswith(shortest[:n]) for t in texts)), ""
    )


def _applied(tokenizer: Any, messages: list[dict[str, str]], options: Mapping[str, Any]) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


def encode_response(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the prompt's fixed response, without the end token; empty if there is none."""
    return list(tokenizer(prompt.response, add_special_tokens=False)["input_ids"]) if prompt.response else []


def rows_a_batch(tokenizer: Any, prompts: Iterable[Prompt], max_new_tokens: int) -> int:
    """How many answers to such prompts run in one batch at most, the longest of them taken.

    >>> from lens_steer.models.location import locate
    >>> from lens_steer.models.tokenization import read_tokenizer
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
                f"prompt {row} ({prompt.text[:40]!r}…) needs {total} tokens with its answer, more than the "
                f"model's context of {n_ctx}: shorten it"
            )
        encoded.append((row, ids + response, len(response)))
    return padded(
        encoded,
        pad_id(tokenizer),
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
