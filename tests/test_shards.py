"""Shards: joined, they are the whole, byte for byte; what is missing, doubled, foreign or broken is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_steer._io.rowstore import Row, RowStore
from lens_steer._io.shards import Shard, ShardDone, join_shards, sharded
from lens_steer.errors import LensSteerError

N_PARTS = 7


def parts(n: int = N_PARTS, made: list[str] | None = None) -> dict[str, Callable[[], Sequence[Row]]]:
    """Parts of two rows each; ``made`` gets the names of those that are computed."""

    def make(i: int) -> Sequence[Row]:
        if made is not None:
            made.append(f"{i:03}")
        return [{"x": i, "text": f"a, {i}\nb"}, {"x": i + 0.5, "text": ""}]

    return {f"{i:03}": lambda i=i: make(i) for i in range(n)}


def store(folder: Path, name: str = "rows", **identity: Any) -> RowStore:
    return RowStore(folder, name, ("x", "text"), ("text",), {"seed": 0, **identity})


def run_shard(folder: Path, shard: str, n: int = N_PARTS, **identity: Any) -> list[str]:
    """The names of the parts that a shard computed; it has to stop for the other ones."""
    made: list[str] = []
    with pytest.raises(ShardDone), sharded(Shard.of(shard)):
        store(folder, **identity).run(parts(n, made), progress=False)
    return made


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    store(tmp_path / "whole").run(parts(), progress=False)
    return tmp_path / "whole"


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 9), count=st.integers(1, 5))
def test_joined_is_whole(tmp_path_factory: pytest.TempPathFactory, n: int, count: int) -> None:
    """Each part is computed by one shard; joined in any order, in a folder of their own or in one, it is the whole."""
    at = tmp_path_factory.mktemp("shards")
    store(at / "whole").run(parts(n), progress=False)
    own, shared = [at / str(i) for i in range(count)], at / "shared"
    computed: list[str] = []
    for i, folder in enumerate(own, start=1):
        made: list[str] = []
        for place in (folder, shared):
            try:
                with sharded(Shard(i, count)):
                    store(place).run(parts(n, made if place == folder else None), progress=False)
            except ShardDone as stopped:
                assert (stopped.done, str(stopped.shard)) == (len(made), f"{i}/{count}")
        computed += made
    assert sorted(computed) == [f"{i:03}" for i in range(n)]
    done = join_shards(own[::-1], at / "joined")
    assert (done.complete, done.equal) == (("rows",), 0)
    join_shards([shared], shared)
    assert tree(at / "joined") == tree(shared) == tree(at / "whole")
    assert join_shards(own, at / "joined").joined == ()
    assert tree(at / "joined") == tree(at / "whole")


def test_a_shard_goes_on(tmp_path: Path, whole: Path) -> None:
    """What it computed before is kept; the run without a shard finishes what shards began."""
    assert run_shard(tmp_path / "a", "2/3") == ["001", "004"]
    assert run_shard(tmp_path / "a", "2/3") == []
    made: list[str] = []
    store(tmp_path / "a").run(parts(made=made), progress=False)
    assert made == ["000", "002", "003", "005", "006"]
    assert tree(tmp_path / "a") == tree(whole)


def test_a_table_of_one_part_needs_no_round(tmp_path: Path) -> None:
    """Every shard has it, and goes on to the next table."""
    with sharded(Shard(2, 2)):
        assert len(store(tmp_path, "first").run(parts(1), progress=False)) == 2
    run_shard(tmp_path, "2/2")
    run_shard(tmp_path / "other", "1/2")
    with sharded(Shard(1, 2)):
        store(tmp_path / "other", "first").run(parts(1), progress=False)
    assert join_shards([tmp_path, tmp_path / "other"], tmp_path / "out").complete == ("first", "rows")


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    """A missing shard, a missing part, a part that differs and another run are named; nothing is written."""
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    run_shard(first, "1/3")
    run_shard(second, "3/3")
    with pytest.raises(
        LensSteerError, match=r"^rows: shard 2/3 is missing \(2 of 7 parts\): run it, or give its folder too"
    ):
        join_shards([first, second], out)
    run_shard(tmp_path / "foreign", "2/3", seed=1)
    with pytest.raises(LensSteerError, match=r"foreign' holds rows of another run than '.*first': join shards of one"):
        join_shards([first, tmp_path / "foreign", second], out)
    run_shard(tmp_path / "third", "2/3")
    everything = [first, second, tmp_path / "third"]
    (second / ".parts/rows/002.csv").rename(second / ".parts/rows/000.csv")
    with pytest.raises(LensSteerError, match="second' holds another part 000 of rows than '.*first'"):
        join_shards(everything, out)
    (second / ".parts/rows/000.csv").unlink()
    with pytest.raises(LensSteerError, match=r"parts of a finished shard are missing \(1 of 7 parts\)"):
        join_shards(everything, out)
    with pytest.raises(LensSteerError, match="nowhere' does not exist"):
        join_shards([tmp_path / "nowhere"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LensSteerError, match="empty' holds no rows of a sharded run"):
        join_shards([tmp_path / "empty"], out)
    assert not out.exists()
    assert run_shard(second, "3/3") == ["002"]
    assert join_shards(everything, out).joined == ("rows",)
    run_shard(tmp_path / "late", "1/2", seed=1)
    with pytest.raises(LensSteerError, match="out' holds rows of another run than '.*late'"):
        join_shards([tmp_path / "late"], out)


def test_a_shard_given_twice(tmp_path: Path, whole: Path) -> None:
    """The same bytes twice are one part, and are counted."""
    folders = [tmp_path / name for name in "abc"]
    for folder, shard in zip(folders, ("1/2", "2/2", "2/2"), strict=True):
        run_shard(folder, shard)
    assert join_shards(folders, tmp_path / "out").equal == 3
    assert tree(tmp_path / "out") == tree(whole)


def test_other_files_are_carried(tmp_path: Path) -> None:
    """What the shards began with goes with the rows, the first shard's; steps of something else are no table."""
    folders = [tmp_path / name for name in "ab"]
    for i, folder in enumerate(folders, start=1):
        run_shard(folder, f"{i}/2")
        for name in ("calibrations/x/calibration.json", "direction/.parts/steps/run.json", ".parts/steps/run.json"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(str(i), encoding="utf-8")
        (folder / ".partial-1").write_text("under way", encoding="utf-8")
    assert join_shards(folders, tmp_path / "out").complete == ("rows",)
    others = {"calibrations/x/calibration.json": b"1", "direction/.parts/steps/run.json": b"1"}
    assert {k: v for k, v in tree(tmp_path / "out").items() if not k.startswith("rows.")} == others


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3"])
def test_bad_shards(text: str) -> None:
    with pytest.raises(LensSteerError, match="give I/N with I from 1 to N, such as 2/4"):
        Shard.of(text)
