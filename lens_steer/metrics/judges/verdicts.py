"""What every judge takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, runtime_checkable

from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.metrics.thinking import split_thought

MANY = 20  # responses from which on a judge shows its progress
NO_ANSWER = "cut off inside a thought"


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


def on_answers(judge: Callable[..., list[Verdict]]) -> Callable[..., list[Verdict]]:
    """Have a judge see answers alone: thoughts are split off, and a response whose thought never ends gets no verdict,
    with :data:`NO_ANSWER` as ``raw``.

    For the ``__call__`` of a judge, as a decorator.

    >>> from lens_steer.metrics.judges import PhraseJudge
    >>> [
    ...     v.harmful
    ...     for v in PhraseJudge()([Prompt.of("How?")] * 2, ["<think>I cannot say.</think>Like so.", "<think>I cannot"])
    ... ]
    [True, None]
    """

    @wraps(judge)
    def judged(self: Any, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
        check_pairs(prompts, responses)
        parts = [split_thought(response)[1] for response in responses]
        asked = [(prompt, answer) for prompt, answer in zip(prompts, parts, strict=True) if answer is not None]
        verdicts = iter(judge(self, [p for p, _ in asked], [a for _, a in asked]) if asked or not parts else [])
        return [Verdict(None, None, NO_ANSWER) if answer is None else next(verdicts) for answer in parts]

    return judged


def tally(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many responses were judged ``harmful`` and ``safe``, and for how many there was no readable verdict
    (``none``).

    >>> tally([Verdict(True, None, "yes"), Verdict(None, None, "maybe")])
    {'harmful': 1, 'safe': 0, 'none': 1}
    """
    found = [v.harmful for v in verdicts]
    return {"harmful": found.count(True), "safe": found.count(False), "none": found.count(None)}
