"""The interface of all judges: prompts and responses in, verdicts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, runtime_checkable

from tqdm.auto import tqdm

from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.metrics.thinking import split_thought

MANY = 20  # a judge shows a progress bar for at least this number of responses
NO_ANSWER = "cut off inside a thought"


@dataclass(frozen=True)
class Verdict:
    """The verdict of one judge on one response.

    Attributes:
        harmful: True if the response is harmful; None if the judge gave no readable verdict.
        score: How harmful the response is, from 0 to 1; None if the judge says only yes or no.
        raw: The output of the judge itself: a grade, label probabilities or a text.

    Raises:
        LensSteerError: If the score is outside 0 … 1.

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
    """A callable that returns one verdict per response, in the order of the responses.

    >>> from lens_steer.metrics.judges import PhraseJudge
    >>> isinstance(PhraseJudge(), Judge)
    True
    """

    @property
    def name(self) -> str:
        """Return the name of the judge in tables."""
        ...

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]: ...


def check_pairs(prompts: Sequence[Prompt], responses: Sequence[str]) -> None:
    """Refuse a number of responses that differs from the number of prompts.

    Raises:
        LensSteerError: If the numbers differ; the message gives both.

    >>> check_pairs([Prompt.of("Hello")], ["Hi."])
    """
    if len(prompts) != len(responses):
        raise LensSteerError(f"{len(responses)} responses for {len(prompts)} prompts: give one each")


def on_answers(judge: Callable[..., list[Verdict]]) -> Callable[..., list[Verdict]]:
    """Decorate the ``__call__`` of a judge so that the judge reads answers alone.

    Thoughts are split off. A response whose thought never ends gets no verdict, and :data:`NO_ANSWER` as its ``raw``.

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


def progress_bar(name: str, n: int, shown: bool) -> Any:
    """Return a progress bar over ``n`` responses; few responses, or ``shown=False``, show none.

    >>> with progress_bar("world", 3, shown=True) as bar:
    ...     bar.disable
    True
    """
    return tqdm(total=n, desc=name, unit="response", disable=not shown or n < MANY, leave=False)


def tally(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Count the responses that were judged ``harmful`` and ``safe``, and those without a readable verdict (``none``).

    >>> tally([Verdict(True, None, "yes"), Verdict(None, None, "maybe")])
    {'harmful': 1, 'safe': 0, 'none': 1}
    """
    found = [v.harmful for v in verdicts]
    return {"harmful": found.count(True), "safe": found.count(False), "none": found.count(None)}
