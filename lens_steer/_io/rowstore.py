"""Rows of a long run on disk, part by part, so that an interrupted run goes on where it stopped and ends with the same
bytes.

A run has an identity (what would make its numbers others) and a fixed list of parts. Each part is one ``.csv`` under
``.parts``, written whole; when all are there they are joined to one file, in the parts' order whatever order they were
made in.

It is our own because no library that we know of resumes to the same bytes; and it writes CSV by itself, not through
:mod:`lens_steer._io.tables`, because its texts are quoted and its numbers not, so that both are read back as what they
were.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_steer._display import Shown
from lens_steer._io.atomic import whole_file
from lens_steer._io.progress import PARTS as IN_PARTS
from lens_steer._io.progress import counting
from lens_steer.errors import LensSteerError

PARTS, IDENTITY = ".parts", "run.json"
Row = dict[str, Any]


class Rows(Shown, list[Row], view="sweeps"):
    """Rows of one table, as a list that a notebook shows as one."""

    def __repr__(self) -> str:
        names = ", ".join(self[0]) if self else "none"
        return f"Rows({len(self)} rows: {names})"


class RowStore:
    """The rows of one run in one folder.

    Args:
        folder: where ``NAME.csv`` comes to lie.
        name: of the file.
        columns: in order; every row has them all.
        text_columns: those that are never read as numbers.
        identity: plain values; a folder that holds a run with another identity is refused.

    Raises:
        LensSteerError: a folder that cannot be written, or that holds another run.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        columns: Sequence[str],
        text_columns: Sequence[str],
        identity: Mapping[str, Any],
    ) -> None:
        self.folder: Path = Path(folder)
        self.name: str = name
        self.columns: tuple[str, ...] = tuple(columns)
        self.text_columns: frozenset[str] = frozenset(text_columns)
        wanted = json.dumps(dict(identity), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        marked = self._parts / IDENTITY
        kept = self.folder / f"{name}.{IDENTITY}"
        there = kept if self.complete else marked  # what says how rows were made counts only beside the rows
        if there.exists() and there.read_text(encoding="utf-8") != wanted:
            theirs, ours = json.loads(there.read_text(encoding="utf-8")), json.loads(wanted)
            other = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
            raise LensSteerError(
                f"folder {str(folder)!r} holds {name}.csv of another run ({', '.join(other) or 'identity'} "
                "differ): give another folder, or empty it"
            )
        self._identity = wanted
        if not self.complete:
            with whole_file(marked) as work:
                work.write_text(wanted, encoding="utf-8")

    @property
    def _parts(self) -> Path:
        return self.folder / PARTS / self.name

    @property
    def path(self) -> Path:
        """The joined file."""
        return self.folder / f"{self.name}.csv"

    @property
    def complete(self) -> bool:
        """Whether all parts are there, joined."""
        return self.path.exists() and (self.folder / f"{self.name}.{IDENTITY}").exists()

    def run(
        self,
        parts: Mapping[str, Callable[[], Sequence[Row]]],
        *,
        work: Mapping[str, int] | None = None,
        progress: bool = True,
    ) -> Rows:
        """Make every part that is not there yet, join them all, and give back the rows.

        Args:
            parts: what makes each part's rows.
            work: how many prompts each part runs; progress counts those as they are done
                (:func:`lens_steer._io.progress.done`), else whole parts.
            progress: show it.
        """
        if not self.complete:
            sizes = dict.fromkeys(parts, 1) if work is None else dict(work)
            unit, through = IN_PARTS if work is None else "prompt", 0
            with counting(self.name, sum(sizes[key] for key in parts), unit, shown=progress) as counter:
                for key, make in parts.items():
                    path, through = self._parts / f"{key}.csv", through + sizes[key]
                    if path.exists():
                        counter.found(float(sizes[key]))
                        continue
                    text = self._text(make())
                    with whole_file(path) as made:
                        made.write_bytes(text.encode())
                    counter.reach(float(through))
            with whole_file(self.path) as joined:
                joined.write_bytes(
                    self._text([]).encode()
                    + b"".join((self._parts / f"{key}.csv").read_bytes().split(b"\n", 1)[1] for key in parts)
                )
            with whole_file(self.folder / f"{self.name}.{IDENTITY}") as joined:
                joined.write_text(self._identity, encoding="utf-8")
        shutil.rmtree(self._parts, ignore_errors=True)
        if (self.folder / PARTS).exists() and not any((self.folder / PARTS).iterdir()):
            (self.folder / PARTS).rmdir()
        return self.read()

    def read(self) -> Rows:
        """The joined rows: numbers as numbers, what is empty as None."""
        with self.path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        if any(None in row or None in row.values() for row in rows):
            raise LensSteerError(f"{str(self.path)!r} has rows of the wrong length: delete it and run again")
        return Rows({k: v if k in self.text_columns else _number(v) for k, v in row.items()} for row in rows)

    def _text(self, rows: Sequence[Row]) -> str:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, self.columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        writer.writerows({k: int(v) if isinstance(v, bool) else v for k, v in row.items()} for row in rows)
        return stream.getvalue()


def _number(text: str) -> float | int | None:
    if text == "":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)
