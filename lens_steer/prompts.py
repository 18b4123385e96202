"""Prompt sets, contrast sets and their splits, and the readers of prompt files.

A prompts file is ``.jsonl`` (``prompt`` per row; ``system``, ``messages``, ``response``, ``scenario`` optional), ``.json`` (a list of strings, or of
objects with ``prompt`` or, as Alpaca has it, ``instruction``; Alpaca rows with a non-empty ``input`` are left out and counted), ``.csv``
(``prompt`` column, or ``goal`` as AdvBench has it), ``.txt`` (one prompt a line), a folder written by ``datasets.save_to_disk``, or
``hf:NAME`` for a Hugging Face data set.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.organisms.tasks import Task
from lens_steer.prompt_files import rows_of
from lens_steer.shown import Shown
from lens_steer.splits import deal

log = logging.getLogger(__name__)

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")
ORGANISM_PREFIX = "organism/"


@dataclass(frozen=True)
class Prompt(Shown, view="prompts"):
    """Chat messages up to the point where the model answers.

    Attributes:
        messages: ``{"role", "content"}`` in order; roles are system, user, assistant.
        response: a fixed answer, for teacher forcing and for response-averaged activations.
        task: the organism's ground truth, where there is one.
        scenario: what it is a variant of, where several prompts are: variants of one scenario never stand on both sides of a split.
    """

    messages: tuple[Message, ...]
    response: str | None = None
    task: Task | None = field(default=None, compare=False)
    scenario: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.messages, str):
            raise LensSteerError(f"messages={self.messages[:40]!r} is a text: Prompt.of(text) makes a prompt of one")

    def __repr__(self) -> str:
        return f"Prompt({self.text[:60]!r}, {len(self.messages)} messages{', with a response' if self.response else ''})"

    @property
    def text(self) -> str:
        """The last user message."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")

    @property
    def group(self) -> str:
        """What it belongs together with: the scenario's name, or the last user message, whatever the system prompt."""
        return self.text if self.scenario is None else self.scenario

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


@dataclass(frozen=True)
class PromptSet(Shown, Sequence[Prompt], view="prompts"):
    """An ordered set of prompts with a name and a content hash."""

    prompts: tuple[Prompt, ...]
    name: str = ""

    def __post_init__(self) -> None:
        odd = next((p for p in self.prompts if not isinstance(p, Prompt)), None)
        if odd is not None:
            raise LensSteerError(f"prompts hold {odd!r:.60}, which is no Prompt: load_prompts([…]) makes a prompt set of texts")

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


Source = str | Path | PromptSet | Sequence[str]


@dataclass(frozen=True)
class Contrast(Shown, view="prompts"):
    """Two prompt sets: ``positive`` has the feature (harmful), ``negative`` has not."""

    positive: PromptSet
    negative: PromptSet

    def __repr__(self) -> str:
        return f"Contrast({len(self.positive)} positive, {len(self.negative)} negative)"

    def first(self, n: int) -> Contrast:
        """The first ``n`` prompts of each class, or all where there are fewer.

        Raises:
            LensSteerError: ``n`` below 1.

        >>> load_contrast("organism/refusal").report.first(8)
        Contrast(8 positive, 8 negative)
        """
        if n < 1:
            raise LensSteerError(f"n={n}: give how many prompts of each class to keep, at least 1")
        return Contrast(self.positive[:n], self.negative[:n])

    @property
    def hash(self) -> str:
        return hashlib.sha256((self.positive.hash + self.negative.hash).encode()).hexdigest()


@dataclass(frozen=True)
class Split(Shown, view="prompts"):
    """Directions, planes and layers come from ``fit``; angles and coefficients from ``select``; numbers from ``report``."""

    fit: Contrast
    select: Contrast
    report: Contrast

    def __repr__(self) -> str:
        parts = (("fit", self.fit), ("select", self.select), ("report", self.report))
        return f"Split({', '.join(f'{name} {len(c.positive)}+{len(c.negative)}' for name, c in parts)})"


@dataclass(frozen=True)
class ContrastSet(Shown, view="prompts"):
    """A named contrast with its split. ``record`` takes it (and then reads ``fit``) or one of its splits."""

    name: str
    split: Split

    @property
    def fit(self) -> Contrast:
        return self.split.fit

    @property
    def select(self) -> Contrast:
        return self.split.select

    @property
    def report(self) -> Contrast:
        return self.split.report

    def first(self, *, fit: int | None = None, select: int | None = None, report: int | None = None) -> ContrastSet:
        """A smaller set for a quick look: the first prompts of each class of a part; a part that is not named stays whole.

        Raises:
            LensSteerError: a number below 1.

        >>> load_contrast("organism/refusal").first(select=16, report=32)
        ContrastSet('organism/refusal': fit 128+128, select 16+16, report 32+32)
        """
        wanted = ((self.fit, fit), (self.select, select), (self.report, report))
        return replace(self, split=Split(*(part if n is None else part.first(n) for part, n in wanted)))

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{name} {len(c.positive)}+{len(c.negative)}"
            for name, c in (("fit", self.fit), ("select", self.select), ("report", self.report))
        )
        return f"ContrastSet({self.name!r}: {sizes})"


