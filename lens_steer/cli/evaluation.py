"""The commands that evaluate: sweeps of one method, comparisons of several, and metrics of generations."""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc
from typing import Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.common import command, emit, judge_named, tell_fitted_on
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.generations import metrics
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import (
    METHOD_HELP,
    CalibrationFolder,
    Controls,
    Engine,
    JudgeOption,
    Method,
    Model,
    Out,
    Probe,
    Rules,
    ShowAnswers,
)
from lens_steer.cli.planning import default_method, read_source
from lens_steer.cli.prompting import Prompts, asked_of
from lens_steer.errors import LensSteerError
from lens_steer.steer.method_table import METHODS, find_method

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
MaxNewTokens = Annotated[int, typer.Option(help="Length of every answer at most.")]

ControlValues = Annotated[
    int,
    typer.Option(
        "--control-values",
        help="Angles at which random planes run on the select split too, for the band in the figures.",
    ),
]
Positions = Annotated[
    str | None,
    typer.Option("--positions", help="Tokens that are steered: all, prompt[1:]+generated (without the first), …"),
]
# The measures of the report split that are printed, where they exist.
OUTCOMES = ("positive_right", "answered", "negative_right")


@grouped
def sweep(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    calibration: CalibrationFolder = None,
    probe: Probe = None,
    model: Model = "organism/qwen2",
    method: Method = None,
    angles: Annotated[
        str | None, typer.Option("--angles", help="start:stop:step, or numbers with commas (0:350:10).")
    ] = None,
    coefficients: Annotated[
        str | None, typer.Option("--coefficients", help="The same, for a method with a coefficient.")
    ] = None,
    rules: Rules = None,
    positions: Positions = None,
    objective: Objective = "positive_right",
    constraint: Constraints = None,
    controls: Controls = 10,
    control_values: ControlValues = 4,
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
    judge: JudgeOption = None,
) -> None:
    """One method over its angles or coefficients on the select split, the best of them and its controls on the report
    split; an interrupted sweep goes on.
    """
    from lens_steer.evaluation import controls as controls_
    from lens_steer.evaluation.conditions import NONE, method_grids, probe_grid, rule_grids
    from lens_steer.evaluation.control_runs import plain_bands
    from lens_steer.evaluation.grids import values_of
    from lens_steer.evaluation.protocol import check_splits, kept_constraints
    from lens_steer.evaluation.quantities import objective_of
    from lens_steer.evaluation.selection import kept_out
    from lens_steer.inference.engines import check_engine
    from lens_steer.reports.sweep_report import sweep_method

    record = find_method(method or default_method(probe))
    method = record.name
    given = [name for name, v in (("--angles", angles), ("--coefficients", coefficients)) if v is not None]
    wrong = "--coefficients" if record.turns else "--angles"
    if wrong in given:
        raise LensSteerError(f"{wrong}: method {method!r} has {'an angle' if record.turns else 'no angle'}")
    _check_numbers({"--controls": controls, "--control-values": control_values})
    check_engine(engine)
    decides = judge_named(judge)
    values = values_of(angles or coefficients or "") if given else None
    contrast = prompts.read(fit=False)
    check_splits(contrast)
    kept = kept_constraints(_constraints(constraint, contrast), _tasks(contrast, prompts.seed).select)
    objective = objective_of(objective)
    made = read_source(calibration, probe)
    options: dict[str, Any] = {} if positions is None else {"positions": positions}
    grids = (
        method_grids(made, method, values=values, **options)
        if probe is None
        else [probe_grid(made, method, values=values, **options)]
    )
    if positions is not None and grids[0].build is not None:
        grids[0].build(grids[0].values[0])  # refuses an invalid --positions before the model is loaded
    _tell_held_out(made, contrast, "calibration" if probe is None else "probe")
    if rules is not None and probe is not None:
        raise LensSteerError("--rules: a probe has no discriminative sites; give --calibration")
    by_rule, left_out = (
        ([], []) if rules is None else rule_grids(made, method, rules_of(rules), values=values, **options)
    )
    for line in left_out:
        typer.echo(f"--rules: left out: {line}", err=True)
    load.check(model, *asked_of(contrast, max_new_tokens), made=made)
    loaded = load(model)
    tasks = _tasks(contrast, prompts.seed)

    def before(work: Any) -> None:
        plan = grids[0].build and grids[0].build(grids[0].values[0])
        dry.tell(loaded, work, contrast.select.positive, engine=engine, max_new_tokens=max_new_tokens, plan=plan)

    found = sweep_method(
        loaded,
        contrast,
        [*grids, *by_rule],
        out,
        tasks=tasks,
        objective=objective,
        constraints=kept,
        seed=prompts.seed,
        fitted_here=made.prompt_hash == contrast.fit.hash,
        controls=controls_.Controls(made, options, controls, control_values, prompts.seed),
        engine=engine,
        max_new_tokens=max_new_tokens,
        command=command(),
        judge=decides,
        before=before,
    )
    chosen, reported = found.choices[method], found.reported(method)
    base = next(s for s in found.select if s.condition == NONE)
    beside, first = found.beside.record(), found.first_token
    if first is not None and first.told:
        typer.echo(f"note: {first.told}", err=True)
    emit(
        {
            "sweep": str(out / "sweep.json"),
            "rows": str(out / "select.csv"),
            "variant": chosen.variant or None,
            "value": chosen.value,
            "constraints_met": chosen.met,
            "kept_out": kept_out(found.select, base, chosen, objective, kept),
            **{k: reported.measured[k].value for k in OUTCOMES if k in reported.measured},
            "interval": {
                k: [reported.measured[k].low, reported.measured[k].high] for k in OUTCOMES if k in reported.measured
            },
            "band": {k: v for k, v in plain_bands(found.bands).items() if k in OUTCOMES},
            "controls": {k: beside[k] for k in ("draws", "smallest_p", "left_out", "told") if k in beside},
            "first_token_norm_ratio": None if first is None else first.highest[1],
            "by_rule": {name: _told(found, name) for name in dict.fromkeys(g.condition for g in by_rule)} or None,
            **_ungraded(found, reported, kept),
        }
    )


