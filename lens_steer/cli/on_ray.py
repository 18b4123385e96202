"""A command's shards as Ray tasks: the driver hands out shards, writes what they compute, joins it and goes on.

A task runs the same command with ``--shard`` in a folder of its own and passes each part on as soon as it is computed.
Only the driver writes the output folder. A task that is lost is started again with the parts that are there, and so is
a driver: nothing is computed twice but the part that was under way. Ray does the scheduling; nothing else is needed on
the workers than this package, and the model and the prompts under the same paths.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
import tempfile
import threading
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lens_steer._io.atomic import check_writable, whole_file
from lens_steer._io.progress import interactive
from lens_steer._io.shards import IDENTITY, ORDER, PARTS, SHARD, Shard, ShardDone, files_of, join_shards
from lens_steer.errors import LensSteerError, installed

OWN = ("--ray", "--ray-workers")  # the driver's own options
LOST = 3  # how often a shard whose worker dies is started again without a new part
LOOK = 0.2  # seconds between two looks at a task's folder
Files = dict[str, bytes]


def arguments(argv: Sequence[str], out: str | Path) -> list[str]:
    """Return the arguments of a command without those of the driver and without its output folder.

    >>> arguments(["sweep", "--ray", "local", "--out=x", "--angles", "0:90:10", "--ray-workers=2"], "x")
    ['sweep', '--angles', '0:90:10']
    """
    kept, skip = [], False
    for arg in argv:
        name = arg.split("=", 1)[0]
        if skip:
            skip = False
        elif name in (*OWN, "--out"):
            skip = "=" not in arg
        else:
            kept.append(arg)
    return kept


def made_in(folder: Path, seen: Container[str] = ()) -> Files:
    """Return every finished file of a folder that was not seen yet, by its path in it."""
    found = {}
    for name in files_of(folder):
        if str(name) in seen:
            continue
        with contextlib.suppress(FileNotFoundError):  # a part that was just joined
            found[str(name)] = (folder / name).read_bytes()
    return found


def write(folder: Path, files: Files) -> None:
    """Write the files that a folder does not have yet, each completely or not at all."""
    for name, content in files.items():
        if (folder / name).exists():
            continue
        with whole_file(folder / name) as work:
            work.write_bytes(content)


def shard_task(args: Sequence[str], shard: Shard, files: Files) -> Iterator[Files | str | None]:
    """Run one shard of a command, and yield what it computes.

    Args:
        args: The arguments, from :func:`arguments`.
        shard: The shard.
        files: What is there already, from :func:`made_in`.

    Yields:
        Each new file when it is complete; at the end None, or the message of an error.
    """
    with tempfile.TemporaryDirectory(prefix="lens-steer-shard-") as name:
        folder = Path(name)
        write(folder, files)
        ended: list[BaseException | None] = []
        thread = threading.Thread(target=_run, args=([*args, "--shard", str(shard), "--out", name], ended), daemon=True)
        thread.start()
        seen = set(files)
        running = True
        while running:
            running = thread.is_alive()
            if new := made_in(folder, seen):
                seen |= set(new)
                yield new
            elif running:
                time.sleep(LOOK)
        error = ended[0]
        if error is None or isinstance(error, ShardDone):
            yield None
        elif isinstance(error, LensSteerError):
            yield str(error)
        else:
            raise error


def _run(args: Sequence[str], ended: list[BaseException | None]) -> None:
    """Run the command line in this thread, without its output, and note how it ended."""
    import typer

    from lens_steer.cli.app import app

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            typer.main.get_command(app).main(args=list(args), standalone_mode=False)
    except BaseException as error:
        ended.append(error)
    else:
        ended.append(None)


def run_on_ray(address: str, workers: int | None, out: Path) -> None:
    """Compute all tables of the command that is running as shards on Ray; the command then finds them complete.

    Args:
        address: ``local``, or the address of a cluster, such as ``auto``.
        workers: The number of shards; None for one a GPU, or one a CPU where there is none.
        out: The output folder of the command.

    Raises:
        LensSteerError: If Ray is not installed or cannot be reached, if ``workers`` is below 1, if a shard refuses its
            input, or if its worker dies again and again.
    """
    ray = installed("ray", "--ray needs Ray: pip install 'lens-steer[ray]'")
    if workers is not None and workers < 1:
        raise LensSteerError(f"--ray-workers {workers}: at least 1 is needed")
    check_writable(out)
    args = arguments(sys.argv[1:], out)
    started = not ray.is_initialized()
    if started:
        try:
            given = {} if address == "local" else {"address": address}
            ray.init(**given, include_dashboard=False, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LensSteerError(f"--ray {address!r}: no cluster there ({error}); give local or its address") from None
    try:
        here = ray.cluster_resources()
        gpus, cpus = int(here.get("GPU", 0)), int(here.get("CPU", 1))
        task = ray.remote(inspect.unwrap(shard_task)).options(
            num_cpus=1, num_gpus=1 if gpus else 0, max_retries=0, num_returns="streaming"
        )
        _rounds(ray, task, args, workers or gpus or cpus, out)
    finally:
        if started:
            ray.shutdown()


def _rounds(ray: Any, task: Any, args: Sequence[str], count: int, out: Path) -> None:
    """Run all shards, join what they computed, and again, until a round computes nothing new."""
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(desc="parts", unit="part", disable=not interactive(), leave=False) as bar:
        before: set[str] = set()
        while (now := set(_tables(out))) != before or not now:
            before = now
            _round(ray, task, args, count, out, bar)
            join_shards([out], out)


def _tables(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob(f"*.{IDENTITY}"))


def _round(ray: Any, task: Any, args: Sequence[str], count: int, out: Path, bar: Any) -> None:
    """Run every shard up to the first table that needs the others, and write each part when it comes."""

    def start(i: int) -> Any:
        return task.remote(args, Shard(i, count), made_in(out))

    running = {start(i): i for i in range(1, count + 1)}
    lost = dict.fromkeys(running.values(), 0)
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        i = running.pop(ready)
        try:
            made = ray.get(next(ready))
        except StopIteration:
            continue
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.RayTaskError):
                raise
            lost[i] += 1
            if lost[i] > LOST:
                raise LensSteerError(
                    f"shard {i}/{count}: its worker died {lost[i]} times ({type(error).__name__}); run it by itself "
                    f"with --shard {i}/{count} to see why"
                ) from None
            running[start(i)] = i
            continue
        if isinstance(made, str):
            raise LensSteerError(made)
        if made is not None:
            lost[i] = 0
            write(out, made)
            bar.update(sum(not Path(name).name.startswith((ORDER, SHARD)) for name in made if name.startswith(PARTS)))
            running[ready] = i
