"""A sweep with its controls on a pretrained model, ended in the middle by SIGTERM and begun again: the bytes of one
that was left alone.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.real.command import classes, lens
from tests.real.conftest import SMOL
from tests.test_interrupts import begin, until

SIDE = 8  # prompts of either class in each split
SPLIT = {"limit": 3 * SIDE, "split": "0.34,0.33,0.33"}
ANGLES, DRAWS = (90.0, 180.0), 2
READ = (
    f"harmful_train.json: column 'instruction', {3 * SIDE} of 260 prompts (seed 0); harmless_train.json: column "
    f"'instruction', {3 * SIDE} of 1000 prompts (seed 0)"
)
COUNTS = ", ".join(f"{split} {SIDE}+{SIDE}" for split in ("fit", "select", "report"))


@pytest.fixture(scope="module")
def folder(models: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration, and two sweeps with it: ``whole`` was left alone, ``cut`` was not."""
    there = tmp_path_factory.mktemp("sweep")
    how = ["--model", models / SMOL, "--dtype", "bfloat16", *classes(prompts, **SPLIT)]
    lens("calibrate", *how, "--out", there / "calibration")

    def args(out: str) -> list[object]:
        return [
            "sweep",
            *how,
            "--calibration",
            there / "calibration",
            "--angles",
            ",".join(f"{a:.0f}" for a in ANGLES),
            "--controls",
            DRAWS,
            "--control-values",
            1,
            "--max-new-tokens",
            8,
            "--out",
            there / out,
        ]

    process = begin(*args("cut"))
    parts = there / "cut" / ".parts" / "select"
    until(lambda: any(parts.glob("*.csv")), process)
    process.send_signal(signal.SIGTERM)
    printed, error = process.communicate(timeout=240)
    (there / "interrupted.json").write_text(
        json.dumps([process.returncode, printed, error.splitlines()]), encoding="utf-8"
    )
    kept = {path: path.stat().st_mtime_ns for path in (there / "cut" / "unsteered.csv", *parts.glob("*.csv"))}
    assert len(kept) > 1
    assert not (there / "cut" / "sweep.json").exists()
    for out in ("cut", "whole"):
        ended = lens(*args(out))
        (there / f"{out}.json").write_text(json.dumps([ended.printed, ended.err]), encoding="utf-8")
    assert (there / "cut" / "unsteered.csv").stat().st_mtime_ns == kept[there / "cut" / "unsteered.csv"]
    return there


@pytest.fixture(scope="module")
def record(folder: Path) -> dict[str, Any]:
    """What the sweep wrote."""
    return json.loads((folder / "whole" / "sweep.json").read_text(encoding="utf-8"))


def test_an_interrupt_is_told_in_a_line(folder: Path) -> None:
    """With a shell's exit code and nothing on standard output."""
    code, printed, error = json.loads((folder / "interrupted.json").read_text(encoding="utf-8"))
    assert (code, printed) == (143, "")
    assert error[-1] == "lens-steer: interrupted: nothing was half-written"


def test_it_goes_on_to_the_same_bytes(folder: Path) -> None:
    """Every table, and ``sweep.json`` but for the command, which names the folder."""
    tables = {path.relative_to(folder / "whole") for path in (folder / "whole").rglob("*.csv")}
    names = {"unsteered.csv", "select.csv", "report.csv", "report_controls.csv", "select_controls.csv"}
    assert names <= {str(path) for path in tables}
    assert tables == {path.relative_to(folder / "cut") for path in (folder / "cut").rglob("*.csv")}
    for path in tables:
        assert (folder / "cut" / path).read_bytes() == (folder / "whole" / path).read_bytes(), path
    written = [(folder / out / "sweep.json").read_text(encoding="utf-8") for out in ("cut", "whole")]
    assert written[0].replace(str(folder / "cut"), str(folder / "whole")) == written[1]
    assert not (folder / "cut" / ".parts").exists()


def test_what_was_read_is_told_first(folder: Path) -> None:
    """File, column, how many of how many, and the counts by split, on the first line."""
    for out in ("cut", "whole"):
        _, error = json.loads((folder / f"{out}.json").read_text(encoding="utf-8"))
        assert error[0] == f"read {READ}; {COUNTS}"


def test_controls_bands_outcomes_and_the_bound_are_written(record: dict[str, Any]) -> None:
    """Two draws of each control; every number of the method beside its band; three outcomes that add up; a bound from
    the model's own answers.
    """
    assert record["calibrated_on_this_fit_split"] is True
    controls = record["controls"]
    assert (controls["draws"], controls["left_out"]) == (DRAWS, {})
    ran = [setting["condition"] for setting in controls["report"]]
    assert {name: ran.count(name) for name in ("random plane", "random sites", "shuffled labels")} == {
        "random plane": DRAWS,
        "random sites": DRAWS,
        "shuffled labels": DRAWS,
    }
    bound = record["degenerate_above"]
    assert bound["n"] == SIDE
    assert bound["quantile"] is not None  # measured, not the fixed one that serves where there are too few answers
    (method,) = (s for s in record["report"] if "band" in s)
    assert {"positive_answered", "positive_refused", "positive_degenerate"} <= method["band"].keys()
    for band in method["band"]["negative_degenerate"].values():
        assert band["n"] == DRAWS
        assert band["minimum"] <= band["median"] <= band["maximum"]
    for setting in (*record["select"], *record["report"], *controls["report"]):
        for side in ("positive", "negative"):
            rates = [setting[f"{side}_{outcome}"] for outcome in ("refused", "answered", "degenerate")]
            assert sum(rates) == pytest.approx(1)
    assert [s["value"] for s in record["select"] if s["condition"] == "selective"] == list(ANGLES)
