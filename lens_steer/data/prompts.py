"""Prompts, prompt sets, and the record of how a set was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lens_steer._display import Shown
from lens_steer.data.choices import Choice
from lens_steer.data.splits import draw, parse_limit
from lens_steer.errors import LensSteerError
from lens_steer.organisms.tasks import Task

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")
BRIEFLY = "Answer in one or two words."  # After a question whose options are not told.
HASH_DIGITS = 16  # The number of hexadecimal digits of the hash of a prompt.


@dataclass(frozen=True)
class Prompt(Shown, view="prompts"):
    """Chat messages up to the point where the model answers.

    Attributes:
        messages: The messages ``{"role", "content"}`` in order; the roles are system, user and assistant.
        response: A fixed answer, for teacher forcing and for activations averaged over the response. None: no fixed
            answer.
        task: The ground truth of a prompt for an organism. None: no ground truth.
        scenario: The name of the scenario of which the prompt is a variant. Variants of one scenario always fall into
            the same split. None: the prompt has no named scenario.
        cell: The name of the cell of the prompt, such as its category of harm. Rates are also given by cell. None: the
            prompt belongs to no cell.
        cluster: The name of the cluster of the prompt. Prompts of one cluster are alike, so intervals do not count them
            as independent of each other; only a scenario keeps prompts in one split. None: the scenario is the cluster;
            without one the prompt is a cluster alone.
        question: The multiple-choice question that the prompt asks; None: it asks none.
    """

    messages: tuple[Message, ...]
    response: str | None = None
    task: Task | None = field(default=None, compare=False)
    scenario: str | None = field(default=None, compare=False)
    cell: str | None = field(default=None, compare=False)
    cluster: str | None = field(default=None, compare=False)
    question: Choice | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.messages, str):
            raise LensSteerError(f"messages={self.messages[:40]!r} is a text: Prompt.of(text) makes a prompt of one")

    @property
    def truth(self) -> Task | Choice | None:
        """What grades an answer: the task of an organism's world, or the question; None if nothing does."""
        return self.task if self.question is None else self.question

    def __repr__(self) -> str:
        return (
            f"Prompt({self.text[:60]!r}, {len(self.messages)} messages{', with a response' if self.response else ''})"
        )

    @property
    def text(self) -> str:
        """The last user message."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")

    @property
    def group(self) -> str:
        """The name of the group of prompts that stay together in a split.

        It is the name of the scenario, or without one the last user message, for every system prompt.
        """
        return self.text if self.scenario is None else self.scenario

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 hash of the messages.

        It identifies the prompt and does not depend on the fixed response.

        >>> Prompt.of("Hello").hash == Prompt.of("Hello", response="Hi.").hash != Prompt.of(
        ...     "Hello", system="Be brief."
        ... ).hash
        True
        """
        text = json.dumps([dict(m) for m in self.messages], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]

    @classmethod
    def of(cls, text: str, *, system: str | None = None, response: str | None = None) -> Prompt:
        """Return a prompt with a single user turn, and an optional system message.

        >>> Prompt.of("Hello", system="Be brief.").messages[0]["role"]
        'system'
        """
        head: tuple[Message, ...] = ({"role": "system", "content": system},) if system else ()
        return cls((*head, {"role": "user", "content": text}), response)

    @classmethod
    def asking(cls, question: Choice) -> Prompt:
        """Return a prompt that asks a question without its options, of which one is then to be chosen.

        >>> Prompt.asking(Choice("Is water wet?", ("yes", "no"), 0)).text
        'Is water wet? Answer in one or two words.'
        """
        return replace(cls.of(f"{question.question} {BRIEFLY}"), question=question)


