"""Running one study: links in place of a machine's paths, the command, the time it took."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from analyses.real.records import TOOK, write_json
from analyses.real.studies import Size, Study, Where
from lens_steer.errors import LensSteerError

COMMAND = (sys.executable, "-m", "lens_steer")


def linked(target: Path | None, link: Path, option: str) -> Path:
    """Return a link to a folder, so that no path of a machine gets into what is published.

    Raises:
        LensSteerError: If there is no such folder.
    """
    if target is None or not Path(target).expanduser().is_dir():
        raise LensSteerError(
            f"{option} {target}: give the folder, or set LENS_STEER_REAL_{option.strip('-').upper()} "
            "(docs/results/real-models.md says what is in it)"
        )
    folder = Path(target).expanduser().resolve()  # before the link goes: it can be what is given
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    link.symlink_to(folder, target_is_directory=True)
    return link


def run(study: Study, where: Where, size: Size) -> None:
    """Run one study, or go on with it; its output goes to the terminal.

    What is finished is not run again. Where the model has nothing to study (:attr:`Study.cannot`), that is kept in
    place of a result. Where the command ends with the error that a study knows another way for
    (:attr:`Study.otherwise`), that one is taken, and the error is kept. The time of every attempt is added up.

    Raises:
        LensSteerError: If the command fails, or if the folder holds the same study with other arguments.
    """
    out = where.work / study.name
    arguments = [*study.arguments(where, size), "--out", str(out)]
    before = json.loads((out / TOOK).read_text(encoding="utf-8")) if (out / TOOK).exists() else {}
    if before.get("arguments") != arguments:
        if before.get("finished"):
            raise LensSteerError(f"{out} holds this study with other arguments: remove it, or give another --work")
        before = {}  # an attempt that came to nothing; a command itself refuses rows of another run
    if before.get("finished"):
        return
    begun, record = time.monotonic(), {"arguments": arguments, "finished": False, **before}

    def took() -> dict[str, Any]:
        return {**record, "seconds": round(before.get("seconds", 0) + time.monotonic() - begun)}

    try:
        code, told = _command(arguments)
        if code == 2 and study.otherwise and study.known in told:
            record["at_first"] = told
            code, told = _command([*arguments, *study.otherwise])
        if code == 2 and any(part in told for part in study.cannot):
            record["cannot"], code = told, 0
        record["finished"] = code == 0
    finally:
        write_json(out / TOOK, took())
    if code:
        raise LensSteerError(f"{study.name}: the command above ended with {code}; run again, it goes on from there")


def cost(study: Study, where: Where, size: Size) -> dict[str, Any]:
    """Return what a dry run of a study tells: tokens, and seconds on this machine. Its words go to the terminal.

    Raises:
        LensSteerError: If the command fails.
    """
    given = without_folder(study.arguments(where, size), where.work / "calibration")
    arguments = [*given, "--out", str(where.work / study.name), "--dry-run"]
    done = subprocess.run([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LensSteerError(f"{study.name}: lens-steer {shlex.join(arguments)} ended with {done.returncode}")
    told = json.loads(done.stdout)
    return {name: told[name] for name in ("prompt_tokens", "new_tokens", "seconds", "seconds_low", "seconds_high")}


def _command(arguments: list[str]) -> tuple[int, str]:
    """Run ``lens-steer``, and return its exit code and the last line of its error stream, which is shown too."""
    sys.stderr.write(f"lens-steer {shlex.join(arguments)}\n")
    last = ""
    started = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    with started as running:
        for line in running.stderr or ():
            sys.stderr.write(line)
            last = line.strip() or last
    return started.returncode, last.removeprefix("lens-steer: ")


def without_folder(arguments: list[str], folder: Path) -> list[str]:
    """Return a command line without a calibration that is not there yet.

    >>> without_folder(["verify", "--calibration", "nowhere", "--seed", "0"], Path("nowhere"))
    ['verify', '--seed', '0']
    """
    if "--calibration" not in arguments or folder.exists():
        return arguments
    at = arguments.index("--calibration")
    return [*arguments[:at], *arguments[at + 2 :]]
