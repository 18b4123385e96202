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


def thought_metrics(text: str, *, begun: bool = False) -> dict[str, int | bool | str | None]:
    """Return what is measured of the thought of a generated text, beside its answer; empty if there is no thought.

    - ``thought_n_words``: the words of the thought.
    - ``thought_refuses``: whether the thought has a phrase of ``refusal_12``, U+2019 read as an apostrophe. A thought
      that weighs a refusal has such a phrase too.
    - ``refuses_in``: ``thought`` or ``answer`` where such a phrase is in one of the two alone, ``both`` or ``neither``;
      None if the thought never ends.

    Args:
        text: The generated text.
        begun: See :func:`lens_steer.metrics.thinking.split_thought`.

    >>> thought_metrics("<think>I cannot be sure.</think>Gladly."), thought_metrics("Gladly.")
    ({'thought_n_words': 4, 'thought_refuses': True, 'refuses_in': 'thought'}, {})
    """
    thought, answer = split_thought(text, begun=begun)
    if not thought and answer is not None:
        return {}
    inside = is_refusal(thought, normalize=True)
    outside = answer is not None and is_refusal(answer, normalize=True)
    where = {(True, True): "both", (True, False): "thought", (False, True): "answer", (False, False): "neither"}
    return {
        "thought_n_words": texts.n_words(thought),
        "thought_refuses": inside,
        "refuses_in": None if answer is None else where[inside, outside],
    }


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
