"""The estimate of cost that a long command prints before it begins, and ``--dry-run``, which stops after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_steer._defaults import ENGINE, REMOTE
from lens_steer.cli.common import emit
from lens_steer.cli.groups import Group

if TYPE_CHECKING:
    from lens_steer._io.shards import Shard
    from lens_steer.evaluation.work import Work

SHORT = 12  # with at most this many answers and prefills, the run takes no longer than the probe would


@dataclass(frozen=True)
class DryRun(Group):
    """The option ``--dry-run``, and the estimate of what a run will take."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Load and time a short probe, tell what would run, how long and in how much memory, and stop.",
        ),
    ] = False

    def tell(
        self,
        model: Any,
        work: Work,
        prompts: Sequence[Any],
        *,
        engine: str,
        max_new_tokens: int = 1,
        plan: Any = None,
        shard: Shard | None = None,
    ) -> None:
        """Print the estimated cost of a run.

        Without ``--dry-run`` a line goes to the error stream if the run takes more than a minute; a very short run is
        not estimated. With ``--dry-run`` the estimate goes to the output stream and the command ends.

        Args:
            model: The loaded model.
            work: The work that is about to be done.
            prompts: Some of the prompts that will run, on which the probe measures the speed.
            engine: The engine of the run.
            max_new_tokens: The largest number of tokens of an answer in the run.
            plan: The plan that will steer; None if the run is unsteered.
            shard: The share of the work that is estimated; None for all of it.

        Raises:
            typer.Exit: With ``--dry-run``, after the estimate.
        """
        from lens_steer.evaluation.cost import LONG, cost, probe

        if shard is not None:
            work = work // shard.count
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
                    **({"timed_on": ENGINE} if engine in REMOTE else {}),
                    "dtype": model.lens_info.dtype,
                    "probe_seconds": round(speed.measuring, 1),
                }
            )
            raise typer.Exit
        if told.seconds > LONG:
            on = f" on {ENGINE}; {engine} was not timed" if engine in REMOTE else ""
            typer.echo(f"this takes {told.line()}{on}", err=True)
