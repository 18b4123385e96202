"""Positions: which tokens are steered, and where a running batch has its padding, its prompts and its answers.

Positions are written as terms joined by ``+``. A term is ``all``, ``prompt`` or ``generated``, alone, with an index, or
with a slice::

    all                         every token (padding is never steered)
    prompt[-1]                  the last token of each prompt, which decides the first token of the answer
    generated[:5]               the first five tokens of the answer, as inputs: they decide the second to the sixth
    prompt[-1]+generated        all tokens that decide the tokens of the answer
    all[3]+all[7]               explicit positions, counted from the first token of each prompt
    reused(16)                  the tokens of each prompt that a prefix cache of blocks of 16 tokens hands over
    recomputed(16)+generated    all other tokens: the rest of each prompt, and the answer

A serving engine with a prefix cache takes over the keys and values of whole blocks of tokens from an earlier request,
and computes the rest of the prompt again, at least its last token. Which tokens these are depends on the length of each
prompt; see :func:`n_reused`. In a conversation, the prompt of a turn is everything before its answer.

``response`` is another word for ``generated``: a fixed response (teacher forcing) counts as generated. In a
conversation (:func:`lens_steer.converse`) every turn has its own prompt and its own answer. ``generated[:5]`` means the
first five tokens of each answer, and ``prompt[-1]`` means the token before each answer. Positions counted from the
front of ``prompt`` or ``all`` are counted from the first token of the conversation.

:func:`lens_steer.generate` and :func:`lens_steer.record` know where each prompt ends. A forward that the user calls
directly needs the context manager :func:`running`, which tells it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_steer.errors import LensSteerError

if TYPE_CHECKING:
    from lens_steer.inference.batching import Batch

_TERM = re.compile(r"(all|prompt|generated)(?:\[(-?\d+)\]|\[(-?\d*):(-?\d*)\])?")
_BLOCKS = re.compile(r"(reused|recomputed)\((\d+)\)")
BLOCK = 16  # the tokens of a block in the prefix cache of vLLM, unless it is told another number
_OF_PROMPT = ("prompt", "reused", "recomputed")  # regions that are parts of a prompt
HOW = (
    "use all, prompt, generated, an index or a slice of one such as prompt[-1] or generated[:5], reused(16) or "
    "recomputed(16) for the blocks of a prefix cache, several joined by +"
)


@dataclass(frozen=True)
class Term:
    """A contiguous range of tokens, ``region[start:stop]``; None leaves that end open.

    Attributes:
        region: ``all``, ``prompt``, ``generated``, or the parts ``reused`` and ``recomputed`` of the prompt.
        start, stop: The ends of the slice; None for the two parts of the prompt, which have no slice.
        block: The number of tokens in a block of the prefix cache; 0 for the other regions.
    """

    region: str
    start: int | None
    stop: int | None
    block: int = 0


def parse(positions: str) -> tuple[Term, ...]:
    """Parse a specification of positions into its terms.

    Raises:
        LensSteerError: If a term is not understood, if a slice is empty, if a position is counted from the end of
            ``all`` or ``generated``, whose end is not known, or if a block has no token.

    >>> parse("prompt[-1]+generated[:5]")[0]
    Term(region='prompt', start=-1, stop=None, block=0)
    """
    terms = []
    for part in positions.split("+"):
        if blocks := _BLOCKS.fullmatch(part.strip()):
            if not int(blocks[2]):
                raise LensSteerError(f"positions={positions!r}: a block of 0 tokens holds no token; {HOW}")
            terms.append(Term(blocks[1], None, None, int(blocks[2])))
            continue
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise LensSteerError(f"positions={positions!r}: {part.strip()!r} is not understood; {HOW}")
        region, index, first, last = match.groups()
        start, stop = (int(first) if first else None), (int(last) if last else None)
        if index is not None:
            start, stop = int(index), (int(index) + 1 or None)
        if region != "prompt" and ((start or 0) < 0 or (stop or 0) < 0):
            raise LensSteerError(f"positions={positions!r}: only a prompt can be counted from its end; {HOW}")
        same_sign = start is not None and stop is not None and (start < 0) == (stop < 0)
        if stop == 0 or (same_sign and start >= stop):  # type: ignore[operator]
            raise LensSteerError(f"positions={positions!r}: {part.strip()!r} holds no token; {HOW}")
        terms.append(Term(region, start, stop))
    return tuple(terms)


def normalized(positions: str | Sequence[int]) -> str:
    """Return the specification in the form in which a plan stores it.

    A sequence of integers is read as explicit positions (``all[3]+all[7]``), and ``response`` becomes ``generated``.

    >>> normalized((3, 7)), normalized("prompt[-1] + response[:2]")
    ('all[3]+all[7]', 'prompt[-1]+generated[:2]')
    """
    if not isinstance(positions, str):
        positions = "+".join(f"all[{p}]" for p in positions)
    positions = re.sub(r"\bresponse\b", "generated", positions)
    parse(positions)
    return positions.replace(" ", "")


def first_steered(positions: str) -> str:
    """Describe the first steered token in words.

    What a prefix cache hands over depends on the length of each prompt, so it is described and has no number.

    >>> first_steered("prompt[-1]+generated")
    'token -1 of the prompt'
    >>> first_steered("recomputed(16)+generated")
    'the first token of the prompt that a prefix cache with blocks of 16 does not hand over'
    >>> first_steered("prompt[5]+recomputed(16)")
    'token 5 of the prompt, or the first one that a prefix cache with blocks of 16 does not hand over'
    """

    def place(t: Term) -> tuple[bool, bool, bool, int, int]:
        return t.region == "generated", (t.start or 0) < 0, t.region == "recomputed", t.start or 0, t.block

    terms = parse(positions)
    term = min(terms, key=place)
    if term.block:
        what = "hands over, if any" if term.region == "reused" else "does not hand over"
        return f"the first token of the prompt that a prefix cache with blocks of {term.block} {what}"
    if term.region == "all":
        found = f"token {term.start or 0}, counted from the prompt's first"
    else:
        found = f"token {term.start or 0} of the {'prompt' if term.region == 'prompt' else 'answer'}"
    rest = [t.block for t in terms if t.region == "recomputed"]
    if not rest or not term.start:  # nothing of the prompt is earlier than its token 0
        return found
    return f"{found}, or the first one that a prefix cache with blocks of {rest[0]} does not hand over"


@overload
def n_reused(length: int, block: int = BLOCK) -> int: ...
@overload
def n_reused(length: Int[Tensor, "*batch"], block: int = BLOCK) -> Int[Tensor, "*batch"]: ...
def n_reused(length: int | Int[Tensor, "*batch"], block: int = BLOCK) -> int | Int[Tensor, "*batch"]:
    """Return how many tokens of a prompt a prefix cache hands over: ``block ⌊(length − 1) / block⌋``.

    A cache holds whole blocks alone. The last token of the prompt is always computed, because its logits give the first
    token of the answer; where the last block would end with it, that whole block is computed again. This is what vLLM
    does, with blocks of 16 tokens by default.

    Args:
        length: The number of tokens of the prompt, template included.
        block: The number of tokens in a block.

    Raises:
        LensSteerError: If the block is not at least 1.

    >>> [n_reused(length) for length in (1, 16, 17, 32, 33)]
    [0, 0, 16, 16, 32]
    """
    if block < 1:
        raise LensSteerError(f"block={block}: give the number of tokens in a block of the prefix cache, at least 1")
    return (length - 1) // block * block


@dataclass(frozen=True)
class Layout:
    """The places of the tokens of a left-padded batch.

    Attributes:
        rows: The rows of the batch in the whole list of prompts.
        begins: The column of the first token of each row.
        ends: The column after the prompt of each row.
        width: The number of columns with which the batch began.
        offset: The offsets of these columns, if a row holds several turns; see
            :class:`lens_steer.inference.batching.Batch`. None: one prompt and one answer per row.
        call: The same object for all batches of one call.
    """

    rows: Int[Tensor, " batch"]
    begins: Int[Tensor, " batch"]
    ends: Int[Tensor, " batch"]
    width: int
    offset: Int[Tensor, "batch pos"] | None = None
    call: object = field(default_factory=object)

    @staticmethod
    def of(batch: Batch) -> Layout:
        """Return the layout of a batch; its fixed responses, if any, stand at the right end."""
        mask = batch.mask
        width = mask.shape[1]
        responses = torch.tensor(batch.response_lengths, device=mask.device)
        rows, call = torch.tensor(batch.rows, device=mask.device), object() if batch.call is None else batch.call
        return Layout(rows, width - mask.sum(dim=1), width - responses, width, batch.offset, call)

    def counts(self, begin: int, end: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Return two counts of each of the columns ``begin … end``, row by row.

        The first is the position counted from the first token of the row; it is negative for padding. The second is the
        offset from the start of the answer: 0, 1, … for the tokens of the answer and −1, −2, … for the tokens before
        it, counted backwards.
        """
        column = torch.arange(begin, end, device=self.begins.device)[None]
        offset = column - self.ends[:, None]
        if self.offset is not None and begin < self.width:
            known = self.offset[:, begin : min(end, self.width)]
            offset = torch.cat([known, offset[:, known.shape[1] :]], dim=1)
        return column - self.begins[:, None], offset


