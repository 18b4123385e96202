"""Count of the work that the study needs, made before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_steer.data import ContrastSet
from lens_steer.evaluation.budgeted import ANGLES
from lens_steer.evaluation.direction_selection import N_FIT, N_SELECT, first_of
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import NEGATIVE, Protocol
from lens_steer.evaluation.sweep_work import bounding
from lens_steer.evaluation.work import Work, bare, forcing_values, measuring, recording, selecting_direction
from lens_steer.inference.rendering import tokens_after_instruction
from lens_steer.metrics.benchmarks import NO_TASKS, Tasks
from lens_steer.models.loading import info_of
from lens_steer.studies.site_choice.sets import DRAWS
from lens_steer.studies.site_choice.study import BUDGETS, ROUNDS

N_RULES = 5  # sets without a count at most: three rules without a bound, the middle half, all sites
N_RANKED = 2  # rules that rank, which give a set for every count
N_BUDGETS = 1 + len(BUDGETS)  # angles on report at most, one a budget
N_COUNTS = 3  # with that of the published rule


def choosing_sites(
    model: Any,
    contrast: ContrastSet,
    max_new_tokens: int,
    *,
    counts: Sequence[int] | None = None,
    draws: int = DRAWS,
    values: Sequence[float] = ANGLES,
    tasks: Tasks | None = None,
    selects: bool = True,
) -> Work:
    """Count the work of :func:`lens_steer.studies.site_choice.study.study`.

    The count is an upper bound: it takes no two sets for equal, and every block for steered.

    Args:
        model, contrast, max_new_tokens, counts, draws, values, tasks: The arguments of the study.
        selects: Whether a direction is selected for the positive control.
    """
    n_sets = N_RULES + (N_RANKED + draws) * (N_COUNTS if counts is None else 1 + len(set(counts)))
    total = recording(model, contrast.fit, 2 * info_of(model).n_layers)
    for split in ("select", "report"):
        part = getattr(contrast, split)
        asked = Protocol(model, part, split, NO_TASKS, max_new_tokens=max_new_tokens, asked=(NEGATIVE,), read_by=())
        total += measuring(asked, [Grid("no steering")])
        # On select each side of the circle is refined, on report each budget has one angle at most.
        n = len(values) + 2 * ROUNDS if split == "select" else N_BUDGETS
        over = forcing_values(model, bare(part.negative), max_new_tokens, n)
        total += (over + forcing_values(model, bare(part.positive), 0, n)) * n_sets
    if selects:
        fit, select = first_of(contrast, N_FIT, N_SELECT)
        n = len(tokens_after_instruction(info_of(model).tokenizer))
        total += selecting_direction(model, fit, select, n, max_new_tokens)
    total += bounding(Protocol(model, contrast.select, "select", NO_TASKS, max_new_tokens=max_new_tokens))
    report = Protocol(model, contrast.report, "report", (tasks or Tasks()).report, max_new_tokens=max_new_tokens)
    return total + measuring(report, [Grid(f"setting {i}") for i in range(2 + n_sets)])
