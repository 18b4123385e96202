"""SIGTERM ends a command as Ctrl-C does: what is half-written is taken away, and one line says so."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

BASE = 128  # a shell's exit code of a process that a signal ended is this and the signal's number
ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ending_cleanly() -> Iterator[list[int]]:
    """Inside the block both signals raise KeyboardInterrupt, once: what comes while things are being taken away is let
    pass. Gives the signals that came.

    A signal that was ignored (as ``nohup`` and shells in the background have it) stays ignored.

    >>> with ending_cleanly() as came:
    ...     try:
    ...         signal.raise_signal(signal.SIGTERM)
    ...     except KeyboardInterrupt:
    ...         came == [signal.SIGTERM]
    True
    """
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            raise KeyboardInterrupt

    # only the main thread may set handlers
    here = ENDING if threading.current_thread() is threading.main_thread() else ()
    before = {s: h for s in here if (h := signal.getsignal(s)) not in (signal.SIG_IGN, None)}
    for s in before:
        signal.signal(s, end)
    try:
        yield came
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def exit_code(came: list[int]) -> int:
    """What a command that was ended by the first of the signals exits with.

    >>> exit_code([signal.SIGTERM]), exit_code([signal.SIGINT]), exit_code([])
    (143, 130, 130)
    """
    return BASE + (came[0] if came else signal.SIGINT)


def seldom_told() -> None:
    """Where the error stream is no terminal, bars of libraries are written every half a minute and not ten times a
    second.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")
        os.environ.setdefault("TQDM_DELAY", "30")
