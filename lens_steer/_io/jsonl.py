"""Reading of ``.jsonl`` files: one JSON value per line, without blank lines, with the line number in every message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lens_steer.errors import LensSteerError

T = TypeVar("T")


def read_lines(path: str | Path, what: str, read: Callable[[Any], T]) -> list[T]:
    """Read a file and return the value of every line after ``read`` has converted it.

    Args:
        path: The path of the file.
        what: The name of the rows in the plural, for messages.
        read: A function that converts a JSON value, and raises :class:`LensSteerError` for a value that it refuses.

    Raises:
        LensSteerError: If there is no such file, if a line is not JSON, if ``read`` refuses a value (the message begins
            with the line), or if there are no rows.
    """
    try:
        # The text is not split by splitlines(), because a JSON string may hold other line separators.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LensSteerError(f"{what} file {str(path)!r} cannot be read as UTF-8 text: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(read(json.loads(line)))
            except json.JSONDecodeError as error:
                raise LensSteerError(
                    f"{path}, line {number}: not valid JSON ({error}): write one object a line"
                ) from None
            except LensSteerError as error:
                raise LensSteerError(f"{path}, line {number}: {error}") from None
    if not found:
        raise LensSteerError(f"{what} file {str(path)!r} holds no {what}")
    return found
