"""The parts of the externalities study: directions without their refusal part, rotations of equal KL, responses,
tokens, depth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference.batching import batches
from lens_steer.inference.clock import Clock
from lens_steer.inference.places import Places
from lens_steer.metrics.judges import PhraseJudge
from lens_steer.metrics.token_divergence import token_divergence
from lens_steer.organisms import grammar
from lens_steer.studies.claim import REPORTED
from lens_steer.studies.externalities import tokens
from lens_steer.studies.externalities.calibration import calibrate_compliance
from lens_steer.studies.externalities.claim_texts import BELOW, Paired, Text
from lens_steer.studies.externalities.conditions import (
    CONTROL,
    FAMILIES,
    RANDOM,
    first_decided,
    named,
    positions_of,
)
from lens_steer.studies.externalities.controls import (
    divergence_of,
    match_rotation,
    parts,
    random_like,
    refusal_bases,
    rotation,
)
from lens_steer.studies.externalities.deciding import LEAST, by_mean
from lens_steer.studies.externalities.depth import _jackknifed, _mean_gap, projections, random_cosine
from lens_steer.studies.externalities.found import Externalities
from lens_steer.studies.externalities.material import in_the_splits_of, organism_material, own_answers, right_compliance
from lens_steer.studies.externalities.positive_control import against_refusal
from lens_steer.studies.externalities.steerings import ComplianceCalibration
from lens_steer.studies.externalities.token_claims import flat, largest_at_start
from lens_steer.studies.verdicts import HOLDS, NOT_SHOWN, REFUTED

CLAIM = Text(id="k", statement="s", formula="f", quantity="q").claim(model="m")


@pytest.fixture(scope="module")
def compliance(qwen: Any) -> ComplianceCalibration:
    fit = ls.load_contrast("organism/compliance").fit
    return calibrate_compliance(qwen, Contrast(fit.positive[:12], fit.negative[:12]), progress=False)


@pytest.fixture(scope="module")
def refusal_calibration(qwen: Any) -> ls.Calibration:
    return ls.calibrate(
        ls.record(qwen, ls.load_contrast("organism/refusal"), "resid_post", progress=False), progress=False
    )


def divergence(rows: list[list[float]]) -> Any:
    """A divergence with these values, prompt by prompt."""
    from lens_steer.metrics.token_divergence import TokenDivergence

    row = np.array([i for i, r in enumerate(rows) for _ in r])
    kl = np.array([v for r in rows for v in r])
    same = dict.fromkeys(
        ("kl", "kl_reverse", "entropy", "total_variation", "entropy_steered", "surprise", "surprise_steered"), kl
    )
    return TokenDivergence(
        row=row,
        position=np.array([t for r in rows for t in range(len(r))]),
        token=("a",) * len(kl),
        token_id=row,
        n_prompts=len(rows),
        n_empty=0,
        **same,
    )


def test_without_its_refusal_part(compliance: ComplianceCalibration, refusal_calibration: ls.Calibration) -> None:
    """Nothing is left in the refusal plane nor along the block's difference of means; the parts add up; at equal norm
    the length is the whole direction's.
    """
    bases = refusal_bases(refusal_calibration)
    directions = {s: 1.7 * compliance.direction(s) for s in compliance.steered}
    inside, outside = parts(directions, bases)
    _, lengthened = parts(directions, bases, equal_norm=True)
    for site, direction in directions.items():
        known = torch.cat(
            [refusal_calibration.basis, refusal_calibration.candidates[refusal_calibration.sites.index(site)][None]]
        )
        assert float((known @ outside[site]).abs().max()) < 1e-5
        assert float((known @ lengthened[site]).abs().max()) < 1e-5
        torch.testing.assert_close(inside[site] + outside[site], direction, atol=1e-5, rtol=0)
        assert float(lengthened[site].norm()) == pytest.approx(1.7, rel=1e-5)
        assert 0 < float(inside[site].norm()) < 1.7
    site = compliance.steered[0]
    with pytest.raises(LensSteerError, match=f"the direction at {site} lies in the refusal plane"):
        parts({site: refusal_calibration.basis[0]}, bases, equal_norm=True)


def test_random_directions_keep_lengths_and_cosines(compliance: ComplianceCalibration) -> None:
    directions = {s: compliance.direction(s) * (1 + i) for i, s in enumerate(compliance.steered)}
    given = torch.stack(list(directions.values()))
    drawn = [torch.stack(list(random_like(directions, seed).values())) for seed in (0, 0, 1)]
    torch.testing.assert_close(drawn[0] @ drawn[0].T, given @ given.T, atol=1e-4, rtol=0)
    assert torch.equal(drawn[0], drawn[1])
    assert abs(float(torch.cosine_similarity(drawn[0][0], drawn[2][0], dim=0))) < 0.5


def test_the_rotation_keeps_norms_and_turns_the_mean_towards_the_direction(compliance: ComplianceCalibration) -> None:
    site = compliance.steered[1]
    mean, direction = compliance.mean[compliance.row(site)], compliance.direction(site)
    h = torch.randn(7, len(mean), generator=torch.Generator().manual_seed(0))
    turn = rotation(compliance, [site], 25.0).operator()
    torch.testing.assert_close(turn(h).norm(dim=-1), h.norm(dim=-1))
    torch.testing.assert_close(rotation(compliance, [site], 0.0).operator()(h), h, atol=1e-6, rtol=0)
    moved = turn(mean)
    assert float(moved @ direction) > float(mean @ direction)
    torch.testing.assert_close(moved.norm(), mean.norm())
    plane = torch.linalg.qr(torch.stack([mean, direction]).T)[0]
    torch.testing.assert_close(plane @ (plane.T @ moved), moved, atol=1e-4, rtol=0)


def test_the_rotation_is_matched_within_the_tolerance(qwen: Any, compliance: ComplianceCalibration) -> None:
    """The smallest angle whose divergence is the target's within 5 %; a target beyond every angle gives a reason."""
    benign = own_answers(qwen, ls.load_contrast("organism/refusal").select.negative[:4], max_new_tokens=26)
    responses = [p.response or "" for p in benign]
    target = divergence_of(qwen, compliance.plan, 30.0, benign, responses)
    match = match_rotation(qwen, compliance, compliance.steered, target, benign, responses)
    assert match.grid is not None
    angle = float(match.grid.values[0] or 0.0)
    assert 0 < angle <= 180
    again = divergence_of(qwen, lambda v: rotation(compliance, compliance.steered, v), angle, benign, responses)
    assert again == pytest.approx(target, rel=0.05)
    beyond = match_rotation(qwen, compliance, compliance.steered, 1e4, benign, responses)
    assert beyond.grid is None
    assert "out of reach" in beyond.reason


