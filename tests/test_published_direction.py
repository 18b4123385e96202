"""Ablation and ActAdd in a comparison: with the direction that Arditi et al.'s rule selects, or with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.evaluation import published_direction as module
from lens_steer.evaluation.comparison import compare
from lens_steer.evaluation.direction_selection import NoneKeptError, choose
from lens_steer.evaluation.published_direction import check_direction, published_direction
from lens_steer.geometry.selected_direction import DirectionBounds, SelectedDirection
from tests.directions import LOOSE, few, select

TAKING = ["act-add", "ablation-everywhere"]


@pytest.fixture
def loose(qwen: Any, refusal: Any) -> SelectedDirection:
    return select(qwen, few(refusal), bounds=LOOSE)


def as_selected(monkeypatch: pytest.MonkeyPatch, found: SelectedDirection, *, kept: bool) -> list[DirectionBounds]:
    """Let the selection return a direction, with or without one candidate in the published bounds."""
    asked: list[DirectionBounds] = []

    def selection(*_: Any, bounds: DirectionBounds | None = None, **__: Any) -> SelectedDirection:
        asked.append(bounds or DirectionBounds())
        if bounds is None and not kept:
            raise NoneKeptError("none of 60 candidate directions keeps the bounds")
        return found

    def choice(*args: Any) -> Any:
        if not kept:
            raise NoneKeptError("none of 60 candidate directions keeps the bounds")
        return choose(found.scores, LOOSE, found.n_layers)

    monkeypatch.setattr(module, "select_direction", selection)
    monkeypatch.setattr(module, "choose", choice)
    return asked


def test_a_direction_in_the_bounds_is_the_methods_own(
    monkeypatch: pytest.MonkeyPatch, qwen: Any, refusal: Any, loose: SelectedDirection, tmp_path: Path
) -> None:
    as_selected(monkeypatch, loose, kept=True)
    found = published_direction(qwen, refusal, tmp_path, TAKING)
    assert [g.condition for g in found.grids(TAKING)] == TAKING
    assert found.left_out(TAKING) == {}
    plan = found.grids(["ablation-everywhere"])[0].build(None)  # type: ignore[misc]
    assert plan.details["selected_direction"] == loose.origin
    assert found.record()["direction"]["block"] == loose.block


def test_without_one_the_row_is_left_out_and_the_unbounded_one_has_another_name(
    monkeypatch: pytest.MonkeyPatch, qwen: Any, refusal: Any, loose: SelectedDirection, tmp_path: Path
) -> None:
    asked = as_selected(monkeypatch, loose, kept=False)
    found = published_direction(qwen, refusal, tmp_path, [*TAKING, "selective"])
    assert [g.condition for g in found.grids([*TAKING, "selective"])] == [f"{m} (no bounds)" for m in TAKING]
    assert found.left_out([*TAKING, "selective"]) == dict.fromkeys(
        TAKING, "none of 60 candidate directions keeps the bounds"
    )
    assert asked == [DirectionBounds(), module.WITHOUT_BOUNDS]


def test_a_resumed_run_has_the_same_direction(
    monkeypatch: pytest.MonkeyPatch, qwen: Any, refusal: Any, loose: SelectedDirection, tmp_path: Path
) -> None:
    """It is not selected again; of other prompts it is."""
    asked = as_selected(monkeypatch, loose, kept=True)
    first = published_direction(qwen, refusal, tmp_path, TAKING)
    again = published_direction(qwen, refusal, tmp_path, TAKING)
    assert len(asked) == 1
    assert again.direction is not None
    assert first.direction is not None
    assert bool((again.direction.direction == first.direction.direction).all())
    published_direction(qwen, refusal.first(fit=1, select=1), tmp_path, TAKING)
    assert len(asked) == 2


def test_nothing_is_selected_where_nothing_needs_it(qwen: Any, refusal: Any, tmp_path: Path) -> None:
    assert published_direction(qwen, refusal, tmp_path, ["selective"]).record()["direction"] is None
    assert published_direction(qwen, refusal, tmp_path, TAKING, None).grids(TAKING) == []
    assert not list(tmp_path.iterdir())


def test_a_model_that_refuses_nothing_has_a_reason(qwen: Any, refusal: Any, tmp_path: Path) -> None:
    harmless = refusal.first(fit=2, select=2)
    both = ls.Contrast(harmless.fit.negative, harmless.fit.negative)
    same = replace(harmless, split=replace(harmless.split, fit=both))
    found = published_direction(qwen, same, tmp_path, TAKING, max_new_tokens=8, progress=False)
    assert found.direction is None
    assert "refus" in found.left_out(TAKING)["act-add"]


def test_another_object_is_refused_at_once(qwen: Any, refusal: Any, tmp_path: Path) -> None:
    with pytest.raises(LensSteerError, match=r"direction='cosine': give 'arditi' to select one"):
        check_direction("cosine")
    with pytest.raises(LensSteerError, match=r"direction='mean': give 'arditi'"):
        compare(qwen, refusal, tmp_path / "out", direction="mean")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_comparison_has_both_names(qwen: Any, refusal: Any, loose: SelectedDirection, tmp_path: Path) -> None:
    """A given direction is the method's own; the calibration's is a condition of another name."""
    found = compare(
        qwen,
        refusal.first(fit=8, select=2, report=2),
        tmp_path,
        methods=["ablation-everywhere", "standard-everywhere"],
        values=(0.0, 120.0, 240.0),
        direction=loose,
        refine=0,
        draws=0,
        max_new_tokens=8,
        progress=False,
    )
    names = set(found.evaluation.choices)
    assert {"ablation-everywhere", "ablation-everywhere (calibrated)", "standard-everywhere", "selective"} <= names
    published = ls.load_calibration(tmp_path / "calibrations" / "norm_in_sample_unit")
    assert published.details["candidate_norm"] == "sample_unit"
    assert {name.rpartition("hook_")[2] for name in published.sites} == {"resid_pre", "resid_mid"}
