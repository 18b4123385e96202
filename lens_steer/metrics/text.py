"""Metrics of a text alone: repetition, language, compression, variety of words, length.

Words are the parts that ``str.split`` returns. Sources: Selective Steering (arXiv 2601.19375), Eqs. 40–42, and its
released code; distinct-n: Li et al. (arXiv 1510.03055).
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence
from typing import Literal

from lens_steer.errors import LensSteerError

LanguageMode = Literal["paper_code", "script"]
COMMON = ("Zyyy", "Zinh")  # ISO 15924 codes for common and inherited characters, which every script uses


def ngram_repetition(text: str, n: int = 4) -> float:
    """Return ``(N − distinct) / N`` over the N word n-grams of a text (Eq. 40).

    A text of fewer than n words has the value 0.

    >>> ngram_repetition("a b a b a b", 2)
    0.6

    Raises:
        LensSteerError: If ``n`` is below 1.
    """
    grams = _ngrams(text, n)
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def shared_ngrams(text: str, earlier: Sequence[str], n: int = 4) -> float:
    """Return the share of the word n-grams of a text that stand in one of the earlier texts too.

    A text of fewer than n words has the value 0.

    >>> shared_ngrams("a b c d", ["b c d", "x a b"], 2), shared_ngrams("a b c d", [], 2)
    (1.0, 0.0)

    Raises:
        LensSteerError: If ``n`` is below 1.
    """
    grams, known = _ngrams(text, n), {gram for other in earlier for gram in _ngrams(other, n)}
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def distinct_n(texts: str | Sequence[str], n: int = 2) -> float:
    """Return the number of distinct word n-grams over the number of all n-grams, of one text or of several together.

    The value is 1 if there is no n-gram.

    >>> distinct_n(["a b c", "a b d"])
    0.75

    Raises:
        LensSteerError: If ``n`` is below 1.
    """
    grams = [gram for text in ([texts] if isinstance(texts, str) else texts) for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def language_consistency(text: str, mode: LanguageMode = "paper_code", script: str = "Latn") -> float:
    """Return the share of non-space characters that belong to the expected language (Eq. 41).

    The value is 1 if there is no such character.

    Args:
        text: Any text.
        mode: With ``"paper_code"``, a character counts if it is ASCII or if its Unicode name begins with LATIN, as in
            the released code; typographic quotes, dashes and emoji do not count. With ``"script"``, a character counts
            if its Unicode script is ``script``, common or inherited (such as a combining accent); typographic quotes,
            dashes and emoji count.
        script: The ISO 15924 code of the expected script, for mode ``"script"``.

    Raises:
        LensSteerError: If the mode or the script is unknown.

    >>> language_consistency("it’s"), language_consistency("it’s", "script"), language_consistency("да", "script")
    (0.75, 1.0, 0.0)
    """
    if mode not in ("paper_code", "script"):
        raise LensSteerError(f"mode={mode!r}: use paper_code or script")
    characters = [c for c in text if not c.isspace()]
    if mode == "script":
        from fontTools import unicodedata as scripts

        try:
            scripts.script_name(script)
        except KeyError:
            raise LensSteerError(f"script={script!r}: give an ISO 15924 code such as Latn, Cyrl or Hani") from None
        return _share([scripts.script(c) in (script, *COMMON) for c in characters])
    return _share([c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in characters])


def compression_ratio(text: str) -> float:
    """Return the size of a text after ``zlib`` at level 9 over its size before, in bytes of UTF-8 (Eq. 42).

    The value is 1 for an empty text. It is low for a repetitive text, but it also falls with the length of a text, and
    it is above 0.7 for any short one. :func:`compression_ratio_controlled` removes the effect of length.

    >>> compression_ratio("ab" * 500) < 0.05 < 0.9 < compression_ratio("I cannot help with that.")
    True
    """
    raw = text.encode()
    return len(zlib.compress(raw, 9)) / len(raw) if raw else 1.0


def compression_ratio_controlled(text: str, n_bytes: int = 200) -> float | None:
    """Return the :func:`compression_ratio` of the first ``n_bytes`` bytes, which does not depend on length.

    Texts of different lengths can be compared by it. The value is None for a shorter text.

    >>> compression_ratio_controlled("ab" * 500) == compression_ratio_controlled("ab" * 100)
    True

    Raises:
        LensSteerError: If ``n_bytes`` is below 1.
    """
    if n_bytes < 1:
        raise LensSteerError(f"n_bytes={n_bytes}: at least 1 is needed")
    raw = text.encode()
    return len(zlib.compress(raw[:n_bytes], 9)) / n_bytes if len(raw) >= n_bytes else None


def n_words(text: str) -> int:
    """Return the number of words.

    >>> n_words("two  words")
    2
    """
    return len(text.split())


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise LensSteerError(f"n={n}: an n-gram has at least 1 word")
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 1.0
