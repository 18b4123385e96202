"""``verify``: levels alone, a calibration of the model's own, and going on after an interrupt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
import lens_steer.studies.propositions.verify as module
from lens_steer.cli.precheck import describe
from lens_steer.errors import LensSteerError
from lens_steer.evaluation import sweeps
from lens_steer.evaluation.pieces import Pieces
from lens_steer.metrics.benchmarks import organism_tasks
from lens_steer.studies.propositions import experiments
from lens_steer.studies.propositions.dose import SCALES
from lens_steer.studies.propositions.verify import LEVELS, is_of, verify, verify_model, write
from lens_steer.studies.propositions.work import verifying
from tests.test_cli import run


@pytest.fixture(scope="module")
def small(refusal: Any) -> Any:
    return refusal.first(fit=24, select=3, report=4)


@pytest.fixture
def few_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three conditions at two angles, two norm errors, and few tasks."""
    original = experiments.conditions
    monkeypatch.setattr(module, "tasks_or_own", lambda tasks, prompts, seed: organism_tasks(4, seed=seed))
    wanted = ("SS, L_disc", "X2 (collapse)", "SAS, L_disc")
    monkeypatch.setattr(experiments, "conditions", lambda *a: [g for g in original(*a) if g.condition in wanted])
    monkeypatch.setattr(experiments, "ANGLES", (120.0, 200.0))
    monkeypatch.setattr(module.dose, "SCALES", (0.5, 2.0))
    monkeypatch.setattr(module.questions, "experiment_claims", lambda *a, **k: [])


