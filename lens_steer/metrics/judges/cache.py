"""Answers of endpoints on disk, one JSON object per line; lines are only ever appended.

This cache is our own: hishel goes by the rules of HTTP caching and stores the headers of requests, and so the key;
requests-cache is for another client; diskcache is a database of its own, not lines that can be read and joined.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """The text that an endpoint wrote, and the tokens that it counted (None if it gives no count)."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def key_of(url: str, body: Mapping[str, Any]) -> str:
    """Return the SHA-256 hash of the address and the whole request.

    Another model, message or temperature therefore has another key.

    >>> key_of("u", {"model": "m"}) == key_of("u", {"model": "n"})
    False
    """
    return hashlib.sha256(json.dumps([url, body], sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class AnswerCache:
    """Answers by key, in memory and, if a path is given, in a file.

    The file survives a crash: every answer is written at once, and broken lines are skipped when the file is read.

    Args:
        path: The file, created when the first answer is written. None keeps answers in memory only.

    Raises:
        LensSteerError: If the path is a folder, or if the file cannot be read.

    >>> cache = AnswerCache(None)
    >>> cache.add("k", Answer("safe", 9, 1))
    >>> cache.get("k").text, cache.get("other")
    ('safe', None)
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path: Path | None = None if path is None else Path(path).expanduser()
        self._answers: dict[str, Answer] = {}
        self._torn = False  # True if the file's last line lacks its line break
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __repr__(self) -> str:
        return f"AnswerCache({str(self.path)!r}, {len(self._answers)} answers)"

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """Return the answer with this key, or None."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer) -> None:
        """Store an answer, in the file too.

        Raises:
            LensSteerError: If the file cannot be written.
        """
        self._answers[key] = answer
        if self.path is None:
            return
        line = json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Each line is one unbuffered write in append mode, so that the lines of two processes do not mix.
            with self.path.open("ab", buffering=0) as file:
                file.write((("\n" if self._torn else "") + line).encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise LensSteerError(f"cache={str(self.path)!r} cannot be written: {error.strerror or error}") from None
        self._torn = False

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise LensSteerError(f"cache={str(path)!r} cannot be read: {error.strerror or error}") from None
        broken = 0
        for line in filter(None, content.split(b"\n")):
            try:
                row = json.loads(line)
                self._answers[row["key"]] = Answer(str(row["text"]), row["prompt_tokens"], row["completion_tokens"])
            except (ValueError, KeyError, TypeError):
                broken += 1
        self._torn = bool(content) and not content.endswith(b"\n")
        if broken:
            log.warning("cache %s: passed over %d broken lines", path, broken)
