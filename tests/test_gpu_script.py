"""The script for a GPU runs through on a CPU with tiny sizes, so that it is ready where one is lent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lens_steer as ls
from tests.gpu import __main__ as gpu


def run(*args: str, out: Path) -> subprocess.CompletedProcess[str]:
    root = Path(ls.__file__).parents[1]
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "OUT": str(out)}
    command = [str(root / "tests" / "gpu" / "run.sh"), *args]
    return subprocess.run(command, check=False, env=given, capture_output=True, text=True, timeout=400)


def test_it_runs_through_on_a_cpu(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--small", "--turns", "1", out=tmp_path)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert len(rows) >= 12 and not [r for r in rows if r["what"] == "error"]
    assert {r["passed"] for r in rows if r["bound"]} == {True}
    assert done.stdout == (tmp_path / "gpu.md").read_text()


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run(out=tmp_path)
    assert done.returncode == 2 and "no CUDA device here" in done.stderr and not list(tmp_path.iterdir())


def test_a_part_that_fails_is_a_row_and_no_end(monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def broken(device: str, *, small: bool):  # type: ignore[no-untyped-def]
        raise RuntimeError("out of memory")
        yield

    monkeypatch.setattr(gpu.cases, "half_precision", broken)
    monkeypatch.setattr(gpu.cases, "at_size", lambda *args, **how: iter(()))
    rows = list(gpu.measure("cpu", small=True, turns=1))
    assert (rows[0].what, rows[0].passed) == ("error", False) and "out of memory" in rows[0].value
    assert any("n_devices" in r.what for r in rows)
