"""Prompts, sets of them, and how a set was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lens_steer._display import Shown
from lens_steer.data.splits import draw, parse_limit
from lens_steer.errors import LensSteerError
from lens_steer.organisms.tasks import Task

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")
HASH_DIGITS = 16  # of a prompt's own hash


@dataclass(frozen=True)
class Prompt(Shown, view="prompts"):
    """Chat messages up to the point where the model answers.

    Attributes:
        messages: ``{"role", "content"}`` in order; roles are system, user, assistant.
        response: a fixed answer, for teacher forcing and for response-averaged activations.
        task: the organism's ground truth, where there is one.
        scenario: what it is a variant of, where several prompts are: variants of one scenario never stand on both sides
            of a split.
    """

    messages: tuple[Message, ...]
    response: str | None = None
    task: Task | None = field(default=None, compare=False)
    scenario: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.messages, str):
            raise LensSteerError(f"messages={self.messages[:40]!r} is a text: Prompt.of(text) makes a prompt of one")

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
        """What it belongs together with: the scenario's name, or the last user message, whatever the system prompt."""
        return self.text if self.scenario is None else self.scenario

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the messages: what tells prompts apart, whatever their
        fixed response.

        >>> Prompt.of("Hello").hash == Prompt.of("Hello", response="Hi.").hash != Prompt.of(
        ...     "Hello", system="Be brief."
        ... ).hash
        True
        """
        text = json.dumps([dict(m) for m in self.messages], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]

    @classmethod
    def of(cls, text: str, *, system: str | None = None, response: str | None = None) -> Prompt:
        """A single user turn, with an optional system message.

        >>> Prompt.of("Hello", system="Be brief.").messages[0]["role"]
        'system'
        """
        head: tuple[Message, ...] = ({"role": "system", "content": system},) if system else ()
        return cls((*head, {"role": "user", "content": text}), response)


def with_system(prompt: Prompt, system: str) -> Prompt:
    """The prompt under this system message, in place of any other.

    >>> with_system(Prompt.of("Hello", system="Be brief."), "Be kind.").messages[0]["content"]
    'Be kind.'
    """
    others = tuple(m for m in prompt.messages if m["role"] != "system")
    return replace(prompt, messages=({"role": "system", "content": system}, *others))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a prompt set was read.

    Attributes:
        source: name of the file or data set.
        column: that was read; None where the rows are texts.
        n_rows: in the source.
        n_blank, n_with_input: rows left out because their prompt is blank, or because they have a non-empty ``input``.
        n_prompts: what is left of them, after the limit too.
        limit, seed: of the draw; ``limit`` is None where there was none.
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
        """Rows that no limit could have kept."""
        return self.n_blank + self.n_with_input

    def __str__(self) -> str:
        """One line.

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
        """What was left out, a line each."""
        found = ((self.n_with_input, "with a non-empty 'input'"), (self.n_blank, "whose prompt is blank"))
        return tuple(f"{self.source}: left out {n} row{'' if n == 1 else 's'} {what}" for n, what in found if n)


@dataclass(frozen=True)
class PromptSet(Shown, Sequence[Prompt], view="prompts"):
    """An ordered set of prompts with a name and a content hash; ``reading`` says how it was read, where it was."""

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
        """SHA-256 of the messages and responses in order."""
        rows = [[[dict(m) for m in p.messages], p.response] for p in self.prompts]
        return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def hashes(self) -> tuple[str, ...]:
        """Each prompt's own, of its messages (:attr:`Prompt.hash`)."""
        return tuple(p.hash for p in self.prompts)

    def limited(self, limit: int | str | None, *, seed: int = 0) -> PromptSet:
        """At most so many of the prompts, in order: a draw with the seed, or for ``"N,first"`` the first N; see
        :func:`lens_steer.data.splits.draw`.

        Raises:
            LensSteerError: a limit that is no number of at least 1.

        >>> PromptSet(tuple(Prompt.of(str(i)) for i in range(10)), "digits").limited("2,first").reading.n_prompts
        2
        """
        if limit is None:
            return self
        kept = tuple(self.prompts[i] for i in draw(len(self), limit, seed=seed))
        reading = self.reading or Reading(source=self.name or "prompts", n_rows=len(self), n_prompts=len(self))
        return PromptSet(kept, self.name, replace(reading, n_prompts=len(kept), limit=limit, seed=seed))
