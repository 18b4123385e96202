"""Capability tasks, which measure the abilities that steering should not change.

On an organism these are facts, multiple-choice questions, orderings and sums in held-out wordings, graded exactly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lens_steer.data import Prompt, PromptSet
from lens_steer.organisms import tasks

ORGANISM_KINDS = ("fact", "choice", "order", "arithmetic")


def organism_tasks(n: int = 96, *, seed: int = 0) -> PromptSet:
    """Return ``n`` tasks of the organisms' world with their ground truth, equally many of each kind.

    The kinds are those of :data:`ORGANISM_KINDS`, in turn. No question occurs twice.

    >>> [p.task.kind for p in organism_tasks(4)]
    ['fact', 'choice', 'order', 'arithmetic']
    """
    rng = random.Random(f"capability/{seed}")
    drawn: dict[str, tasks.Task] = {}
    while len(drawn) < n:  # a question that was drawn before is drawn again, so that each occurs once
        task = tasks.sample(rng, ORGANISM_KINDS[len(drawn) % len(ORGANISM_KINDS)], "plain", held_out=True)
        drawn.setdefault(task.user, task)
    return PromptSet(
        tuple(Prompt(({"role": "user", "content": t.user},), task=t) for t in drawn.values()),
        f"organism/capability/{seed}",
    )


NO_TASKS = PromptSet(())


@dataclass(frozen=True)
class Tasks:
    """Two sets of capability tasks: one to choose settings by, one to report.

    Attributes:
        select: Tasks to choose settings by.
        report: Tasks to report.

    >>> len(Tasks().select)
    0
    """

    select: PromptSet = NO_TASKS
    report: PromptSet = NO_TASKS


def task_splits(n: int = 96, *, seed: int = 0) -> Tasks:
    """Return ``n`` organism tasks to choose settings by and ``n`` other ones to report.

    >>> split = task_splits(4)
    >>> len(split.select), len(split.report), {p.text for p in split.select} & {p.text for p in split.report}
    (4, 4, set())
    """
    both = organism_tasks(2 * n, seed=seed)
    return Tasks(both[:n], both[n:])
