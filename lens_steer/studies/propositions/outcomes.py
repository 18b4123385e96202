"""Outcomes by which conditions are compared, differences paired by prompt, and whether an effect could be seen."""

from __future__ import annotations

from dataclasses import dataclass

from lens_steer.stats.estimates import Estimate
from lens_steer.studies.propositions.experiments import UNSTEERED, Experiments
from lens_steer.studies.propositions.measured import Measured, paired
from lens_steer.studies.verdicts import SMALLEST


@dataclass(frozen=True)
class Outcome:
    """A quantity by which two conditions are compared.

    Attributes:
        name: Field of :class:`Measured` that holds the values.
        said: Verb phrase for what the first condition is claimed to do more than the second.
        quantity: Description of the difference.
        sign: 1 where a larger value is better, −1 where a smaller one is.
    """

    name: str
    said: str
    quantity: str
    sign: int


OUTCOMES = (
    Outcome("positive_right", "elicits more", "difference of harmful compliance", 1),
    Outcome(
        "surprise",
        "gives answers of lower perplexity",
        "difference of log-perplexity of both classes' answers under the unsteered model",
        -1,
    ),
    Outcome("capable", "keeps more capability", "difference of the share of capability tasks done right", 1),
)


def claim_id(question: str, outcome: str, *, at_nominal: bool) -> str:
    """Return a claim's id: ``relative-angle``, ``nominal-relative-angle``, ``nominal-capable-relative-angle``, …"""
    return ("nominal-" if at_nominal else "") + ("" if outcome == "positive_right" else f"{outcome}-") + question


def is_seen(found: Experiments, outcome: str, *, seed: int = 0) -> bool:
    """Return whether the experiments could have seen an effect on an outcome.

    They could if a condition at its own angle, chosen on select, differs from no steering by the smallest effect of
    interest or more, with an interval that is joint for all conditions.
    """
    measured = {name: m for name, m in found.at(nominal=False).items() if not m.tied}
    unsteered, others = measured.pop(UNSTEERED, None), list(measured.values())
    if unsteered is None:
        return False
    made = [difference(m, unsteered, outcome, seed, comparisons=len(others)) for m in others]
    return any(e is not None and max(e.low, -e.high) >= SMALLEST for e in made)


def difference(
    a: Measured, b: Measured, outcome: str = "positive_right", seed: int = 0, *, comparisons: int = 1
) -> Estimate | None:
    """Compare two conditions on the same prompts.

    Args:
        a, b: The conditions.
        outcome: The name of an :class:`Outcome`.
        seed: Seed of the bootstrap.
        comparisons: The number of comparisons for which the interval holds at 95 % together (Bonferroni).

    Returns:
        The mean of ``a − b`` with the interval of :func:`lens_steer.stats.differences.paired_difference`; None if no
        prompt has a value under both conditions.
    """
    return paired(a, b, outcome, level=1 - 0.05 / comparisons, seed=seed)
