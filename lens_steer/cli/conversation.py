"""The command that asks what steering does over a conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.choosing import DirectionOption, direction_of, tell_held_out
from lens_steer.cli.common import command, emit, tell
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import CalibrationFolder, Engine, MaxNewTokens, Model, Out
from lens_steer.cli.prompting import Prompts, asked_of
from lens_steer.errors import LensSteerError


@grouped
def conversation(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model = "organism/qwen2",
    calibration: CalibrationFolder = None,
    turns: Annotated[int, typer.Option("--turns", help="Turns of each dialogue.")] = 10,
    dialogues: Annotated[
        int, typer.Option("--dialogues", help="Dialogues, each with one harmful prompt of its own.")
    ] = 24,
    probes: Annotated[
        str, typer.Option("--probes", help="Turns at which the harmful prompt is asked, with commas.")
    ] = "1,4,7,10",
    angles: Annotated[str, typer.Option("--angles", help="start:stop:step, or numbers with commas.")] = "30:330:30",
    budget: Annotated[
        float,
        typer.Option("--budget", help="Largest KL of one turn on harmless answers, in nats a token, for the angle."),
    ] = 0.1,
    direction: DirectionOption = "arditi",
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
) -> None:
    """What does steering do over a conversation: does the effect on a harmful prompt last, and do side effects grow,
    with a history of the model's own steered answers; an interrupted run goes on.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.evaluation.grids import values_of
    from lens_steer.evaluation.published_direction import ARDITI
    from lens_steer.geometry.files import load_calibration
    from lens_steer.studies.conversation.dealing import deal, reused
    from lens_steer.studies.conversation.report import study_and_write
    from lens_steer.studies.conversation.study import refuse
    from lens_steer.studies.conversation.work import conversing_long

    check_writable(out)
    at, values = _turns(probes), values_of(angles)
    given = None if calibration is None else load_calibration(calibration)
    control = direction_of(direction)
    contrast = prompts.read(fit=given is None or control == ARDITI)
    described = load.check(model, *asked_of(contrast, max_new_tokens), made=given)
    refuse(described, contrast, turns, dialogues, at, values, budget, engine, max_new_tokens, prompts.seed)
    if given is not None:
        tell_held_out(given, contrast, "calibration")
    if control not in (None, ARDITI):
        tell_held_out(control, contrast, "direction")
    if again := reused(deal(contrast.report, dialogues, turns, prompts.seed)):
        tell(f"{again} of {turns * dialogues} turns have a prompt that an earlier dialogue has too")
    loaded = load(model)
    how = {"turns": turns, "dialogues": dialogues, "probes": at, "seed": prompts.seed}
    work = conversing_long(
        loaded,
        contrast,
        max_new_tokens,
        n_angles=len(values),
        calibrates=given is None,
        selects=control == ARDITI,
        controls=control is not None,
        **how,
    )
    dry.tell(loaded, work, contrast.select.positive, engine=engine, max_new_tokens=max_new_tokens)
    found, decided = study_and_write(
        loaded,
        contrast,
        out,
        command=command(),
        calibration=given,
        values=values,
        budget=budget,
        direction=control,
        engine=engine,
        max_new_tokens=max_new_tokens,
        **how,
    )
    emit(
        {
            "conversation": str(out / "conversation.md"),
            "angle": found.angle,
            "verdicts": {c.id: c.verdict for c in decided},
        }
    )


def _turns(spec: str) -> tuple[int, ...]:
    """Parse turns with commas.

    >>> _turns("1, 4")
    (1, 4)

    Raises:
        LensSteerError: If one is no number.
    """
    try:
        return tuple(int(part) for part in spec.split(","))
    except ValueError:
        raise LensSteerError(f"--probes {spec}: give turns with commas, such as 1,4,7,10") from None


COMMANDS: tuple[Callable[..., None], ...] = (conversation,)
