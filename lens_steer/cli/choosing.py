"""Options and checks that the commands share which choose on the select split and report on the report split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.common import tell_fitted_on
from lens_steer.errors import LensSteerError

Objective = Annotated[
    str, typer.Option("--objective", help="What the choice maximises on the select split (-name: minimises).")
]


Constraints = Annotated[
    list[str] | None,
    typer.Option(
        "--constraint",
        help=(
            "What the choice keeps to: capable>=95% (of the unsteered model), negative_degenerate<=0.1, …; several "
            "times."
        ),
    ),
]


GENERAL, N_GENERAL = "general", 96  # The built-in questions: half of them for the choice, half to report.
TasksOption = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        help=(
            "Capability tasks: general (built-in: facts, sums, series; general:N for N of them, 96 by default), a "
            ".jsonl file of multiple-choice questions, or none. An organism has its own."
        ),
    ),
]

DirectionOption = Annotated[
    str,
    typer.Option(
        "--direction",
        help="Direction of act-add and ablation-everywhere: arditi (selects one), none, or a folder with one.",
    ),
]

# The measures of the report split that are printed, where they exist.
OUTCOMES = ("positive_right", "answered", "negative_right")


def rules_of(spec: str) -> list[str]:
    """Parse the rules of ``--rules``; an unknown one is refused before any file is read.

    Raises:
        LensSteerError: If a rule is unknown.
    """
    from lens_steer.geometry.discriminative import RULES

    found = [name.strip() for name in spec.split(",")]
    if unknown := [name for name in found if name not in RULES]:
        raise LensSteerError(f"--rules {unknown[0]!r}: use some of {','.join(RULES)}")
    return found


def check_numbers(given: dict[str, int]) -> None:
    """Refuse a negative number of draws or values."""
    for name, n in given.items():
        if n < 0:
            raise LensSteerError(f"{name} {n}: give a number of at least 0 (0: none)")


def tell_held_out(made: Any, contrast: Any, what: str) -> None:
    """Say how many prompts of select and report a calibration or probe was made from.

    If it was made from none of them, but from other prompts than the fit split, a line says so. This line is a warning
    where the calibration has no record of its prompts, since the result may then not be held out.
    """
    parts = {
        name: (part.positive, part.negative)
        for name, part in (("select", contrast.select), ("report", contrast.report))
    }
    if tell_fitted_on(made, parts, what) or made.prompt_hash == contrast.fit.hash:
        return
    other = f"the {what} was made from other prompts than this contrast's fit split"
    if len(contrast.fit.positive) and set(contrast.readings) == {"positive", "negative"}:
        other += (
            f" (whose {len(contrast.fit.positive)}+{len(contrast.fit.negative)} prompts are not run; --split "
            "0,0.5,0.5 leaves none to it)"
        )
    if getattr(made, "prompt_hashes_positive", ()):
        typer.echo(f"{other}; none of them is among those of select or report", err=True)
    else:
        typer.echo(
            f"warning: {other}; if its prompts are among those of select or report, the result is not held out: "
            "calibrate with the same --split on the same files",
            err=True,
        )


def tasks_of(contrast: Any, seed: int, given: str | None = None) -> Any:
    """Return the capability tasks that ``--tasks`` asks for; without it, the world's where the prompts are of a world.

    Raises:
        LensSteerError: If a file cannot be read or holds fewer than two questions, or what is given is neither
            ``general``, ``none`` nor a file.
    """
    from lens_steer.data.choices import load_choices
    from lens_steer.data.general import general_questions
    from lens_steer.metrics.benchmarks import Tasks, question_splits, task_splits

    if given is None:
        return task_splits(seed=seed) if all(p.task is not None for p in contrast.report.positive) else Tasks()
    if given == "none":
        return Tasks()
    kind, _, number = given.partition(":")
    if kind == GENERAL and (number or given == GENERAL):
        n = N_GENERAL if given == GENERAL else _number_of_tasks(number, given)
        return question_splits(general_questions(n, seed=seed), name=f"{GENERAL}/{seed}")
    if not Path(given).is_file():
        raise LensSteerError(f"--tasks {given!r}: give {GENERAL}, {GENERAL}:N, none, or a .jsonl file of questions")
    return question_splits(load_choices(given), name=Path(given).name)


def _number_of_tasks(number: str, given: str) -> int:
    if not (number.isascii() and number.isdigit() and int(number) >= 2):
        raise LensSteerError(f"--tasks {given}: give a number of questions of at least 2, such as {GENERAL}:48")
    return int(number)


def direction_of(given: str) -> Any:
    """Return the direction of ``--direction``: the name of the selection, None, or what a folder holds.

    Raises:
        LensSteerError: If it is neither a name nor a folder.
    """
    from lens_steer.evaluation.published_direction import ARDITI
    from lens_steer.geometry.direction_files import load_direction

    if given in (ARDITI, "none"):
        return ARDITI if given == ARDITI else None
    if not Path(given).is_dir():
        raise LensSteerError(
            f"--direction {given!r}: give {ARDITI}, none, or a folder that 'lens-steer direction' wrote"
        )
    return load_direction(given)


def constraints_of(given: list[str] | None, contrast: Any, tasks: Any) -> tuple[str, ...]:
    """Return the constraints of ``--constraint``, or the default ones.

    Where no ground truth grades the answers, a line on the error stream names the default constraints.
    """
    from lens_steer.evaluation.protocol import default_constraints
    from lens_steer.metrics.grading import graded

    if given:
        return tuple(given)
    kept = default_constraints(contrast, tasks.select)
    if not graded([*contrast.select.positive, *contrast.select.negative]):
        typer.echo(
            f"no ground truth: the choice keeps to {' and '.join(kept)}, degenerate being empty, repeating, or "
            "above the bound on perplexity that is measured on the unsteered "
            "model's own answers to harmless prompts (--constraint says otherwise)",
            err=True,
        )
    return kept
