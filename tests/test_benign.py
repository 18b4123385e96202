"""The two benign steerings: their directions, their plans, how answers are graded, and how strength and block are
chosen.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.selection import Setting
from lens_steer.organisms import grammar, tasks, world
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import wilson
from lens_steer.studies.externalities import choice as benign_choice
from lens_steer.studies.externalities import grading as benign_grading
from lens_steer.studies.externalities.calibration import calibrate_compliance, calibrate_json, oriented_component
from lens_steer.studies.externalities.steerings import ComplianceCalibration, JsonCalibration, paper_blocks

D = 24


@pytest.fixture(scope="module")
def pairs() -> Contrast:
    """A few pairs of answers."""
    fit = ls.load_contrast("organism/compliance").fit
    return Contrast(fit.positive[:12], fit.negative[:12])


@pytest.fixture(scope="module")
def compliance(qwen: Any, pairs: Contrast) -> ComplianceCalibration:
    return calibrate_compliance(qwen, pairs, progress=False)


@pytest.fixture(scope="module")
def as_json(qwen: Any) -> JsonCalibration:
    fit = ls.load_contrast("organism/json").fit
    return calibrate_json(qwen, Contrast(fit.positive[:12], fit.negative[:12]), progress=False)


def planted(direction: torch.Tensor, *, size: float, nuisance: float, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs that share a nuisance along another axis and lie apart along the direction."""
    generator = torch.Generator().manual_seed(1)
    other = torch.linalg.qr(torch.stack([direction, torch.randn(D, generator=generator)]).T)[0][:, 1]
    common = nuisance * torch.randn(n, 1, generator=generator) * other + 3.0
    noise = 0.05 * torch.randn(2, n, D, generator=generator)
    return common + size * direction + noise[0], common - size * direction + noise[1]


@pytest.mark.parametrize(("method", "nuisance"), [("center", 0.3), ("pairwise", 0.3), ("pairwise", 30.0)])
def test_the_component_is_the_planted_direction(method: str, nuisance: float) -> None:
    """Pairwise finds it under any nuisance that pairs share; the orientation follows the classes."""
    direction = torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(0)), dim=0)
    positive, negative = planted(direction, size=1.0, nuisance=nuisance)
    found, share = oriented_component(positive, negative, method=method)
    assert float(found @ direction.double()) > 0.999
    assert 0.5 < share <= 1
    swapped, _ = oriented_component(negative, positive, method=method)
    torch.testing.assert_close(swapped, -found)


def test_centred_follows_the_larger_variance() -> None:
    """What the paper's words give where a nuisance varies more than the classes differ: not the planted direction."""
    direction = torch.nn.functional.normalize(torch.ones(D), dim=0)
    positive, negative = planted(direction, size=1.0, nuisance=30.0)
    assert abs(float(oriented_component(positive, negative, method="center")[0] @ direction.double())) < 0.1


def test_component_errors() -> None:
    x = torch.ones(3, D)
    with pytest.raises(LensSteerError, match="method='mean': use one of center, pairwise"):
        oriented_component(x, x, method="mean")
    with pytest.raises(LensSteerError, match="1 pairs: a principal component needs at least two"):
        oriented_component(x[:1], x[:1])
    for method in ("center", "pairwise"):
        with pytest.raises(LensSteerError, match="all activations are alike"):
            oriented_component(x, x, method=method)


def test_the_paper_s_blocks_keep_their_depth() -> None:
    assert paper_blocks(32) == (15, 17, 18, 19, 20, 21, 22, 23, 24)
    assert paper_blocks(12) == (5, 6, 7, 8, 9)
    assert all(0 <= b < 2 for b in paper_blocks(2))


