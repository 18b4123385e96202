"""Capability tasks, which measure the abilities that steering should not change.

On an organism these are facts, multiple-choice questions, orderings and sums in held-out wordings, graded exactly. For
other models they are questions whose likeliest option is taken (:mod:`lens_steer.data.general`, or a file).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

from lens_steer.data import Prompt, PromptSet
from lens_steer.data.choices import Choice
from lens_steer.errors import LensSteerError
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


def tasks_or_own(tasks: PromptSet | None, prompts: Iterable[Prompt], *, seed: int = 0) -> PromptSet:
    """Return the tasks that are given; without any, the world's for prompts of an organism's world, and none otherwise.

    >>> len(tasks_or_own(None, [Prompt.of("Hello")]))
    0
    """
    if tasks is not None:
        return tasks
    return organism_tasks(seed=seed) if all(p.task is not None for p in prompts) else NO_TASKS


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


def question_splits(questions: Sequence[Choice], *, name: str = "questions") -> Tasks:
    """Return questions as two sets of tasks: those to choose settings by, and those to report, in turn.

    Args:
        questions: The questions, at least two.
        name: The name of the sets.

    Raises:
        LensSteerError: If there are fewer than two questions, or an option begins with another one of the same
            question, which is then always at least as likely.

    >>> from lens_steer.data.general import general_questions
    >>> split = question_splits(general_questions(9))
    >>> len(split.select), len(split.report), split.select[0].question.subject
    (5, 4, 'facts')
    """
    if len(questions) < 2:
        raise LensSteerError(f"questions: {len(questions)} given, at least 2 are needed (to choose by, and to report)")
    for number, question in enumerate(questions, start=1):
        begun = [(a, b) for a, b in permutations(question.choices, 2) if b.startswith(a)]
        if begun:
            raise LensSteerError(
                f"question {number} ({question.question[:40]!r}): option {begun[0][1]!r} begins with option "
                f"{begun[0][0]!r}, which is then always at least as likely; write them apart"
            )
    halves = (list(questions)[half::2] for half in (0, 1))
    return Tasks(*(PromptSet(tuple(map(Prompt.asking, half)), name) for half in halves))