def _ungraded(found: Any, reported: Any, kept: list[Any]) -> dict[str, Any]:
    """Return what is printed in addition where no ground truth grades the answers; empty where one does.

    It holds the constraints, the bound on perplexity above which an answer is degenerate, and at the chosen value the
    share of each outcome for both classes (also of answers that were cut off) and the perplexities.
    """
    if found.bound is None:
        return {}
    names = [
        f"{side}_{outcome}"
        for side in ("positive", "negative")
        for outcome in ("refused", "answered", "degenerate", "cut_off")
    ]
    perplexities = {
        name: reported.measured[name].value
        for name in ("perplexity_ref", "negative_perplexity_ref")
        if name in reported.measured
    }
    return {
        "constraints": [str(c) for c in kept],
        "degenerate_above": found.bound.row(),
        "outcomes": {n: reported.measured[n].value for n in names},
        **perplexities,
    }


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


def _check_numbers(given: dict[str, int]) -> None:
    """Refuse a negative number of draws or values."""
    for name, n in given.items():
        if n < 0:
            raise LensSteerError(f"{name} {n}: give a number of at least 0 (0: none)")


def _told(found: Any, condition: str) -> dict[str, Any]:
    """Return the choice of a condition, and its outcomes on the report split."""
    choice, reported = found.choices[condition], found.reported(condition)
    measured = {k: reported.measured[k].value for k in ("positive_right", "negative_right") if k in reported.measured}
    return {"variant": choice.variant, "value": choice.value, "constraints_met": choice.met, **measured}


