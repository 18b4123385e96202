"""The command that joins the output folders of shards, and what a shard prints when it stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lens_steer._io.shards import ShardDone
from lens_steer.cli.common import emit
from lens_steer.cli.options import Out
from lens_steer.errors import LensSteerError


def join(
    folders: Annotated[list[Path], typer.Argument(help="Output folders of the shards; one, if they share it.")],
    out: Out,
) -> None:
    """The folders of shards as one: rows with the same bytes as without --shard, or the recording of all prompts. After
    rows, run the command again in the joined folder, with --shard for the next table or without it to the end.
    """
    from lens_steer._io.shards import join_shards
    from lens_steer.inference.recordings import holds_recording, join_recordings

    recordings = [holds_recording(folder) for folder in folders]
    if any(recordings):
        if not all(recordings):
            other = folders[recordings.index(False)]
            raise LensSteerError(f"folder {str(other)!r} holds no recording as the others do: join one kind at a time")
        whole = join_recordings(folders, out)
        emit({"recording": str(out), "n_positive": whole.n_positive, "n_negative": whole.n_negative})
        return
    found = join_shards(folders, out)
    emit(
        {
            "joined": list(found.joined),
            "complete": list(found.complete),
            "equal_parts": found.equal or None,
            "out": str(out),
        }
    )


def tell_done(stopped: ShardDone) -> None:
    """Print what a shard has done, and what comes next."""
    emit(
        {
            "shard": str(stopped.shard),
            "table": stopped.name,
            "parts": stopped.done,
            "missing": stopped.missing,
            "next": "run the other shards, then lens-steer join",
        }
    )


COMMANDS: tuple[Callable[..., None], ...] = (join,)
