"""Left-padded token batches of chat prompts, whose token ids are exactly those of the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.templates import template_of
from lens_steer.models.tokenization import pad_id

MAX_BATCH_TOKENS = 8192
MARK = "⟪system⟫"  # A stand-in for the system message, to test whether a template writes it.
MAX_BATCH_ROWS = 128


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts of similar length.

    Attributes:
        rows: The positions of the prompts in the list that was cut into batches.
        ids: The token ids, padded on the left.
        mask: 1 for a token, 0 for padding.
        response_lengths: The number of tokens of each fixed response, which stands at the right end; 0 without a
            response.
        offset: For rows that hold several turns, the place of each token relative to its answer: 0, 1, … for the tokens
            of an answer, and −1, −2, … counted backwards from the start of the next answer for all other tokens (−1 is
            the token right before the answer). None: every row is one prompt with at most one answer.
        call: The same object for all batches of one call. None: the batch is a call of its own.
    """

    rows: tuple[int, ...]
    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    response_lengths: tuple[int, ...]
    offset: Int[Tensor, "batch pos"] | None = None
    call: object = None

    @property
    def in_response(self) -> Bool[Tensor, "batch pos"]:
        """The mask of the tokens that belong to the fixed responses at the right end."""
        width, device = self.ids.shape[1], self.ids.device
        starts = width - torch.tensor(self.response_lengths, device=device)
        return torch.arange(width, device=device)[None] >= starts[:, None]


Prompts = PromptSet | Sequence[Prompt] | Sequence[str] | Prompt | str


def chats(prompts: Prompts) -> list[Prompt]:
    """Return prompts as a list: a string is a single user turn, and a single prompt or string a list of one.

    >>> [prompt.text for prompt in chats("Hello")]
    ['Hello']
    """
    given = [prompts] if isinstance(prompts, (str, Prompt)) else prompts
    return [p if isinstance(p, Prompt) else Prompt.of(p) for p in given]


def render(tokenizer: Any, prompt: Prompt) -> str:
    """Render a chat as text up to the point where the model answers.

    The text is that of the tokenizer's own chat template, with the arguments and the date that were fixed for it. If
    the template refuses a system role (Gemma's template raises an error), the system text is put at the head of the
    first user message.

    Raises:
        LensSteerError: If the tokenizer has no chat template, or if the template refuses the messages or leaves out the
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
    except Exception as error:  # A template can raise an exception of any type.
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
    """Return the token ids of the rendered chat.

    They are exactly those of ``apply_chat_template(tokenize=True, add_generation_prompt=True)``: no token is added and
    none is removed. Under ``chat_template="plain"``, which writes no special tokens, they are those of
    ``tokenizer(text)``.
    """
    text = render(tokenizer, prompt)
    return list(tokenizer(text, add_special_tokens=template_of(tokenizer).plain, truncation=False)["input_ids"])


def opening(tokenizer: Any) -> str:
    """Return the text with which every chat begins in the tokenizer's template.

    A rendered chat is recognised by this text. It is empty if there is no template, or if the chats have no common
    beginning.

    >>> from lens_steer.models.location import locate
    >>> from lens_steer.models.tokenization import read_tokenizer
    >>> opening(read_tokenizer(locate("organism/qwen2")))
    '<|im_start|>'
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    texts = []
    for prompt in (Prompt.of("a"), Prompt.of("b"), Prompt.of("a", system="c"), Prompt.of("a", system="d")):
        with suppress(LensSteerError):  # A template without a system role has only chats without a system message.
            texts.append(render(tokenizer, prompt))
    shortest = min(texts, key=len, default="")
    return next(
        (shortest[:n] for n in range(len(shortest), 0, -1) if all(t.startswith(shortest[:n]) for t in texts)), ""
    )


def _applied(tokenizer: Any, messages: list[dict[str, str]], options: Mapping[str, Any]) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


def encode_response(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return the token ids of the prompt's fixed response, without the end token; empty if there is no response."""
    return list(tokenizer(prompt.response, add_special_tokens=False)["input_ids"]) if prompt.response else []


def rows_a_batch(tokenizer: Any, prompts: Iterable[Prompt], max_new_tokens: int) -> int:
    """Return the maximal number of answers to such prompts that run in one batch, computed from the longest prompt.

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
    max_rows: int = MAX_BATCH_ROWS,
    max_logits: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Cut prompts into left-padded batches, shortest first, within the limits of :func:`padded`.

    All prompts are tokenised and checked before the first batch is returned.

    Raises:
        LensSteerError: If a prompt is longer than the context allows.
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
    limits: dict[str, Any] = {"extra": max_new_tokens, "max_rows": max_rows, "max_logits": max_logits}
    return padded(encoded, pad_id(tokenizer), **limits, device=device)


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
    """Yield left-padded batches, shortest sequences first.

    Args:
        sequences: For each sequence: its row, its token ids, and how many of the last ids belong to the answer.
        pad: The token id that fills the padding.
        offsets: For each row the offsets of its tokens, if rows hold several turns; see :class:`Batch`. None: one turn.
        call: The object that identifies the call to which the batches belong. None: a new object.
        extra: The number of tokens that will be generated for each sequence.
        max_tokens: The maximal number of padded and generated tokens in a batch.
        max_rows: The maximal number of sequences in a batch.
        max_logits: The maximal number of positions in a batch whose logits are kept. These are the positions of the
            answers, and the position before each answer. None: no limit.
        device: The device of the tensors.
    """
    # Sequences of similar length go into one batch, so that there is little padding. The list is sorted by length, and
    # a batch grows until one more (and therefore longer) sequence would break a limit: every row of a batch is as wide
    # as its longest one.
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