@grouped
def compare(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model = "organism/qwen2",
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Method to compare (several times); by default those of the table."),
    ] = None,
    angles: Annotated[str, typer.Option("--angles", help="Of the angular methods and the controls.")] = "0:350:10",
    objective: Objective = "positive_right",
    constraint: Constraints = None,
    system: Annotated[str | None, typer.Option("--system", help="System prompt of the prompt-only baseline.")] = None,
    rules: Rules = None,
    direction: Annotated[
        str,
        typer.Option(
            "--direction",
            help="Direction of act-add and ablation-everywhere: arditi (selects one), none, or a folder with one.",
        ),
    ] = "arditi",
    refine: Annotated[
        int, typer.Option("--refine", help="Further values for each condition, between the best ones of its grid.")
    ] = 12,
    controls: Controls = 10,
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
    judge: JudgeOption = None,
    show_answers: ShowAnswers = False,
) -> None:
    """Methods and controls against each other: chosen on select, measured on report, once more at equal divergence;
    tables and figures.
    """
    from lens_steer.evaluation.conditions import COMPARED
    from lens_steer.evaluation.control_runs import plain_bands
    from lens_steer.evaluation.grids import values_of
    from lens_steer.evaluation.protocol import check_splits
    from lens_steer.evaluation.published_direction import ARDITI
    from lens_steer.evaluation.sweep_work import comparing
    from lens_steer.inference.engines import check_engine
    from lens_steer.reports.compare_report import compare_and_write
    from lens_steer.reports.comparison_text import no_draws

    _check_numbers({"--controls": controls, "--refine": refine})
    check_engine(engine)
    chosen = _direction(direction)
    decides = judge_named(judge)
    values = values_of(angles)
    wanted = [] if rules is None else rules_of(rules)
    unknown = [m for m in method or () if m not in METHODS]
    if unknown:
        raise LensSteerError(f"--method {unknown[0]}: use one of {', '.join(METHODS)}")
    contrast = prompts.read()
    check_splits(contrast)
    load.check(model, *asked_of(contrast, max_new_tokens))
    loaded = load(model)
    tasks = _tasks(contrast, prompts.seed)
    work = comparing(
        loaded,
        contrast,
        method or COMPARED,
        values,
        tasks,
        max_new_tokens,
        system=system,
        rules=wanted,
        selects=chosen == ARDITI,
        refine=refine,
        draws=controls,
    )
    dry.tell(loaded, work, contrast.select.positive, engine=engine, max_new_tokens=max_new_tokens)
    found = compare_and_write(
        loaded,
        contrast,
        out,
        methods=method or COMPARED,
        values=values,
        objective=objective,
        constraints=_constraints(constraint, contrast),
        tasks=tasks,
        system=system,
        rules=wanted,
        direction=chosen,
        refine=refine,
        draws=controls,
        seed=prompts.seed,
        engine=engine,
        max_new_tokens=max_new_tokens,
        command=command(),
        judge=decides,
        show_answers=show_answers,
    )
    for line in found.options.get("rules_left_out", ()):
        typer.echo(f"--rules: left out: {line}", err=True)
    for name, reason in found.left_out.items():
        typer.echo(f"--direction: no row {name}: {reason}", err=True)
    told = found.beside.record() | ({} if found.bands else {"told": no_draws()})
    emit(
        {
            "comparison": str(out / "comparison.md"),
            "controls": {k: told[k] for k in ("draws", "smallest_p", "left_out", "told") if k in told},
            "band": {k: v for k, v in plain_bands(found.bands).items() if k in OUTCOMES} or None,
            "chosen": {
                name: {"value": c.value, "variant": c.variant or None, "met": c.met}
                for name, c in found.evaluation.choices.items()
            },
        }
    )


def _direction(given: str) -> Any:
    """Return the direction of ``--direction``: the name of the selection, None, or what a folder holds."""
    from lens_steer.evaluation.published_direction import ARDITI
    from lens_steer.geometry.direction_files import load_direction

    return {ARDITI: ARDITI, "none": None}[given] if given in (ARDITI, "none") else load_direction(given)


COMMANDS: tuple[Callable[..., None], ...] = (metrics, sweep, compare)
sweep.__doc__ = f"{cleandoc(str(sweep.__doc__))}\n\n{METHOD_HELP}"


def _tell_held_out(made: Any, contrast: Any, what: str) -> None:
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


def _tasks(contrast: Any, seed: int) -> Any:
    """Return the capability tasks where the prompts have a ground truth, otherwise none."""
    from lens_steer.metrics.benchmarks import Tasks, task_splits

    return task_splits(seed=seed) if all(p.task is not None for p in contrast.report.positive) else Tasks()


def _constraints(given: list[str] | None, contrast: Any) -> tuple[str, ...]:
    """Return the constraints of ``--constraint``, or the default ones.

    Where no ground truth grades the answers, a line on the error stream names the default constraints.
    """
    from lens_steer.evaluation.protocol import default_constraints
    from lens_steer.metrics.grading import graded

    if given:
        return tuple(given)
    kept = default_constraints(contrast)
    if not graded([*contrast.select.positive, *contrast.select.negative]):
        typer.echo(
            f"no ground truth: the choice keeps to {' and '.join(kept)}, degenerate being empty, repeating, or "
            "above the bound on perplexity that is measured on the unsteered "
            "model's own answers to harmless prompts (--constraint says otherwise)",
            err=True,
        )
    return kept
