"""The command line as a user runs it: in a process of its own, with one prompts' draw that calibration and sweep
share.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.test_interrupts import MAIN


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: of the process.
        out: standard output.
        err: lines of the error stream.
    """

    code: int
    out: str
    err: tuple[str, ...]

    @property
    def printed(self) -> Any:
        """The JSON object on standard output."""
        return json.loads(self.out)


def lens(*args: object, code: int = 0) -> Ended:
    """Run a command; another exit code than expected fails with what was told (commands print no completion)."""
    done = subprocess.run([sys.executable, "-c", MAIN, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return Ended(done.returncode, done.stdout, tuple(done.stderr.splitlines()))


def classes(prompts: Path, **options: object) -> list[object]:
    """The options that name the published training prompts, and further ones.

    >>> classes(Path("p"), limit=8)[2:]
    ['--negative', PosixPath('p/harmless_train.json'), '--limit', 8]
    """
    given: Mapping[str, object] = {
        "positive": prompts / "harmful_train.json",
        "negative": prompts / "harmless_train.json",
        **options,
    }
    return [part for name, value in given.items() for part in (f"--{name}", value)]
