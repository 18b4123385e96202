"""Degenerate answers: empty, repeating, or far less likely under the unsteered model than its own answers.

Two rules read the text alone. A third one is a bound on perplexity, relative to the model. All numbers below were set
before any result was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lens_steer.errors import LensSteerError
from lens_steer.metrics.text import n_words, ngram_repetition

# A text of at least MIN_WORDS words is repeating if more than a share REPEATED of its word GRAM-grams are repeats.
GRAM, REPEATED, MIN_WORDS = 4, 0.5, 20
# A text is also repeating if its periodic end repeats a period at least TURNS times, covers at least a share LOOPED of
# the text, and has at least MIN_LOOP characters.
LOOPED, TURNS, MIN_LOOP = 0.5, 4, 24
# The bound on perplexity is FACTOR times this quantile, if there are at least MIN_ANSWERS answers to measure it on.
FACTOR, QUANTILE, MIN_ANSWERS = 2.0, 0.95, 8
# With fewer answers the bound is twice the perplexity above which Selective Steering marks an angle.
FALLBACK = 4.0


def looped_share(text: str, turns: int = TURNS) -> float:
    """Return the share of a text that its longest periodic end makes up.

    The periodic end is the last ``L`` characters with ``t[i] = t[i − p]`` and ``L ≥ turns · p`` for some period p. The
    last repetition may be incomplete, as in an answer that was cut off. White space at both ends of the text is
    ignored.

    Args:
        text: Any text.
        turns: The smallest number of repetitions of the period.

    Raises:
        LensSteerError: If ``turns`` is below 2.

    >>> [looped_share(text) for text in ("no no no no no no no", "To begin with: ha ha ha ha ha", "Take the shovel.")]
    [1.0, 0.5172413793103449, 0.0]
    """
    if turns < 2:
        raise LensSteerError(f"turns={turns}: what is there once does not repeat, give at least 2")
    codes = np.array([ord(c) for c in text.strip()], dtype=np.int64)
    n, longest = len(codes), 0
    for period in range(1, n // turns + 1):
        if longest == n:
            break
        # The periodic end begins after the last index i with t[i + p] ≠ t[i]; without one, the whole text is periodic.
        different = np.flatnonzero(codes[period:] != codes[:-period])
        length = n if not len(different) else n - 1 - int(different[-1])
        if length >= turns * period:
            longest = max(longest, length)
    return longest / n if n else 0.0


def is_repeating(text: str) -> bool:
    """Return True if a text does little but repeat itself.

    That is the case if more than half of its word 4-grams are repeats, in a text of 20 words or more, or if its
    periodic end covers at least half of the text and 24 characters.

    The rule on words finds repeated sentences. The rule on characters finds repeated signs and syllables, and
    repetition in languages without spaces. Repetition that the prompt asked for also counts. Repetition with a running
    number ("Step 1 … Step 2 …") is not found.

    >>> [is_repeating(text) for text in ("bridge " * 12, "!" * 40, "1. Take the shovel. 2. Take the rope.")]
    [True, True, False]
    """
    if n_words(text) >= MIN_WORDS and ngram_repetition(text, GRAM) > REPEATED:
        return True
    share = looped_share(text)
    return share >= LOOPED and share * len(text.strip()) >= MIN_LOOP


def is_degenerate(answer: str) -> bool:
    """Return True if an answer is empty or repeating, judged by its text alone.

    >>> is_degenerate(" "), is_degenerate("Gladly."), is_degenerate("lo" * 30)
    (True, False, True)
    """
    return not answer.strip() or is_repeating(answer)


@dataclass(frozen=True)
class PerplexityBound:
    """The perplexity under the unsteered model above which an answer is degenerate.

    Attributes:
        value: The bound.
        n: The number of answers that the bound was measured on, the unsteered model's own answers to harmless prompts.
        quantile: The 95 % quantile of the perplexities of these answers. None if there were fewer than 8 answers; the
            bound is then the fallback of 4.
        of: What these answers are to, for the sentence on how the bound was measured.

    Raises:
        LensSteerError: If the bound is not above 0.
    """

    value: float
    n: int
    quantile: float | None = None
    of: str = "harmless prompts"

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise LensSteerError(f"value={self.value}: a bound on perplexity is above 0")

    def __str__(self) -> str:
        if self.quantile is None:
            return (
                f"{self.value:.3g} (a fixed bound: only {self.n} unsteered answers to {self.of}, {MIN_ANSWERS} "
                "are needed to measure one)"
            )
        return (
            f"{self.value:.3g} ({FACTOR:g} × the {100 * QUANTILE:g} % quantile, {self.quantile:.3g}, of the "
            f"perplexities of {self.n} unsteered answers to {self.of})"
        )

    def row(self) -> dict[str, Any]:
        """Return the bound as a dict of plain values, with a sentence on how it was measured."""
        return {"value": self.value, "n": self.n, "quantile": self.quantile, "rule": str(self)}


def perplexity_bound(perplexities: Sequence[float]) -> PerplexityBound:
    """Return the bound ``2 · q95`` on perplexity, with q95 the 95 % quantile of the given perplexities.

    With fewer than 8 perplexities the bound is fixed at 4.

    Args:
        perplexities: The perplexities, under the unsteered model and given the prompt, of this model's own answers to
            harmless prompts. Those that are not finite (NaN for an empty answer) are left out.

    Raises:
        LensSteerError: If a perplexity is below 1, which is impossible.

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
