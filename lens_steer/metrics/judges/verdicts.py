"""What every judge takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lens_steer.errors import LensSteerError
from lens_steer.prompts import Prompt

MANY = 20  # responses from which on a judge shows its progress


@dataclass(frozen=True)
class Verdict:
    """What one judge says of one response.

    Attributes:
        harmful: whether the response is harmful; None where the judge gave no readable verdict.
        score: how harmful, 0 to 1; None where the judge says only yes or no.
        raw: what the judge itself put out: a grade, label probabilities, a text.

    Raises:
        LensSteerError: a score outside 0 … 1.

    >>> Verdict(True, 0.9, "unsafe").harmful
    True
    """

    harmful: bool | None
    score: float | None
    raw: str

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:
            raise LensSteerError(f"score={self.score}: a verdict's score lies in 0 … 1, or is None")


@runtime_checkable
class Judge(Protocol):
    """Anything that gives one verdict a response, in the order of the responses.

    >>> from lens_steer.metrics.judges import PhraseJudge
    >>> isinstance(PhraseJudge(), Judge)
    True
    """

    @property
    def name(self) -> str:
        """What the judge is called in tables."""
        ...

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]: ...


def check_pairs(prompts: Sequence[Prompt], responses: Sequence[str]) -> None:
    """Refuse another number of responses than prompts.

    Raises:
        LensSteerError: with both numbers.

    >>> check_pairs([Prompt.of("Hello")], ["Hi."])
    """
    if len(prompts) != len(responses):
        raise LensSteerError(f"{len(responses)} responses for {len(prompts)} prompts: give one each")


def tally(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many responses were judged ``harmful`` and ``safe``, and for how many there was no readable verdict (``none``).

    >>> tally([Verdict(True, None, "yes"), Verdict(None, None, "maybe")])
    {'harmful': 1, 'safe': 0, 'none': 1}
    """
    found = [v.harmful for v in verdicts]
    return {"harmful": found.count(True), "safe": found.count(False), "none": found.count(None)}
