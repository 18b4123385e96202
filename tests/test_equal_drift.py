"""Drift of norms at equal divergence: the divergence that both reach, the angles, and verdicts on made-up drifts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from lens_steer import generate, record, standard_angular, steering
from lens_steer.evaluation.equal_divergence import Curve, Match, match
from lens_steer.evaluation.grids import Grid
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions import drift
from lens_steer.studies.propositions.drift import TOLERANCE
from lens_steer.studies.propositions.drift_claims import AT_DISC, PUBLISHED, Drifted, drift_claims
from lens_steer.studies.propositions.work import verifying
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED


def of_two(sas: Any, ss: Any, clusters: Any = None, **more: Any) -> Claim:
    """The claim on made-up drifts of SAS as published."""
    angles: dict[str, Any] = {"angles": (90.0,), "angles_ss": (30.0, 300.0), "kl": (0.1,), "kl_ss": (0.1004, 0.0999)}
    met = Drifted(condition=PUBLISHED, target=0.1, **angles, drift=sas, drift_ss=ss, **more)
    return drift_claims([met], "m", clusters=clusters)[0]


def test_planted_drifts() -> None:
    """More, less, as much, and nothing to be seen."""
    noise = np.random.default_rng(0).normal(0, 0.005, 128)
    more = of_two(0.2 + noise, 0.1 - noise)
    assert (more.verdict, round(float(more.value or 0), 2), more.n) == (HOLDS, 0.1, 128)
    assert more.witness["holds_jointly"] is True
    assert "SAS at 90°, SS at 30° and 300°, where the divergence on harmless select prompts is 0.1" in more.domain
    assert of_two(0.1 + noise, 0.2 - noise).verdict == REFUTED
    assert of_two(0.1 + noise, 0.1 - noise).verdict == "EXCLUDED BEYOND 0.01"
    assert of_two(np.abs(noise) / 10, np.abs(noise[::-1]) / 10).verdict == INSENSITIVE
    wide = np.where(np.arange(128) % 2, 0.5, -0.5)
    assert of_two(0.5 + wide, 0.5 - wide).verdict == NOT_SHOWN


def test_what_is_left_of_a_difference_in_divergence_shows_nothing() -> None:
    """An effect within what the drifts were moved by is not shown, however certain it is over prompts; the witness
    tells this, how far apart the divergences were, and the crossings without an angle.
    """
    noise = np.random.default_rng(0).normal(0, 0.001, 128)
    sure = of_two(0.13 + noise, 0.1 - noise, moved=0.005, moved_ss=0.005)
    assert (sure.verdict, sure.witness["moved_to_equal_divergence"]) == (HOLDS, 0.01)
    unsure = of_two(0.13 + noise, 0.1 - noise, moved=0.02, moved_ss=0.02, unmatched=1)
    assert unsure.verdict == NOT_SHOWN
    assert unsure.interval is not None
    assert unsure.interval[0] < 0 < unsure.interval[1]
    assert of_two(0.1 + noise, 0.13 - noise, moved=0.02, moved_ss=0.02).verdict != REFUTED
    assert unsure.witness["crossings_without_an_angle"] == {"SAS": 1, "SS": 0}
    assert round(unsure.witness["divergence_apart"], 6) == 0.004


def test_clusters_are_those_of_the_prompts() -> None:
    """Whole clusters that go together: a wider interval, and no other value; as many clusters as drifts."""
    each = np.repeat(np.random.default_rng(0).normal(0.1, 0.05, 16), 8)
    plain, clustered = (of_two(each, np.zeros(128), c) for c in (None, [str(i // 8) for i in range(128)]))
    assert plain.value == clustered.value
    assert plain.interval is not None and clustered.interval is not None
    assert clustered.interval[0] < plain.interval[0] < plain.interval[1] < clustered.interval[1]
    with pytest.raises(ValueError, match="clusters"):
        of_two(each, np.zeros(128), ["a"])


def test_a_drift_between_two_angles() -> None:
    """A drift that is in proportion to the divergence is found exactly, and how far it was moved is told; a crossing
    without an angle is counted; with none there is nothing.
    """
    slope = np.array([1.0, 3.0])
    at = {10.0: 0.08, 20.0: 0.11, 40.0: 0.12, 50.0: 0.09}
    one, two = (Match(Grid("a", None, (v,)), at[v], "", (w, at[w])) for v, w in ((10.0, 20.0), (40.0, 50.0)))
    found = drift._at_target(
        [one, Match(None, None, "it jumps"), two], 0.1, lambda grid: slope * at[grid.values[0] or 0]
    )
    assert found is not None
    assert np.allclose(found.drift, 0.1 * slope)
    assert (found.angles, found.kl, found.unmatched) == ((10.0, 40.0), (0.08, 0.12), 1)
    assert round(found.moved, 9) == 2 * 0.02
    assert drift._at_target([Match(None, None, "it jumps")], 0.1, lambda grid: slope) is None
    assert drift.between(slope, slope + 1, 0.1, 0.1, 0.1) is slope


def test_a_search_that_is_told_how_close(qwen: Any, refusal: Any, calibration: Any) -> None:
    """Nearer for a smaller tolerance, with the other side of the crossing beside it; too few steps find nothing."""
    harmless = refusal.select.negative[:3]
    answers = generate(qwen, harmless, max_new_tokens=4)
    grid = dataclasses.replace(drift.grids(calibration, calibration)[drift.SS], values=(60.0, 150.0))
    measured = drift.curve(qwen, grid, harmless, answers)
    target = 0.4 * measured.top
    for tolerance in (0.05, 0.002):
        near = match(qwen, measured, target, harmless, answers, tolerance=tolerance, steps=20)
        assert near
        for found in near:
            assert found.kl is not None and found.other is not None
            assert abs(found.kl / target - 1) <= tolerance
            assert (found.kl - target) * (found.other[1] - target) <= 0
    assert all(m.grid is None for m in match(qwen, measured, target, harmless, answers, tolerance=1e-9, steps=1))


def test_where_no_angles_have_the_same_divergence() -> None:
    """It is told with both ranges, and nothing is measured."""
    low, high = (Curve(Grid("a"), (0.0, 90.0), kl) for kl in ((0.0, 0.1), (0.3, 0.9)))
    assert drift.common_divergence(low, high) is None
    nothing = Drifted(condition=AT_DISC, reason="none in common", drift=np.empty(0), drift_ss=np.empty(0))
    claim = drift_claims([nothing], "m")[0]
    assert (claim.value, claim.interval, claim.n) == (None, None, 0)
    assert claim.verdict == f"{NOT_SHOWN} (no angles have the same divergence)"
    assert claim.witness == {"reason": "none in common"}
    assert claim.id == "drift-equal-divergence-L_disc"


def test_the_published_plane_is_read_at_norm_inputs(qwen: Any, refusal: Any) -> None:
    """The first axis is the mean-cosine choice among differences of the means of unit samples, each of unit
    length, in the stream; made by hand.
    """
    small = refusal.first(fit=16)
    basis = drift.published_calibration(qwen, small).basis
    names = [f"blocks.{b}.hook_resid_{k}" for b in range(qwen.cfg.n_layers) for k in ("pre", "mid")]
    acts = record(qwen, small.fit, names, progress=False)
    unit = [x.double() / x.double().norm(dim=-1, keepdim=True) for x in (acts.positive, acts.negative)]
    means = [x.mean(dim=0) for x in unit]
    apart = means[0] / means[0].norm(dim=-1, keepdim=True) - means[1] / means[1].norm(dim=-1, keepdim=True)
    length = apart.norm(dim=-1)
    apart = apart[length > 1e-6 * length.median()]
    apart = apart / apart.norm(dim=-1, keepdim=True)
    best = apart[int((apart @ apart.T).mean(dim=1).argmax())]
    assert torch.allclose(basis[0].double(), best, atol=1e-5)
    assert torch.allclose(basis @ basis.T, torch.eye(2), atol=1e-5)


def test_the_conditions(qwen: Any, calibration: Any) -> None:
    """SAS as published writes at every norm output with the plane it is given; the others at the sites of SS."""
    plane = calibration.basis.flip(0)
    made = drift.grids(calibration, dataclasses.replace(calibration, basis=plane))
    plans = {name: g.build(90.0) for name, g in made.items() if g.build}
    assert len(plans[PUBLISHED].sites) == 2 * calibration.n_layers
    assert torch.equal(plans[PUBLISHED].steps[0].parameters["basis"], plane)
    assert plans[AT_DISC] == standard_angular(calibration, 90.0)
    assert (plans[drift.SS].method, plans[drift.SS].sites) == ("selective", calibration.discriminative_sites)


def test_the_angles_have_the_same_divergence(qwen: Any, refusal: Any, calibration: Any) -> None:
    """Measured again at the angles that were found, on the same prompts; the drifts are those of the report split."""
    small = refusal.first(fit=16, select=4, report=3)
    for met in drift.at_equal_divergence(qwen, small, calibration, max_new_tokens=8):
        assert (met.target is None) == bool(met.reason)
        if met.target is None:
            continue
        harmless = small.select.negative
        answers = generate(qwen, harmless, max_new_tokens=8)
        tried = drift.grids(calibration, drift.published_calibration(qwen, small))
        for name, angles in ((met.condition, met.angles), (drift.SS, met.angles_ss)):
            build = tried[name].build
            assert build is not None
            kl = np.nanmean(mean_kl_by_value(qwen, build, angles, harmless, answers), axis=0)
            assert np.allclose(kl, met.target, rtol=TOLERANCE + 1e-4), (name, kl, met.target)
        assert calibration.discriminative_sites[0] == "blocks.6.ln2.hook_out"  # so the first norm after it is block 7's
        names = [f"blocks.{b}.hook_resid_{k}" for b in range(7, 12) for k in ("pre", "mid")]
        names.append("blocks.11.hook_resid_post")
        plain = lengths(qwen, small.report, names)
        by_angle = []
        for angle in met.angles:
            with steering(qwen, tried[met.condition].build(angle), tell=False):  # type: ignore[misc]
                by_angle.append(np.abs(lengths(qwen, small.report, names) / plain - 1).mean(axis=1))
        assert np.allclose(met.drift, np.mean(by_angle, axis=0), atol=4 * met.moved + 1e-4)
        assert met.moved < 0.01 * float(met.drift.mean())
        both = (*small.report.positive, *small.report.negative)
        assert drift.clusters_of_report(small) == [p.scenario if p.cluster is None else p.cluster for p in both]
        assert met.drift.shape == met.drift_ss.shape == (6,)


def lengths(model: Any, prompts: Any, names: Any) -> Any:
    """The lengths of the stream at some sites, of both classes' prompts."""
    found = record(model, prompts, names, progress=False)
    return torch.cat([found.positive, found.negative]).double().norm(dim=-1).numpy()


def test_the_work_is_counted(qwen: Any, refusal: Any) -> None:
    """A level more is more work, in answers and in passes over them; more prompts are more."""
    few, more = refusal.first(select=2, report=2), refusal.first(select=4, report=2)
    without, of_few, of_more = (
        verifying(qwen, c, 8, behaviour=False, downstream=on) for c, on in ((few, False), (few, True), (more, True))
    )
    assert (without.answers, of_few.answers, of_more.answers) == (0, 2, 4)
    assert 0 == without.forced < of_few.forced
    assert of_few.forced_tokens < of_more.forced_tokens
