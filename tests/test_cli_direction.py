"""``lens-steer calibrate --direction``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lens_steer.cli import app as cli
from lens_steer.geometry.estimators import ESTIMATORS


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["lens-steer", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_calibration_by_another_estimator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Written, with the estimator in its details; without the option it is the difference of means."""
    made = {}
    for name, option in {"difference": (), "fisher": ("--direction", "fisher")}.items():
        code, _, _ = run(monkeypatch, capsys, "calibrate", "--sites", "ln2", *option, "--out", tmp_path / name)
        assert code == 0
        facts = json.loads((tmp_path / name / "calibration.json").read_text(encoding="utf-8"))
        assert facts["details"]["direction"] == name
        made[name] = (tmp_path / name / "calibration.safetensors").read_bytes()
    assert made["difference"] != made["fisher"]


def test_the_plane_of_angular_steering(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Read at the inputs of the norms and spanned as its authors do; an unknown word is refused before any prompt."""
    how = ("--sites", "norm_in", "--candidate-norm")
    assert run(monkeypatch, capsys, "calibrate", *how, "angular", "--out", tmp_path / "a")[0] == 0
    facts = json.loads((tmp_path / "a" / "calibration.json").read_text(encoding="utf-8"))
    assert facts["details"]["candidate_norm"] == "angular"
    code, _, err = run(monkeypatch, capsys, "calibrate", *how, "angle", "--out", tmp_path / "b")
    assert code == 2
    assert "--candidate-norm 'angle': use one of unit, raw, sample_unit, angular" in err


def test_help_names_every_estimator(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that exist."""
    _, out, _ = run(monkeypatch, capsys, "calibrate", "--help")
    assert all(name in out for name in ESTIMATORS)


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ("median", "--direction 'median': use one of difference, fisher"),
        ("paired_pca", "found 3 positive and 2 negative"),
    ],
)
def test_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, direction: str, message: str
) -> None:
    """One line, code 2, nothing written; the model, which does not exist, is never asked for."""
    for name, prompts in {"positive": "One.\nTwo.\nThree.\n", "negative": "Four.\nFive.\n"}.items():
        (tmp_path / f"{name}.txt").write_text(prompts, encoding="utf-8")
    code, out, err = run(
        monkeypatch,
        capsys,
        "calibrate",
        "--model",
        "organism/none",
        "--positive",
        tmp_path / "positive.txt",
        "--negative",
        tmp_path / "negative.txt",
        "--direction",
        direction,
        "--out",
        tmp_path / "cal",
    )
    assert (code, out) == (2, "")
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("lens-steer: ")]) == 1
    assert not (tmp_path / "cal").exists()
