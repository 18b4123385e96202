"""Views of prompts and dialogues: their number and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.inference.dialogue import Dialogue
from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Page, Table, page_of, table_of

SHOWN, EXAMPLES = 8, 3  # the most prompts that are shown: of a set, and of each class
CLASSES = ("positive", "negative")


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as one row.

    The columns are ``text`` (the last user message), ``system``, ``turns`` (the number of user turns), ``response``,
    ``scenario``, ``cell``, ``cluster`` and ``task`` (the kind of the ground truth).
    """
    return {
        "text": prompt.text,
        "system": next((m["content"] for m in prompt.messages if m["role"] == "system"), None),
        "turns": sum(m["role"] == "user" for m in prompt.messages),
        "response": prompt.response,
        "scenario": prompt.scenario,
        "cell": prompt.cell,
        "cluster": prompt.cluster,
        "task": prompt.task and prompt.task.kind,
    }


@table_of.register
def _(prompt: Prompt) -> Table:
    """Return one row for each message."""
    return Table.of([{"message": i, **m} for i, m in enumerate(prompt.messages)], "message")


@page_of.register
def _(prompt: Prompt) -> Page:
    rows = [{"role": m["role"], "content": m["content"]} for m in prompt.messages]
    kind = prompt.task and prompt.task.kind
    more = {"fixed response": prompt.response, "scenario": prompt.scenario, "ground truth": kind}
    return Page(repr(prompt), more, (html.first(rows, "messages"),))


@table_of.register
def _(prompts: PromptSet) -> Table:
    """Return one row for each prompt."""
    return Table.of([{"prompt": i, **prompt_row(p)} for i, p in enumerate(prompts)], "prompt")


@page_of.register
def _(prompts: PromptSet) -> Page:
    rows = [{"prompt": i, **prompt_row(p)} for i, p in enumerate(prompts[:SHOWN])]
    read = {"read": prompts.reading and str(prompts.reading)}
    return Page(repr(prompts), read, (html.grid(_used(rows), of=len(prompts), what="prompts"),))


@table_of.register
def _(contrast: Contrast) -> Table:
    """Return one row for each prompt, by class."""
    return Table.of(_contrast_rows(contrast), "class", "prompt")


@page_of.register
def _(contrast: Contrast) -> Page:
    title = f"Contrast: {len(contrast.positive)} positive, {len(contrast.negative)} negative prompts"
    return Page(title, parts=(_examples(contrast),))


@table_of.register
def _(split: Split) -> Table:
    """Return one row for each prompt, by split and class."""
    rows = [{"split": s, **row} for s, part in split.parts.items() for row in _contrast_rows(part)]
    return Table.of(rows, "split", "class", "prompt")


@page_of.register
def _(split: Split) -> Page:
    counts = [{"split": s, "positive": len(c.positive), "negative": len(c.negative)} for s, c in split.parts.items()]
    fullest = max(split.parts.values(), key=lambda c: len(c.positive) + len(c.negative))
    return Page("prompts by split and class", {}, (html.grid(counts), _examples(fullest)))


@table_of.register
def _(contrast: ContrastSet) -> Table:
    """Return one row for each prompt, by split and class."""
    return table_of(contrast.split)


@page_of.register
def _(contrast: ContrastSet) -> Page:
    told = {"read": "; ".join(map(str, contrast.readings.values())), "cautions": "; ".join(contrast.cautions)}
    return Page(f"ContrastSet: {contrast.name}", told, page_of(contrast.split).parts)


@table_of.register
def _(dialogue: Dialogue) -> Table:
    """Return one row for each user turn."""
    rows = [{"turn": i, "text": text, "system": dialogue.system} for i, text in enumerate(dialogue.turns)]
    return Table.of(rows, "turn")


@page_of.register
def _(dialogue: Dialogue) -> Page:
    rows = [{"turn": i, "the user says": text} for i, text in enumerate(dialogue.turns)]
    return Page(f"Dialogue: {len(dialogue.turns)} turns", {"system": dialogue.system}, (html.first(rows, "turns"),))


def _contrast_rows(contrast: Contrast) -> list[dict[str, Any]]:
    return [{"class": c, "prompt": i, **prompt_row(p)} for c in CLASSES for i, p in enumerate(getattr(contrast, c))]


def _examples(contrast: Contrast) -> str:
    rows = [{"class": c, **prompt_row(p)} for c in CLASSES for p in getattr(contrast, c)[:EXAMPLES]]
    return html.note("the first of each class:") + html.grid(_used(rows)) if rows else ""


def _used(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without empty columns, and without ``turns`` if every prompt has one turn."""
    names = rows[0] if rows else ()
    used = [n for n in names if any(r[n] is not None and (n, r[n]) != ("turns", 1) for r in rows)]
    return [{n: row[n] for n in used} for row in rows]
