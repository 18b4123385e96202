"""Interrupts: SIGTERM ends a command as Ctrl-C does, which removes unfinished output and prints one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

BASE = 128  # shells report a process that a signal ended with the exit code BASE + the number of the signal
ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ending_cleanly() -> Iterator[list[int]]:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt inside the block, once.

    Signals that come later, while unfinished output is being removed, are ignored. A signal that was ignored before
    (under ``nohup``, or in the background of a shell) stays ignored. The earlier handlers return at the end of the
    block.

    Yields:
        The numbers of the signals that came, in order; the list grows while the block runs.

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

    # Python lets only the main thread set signal handlers
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
    """Return the exit code of a command that the first of these signals ended; without any, that of SIGINT.

    >>> exit_code([signal.SIGTERM]), exit_code([signal.SIGINT]), exit_code([])
    (143, 130, 130)
    """
    return BASE + (came[0] if came else signal.SIGINT)


def seldom_told() -> None:
    """Make the progress bars of libraries write every 30 seconds where the error stream is not a terminal.

    In a log file ten updates a second would only add lines. Values that the user set in the environment stay.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")
        os.environ.setdefault("TQDM_DELAY", "30")
