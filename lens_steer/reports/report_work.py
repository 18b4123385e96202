"""The work of a report (forwards and tokens), counted before it is run."""

from __future__ import annotations

from typing import Any

from lens_steer.data import ContrastSet, PromptSet
from lens_steer.evaluation.work import Work, answering, bare, recording, scoring_answers
from lens_steer.models.loading import info_of
from lens_steer.reports.report_sweep import DRAWN_ANGLES, DRAWS


def reporting(model: Any, contrast: ContrastSet, n_angles: int, max_new_tokens: int, *, draws: int = DRAWS) -> Work:
    """Count the work of :func:`lens_steer.reports.report.make_report`.

    The fit and report prompts are recorded. Answers are generated without steering, at every angle on select and on
    report (there also at 360°), and for the controls. Without a ground truth, the unsteered model also answers the
    harmless prompts, and every answer is read once more by the unsteered model.

    Args:
        model: The loaded model, or its description.
        contrast: The prompts.
        n_angles: The number of angles, 360° not counted.
        max_new_tokens: The largest number of tokens of each answer.
        draws: The number of draws of each control.
    """
    n_sites = 2 * info_of(model).n_layers
    total = recording(model, contrast.fit, n_sites) + recording(model, contrast.report, n_sites)
    known = all(p.task is not None for p in (*contrast.report.positive, *contrast.report.negative))

    def measured(*sides: PromptSet) -> Work:  # both classes run in one batch
        prompts = bare(p for side in sides for p in side)
        found = answering(model, prompts, max_new_tokens)
        return found if known else found + scoring_answers(model, prompts, max_new_tokens)

    report, select = (measured(part.positive, part.negative) for part in (contrast.report, contrast.select))
    once = 2 if draws else 0  # the identity and all sites run once each
    total += report * (1 + (n_angles + 1) + draws + once) + select * n_angles
    # random sites, shuffled labels, and random planes at other angles run for positive prompts only
    total += measured(contrast.report.positive) * ((2 + DRAWN_ANGLES) * draws)
    if known:
        return total
    every = [p for part in (contrast.report, contrast.select) for side in (part.positive, part.negative) for p in side]
    read = answering(model, bare(every), 1)
    return total + measured(contrast.select.negative) + Work(prefills=read.prefills, prompt_tokens=read.prompt_tokens)
