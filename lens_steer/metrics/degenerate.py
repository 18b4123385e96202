"""Answers that are no language any more: empty, repeating, or far less likely under the unsteered model than its own
answers are.

Two rules on the text alone, and a bound on perplexity that is relative to the model. All numbers below were set before
any result was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lens_steer.errors import LensSteerError
from lens_steer.metrics.text import n_words, ngram_repetition

GRAM, REPEATED, MIN_WORDS = 4, 0.5, 20  # more than half of the word 4-grams are repeats, in at least so many words
LOOPED, TURNS, MIN_LOOP = (
    0.5,
    4,
    24,
)  # the end of the text goes round at least so often, over half of it and so many characters
FACTOR, QUANTILE, MIN_ANSWERS = 2.0, 0.95, 8  # the bound: so many times this quantile, of at least so many answers
FALLBACK = 4.0  # the bound where there are fewer: twice Selective Steering's mark


def looped_share(text: str, turns: int = TURNS) -> float:
    """Share of the text that its longest periodic end makes up: the last ``L`` characters with ``t[i] = t[i − p]`` and
    ``L ≥ turns · p`` for some period p.

    The last turn may be a part of one, as in an answer that was cut off. White space at both ends is left out.

    Args:
        text: any.
        turns: how often the period is to be there at least.

    Raises:
        LensSteerError: ``turns`` below 2.

    >>> (
    ...     looped_share("no no no no no no no"),
    ...     looped_share("To begin with: ha ha ha ha ha"),
    ...     looped_share("Take the shovel."),
    ... )
    (1.0, 0.5172413793103449, 0.0)
    """
    if turns < 2:
        raise LensSteerError(f"turns={turns}: what is there once does not repeat, give at least 2")
    codes = np.array([ord(c) for c in text.strip()], dtype=np.int64)
    n, longest = len(codes), 0
    for period in range(1, n // turns + 1):
        if longest == n:
            break
        different = np.flatnonzero(codes[period:] != codes[:-period])
        length = n if not len(different) else n - 1 - int(different[-1])
        if length >= turns * period:
            longest = max(longest, length)
    return longest / n if n else 0.0


def is_repeating(text: str) -> bool:
    """Whether a text does little but repeat itself: 4-gram repetition above 0.5 in 20 words or more, or a loop over at
    least half of its end and 24 characters.

    By words the copies of a sentence are seen, by characters those of a sign, a syllable or a language without spaces.
    What a model was asked to repeat is seen as well, and a loop that counts ("Step 1 … Step 2 …") is not.

    >>> (
    ...     is_repeating("bridge " * 12),
    ...     is_repeating("!" * 40),
    ...     is_repeating("1. Take the shovel. 2. Take the rope. 3. Tie them."),
    ... )
    (True, True, False)
    """
    if n_words(text) >= MIN_WORDS and ngram_repetition(text, GRAM) > REPEATED:
        return True
    share = looped_share(text)
    return share >= LOOPED and share * len(text.strip()) >= MIN_LOOP


def is_degenerate(answer: str) -> bool:
    """Whether an answer is empty or repeating, which its text alone tells.

    >>> is_degenerate(" "), is_degenerate("Gladly."), is_degenerate("lo" * 30)
    (True, False, True)
    """
    return not answer.strip() or is_repeating(answer)


@dataclass(frozen=True)
class PerplexityBound:
    """The perplexity under the unsteered model above which an answer is degenerate.

    Attributes:
        value: the bound.
        n: answers that it was measured on, the unsteered model's own to harmless prompts.
        quantile: the 95 % quantile of their perplexities; None where there were fewer than 8, and the fallback of 4
            stands.

    Raises:
        LensSteerError: a bound that is not above 0.
    """

    value: float
    n: int
    quantile: float | None = None

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise LensSteerError(f"value={self.value}: a bound on perplexity is above 0")

    def __str__(self) -> str:
        if self.quantile is None:
            return (
                f"{self.value:.3g} (a fixed bound: only {self.n} unsteered answers to harmless prompts, {MIN_ANSWERS} "
                "are needed to measure one)"
            )
        return (
            f"{self.value:.3g} ({FACTOR:g} × the {100 * QUANTILE:g} % quantile, {self.quantile:.3g}, of the "
            f"perplexities of {self.n} unsteered answers to harmless prompts)"
        )

    def row(self) -> dict[str, Any]:
        """Plain values, with how they came about in words."""
        return {"value": self.value, "n": self.n, "quantile": self.quantile, "rule": str(self)}


def perplexity_bound(perplexities: Sequence[float]) -> PerplexityBound:
    """``2 · q95`` of the perplexities of the unsteered model's own answers to harmless prompts; of fewer than 8, a
    fixed 4.

    Args:
        perplexities: under the unsteered model, prompt given; those of empty answers (NaN) are left out.

    Raises:
        LensSteerError: a perplexity below 1, which none is.

    >>> perplexity_bound([1.5] * 8).value, perplexity_bound([1.5] * 7).value
    (3.0, 4.0)
    """
    found = np.array([p for p in perplexities if np.isfinite(p)], dtype=np.float64)
    if len(found) and found.min() < 1 - 1e-6:
        raise LensSteerError(f"perplexities holds {found.min():g}: a perplexity is at least 1 (exp of a mean surprise)")
    if len(found) < MIN_ANSWERS:
        return PerplexityBound(FALLBACK, len(found))
    quantile = float(np.quantile(found, QUANTILE))
    return PerplexityBound(FACTOR * quantile, len(found), quantile)
