"""A run in shards: each process computes every N-th part of a table of rows, and the parts are joined afterwards.

A table whose rows need another table's (the report split needs the choices on select) comes in a later round: the
shards stop after the first table that is not complete, the parts are joined, and the same shards go on. A table of one
part is computed by every shard, since a round for it would take longer.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from lens_steer._io.atomic import whole_file
from lens_steer.errors import LensSteerError

PARTS, IDENTITY, ORDER, SHARD = ".parts", "run.json", "order.txt", "shard-"


@dataclass(frozen=True)
class Shard:
    """One of several shares of the work, counted from 1.

    Attributes:
        index: The number of this shard, 1 … count.
        count: The number of shards.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @staticmethod
    def of(text: str) -> Shard:
        """Read a shard such as ``2/4``.

        Raises:
            LensSteerError: If the text is no shard.

        >>> Shard.of("2/4")
        Shard(index=2, count=4)
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise LensSteerError(f"shard={text!r}: give I/N with I from 1 to N, such as 2/4")
        return Shard(int(index), int(count))

    def own(self, keys: Sequence[str]) -> list[str]:
        """Return the parts of this shard: every N-th, or all where there is only one.

        >>> Shard(2, 3).own("abcdefg"), Shard(2, 3).own("a")
        (['b', 'e'], ['a'])
        """
        return list(keys) if len(keys) == 1 else list(keys[self.index - 1 :: self.count])


class ShardDone(Exception):
    """This shard has computed its parts of a table, and the other shards' parts are needed to go on.

    Attributes:
        name: The name of the table.
        shard: The shard.
        done: The number of its parts.
        missing: The number of parts that are not in its folder.
    """

    def __init__(self, name: str, shard: Shard, done: int, missing: int) -> None:
        super().__init__(f"{name}: shard {shard} is done ({done} parts); {missing} parts of other shards are missing")
        self.name, self.shard, self.done, self.missing = name, shard, done, missing


_CURRENT: ContextVar[Shard | None] = ContextVar("shard", default=None)


@contextmanager
def sharded(shard: Shard | None) -> Iterator[None]:
    """Compute only a shard's parts of every table of rows inside the ``with`` block; None computes all.

    Raises:
        ShardDone: From the first table that needs another shard's parts.
    """
    token = _CURRENT.set(shard)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Shard | None:
    """Return the shard of this process; None where it computes everything."""
    return _CURRENT.get()


def begin(parts: Path, keys: Sequence[str]) -> None:
    """Note the parts of a table, in order, in the folder of its parts."""
    with whole_file(parts / ORDER) as work:
        work.write_text("\n".join(keys) + "\n", encoding="utf-8")


def finish(parts: Path, name: str, shard: Shard, keys: Sequence[str]) -> None:
    """Note in the folder of a table's parts that a shard is done, and raise :class:`ShardDone` if others are not.

    Args:
        parts: The folder of the table's parts.
        name: The name of the table.
        shard: The shard.
        keys: All parts of the table, in order.
    """
    with whole_file(parts / f"{SHARD}{shard.index}-of-{shard.count}"):
        pass
    if missing := sum(not (parts / f"{key}.csv").exists() for key in keys):
        raise ShardDone(name, shard, len(shard.own(keys)), missing)


@dataclass(frozen=True)
class Joined:
    """What :func:`join_shards` did.

    Attributes:
        complete: The tables that are complete, in order of their names.
        joined: Those of them that were joined now.
        equal: The number of parts that were in more than one folder, with the same bytes.
    """

    complete: tuple[str, ...]
    joined: tuple[str, ...]
    equal: int


def join_shards(folders: Sequence[str | Path], out: str | Path) -> Joined:
    """Join the parts of shards, and write every table that is then complete.

    The result has the bytes of a run without shards. Joining again changes nothing. ``out`` may be one of the folders,
    such as the one that all shards share. Nothing is written if a table cannot be joined. Other files of the shards,
    such as the calibrations with which they began, are copied where ``out`` does not have them yet.

    Args:
        folders: The output folders of the shards.
        out: The folder to join them in.

    Raises:
        LensSteerError: If a folder does not exist or holds nothing to join, if two folders hold different runs or
            different parts of one name, or if a part is missing; the message names the shard.
    """
    target, given = Path(out), [Path(f) for f in folders]
    names = sorted({name for place in given for name in _tables(place)})
    if not names:
        held = " and ".join(repr(str(f)) for f in given) or "no folder"
        raise LensSteerError(f"{held} holds no rows of a sharded run: give the output folders of the shards")
    places = list(dict.fromkeys(given + [target] * target.is_dir()))
    found = {name: _gathered(name, places) for name in names}
    joined = []
    for name, table in found.items():
        if table.write(target):
            joined.append(name)
    for place in given:
        for name in files_of(place):
            if name.parts[0] != PARTS and not (target / name).exists():
                with whole_file(target / name) as work:
                    work.write_bytes((place / name).read_bytes())
    return Joined(tuple(names), tuple(joined), sum(t.equal for t in found.values()))


def files_of(folder: Path) -> list[Path]:
    """Return every finished file of a folder, by its path in it; files under way have hidden names."""
    inside = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name for name in inside if all(part == PARTS or not part.startswith(".") for part in name.parts)]


def _tables(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise LensSteerError(f"folder {str(folder)!r} does not exist: give the output folders of shards")
    parts = {path.parent.name for path in folder.glob(f"{PARTS}/*/{ORDER}")}
    return parts | {path.name.removesuffix(f".{IDENTITY}") for path in folder.glob(f"*.{IDENTITY}")}


@dataclass(frozen=True)
class _Table:
    """A complete table: its identity and bytes, and how many of its parts were there twice."""

    name: str
    identity: bytes
    rows: bytes
    equal: int

    def write(self, out: Path) -> bool:
        """Write the table, and remove its parts; return whether it was not there yet."""
        files = (out / f"{self.name}.csv", self.rows), (out / f"{self.name}.{IDENTITY}", self.identity)
        new = not all(path.exists() for path, _ in files)
        for path, content in files if new else ():
            with whole_file(path) as work:
                work.write_bytes(content)
        clear_parts(out, self.name)
        return new


def clear_parts(folder: Path, name: str) -> None:
    """Remove the parts of a table that is complete."""
    shutil.rmtree(folder / PARTS / name, ignore_errors=True)
    if (folder / PARTS).exists() and not any((folder / PARTS).iterdir()):
        (folder / PARTS).rmdir()


def joined_bytes(parts: Sequence[bytes]) -> bytes:
    """Return the bytes of a table from those of its parts, each of which begins with the same head."""
    head = parts[0].split(b"\n", 1)[0]
    return head + b"\n" + b"".join(part.split(b"\n", 1)[1] for part in parts)


def _gathered(name: str, places: Sequence[Path]) -> _Table:
    """Gather one table from all folders that hold it, complete or in parts."""
    identity: tuple[Path, bytes] | None = None
    whole: tuple[Path, bytes] | None = None
    parts: dict[str, tuple[Path, bytes]] = {}
    order: list[str] = []
    shards: set[str] = set()
    equal = 0
    for place in places:
        table, folder = place / f"{name}.csv", place / PARTS / name
        complete = table.exists() and (place / f"{name}.{IDENTITY}").exists()
        mark = place / f"{name}.{IDENTITY}" if complete else folder / IDENTITY
        if not mark.exists():
            continue
        identity = _same(identity, (place, mark.read_bytes()), f"{name} of another run")
        if complete:
            whole = _same(whole, (place, table.read_bytes()), f"other rows of {name}")
            continue
        if (folder / ORDER).exists():
            order = (folder / ORDER).read_text(encoding="utf-8").split()
        shards |= {path.name.removeprefix(SHARD).replace("-of-", "/") for path in folder.glob(f"{SHARD}*")}
        for path in folder.glob("*.csv"):
            equal += path.stem in parts
            parts[path.stem] = _same(
                parts.get(path.stem), (place, path.read_bytes()), f"another part {path.stem} of {name}"
            )
    assert identity is not None
    if whole is not None:
        return _Table(name, identity[1], whole[1], equal)
    missing = [key for key in order if key not in parts]
    if missing or not order:
        raise LensSteerError(f"{name}: {_absent(missing, order, shards)}")
    return _Table(name, identity[1], joined_bytes([parts[key][1] for key in order]), equal)


def _same(before: tuple[Path, bytes] | None, now: tuple[Path, bytes], what: str) -> tuple[Path, bytes]:
    if before is not None and before[1] != now[1]:
        raise LensSteerError(
            f"{str(now[0])!r} holds {what} than {str(before[0])!r}: join shards of one command with the same inputs "
            "and options"
        )
    return before or now


def _absent(missing: Sequence[str], order: Sequence[str], shards: set[str]) -> str:
    """Say which shards are not there."""
    if not order:
        return "no shard is done: run each to its end, then join"
    count = max((int(s.split("/")[1]) for s in shards), default=1)
    absent = [f"{i}/{count}" for i in range(1, count + 1) if f"{i}/{count}" not in shards]
    who = f"shard {', '.join(absent)} is missing" if absent else "parts of a finished shard are missing"
    return f"{who} ({len(missing)} of {len(order)} parts): run it, or give its folder too"
