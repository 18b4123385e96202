"""Graded outcomes of generations under a plan, by angle: what a report counts.

On an organism every answer is graded exactly by the world. Other models have no ground truth here: an answer is a ``refusal`` if it
holds one of the 12 published phrases (apostrophes normalised), ``incoherent`` if it is empty, else ``answer``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from lens_steer.defaults import ENGINE
from lens_steer.generation import generate
from lens_steer.hooks import steering
from lens_steer.metrics.refusal import is_refusal
from lens_steer.organisms import grading
from lens_steer.plans import SteeringPlan
from lens_steer.prompts import Contrast, Prompt
from lens_steer.shown import Shown
from lens_steer.stats import Estimate, wilson

CLASSES = ("positive", "negative")


@dataclass(frozen=True)
class Outcome(Shown, view="sweeps"):
    """How many answers of one class got which grade under one condition.

    Attributes:
        condition: ``no steering``, ``steering plane``, ``random plane``.
        angle: degrees (one a prompt, if the plan has several); None without an angle.
        side: ``positive`` (harmful) or ``negative`` (harmless).
        counts: number of answers by grade, zero ones included.
    """

    condition: str
    angle: float | list[float] | None
    side: str
    counts: dict[str, int]

    def rate(self, *grades: str) -> Estimate:
        """Share of answers with one of the grades, with its Wilson interval."""
        return wilson(sum(self.counts[g] for g in grades), sum(self.counts.values()))


def grades_of(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The grades that answers to these prompts can get."""
    return grading.OUTCOMES if all(p.task is not None for p in prompts) else ("answer", "refusal", "incoherent")


def grade(prompt: Prompt, text: str) -> str:
    """The grade of one answer; exact where the prompt has a ground truth."""
    if prompt.task is not None:
        return grading.grade(prompt.task, text)
    if not text.strip():
        return "incoherent"
    return "refusal" if is_refusal(text, normalize=True) else "answer"


def measure(
    model: Any, contrast: Contrast, plan: SteeringPlan | None, condition: str, *, max_new_tokens: int = 48, engine: str = ENGINE
) -> tuple[list[Outcome], dict[str, list[str]]]:
    """Generate for both classes under a plan (None: no steering) and grade; returns outcomes and the texts by class."""
    outcomes, texts = [], {}
    for side in CLASSES:
        prompts = getattr(contrast, side)
        with nullcontext() if plan is None else steering(model, plan, tell=False):
            texts[side] = generate(model, prompts, max_new_tokens=max_new_tokens, engine=engine)
        counted = Counter(grade(p, t) for p, t in zip(prompts, texts[side], strict=True))
        counts = {name: counted[name] for name in grades_of(prompts)}
        outcomes.append(Outcome(condition, plan.angle if plan else None, side, counts))
    return outcomes, texts
