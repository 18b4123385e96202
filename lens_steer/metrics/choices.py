"""Multiple-choice questions, answered under whatever steering is active.

:func:`choice_accuracy` shows the options and takes the likeliest letter. :func:`likeliest_options` shows the question
alone and takes the option that is the likeliest answer, which models of few parameters, too, can do: asked for letters,
they often give the same one always.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.data.choices import LETTERS, TEMPLATE, Choice, ChoiceSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.continuations import continuation_logs
from lens_steer.inference.teacher_forcing import first_logits_by_batch
from lens_steer.models.loading import info_of
from lens_steer.organisms.grammar import capitalised
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import wilson

FIELDS = ("question", "options", "letters", "subject")


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


def likeliest_options(
    model: Any, prompts: PromptSet | Sequence[Prompt], *, engine: str = ENGINE
) -> Int[np.ndarray, " n_prompts"]:
    """Return for each prompt the index of the option of its question that is likeliest as the whole answer.

    The likelihood of an option is that of its tokens after the prompt, ``Σ_t log p(y_t | x, y_<t)``, with its first
    letter in upper case. It is a sum and no mean, so a shorter option has an advantage, and one with which another
    begins is always at least as likely: options should be of similar length.

    Args:
        model: A model of :func:`lens_steer.load_model`, inside ``with steering(model, plan):`` or outside it.
        prompts: Prompts with a question, at least one; see :meth:`lens_steer.data.Prompt.asking`.
        engine: See :func:`lens_steer.inference.continuations.continuation_logs`.

    Raises:
        LensSteerError: If a prompt asks no question, or for the reasons of
            :func:`lens_steer.inference.continuations.continuation_logs`.

    >>> import lens_steer as ls
    >>> asked = Prompt.asking(Choice("What is 4 plus 3?", ("7.", "8."), 0))
    >>> likeliest_options(ls.load_model("organism/qwen2"), [asked]).tolist()
    [0]
    """
    questions = [p.question for p in prompts if p.question is not None]
    if not questions or len(questions) < len(prompts):
        raise LensSteerError("prompts: each needs a question, see Prompt.asking, and there must be at least one")
    most = max(len(q.choices) for q in questions)
    # Every pass has all prompts, since a plan may hold one value for each; a prompt with fewer options is not read.
    said = [[capitalised(q.choices[min(i, len(q.choices) - 1)]) for q in questions] for i in range(most)]
    found = continuation_logs(model, prompts, said, engine=engine)
    absent = np.array([[i >= len(q.choices) for q in questions] for i in range(most)])
    return np.where(absent, -np.inf, found).argmax(axis=0)


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