def load_contrast(
    name: str | None = None,
    *,
    positive: Source | None = None,
    negative: Source | None = None,
    split: Sequence[float | int] | None = None,
    seed: int = 0,
) -> ContrastSet:
    """A contrast set of an organism by name, or one from two prompt files.

    Args:
        name: ``"organism/refusal"``, ``"organism/json"``, ``"organism/honesty"``, ``"organism/compassion"`` or
            ``"organism/compliance"``; these come with their split.
        positive, negative: prompts with and without the feature: files (see the module's text), prompt sets, or texts.
        split: shares of fit, select and report, for instance ``(0.5, 0.25, 0.25)``. Without it every row of the files goes to fit. Rows with the same ``scenario``, or
            without one the same text, stay together, on both sides.
        seed: of the shuffle before a split, and of an organism's wording.

    Raises:
        LensSteerError: unknown name, an empty or one-sided contrast, shares that are not three numbers of at least 0, that of fit above it.

    >>> load_contrast("organism/refusal").report
    Contrast(64 positive, 64 negative)
    """
    if name is not None and (positive is not None or negative is not None):
        raise LensSteerError(f"name={name!r} and files were given together: give a contrast's name, or two files")
    if name is not None:
        return _organism_contrast(name, seed)
    if positive is None or negative is None:
        missing = "positive" if positive is None else "negative"
        raise LensSteerError(f"{missing} is missing: a contrast needs prompts with and without the feature")
    sides = [p if isinstance(p, PromptSet) else load_prompts(p) for p in (positive, negative)]
    for side_name, side in zip(("positive", "negative"), sides, strict=True):
        if not len(side):
            raise LensSteerError(f"{side_name} holds no prompts: a contrast needs at least one on each side")
    placed: dict[str, int] = {}
    parts = [_dealt(side, split, seed, placed) for side in sides]
    contrasts = [Contrast(parts[0][i], parts[1][i]) for i in range(3)]
    return ContrastSet(f"{sides[0].name}/{sides[1].name}", Split(*contrasts))


def _dealt(
    prompts: PromptSet, split: Sequence[float | int] | None, seed: int, placed: dict[str, int]
) -> tuple[PromptSet, PromptSet, PromptSet]:
    """One side's splits; ``placed`` holds where the other side's groups went, and is added to."""
    empty = PromptSet((), prompts.name)
    if split is None:
        return prompts, empty, empty
    of = deal([p.group for p in prompts], split, seed=seed, placed=placed)
    fit, select, report = (
        PromptSet(tuple(p for p, o in zip(prompts, of, strict=True) if o == i), prompts.name) for i in range(3)
    )
    if not len(fit):
        raise LensSteerError(f"split={tuple(split)} leaves no prompt of {len(prompts)} for fit: give more prompts")
    return fit, select, report


def _organism_contrast(name: str, seed: int) -> ContrastSet:
    from lens_steer.organisms import contrasts

    short = name.removeprefix(ORGANISM_PREFIX)
    if not name.startswith(ORGANISM_PREFIX) or short not in contrasts.CONTRASTS:
        known = ", ".join(ORGANISM_PREFIX + c for c in contrasts.CONTRASTS)
        raise LensSteerError(
            f"unknown contrast {name!r}: known are {known}; for your own prompts give positive= and negative= files"
        )
    built = contrasts.build(short, seed)

    def prompt_set(rows: list[contrasts.Row], side: str) -> PromptSet:
        return PromptSet(tuple(Prompt(r.messages, r.response, r.task) for r in rows), f"{name}/{side}")

    parts = [Contrast(prompt_set(built[s][0], "positive"), prompt_set(built[s][1], "negative")) for s in contrasts.SPLITS]
    return ContrastSet(name, Split(*parts))


def load_prompts(source: str | Path | Sequence[str], *, response: Sequence[str] = ("response",)) -> PromptSet:
    """Read a prompts file, a saved data set folder or ``hf:NAME``; the formats are in the module's text. A list of texts is taken as it is.

    Args:
        source: of the prompts.
        response: columns that may hold a fixed answer, the first that a row has; ``("response", "text")`` reads what ``lens-steer steer`` wrote.

    Raises:
        LensSteerError: no such file, an unknown ending, a row without a prompt, a response that is no text, malformed JSON, or no prompts at all.
    """
    prompts, with_input = [], 0
    file = isinstance(source, (str, Path))
    rows, where = (rows_of(source), str(source)) if file else (source, "texts")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping) and row.get("input"):
            with_input += 1
            continue
        prompts.append(_prompt(row, f"{where}, row {number}", response))
    if with_input:
        log.warning("%s: left out %d rows with a non-empty 'input'", where, with_input)
    if not prompts:
        raise LensSteerError(
            f"prompts file {where!r} holds no prompts" if file else "no texts are given: give at least one prompt"
        )
    return PromptSet(tuple(prompts), Path(where).name)


def _prompt(row: Any, where: str, response_columns: Sequence[str]) -> Prompt:
    if isinstance(row, str):
        return Prompt.of(row)
    if not isinstance(row, Mapping):
        raise LensSteerError(f"{where}: {type(row).__name__} is neither a string nor an object with a prompt")
    response, scenario = next((row[key] for key in response_columns if row.get(key) is not None), None), row.get("scenario")
    if response is not None and not isinstance(response, str):
        raise LensSteerError(f"{where}: the response {response!r} is no text: give a string, or leave it out")
    scenario = None if scenario is None else str(scenario)
    if row.get("messages"):
        return Prompt(_messages(row["messages"], where), response, scenario=scenario)
    text = next((row[key] for key in ("prompt", "instruction", "goal") if row.get(key)), None)
    if not isinstance(text, str):
        raise LensSteerError(f"{where}: no prompt found (looked for 'prompt', 'instruction', 'goal', 'messages')")
    return replace(Prompt.of(text, system=row.get("system"), response=response), scenario=scenario)


def _messages(found: Any, where: str) -> tuple[Message, ...]:
    """Chat messages of a row, checked."""
    well_formed = isinstance(found, list) and all(
        isinstance(m, Mapping) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in found
    )
    if not well_formed or found[-1]["role"] != "user":
        raise LensSteerError(f"{where}: messages need roles of {ROLES} with a text content each, and must end with a user's")
    return tuple({"role": m["role"], "content": m["content"]} for m in found)
