"""The command that compares methods and controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lens_steer._defaults import ENGINE, REFINED
from lens_steer._io.shards import sharded
from lens_steer.cli.choosing import (
    OUTCOMES,
    Constraints,
    DirectionOption,
    Objective,
    TasksOption,
    check_numbers,
    constraints_of,
    direction_of,
    rules_of,
    tasks_of,
    tell_held_out,
)
from lens_steer.cli.common import command, emit, judge_named
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import (
    Controls,
    Engine,
    JudgeOption,
    MaxNewTokens,
    Model,
    Out,
    Rules,
    ShowAnswers,
)
from lens_steer.cli.prompting import Prompts, asked_of
from lens_steer.cli.serving import Serving
from lens_steer.cli.sharing import Sharing
from lens_steer.errors import LensSteerError
from lens_steer.steer.method_table import METHODS


@grouped
def compare(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    sharing: Sharing,
    serving: Serving,
    out: Out,
    model: Model = "organism/qwen2",
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Method to compare (several times); by default those of the table."),
    ] = None,
    angles: Annotated[str, typer.Option("--angles", help="Of the angular methods and the controls.")] = "0:350:10",
    objective: Objective = "positive_right",
    constraint: Constraints = None,
    tasks: TasksOption = None,
    system: Annotated[str | None, typer.Option("--system", help="System prompt of the prompt-only baseline.")] = None,
    rules: Rules = None,
    direction: DirectionOption = "arditi",
    refine: Annotated[
        int, typer.Option("--refine", help="Settings of every condition beyond the largest grid, by bisection.")
    ] = REFINED,
    controls: Controls = 10,
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
    judge: JudgeOption = None,
    show_answers: ShowAnswers = False,
) -> None:
    """Methods and controls against each other: chosen on select, measured on report, once more at equal divergence;
    tables and figures.
    """
    from lens_steer.evaluation.compared import held
    from lens_steer.evaluation.conditions import COMPARED
    from lens_steer.evaluation.control_runs import plain_bands
    from lens_steer.evaluation.grids import values_of
    from lens_steer.evaluation.protocol import check_splits
    from lens_steer.evaluation.published_direction import ARDITI
    from lens_steer.evaluation.sweep_work import comparing
    from lens_steer.reports.compare_report import compare_and_write
    from lens_steer.reports.comparison_text import no_draws

    check_numbers({"--controls": controls, "--refine": refine})
    serving.check(engine)
    share = sharing.of()
    chosen = direction_of(direction)
    decides = judge_named(judge)
    values = values_of(angles)
    wanted = [] if rules is None else rules_of(rules)
    unknown = [m for m in method or () if m not in METHODS]
    if unknown:
        raise LensSteerError(f"--method {unknown[0]}: use one of {', '.join(METHODS)}")
    contrast = prompts.read()
    check_splits(contrast)
    capability = tasks_of(contrast, prompts.seed, tasks)
    if chosen not in (None, ARDITI):
        tell_held_out(chosen, contrast, "direction")
    described = load.check(model, *asked_of(contrast, max_new_tokens)).lens_info
    methods, lacking = held(method or COMPARED, described.layout)
    if lacking:
        told = f"{', '.join(lacking)}: the model has no norm before attention or MLP, whose input they read"
        if method:
            raise LensSteerError(f"--method {told}")
        typer.echo(f"left out: {told}", err=True)
    sharing.compute(out, dry_run=dry.dry_run)
    loaded = load(model)
    work = comparing(
        loaded,
        contrast,
        methods,
        values,
        capability,
        max_new_tokens,
        system=system,
        rules=wanted,
        selects=chosen == ARDITI,
        refine=refine,
        draws=controls,
    )
    dry.tell(loaded, work, contrast.select.positive, engine=engine, max_new_tokens=max_new_tokens, shard=share)
    serving.start(loaded, engine)
    with sharded(share):
        found = compare_and_write(
            loaded,
            contrast,
            out,
            methods=methods,
            values=values,
            objective=objective,
            constraints=constraints_of(constraint, contrast, capability),
            tasks=capability,
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


COMMANDS: tuple[Callable[..., None], ...] = (compare,)
