"""Count of the work that the propositions on a model need, made before the model runs."""

from __future__ import annotations

from typing import Any

from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.evaluation.work import Work, answering, bare, forcing_answers, recording
from lens_steer.metrics.benchmarks import organism_tasks
from lens_steer.models.loading import info_of
from lens_steer.studies.propositions.experiments import ANGLES, N_CONDITIONS


def verifying(model: Any, contrast: ContrastSet, max_new_tokens: int, *, behaviour: bool = True) -> Work:
    """Count the work of :func:`lens_steer.studies.propositions.verify.verify_model`.

    The count covers the recordings and, for every condition of the experiments, all its angles on the select split and
    two of them on the report split. Without ``behaviour`` it covers the recordings alone.
    """
    n_layers, report = info_of(model).n_layers, contrast.report
    harmful = Contrast(report.positive, PromptSet(()))
    total = recording(model, contrast.fit, 2 * n_layers) + recording(model, report, 2 * n_layers)
    total += recording(model, harmful, 2 * n_layers + 1) * 3
    if not behaviour:
        return total
    both = bare((*report.positive, *report.negative))
    tasks = organism_tasks() if all(p.task is not None for p in report.positive) else PromptSet(())
    measured = answering(model, both, max_new_tokens) + forcing_answers(model, both, max_new_tokens)
    measured += answering(model, list(tasks), max_new_tokens)
    total += measured * (1 + 2 * N_CONDITIONS)
    return total + answering(model, list(contrast.select.positive), max_new_tokens) * (N_CONDITIONS * len(ANGLES))
