"""The command that asks which rule chooses the sites best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lens_steer._defaults import ENGINE, REMOTE
from lens_steer.cli.choosing import DirectionOption, TasksOption, direction_of, tasks_of, tell_held_out
from lens_steer.cli.common import command, emit
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Engine, MaxNewTokens, Model, Out
from lens_steer.cli.prompting import Prompts, asked_of
from lens_steer.errors import LensSteerError


@grouped
def site_choice(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model = "organism/qwen2",
    counts: Annotated[
        str | None,
        typer.Option(
            "--counts",
            help=(
                "Numbers of sites of ranked and random sets, besides the published rule's, with commas, or none (a "
                "quarter and a half of all)."
            ),
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option("--draws", help="Random sets of each number; fewer than 19 cannot be beaten.")
    ] = 19,
    angles: Annotated[str, typer.Option("--angles", help="start:stop:step, or numbers with commas.")] = "30:330:30",
    budget: Annotated[
        float, typer.Option("--budget", help="Largest KL on harmless answers, in nats a token, for the answers.")
    ] = 0.1,
    tasks: TasksOption = None,
    direction: DirectionOption = "arditi",
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
) -> None:
    """Which rule chooses the sites best: SS at those of every rule, of effect sizes, of the middle half and at random
    ones, compared under one budget of side effects; an interrupted run goes on.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.evaluation.grids import values_of
    from lens_steer.evaluation.protocol import check_splits
    from lens_steer.evaluation.published_direction import ARDITI
    from lens_steer.inference.engines import check_engine
    from lens_steer.models.loading import info_of
    from lens_steer.models.sites import resolve
    from lens_steer.studies.site_choice.report import study_and_write
    from lens_steer.studies.site_choice.sets import check_counts
    from lens_steer.studies.site_choice.study import BUDGETS
    from lens_steer.studies.site_choice.work import choosing_sites

    check_engine(engine)
    if engine in REMOTE:
        raise LensSteerError(f"--engine {engine}: logits under steering are read here, which it does not give; use hf")
    check_writable(out)
    if draws < 0:
        raise LensSteerError(f"--draws {draws}: give a number of at least 0 (0: none)")
    if not budget > 0:
        raise LensSteerError(f"--budget {budget:g}: give a divergence above 0, in nats a token")
    wanted = None if counts is None else _numbers(counts)
    values = values_of(angles)
    control = direction_of(direction)
    contrast = prompts.read()
    check_splits(contrast)
    if control not in (None, ARDITI):
        tell_held_out(control, contrast, "direction")
    capability = tasks_of(contrast, prompts.seed, tasks)
    described = info_of(load.check(model, *asked_of(contrast, max_new_tokens)))
    n_sites = len(resolve("norm_out", described.layout))
    check_counts(wanted, n_sites)
    loaded = load(model)
    how = {"counts": wanted, "draws": draws, "values": values, "tasks": capability}
    work = choosing_sites(loaded, contrast, max_new_tokens, selects=control == ARDITI, **how)
    dry.tell(loaded, work, contrast.select.positive, engine=engine, max_new_tokens=max_new_tokens)
    found, decided = study_and_write(
        loaded,
        contrast,
        out,
        command=command(),
        seed=prompts.seed,
        budgets=tuple(sorted({*BUDGETS, budget})),
        budget=budget,
        direction=control,
        engine=engine,
        max_new_tokens=max_new_tokens,
        **how,
    )
    emit(
        {
            "site_choice": str(out / "site_choice.md"),
            "angles": {c.set.name: found.chosen(c.set, budget) for c in found.select if not c.set.draw},
            "verdicts": {c.id: c.verdict for c in decided},
        }
    )


def _numbers(spec: str) -> list[int]:
    """Parse numbers with commas, or ``none``.

    >>> _numbers("3, 12"), _numbers("none")
    ([3, 12], [])

    Raises:
        LensSteerError: If one is no number.
    """
    if spec == "none":
        return []
    try:
        return [int(part) for part in spec.split(",")]
    except ValueError:
        raise LensSteerError(f"--counts {spec}: give numbers with commas, such as 6,12, or none") from None


COMMANDS: tuple[Callable[..., None], ...] = (site_choice,)
