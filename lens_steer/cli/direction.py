"""The command that selects a direction by what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.common import command, emit
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Engine, Model, Out
from lens_steer.cli.prompting import Prompts

SHARES = "0.8,0.2,0"  # of files that are not split already: four prompts to fit on for each to select on


@grouped
def direction(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model = "organism/qwen2",
    n_fit: Annotated[
        int, typer.Option("--n-fit", help="Prompts of each class that give the directions, at most.")
    ] = 128,
    n_select: Annotated[
        int, typer.Option("--n-select", help="Prompts of each class on which candidates are tried, at most.")
    ] = 32,
    min_induce: Annotated[
        float, typer.Option("--min-induce", help="Smallest refusal score of harmless prompts with the direction added.")
    ] = 0.0,
    max_kl: Annotated[
        float, typer.Option("--max-kl", help="Largest KL (nats) of harmless prompts under ablation; inf: no bound.")
    ] = 0.1,
    max_depth: Annotated[
        float, typer.Option("--max-depth", help="Share of the blocks, from the first on, that may be chosen.")
    ] = 0.8,
    openings: Annotated[
        list[str] | None,
        typer.Option(
            "--openings",
            help="How refusals begin, in place of what is measured; several times for several (first token of each).",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="Length of the answers on which the beginnings of refusals are measured.")
    ] = 48,
    engine: Engine = ENGINE,
) -> None:
    """Select a refusal direction as Arditi et al. do: every token after the instruction and every block is tried by
    ablation and by addition; write the direction, all scores and their figure; an interrupted run goes on.
    """
    from lens_steer.evaluation.direction_selection import first_of
    from lens_steer.evaluation.work import selecting_direction
    from lens_steer.geometry.selected_direction import DirectionBounds
    from lens_steer.inference.engines import check_engine
    from lens_steer.inference.rendering import tokens_after_instruction
    from lens_steer.metrics.refusal_score import refusal_tokens
    from lens_steer.models.loading import info_of
    from lens_steer.reports.direction_report import check_out, select_and_write

    check_engine(engine, answers=False)
    bounds = DirectionBounds(min_induce=min_induce, max_kl=max_kl, max_depth=max_depth)
    chosen = prompts.read(split=SHARES)
    fit, select = first_of(chosen, n_fit, n_select)
    check_out(out)
    answered = [(fit.positive, 0 if openings else max_new_tokens)]
    described = load.check(model, *answered, *((side, 0) for side in (fit.negative, select.positive, select.negative)))
    last = tokens_after_instruction(info_of(described).tokenizer)
    if openings:
        refusal_tokens(info_of(described), openings)
    loaded = load(model)
    work = selecting_direction(loaded, fit, select, len(last), None if openings else max_new_tokens)
    dry.tell(loaded, work, select.positive, engine=engine, max_new_tokens=1 if openings else max_new_tokens)
    found = select_and_write(
        loaded,
        chosen,
        out,
        command=command(),
        seed=prompts.seed,
        n_fit=n_fit,
        n_select=n_select,
        bounds=bounds,
        openings=openings or None,
        max_new_tokens=max_new_tokens,
        engine=engine,
    )
    emit(
        {
            "direction": str(out),
            "block": found.block,
            "position": found.position,
            "site": found.site,
            **{name: getattr(found, name) for name in ("refusal_score", "induce_score", "kl")},
            "baseline_refusal_score": found.baseline_refusal_score,
            "baseline_induce_score": found.baseline_induce_score,
            "candidates": len(found.scores),
            "kept": found.n_kept,
            "refusal_tokens": list(found.refusal_tokens),
            "openings": [dict(row) for row in found.openings] or None,
            "n": {
                "fit": [found.n_positive, found.n_negative],
                "select": [found.n_select_positive, found.n_select_negative],
            },
            "n_given": dict(found.n_given),
        }
    )


COMMANDS: tuple[Callable[..., None], ...] = (direction,)
