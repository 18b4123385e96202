"""Which tokens of an answer are thought and which are answer, read token by token, as the model writes them.

A token belongs to the segment in which it stands when the model reads it; no later token changes this. Generation with
and without a cache, fixed responses and recordings therefore agree on every token. The tokens of a mark belong to
neither segment. Where a mark is no token of its own in a vocabulary (a model without thoughts under a template that
writes ``<think>``), it is recognised with its last token, and the tokens before that one count as what they follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens_steer.inference.decoding import opens_thought
from lens_steer.inference.places import Places
from lens_steer.models.thoughts import CHANNEL, CHANNEL_ENDS, FINAL, MESSAGE, Marks, needed_marks

MARK, THOUGHT, ANSWER = 0, 1, 2
SEGMENTS = {"thought": THOUGHT, "answer": ANSWER}
GENERATED = "use 'generated', which is all that it writes"
CUT, BYTES = "\ufffd", 4  # How a character that is cut shows in a decoded text; the bytes of the longest one.
BEFORE = 24  # The last tokens of a prompt, in which a mark that opens a thought is looked for.


class Reader:
    """Reads the tokens of one answer and tells of each in which segment it is, and its place there.

    Args:
        marks: The marks of the model.
        starts: What a mark of several tokens begins with, if that is an added token.
        thinking: Whether the prompt has already opened a thought.
    """

    def __init__(self, marks: Marks, starts: Sequence[str] = (), *, thinking: bool = False) -> None:
        self._marks, self._starts = marks, tuple(starts)
        self.segment = THOUGHT if thinking else ANSWER
        self._seen = ""  # The last characters, among which a mark may begin; in a header of gpt-oss, its text.
        self._header = False
        self._lengths = [0, 0, 0]
        self.in_mark = False  # Whether the last token was the beginning of a mark of several tokens.
        self.pending: tuple[int, ...] = ()  # Tokens whose bytes are no whole character yet.

    def read(self, piece: str) -> tuple[int, int]:
        """Read the text of the next token; return its segment, and its place in it from 0 (−1 in a mark)."""
        found = self._channel(piece) if self._marks.channels else self._tag(piece)
        if found == MARK:
            return MARK, -1
        self._lengths[found] += 1
        return found, self._lengths[found] - 1

    def another(self) -> Reader:
        """Return a reader that goes on from here, and leaves this one as it is."""
        twin = copy(self)
        twin._lengths = list(self._lengths)
        return twin

    def _tag(self, piece: str) -> int:
        self._seen += piece
        marked = False
        while (end := self._end_of_mark()) is not None:
            self._seen, marked = self._seen[end:], True
        self.in_mark = not marked and self._begins_mark()
        if marked or self.in_mark:
            return MARK
        self._seen = self._seen[-max(len(self._marks.opening), len(self._marks.closing)) :]
        return self.segment

    def _end_of_mark(self) -> int | None:
        """Return where the first mark in the last characters ends, and take the segment that begins there."""
        marks = ((self._marks.opening, THOUGHT), (self._marks.closing, ANSWER))
        found = [(self._seen.find(mark), len(mark), then) for mark, then in marks if mark in self._seen]
        if not found:
            return None
        begin, length, self.segment = min(found)
        return begin + length

    def _begins_mark(self) -> bool:
        """Return True if the last characters are the beginning of a mark that starts with an added token."""
        return any(
            self._seen.endswith(mark[:n])
            for mark in (self._marks.opening, self._marks.closing)
            for start in self._starts
            if mark.startswith(start)
            for n in range(len(start), len(mark))
        )

    def _channel(self, piece: str) -> int:
        if piece == CHANNEL or piece in CHANNEL_ENDS:
            self._header, self._seen = True, ""
            return MARK
        if not self._header:
            return self.segment
        if piece == MESSAGE:
            self._header = False
            self.segment = ANSWER if self._seen.split(" ")[0].strip() == FINAL else THOUGHT
        self._seen += piece
        return MARK


class Segments:
    """The segments of every answer of a running batch.

    Args:
        tokenizer: The tokenizer of the model.
        for_what, mend: What needs the segments, and what to do without them; see
            :func:`lens_steer.models.thoughts.needed_marks`.

    Raises:
        LensSteerError: If the model has no marks of thoughts that are known.
    """

    def __init__(self, tokenizer: Any, for_what: str, mend: str = GENERATED) -> None:
        self.marks = needed_marks(tokenizer, for_what, mend)
        self._tokenizer = tokenizer
        marks = (self.marks.opening, self.marks.closing)
        added = getattr(tokenizer, "get_added_vocab", dict)()
        self._starts = tuple(t for t in added if any(mark != t and mark.startswith(t) for mark in marks))
        self._pieces: dict[tuple[int, ...], str] = {}
        self._layout: Places | None = None
        self._readers: list[Reader] = []  # at the end of the columns with which the batch began
        self._grown: list[Reader] = []  # at the end of all columns so far
        self._found = torch.empty(2, 0, 0, dtype=torch.long)

    def read(self, reader: Reader, token: int) -> tuple[int, int]:
        """Let a reader read the next token; see :meth:`Reader.read`.

        The text of a token whose bytes end within a character is read with the token that ends the character.
        """
        ids = (*reader.pending, token)
        if ids not in self._pieces:
            self._pieces[ids] = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        piece = self._pieces[ids]
        whole = not piece.endswith(CUT) or len(ids) == BYTES
        reader.pending = () if whole else ids
        return reader.read(piece if whole else "")

    def reader(self, before: Sequence[int]) -> Reader:
        """Return a reader of the answer that follows some tokens."""
        text = self._tokenizer.decode(list(before[-BEFORE:]), skip_special_tokens=False)
        return Reader(self.marks, self._starts, thinking=opens_thought(text))

    def of(self, before: Sequence[int], answer: Sequence[int]) -> list[int]:
        """Return the segment of every token of an answer."""
        reader = self.reader(before)
        return [self.read(reader, token)[0] for token in answer]

    def closes_what_is_not_open(self, before: Sequence[int], answer: Sequence[int]) -> bool:
        """Return True if the first mark of an answer closes a thought, and the tokens before it have opened none."""
        reader = self.reader(before)
        if self.marks.channels or reader.segment == THOUGHT:
            return False
        for token in answer:
            if self.read(reader, token)[0] == MARK and not reader.in_mark:
                return reader.segment == ANSWER
        return False

    def columns(
        self, layout: Places, begin: int, end: int, tokens: Int[Tensor, "batch width"] | None = None
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Return the segment of every token in the columns ``begin … end``, and its place in it.

        Tokens of prompts and padding count as :data:`MARK`.

        Args:
            layout: The places of the running batch.
            begin, end: The columns.
            tokens: The tokens of these columns. They are needed where columns are asked for that the batch did not
                begin with.
        """
        if layout is not self._layout:
            self._begin(layout)
        if end > layout.width:
            if tokens is None or tokens.shape[1] != end - begin or begin > self._found.shape[2]:
                raise RuntimeError(f"the tokens of the columns {begin} to {end} were not followed")
            self._grow(max(begin, layout.width), tokens[:, max(begin, layout.width) - begin :])
        kind, place = self._found[:, :, begin:end].to(layout.begins.device)
        return kind, place

    def _begin(self, layout: Places) -> None:
        """Read the columns with which a batch begins."""
        self._layout, self._readers = layout, []
        rows, (_, offsets) = [], layout.counts(0, layout.width)
        per_row = zip(layout.ids.tolist(), layout.begins.tolist(), offsets.tolist(), strict=True)
        for ids, first, offset in per_row:
            reader, read = None, [(MARK, -1)] * layout.width
            for column in range(first, layout.width):
                if offset[column] < 0:
                    continue
                if offset[column] == 0 or reader is None:
                    reader = self.reader(ids[first:column])
                read[column] = self.read(reader, ids[column])
            rows.append(read)
            # Where a row ends with its prompt, its answer begins with the first new column.
            in_answer = reader is not None and offset[-1] >= 0
            self._readers.append(reader if in_answer and reader is not None else self.reader(ids[first:]))
        self._found = torch.tensor(rows, dtype=torch.long).permute(2, 0, 1)
        self._grown = [reader.another() for reader in self._readers]

    def _grow(self, begin: int, tokens: Int[Tensor, "batch new"]) -> None:
        """Read the tokens of the columns from ``begin`` on, which may have been read before."""
        if begin < self._found.shape[2]:
            width = self._found.shape[2]
            assert self._layout is not None
            if begin > self._layout.width:
                raise RuntimeError(f"the columns {begin} to {width} were read with other tokens before them")
            self._found, self._grown = self._found[:, :, :begin], [reader.another() for reader in self._readers]
        read = [
            [self.read(reader, token) for token in row]
            for reader, row in zip(self._grown, tokens.tolist(), strict=True)
        ]
        new = torch.tensor(read, dtype=torch.long).reshape(*tokens.shape, 2).permute(2, 0, 1)
        self._found = torch.cat([self._found, new], dim=2)