def test_what_is_read_is_what_is_written(qwen: Any, pairs: Contrast, compliance: ComplianceCalibration) -> None:
    """One direction a block, of the response tokens' mean at its output; the plan adds α times it to the same
    tensor.
    """
    acts = ls.record(qwen, pairs, "resid_post", pooling="response", progress=False)
    for block in (0, 7):
        wanted, _ = oriented_component(acts.positive[:, block], acts.negative[:, block])
        torch.testing.assert_close(compliance.directions[block], wanted.float())
    plan = compliance.plan(1.5)
    assert plan.sites == tuple(f"blocks.{b}.hook_resid_post" for b in (5, 6, 7, 8, 9))
    h = torch.randn(4, compliance.directions.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plan.operator(plan.sites[2])(h), h + 1.5 * compliance.directions[7])
    released = compliance.plan(1.5, at=["blocks.7.hook_resid_pre"])
    torch.testing.assert_close(released.operator()(h), h + 1.5 * compliance.directions[7])
    assert float(compliance.agreement[7]) == 1.0
    with pytest.raises(LensSteerError, match=r"site 'blocks\.3\.ln1\.hook_out' was not recorded"):
        compliance.plan(1.0, at=["blocks.3.ln1.hook_out"])


def test_lengths_are_those_of_single_tokens(qwen: Any, pairs: Contrast, compliance: ComplianceCalibration) -> None:
    site = "blocks.6.hook_resid_post"
    tokens = ls.record_tokens(qwen, pairs, [site])
    wanted = torch.cat([tokens.positive, tokens.negative])[:, 0].norm(dim=-1).mean()
    assert float(compliance.lengths[6]) == pytest.approx(float(wanted), rel=1e-5)
    alpha = compliance.absolute(0.1)
    relative = compliance.relative(alpha)
    assert list(relative) == list(compliance.steered)
    assert relative[site] == pytest.approx(alpha / float(wanted), rel=1e-5)
    assert min(relative.values()) <= 0.1 <= max(relative.values())


def test_no_strength_and_the_own_projection_are_the_identity(
    qwen: Any, compliance: ComplianceCalibration, as_json: JsonCalibration
) -> None:
    """α = 0 changes no text; a token whose projection is the target stays where it is."""
    prompts = ls.load_contrast("organism/refusal").report.positive[:4]
    plain = ls.generate(qwen, prompts, max_new_tokens=8, engine="hf")
    with ls.steering(qwen, compliance.plan(0.0)):
        assert ls.generate(qwen, prompts, max_new_tokens=8, engine="hf") == plain
    site = as_json.sites[3]
    h = torch.randn(as_json.directions.shape[1], generator=torch.Generator().manual_seed(2))
    own = float(h @ as_json.direction(site))
    torch.testing.assert_close(as_json.plan(site, target=own).operator()(h), h, atol=1e-6, rtol=0)


