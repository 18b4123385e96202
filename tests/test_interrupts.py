"""An interrupt: one line and the right exit code, at most one part lost, the same bytes in the end; progress counts
prompts and tokens.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lens_steer._io import progress
from lens_steer._io.rowstore import RowStore
from lens_steer.data import Contrast, PromptSet
from lens_steer.evaluation import sweeps
from lens_steer.evaluation.conditions import NONE, method_grids
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweeps import parts_of

MAIN = "from lens_steer.cli import main; main()"


def begin(*args: object) -> subprocess.Popen[str]:
    """A command of its own process."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(there: Any, process: subprocess.Popen[str], seconds: float = 240) -> None:
    """Wait for something that a process makes."""
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, refusal: Any) -> tuple[Path, Path]:
    """Twenty-four prompts a side."""
    folder = tmp_path_factory.mktemp("prompts")
    for name, side in (("positive", refusal.fit.positive), ("negative", refusal.fit.negative)):
        (folder / f"{name}.txt").write_text("\n".join(p.text for p in side[:24]) + "\n", encoding="utf-8")
    return folder / "positive.txt", folder / "negative.txt"


@pytest.mark.slow
def test_a_sweep_ended_by_sigterm_goes_on_to_the_same_bytes(
    tmp_path: Path, made: Path, files: tuple[Path, Path]
) -> None:
    """What was finished stays and is not made again, nothing half-written counts, and the line and the exit code are a
    shell's.
    """

    def args(out: str) -> tuple[object, ...]:
        return (
            "sweep",
            "--calibration",
            made,
            "--positive",
            files[0],
            "--negative",
            files[1],
            "--split",
            "0.34,0.33,0.33",
            "--angles",
            "0:350:20",
            "--max-new-tokens",
            "12",
            "--out",
            tmp_path / out,
        )

    parts = tmp_path / "cut" / ".parts" / "select"
    process = begin(*args("cut"))
    until(lambda: len(list(parts.glob("*.csv"))) >= 2, process)
    process.send_signal(signal.SIGTERM)
    printed, error = process.communicate(timeout=60)
    assert (process.returncode, printed) == (143, "")
    assert error.splitlines()[-1] == "lens-steer: interrupted: nothing was half-written"
    assert "Traceback" not in error
    assert not (tmp_path / "cut" / "select.csv").exists()
    kept = {path: path.stat().st_mtime_ns for path in sorted(parts.glob("*.csv"))}
    assert kept
    half = parts / ".001-012-6.csv-left"  # as a process leaves it that could not clean up
    half.write_text("condition\n", encoding="utf-8")
    again = begin(*args("cut"))
    told: dict[Path, int] = {}

    def seen() -> bool:
        told.update({path: path.stat().st_mtime_ns for path in kept if path.exists()})
        return again.poll() is not None

    while not seen():
        time.sleep(0.05)
    assert again.returncode == 0, again.communicate()
    again.communicate()
    assert told == kept
    whole = begin(*args("whole"))
    assert whole.wait(timeout=240) == 0, whole.communicate()
    whole.communicate()
    for name in ("select.csv", "report.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "cut" / ".parts").exists()


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_a_calibration_that_is_ended_leaves_nothing(ended_by: signal.Signals, tmp_path: Path) -> None:
    process = begin("calibrate", "--model", "organism/qwen2", "--out", tmp_path / "calibration")
    time.sleep(2.5)  # while libraries and model load
    if process.poll() is None:
        process.send_signal(ended_by)
    _, error = process.communicate(timeout=120)
    if process.returncode != 0:  # a very fast machine may have been done
        assert process.returncode == 128 + ended_by
        assert "interrupted: nothing was half-written" in error
        assert not (tmp_path / "calibration").exists()


def test_a_part_is_one_value_where_that_fills_a_batch(qwen: Any, refusal: Any, calibration: Any) -> None:
    """Else as many as fill one, at most six: an interrupt loses one value or one batch."""
    grid = method_grids(calibration, "selective", values=tuple(float(a) for a in range(0, 80, 10)))[0]

    def cut(n: int) -> list[int]:
        protocol = Protocol(
            qwen,
            Contrast(refusal.fit.positive[:n], refusal.fit.negative[:n]),
            "select",
            PromptSet(()),
            max_new_tokens=8,
        )
        return [len(part.values) for part in parts_of(protocol, [grid]).values()]

    assert cut(128) == [1] * 8
    assert cut(70) == [1] * 8
    assert cut(40) == [3, 3, 2]
    assert cut(4) == [6, 2]


def test_progress_counts_prompts_within_a_part(
    qwen: Any, refusal: Any, calibration: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every new token moves it, it ends at the total, and what lay there counts as done."""
    seen: list[tuple[float, int]] = []
    original = progress.Counter._show
    monkeypatch.setattr(
        progress.Counter, "_show", lambda self: (seen.append((self.done, self.tokens)), original(self))[1]
    )
    protocol = Protocol(
        qwen,
        Contrast(refusal.select.positive[:3], refusal.select.negative[:2]),
        "select",
        PromptSet(()),
        max_new_tokens=6,
    )
    grids = [Grid(NONE), *method_grids(calibration, "selective", values=(0.0, 180.0))]
    sweeps.run(protocol, grids, tmp_path, "select", progress=True)
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert done[-1] == 3 * 5  # three values, five prompts each
    assert len(set(done)) > 4 * 3  # it moved within batches
    assert seen[-1][1] >= 15


def test_without_a_terminal_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    counter = progress.Counter("select", 100, clock=lambda: now[0])
    for _ in range(70):
        now[0] += 1
        counter.add(1.0, 16)
    counter.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "select: 30 of 100 prompts, 480 tokens, 30 s, about 70 s left",
        "select: 60 of 100 prompts, 960 tokens, 60 s, about 40 s left",
    ]


def test_an_imported_kernel_is_not_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test, or a library, may import ipykernel in a plain process; only a shell that a kernel runs shows bars."""
    import types

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    for shell, shown in (
        (None, False),
        (types.SimpleNamespace(), False),
        (types.SimpleNamespace(kernel=object()), True),
    ):
        ipython = types.ModuleType("IPython")
        ipython.get_ipython = lambda shell=shell: shell  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        assert progress.interactive() is shown


def test_parts_without_known_work_are_counted_as_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals: list[tuple[int, str]] = []
    original = progress.Counter.__init__
    monkeypatch.setattr(
        progress.Counter,
        "__init__",
        lambda self, name, total, unit="prompt", **k: (
            totals.append((total, unit)),
            original(self, name, total, unit, **k),
        )[1],
    )
    store = RowStore(tmp_path, "rows", ("a",), (), {})
    assert store.run({"0": lambda: [{"a": 1}], "1": lambda: [{"a": 2}]}) == [{"a": 1}, {"a": 2}]
    assert totals == [(2, "part")]


def test_signals_do_not_end_a_command_twice() -> None:
    """What comes while things are being taken away is let pass, and the handlers are put back."""
    from lens_steer.cli.interrupts import ending_cleanly

    before = signal.getsignal(signal.SIGTERM)
    cleaned = False
    with ending_cleanly() as came:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            cleaned = True
    assert cleaned
    assert came[0] == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
