"""Random controls in many draws: what is drawn, what SS is compared with, and verdicts on planted effects and nulls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lens_steer.errors import LensSteerError
from lens_steer.models import sites
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions import draws as drawing
from lens_steer.studies.propositions.bands import BAND_QUESTIONS, band_claims
from lens_steer.studies.propositions.dose import SCALES, effects_of
from lens_steer.studies.propositions.drawings import draws_drawing
from lens_steer.studies.propositions.experiments import BASE, UNSTEERED, Experiments
from lens_steer.studies.propositions.measured import Measured
from lens_steer.studies.propositions.questions import FAMILY, difference
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED, TIED
from tests.test_behaviour_claims import measured

N = 64


def first(k: int) -> Any:
    """Hits of the first k of 64 prompts."""
    return np.arange(N) < k


def made(own: int, drawn: list[int], *, unsteered: int = 0) -> Experiments:
    """SS with so many hits, draws of the random plane with so many each, and no steering."""
    base, none = measured(first(own), condition=BASE), measured(first(unsteered), condition=UNSTEERED, angle=None)
    each = tuple(measured(first(k), condition=drawing.PLANE, at_nominal=True) for k in drawn)
    return Experiments((none, base), {}, {drawing.PLANE: each})


def claim_of(found: Experiments, outcome: str = "") -> Claim:
    """The claim on the plane."""
    return next(c for c in band_claims(found, "m", family=FAMILY) if c.id == f"nominal-{outcome}the-plane")


def test_what_is_drawn(calibration: Any) -> None:
    """Each draw has one part drawn and keeps the rest; draws differ from each other and from SS; the same seed gives
    the same ones.
    """
    grids = drawing.draw_grids(calibration, 150.0, draws=4, seed=3)
    plans = {name: [g.build(150.0) for g in grids if g.condition == name and g.build] for name in drawing.DRAWN}
    assert [len(found) for found in plans.values()] == [4] * 4
    own = calibration.discriminative_sites
    for plan in plans[drawing.AXIS] + plans[drawing.PLANE]:
        assert plan.sites == own
        basis = plan.steps[0].parameters["basis"]
        assert torch.allclose(basis @ basis.T, torch.eye(2), atol=1e-5)
    assert all(torch.allclose(p.steps[0].parameters["basis"][0], calibration.basis[0]) for p in plans[drawing.AXIS])
    for name in (drawing.AXIS, drawing.PLANE):
        b2 = torch.stack([calibration.basis[1], *(p.steps[0].parameters["basis"][1] for p in plans[name])])
        assert float((b2 @ b2.T - torch.eye(5)).abs().max()) < 0.6
    for plan in plans[drawing.HALF]:
        assert len(sites.blocks_of(plan.sites)) == calibration.n_layers // 2
    for name, size in ((drawing.SITES, len(own)), (drawing.HALF, calibration.n_layers)):
        found = [p.sites for p in plans[name]]
        assert len({*found, own}) == 5
        assert {len(f) for f in found} == {size}
        assert all(torch.equal(p.steps[0].parameters["basis"], calibration.basis) for p in plans[name])
    again = drawing.draw_grids(calibration, 150.0, draws=4, seed=3)
    assert [g.build(150.0) == h.build(150.0) for g, h in zip(grids, again, strict=True)] == [True] * 16  # type: ignore[misc]
    assert drawing.draw_grids(calibration, 150.0, draws=0) == []
    with pytest.raises(LensSteerError, match="draws=-1: give a number of at least 0"):
        drawing.draw_grids(calibration, 150.0, draws=-1)


def test_no_more_sets_than_there_are(calibration: Any) -> None:
    """SS at all sites but one has as many other sets as sites less one; at all sites it has none."""
    most = replace(calibration, discriminative_sites=calibration.sites[1:])
    found = [g for g in drawing.draw_grids(most, 150.0, draws=40) if g.condition == drawing.SITES]
    assert len(found) == len(calibration.sites) - 1
    whole = replace(calibration, discriminative_sites=calibration.sites)
    assert not any(g.condition == drawing.SITES for g in drawing.draw_grids(whole, 150.0, draws=2))


def test_a_planted_effect_is_found_and_a_single_lucky_draw_forbids_it() -> None:
    """Beyond all draws, and far from their mean: holds, with p = 1/20. With one draw as good as SS, whatever the mean:
    not shown. Below all: refuted.
    """
    far = claim_of(made(50, [5] * 19))
    assert (far.verdict, far.value, far.n) == (HOLDS, 45 / 64, 64)
    assert far.interval is not None and far.interval[0] > 0
    told = {name: far.witness[name] for name in ("draws", "minimum", "median", "maximum", "rank_p")}
    assert told == {"draws": 19, "minimum": 5 / 64, "median": 5 / 64, "maximum": 5 / 64, "rank_p": 1 / 20}
    assert far.witness["holds_jointly"] is False  # 19 draws do not reach the joint level of 21 questions
    assert claim_of(made(50, [5] * 500)).witness["holds_jointly"] is True
    lucky = claim_of(made(50, [5] * 18 + [50]))
    assert (lucky.verdict, lucky.witness["rank_p"]) == (NOT_SHOWN, 2 / 20)
    assert lucky.interval is not None and lucky.interval[0] > 0  # the interval alone would have called it shown
    assert claim_of(made(5, [50] * 19, unsteered=40)).verdict == REFUTED
    near = claim_of(made(50, [49] * 19))  # beyond every draw by one prompt, which is not certain of other prompts
    assert near.verdict in (NOT_SHOWN, "EXCLUDED BEYOND 0.1")
    assert near.witness["rank_p"] == 1 / 20


def test_a_planted_null() -> None:
    """Draws on both sides of SS: excluded beyond ten points, if the experiments saw an effect, else insensitive."""
    draws = [48, 49, 50, 51, 52] * 4
    assert claim_of(made(50, draws)).verdict == "EXCLUDED BEYOND 0.1"
    assert claim_of(made(50, draws, unsteered=50)).verdict == INSENSITIVE
    assert claim_of(made(50, draws), "capable-").verdict == "EXCLUDED BEYOND 0.1"
    assert claim_of(made(50, draws)).criterion.startswith("95 % interval above 0, and beyond every draw")


def test_lower_perplexity_is_better() -> None:
    """The side turns round with the outcome; a prompt without an answer is left out of it."""
    found = made(50, [50] * 19)

    def with_surprise(m: Any, value: float, empty: int = 0) -> Any:
        said = np.full(2 * N, value)
        said[:empty] = np.nan
        return replace(m, surprise=said)

    measured_ = tuple(with_surprise(m, 1.0 if m.condition == BASE else 3.0) for m in found.measured)
    drawn = tuple(with_surprise(m, 2.0 + 0.01 * k, empty=k) for k, m in enumerate(found.drawn[drawing.PLANE]))
    better = claim_of(Experiments(measured_, {}, {drawing.PLANE: drawn}), "surprise-")
    assert (better.verdict, better.n, better.witness["rank_p"]) == (HOLDS, 128, 1 / 20)
    assert -1.2 < float(better.value or 0) < -1.0
    assert better.criterion.startswith("95 % interval below 0")
    assert drawing.against(measured_[1], [replace(drawn[0], surprise=np.full(2 * N, np.nan))], "surprise") is None


def test_nothing_at_a_tie_and_nothing_without_draws() -> None:
    """No value, and the reason."""
    tied = measured(np.array([], dtype=bool), condition=BASE, angle=None, tied=True)
    other = measured(first(3), condition=UNSTEERED, angle=None)
    claims = band_claims(Experiments((other, tied), {}), "m", family=FAMILY)
    assert {c.verdict for c in claims} == {TIED}
    assert len(claims) == 3 * len(BAND_QUESTIONS)
    without = claim_of(replace(made(50, []), drawn={}))
    assert (without.verdict, without.value, without.witness["note"]) == (
        NOT_SHOWN,
        None,
        "there is no draw with a value",
    )
    assert draws_drawing(Experiments((other, tied), {})).rows() == []


def test_the_figure_has_every_draw() -> None:
    """One row a draw and outcome, beside the value of SS."""
    rows = draws_drawing(made(50, [5, 6, 7])).rows()
    assert [r["draw"] for r in rows if r["outcome"] == "capable"] == [1, 2, 3]
    assert [64 * float(r["value"] or 0) for r in rows if r["outcome"] == "positive_right"] == [5, 6, 7]
    assert {64 * float(r["method"] or 0) for r in rows if r["outcome"] == "capable"} == {50}


def test_prompts_that_share_a_cluster_count_as_fewer() -> None:
    """The same values in clusters of four: wider intervals of a difference from another condition, from draws and from
    no norm error, and of the rates themselves; the values stay.
    """
    pattern = np.repeat(np.arange(16) < 8, 4)  # whole clusters go together
    names = {name: [f"cluster {i // 4}" for i in range(N)] for name in ("positive_right", "capable")}
    other = measured(first(1), condition=drawing.PLANE)
    found = []
    for clusters in ({}, names):
        base = replace(measured(pattern, condition=BASE), clusters=clusters)
        alone, drawn = difference(base, other), drawing.against(base, [other] * 3, "positive_right")
        dosed = effects_of({**dict.fromkeys(SCALES, base), 1.0: replace(other, clusters=clusters)}, "positive_right")
        assert alone is not None and drawn is not None
        found.append((alone, drawn.difference, dosed[0.5], base.row()))
    for plain, clustered in zip(found[0][:3], found[1][:3], strict=True):
        assert plain.value == clustered.value
        assert clustered.low < plain.low < plain.high < clustered.high
    assert found[1][3]["positive_right_low"] < found[0][3]["positive_right_low"]
    assert found[1][3]["negative_right_low"] == found[0][3]["negative_right_low"]


def test_clusters_come_from_the_rows() -> None:
    """Each field has those of its side's prompts, in order; none where every prompt is a cluster alone."""
    row = {"right": 1, "broken": 0, "surprise_ref": None}
    rows = [{**row, "side": side, "cluster": c} for side in ("positive", "negative") for c in ("a", "a", "b")]
    found = Measured.of(rows, "SS", 150.0)
    assert found.clusters["positive_right"] == ["a", "a", "b"]
    assert found.clusters["surprise"] == ["a", "a", "b"] * 2
    assert found.clusters["capable"] is None
    assert found.clusters_at("positive_right", np.array([True, False, True])) == ["a", "b"]
    assert (
        Measured.of([{k: v for k, v in r.items() if k != "cluster"} for r in rows], "SS", 150.0).clusters_at(
            "broken", np.ones(6, dtype=bool)
        )
        is None
    )