_RUNNING: ContextVar[Layout | None] = ContextVar("running", default=None)


def steers(positions: str, batch: Batch) -> bool:
    """Return True if at least one token of a batch has one of the positions."""
    return bool(Clock(positions).columns(Layout.of(batch), 0, batch.ids.shape[1]).any())


@contextmanager
def running(batch: Batch) -> Iterator[None]:
    """Announce the batch on which the forwards inside the ``with`` block run.

    Steering then knows which columns are padding, prompt and answer.
    """
    token = _RUNNING.set(Layout.of(batch))
    try:
        yield
    finally:
        _RUNNING.reset(token)


class Clock:
    """The state that decides which columns of the running forward are steered.

    A hook before the first block calls :meth:`start` at every forward, with the numbers of rows, of columns and of
    columns that a key–value cache already holds.
    """

    # With a cache a forward sees only the newest columns. The clock therefore places each forward in the whole batch:
    # its first column is the number of columns in the cache, and the layout tells which columns of each row are
    # padding, prompt and answer.
    def __init__(self, positions: str) -> None:
        self._terms = parse(positions)
        # The tokens of all columns so far; None if they are not followed.
        self._fed: Int[Tensor, "batch pos"] | None = None
        self.begin = 0
        self.started = False
        self.layout: Layout | None = None
        self.attention_mask: Tensor | None = None  # The mask of a forward that the user calls directly.
        self.rows: Int[Tensor, " batch"] | None = None
        self.selected: Bool[Tensor, "batch pos"] | None = None  # None: every column is steered.
        self.idle = False  # True if no column is steered.
        self.forwards, self.steered = 0, 0

    def announce(self, attention_mask: Tensor | None) -> None:
        """Prepare for a forward of the model that is about to begin; its shape is not known until :meth:`start`."""
        self.attention_mask, self.started = attention_mask, False
        if _RUNNING.get() is None:
            self._fed = None

    def start(self, rows: int, width: int, cached: int = 0) -> None:
        """Begin a forward of ``rows`` × ``width`` tokens, after ``cached`` columns that a cache already holds."""
        self.layout, self.begin, self.started, self.idle = _RUNNING.get(), cached, True, False
        self.forwards += 1
        if self.layout is None:
            self.rows, self.selected = None, self._without_layout(rows, width)
        elif cached >= self.layout.width and self._terms == (Term("all", None, None),):
            self.rows, self.selected = self.layout.rows, None  # Columns after the prompts hold no padding.
        else:
            selected = self.columns(self.layout, cached, cached + width)
            self.rows, self.selected = self.layout.rows, None if bool(selected.all()) else selected
            self.idle = not bool(selected.any())
        self.steered += not self.idle

    def columns(self, layout: Layout, begin: int, end: int) -> Bool[Tensor, "batch pos"]:
        """Return the mask of the columns ``begin … end`` that are steered, row by row."""
        position, offset = layout.counts(begin, end)
        found = torch.zeros_like(position, dtype=torch.bool)
        for term in self._terms:
            forward = offset if term.region == "generated" else position
            inside = forward >= 0
            if term.region in _OF_PROMPT:
                inside &= offset < 0
            if term.block:
                handed_over = position < n_reused(position - offset, term.block)
                inside &= handed_over if term.region == "reused" else ~handed_over
            if term.start is not None:
                inside &= (offset if term.start < 0 else forward) >= term.start
            if term.stop is not None:
                inside &= (offset if term.stop < 0 else forward) < term.stop
            found |= inside
        return found

    def follow(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Store the tokens of the running forward, to know later which tokens they are and which answers have ended."""
        layout, fed = _RUNNING.get(), self._fed
        if (
            layout is None
            or layout is not self.layout
            or fed is None
            or len(tokens) != len(fed)
            or tokens.shape[1] >= layout.width
        ):
            self._fed = tokens
        else:
            self._fed = torch.cat([fed, tokens], dim=1)

    def tokens(self, width: int) -> Int[Tensor, "batch pos"] | None:
        """Return the tokens of the ``width`` columns of the running forward.

        Return None if they are not known, for example in a forward that receives embeddings instead of tokens.
        """
        end = self.begin + width
        return None if self._fed is None or self._fed.shape[1] < end else self._fed[:, self.begin : end]

    def counted(self, width: int, end_tokens: Sequence[int]) -> Bool[Tensor, "batch pos"] | None:
        """Return the mask of the steered columns of the running forward that belong to answers that have not ended.

        A batch runs until its last row ends, so the columns after the end token of a shorter answer must not count.
        """
        if self.layout is None or self._fed is None or self._fed.shape[1] <= self.layout.width:
            return self.selected
        generated = self._fed[:, self.layout.width :]
        over = torch.isin(generated, torch.tensor(list(end_tokens), device=generated.device)).cumsum(dim=1) > 0
        prompt = torch.zeros(len(over), self.layout.width, dtype=torch.bool, device=over.device)
        alive = ~torch.cat([prompt, over], dim=1)[:, self.begin : self.begin + width]
        return alive if self.selected is None else alive & self.selected

    def _without_layout(self, rows: int, width: int) -> Bool[Tensor, "batch pos"] | None:
        if self._terms != (Term("all", None, None),):
            raise LensSteerError(
                "the plan steers only some positions, and where this batch has its prompts is not known: run it "
                "through lens_steer.generate or "
                "lens_steer.record, or inside 'with lens_steer.inference.positions.running(batch):'"
            )
        mask = self.attention_mask
        if mask is None or mask.shape != (rows, width) or bool(mask.all()):
            return None
        return mask.bool()
