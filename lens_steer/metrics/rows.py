"""Columns that ``lens-steer metrics`` adds to a row of generations."""

from __future__ import annotations

from lens_steer.metrics import text as texts
from lens_steer.metrics.degenerate import is_degenerate
from lens_steer.metrics.refusal import PHRASES, is_refusal
from lens_steer.metrics.thinking import split_thought


def text_metrics(text: str, *, begun: bool = False) -> dict[str, float | int | bool | None]:
    """Return every metric that needs the text alone, by column name.

    Thoughts are split off first, and the metrics describe the answer. If the thought never ends, all values are None.

    Args:
        text: The generated text.
        begun: See :func:`lens_steer.metrics.thinking.split_thought`.

    >>> text_metrics("I can’t help.")["refusal_12"], text_metrics("I can’t help.")["refusal_12_normalized"]
    (False, True)
    >>> [text_metrics(text)["refusal_12"] for text in ("<think>I cannot be sure.</think>Gladly.", "<think>I cannot")]
    [False, None]
    """
    answer = split_thought(text, begun=begun)[1]
    return _measured(answer) if answer is not None else dict.fromkeys(_measured(""), None)


def _measured(text: str) -> dict[str, float | int | bool | None]:
    refusals = {
        f"{name}{suffix}": is_refusal(text, name, normalize=bool(suffix))
        for name in PHRASES
        for suffix in ("", "_normalized")
    }
    return {
        "ngram_repetition": texts.ngram_repetition(text),
        "language_consistency": texts.language_consistency(text),
        "language_consistency_script": texts.language_consistency(text, "script"),
        "compression_ratio": texts.compression_ratio(text),
        "compression_ratio_200": texts.compression_ratio_controlled(text),
        "distinct_2": texts.distinct_n(text),
        "n_words": texts.n_words(text),
        "degenerate": is_degenerate(text),
        **refusals,
    }
