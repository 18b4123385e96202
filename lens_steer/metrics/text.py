"""Metrics of a text alone: repetition, language, compression, variety, length.

Words are what ``str.split`` gives. Sources: Selective Steering (arXiv 2601.19375), Eqs. 40–42 and its released code;
distinct-n: Li et al. (arXiv 1510.03055).
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence
from typing import Literal

from lens_steer.errors import LensSteerError

LanguageMode = Literal["paper_code", "script"]
COMMON = ("Zyyy", "Zinh")  # ISO 15924: common and inherited, which every script uses


def ngram_repetition(text: str, n: int = 4) -> float:
    """``(N − distinct) / N`` over the text's N word n-grams (Eq. 40); 0 for fewer than n words.

    >>> ngram_repetition("a b a b a b", 2)
    0.6

    Raises:
        LensSteerError: n below 1.
    """
    grams = _ngrams(text, n)
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def distinct_n(texts: str | Sequence[str], n: int = 2) -> float:
    """Distinct n-grams over all n-grams of one text or of several together; 1 where there is none.

    >>> distinct_n(["a b c", "a b d"])
    0.75

    Raises:
        LensSteerError: n below 1.
    """
    grams = [gram for text in ([texts] if isinstance(texts, str) else texts) for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def language_consistency(text: str, mode: LanguageMode = "paper_code", script: str = "Latn") -> float:
    """Share of the characters that are not white space which belong to the expected language (Eq. 41); 1 where there is
    none.

    Args:
        text: any.
        mode: ``"paper_code"``: ASCII, or a Unicode name that begins with LATIN, as the released code has it, to which a
            typographic quote, a dash or an emoji is foreign. ``"script"``: the character's Unicode script is
            ``script``, common or inherited (a combining accent), to which they are not.
        script: ISO 15924 code of the expected script, in ``"script"`` mode.

    Raises:
        LensSteerError: an unknown mode or script.

    >>> (
    ...     language_consistency("it’s"),
    ...     language_consistency("it’s", "script"),
    ...     language_consistency("да", "script", "Cyrl"),
    ... )
    (0.75, 1.0, 1.0)
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
    """Bytes after ``zlib`` at level 9 over bytes before, in UTF-8 (Eq. 42); 1 for an empty text.

    Low for repetition, but also the lower the longer a text is, and above 0.7 for any short one;
    :func:`compression_ratio_controlled` takes length out.

    >>> compression_ratio("ab" * 500) < 0.05 < 0.9 < compression_ratio("I cannot help with that.")
    True
    """
    raw = text.encode()
    return len(zlib.compress(raw, 9)) / len(raw) if raw else 1.0


def compression_ratio_controlled(text: str, n_bytes: int = 200) -> float | None:
    """:func:`compression_ratio` of the first ``n_bytes`` bytes alone, so that texts of all lengths compare; None for a
    shorter text.

    >>> (
    ...     compression_ratio_controlled("short") is None,
    ...     compression_ratio_controlled("ab" * 500) == compression_ratio_controlled("ab" * 100),
    ... )
    (True, True)

    Raises:
        LensSteerError: ``n_bytes`` below 1.
    """
    if n_bytes < 1:
        raise LensSteerError(f"n_bytes={n_bytes}: at least 1 is needed")
    raw = text.encode()
    return len(zlib.compress(raw[:n_bytes], 9)) / n_bytes if len(raw) >= n_bytes else None


def n_words(text: str) -> int:
    """Number of words.

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
