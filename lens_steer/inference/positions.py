"""Which tokens are steered, and where a running batch has its padding, its prompts and its answers.

Positions are written as terms joined by ``+``. A term is ``all``, ``prompt`` or ``generated``, alone, with an
index, or with a slice::

    all                         every token (padding never)
    prompt[-1]                  the last token of each prompt, which decides the first token of the answer
    generated[:5]               the first five tokens of the answer, as inputs: they decide the second to the sixth
    prompt[-1]+generated        everything that decides the answer's tokens
    all[3]+all[7]               explicit positions, counted from the first token of each prompt

``response`` is another word for ``generated``: a fixed response (teacher forcing) counts as generated. In a
conversation (:func:`lens_steer.converse`) every turn has a prompt and an answer of its own: ``generated[:5]`` is the
first five tokens of each answer, ``prompt[-1]`` the token before each answer; what is counted from the front of
``prompt`` or ``all`` is counted from the conversation's first token.

Where a prompt ends is known inside :func:`lens_steer.generate` and :func:`lens_steer.record`; a forward of one's own
says it with :func:`running`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_steer.errors import LensSteerError

if TYPE_CHECKING:
    from lens_steer.inference.batching import Batch

_TERM = re.compile(r"(all|prompt|generated)(?:\[(-?\d+)\]|\[(-?\d*):(-?\d*)\])?")
HOW = "use all, prompt, generated, an index or a slice of one such as prompt[-1] or generated[:5], several joined by +"


@dataclass(frozen=True)
class Term:
    """One contiguous run of tokens: ``region[start:stop]``; None is open."""

    region: str
    start: int | None
    stop: int | None


def parse(positions: str) -> tuple[Term, ...]:
    """The terms of a specification.

    Raises:
        LensSteerError: anything else; an empty slice; a count from the end of a region whose end is not known.

    >>> parse("prompt[-1]+generated[:5]")
    (Term(region='prompt', start=-1, stop=None), Term(region='generated', start=None, stop=5))
    """
    terms = []
    for part in positions.split("+"):
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
    """The specification as a plan keeps it; a sequence of integers is explicit positions, ``response`` is read as
    ``generated``.

    >>> normalized((3, 7)), normalized("prompt[-1] + response[:2]")
    ('all[3]+all[7]', 'prompt[-1]+generated[:2]')
    """
    if not isinstance(positions, str):
        positions = "+".join(f"all[{p}]" for p in positions)
    positions = re.sub(r"\bresponse\b", "generated", positions)
    parse(positions)
    return positions.replace(" ", "")


def first_steered(positions: str) -> str:
    """The first steered token in words.

    >>> first_steered("prompt[-1]+generated")
    'token -1 of the prompt'
    """
    term = min(parse(positions), key=lambda t: (t.region == "generated", (t.start or 0) < 0, t.start or 0))
    if term.region == "all":
        return f"token {term.start or 0}, counted from the prompt's first"
    return f"token {term.start or 0} of the {'prompt' if term.region == 'prompt' else 'answer'}"


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a left-padded batch are.

    Attributes:
        rows: which rows of the whole list of prompts these are.
        begins: column of each row's first token.
        ends: column after each row's prompt.
        width: columns that the batch began with.
        offset: of those columns, where a row holds several turns; see :class:`lens_steer.inference.batching.Batch`.
            None: one prompt, one answer.
        call: the same object for all batches of one call.
    """

    rows: Int[Tensor, " batch"]
    begins: Int[Tensor, " batch"]
    ends: Int[Tensor, " batch"]
    width: int
    offset: Int[Tensor, "batch pos"] | None = None
    call: object = field(default_factory=object)

    @staticmethod
    def of(batch: Batch) -> Layout:
        """The layout of a batch; its fixed responses, if any, are at the right end."""
        mask = batch.mask
        width = mask.shape[1]
        responses = torch.tensor(batch.response_lengths, device=mask.device)
        rows, call = torch.tensor(batch.rows, device=mask.device), object() if batch.call is None else batch.call
        return Layout(rows, width - mask.sum(dim=1), width - responses, width, batch.offset, call)

    def counts(self, begin: int, end: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Two counts of each of the columns ``begin … end``: from the row's first token (negative for padding), and
        from the start of its answer, where 0, 1, … are the answer's tokens and −1, −2, … those before it, backwards.
        """
        column = torch.arange(begin, end, device=self.begins.device)[None]
        offset = column - self.ends[:, None]
        if self.offset is not None and begin < self.width:
            known = self.offset[:, begin : min(end, self.width)]
            offset = torch.cat([known, offset[:, known.shape[1] :]], dim=1)
        return column - self.begins[:, None], offset


_RUNNING: ContextVar[Layout | None] = ContextVar("running", default=None)


def steers(positions: str, batch: Batch) -> bool:
    """Whether any token of a batch has the positions."""
    return bool(Clock(positions).columns(Layout.of(batch), 0, batch.ids.shape[1]).any())


@contextmanager
def running(batch: Batch) -> Iterator[None]:
    """Say what the forwards inside the block are fed, so that steering knows padding, prompts and answers apart."""
    token = _RUNNING.set(Layout.of(batch))
    try:
        yield
    finally:
        _RUNNING.reset(token)


class Clock:
    """Says, for the forward now running, which columns are steered.

    Told rows, columns and how many columns a cache already holds at the start of every forward, by a hook before the
    first block.
    """

    def __init__(self, positions: str) -> None:
        self._terms = parse(positions)
        self._fed: Int[Tensor, "batch pos"] | None = None  # the tokens of all columns so far, where they are followed
        self.begin = 0
        self.started = False
        self.layout: Layout | None = None
        self.attention_mask: Tensor | None = None  # of a forward of the user's own
        self.rows: Int[Tensor, " batch"] | None = None
        self.selected: Bool[Tensor, "batch pos"] | None = None  # None: every column
        self.idle = False  # no column at all
        self.forwards, self.steered = 0, 0

    def announce(self, attention_mask: Tensor | None) -> None:
        """A forward of the model is about to begin; until :meth:`start` nothing is known of it."""
        self.attention_mask, self.started = attention_mask, False
        if _RUNNING.get() is None:
            self._fed = None

    def start(self, rows: int, width: int, cached: int = 0) -> None:
        """Begin a forward of so many rows and columns, after so many that a cache holds."""
        self.layout, self.begin, self.started, self.idle = _RUNNING.get(), cached, True, False
        self.forwards += 1
        if self.layout is None:
            self.rows, self.selected = None, self._without_layout(rows, width)
        elif cached >= self.layout.width and self._terms == (Term("all", None, None),):
            self.rows, self.selected = self.layout.rows, None  # beyond the prompts there is no padding
        else:
            selected = self.columns(self.layout, cached, cached + width)
            self.rows, self.selected = self.layout.rows, None if bool(selected.all()) else selected
            self.idle = not bool(selected.any())
        self.steered += not self.idle

    def columns(self, layout: Layout, begin: int, end: int) -> Bool[Tensor, "batch pos"]:
        """Which of the columns ``begin … end`` are steered, row by row."""
        position, offset = layout.counts(begin, end)
        found = torch.zeros_like(position, dtype=torch.bool)
        for term in self._terms:
            forward = offset if term.region == "generated" else position
            inside = forward >= 0
            if term.region == "prompt":
                inside &= offset < 0
            if term.start is not None:
                inside &= (offset if term.start < 0 else forward) >= term.start
            if term.stop is not None:
                inside &= (offset if term.stop < 0 else forward) < term.stop
            found |= inside
        return found

    def follow(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Take note of the tokens that are fed, to know which they are and which answers have ended."""
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
        """The tokens of the running forward of so many columns; None where they are not known, as in a forward that is
        fed vectors.
        """
        end = self.begin + width
        return None if self._fed is None or self._fed.shape[1] < end else self._fed[:, self.begin : end]

    def counted(self, width: int, end_tokens: Sequence[int]) -> Bool[Tensor, "batch pos"] | None:
        """Which of the running forward's steered columns belong to answers that have not ended: a batch goes on until
        its last row ends.
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
