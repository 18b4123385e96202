"""Shards on the command line: a sweep and a recording, joined, are those without shards; what cannot be is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.cli import app as cli

SWEEP = ("--limit", 3, "--angles", "0,120,240", "--controls", 1, "--control-values", 1, "--max-new-tokens", 8)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command and return its output as an object, or the line of its error."""

    def run(*args: object) -> dict[str, Any] | str:
        monkeypatch.setattr(sys, "argv", ["lens-steer", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return captured.err.splitlines()[-1] if stop.value.code else json.loads(captured.out)

    return run


def rows(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*") if p.suffix == ".csv" or p.name.endswith(".run.json")}


def test_a_sweep_in_shards(told: Any, tmp_path: Path, calibration: Any) -> None:
    """Round after round, the shards in folders of their own, until nothing is missing."""
    ls.save_calibration(calibration, tmp_path / "cal")
    how = ("sweep", "--calibration", tmp_path / "cal", *SWEEP)
    told(*how, "--out", tmp_path / "whole")
    joined, tables = tmp_path / "joined", []
    for _ in range(6):
        stopped = []
        for i in (1, 2):
            own = tmp_path / f"own{i}"
            if joined.exists():  # as a copy to each machine
                for path in joined.iterdir():
                    (own / path.name).write_bytes(path.read_bytes())
            stopped.append(told(*how, "--shard", f"{i}/2", "--out", own))
        if "sweep" in stopped[0]:
            break
        tables.append([s["table"] for s in stopped])
        assert all(s["parts"] >= 1 and s["next"].endswith("lens-steer join") for s in stopped)
        assert told("join", tmp_path / "own1", tmp_path / "own2", "--out", joined)["joined"] == [tables[-1][0]]
    assert tables[0] == ["select", "select"]
    assert len(tables) >= 2
    told(*how, "--out", joined)
    assert rows(joined) == rows(tmp_path / "whole")
    again = told("join", tmp_path / "own1", tmp_path / "own2", "--out", joined)
    assert again["joined"] == []


def test_a_recording_in_shards(told: Any, tmp_path: Path) -> None:
    """Joined, it calibrates as one command does."""
    how = ("record", "--limit", 7)
    for i in (1, 2, 3):
        out = told(*how, "--shard", f"{i}/3", "--out", tmp_path / str(i))
        assert (out["shard"], out["n_positive"]) == (f"{i}/3", 3 if i == 1 else 2)
    assert "shard 2/3 is missing" in told("join", tmp_path / "1", tmp_path / "3", "--out", tmp_path / "joined")
    told("join", *(tmp_path / str(i) for i in (3, 1, 2)), "--out", tmp_path / "joined")
    apart = told("calibrate", "--recorded", tmp_path / "joined", "--out", tmp_path / "a")
    whole = told("calibrate", "--limit", 7, "--out", tmp_path / "b")
    assert apart["selected_site"] == whole["selected_site"]
    assert apart["discriminative_sites"] == whole["discriminative_sites"]
    a, b = (ls.load_calibration(tmp_path / name) for name in "ab")
    assert a.prompt_hash == b.prompt_hash
    assert float((a.basis - b.basis).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("record", "--shard", "3/2"), "--shard '3/2': give I/N with I from 1 to N"),
        (("record", "--pooling", "mean"), "--pooling 'mean': use one of 'last', 'response'"),
        (("record", "--keep", "some"), "--keep 'some': use all or moments"),
        (("record", "--limit", 2, "--shard", "1/3"), "--shard '1/3': a class has 2 prompts"),
        (("join", "nowhere"), "folder 'nowhere' does not exist: give the output folders of shards"),
        (("calibrate", "--recorded", "nowhere"), "recording 'nowhere' has no recording.json: write one with"),
        (("calibrate", "--recorded", "x", "--limit", 3), "--limit: a recording has its own prompts and sites"),
    ],
)
def test_bad_commands(told: Any, tmp_path: Path, args: tuple[object, ...], message: str) -> None:
    """One line, before anything is loaded, and nothing is left behind."""
    assert message in told(*args, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
