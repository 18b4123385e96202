"""The command that sweeps one method over its values."""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc
from typing import Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer._io.shards import sharded
from lens_steer.cli.choosing import (
    OUTCOMES,
    Constraints,
    Objective,
    TasksOption,
    check_numbers,
    constraints_of,
    rules_of,
    tasks_of,
    tell_held_out,
)
from lens_steer.cli.common import command, emit, judge_named
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import (
    METHOD_HELP,
    CalibrationFolder,
    Controls,
    Engine,
    JudgeOption,
    MaxNewTokens,
    MaxThoughtTokens,
    Method,
    Model,
    Out,
    Probe,
    Rules,
)
from lens_steer.cli.planning import default_method, read_source
from lens_steer.cli.prompting import Prompts, asked_of
from lens_steer.cli.serving import Serving
from lens_steer.cli.sharing import Sharing
from lens_steer.errors import LensSteerError
from lens_steer.steer.method_table import find_method

ControlValues = Annotated[
    int,
    typer.Option(
        "--control-values",
        help="Angles at which random planes run on the select split too, for the band in the figures.",
    ),
]


Positions = Annotated[
    str | None,
    typer.Option(
        "--positions", help="Tokens that are steered: all, prompt[1:]+generated (without the first), thought, answer, …"
    ),
]


@grouped
def sweep(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    sharing: Sharing,
    serving: Serving,
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
    tasks: TasksOption = None,
    controls: Controls = 10,
    control_values: ControlValues = 4,
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
    max_thought_tokens: MaxThoughtTokens = None,
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
    from lens_steer.inference.thought_budget import check_budget
    from lens_steer.reports.sweep_report import sweep_method

    record = find_method(method or default_method(probe))
    method = record.name
    given = [name for name, v in (("--angles", angles), ("--coefficients", coefficients)) if v is not None]
    wrong = "--coefficients" if record.turns else "--angles"
    if wrong in given:
        raise LensSteerError(f"{wrong}: method {method!r} has {'an angle' if record.turns else 'no angle'}")
    check_numbers({"--controls": controls, "--control-values": control_values})
    share = sharing.of()
    decides = judge_named(judge)
    values = values_of(angles or coefficients or "") if given else None
    contrast = prompts.read(fit=False)
    check_splits(contrast)
    capability = tasks_of(contrast, prompts.seed, tasks)
    kept = kept_constraints(constraints_of(constraint, contrast, capability), capability.select)
    objective = objective_of(objective)
    made = read_source(calibration, probe)
    options: dict[str, Any] = {} if positions is None else {"positions": positions}
    grids = (
        method_grids(made, method, values=values, **options)
        if probe is None
        else [probe_grid(made, method, values=values, **options)]
    )
    check_budget(max_thought_tokens, engine)
    serving.check(engine, *(grid.build and grid.build(grid.values[0]) for grid in grids))
    tell_held_out(made, contrast, "calibration" if probe is None else "probe")
    if rules is not None and probe is not None:
        raise LensSteerError("--rules: a probe has no discriminative sites; give --calibration")
    by_rule, left_out = (
        ([], []) if rules is None else rule_grids(made, method, rules_of(rules), values=values, **options)
    )
    for line in left_out:
        typer.echo(f"--rules: left out: {line}", err=True)
    plan = grids[0].build and grids[0].build(grids[0].values[0])  # refuses invalid --positions
    described = load.check(
        model, *asked_of(contrast, max_new_tokens), made=made, positions=plan.positions if plan else "all"
    )
    check_budget(max_thought_tokens, engine, described, max_new_tokens)
    sharing.compute(out, dry_run=dry.dry_run)
    loaded = load(model)

    def before(work: Any) -> None:
        dry.tell(
            loaded, work, contrast.select.positive, engine=engine, max_new_tokens=max_new_tokens, plan=plan, shard=share
        )

    serving.start(loaded, engine)
    with sharded(share):
        found = sweep_method(
            loaded,
            contrast,
            [*grids, *by_rule],
            out,
            tasks=capability,
            objective=objective,
            constraints=kept,
            seed=prompts.seed,
            fitted_here=made.prompt_hash == contrast.fit.hash,
            controls=controls_.Controls(made, options, controls, control_values, prompts.seed),
            engine=engine,
            max_new_tokens=max_new_tokens,
            max_thought_tokens=max_thought_tokens,
            command=command(),
            judge=decides,
            before=before,
        )
    chosen, reported = found.choices[method], found.reported(method)
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
            "kept_out": kept_out(
                found.select, next(s for s in found.select if s.condition == NONE), chosen, objective, kept
            ),
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


def _told(found: Any, condition: str) -> dict[str, Any]:
    """Return the choice of a condition, and its outcomes on the report split."""
    choice, reported = found.choices[condition], found.reported(condition)
    measured = {k: reported.measured[k].value for k in ("positive_right", "negative_right") if k in reported.measured}
    return {"variant": choice.variant, "value": choice.value, "constraints_met": choice.met, **measured}


COMMANDS: tuple[Callable[..., None], ...] = (sweep,)
sweep.__doc__ = f"{cleandoc(str(sweep.__doc__))}\n\n{METHOD_HELP}"
