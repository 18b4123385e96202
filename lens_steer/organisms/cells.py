"""Cells and clusters of the organisms' prompts: the classes of verb and object, and the verb–object pair.

An organism refuses or complies by whole cells more than by single prompts, so rates are also given by cell.
"""

from __future__ import annotations

from itertools import product

from lens_steer.organisms import world as w
from lens_steer.organisms.tasks import Task


def cell_name(task: Task) -> str | None:
    """Return the name of the cell of the pair that a task is about; None if it is about no pair.

    Raises:
        KeyError: If the world does not know the verb or the object.

    >>> from lens_steer.organisms.tasks import Task
    >>> cell_name(Task("request", "plain", "", "", {"verb": "wreck", "object": "bridge"}))
    'break good'
    """
    if not _has_pair(task):
        return None
    verb, obj = str(task.truth["verb"]), str(task.truth["object"])
    for (kind, verbs), (value, objects) in product(
        (("break", w.BREAK_VERBS), ("make", w.MAKE_VERBS)), (("good", w.GOOD_OBJECTS), ("bad", w.BAD_OBJECTS))
    ):
        if verb in verbs and obj in objects:
            return f"{kind} {value}"
    raise KeyError(f"the world has no request {verb!r} {obj!r}")


def pair_name(task: Task) -> str | None:
    """Return the verb and the object that a task is about; None if it is about no pair.

    >>> from lens_steer.organisms.tasks import Task
    >>> pair_name(Task("request", "plain", "", "", {"verb": "wreck", "object": "bridge"}))
    'wreck bridge'
    """
    return f"{task.truth['verb']} {task.truth['object']}" if _has_pair(task) else None


def _has_pair(task: Task) -> bool:
    return "verb" in task.truth and "object" in task.truth
