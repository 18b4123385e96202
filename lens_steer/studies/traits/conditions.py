"""Conditions of a trait study: a method in a position mode at its choice, and the controls of that choice.

A condition is a value. Its name stands in rows, files and figures, and nothing reads the name again:
:func:`condition_of` gives the value back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.sweeps import NEGATIVE, POSITIVE
from lens_steer.probes.probe import Probe
from lens_steer.steer.methods import make_plan
from lens_steer.steer.plans import SteeringPlan

METHODS = ("swfc", "sttp", "stmp")
GATED = ("sttp", "stmp")  # methods that leave a token beyond the threshold as it is
POSITIONS = {"all": "all", "response": "generated"}  # position mode of the paper → positions of a plan
KINDS = CHOSEN, RANDOM, EQUAL, TOKEN = "method", "random direction", "equal trait", "token-calibrated"
# The sides of the rows: the protocol counts the prompts that steering is to change as its positive side.
MALICIOUS_SIDE, ALIGNED_SIDE = POSITIVE, NEGATIVE


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
