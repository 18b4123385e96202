"""Random controls in many draws: what is drawn, what SS is compared with, and verdicts on planted effects and nulls."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.control_bands import band
from lens_steer.models import sites
from lens_steer.stats.draws import less_mean_of_draws
from lens_steer.stats.rates import wilson
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions import draws as drawing
from lens_steer.studies.propositions.bands import BAND_FAMILY, BAND_QUESTIONS, band_claims, band_verdict
from lens_steer.studies.propositions.dose import SCALES, effects_of
from lens_steer.studies.propositions.drawings import draws_drawing
from lens_steer.studies.propositions.experiments import BASE, UNSTEERED, Experiments
from lens_steer.studies.propositions.measured import Measured
from lens_steer.studies.propositions.questions import FAMILY, QUESTIONS, difference, experiment_claims
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED, TIED
from tests.test_behaviour_claims import measured

N, SAID = 64, "surprise"


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
    return next(c for c in band_claims(found, "m") if c.id == f"nominal-{outcome}the-plane")


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
    assert far.witness["holds_jointly"] is False  # 19 draws do not reach the joint level of 4 questions
    assert [claim_of(made(50, [5] * n)).witness["holds_jointly"] for n in (78, 79)] == [False, True]
    lucky = claim_of(made(50, [5] * 18 + [50]))
    assert (lucky.verdict, lucky.witness["rank_p"]) == (NOT_SHOWN, 2 / 20)
    assert lucky.interval is not None and lucky.interval[0] > 0  # the interval alone would have called it shown
    assert claim_of(made(5, [50] * 19, unsteered=40)).verdict == REFUTED
    near = claim_of(made(50, [49] * 19))  # beyond every draw by one prompt, which is not certain of other prompts
    assert near.verdict in (NOT_SHOWN, "EXCLUDED BEYOND 0.1")
    assert near.witness["rank_p"] == 1 / 20


@pytest.mark.parametrize(("n", "verdict"), [(1, "few"), (9, "few"), (10, NOT_SHOWN), (18, NOT_SHOWN), (19, HOLDS)])
def test_few_draws_show_nothing(n: int, verdict: str) -> None:
    """However far SS lies beyond them, on either side: a rank among fewer than 19 cannot reach 0.05, and fewer than ten
    say nothing at all, not even that an effect is excluded.
    """
    told = f"{NOT_SHOWN} (fewer than 10 draws)"
    assert claim_of(made(64, [0] * n)).verdict == (told if verdict == "few" else verdict)
    below = {HOLDS: REFUTED, "few": told}.get(verdict, verdict)
    assert claim_of(made(0, [64] * n, unsteered=40)).verdict == below
    null = claim_of(made(64, [64] * n))
    assert null.verdict == (told if verdict == "few" else "EXCLUDED BEYOND 0.1")
    assert (null.interval is None) == (n == 1)  # one draw says nothing of others: no interval


def test_what_is_excluded_is_excluded_over_draws_too() -> None:
    """A thousand prompts, draws with the same mean: where the draws lie far apart, their mean may lie anywhere, though
    the prompts alone would exclude ten points.
    """
    got = {}
    for name, each in (("alike", [520] * 20), ("apart", [120, 920] * 10)):
        draws = np.stack([1.0 * (np.arange(1000) < k) for k in each])
        effect = less_mean_of_draws(1.0 * (np.arange(1000) < 500), draws)
        found = drawing.Against(effect, band((np.array(each) / 1000).tolist(), 0.5))
        got[name] = (round(effect.value, 3), band_verdict(found, 1, seen=True))
    assert got == {"alike": (-0.02, "EXCLUDED BEYOND 0.1"), "apart": (-0.02, NOT_SHOWN)}


def test_a_better_control_never_helps() -> None:
    """The case that was found: no draw complies, or one does once. And at random: draws that do better make the lower
    end no higher, so that nothing comes to hold; a rank gets no better either.
    """
    assert [claim_of(made(4, [k, *[0] * 18], unsteered=64)).verdict for k in (0, 1)] == [NOT_SHOWN, NOT_SHOWN]
    rng = np.random.default_rng(0)
    for n in (10, 19, 40):
        for level in (0.95, 1 - 0.05 / BAND_FAMILY):
            for _ in range(150):
                own = int(rng.integers(1, N + 1))
                a, b = rng.choice([0.3, 1.0, 3.0], 2)
                worse = np.floor(rng.beta(a, b, n) * own)
                better = np.where(rng.random(n) < rng.choice([0.06, 0.3, 1.0]), rng.integers(0, N + 1, n), worse)
                lows = [limits(own, k, level).low for k in (worse, np.maximum(better, worse))]
                assert lows[1] <= lows[0] + 1e-12, (own, worse, better)


def limits(own: int, drawn: Any, level: float = 0.95) -> Any:
    """The interval for so many hits under SS and under each draw."""
    return less_mean_of_draws(1.0 * first(own), np.stack([1.0 * first(int(k)) for k in drawn]), level=level)


@pytest.mark.parametrize("rates", [(0.03, 0.03), (0.1, 0.03), (0.3, 0.1), (0.5, 0.03), (0.5, 0.5)], ids=str)
@pytest.mark.parametrize("prompts", [0.0, 2.0], ids=["prompts alike", "prompts differ"])
@pytest.mark.parametrize("apart", [0.3, 1.0, 2.5], ids=["draws alike", "draws differ", "draws differ much"])
def test_intervals_cover(rates: tuple[float, float], prompts: float, apart: float) -> None:
    """New prompts and new draws each time; how hard a prompt is is the same for SS and for the draws. At least 93 % of
    the intervals hold the difference of the two expected rates.
    """
    rng, times, of = np.random.default_rng(1), 300, np.linspace(-4, 4, 401)
    centre = np.log(np.divide(rates, 1 - np.array(rates)))
    weight = np.exp(-(of**2) / 2) / np.exp(-(of**2) / 2).sum()
    expected = [
        float(weight @ inverse(c + of[:, None] * prompts + of[None, :] * a) @ weight)
        for c, a in zip(centre, (0.0, apart), strict=True)
    ]
    held = 0
    for _ in range(times):
        hard, drawn = rng.normal(0, prompts, N), rng.normal(0, apart, (19, 1))
        own = 1.0 * (rng.random(N) < inverse(centre[0] + hard))
        draws = 1.0 * (rng.random((19, N)) < inverse(centre[1] + hard + drawn))
        found = less_mean_of_draws(own, draws)
        held += found.low <= expected[0] - expected[1] <= found.high
    assert held / times >= 0.93


def inverse(x: Any) -> Any:
    """The inverse of the logit."""
    return 1 / (1 + np.exp(-x))


def test_the_interval_by_hand() -> None:
    """Draws that are all alike: the two Wilson intervals joined. Draws that differ: Student's t of their values added
    on the side on which they lie. Values that are not rates: the bootstrap, and the draws' part added.
    """
    own, draws = 1.0 * first(16), np.stack([1.0 * first(8)] * 12)
    one, two, found = wilson(16, 64), wilson(8, 64), less_mean_of_draws(own, draws)
    assert found.value == 1 / 8
    assert found.value - found.low == pytest.approx(math.sqrt((1 / 4 - one.low) ** 2 + (two.high - 1 / 8) ** 2))
    assert found.high - found.value == pytest.approx(math.sqrt((one.high - 1 / 4) ** 2 + (1 / 8 - two.low) ** 2))
    symmetric = np.stack([1.0 * first(k) for k in (4, 12) * 6])  # the mean stays, and each side has half the squares
    wider, part = less_mean_of_draws(own, symmetric), 2.200985 * np.std([4, 12] * 6, ddof=1) / 64 / math.sqrt(12)
    assert found.value - wider.low == pytest.approx(math.hypot(found.value - found.low, part))
    assert wider.high - found.value == pytest.approx(math.hypot(found.high - found.value, part))
    flat = less_mean_of_draws(np.full(64, 3.0), np.repeat(np.array([[1.0], [2.0]] * 6), 64, axis=1))
    assert (flat.value, flat.low) == (1.5, pytest.approx(1.5 - 2.200985 * np.std([1, 2] * 6, ddof=1) / math.sqrt(12)))
    with pytest.raises(LensSteerError, match=r"draws=\(0, 64\): give at least one draw and one prompt"):
        less_mean_of_draws(own, np.empty((0, 64)))
    alone = less_mean_of_draws(own, draws[:1])
    assert (alone.low, alone.high) == (-1.0, 1.0)


def test_families() -> None:
    """The joint level of the paired claims is that of all of them, at both angles, and the bands are not among them."""
    found = replace(made(50, [5] * 19), reused={})
    texts = {c.id: c.witness["family"] for c in experiment_claims(found, "m") if "family" in c.witness}
    assert len(QUESTIONS) * 2 == FAMILY
    assert "4 questions to random controls" in texts["nominal-the-plane"]
    same = Experiments((*found.measured, replace(found.measured[1], condition="SAS, L_disc")), {})
    paired = {c.id: c.witness.get("family", "") for c in experiment_claims(same, "m")}
    assert f"{FAMILY} paired claims" in paired["relative-angle"]


def test_a_planted_null() -> None:
    """Draws on both sides of SS: excluded beyond ten points, if the experiments saw an effect, else insensitive."""
    draws = [62, 63, 63, 63, 64] * 4
    assert claim_of(made(63, draws)).verdict == "EXCLUDED BEYOND 0.1"
    assert claim_of(made(63, draws, unsteered=63)).verdict == INSENSITIVE
    assert claim_of(made(63, draws), "capable-").verdict == "EXCLUDED BEYOND 0.1"
    criterion = claim_of(made(63, draws)).criterion
    assert criterion.startswith("95 % interval above 0, and a one-sided rank p of at most 0.05 among the draws")


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
    assert (better.verdict, better.n, better.witness["rank_p"]) == (HOLDS, 128 - 18, 1 / 20)
    rows = [r for r in draws_drawing(Experiments(measured_, {}, {drawing.PLANE: drawn})).rows() if r["outcome"] == SAID]
    assert {r["n"] for r in rows} == {better.n}
    assert float(better.value or 0) == pytest.approx(
        float(rows[0]["method"] or 0) - float(np.mean([float(r["value"] or 0) for r in rows]))
    )
    assert -1.2 < float(better.value or 0) < -1.0
    assert better.criterion.startswith("95 % interval below 0")
    assert drawing.against(measured_[1], [replace(drawn[0], surprise=np.full(2 * N, np.nan))], "surprise") is None


def test_nothing_at_a_tie_and_nothing_without_draws() -> None:
    """No value, and the reason."""
    tied = measured(np.array([], dtype=bool), condition=BASE, angle=None, tied=True)
    other = measured(first(3), condition=UNSTEERED, angle=None)
    claims = band_claims(Experiments((other, tied), {}), "m")
    assert {c.verdict for c in claims} == {TIED}
    assert len(claims) == 3 * len(BAND_QUESTIONS)
    without = claim_of(replace(made(50, []), drawn={}))
    assert (without.verdict, without.value, without.witness["note"]) == (
        NOT_SHOWN,
        None,
        "there is no draw",
    )
    assert draws_drawing(Experiments((other, tied), {})).rows() == []


def test_the_figure_has_every_draw() -> None:
    """One row a draw and outcome, beside the value of SS."""
    rows = draws_drawing(made(50, [5, 6, 7])).rows()
    assert [r["draw"] for r in rows if r["outcome"] == "capable"] == [1, 2, 3]
    assert [64 * float(r["value"] or 0) for r in rows if r["outcome"] == "positive_right"] == [5, 6, 7]
    assert {64 * float(r["method"] or 0) for r in rows if r["outcome"] == "capable"} == {50}


def test_ranks_are_of_the_same_prompts() -> None:
    """One prompt on which all do badly, and that one draw does not answer: the draw is not better for it."""
    rng = np.random.default_rng(0)
    hard = np.where(np.arange(2 * N) < 4, 50.0, 1.0)
    base = replace(measured(first(50), condition=BASE), surprise=hard)
    same = [hard + 0.1 + 0.001 * k + rng.normal(0, 0.001, 2 * N) for k in range(19)]
    same[3][:4] = np.nan  # alone on its own prompts this draw would be by far the best
    each = tuple(replace(measured(first(5), condition=drawing.PLANE), surprise=s) for s in same)
    found = drawing.against(base, each, SAID)
    assert found is not None
    assert (found.rank_p(-1), found.band.n, found.difference.n) == (1 / 20, 19, 124)
    silent = replace(each[0], surprise=np.full(2 * N, np.nan))
    less = drawing.against(base, (silent, *each[1:]), SAID)
    assert less is not None
    assert (less.band.n, less.difference.n) == (18, 124)  # a draw without any value is no draw


def test_no_random_half_is_that_of_ss(calibration: Any) -> None:
    """Where SS steers half of the blocks whole, this half is not among the random ones, of which there is one fewer."""
    own = tuple(n for n in calibration.sites if sites.parse(n).block < calibration.n_layers // 2)
    half = replace(calibration, discriminative_sites=own)
    found = drawing._halves(half, 1000, 0)
    assert len(found) == math.comb(calibration.n_layers, calibration.n_layers // 2) - 1
    assert own not in found
    assert own in drawing._halves(calibration, 1000, 0)


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
