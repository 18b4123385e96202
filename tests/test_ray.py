"""Shards as Ray tasks: the rows of one process, also where a worker or the driver is killed; nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer._io.shards import Shard
from lens_steer.cli import on_ray
from lens_steer.errors import LensSteerError

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-ray installs it")

RUN = "from lens_steer.cli import main; main()"
SWEEP = ("--limit", "4", "--angles", "0:330:30", "--controls", "1", "--control-values", "1", "--max-new-tokens", "16")
PATIENCE = 240.0  # seconds until a run that was to be interrupted is taken for stuck


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two local workers, in this process's Ray."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, calibration: Any) -> list[str]:
    """The arguments of a sweep of twelve angles, without its output folder."""
    folder = tmp_path_factory.mktemp("ray") / "cal"
    ls.save_calibration(calibration, folder)
    return ["sweep", "--calibration", str(folder), *SWEEP]


@pytest.fixture(scope="module")
def plain(sweep: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The rows of the same sweep without Ray."""
    out = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-c", RUN, *sweep, "--out", str(out)], check=True, capture_output=True)
    return rows(out)


def rows(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*") if p.suffix == ".csv" or p.name.endswith(".run.json")}


def parts(folder: Path) -> dict[Path, int]:
    """The parts that are there, with the time at which each was written."""
    return {p: p.stat().st_mtime_ns for p in (folder / ".parts").glob("*/[0-9]*.csv")}


def until(seen: Callable[[], Any]) -> Any:
    """Wait for something to be there, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := seen()):
        assert time.monotonic() < end, "the run made nothing"
        time.sleep(0.05)
    return found


def compute(monkeypatch: pytest.MonkeyPatch, sweep: list[str], out: Path) -> dict[str, bytes]:
    """Compute all tables on the cluster, as the command does before it loads its model."""
    monkeypatch.setattr(sys, "argv", ["lens-steer", *sweep, "--ray", "local", "--out", str(out)])
    on_ray.run_on_ray("local", 2, out)
    return rows(out)


def test_rows_of_one_process(
    cluster: None, monkeypatch: pytest.MonkeyPatch, sweep: list[str], plain: dict[str, bytes], tmp_path: Path
) -> None:
    """Byte for byte; no part is left."""
    found = compute(monkeypatch, sweep, tmp_path)
    assert found == {name: plain[name] for name in found}
    assert {"select.csv", "report.csv"} <= set(found)
    assert not (tmp_path / ".parts").exists()


def test_a_worker_is_killed(
    cluster: None, monkeypatch: pytest.MonkeyPatch, sweep: list[str], plain: dict[str, bytes], tmp_path: Path
) -> None:
    """Its shard is started again; the parts that the driver had are kept."""
    import threading

    psutil = pytest.importorskip("psutil")
    killed: list[int] = []

    def kill() -> None:
        until(lambda: parts(tmp_path))
        worker = next(
            p for p in psutil.process_iter(["cmdline"]) if "ray::shard_task" in " ".join(p.info["cmdline"] or ())
        )
        worker.kill()
        killed.append(worker.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    found = compute(monkeypatch, sweep, tmp_path)
    thread.join()
    assert killed
    assert found == {name: plain[name] for name in found}


def test_the_driver_is_killed(sweep: list[str], plain: dict[str, bytes], tmp_path: Path) -> None:
    """Started again, it goes on: what was there is not computed again, and the report is written."""
    command = [sys.executable, "-c", RUN, *sweep, "--ray", "local", "--ray-workers", "2", "--out", str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        before = until(lambda: parts(tmp_path))
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = parts(tmp_path)
    second = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    now = until(lambda: (p := parts(tmp_path)) and len(p) > len(before) and p)
    assert before.items() <= now.items()
    assert second.wait() == 0
    assert rows(tmp_path) == plain
    assert (tmp_path / "sweep.json").exists()


def test_a_task_passes_an_error_on(tmp_path: Path) -> None:
    """Bad input is a message and no traceback, and stops the driver."""
    (said,) = on_ray.shard_task(["sweep", "--calibration", str(tmp_path / "nowhere")], Shard(1, 2), {})
    assert isinstance(said, str)
    assert "nowhere" in said


def test_bad_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["lens-steer", "sweep"])
    with pytest.raises(LensSteerError, match="--ray-workers 0: at least 1 is needed"):
        on_ray.run_on_ray("local", 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
