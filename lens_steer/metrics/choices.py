"""Multiple-choice questions, answered by the logits of the answer's first token, under whatever steering is active.

A file of questions is ``.jsonl``. Each row has ``question``, ``choices`` (2 to 10 strings) and ``answer`` (an index
from 0, or a letter), and may have ``subject``. These are the columns of MMLU as it is commonly distributed.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lens_steer._defaults import ENGINE
from lens_steer._io.jsonl import read_lines
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference.teacher_forcing import first_logits_by_batch
from lens_steer.models.loading import info_of
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import wilson

LETTERS = "ABCDEFGHIJ"
FIELDS = ("question", "options", "letters", "subject")
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


@dataclass(frozen=True, eq=False)
class ChoiceScores:
    """The answers of a model to multiple-choice questions, in the order of the questions.

    Attributes:
        correct: True for each question whose likeliest letter is the right one. Two runs on the same questions can be
            paired row by row.
        chosen: The likeliest letter of each question.
        probabilities: One tuple per question with the probability of each option's letter among all tokens. The
            difference of their sum to 1 is the probability of all other tokens.
        accuracy: The share of right answers with its Wilson interval.
    """

    correct: tuple[bool, ...]
    chosen: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]

    @cached_property
    def accuracy(self) -> Estimate:
        return wilson(sum(self.correct), len(self.correct))

    @property
    def mass(self) -> Float[np.ndarray, " n"]:
        """Return for each question the probability that the answer begins with one of its letters.

        Where this is near 0, the letters say little about the text that the model would write.
        """
        return np.array([sum(p) for p in self.probabilities])

    def __repr__(self) -> str:
        return f"ChoiceScores(accuracy {self.accuracy}, mean mass {self.mass.mean():.3f})"


def choice_accuracy(
    model: Any,
    items: ChoiceSet | Sequence[Choice],
    *,
    engine: str = ENGINE,
    template: str = TEMPLATE,
    batch_size: int = 64,
) -> ChoiceScores:
    """Ask every question as a user's turn and choose the letter that is likeliest as the first token of the answer.

    The probability of a letter is the sum over the tokens that write this letter alone, with and without a leading
    space. The accuracy of guessing is one over the number of options.

    Args:
        model: A model of :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or outside it.
        items: At least one question.
        engine, batch_size: See :func:`lens_steer.inference.teacher_forcing.first_logits`.
        template: The text of the user's turn. The fields ``{question}`` and ``{options}`` are required; ``{letters}``
            and ``{subject}`` are optional.

    Raises:
        LensSteerError: If there are no questions, if the template lacks a required field or has an unknown one, or if
            the tokenizer has no token of its own for a letter. Also for the reasons of
            :func:`lens_steer.inference.teacher_forcing.first_logits`.

    >>> import lens_steer as ls
    >>> found = choice_accuracy(ls.load_model("organism/qwen2"), [Choice("Which is a colour?", ("red", "seven"), 0)])
    >>> len(found.correct), len(found.probabilities[0]), bool(0 <= found.mass[0] <= 1)
    (1, 2, True)
    """
    if not len(items):
        raise LensSteerError("items is empty: give at least one question")
    _check_template(template)
    tokens = _letter_tokens(info_of(model).tokenizer, max(len(item.choices) for item in items))
    prompts = [Prompt.of(item.render(template)) for item in items]
    logs: dict[int, list[float]] = {}
    for rows, logits in first_logits_by_batch(model, prompts, engine=engine, batch_size=batch_size):
        spread = logits.double().log_softmax(dim=-1)
        letters = torch.stack([spread[:, list(ids)].logsumexp(dim=-1) for ids in tokens], dim=-1)
        for row, found in zip(rows, letters.tolist(), strict=True):
            logs[row] = found[: len(items[row].choices)]
    best = [int(np.argmax(logs[row])) for row in range(len(items))]
    return ChoiceScores(
        tuple(index == item.answer for index, item in zip(best, items, strict=True)),
        tuple(LETTERS[index] for index in best),
        tuple(tuple(float(np.exp(value)) for value in logs[row]) for row in range(len(items))),
    )


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


def _check_template(template: str) -> None:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise LensSteerError(f"template={template!r}: {error}; write a brace of the text twice") from None
    if unknown := fields - set(FIELDS):
        raise LensSteerError(f"template={template!r}: unknown field {sorted(unknown)[0]!r}, use {', '.join(FIELDS)}")
    if missing := [name for name in FIELDS[:2] if name not in fields]:
        raise LensSteerError(f"template={template!r}: {{{missing[0]}}} is missing, so the model would not see it")


def _letter_tokens(tokenizer: Any, n: int) -> list[tuple[int, ...]]:
    """Return for each of the first ``n`` letters the ids of the tokens that write it alone, with and without a space.

    Raises:
        LensSteerError: If a letter has no such token, or shares one with another letter.
    """
    found = []
    for letter in LETTERS[:n]:
        encoded = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (letter, f" {letter}")]
        single = tuple(sorted({ids[0] for ids in encoded if len(ids) == 1}))
        if not single or any(set(single) & set(other) for other in found):
            raise LensSteerError(
                f"the tokenizer has no token of its own for the letter {letter!r} (it reads {encoded[0]}): score the "
                "options as responses with lens_steer.inference.teacher_forcing.response_logits"
            )
        found.append(single)
    return found