def test_levels_are_the_claims_own(calibration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level alone gives its claims and computes no other's; each is a known one."""
    for room, name in ((module.formula, "proposition_claims"), (module.differences, "difference_claims")):
        monkeypatch.setattr(room, name, lambda **_: pytest.fail("formula was not asked for"))
    whole = verify({"own": calibration}, levels=["geometry", "basis", "dtype"], progress=False)
    assert {c.level for c in whole.claims} == {"geometry", "basis", "dtype"} < set(LEVELS)
    for level in ("basis", "dtype", "geometry"):
        part = verify({"own": calibration}, levels=[level], progress=False)
        assert [c.row() for c in part.claims] == [c.row() for c in whole.claims if c.level == level]
    assert set(verify(levels=["dtype"], progress=False).drawings) == {"norm_change"}
    for wrong in (["formulas"], []):
        with pytest.raises(LensSteerError, match="levels="):
            verify(levels=wrong)


def test_a_models_levels_and_its_own_calibration(qwen: Any, small: Any, calibration: Any, tmp_path: Path) -> None:
    """What is given is what is tested; nothing is generated where behaviour was not asked for."""
    found = verify_model(qwen, small, calibration=calibration, levels=["recorded", "geometry"], progress=False)
    assert {c.level for c in found.claims} == {"recorded", "geometry"}
    kept = len(calibration.discriminative_blocks)
    assert found.claim("few-layers-organism/qwen2").witness["kept"] == kept
    fresh = verify_model(qwen, small, levels=["downstream"], out=tmp_path, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.drift, "at_equal_divergence", lambda *a, **k: pytest.fail("it was kept"))
        again = verify_model(qwen, small, levels=["downstream"], out=tmp_path, progress=False)
    assert [c.row() for c in again.claims] == [c.row() for c in fresh.claims]
    assert {c.level for c in fresh.claims} == {"downstream"}
    assert set(fresh.drawings) == {"norm_drift"}
    equal = fresh.claim("drift-equal-divergence-L_disc")
    assert equal.n in (0, 8)  # both classes of the report split, or no angles with one divergence
    with pytest.raises(LensSteerError, match="draws=-1: give a number of at least 0"):
        verify_model(qwen, small, draws=-1)
    with pytest.raises(LensSteerError, match="no class means"):
        verify_model(qwen, small, calibration=replace(calibration, mean_positive=None))
    with pytest.raises(LensSteerError, match="was made on"):
        verify_model(qwen, small, calibration=replace(calibration, n_layers=3))
    assert is_of(calibration, qwen)
    assert is_of(calibration, describe("organism/qwen2"))
    assert not is_of(calibration, describe("organism/gemma2"))
    assert not is_of(replace(calibration, published_basis=calibration.basis), qwen)


@pytest.mark.usefixtures("few_conditions")
def test_an_interrupted_run_goes_on(qwen: Any, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part is run twice, the result is the uninterrupted run's, and nothing is left beside it."""
    how: dict[str, Any] = {"levels": ["behaviour"], "max_new_tokens": 8, "draws": 1, "progress": False}
    calls: list[str] = []
    original = sweeps.Part.__call__

    def part(self: Any) -> Any:
        if len(calls) == limit:
            raise KeyboardInterrupt
        calls.append(self.grid.name)
        return original(self)

    monkeypatch.setattr(sweeps.Part, "__call__", part)
    limit = -1
    whole = verify_model(qwen, small, out=tmp_path / "whole", **how)
    every, limit = list(calls), 5
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        verify_model(qwen, small, out=tmp_path / "cut", **how)
    assert (tmp_path / "cut" / ".parts" / "verify" / "select.csv").exists()
    with pytest.raises(
        LensSteerError, match=r"beginning of another run \(max_new_tokens differ\): give another folder"
    ):
        verify_model(qwen, small, out=tmp_path / "cut", levels=["behaviour"], max_new_tokens=9, progress=False)
    begun = list(calls)
    calls.clear()
    limit = -1
    again = verify_model(qwen, small, out=tmp_path / "cut", **how)
    assert begun + calls == every
    assert again.drawings["conditions"].columns == whole.drawings["conditions"].columns
    write(replace(again, drawings={}), tmp_path / "cut")
    assert not (tmp_path / "cut" / ".parts").exists()
    assert (tmp_path / "cut" / "propositions.json").exists()


def test_pieces_keep_plain_values(tmp_path: Path) -> None:
    """Once made, never again, and gone when they are dropped."""
    pieces = Pieces(tmp_path, "verify", {"a": 1})
    for make in (lambda: {"x": [0.1, None]}, lambda: pytest.fail("made twice")):
        assert pieces.keep("x", make) == {"x": [0.1, None]}
    pieces.drop()
    assert list(tmp_path.iterdir()) == []
    assert Pieces(None, "verify", {}).keep("x", lambda: 3) == 3


def test_the_number_of_conditions(calibration: Any, qwen: Any, refusal: Any) -> None:
    """As the estimate of the work takes it; and of a level without behaviour nothing is generated."""
    acts, few = ls.record(qwen, refusal.first(fit=8), progress=False), refusal.first(select=2, report=3)
    grids = experiments.conditions(calibration, acts)
    assert len(grids) == len({g.name for g in grids}) == experiments.N_CONDITIONS
    assert [g.condition for g in grids if g.values == (None,)] == ["X2 (collapse)"]
    assert verifying(qwen, few, 8, behaviour=False, downstream=False).answers == 0
    on_select, on_report = 2 * (1 + 16 * len(experiments.ANGLES) + 1), 1 + 2 * 16 + 1 + len(SCALES) + 4 * 5
    work = verifying(qwen, few, 8, downstream=False, draws=5)
    assert work.answers == on_select + on_report * (3 + 3 + len(organism_tasks()))
    assert work.forced == 2 * on_report  # the unsteered model reads both classes' answers, one batch each


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    """A model's own calibration beside the model, some levels, and what is refused."""
    args = (
        "verify",
        "--model",
        "organism/qwen2",
        "--calibration",
        made,
        "--levels",
        "recorded,geometry",
        "--out",
        tmp_path / "o",
    )
    code, printed, error = run(monkeypatch, capsys, *args)
    assert code == 0, error
    assert "is this model's: used in place of a fresh one" in error
    assert "warning" not in error  # it was made from this contrast's fit split
    claims = json.loads((tmp_path / "o" / "propositions.json").read_text(encoding="utf-8"))["claims"]
    assert {c["level"] for c in claims} == {"recorded", "geometry"}
    assert len({c["id"] for c in claims}) == len(claims)
    assert json.loads(printed)["verdicts"].keys() == {c["id"] for c in claims}
    for wrong, message in (
        (("--levels", "formulas"), "'formulas' is none, use some of formula, basis"),
        (("--levels", "behaviour"), "behaviour runs a model, give --model too"),
        (("--levels", "published"), "give --calibration too"),
        (("--dry-run",), "give --model too"),
        (("--model", "organism/qwen2", "--controls", "-1"), "--controls -1: give a number of at least 0"),
        (("--model", "organism/qwen2", "--calibration", made, "--calibration", made), None),
    ):
        code, _, error = run(
            monkeypatch,
            capsys,
            "verify",
            *wrong,
            "--out",
            tmp_path / "wrong",
            *(("--dry-run",) if message is None else ()),
        )
        assert (code == 2 and message in error) if message else code == 0, error
    assert not (tmp_path / "wrong").exists()
