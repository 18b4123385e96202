"""What a long command says before it begins, and ``--dry-run``, which stops there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_steer.cli.common import emit
from lens_steer.cli.groups import Group

if TYPE_CHECKING:
    from lens_steer.evaluation.work import Work

SHORT = 12  # answers and recorded prompts up to which a run is over before it could be probed


@dataclass(frozen=True)
class DryRun(Group):
    """Tells what a run will take."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Load and time a short probe, tell what would run, how long and in how much memory, and stop.",
        ),
    ] = False

    def tell(
        self, model: Any, work: Work, prompts: Sequence[Any], *, engine: str, max_new_tokens: int = 1, plan: Any = None
    ) -> None:
        """Tell the cost on the error stream where it is more than a minute; with ``--dry-run`` on the output stream,
        and end the command.

        Args:
            model: loaded.
            work: that is about to be done.
            prompts: some of those that will run, which the probe takes.
            engine, max_new_tokens: of the run.
            plan: that will steer, if there is one.
        """
        from lens_steer.evaluation.cost import LONG, cost, probe

        if not self.dry_run and work.answers <= SHORT and work.prefills <= SHORT:
            return
        speed = probe(model, prompts, max_new_tokens, engine=engine, plan=plan)
        told = cost(model, work, speed)
        if self.dry_run:
            emit(
                {
                    "dry_run": True,
                    **told.row(),
                    "engine": engine,
                    "dtype": model.lens_info.dtype,
                    "probe_seconds": round(speed.measuring, 1),
                }
            )
            raise typer.Exit
        if told.seconds > LONG:
            typer.echo(f"this takes {told.line()}", err=True)
