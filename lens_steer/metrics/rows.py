"""What ``lens-steer metrics`` adds to a row of generations."""

from __future__ import annotations

from lens_steer.metrics import text as texts
from lens_steer.metrics.refusal import PHRASES, is_refusal


def text_metrics(text: str) -> dict[str, float | int | bool | None]:
    """Every metric that needs the text alone, by column.

    >>> text_metrics("I can’t help.")["refusal_12"], text_metrics("I can’t help.")["refusal_12_normalized"]
    (False, True)
    """
    refusals = {
        f"{name}{suffix}": is_refusal(text, name, normalize=bool(suffix)) for name in PHRASES for suffix in ("", "_normalized")
    }
    return {
        "ngram_repetition": texts.ngram_repetition(text),
        "language_consistency": texts.language_consistency(text),
        "language_consistency_script": texts.language_consistency(text, "script"),
        "compression_ratio": texts.compression_ratio(text),
        "compression_ratio_200": texts.compression_ratio_controlled(text),
        "distinct_2": texts.distinct_n(text),
        "n_words": texts.n_words(text),
        **refusals,
    }