def with_system(prompt: Prompt, system: str) -> Prompt:
    """Return the prompt with this system message in place of any other.

    >>> with_system(Prompt.of("Hello", system="Be brief."), "Be kind.").messages[0]["content"]
    'Be kind.'
    """
    others = tuple(m for m in prompt.messages if m["role"] != "system")
    return replace(prompt, messages=({"role": "system", "content": system}, *others))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The record of how a prompt set was read.

    Attributes:
        source: The name of the file or the data set.
        column: The column that was read; None if the rows are texts.
        n_rows: The number of rows in the source.
        n_blank, n_with_input: The number of rows left out because their prompt is blank, or because they have a
            non-empty ``input``.
        n_prompts: The number of prompts that remain, after the limit too.
        limit, seed: The limit and the seed of the draw; ``limit`` is None if no limit was given.
    """

    source: str
    column: str | None = None
    n_rows: int
    n_blank: int = 0
    n_with_input: int = 0
    n_prompts: int
    limit: int | str | None = None
    seed: int = 0

    @property
    def n_left_out(self) -> int:
        """The number of rows that were left out for their contents, for every limit."""
        return self.n_blank + self.n_with_input

    def __str__(self) -> str:
        """Describe the reading in one line.

        >>> print(Reading(source="a.json", column="goal", n_rows=260, n_blank=2, n_prompts=128, limit=128))
        a.json: column 'goal', 128 of 260 prompts (2 blank left out; seed 0)
        """
        left = [
            f"{n} {what} left out" for n, what in ((self.n_blank, "blank"), (self.n_with_input, "with an input")) if n
        ]
        if self.limit is not None and self.n_prompts < self.n_rows - self.n_left_out:
            left.append("the first" if parse_limit(self.limit)[1] else f"seed {self.seed}")
        count = f"{self.n_prompts} of {self.n_rows}" if self.n_prompts < self.n_rows else str(self.n_prompts)
        column = "" if self.column is None else f"column {self.column!r}, "
        how = f" ({'; '.join(left)})" if left else ""
        return f"{self.source}: {column}{count} prompt{'' if self.n_rows == 1 else 's'}{how}"

    @property
    def cautions(self) -> tuple[str, ...]:
        """The lines that tell which rows were left out, one per reason."""
        found = ((self.n_with_input, "with a non-empty 'input'"), (self.n_blank, "whose prompt is blank"))
        return tuple(f"{self.source}: left out {n} row{'' if n == 1 else 's'} {what}" for n, what in found if n)


@dataclass(frozen=True)
class PromptSet(Shown, Sequence[Prompt], view="prompts"):
    """An ordered set of prompts with a name and a content hash.

    Attributes:
        prompts: The prompts, in order.
        name: The name of the set.
        reading: The record of how the set was read; None if it was not read from a source.
    """

    prompts: tuple[Prompt, ...]
    name: str = ""
    reading: Reading | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        odd = next((p for p in self.prompts if not isinstance(p, Prompt)), None)
        if odd is not None:
            raise LensSteerError(
                f"prompts hold {odd!r:.60}, which is no Prompt: load_prompts([…]) makes a prompt set of texts"
            )

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: Any) -> Any:
        return PromptSet(self.prompts[index], self.name) if isinstance(index, slice) else self.prompts[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __repr__(self) -> str:
        first = f", first {self.prompts[0].text[:40]!r}" if self.prompts else ""
        return f"PromptSet({self.name!r}, {len(self)} prompts{first})"

    @property
    def hash(self) -> str:
        """The SHA-256 hash of the messages and responses, in order."""
        rows = [[[dict(m) for m in p.messages], p.response] for p in self.prompts]
        return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hash of the messages of each prompt (:attr:`Prompt.hash`)."""
        return tuple(p.hash for p in self.prompts)

    def limited(self, limit: int | str | None, *, seed: int = 0) -> PromptSet:
        """Return at most the given number of prompts, in order.

        The prompts are drawn with the seed; for ``"N,first"`` they are the first N. None keeps all. See
        :func:`lens_steer.data.splits.draw`.

        Raises:
            LensSteerError: If the limit is not a number of at least 1.

        >>> PromptSet(tuple(Prompt.of(str(i)) for i in range(10)), "digits").limited("2,first").reading.n_prompts
        2
        """
        if limit is None:
            return self
        kept = tuple(self.prompts[i] for i in draw(len(self), limit, seed=seed))
        reading = self.reading or Reading(source=self.name or "prompts", n_rows=len(self), n_prompts=len(self))
        return PromptSet(kept, self.name, replace(reading, n_prompts=len(kept), limit=limit, seed=seed))
