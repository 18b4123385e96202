"""Progress of long computations: prompts and tokens are counted where they are computed and shown by the caller.

On a terminal and in a notebook the progress is a bar; elsewhere (a log file, a batch system) it is a line every half
minute.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn
from tqdm.auto import tqdm

EVERY = 30.0  # The number of seconds between two lines where there is no terminal.
PARTS = "part"  # The unit of work that cannot be counted in prompts.


class Counter:
    """A counter of finished work with a known total.

    Args:
        name: The name of the work.
        total: The total number of units.
        unit: ``"prompt"``, or :data:`PARTS`, which only :meth:`reach` counts.
        shown: If True, the progress is shown.
        clock: A function that returns the time in seconds; tests pass another one.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str = "prompt",
        *,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done: float = 0.0
        self.tokens: int = 0
        self._lines: bool = shown and not interactive()
        self._clock, self._begun, self._told, self._found = clock, clock(), clock(), 0.0
        self._bar: Any = tqdm(total=total, desc=name, unit=unit, disable=not shown or self._lines, leave=False)

    def found(self, units: float) -> None:
        """Count units that already existed: they are finished, but not work of this run."""
        self._found += units
        self.done += units
        if not self._bar.disable:
            self._bar.initial += int(units)  # The bar then shows the rate of this run only.
        self._show()

    def add(self, units: float = 0.0, tokens: int = 0) -> None:
        """Count units and tokens that were just computed."""
        self.tokens += tokens
        if self.unit != PARTS:
            self.done = min(self.done + units, float(self.total))
        self._show()

    def reach(self, done: float) -> None:
        """Set the number of finished units, whatever was counted before."""
        self.done = done
        self._show()

    def line(self) -> str:
        """Return the line that is written to a log."""
        elapsed, made = self._clock() - self._begun, self.done - self._found
        left = f", about {duration(elapsed * (self.total - self.done) / made)} left" if made > 0 else ""
        tokens = f", {self.tokens:,} tokens" if self.tokens else ""
        return f"{self.name}: {int(self.done):,} of {self.total:,} {self.unit}s{tokens}, {duration(elapsed)}{left}"

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _show(self) -> None:
        if self._lines:
            if self._clock() - self._told >= EVERY:
                self._told = self._clock()
                sys.stderr.write(self.line() + "\n")
                sys.stderr.flush()
        elif not self._bar.disable:
            if self.tokens:
                self._bar.set_postfix_str(f"{self.tokens:,} tokens", refresh=False)
            self._bar.update(int(self.done) - self._bar.n)


_CURRENT: ContextVar[Counter | None] = ContextVar("counter", default=None)


@contextmanager
def counting(name: str, total: int, unit: str = "prompt", *, shown: bool = True) -> Iterator[Counter]:
    """Count the work that is done inside the ``with`` block.

    With ``shown=False`` an outer counter, if there is one, continues to count instead of the new one.

    >>> with counting("answers", 4, shown=False) as outer:
    ...     done(prompts=3.0)
    ...     outer.done
    3.0
    """
    counter = Counter(name, total, unit, shown=shown)
    token = _CURRENT.set(counter) if shown or _CURRENT.get() is None else None
    try:
        yield counter
    finally:
        counter.close()
        if token is not None:
            _CURRENT.reset(token)


def done(*, prompts: float = 0.0, tokens: int = 0) -> None:
    """Add finished prompts and tokens to the current counter, if there is one."""
    if (counter := _CURRENT.get()) is not None:
        counter.add(prompts, tokens)


@contextmanager
def stepping(embedding: nn.Module, rows: int, steps: int) -> Iterator[None]:
    """Report every new token of a batch of ``rows`` answers, each of at most ``steps`` tokens, to the current counter.

    At the end all prompts of the batch count as finished. Each forward is noticed at the module that embeds its tokens,
    because both engines call it once per forward.
    """
    if _CURRENT.get() is None:
        yield
        return
    told = 0

    def step(*_: Any) -> None:
        nonlocal told
        told += 1
        done(prompts=rows / steps if told < steps else 0.0, tokens=rows)

    handle = embedding.register_forward_pre_hook(step)
    try:
        yield
    finally:
        handle.remove()
    done(prompts=rows - rows / steps * min(told, steps - 1))


def interactive() -> bool:
    """Return True if a moving bar is visible: on a terminal, or in a notebook with a running kernel.

    An IPython that is only installed or imported does not count as a notebook.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") or bool(getattr(sys.stderr, "isatty", lambda: False)())


def duration(seconds: float) -> str:
    """Write seconds as a short text in seconds, minutes or hours.

    >>> duration(9.0), duration(140.0), duration(4000.0)
    ('9 s', '2 min', '67 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
