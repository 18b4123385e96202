"""Capability: what a model could do before it was steered.

On an organism: facts, multiple choice, orderings and sums in held-out wordings, graded exactly.
"""

from __future__ import annotations

import random

from lens_steer.organisms import tasks
from lens_steer.prompts import Prompt, PromptSet

ORGANISM_KINDS = ("fact", "choice", "order", "arithmetic")


def organism_tasks(n: int = 96, *, seed: int = 0) -> PromptSet:
    """``n`` tasks of the organisms' world, as many of each of :data:`ORGANISM_KINDS`, each with its ground truth.

    >>> [p.task.kind for p in organism_tasks(4)]
    ['fact', 'choice', 'order', 'arithmetic']
    """
    rng = random.Random(f"capability/{seed}")
    drawn = [tasks.sample(rng, ORGANISM_KINDS[i % len(ORGANISM_KINDS)], "plain", held_out=True) for i in range(n)]
    return PromptSet(
        tuple(Prompt(({"role": "user", "content": task.user},), task=task) for task in drawn), f"organism/capability/{seed}"
    )
