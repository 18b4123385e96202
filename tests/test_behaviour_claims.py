"""Claims about behaviour: paired differences of conditions, ties at nothing, and the dose-response of a norm error."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import propositions
from lens_steer.data import Contrast, ContrastSet, PromptSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.grids import plan_hash
from lens_steer.figures import saving
from lens_steer.metrics.benchmarks import organism_tasks
from lens_steer.steer.methods import selective_steering
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions import dose, experiments, questions
from lens_steer.studies.propositions.bands import BAND_QUESTIONS
from lens_steer.studies.propositions.drawings import behaviour_drawings
from lens_steer.studies.propositions.formula import SAS, SS
from lens_steer.studies.propositions.measured import Measured
from lens_steer.studies.propositions.verify import Verification, verify_model, write
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED, TIED


def verdicts(claims: list[Claim]) -> dict[str, str]:
    return {c.id: c.verdict for c in claims}


@pytest.fixture(scope="module")
def on_qwen(qwen: Any, refusal: Any) -> Verification:
    """What needs a model, on a cut contrast: the fit split whole, few prompts and tasks to answer, few angles to choose
    among.
    """
    cut = [refusal.fit] + [
        Contrast(c.positive[:n], c.negative[:n]) for c, n in ((refusal.select, 4), (refusal.report, 8))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "ANGLES", (120.0, 150.0, 210.0, 240.0))
        few = ContrastSet(refusal.name, Split(*cut))
        tasks = organism_tasks(12)
        return verify_model(qwen, few, engine="hf", max_new_tokens=24, draws=3, tasks=tasks, progress=False)


def test_on_a_model(on_qwen: Verification, tmp_path: Path) -> None:
    """Recorded norms are kept by the rotations and not by the others; later norms have their intervals; the figures
    come back from their data.
    """
    got = verdicts(list(on_qwen.claims))
    assert {got[f"norm-recorded-{op}"] for op in (SAS, SS, "AAS")} == {HOLDS}
    assert {got[f"norm-recorded-{op}"] for op in ("ActAdd", "directional ablation")} == {REFUTED}
    assert got[f"classes-apart-{SS}-recorded"] == HOLDS
    assert {"norms-grow-organism/qwen2", "norms-uneven-organism/qwen2"} <= set(got)
    drift = on_qwen.drawings["norm_drift"]
    assert set(drift.columns["operator"]) == {SAS, SS}
    assert all(
        low <= mean <= high
        for low, mean, high in zip(*(drift.columns[k] for k in ("low", "mean", "high")), strict=True)
    )
    write(on_qwen, tmp_path)
    names = {"norm_drift", "paired_differences", "two_by_two", "conditions", "in_plane", "pairwise_distances"}
    assert set(saving.redraw(tmp_path)) == names | {"norm_dose", "control_draws"}
    assert (verify_model.__doc__ or "").startswith("Test the claims that need a model")


def test_experiments_ask_every_question_twice(on_qwen: Verification) -> None:
    """At own best angles and at one; a reversed b2 is the same turn the other way round; X2 knows no angle; where
    nothing was chosen, nothing is measured and the question is not shown.
    """
    behaviour = [c for c in on_qwen.claims if c.level == "behaviour"]
    n_dose, n_bands = len(dose.OUTCOMES) * (len(dose.SCALES) + 1), len(questions.OUTCOMES) * len(BAND_QUESTIONS)
    assert len(behaviour) == 2 * len(questions.OUTCOMES) * len(questions.QUESTIONS) + 1 + n_dose + n_bands
    got, conditions = {c.id: c for c in behaviour}, on_qwen.drawings["conditions"].rows()
    tied = {r["condition"] for r in conditions if r["tied"]}
    assert "SS, L_disc" not in tied
    assert "SS, answer alone" in tied
    for key, first, second, _, _ in questions.QUESTIONS:
        own = got[questions.claim_id(key, "positive_right", at_nominal=False)]
        assert (own.verdict == TIED) == bool({first, second} & tied), key
        for claim in (own, got[questions.claim_id(key, "surprise", at_nominal=True)]):
            assert (claim.interval is None) == (claim.verdict == TIED)
            assert claim.interval is None or claim.interval[0] <= float(claim.value or 0) <= claim.interval[1]
    assert got["sign-of-b2"].value == 0
    assert conditions[0]["condition"] == "no steering"
    assert all(r["angle"] is r["positive_right"] is None for r in conditions if r["tied"])
    collapse = [r for r in conditions if r["condition"] == "X2 (collapse)"]
    assert collapse[0]["positive_right"] == collapse[1]["positive_right"]


def test_the_largest_norm_errors_are_seen(on_qwen: Verification) -> None:
    """Twice as long or half as long does something; the figure has a point for every error and outcome."""
    got = {c.id: c for c in on_qwen.claims}
    assert HOLDS in {got[dose.claim_id(o.name, s)].verdict for o in dose.OUTCOMES for s in dose.CONTROLS}
    drawing = on_qwen.drawings["norm_dose"]
    assert len(drawing.rows()) == len(dose.OUTCOMES) * len(dose.SCALES)
    assert got["norm-dose-capable-0.5"].value in drawing.columns["mean"]


def measured(hits: Any, **more: Any) -> Measured:
    """A made-up measurement: the same hits in every outcome."""
    both = np.concatenate([hits, hits])
    values = {"positive_right": hits, "negative_right": hits, "broken": both, "capable": hits}
    said = {"surprise": np.where(both, 1.5, np.nan)}
    return Measured(**{"condition": "a", "angle": 30.0, **values, **said, **more})


def test_a_difference_is_paired() -> None:
    """The same prompts in both: conditions that fail on the same ones differ by nothing, which is not certain."""
    one = measured(np.array([True, False] * 10))
    same = questions.difference(one, replace(one, condition="b"))
    assert same is not None
    assert (same.value, same.low < 0, same.high > 0, same.n) == (0.0, True, True, 20)
    other = replace(one, positive_right=np.zeros(20, dtype=bool))
    found, wider = (questions.difference(one, other, comparisons=n) for n in (1, 50))
    assert found is not None and wider is not None
    assert (found.value, found.low > 0, found.high < 1, found.n) == (0.5, True, True, 20)
    assert wider.low < found.low < found.high < wider.high
    # an empty answer has no perplexity: its prompt is left out, and where none is left there is no value
    less = questions.difference(one, replace(one, surprise=one.surprise - 1), "surprise")
    assert less is not None
    assert (less.value, less.n) == (1.0, 20)
    assert questions.difference(one, replace(one, surprise=np.full(40, np.nan)), "surprise") is None


def test_nothing_is_compared_at_a_tie_at_nothing() -> None:
    """Neither at the tied condition's own angle, nor at a nominal angle that would come from a tie."""
    hits, no = np.array([True] * 10), np.array([], dtype=bool)
    base = measured(hits, condition=experiments.BASE)
    nothing = measured(no, condition="SAS, L_disc", angle=None, tied=True)
    there = experiments.Experiments((base, nothing, replace(base, at_nominal=True)), {})
    claims = {c.id: c for c in questions.experiment_claims(there, "m")}
    for id_ in ("relative-angle", "nominal-relative-angle", "capable-relative-angle", "norm-keeping-differ"):
        assert (claims[id_].verdict, claims[id_].value, claims[id_].interval) == (TIED, None, None), id_
    assert "SAS, L_disc without an angle (a tie at nothing on select)" in claims["relative-angle"].domain
    assert {c.verdict for c in dose.dose_claims({}, "m")} == {TIED}
    assert "norm_dose" not in behaviour_drawings(there, list(claims.values()), "m")
    assert nothing.row()["positive_right"] is None