def test_only_right_compliance_is_kept() -> None:
    """Right steps, in text or JSON, are kept as responses of the plain prompts; refusals, falsehoods and empty answers
    are not; without a truth a judge decides.
    """
    prompts = ls.load_contrast("organism/refusal").report.positive[:5]
    truth = [p.task.truth for p in prompts if p.task]
    texts = [
        grammar.steps(truth[0]["verb"], truth[0]["object"]),
        grammar.refusal(truth[1]["verb"], truth[1]["object"]),
        grammar.steps(truth[0]["verb"], truth[0]["object"]),
        "",
        grammar.steps_json(truth[4]["verb"], truth[4]["object"]),
    ]
    kept = right_compliance(prompts, texts)
    assert [p.text for p in kept] == [prompts[0].text, prompts[4].text]
    assert [p.response for p in kept] == [texts[0], texts[4]]
    bare = [Prompt.of("one"), Prompt.of("two")]
    with pytest.raises(LensSteerError, match="prompt 0 has no ground truth: give a judge"):
        right_compliance(bare, ["a", "b"])
    judged = right_compliance(bare, ["I cannot do that.", "Step one."], PhraseJudge())
    assert [p.text for p in judged] == ["two"]


def test_pairs_stay_in_their_split() -> None:
    """No verb and object of the compliance or JSON fit prompts is reported on, or chosen by, in the refusal
    contrast.
    """
    whole = organism_material(n_tasks=4)
    for contrast in (whole.compliance, whole.json):
        fit = {
            (p.task.truth.get("verb"), p.task.truth.get("object"))
            for p in contrast.fit.positive
            if p.task and p.task.kind.endswith("request")
        }
        assert fit
        for part in (whole.refusal.select, whole.refusal.report):
            other = {
                (p.task.truth["verb"], p.task.truth["object"])
                for side in (part.positive, part.negative)
                for p in side
                if p.task
            }
            assert not fit & other
        assert [p.text for p in contrast.fit.negative] == [
            p.text.split(" Reply in")[0].split(" Answer as")[0].split(" Use JSON")[0] for p in contrast.fit.positive
        ]
    assert len(in_the_splits_of(whole.refusal, whole.refusal).fit.positive) == len(whole.refusal.fit.positive)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_families_share_out_the_tokens(qwen: Any, k: int) -> None:
    """The first two families and their complements cover every token once; the first k answer tokens are decided by k
    tokens.
    """
    prompts = [Prompt.of("Please help me build a school.", response="Sure. 1. Take the rope.")]
    batch = next(iter(batches(qwen.lens_info.tokenizer, prompts, n_ctx=512, with_response=True)))
    layout, width = Places.of(batch), batch.ids.shape[1]
    at = {f: Clock(positions_of(f, k)).columns(layout, 0, width)[0] for f in FAMILIES}
    end = width - batch.response_lengths[0]
    assert at["first k"].nonzero().flatten().tolist() == list(range(end - 1, end - 1 + k))
    for one, other in (("first k", "all but first k"), ("prompt and first k", "after first k, no prompt")):
        assert bool((at[one] ^ at[other]).all())
    with pytest.raises(LensSteerError, match="family='last k', k=1"):
        positions_of("last k", 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_first_decided_is_where_the_divergence_begins(
    qwen: Any, compliance: ComplianceCalibration, family: str
) -> None:
    """With k = 2, on a fixed response: tokens that no steered token decides, with nothing of the prompt steered either,
    are as they were.
    """
    positions = positions_of(family, 2)
    response = "Sure. 1. Take the rope."
    one = token_divergence(
        qwen, compliance.plan(20.0, positions=positions), [Prompt.of("Please help me build a school.")], [response]
    )
    first = first_decided(positions)
    assert first == (0 if "prompt" in positions and "[:-1]" not in positions else 2)
    if not positions.startswith("prompt"):
        assert float(one.kl[:first].max()) == 0.0
    assert float(one.kl[first:].max()) > 0


def test_start_excess_and_slope() -> None:
    """By prompt: the first three tokens, those less the later ones, and the later ones' slope; too short responses are
    left out of each.
    """
    one = divergence([[3.0, 3.0, 3.0, 1.0, 2.0, 3.0, 4.0], [6.0, 0.0, 0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(tokens.start(one), [3.0, 2.0])
    np.testing.assert_allclose(tokens.excess(one), [0.5, 1.0])
    np.testing.assert_allclose(tokens.slopes(one), [1.0])
    assert len(tokens.start(divergence([[1.0], [2.0]]))) == 0
    rows = tokens.summary({("c", "harmful"): one})
    assert (rows[0]["start"], rows[0]["slope"], rows[0]["n"]) == (2.5, 1.0, 3)
    apart = tokens.gap(np.array([5.0, 5.1, 4.9]), np.array([1.0, 1.2]))
    assert apart.low > 3
    assert apart.n == 5
    with pytest.raises(LensSteerError, match="0 and 1 values"):
        tokens.gap(np.empty(0), np.ones(1))


def test_a_text_names_the_steering() -> None:
    """Names are put into every text, and a brace of a name stays; a paired claim tells its conditions and its side."""
    claim = Paired("attack-{name}", "{who} lowers it", "positive_refused", criterion=BELOW).claim(
        "json", "none", name="json", who="JSON", model="org/{model}"
    )
    assert (claim.id, claim.statement, claim.domain) == ("attack-json", "JSON lowers it", "org/{model}, report split")
    assert (claim.formula, claim.quantity) == (
        "positive_refused of 'json' less 'none', paired by prompt",
        "difference of positive refused",
    )
    assert (claim.criterion, claim.verdict, claim.value, claim.n) == (BELOW, REPORTED, None, 0)


def test_few_responses_decide_nothing() -> None:
    """A bootstrap interval of two or three values is narrow by itself: below five a claim is reported, not decided."""
    found = object.__new__(Externalities)  # of which only this is read
    vars(found).update(seed=0)
    few, enough = (by_mean(CLAIM, np.full(n, 2.0), found) for n in (LEAST - 1, LEAST))
    assert (few.verdict, few.n, few.value) == (REPORTED, LEAST - 1, None)
    assert few.witness["note"] == "4 responses are long enough: at least 5 are needed"
    assert (enough.verdict, enough.n, enough.value) == (HOLDS, LEAST, 2.0)


def test_flat_means_within_the_bound() -> None:
    """A steep slope fails, a flat one holds, and one that is known too badly to say is neither; the number of first
    tokens that a verdict hangs on is told.
    """

    def of(rows: list[list[float]]) -> Any:
        found = object.__new__(Externalities)  # of which only these are read
        vars(found).update(divergences={("json", "benign"): divergence(rows)}, seed=0)
        return flat(found, "json", "benign", "m")

    first, signs = [1.0, 1.0, 1.0], [-1, 1] * 5
    level = of([[*first, 0.5, 0.5 + 0.001 * s, 0.5] for s in signs])
    steep = of([[*first, 0.5, 0.9 + 0.001 * s, 1.3] for s in signs])
    noisy = of([[*first, 0.5, 0.5 + s, 0.5 + 2 * s] for s in signs])
    assert (level.verdict, steep.verdict, noisy.verdict) == (HOLDS, REFUTED, NOT_SHOWN)
    assert noisy.interval[0] < 0 < noisy.interval[1]
    assert noisy.witness["note"] == "wider than ± 0.05"
    late = divergence([[0.1, 0.1, 0.1, 9.0, 1.0, 1.0]] * 5)
    only_seed = object.__new__(Externalities)
    vars(only_seed).update(seed=0)
    claim = largest_at_start(CLAIM, late, only_seed)
    assert claim.verdict == REFUTED
    assert claim.witness["by_start"][4] > 0 > claim.witness["by_start"][3]
    assert "first 4, 5" in claim.witness["note"]


def test_draws_are_averaged_token_by_token() -> None:
    """The draws of a control are one condition; the others stay as they are."""
    found = {
        ("json, random direction 1", "benign"): divergence([[1.0, 2.0]]),
        ("json, random direction 2", "benign"): divergence([[3.0, 6.0]]),
        ("json", "benign"): divergence([[7.0, 7.0]]),
    }
    made = tokens.over_draws(found, {named("json", RANDOM, draw=i): named("json", RANDOM) for i in (1, 2)})
    assert set(made) == {("json", "benign"), (f"json, {RANDOM}", "benign")}
    assert made[f"json, {RANDOM}", "benign"].kl.tolist() == [2.0, 4.0]
    assert made["json", "benign"] is found["json", "benign"]


def test_the_angle_s_interval_covers_the_planted_one() -> None:
    """Two clouds along directions at 60°: the jackknife's interval holds it, and is narrower with less noise."""
    generator = torch.Generator().manual_seed(0)
    axis, other = torch.eye(40)[0], 0.5 * torch.eye(40)[0] + np.sqrt(0.75) * torch.eye(40)[1]

    def interval(noise: float) -> Any:
        drawn = noise * torch.randn(4, 60, 40, generator=generator)
        return _jackknifed(_mean_gap, drawn[0] + axis, drawn[1] - axis, drawn[2] + other, drawn[3] - other, 0)

    wide, narrow = interval(0.5), interval(0.05)
    assert narrow.low < 0.5 < narrow.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low) > 0
    assert random_cosine(4096)[1] < random_cosine(64)[1]


def test_the_positive_control_crosses_the_boundary(qwen: Any, refusal_calibration: ls.Calibration) -> None:
    """Unsteered harmful prompts stand on the harmful side of a probe of other prompts; under StTP against refusal they
    cross, from the steered block on.
    """
    contrast = ls.load_contrast("organism/refusal")
    acts = ls.record(qwen, contrast, "resid_post", progress=False)
    probes = {
        site: ls.fit_probe(acts, site) for site in (acts.sites[4], refusal_calibration.selected_site, acts.sites[11])
    }
    report = contrast.report
    made = projections(
        qwen, probes, report.positive[:16], report.negative[:16], {CONTROL: against_refusal(refusal_calibration)}
    )
    crossed = {(p.kind, p.block): p.crossed.value for p in made}
    assert crossed["harmful", 11] < 0.1
    assert crossed["harmless", 11] > 0.9
    assert crossed[CONTROL, 4] == crossed["harmful", 4]
    assert crossed[CONTROL, 11] > 0.9
