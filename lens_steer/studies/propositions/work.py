"""Count of the work that the propositions on a model need, made before the model runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.evaluation.bounds import harmless_alone
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import POSITIVE, Protocol
from lens_steer.evaluation.work import Work, answering, forcing_values, measuring, recording
from lens_steer.metrics.benchmarks import tasks_or_own
from lens_steer.models.loading import info_of
from lens_steer.studies.propositions.dose import SCALES
from lens_steer.studies.propositions.draws import DRAWN, DRAWS
from lens_steer.studies.propositions.drift import ANGLES as DRIFT_ANGLES
from lens_steer.studies.propositions.drift import CONDITIONS, STEPS
from lens_steer.studies.propositions.experiments import ANGLES, COLLAPSE, N_CONDITIONS, READ

CROSSINGS = 2  # angles at which a curve of divergence over the circle has one value, where it has one peak


def verifying(
    model: Any,
    contrast: ContrastSet,
    max_new_tokens: int,
    *,
    behaviour: bool = True,
    downstream: bool = True,
    draws: int = DRAWS,
    tasks: PromptSet | None = None,
) -> Work:
    """Count the work of :func:`lens_steer.studies.propositions.verify.verify_model`.

    The count covers the recordings and, for every condition of the experiments, all its angles on the select split and
    two of them on the report split, and every norm error and every draw of a random control there. Two angles of a
    condition may be the same and then run once, so it is an upper bound. ``downstream`` adds the curves of divergence
    and the search for equal divergence, in as many steps as it may take, at two angles a curve. Without ``behaviour``
    and ``downstream`` it covers the recordings alone. ``tasks`` are those of ``verify_model``.
    """
    n_layers, report = info_of(model).n_layers, contrast.report
    harmful = Contrast(report.positive, PromptSet(()))
    total = recording(model, contrast.fit, 2 * n_layers) + recording(model, report, 2 * n_layers)
    total += recording(model, harmful, 2 * n_layers + 1) * 3
    if downstream:
        total += _drifting(model, contrast, max_new_tokens)
    if not behaviour:
        return total
    tasks = tasks_or_own(tasks, report.positive)
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "read_by": READ}
    select = Protocol(model, contrast.select, "select", PromptSet(()), **how)
    alone = harmless_alone(select)
    if alone is not None:
        total += measuring(alone, [Grid(NONE)])
    swept = [Grid(NONE), *(Grid(f"condition {i}", None, ANGLES) for i in range(N_CONDITIONS - 1)), Grid(COLLAPSE)]
    total += measuring(replace(select, asked=(POSITIVE,), read_by=() if alone is None else READ), swept)
    n_reported = 1 + 2 * (N_CONDITIONS - 1) + 1 + len(SCALES) + draws * len(DRAWN)
    return total + measuring(
        Protocol(model, report, "report", tasks, **how), [Grid(f"setting {i}") for i in range(n_reported)]
    )


def _drifting(model: Any, contrast: ContrastSet, max_new_tokens: int) -> Work:
    """Count the work of :func:`lens_steer.studies.propositions.drift.at_equal_divergence`."""
    n_layers, harmless = info_of(model).n_layers, list(contrast.select.negative)
    total = recording(model, contrast.fit, 2 * n_layers) + answering(model, harmless, max_new_tokens)
    total += forcing_values(model, harmless, max_new_tokens, len(DRIFT_ANGLES)) * len(CONDITIONS)
    found = CROSSINGS * (2 * len(CONDITIONS) - 2)  # SS is searched anew beside each condition of SAS
    total += forcing_values(model, harmless, max_new_tokens, 1) * (STEPS * found)
    return total + recording(model, contrast.report, 2 * n_layers + 1) * (1 + 2 * found)  # both sides of a crossing
