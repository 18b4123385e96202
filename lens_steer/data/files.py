"""Prompt files as rows: one string or one mapping per prompt, from a text file or a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError, first_line, installed

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")
DELIMITERS = ",;\t"
EXTRA = "pip install 'lens-steer[data]'"


@dataclass(frozen=True)
class Table:
    """The rows of a source.

    Attributes:
        name: The name of the source in messages.
        rows: The strings or mappings, in order.
        columns: The keys of the mappings, in the order of their first appearance; empty if the rows are texts.
    """

    name: str
    rows: tuple[Any, ...]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, name: str, rows: Any, columns: Any = ()) -> Table:
        """Return a table whose columns are the given ones, followed by all further keys of the rows.

        >>> Table.of("x", [{"a": 1}, "text", {"b": 2, "a": 3}]).columns
        ('a', 'b')
        """
        held = tuple(rows)
        own = dict.fromkeys(str(key) for row in held if isinstance(row, Mapping) for key in row)
        return cls(name, held, tuple(dict.fromkeys((*columns, *own))))


def file_table(path: Path) -> Table:
    """Read the rows of one file.

    Raises:
        LensSteerError: If the file has an unknown ending or is not UTF-8, if a row is not valid JSON or is longer than
            the header of its table, or if a package is missing.
    """
    name, ending = f"prompts file {str(path)!r}", path.suffix.lower()
    if ending not in ENDINGS:
        raise LensSteerError(f"{name}: unknown ending {path.suffix!r}, use {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if ending == ".parquet":
        return _parquet(path, name)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LensSteerError(f"{name} cannot be read as UTF-8 text: {error}") from None
    if ending == ".jsonl":
        return Table.of(name, _json_lines(text, str(path)))
    if ending == ".json":
        return Table.of(name, _json_rows(text, name))
    if ending == ".txt":
        return Table.of(name, [line.rstrip("\n") for line in io.StringIO(text, newline=None) if line.strip()])
    return _delimited(text, name, preferred="\t" if ending == ".tsv" else ",")


def _json_lines(text: str, where: str) -> list[Any]:
    """Parse one JSON value per line.

    The text is not split by ``splitlines()``, because a JSON string may hold other line separators.
    """
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                row = len(found) + 1
                place = f"row {row}" if row == number else f"row {row} (line {number})"
                raise LensSteerError(
                    f"prompts file {where!r}, {place}: not valid JSON ({error.msg} at column {error.colno}): "
                    "write one object a line"
                ) from None
    return found


def _json_rows(text: str, name: str) -> list[Any]:
    """Return the list in a JSON file, or the one list that its object holds."""
    try:
        held = json.loads(text)
    except json.JSONDecodeError as error:
        raise LensSteerError(f"{name} is not valid JSON: {error}") from None
    if isinstance(held, list):
        return held
    if not isinstance(held, dict):
        raise LensSteerError(f"{name} holds {type(held).__name__}: a list of prompts is expected")
    lists = [value for value in held.values() if isinstance(value, list)]
    if len(lists) != 1:
        keys = ", ".join(f"{key!r} ({type(value).__name__})" for key, value in list(held.items())[:12]) or "no keys"
        raise LensSteerError(
            f"{name} holds an object with {keys}: a list of prompts is expected, or an object with one list"
        )
    return lists[0]


def delimiter_of(header: str, preferred: str = ",") -> str:
    """Return the delimiter of a table's first line: comma, semicolon or tab, whichever gives the most columns.

    >>> delimiter_of('id;"a, b";prompt'), delimiter_of("prompt")
    (';', ',')
    """
    candidates = (preferred, *(d for d in DELIMITERS if d != preferred))
    return max(candidates, key=lambda d: len(next(csv.reader([header], delimiter=d), [])))


def _delimited(text: str, name: str, *, preferred: str) -> Table:
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=delimiter_of(text.partition("\n")[0].rstrip("\r"), preferred)
    )
    rows: list[Any] = []
    try:
        for number, row in enumerate(reader, start=1):
            more = [field for field in row.pop(None, None) or () if field.strip()]  # pyright: ignore[reportCallIssue, reportArgumentType]
            if more:
                width = len(reader.fieldnames or ())
                raise LensSteerError(
                    f"{name}, row {number}: {width + len(more)} fields where the header has {width}: put quotes "
                    f"around texts with a {reader.reader.dialect.delimiter!r}"
                )
            rows.append(row)
    except csv.Error as error:
        raise LensSteerError(f"{name}, row {len(rows) + 1}: not a table of separated values: {error}") from None
    return Table.of(name, rows, reader.fieldnames or ())


def _parquet(path: Path, name: str) -> Table:
    pyarrow = installed("pyarrow", f"{name} needs the package pyarrow, which is not installed here: {EXTRA}")
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise LensSteerError(f"{name} cannot be read as Parquet: {first_line(error)}") from None
    return Table.of(name, table.to_pylist(), table.column_names)
