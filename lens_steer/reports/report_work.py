"""The work of a report (forwards and tokens), counted before it is run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer.data import ContrastSet
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import POSITIVE
from lens_steer.evaluation.sweep_work import bounding
from lens_steer.evaluation.work import Work, measuring, recording
from lens_steer.models.loading import info_of
from lens_steer.reports.report_sweep import ANGLES, DRAWN_ANGLES, DRAWS, STEERED, protocols, report_grids, turned

ONCE = ("the identity", "all sites")  # the controls that run once
DRAWN_ALONE = 2 + DRAWN_ANGLES  # random sites, shuffled labels, and random planes at other angles


def reporting(
    model: Any, contrast: ContrastSet, max_new_tokens: int, *, draws: int = DRAWS, engine: str = ENGINE
) -> Work:
    """Count the work of :func:`lens_steer.reports.report.make_report`.

    The fit and report prompts are recorded. Answers are generated without steering, at every angle on select and on
    report (there also at 360°), and for the controls, of which some run for positive prompts only. Without a ground
    truth, the unsteered model also answers the harmless prompts, and every answer is read once more by it.

    Args:
        model: The loaded model, or its description.
        contrast: The prompts.
        max_new_tokens: The largest number of tokens of each answer.
        draws: The number of draws of each control.
        engine: The engine that generates.
    """
    n_sites = 2 * info_of(model).n_layers
    total = recording(model, contrast.fit, n_sites) + recording(model, contrast.report, n_sites)
    select, report = protocols(model, contrast, max_new_tokens, engine=engine)
    plane = Grid(STEERED, None, tuple(float(a) for a in ANGLES))
    both = [*report_grids(plane), *(Grid(f"draw {k}") for k in range(draws)), *map(Grid, ONCE if draws else ())]
    alone = [Grid(f"draw {k} alone") for k in range(DRAWN_ALONE * draws)]
    if select.read_by:
        total += bounding(select)
    total += measuring(select, [turned(plane)]) + measuring(report, both)
    return total + measuring(replace(report, asked=(POSITIVE,)), alone)
