"""Multiple-choice questions, and the ``.jsonl`` files that hold them.

Each row of a file has ``question``, ``choices`` (2 to 10 strings) and ``answer`` (an index from 0, or a letter), and
may have ``subject``. These are the columns of MMLU as it is commonly distributed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer._io.jsonl import read_lines
from lens_steer.errors import LensSteerError

LETTERS = "ABCDEFGHIJ"
TEMPLATE = "{question}\n\n{options}\n\nWhich option is right? Reply with its letter alone ({letters})."


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question.

    Attributes:
        question: The text of the question.
        choices: The options in order, 2 to 10. The first one is A.
        answer: The index of the right option, from 0.
        subject: The subject of the question; empty if the file gives none.

    Raises:
        LensSteerError: If there are fewer than 2 or more than 10 options, or if ``answer`` is the index of none of
            them.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str = ""

    def __post_init__(self) -> None:
        if not 2 <= len(self.choices) <= len(LETTERS):
            raise LensSteerError(f"choices={list(self.choices)!r}: 2 to {len(LETTERS)} options are needed")
        if not 0 <= self.answer < len(self.choices):
            raise _no_option(self.answer, len(self.choices))

    @property
    def letter(self) -> str:
        """Return the letter of the right option."""
        return LETTERS[self.answer]

    @property
    def right(self) -> str:
        """Return the right option."""
        return self.choices[self.answer]

    def render(self, template: str = TEMPLATE) -> str:
        """Return the text of the user's turn.

        >>> print(Choice("Is water wet?", ("yes", "no"), 0).render("{question} {options} {letters}?"))
        Is water wet? A. yes
        B. no A or B?
        """
        letters = LETTERS[: len(self.choices)]
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, self.choices, strict=True))
        spelt = ", ".join(letters[:-1]) + f" or {letters[-1]}"
        return template.format(question=self.question, options=listed, letters=spelt, subject=self.subject)


@dataclass(frozen=True)
class ChoiceSet(Sequence[Choice]):
    """An ordered set of questions with a name and a content hash."""

    items: tuple[Choice, ...]
    name: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return ChoiceSet(self.items[index], self.name) if isinstance(index, slice) else self.items[index]

    def __repr__(self) -> str:
        return f"ChoiceSet({self.name!r}, {len(self)} questions)"

    @property
    def subjects(self) -> tuple[str, ...]:
        """Return the distinct subjects, sorted."""
        return tuple(sorted({item.subject for item in self.items}))

    @property
    def hash(self) -> str:
        """Return the SHA-256 hash of the questions in their order."""
        rows = [[c.question, list(c.choices), c.answer, c.subject] for c in self.items]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def load_choices(path: str | Path) -> ChoiceSet:
    """Read a ``.jsonl`` file of questions; the module's docstring describes the format.

    Raises:
        LensSteerError: If there is no such file, if it is not JSON, if a row lacks a field or its answer is none of its
            options (the message names the line), or if there are no questions.
    """
    return ChoiceSet(tuple(read_lines(path, "questions", _choice)), Path(path).name)


def _choice(row: Any) -> Choice:
    if not isinstance(row, Mapping):
        raise LensSteerError(f"{type(row).__name__} is no object with question, choices and answer")
    question, choices, answer = row.get("question"), row.get("choices"), row.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise LensSteerError(f"question={question!r}: a text is needed")
    texts = [c for c in choices if isinstance(c, str)] if isinstance(choices, list) else []
    if texts != choices or not 2 <= len(texts) <= len(LETTERS):
        raise LensSteerError(f"choices={choices!r}: a list of 2 to {len(LETTERS)} texts is needed")
    if isinstance(answer, str) and len(answer.strip()) == 1:
        answer = LETTERS.find(answer.strip().upper())
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(texts):
        raise _no_option(row.get("answer"), len(texts))
    return Choice(question, tuple(texts), answer, str(row.get("subject") or ""))


def _no_option(answer: Any, n: int) -> LensSteerError:
    return LensSteerError(f"answer={answer!r}: one of {', '.join(LETTERS[:n])} or 0 to {n - 1} is needed")
