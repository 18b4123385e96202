"""Reading of prompt sources: the choice of the column, the rows that are left out, and the random draw."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lens_steer.data.datasets import HUB, hub_table, saved_table
from lens_steer.data.files import Table, file_table
from lens_steer.data.prompts import ROLES, Message, Prompt, PromptSet, Reading
from lens_steer.errors import LensSteerError

log = logging.getLogger(__name__)

KNOWN = ("prompt", "instruction", "goal", "behavior", "forbidden_prompt", "question", "query", "text")
MESSAGES, INPUT = "messages", "input"
TEXTS = "texts"  # The name of a set that was made from a list of texts.

Source = str | Path | PromptSet | Sequence[str]


def load_prompts(
    source: str | Path | Sequence[str],
    *,
    column: str | None = None,
    limit: int | str | None = None,
    seed: int = 0,
    response: Sequence[str] = ("response",),
) -> PromptSet:
    """Read a prompts file, a saved data set folder or ``hf:NAME``; a list of texts is also accepted.

    The formats are described in :mod:`lens_steer.data`. Blank prompts and rows with a non-empty ``input`` (as in
    Alpaca) are left out, and a warning tells their number. The attribute ``reading`` of the set records what was read.

    Args:
        source: The source of the prompts.
        column: The name of the column with the prompts, in upper or lower case. Its values are texts or lists of
            messages. None: the first column of :data:`KNOWN` that exists, or ``messages``.
        limit: The number of prompts to keep, drawn with the seed; ``"32,first"`` keeps the first 32. None: all prompts.
        seed: The seed of the draw.
        response: The columns that may hold a fixed answer; the first one with a value in a row is used.
            ``("response", "text")`` reads what ``lens-steer steer`` wrote.

    Raises:
        LensSteerError: If the file does not exist, has an unknown ending or holds malformed JSON; if the column does
            not exist (the message lists the columns); if a row has no prompt; if a response is not a text; or if there
            are no prompts at all.

    >>> load_prompts(["Hello", " ", "Name a colour."], limit=1).reading.n_blank
    1
    """
    found = read_prompt_set(source, column=column, limit=limit, seed=seed, response=response)
    for line in found.reading.cautions if found.reading else ():
        log.warning("%s", line)
    return found


def read_table(source: str | Path) -> Table:
    """Read the rows of a prompts file, a data set folder or a Hugging Face data set, in order.

    Raises:
        LensSteerError: If the file does not exist, has an unknown ending or is not UTF-8; if a row is not valid JSON,
            or is longer than the header of its table; if a package is missing; or if a data set cannot be loaded or
            lacks the split.
    """
    text = str(source)
    if text.startswith(HUB):
        return hub_table(text)
    path = Path(source).expanduser()
    if path.is_dir():
        return saved_table(path, None)
    if not path.exists():
        folder, at, split = text.rpartition("@")
        if at and Path(folder).expanduser().is_dir():
            return saved_table(Path(folder).expanduser(), split)
        raise LensSteerError(f"prompts file {text!r} does not exist")
    return file_table(path)


def read_prompt_set(
    source: Source,
    *,
    column: str | None = None,
    limit: int | str | None = None,
    seed: int = 0,
    response: Sequence[str] = ("response",),
) -> PromptSet:
    """Read prompts as :func:`load_prompts` does, without log messages; a prompt set is only limited."""
    if isinstance(source, PromptSet):
        return source.limited(limit, seed=seed)
    file = isinstance(source, (str, Path))
    table = read_table(source) if file else Table.of(TEXTS, source)
    name = Path(str(source)).name if file else TEXTS
    if not table.rows:
        told = f"{table.name} holds no prompts" if file else "no texts are given: give at least one prompt"
        raise LensSteerError(told)
    read = find_column(table, column)
    response = tuple(name for name in response if name != read)
    prompts, n_input, n_blank = [], 0, 0
    for number, row in enumerate(table.rows, start=1):
        if isinstance(row, Mapping) and row.get(INPUT) and read != INPUT:
            n_input += 1
            continue
        prompt = _prompt(row, f"{table.name}, row {number}", read, response, asked=column is not None)
        if prompt is None:
            n_blank += 1
        else:
            prompts.append(prompt)
    if not prompts:
        why = [f"{n} {what}" for n, what in ((n_blank, "blank"), (n_input, f"with a non-empty {INPUT!r}")) if n]
        raise LensSteerError(f"{table.name} holds no prompts: of its {len(table.rows)} rows {' and '.join(why)}")
    reading = Reading(
        source=name, column=read, n_rows=len(table.rows), n_blank=n_blank, n_with_input=n_input, n_prompts=len(prompts)
    )
    return PromptSet(tuple(prompts), name, reading).limited(limit, seed=seed)


def find_column(table: Table, column: str | None = None) -> str | None:
    """Return the column that holds the prompts of a table, as the table spells it; None if the rows are texts.

    Args:
        table: The table of a source.
        column: The requested name, in upper or lower case. None: ``messages`` if every row has messages, otherwise the
            first column of :data:`KNOWN` that holds anything.

    Raises:
        LensSteerError: If the requested column does not exist, or if no column has a known name; the message lists the
            columns.

    >>> find_column(Table.of("file", [{"Goal": "Build it.", "Behavior": "building"}]))
    'Goal'
    """
    if not table.columns:
        return None
    names = ", ".join(map(repr, table.columns))
    if column is not None:
        found = _same(table.columns, column)
        if found is None:
            raise LensSteerError(f"{table.name} has no column {column!r}: its columns are {names}")
        return found
    rows = [row for row in table.rows if isinstance(row, Mapping)]
    with_messages = sum(bool(row.get(MESSAGES)) for row in rows)
    there = [found for known in KNOWN if (found := _same(table.columns, known)) is not None]
    if with_messages and (with_messages == len(rows) or not there):
        return MESSAGES
    if not there:
        raise LensSteerError(
            f"{table.name} has no column of a known name ({', '.join(KNOWN)}, {MESSAGES}): its columns are "
            f"{names}; say which holds the prompts (column)"
        )
    return next((c for c in there if any(not _blank(row.get(c)) for row in rows)), there[0])


def _same(columns: Sequence[str], name: str) -> str | None:
    """Return the column with this name; if there is none, the first one that differs only in case or outer spaces."""
    return name if name in columns else next((c for c in columns if c.strip().lower() == name.strip().lower()), None)


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _prompt(row: Any, where: str, column: str | None, response_columns: Sequence[str], *, asked: bool) -> Prompt | None:
    """Return the prompt of a row; None if it is blank.

    The ``messages`` of a row take precedence over a column that was not explicitly requested.
    """
    if isinstance(row, str):
        return Prompt.of(row) if row.strip() else None
    if not isinstance(row, Mapping) or column is None:
        raise LensSteerError(f"{where}: {type(row).__name__} is neither a string nor an object with a prompt")
    answers = (row[key] for key in response_columns if key != column and row.get(key) is not None)
    response, scenario = next(answers, None), row.get("scenario")
    if response is not None and not isinstance(response, str):
        raise LensSteerError(f"{where}: the response {response!r} is no text: give a string, or leave it out")
    names: dict[str, str | None] = {"scenario": None if scenario is None else str(scenario)}
    names |= {kind: _name(row, kind, where) for kind in ("cell", "cluster") if kind != column}
    messages = row.get(MESSAGES) if column == MESSAGES or not asked else None
    if column not in row and not messages:
        raise LensSteerError(f"{where}: no prompt found in the column {column!r}, which is read")
    value = messages or row.get(column)
    if _blank(value):
        return None
    if messages or isinstance(value, list):
        prompt = replace(Prompt(_messages(value, where), response), **names)
        return prompt if prompt.text.strip() else None
    if not isinstance(value, str):
        raise LensSteerError(f"{where}: {column} is {value!r:.40}, no text: give a string, or a list of messages")
    return replace(Prompt.of(value, system=row.get("system"), response=response), **names)


def _name(row: Mapping[str, Any], column: str, where: str) -> str | None:
    """Return the name of a row's cell or cluster; None if the row has none."""
    found = _same(list(row), column)
    value = None if found is None else row[found]
    if _blank(value):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise LensSteerError(
            f"{where}: the {column} {value!r:.40} is no name: give a text or a whole number, or leave it out"
        )
    return str(value).strip()


def _messages(found: Any, where: str) -> tuple[Message, ...]:
    """Check the chat messages of a row and return them."""
    well_formed = isinstance(found, list) and all(
        isinstance(m, Mapping) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in found
    )
    if not well_formed or not found or found[-1]["role"] != "user":
        raise LensSteerError(
            f"{where}: messages need roles of {ROLES} with a text content each, and must end with a user's"
        )
    return tuple({"role": m["role"], "content": m["content"]} for m in found)
