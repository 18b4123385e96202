"""Reading ``.jsonl`` files: one JSON value a line, blank lines left out, every complaint with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lens_steer.errors import LensSteerError

T = TypeVar("T")


def read_lines(path: str | Path, what: str, read: Callable[[Any], T]) -> list[T]:
    """Every line's value as ``read`` makes of it.

    Args:
        path: of the file.
        what: its rows in the plural, for messages.
        read: from a JSON value; raises :class:`LensSteerError` for one that it does not take.

    Raises:
        LensSteerError: no such file, not JSON, what ``read`` raises with the line before it, no rows at all.
    """
    try:
        lines = (
            Path(path).read_text(encoding="utf-8-sig").split("\n")
        )  # not splitlines(): a text may hold other line ends as they are
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