def test_norm_keeping_conditions_differ_or_are_not_shown_to() -> None:
    """A planted difference is found, and none where all do alike."""
    hits = np.array([True] * 30)
    four = [measured(hits, condition=name) for name in questions.NORM_KEEPING]
    alike = questions.norm_keeping_differ(experiments.Experiments(tuple(four), {}), "m")
    assert (alike.verdict, alike.value, alike.id) == (NOT_SHOWN, 0.0, "norm-keeping-differ")
    four[3] = measured(~hits, condition=four[3].condition)
    apart = questions.norm_keeping_differ(experiments.Experiments(tuple(four), {}), "m")
    assert (apart.verdict, abs(float(apart.value or 0))) == (HOLDS, 1.0)
    assert "norm" not in apart.statement.replace("keep every norm", "")


def doses(of: Any) -> dict[float, Measured]:
    """A made-up dose–response of 64 prompts: at each factor as many hits as ``of`` says."""
    return {s: measured(np.arange(64) < of(s), angle=150.0) for s in sorted((*dose.SCALES, 1.0))}


def test_a_planted_effect_of_the_norm_is_found() -> None:
    """An outcome that is lost beyond an error of 0.05: the errors beyond change it, those up to it are excluded."""
    claims = {c.id: c for c in dose.dose_claims(doses(lambda s: 64 if abs(s - 1) < 0.051 else 10), "m")}
    for scale in dose.SCALES:
        claim = claims[dose.claim_id("positive_right", scale)]
        lost = dose.size(scale) > 0.05
        assert claim.verdict == (HOLDS if lost else "EXCLUDED BEYOND 0.1"), scale
        assert claim.value == ((10 - 64) / 64 if lost else 0.0)
        assert claim.witness["prompts_that_differ"] == (54 if lost else 0)
    largest = claims[dose.claim_id("positive_right")]
    assert (largest.value, largest.verdict) == (0.05, HOLDS)
    early = {c.id: c for c in dose.dose_claims(doses(lambda s: 64 if s == 1 else 10), "m", tasks=False)}
    assert (early["norm-dose-positive_right"].value, early["norm-dose-positive_right"].verdict) == (0.0, REFUTED)
    assert not any("capable" in id_ for id_ in early)


