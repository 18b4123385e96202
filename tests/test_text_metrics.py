"""Text metrics against the published generations' expected values, and on texts whose values can be counted by hand."""

from __future__ import annotations

import gzip
import json
import string
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_steer.errors import LensSteerError
from lens_steer.metrics import text as metrics
from lens_steer.metrics.refusal import PHRASES, is_refusal
from lens_steer.metrics.rows import text_metrics

WORDS = st.lists(st.sampled_from(["a", "b", "cat", "dog"]), max_size=30)


def test_every_expected_value_of_the_reference_rows(reference: Path) -> None:
    """Exactly, in every row whose text is there; and the verdicts that were stored at the sources."""
    rows = [
        json.loads(line)
        for path in sorted((reference / "text").rglob("*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]
    compared = 0
    for row in rows:
        text, expected = row["text"], row["expected"]
        if text is None:
            continue
        compared += 1
        found = text_metrics(text)
        for n in (2, 3, 4):
            assert metrics.ngram_repetition(text, n) == pytest.approx(expected[f"ngram_repetition_n{n}"], abs=1e-12)
        assert found["ngram_repetition"] == pytest.approx(expected["ngram_repetition_n4"], abs=1e-12)
        assert found["language_consistency"] == pytest.approx(expected["language_consistency"], abs=1e-12)
        assert found["compression_ratio"] == pytest.approx(expected["compression_ratio_zlib9"], abs=1e-12)
        assert found["n_words"] == expected["n_words"]
        assert found["refusal_12"] == (expected["jailbreak_substring12"] == 0)
        assert found["refusal_12_normalized"] == (expected["jailbreak_substring12_after_u2019_to_apostrophe"] == 0)
        assert found["refusal_15"] == (expected["refusal_substring15"] == 1)
        stored = row.get("stored") or {}
        for key in ("substring_matching", "is_jailbreak_substring_matching"):
            if key in stored:
                assert found["refusal_12"] == (stored[key] == 0)
    assert compared > 1000


@given(WORDS, st.integers(1, 5))
def test_repetition_counts_what_comes_again(words: list[str], n: int) -> None:
    """The share of n-grams that are a second, third, … occurrence; distinct-n is the rest of it."""
    text = " ".join(words)
    grams = Counter(" ".join(words[i : i + n]) for i in range(max(0, len(words) - n + 1)))
    again = sum(count - 1 for count in grams.values())
    total = sum(grams.values())
    assert metrics.ngram_repetition(text, n) == (again / total if total else 0)
    assert metrics.distinct_n(text, n) + metrics.ngram_repetition(text, n) == pytest.approx(1)
    assert metrics.distinct_n([text, text], n) == pytest.approx(metrics.distinct_n(text, n) / 2 if total else 1)


def test_language() -> None:
    """What is foreign to the released code and what to Unicode's scripts."""
    for common in ("“so” it’s", "a — b … •", "fine 🙂", "naïve café", "5 € ≤ 6"):
        assert metrics.language_consistency(common, "script") == 1.0
    assert metrics.language_consistency("🙂 ok") == pytest.approx(2 / 3)
    assert metrics.language_consistency("naïve") == 1.0
    for mode in ("paper_code", "script"):
        assert metrics.language_consistency("ab да", mode) == 0.5  # type: ignore[arg-type]
        assert metrics.language_consistency("漢字", mode) == 0.0  # type: ignore[arg-type]
        assert metrics.language_consistency(" \n", mode) == 1.0  # type: ignore[arg-type]
    assert metrics.language_consistency("e\u0301", "script") == 1.0  # a combining accent is inherited
    with pytest.raises(LensSteerError, match="mode='paper': use paper_code or script"):
        metrics.language_consistency.__wrapped__("a", "paper")  # type: ignore[attr-defined]
    with pytest.raises(LensSteerError, match="script='Latin': give an ISO 15924 code"):
        metrics.language_consistency("a", "script", "Latin")


@given(st.text(alphabet=string.printable, max_size=400))
def test_compression(text: str) -> None:
    """Within the few bytes of gzip's own header of gzip; of equal length under control."""
    raw = text.encode()
    if raw:
        assert len(gzip.compress(raw, 9)) - metrics.compression_ratio(text) * len(raw) == pytest.approx(12)
    controlled = metrics.compression_ratio_controlled(text, 100)
    assert (controlled is None) == (len(raw) < 100)
    assert controlled == metrics.compression_ratio_controlled(text + text, 100) or controlled is None
    assert metrics.compression_ratio("") == 1.0


def test_compression_under_control_has_no_length_left() -> None:
    """A long text compresses better than its beginning; under control they are alike."""
    words = (
        "the quick brown fox jumps over the lazy dog while forty two purple elephants sing about distant mountains "
        "and rivers "
    )
    short, long = (words * 3)[:240], (words * 20)
    assert metrics.compression_ratio(long) < metrics.compression_ratio(short) / 2
    assert metrics.compression_ratio_controlled(long) == metrics.compression_ratio_controlled(short)


def test_refusal_lists() -> None:
    """Each phrase is found anywhere, in any case where the list says so, at the beginning only where that is asked."""
    for name, phrases in PHRASES.items():
        for phrase in phrases:
            assert is_refusal(f"Well, {phrase} x", name)
            assert is_refusal(f"Well, {phrase} x".upper(), name) == (name != "refusal_qi")
            assert not is_refusal("z" * 50 + phrase, name, first=50)
        assert not is_refusal("The sky is blue.", name)
    assert [is_refusal(" ", name) for name in PHRASES] == [False, False, True]
    assert is_refusal("I can’t", "refusal_qi", normalize=True) and not is_refusal("I can’t", "refusal_qi")
    with pytest.raises(LensSteerError, match="phrases='refusal_99': use one of refusal_12"):
        is_refusal("x", "refusal_99")
    with pytest.raises(LensSteerError, match="first=0"):
        is_refusal("x", first=0)


def test_bad_numbers() -> None:
    """Named, with the value."""
    with pytest.raises(LensSteerError, match="n=0: an n-gram has at least 1 word"):
        metrics.ngram_repetition("a b", 0)
    with pytest.raises(LensSteerError, match="n_bytes=0"):
        metrics.compression_ratio_controlled("a", 0)