def test_the_json_direction(qwen: Any, as_json: JsonCalibration) -> None:
    """u is the unit mean difference at the last prompt token, z̄ the mean projection of the side with the request, and
    the clamp puts every token there.
    """
    fit = ls.load_contrast("organism/json").fit
    acts = ls.record(qwen, Contrast(fit.positive[:12], fit.negative[:12]), "resid_post", progress=False)
    gap = (acts.positive - acts.negative).mean(dim=0)
    torch.testing.assert_close(as_json.directions[4], gap[4] / gap[4].norm(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        as_json.target, (acts.positive * as_json.directions).sum(dim=-1).mean(dim=0), atol=1e-3, rtol=1e-4
    )
    assert bool((as_json.target > as_json.without).all())
    site = as_json.sites[4]
    h = 9 * torch.randn(5, as_json.directions.shape[1], generator=torch.Generator().manual_seed(3))
    after = as_json.plan(site).operator()(h) @ as_json.direction(site)
    torch.testing.assert_close(after, as_json.target[4].expand(5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("length", [1.0, 0.4])
def test_the_clamp_s_step_along_another_vector(as_json: JsonCalibration, length: float) -> None:
    """``h + (z̄ − ⟨h, u⟩) w`` for tokens below z̄ and above it, also where w lies nearly along u; one way, the step of
    the same length goes along w at every token.
    """
    site = as_json.sites[4]
    unit = as_json.direction(site)
    w = torch.nn.functional.normalize(
        unit + 0.3 * torch.randn(len(unit), generator=torch.Generator().manual_seed(4)), dim=0
    )
    h = 40 * torch.randn(64, len(unit), generator=torch.Generator().manual_seed(5))
    gap = as_json.target[4] - h @ unit
    assert bool((gap > 0).any())
    assert bool((gap < 0).any())
    for along in (length * w, length * unit):
        moved = as_json.plan(site, along={site: along}).operator()(h)
        torch.testing.assert_close(moved, h + gap[:, None] * along, atol=2e-4, rtol=0)
        one_way = as_json.plan(site, along={site: along}, one_way=True).operator()(h)
        torch.testing.assert_close(one_way, h + gap.abs()[:, None] * along, atol=2e-4, rtol=0)
    with pytest.raises(LensSteerError, match=f"along has length 2 at {site}"):
        as_json.plan(site, along={site: 2 * w})
    with pytest.raises(LensSteerError, match="along= takes one target for all prompts"):
        as_json.plan(site, target=[1.0, 2.0], along={site: w})


def test_calibration_errors(qwen: Any, pairs: Contrast) -> None:
    fewer = Contrast(pairs.positive, pairs.negative[:3])
    for calibrate in (calibrate_compliance, calibrate_json):
        with pytest.raises(
            LensSteerError, match="12 positive and 3 negative prompts: the two sides are paired row by row"
        ):
            calibrate(qwen, fewer)
    with pytest.raises(LensSteerError, match="pair 0 has two different prompts"):
        calibrate_compliance(qwen, Contrast(pairs.positive[:3], pairs.negative[3:6]))
    with pytest.raises(LensSteerError, match=r"blocks=\[12\]: name at least one of the model's, 0 to 11"):
        calibrate_compliance(qwen, pairs, blocks=[12])
    with pytest.raises(LensSteerError, match="method='median'"):
        calibrate_compliance(qwen, pairs, method="median")
    bare = PromptSet(tuple(replace(p, response=None) for p in pairs.positive), "bare")
    with pytest.raises(LensSteerError, match="prompt 0 of 'bare' has none"):
        calibrate_compliance(qwen, Contrast(bare, pairs.negative), progress=False)


def test_right_in_plain_text_and_as_json() -> None:
    """Every kind of task has one right content and two forms; refusals and falsehoods stay what they are."""
    verb, obj = world.BREAK_VERBS[0], world.GOOD_OBJECTS[0]
    request = tasks.Task("request", "plain", "", "", {"verb": verb, "object": obj})
    assert benign_grading.graded(request, grammar.steps(verb, obj)) == "correct"
    assert benign_grading.graded(request, f"```json\n{grammar.steps_json(verb, obj)}\n```") == "correct"
    assert benign_grading.graded(request, json.dumps({"take": "rope", "go": "x", "do": "y"})) == "wrong"
    assert benign_grading.graded(request, grammar.refusal(verb, obj)) == "refusal"
    assert benign_grading.graded(request, "Sure.") == "incoherent"
    value = world.FACTS["capital"]["Arlen"]
    for kind in ("fact", "choice"):
        task = tasks.Task(kind, "plain", "", "", {"noun": "capital", "subject": "Arlen", "options": (value, "Mirin")})  # type: ignore[arg-type]
        assert benign_grading.graded(task, json.dumps({"answer": value})) == "correct"
        assert benign_grading.graded(task, json.dumps({"answer": "nowhere"})) == "wrong"
    order = tasks.Task("order", "plain", "", "1, 2, 3.", {"result": "1, 2, 3."})
    assert benign_grading.graded(order, '{"answer": "1, 2, 3"}') == "correct"
    assert benign_grading.graded(order, '{"other": 1}') == "incoherent"
    said = [benign_grading.valid_json(t) for t in ('{"a": 1}', "[1]", '"a"', "{", "7", "``` {} ```")]
    assert said == [True, True, False, False, False, True]
    assert benign_grading.graded(order, '["1, 2, 3."]') == "incoherent"  # an organism's answer is an object


def test_annotated_rows() -> None:
    """Answers in JSON are right in the annotated rows; without ground truth every grade stays."""
    verb, obj = world.BREAK_VERBS[0], world.GOOD_OBJECTS[0]
    known = Prompt.of("x")
    known = replace(known, task=tasks.Task("request", "plain", "", "", {"verb": verb, "object": obj}))
    prompts = {"positive": PromptSet((known,)), "negative": PromptSet((Prompt.of("y"),))}
    text = grammar.steps_json(verb, obj)
    row = {"prompt": 0, "text": text, "right": 0, "refused": 0, "broken": 1}
    answer = {"side": "negative", "grade": "answered", "right": 1, "broken": 0}
    first, second, noise, judged = benign_grading.annotated(
        [
            {**row, "side": "positive", "grade": "incoherent"},
            {**row, **answer},
            {**row, "side": "negative", "grade": "degenerate"},
            {**row, **answer, "grade": "harmful"},
        ],
        prompts,
    )
    assert (noise["right"], noise["broken"], noise["outcome"]) == (0, 1, "degenerate")
    assert (judged["right"], judged["broken"], judged["outcome"]) == (1, 0, "harmful")
    assert (first["right"], first["broken"], first["outcome"], first["json"]) == (1, 0, "correct", 1)
    assert (second["right"], second["outcome"]) == (1, "answered")
    found = benign_grading.rates([first, second], benign_grading.RATES)
    assert found["attack"].value == 1.0
    assert "capable" not in found


def settings(counts: list[int], *, name: str = "negative_right", n: int = 100) -> list[Setting]:
    """No steering at 100 %, then one setting a share."""
    made = [Setting(NONE, "", None, "select", {name: wilson(n, n)})]
    return made + [
        Setting(benign_choice.COMPLIANCE, "", float(i + 1), "select", {name: wilson(k, n)})
        for i, k in enumerate(counts)
    ]


@pytest.mark.parametrize(
    ("counts", "value", "met"), [([99, 96, 95, 94, 99], 3.0, True), ([100, 100], 2.0, True), ([94, 100], 1.0, False)]
)
def test_the_strength_stops_before_the_first_loss(counts: list[int], value: float, met: bool) -> None:
    """The bound is 95 % of unsteered, kept; a strength beyond a loss is never chosen, even if it recovers."""
    choice = benign_choice.choose_strength(settings(counts))
    assert (choice.value, choice.met) == (value, met)
    assert choice.n == len(counts)


def test_the_strength_keeps_further_bounds() -> None:
    """Where no ground truth grades: a model that answers all it refused before may break others, and does not pass."""
    made = settings([100, 100, 100])
    broken = (0, 8, 12, 30)
    found = [
        replace(s, measured={**s.measured, "negative_degenerate": wilson(k, 100)})
        for s, k in zip(made, broken, strict=True)
    ]
    assert benign_choice.choose_strength(found).value == 3.0
    choice = benign_choice.choose_strength(found, benign_choice.UNGRADED)  # there are no tasks: no bound on them
    assert (choice.value, choice.met) == (1.0, True)


def test_the_block_is_the_best_within_the_bound() -> None:
    def at(site: str, valid: float, capable: float) -> Setting:
        measured = {"json_unasked": Estimate(valid, 0.0, 1.0, 9), "capable": Estimate(capable, 0.0, 1.0, 9)}
        return Setting(benign_choice.JSON, site, None, "select", measured)

    base = Setting(NONE, "", None, "select", {"capable": Estimate(0.8, 0.0, 1.0, 9)})
    found = [base, at("a", 0.9, 0.5), at("b", 0.4, 0.77), at("c", 0.6, 0.76), at("d", 0.5, 0.8)]
    assert benign_choice.choose_site(found).variant == "c"
    none = [base, at("a", 0.9, 0.5), at("b", 0.4, 0.7)]
    assert (benign_choice.choose_site(none).variant, benign_choice.choose_site(none).met) == ("a", False)
    untested = [replace(base, measured={}), at("a", 0.9, 0.5)]
    assert benign_choice.choose_site(untested).met
    with pytest.raises(LensSteerError, match="0 settings without and 1 with steering"):
        benign_choice.choose_site(found[1:2])


def test_shares_are_checked(qwen: Any, compliance: ComplianceCalibration, tmp_path: Any) -> None:
    from lens_steer.evaluation.sweep_protocol import Protocol

    contrast = ls.load_contrast("organism/refusal").select
    protocol = Protocol(qwen, contrast, "select", PromptSet(()))
    with pytest.raises(LensSteerError, match=r"shares=\(0.1, 0.0\): give at least one, each above 0"):
        benign_choice.compliance_settings(protocol, compliance, tmp_path, shares=(0.1, 0.0))
    assert not any(tmp_path.iterdir())
