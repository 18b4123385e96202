"""Count of the work that a study of side effects needs, made before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lens_steer.data import Contrast, PromptSet, with_system
from lens_steer.evaluation.bounds import harmless_alone
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweep_work import bounding
from lens_steer.evaluation.work import Work, answering, bare, forcing_answers, forcing_values, measuring, recording
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.models.loading import info_of
from lens_steer.studies.externalities.choice import COMPLIANCE, JSON, SHARES
from lens_steer.studies.externalities.conditions import (
    FAMILIES,
    KINDS,
    KS,
    RANDOM,
    RANDOM_DRAWS,
    RELEASED,
    ROTATION,
    WHOLE_DRAWS,
)
from lens_steer.studies.externalities.controls import ANGLES
from lens_steer.studies.externalities.material import Material
from lens_steer.studies.externalities.positive_control import STRENGTHS, answers_alone

STEERINGS = (COMPLIANCE, JSON)


def steering_benignly(
    model: Any,
    material: Material,
    *,
    max_new_tokens: int = 48,
    shares: Sequence[float] = SHARES,
    json_sites: Sequence[str] | None = None,
    n_random: int = RANDOM_DRAWS,
    ks: Sequence[int] = KS,
) -> Work:
    """Count the work of :func:`lens_steer.studies.externalities.study.study`, without that of a judge.

    It consists of the recordings, both choices on the select split, the divergence of rotations, all conditions on the
    report split, the divergence by token, and the measurements across depth. The search for a rotation of equal
    divergence between two angles is left out, since its number of steps is not known beforehand; every control counts,
    although some may turn out not to be possible.

    Args:
        model: The loaded model, or its description.
        material, max_new_tokens, shares, json_sites, n_random, ks: The arguments of the study.

    >>> from lens_steer.cli.precheck import describe
    >>> from lens_steer.studies.externalities.material import organism_material
    >>> model, material = describe("organism/qwen2"), organism_material()
    >>> one, two = (steering_benignly(model, material, n_random=n, max_new_tokens=8) for n in (1, 2))
    >>> sides = [material.tasks.report]
    >>> for part in (material.refusal.report, material.json.report):
    ...     sides += [part.positive, part.negative]
    >>> two.answers - one.answers == 2 * sum(map(len, sides))  # one draw more of each steering
    True
    """
    n_layers = info_of(model).n_layers
    n_json = n_layers if json_sites is None else len(json_sites)
    total = _recorded(model, material, n_layers) + _chosen(model, material, max_new_tokens, len(shares), n_json)
    total += _reported(model, material, max_new_tokens, n_random, len(ks))
    return total + _diverging(model, material, max_new_tokens, n_random)


def conditions_run(n_random: int) -> dict[str, int]:
    """Return how many conditions of each kind there are for both steerings together, with so many random directions.

    >>> sum(conditions_run(3).values())
    19
    """
    one_each = {kind: len(STEERINGS) for kind in KINDS}
    # JSON reads and writes one block's output; only STEER-COMPLIANCE has a variant of the released code
    return one_each | {RANDOM: len(STEERINGS) * n_random, RELEASED: 1}


def _recorded(model: Any, material: Material, n_layers: int) -> Work:
    """Count the recordings of fit prompts, and those of report prompts without and with steering."""
    compliance = recording(model, material.compliance.fit, n_layers, responses=True)
    json = recording(model, material.json.fit, n_layers)
    report = material.refusal.report
    steered = recording(model, Contrast(report.positive, PromptSet(())), n_layers)
    total = compliance * 3 + json * 2  # for the directions and for the angles; lengths of tokens are read once more
    total += recording(model, material.refusal.fit, n_layers) + recording(model, report, n_layers)
    total += steered * (1 + len(STEERINGS))
    # the recordings for the directions are not kept
    return replace(total, recorded=total.recorded - 2 * compliance.recorded - json.recorded)


def _chosen(model: Any, material: Material, max_new_tokens: int, n_strengths: int, n_sites: int) -> Work:
    """Count the choice of a strength and of a site, and the divergence of rotations on harmless prompts."""
    refusal = Protocol(model, material.refusal.select, "select", material.tasks.select, max_new_tokens=max_new_tokens)
    strengths = [Grid(NONE), Grid(COMPLIANCE, None, tuple(map(float, range(n_strengths))))]
    sites = [Grid(NONE), *(Grid(JSON, variant=str(i)) for i in range(n_sites))]
    total = bounding(refusal) + measuring(refusal, strengths)
    total += measuring(replace(refusal, contrast=material.json.select), sites)
    if harmless_alone(refusal) is None:
        total += measuring(replace(refusal, tasks=NO_TASKS), sites)  # the harm of every site: nothing is chosen by it
    n_control = 1 + info_of(model).n_layers + len(STRENGTHS)  # no steering, every block, and more strengths at one
    total += measuring(answers_alone(refusal), [Grid(str(i)) for i in range(n_control)])
    harmless = bare(material.refusal.select.negative)
    each = forcing_values(model, harmless, max_new_tokens, 1) + forcing_values(
        model, harmless, max_new_tokens, len(ANGLES)
    )
    return total + answering(model, harmless, max_new_tokens) + each * len(STEERINGS)


def _reported(model: Any, material: Material, max_new_tokens: int, n_random: int, n_ks: int) -> Work:
    """Count every condition on the report split, and the steerings at fewer tokens on its harmful prompts."""
    report = Protocol(model, material.refusal.report, "report", material.tasks.report, max_new_tokens=max_new_tokens)
    whole = sum(conditions_run(min(n_random, WHOLE_DRAWS)).values())
    conditions = [Grid(str(i)) for i in range(2 + whole)]  # and none, and the control
    n_few = (1 + len(STEERINGS)) * len(FAMILIES) * n_ks + len(STEERINGS) * max(0, n_random - WHOLE_DRAWS)
    fewer = [Grid(str(i)) for i in range(n_few)]
    harmful = Contrast(material.refusal.report.positive, PromptSet(()))
    total = measuring(report, conditions) + measuring(replace(report, contrast=harmful, tasks=NO_TASKS), fewer)
    return total + measuring(replace(report, contrast=material.json.report, tasks=NO_TASKS), conditions)


def _diverging(model: Any, material: Material, max_new_tokens: int, n_random: int) -> Work:
    """Count the fixed answers, where the model gives them itself, and the divergence on them by token."""
    total, runs = Work(), conditions_run(min(n_random, WHOLE_DRAWS))
    n_plans = 1 + len(STEERINGS) + runs[RANDOM] + runs[ROTATION]
    benign, harmful = material.benign_responses, material.harmful_responses
    if benign is None:
        total += answering(model, list(material.refusal.report.negative), max_new_tokens)
        benign = bare(material.refusal.report.negative)
    if harmful is None and material.unrestricted is not None:
        asked = [with_system(p, material.unrestricted) for p in material.refusal.report.positive]
        total += answering(model, asked, max_new_tokens)
        harmful = bare(material.refusal.report.positive)
    for prompts in (benign, harmful or []):
        total += forcing_answers(model, list(prompts), max_new_tokens) * (2 * n_plans)  # unsteered and steered
    return total
