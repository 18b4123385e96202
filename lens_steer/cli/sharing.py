"""The options that share a long run among processes: one shard of it, or all shards as Ray tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_steer._io.shards import Shard
from lens_steer.cli.groups import Group
from lens_steer.cli.options import ShardOption
from lens_steer.errors import LensSteerError


@dataclass(frozen=True)
class Sharing(Group):
    """The options ``--shard``, ``--ray`` and ``--ray-workers``."""

    shard: ShardOption = None
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="All shards as Ray tasks: local, or a cluster's address (needs lens-steer[ray])."),
    ] = None
    ray_workers: Annotated[
        int | None,
        typer.Option("--ray-workers", help="Shards at once (default: one a GPU of the cluster, else one a CPU)."),
    ] = None

    def of(self) -> Shard | None:
        """Return the shard that this process computes; None for everything.

        Raises:
            LensSteerError: If ``--shard`` is no shard, or options contradict each other.
        """
        if self.shard is not None and self.ray is not None:
            raise LensSteerError(f"--shard {self.shard!r}: --ray makes the shards itself; leave one of them out")
        if self.ray_workers is not None and self.ray is None:
            raise LensSteerError(f"--ray-workers {self.ray_workers}: it goes with --ray")
        return None if self.shard is None else Shard.of(self.shard)

    def compute(self, out: Path, *, dry_run: bool) -> None:
        """With ``--ray``, let tasks compute all tables of the command, which then finds them complete.

        Nothing is computed on a dry run.

        Raises:
            LensSteerError: For the reasons of :func:`lens_steer.cli.on_ray.run_on_ray`.
        """
        if self.ray is not None and not dry_run:
            from lens_steer.cli.on_ray import run_on_ray

            run_on_ray(self.ray, self.ray_workers, out)
