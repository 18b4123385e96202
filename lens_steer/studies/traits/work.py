"""Count of the work that a trait study needs, made before the model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lens_steer.data import Contrast, PromptSet
from lens_steer.evaluation.conditions import NONE, TOWARDS_POSITIVE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.work import Work, answering, bare, conversing, measuring, recording
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.metrics.grading import graded
from lens_steer.models.loading import info_of
from lens_steer.models.sites import resolve
from lens_steer.studies.traits.calibration import Trait
from lens_steer.studies.traits.conditions import GATED, MALICIOUS_SIDE, METHODS, POSITIONS, by_side, conditions_of
from lens_steer.studies.traits.dialogues import scripts
from lens_steer.studies.traits.search import RANDOM_DRAWS, aligned_reference


def recovering(
    model: Any,
    trait: Trait,
    *,
    sites: str | Sequence[str] = "resid_post",
    max_new_tokens: int = 48,
    n_dialogues: int = 0,
    values: Mapping[str, Sequence[float]] | None = None,
    n_random: int = RANDOM_DRAWS,
    seed: int = 0,
) -> Work:
    """Count the work of :func:`lens_steer.studies.traits.report.steer_trait`, without that of a judge.

    It consists of the model's own answers to the fit split and what is recorded of them, the search with probes of
    averaged answers, the search with probes of single tokens, the tokens at which the gates fire, and the dialogues.
    The count is an upper bound: it assumes that the choices of the gated methods all lie at different sites, and that
    every method recovers enough to be measured at equal trait.

    Args:
        model: The loaded model, or its description.
        trait, sites, max_new_tokens, n_dialogues, values, n_random, seed: The arguments of the study.

    Raises:
        LensSteerError: If the model does not have a site, or for the reasons of
            :func:`lens_steer.studies.traits.dialogues.scripts`.

    >>> from lens_steer.cli.precheck import describe
    >>> from lens_steer.studies.traits.calibration import organism_trait
    >>> one, two = (
    ...     recovering(describe("organism/qwen2"), organism_trait("honesty"), sites=names)
    ...     for names in ("blocks.4.hook_resid_post", ["blocks.4.hook_resid_post", "blocks.5.hook_resid_post"])
    ... )
    >>> one.answers < two.answers < 2 * one.answers
    True
    """
    info = info_of(model)
    fit, report = (_bare(part) for part in (trait.contrast.fit, trait.contrast.report))
    names = resolve(sites, info.layout)
    gated = names[: len(GATED) * len(POSITIONS)]
    recorded = recording(model, fit, len(names), responses=True, new_tokens=max_new_tokens)
    vectors = len(gated) * max_new_tokens  # one for each token of an answer and site
    tokens = [recording(model, part, vectors, responses=True, new_tokens=max_new_tokens) for part in (fit, report)]
    total = recorded + tokens[0] + tokens[1] * 2  # the gates of both kinds of probes are read on the report split
    for side in (fit.positive, fit.negative):
        total += answering(model, list(side), max_new_tokens)
    total += _searching(model, trait, names, METHODS, max_new_tokens, values, n_random=n_random)
    total += _searching(model, trait, gated, GATED, max_new_tokens, values, n_random=0)
    if n_dialogues:
        made = scripts(model, report.positive, report.negative, n_dialogues, max_new_tokens=max_new_tokens, seed=seed)
        steered = conversing(model, [s.malicious for s in made], max_new_tokens)
        total += conversing(model, [s.aligned for s in made], max_new_tokens) + steered * (1 + len(conditions_of()))
    # of the single tokens' vectors, those of one part are kept at a time
    return replace(total, recorded=recorded.recorded + max(t.recorded for t in tokens))


def _bare(part: Contrast) -> Contrast:
    return Contrast(*(PromptSet(tuple(bare(side)), side.name) for side in (part.positive, part.negative)))


def _searching(
    model: Any,
    trait: Trait,
    names: Sequence[str],
    methods: Sequence[str],
    max_new_tokens: int,
    values: Mapping[str, Sequence[float]] | None,
    *,
    n_random: int,
) -> Work:
    """Count the work of :func:`lens_steer.studies.traits.search.search` with a probe at each of these sites; without
    random directions, there are no controls.
    """
    steered, chosen, conditions = by_side(trait.contrast), values or TOWARDS_POSITIVE, conditions_of(methods)
    select, report = (
        Protocol(
            model,
            getattr(steered, split),
            split,
            tasks,
            max_new_tokens=max_new_tokens,
            reference=aligned_reference(getattr(trait.contrast, split)),
        )
        for split, tasks in (("select", NO_TASKS), ("report", trait.tasks.report))
    )
    tried = [Grid(c.name, None, tuple(chosen[c.method]), site) for c in conditions for site in names]
    # a choice runs once more along a random direction, and once at equal trait
    reported = [Grid(f"{c.name} {i}") for c in conditions for i in range(3 if n_random else 1)]
    further = [Grid(f"{m} {i}") for m in methods for i in range(2, n_random + 1)]
    plain = {} if graded([*steered.select.positive, *steered.select.negative]) else select.reference
    baseline = measuring(replace(select, reference=plain), [Grid(NONE)])  # from which the bounds on coherence come
    total = baseline + measuring(select, [Grid(NONE), *tried]) + measuring(report, [Grid(NONE), *reported])
    return total + measuring(replace(report, asked=(MALICIOUS_SIDE,)), further)
