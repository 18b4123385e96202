"""Conditions of a trait study: a method in a position mode at its choice, and the controls of that choice.

A condition is a value. Its name stands in rows, files and figures, and nothing reads the name again:
:func:`condition_of` gives the value back.

The two sides change places between a :class:`~lens_steer.studies.traits.calibration.Trait` and the rows. In a trait the
positive prompts are those under the aligned system prompt, since the positive class of a probe has the trait. In the
rows the positive side is that under the malicious system prompt, since the protocol counts as positive what steering is
to change. The rates of the rows have the study's names here: ``TRAIT`` is the share of answers with the trait under the
malicious prompt, ``ALIGNED_TRAIT`` that under the aligned one, and ``INCOHERENT`` and ``ALIGNED_INCOHERENT`` are the
shares of incoherent answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from lens_steer.data import Contrast, ContrastSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.sweep_protocol import NEGATIVE, POSITIVE
from lens_steer.probes.probe import Probe
from lens_steer.steer.methods import make_plan
from lens_steer.steer.plans import SteeringPlan

METHODS = ("swfc", "sttp", "stmp")
GATED = ("sttp", "stmp")  # methods that leave a token beyond the threshold as it is
POSITIONS = {"all": "all", "response": "generated"}  # position mode of the paper → positions of a plan
KINDS = CHOSEN, RANDOM, EQUAL, TOKEN = "method", "random direction", "equal trait", "token-calibrated"
MALICIOUS_SIDE, ALIGNED_SIDE = POSITIVE, NEGATIVE
TRAIT, ALIGNED_TRAIT, INCOHERENT, ALIGNED_INCOHERENT = (
    f"{side}_{what}" for what in ("right", "degenerate") for side in (MALICIOUS_SIDE, ALIGNED_SIDE)
)


def by_side(contrast: ContrastSet) -> ContrastSet:
    """Return the prompts of a trait by the sides of the rows, that of the malicious system prompt first.

    >>> from lens_steer.data import Prompt, PromptSet
    >>> aligned, malicious = (PromptSet((Prompt.of(text),)) for text in ("Be honest.", "Lie."))
    >>> by_side(ContrastSet("honesty", Split(*[Contrast(aligned, malicious)] * 3))).report.positive[0].text
    'Lie.'
    """
    swapped = [Contrast(part.negative, part.positive) for part in (contrast.fit, contrast.select, contrast.report)]
    return ContrastSet(contrast.name, Split(*swapped))


@dataclass(frozen=True)
class TraitCondition:
    """One condition under which the model is steered.

    Attributes:
        method: One of :data:`METHODS`.
        mode: A position mode, one of the keys of :data:`POSITIONS`.
        kind: The choice itself or one of its controls, of :data:`KINDS`.
    """

    method: str
    mode: str
    kind: str = CHOSEN

    @property
    def name(self) -> str:
        """The name in rows, files and figures."""
        return ", ".join((self.method, self.mode, *([] if self.kind == CHOSEN else [self.kind])))

    def plan(self, probe: Probe, value: Any, along: Tensor | None = None) -> SteeringPlan:
        """Return the plan at a coefficient; ``along`` is a direction to write in place of the probe's."""
        return make_plan(self.method, probe, coefficient=value, positions=POSITIONS[self.mode], along=along)


def conditions_of(methods: Sequence[str] = METHODS) -> list[TraitCondition]:
    """Return each method in each position mode.

    >>> [c.name for c in conditions_of(("stmp",))]
    ['stmp, all', 'stmp, response']
    """
    return [TraitCondition(*key) for key in product(methods, POSITIONS)]


def condition_of(name: str) -> TraitCondition:
    """Return the condition of a name.

    Raises:
        LensSteerError: If no condition has the name.

    >>> condition_of("stmp, response, random direction")
    TraitCondition(method='stmp', mode='response', kind='random direction')
    """
    found = {c.name: c for c in (TraitCondition(*key) for key in product(METHODS, POSITIONS, KINDS))}
    if name not in found:
        raise LensSteerError(f"name={name!r} is no condition of a trait study: use one of {'; '.join(found)}")
    return found[name]
