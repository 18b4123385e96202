"""Rows of a long run on disk, part by part, so that an interrupted run can resume and end with the same bytes.

A run has an identity (everything that would change its numbers) and a fixed list of parts. Each part is one ``.csv``
file under ``.parts``, which is written completely or not at all. When all parts exist, they are joined to one file in
the order of the parts, whatever the order in which they were computed.

The package has its own implementation because no library known to us resumes a run to the same bytes. It writes CSV
without :mod:`lens_steer._io.tables`, because it quotes texts but not numbers, so that both are read back with their
types.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_steer._display import Shown
from lens_steer._io.atomic import whole_file
from lens_steer._io.progress import PARTS as IN_PARTS
from lens_steer._io.progress import counting
from lens_steer._io.shards import IDENTITY, PARTS, begin, clear_parts, current, finish, joined_bytes
from lens_steer.errors import LensSteerError

Row = dict[str, Any]


class Rows(Shown, list[Row], view="sweeps"):
    """The rows of one table: a list that is shown as a table in a notebook."""

    def __repr__(self) -> str:
        names = ", ".join(self[0]) if self else "none"
        return f"Rows({len(self)} rows: {names})"


class RowStore:
    """The rows of one run in one folder.

    Args:
        folder: The folder of ``NAME.csv``.
        name: The name of the file.
        columns: The columns in order; every row has all of them.
        text_columns: The columns that are never read as numbers.
        identity: The identity of the run, as plain values. A folder with a run of another identity is refused.

    Raises:
        LensSteerError: If the folder cannot be written, or if it holds another run.
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
        there = kept if self.complete else marked  # An identity counts only together with its rows.
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
        """The path of the joined file."""
        return self.folder / f"{self.name}.csv"

    @property
    def complete(self) -> bool:
        """True if the joined file exists, with its identity beside it."""
        return self.path.exists() and (self.folder / f"{self.name}.{IDENTITY}").exists()

    def run(
        self,
        parts: Mapping[str, Callable[[], Sequence[Row]]],
        *,
        work: Mapping[str, int] | None = None,
        progress: bool = True,
    ) -> Rows:
        """Compute every part that does not exist yet, join all parts, and return the rows.

        Args:
            parts: For each part a function that computes its rows.
            work: The number of prompts that each part runs; the progress then counts prompts as they are finished
                (:func:`lens_steer._io.progress.done`). None: the progress counts whole parts.
            progress: If True, the progress is shown.

        Raises:
            ShardDone: If this process is a shard and other shards' parts are missing
                (:func:`lens_steer._io.shards.sharded`).
        """
        if not self.complete:
            sizes = dict.fromkeys(parts, 1) if work is None else dict(work)
            keys, shard = list(parts), current()
            own = keys if shard is None else shard.own(keys)
            if shard is not None:
                begin(self._parts, keys)
            unit, through = IN_PARTS if work is None else "prompt", 0
            with counting(self.name, sum(sizes[key] for key in own), unit, shown=progress) as counter:
                for key in own:
                    path, through = self._parts / f"{key}.csv", through + sizes[key]
                    if path.exists():
                        counter.found(float(sizes[key]))
                        continue
                    text = self._text(parts[key]())
                    with whole_file(path) as made:
                        made.write_bytes(text.encode())
                    counter.reach(float(through))
            if shard is not None:
                finish(self._parts, self.name, shard, keys)
            made_parts = [(self._parts / f"{key}.csv").read_bytes() for key in keys]
            with whole_file(self.path) as joined:
                joined.write_bytes(joined_bytes([self._text([]).encode(), *made_parts]))
            with whole_file(self.folder / f"{self.name}.{IDENTITY}") as joined:
                joined.write_text(self._identity, encoding="utf-8")
        if current() is None:  # Other shards may be reading the parts of a folder that they share.
            clear_parts(self.folder, self.name)
        return self.read()

    def read(self) -> Rows:
        """Read the joined rows; numbers are returned as numbers, and an empty cell as None.

        Raises:
            LensSteerError: If a row has the wrong length.
        """
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
