"""Which tokens of a running batch the running forward steers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.inference.batching import Batch
from lens_steer.inference.places import Places
from lens_steer.inference.positions import Term, n_reused, parse
from lens_steer.inference.segments import SEGMENTS, Segments
from lens_steer.models.loading import info_of

_OF_PROMPT = ("prompt", "reused", "recomputed")  # regions that are parts of a prompt


_RUNNING: ContextVar[Places | None] = ContextVar("running", default=None)


def clock_for(model: Any, positions: str) -> Clock:
    """Return a clock for the positions of a plan, which knows the segments of a model's answers if these are asked for.

    Args:
        model: A model of any backend.
        positions: The specification; see :mod:`lens_steer.inference.positions`.

    Raises:
        LensSteerError: If the specification is not understood, or if it names a segment and the model has no marks of
            thoughts that are known.
    """
    asked = sorted({term.region for term in parse(positions)} & SEGMENTS.keys())
    if not asked:
        return Clock(positions)
    return Clock(positions, Segments(info_of(model).tokenizer, f"positions={positions!r}"))


def steers(model: Any, positions: str, batch: Batch) -> bool:
    """Return True if at least one token of a batch has one of the positions."""
    return bool(clock_for(model, positions).columns(Places.of(batch), 0, batch.ids.shape[1]).any())


@contextmanager
def running(batch: Batch) -> Iterator[None]:
    """Announce the batch on which the forwards inside the ``with`` block run.

    Steering then knows which columns are padding, prompt and answer.
    """
    token = _RUNNING.set(Places.of(batch))
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
    def __init__(self, positions: str, segments: Segments | None = None) -> None:
        self._terms = parse(positions)
        self.segments = segments  # Only where a term is a segment.
        self._now: Int[Tensor, "batch pos"] | None = None  # The tokens of the running forward, if they are followed.
        # The tokens of all columns so far; None if they are not followed.
        self._fed: Int[Tensor, "batch pos"] | None = None
        self.begin = 0
        self.started = False
        self.layout: Places | None = None
        self.attention_mask: Tensor | None = None  # The mask of a forward that the user calls directly.
        self.rows: Int[Tensor, " batch"] | None = None
        self.selected: Bool[Tensor, "batch pos"] | None = None  # None: every column is steered.
        self.idle = False  # True if no column is steered.
        self.forwards, self.steered = 0, 0

    def announce(self, attention_mask: Tensor | None) -> None:
        """Prepare for a forward of the model that is about to begin; its shape is not known until :meth:`start`."""
        self.attention_mask, self.started, self._now = attention_mask, False, None
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

    def columns(self, layout: Places, begin: int, end: int) -> Bool[Tensor, "batch pos"]:
        """Return the mask of the columns ``begin … end`` that are steered, row by row."""
        position, offset = layout.counts(begin, end)
        found = torch.zeros_like(position, dtype=torch.bool)
        segments = None
        if self.segments is not None:
            # TransformerLens without a cache embeds the newest token alone, and runs all columns.
            whole = self._now is not None and self._now.shape[1] == end - begin
            segments = self.segments.columns(layout, begin, end, self._now if whole else self.tokens(end - begin))
        for term in self._terms:
            forward = offset if term.region == "generated" else position
            inside = forward >= 0
            if term.region in SEGMENTS:
                assert segments is not None, "clock_for gives segments to a clock that needs them"
                kind, forward = segments
                inside = kind == SEGMENTS[term.region]
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
        layout, fed, self._now = _RUNNING.get(), self._fed, tokens
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
                "lens_steer.record, or inside 'with lens_steer.inference.clock.running(batch):'"
            )
        mask = self.attention_mask
        if mask is None or mask.shape != (rows, width) or bool(mask.all()):
            return None
        return mask.bool()
