"""Count of the work that the propositions on a model need, made before the model runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.evaluation.bounds import harmless_alone
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweeps import POSITIVE, Protocol
from lens_steer.evaluation.work import Work, measuring, recording
from lens_steer.metrics.benchmarks import organism_tasks
from lens_steer.models.loading import info_of
from lens_steer.studies.propositions.dose import SCALES
from lens_steer.studies.propositions.experiments import ANGLES, COLLAPSE, N_CONDITIONS, READ


def verifying(model: Any, contrast: ContrastSet, max_new_tokens: int, *, behaviour: bool = True) -> Work:
    """Count the work of :func:`lens_steer.studies.propositions.verify.verify_model`.

    The count covers the recordings and, for every condition of the experiments, all its angles on the select split and
    two of them on the report split, and every norm error there. Two angles of a condition may be the same and then run
    once, so it is an upper bound. Without ``behaviour`` it covers the recordings alone.
    """
    n_layers, report = info_of(model).n_layers, contrast.report
    harmful = Contrast(report.positive, PromptSet(()))
    total = recording(model, contrast.fit, 2 * n_layers) + recording(model, report, 2 * n_layers)
    total += recording(model, harmful, 2 * n_layers + 1) * 3
    if not behaviour:
        return total
    tasks = organism_tasks() if all(p.task is not None for p in report.positive) else PromptSet(())
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "read_by": READ}
    select = Protocol(model, contrast.select, "select", PromptSet(()), **how)
    alone = harmless_alone(select)
    if alone is not None:
        total += measuring(alone, [Grid(NONE)])
    swept = [Grid(NONE), *(Grid(f"condition {i}", None, ANGLES) for i in range(N_CONDITIONS - 1)), Grid(COLLAPSE)]
    total += measuring(replace(select, asked=(POSITIVE,), read_by=() if alone is None else READ), swept)
    n_reported = 1 + 2 * (N_CONDITIONS - 1) + 1 + len(SCALES)
    return total + measuring(
        Protocol(model, report, "report", tasks, **how), [Grid(f"setting {i}") for i in range(n_reported)]
    )