def test_without_an_effect_of_the_largest_errors_nothing_is_excluded() -> None:
    """A planted null: the assay could not have seen an effect, and says so."""
    claims = dose.dose_claims(doses(lambda s: 64), "m")
    assert {c.verdict for c in claims} == {INSENSITIVE}
    assert all(c.value is None for c in claims if c.id in {dose.claim_id(o.name) for o in dose.OUTCOMES})
    few = {c.id: c.verdict for c in dose.dose_claims(doses(lambda s: 64 - 3 * (abs(s - 1) < 0.3)), "m")}
    assert few[dose.claim_id("positive_right", 2.0)] == NOT_SHOWN  # 3 of 64 more, too few to be sure of


def test_the_page_tells_ties_and_norm_errors() -> None:
    """In words where nothing was compared, and with what the assay could see."""
    hits = np.array([True] * 20)
    base, tie = measured(hits, condition=experiments.BASE), np.array([], dtype=bool)
    nothing = measured(tie, condition="SAS, L_disc", angle=None, tied=True)
    claims = questions.experiment_claims(experiments.Experiments((base, nothing), {}), "m")
    found = claims + dose.dose_claims(doses(lambda s: 64 if abs(s - 1) < 0.051 else 10), "m")
    lines = {
        line.split(" | ")[0][2:]: line.split(" | ")[-1][:-2]
        for line in propositions.behaviour({"m": found}).splitlines()
    }
    said = {c.id: lines[c.statement] for c in found if c.statement in lines}
    assert said["relative-angle"] == "not shown (a tie at nothing on select)"
    assert said["norm-dose-positive_right-0.5"].startswith("**-84 [")
    assert said["norm-dose-positive_right-1.004"] == "0 [-6, 6], excluded beyond 0.1"
    assert said["norm-dose-positive_right"] == "0.05"  # 64 prompts exclude ten points at 95 %, not at the joint level
    null = propositions.behaviour({"m": claims + dose.dose_claims(doses(lambda s: 64), "m")})
    assert "0 [-6, 6], assay insensitive" in null and "| norm error | assay insensitive |" in null


def test_a_scaled_plan_is_ss_with_a_norm_error(calibration: Any) -> None:
    """At every site of SS, each activation s times as long; at s = 1 it is SS to the bit, and no other factor is."""
    plan, turned = dose.scaled(calibration, [70.0, 90.0], scale=0.8), selective_steering(calibration, [70.0, 90.0])
    assert (plan.sites, plan.n_rows) == (turned.sites, 2)
    h = torch.randn(2, 3, calibration.d_model)
    out = plan.operator(None, h)(h)
    assert torch.allclose(out.norm(dim=-1), 0.8 * h.norm(dim=-1), rtol=1e-5)
    assert torch.equal(
        dose.scaled(calibration, [70.0, 90.0], scale=1.0).operator(None, h)(h), turned.operator(None, h)(h)
    )
    grids = dose.dose_grids(calibration, 150.0)
    assert (list(grids), len({plan_hash(g) for g in grids.values()})) == (list(dose.SCALES), len(dose.SCALES))
    with pytest.raises(LensSteerError, match="scale=0.0 is not a finite number above zero"):
        dose.scaled(calibration, 70.0, scale=0.0).operator()
    with pytest.raises(LensSteerError, match="angle=nan is not a finite number"):
        dose.scaled(calibration, math.nan, scale=1.0)


def test_the_mean_phase_is_put_in(calibration: Any) -> None:
    """SAS with the class's mean phase sends the class mean where SS sends it."""
    plan, turned = experiments.with_mean_phase(calibration, 70.0), selective_steering(calibration, 70.0)
    assert experiments.with_mean_phase(calibration, [70.0, 90.0]).n_rows == 2
    for name in plan.sites[::4]:
        mean = calibration.mean_positive[calibration.sites.index(name)].double()
        assert torch.allclose(plan.operator(name, mean)(mean), turned.operator(name, mean)(mean), atol=1e-5)


def test_a_contrast_without_select_prompts(qwen: Any, refusal: Any) -> None:
    """Is refused before anything is recorded."""
    nobody = Contrast(PromptSet(()), PromptSet(()))
    for split, name in (
        (Split(refusal.fit, nobody, refusal.report), "select"),
        (Split(refusal.fit, refusal.select, nobody), "report"),
    ):
        with pytest.raises(LensSteerError, match=f"has no {name} prompts"):
            verify_model(qwen, ContrastSet("x", split))
