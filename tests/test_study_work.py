"""The work of the studies of traits and of side effects, counted beforehand, against what runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lens_steer.cli.precheck import describe
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.work import answering, bare, conversing, recording
from lens_steer.inference.dialogue import Dialogue, converse
from lens_steer.metrics.benchmarks import Tasks, organism_tasks
from lens_steer.studies.externalities.conditions import KINDS
from lens_steer.studies.externalities.material import Material, organism_material
from lens_steer.studies.externalities.study import study
from lens_steer.studies.externalities.work import conditions_run, steering_benignly
from lens_steer.studies.traits.calibration import Trait, organism_trait
from lens_steer.studies.traits.conditions import METHODS, conditions_of
from lens_steer.studies.traits.report import steer_trait
from lens_steer.studies.traits.work import recovering
from tests.test_cost import NEW, counted, endless  # noqa: F401

SITES = ["blocks.4.hook_resid_post", "blocks.6.hook_resid_post"]
VALUES = {"swfc": (1.0, 4.0), "sttp": (0.0, 36.0), "stmp": (3.0, 5.0)}


def cut(contrast: ContrastSet, fit: int, n: int) -> ContrastSet:
    """The same contrast with fewer prompts."""
    sizes = {"fit": fit, "select": n, "report": n}
    parts = [Contrast(getattr(contrast, s).positive[:k], getattr(contrast, s).negative[:k]) for s, k in sizes.items()]
    return ContrastSet(contrast.name, Split(*parts))


@pytest.fixture
def trait() -> Trait:
    """Honesty with few prompts."""
    whole = organism_trait("honesty")
    return replace(whole, contrast=cut(whole.contrast, 16, 5), tasks=Tasks(PromptSet(()), organism_tasks(3)))


@pytest.fixture
def material() -> Material:
    """Few prompts of everything."""
    whole = organism_material(n_tasks=8)
    return replace(
        whole,
        compliance=cut(whole.compliance, 16, 0),
        json=cut(whole.json, 40, 3),
        refusal=cut(whole.refusal, 40, 3),
        tasks=Tasks(whole.tasks.select[:2], whole.tasks.report[:4]),
    )


def test_dialogues_are_counted_exactly(endless: Any) -> None:  # noqa: F811
    """Every turn reads all before it; a dialogue that is over reads nothing."""
    dialogues = [Dialogue(("Hello", "What is 4 plus 3?", "Thanks")), Dialogue(("Hello there", "Bye"), "Be brief.")] * 2
    work = conversing(endless, dialogues, NEW)
    with counted(endless) as seen:
        converse(endless, dialogues, max_new_tokens=NEW)
    assert (seen["wide"], seen["wide tokens"]) == (work.prefills, work.prompt_tokens)
    assert (seen["steps"], seen["steps tokens"]) == (work.steps, work.stepped)
    assert (work.answers, work.new_tokens) == (10, 10 * NEW)
    assert conversing(endless, [Dialogue(("Hello",))], NEW) == answering(endless, [Prompt.of("Hello")], NEW)


def test_responses_to_come_are_counted(endless: Any, trait: Trait) -> None:  # noqa: F811
    """As long as they can be, where there are none yet."""
    fit = trait.contrast.fit
    without = Contrast(*(PromptSet(tuple(bare(side))) for side in (fit.positive, fit.negative)))
    longer = recording(endless, without, 1, responses=True, new_tokens=NEW)
    assert longer.prompt_tokens == recording(endless, fit, 1).prompt_tokens + 32 * NEW
    assert recording(endless, fit, 1, responses=True, new_tokens=NEW) == recording(endless, fit, 1, responses=True)


def test_a_trait_study_is_counted(endless: Any, trait: Trait, tmp_path: Path) -> None:  # noqa: F811
    """No less than what runs, and no more than the conditions at equal trait and the sites that the choices share."""
    options: dict[str, Any] = {"sites": SITES, "max_new_tokens": NEW, "n_dialogues": 2, "values": VALUES}
    work = recovering(endless, trait, **options)
    with counted(endless) as seen:
        report = steer_trait(endless, trait, tmp_path, progress=False, **options)
    sites = len({c.variant for c in report.token.choices.values()})
    assert seen["steps tokens"] <= work.stepped
    asked, gated = 13, len(conditions_of(("sttp", "stmp")))  # 5 prompts a side and 3 tasks on report
    unequal = len(conditions_of(METHODS)) - len(report.pooled.equal)
    missing = (unequal * asked + (2 - sites) * gated * 2 * 10) * (NEW - 1)
    assert seen["steps tokens"] == work.stepped - missing
    assert 0.4 * (work.prefills + work.forced) <= seen["wide"] <= work.prefills + work.forced
    assert seen["wide tokens"] <= 1.05 * (work.prompt_tokens + work.forced_tokens)
    held = report.calibrated.activations
    assert work.recorded >= held.positive.numel() + held.negative.numel()
    assert recovering(describe("organism/qwen2"), trait, **options) == work


def test_a_trait_study_that_cannot_be_counted(endless: Any, trait: Trait) -> None:  # noqa: F811
    """The reasons are those of the study, and come before it."""
    with pytest.raises(LensSteerError, match="does not exist in this model"):
        recovering(endless, trait, sites="blocks.99.hook_resid_post")
    with pytest.raises(LensSteerError, match="lower max_new_tokens=400"):
        recovering(endless, trait, max_new_tokens=400, n_dialogues=1)


@pytest.mark.parametrize("unrestricted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_study_of_side_effects_is_counted(
    endless: Any,  # noqa: F811
    material: Material,
    tmp_path: Path,
    unrestricted: bool,
) -> None:
    """Its answers to the token, but for controls that turn out not to be possible; its passes over answers at most,
    but for the search for equal divergence.
    """
    if not unrestricted:
        material = replace(material, unrestricted=None)
    options: dict[str, Any] = {
        "shares": (0.05, 0.6),
        "json_sites": SITES,
        "n_random": 1,
        "ks": (1, 4),
        "max_new_tokens": NEW,
    }
    work = steering_benignly(endless, material, **options)
    with counted(endless) as seen:
        found = study(endless, material, tmp_path, progress=False, **options)
    idle = sum(not c.runs for c in found.conditions)
    assert seen["steps tokens"] == work.stepped - idle * (6 + 4 + 6) * (NEW - 1)
    wide = work.prefills + work.forced
    assert 0.4 * wide <= seen["wide"] <= wide + 2 * 8 * 3
    assert steering_benignly(describe("organism/qwen2"), material, **options) == work
    kept = found.calibrations.activations.values()
    assert work.recorded >= sum(a.positive.numel() + a.negative.numel() for a in kept)
    listed = [c.kind for c in found.conditions if c.steering is not None]
    assert {kind: listed.count(kind) for kind in KINDS} == conditions_run(1)
