"""Checks of a contrast's prompts before anything is computed: too few, repeated, in both classes, or not held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from lens_steer.data.prompts import PromptSet

FEW = 16  # The number of prompts of a class in fit below which class means vary strongly with the draw.
CLASSES = ("positive", "negative")

Parts = Mapping[str, tuple[PromptSet, PromptSet]]


def contrast_cautions(parts: Parts) -> tuple[str, ...]:
    """Return one line for each problem of a contrast's prompts.

    Args:
        parts: Both classes of ``fit``, ``select`` and ``report``.

    >>> from lens_steer.data.prompts import Prompt
    >>> one, none = PromptSet((Prompt.of("Hello"),)), PromptSet(())
    >>> contrast_cautions({"fit": (one, one), "select": (none, none), "report": (none, none)})[0]
    '1 prompt stands in both classes: leave it out of one'
    """
    found = []
    keys = [[[(p.hash, p.response) for p in part[i]] for part in parts.values()] for i in range(2)]
    classes = [{key for part in side for key in part} for side in keys]
    if both := len(classes[0] & classes[1]):
        found.append(f"{_prompts(both)} in both classes: leave {'it' if both == 1 else 'them'} out of one")
    for name, side in zip(CLASSES, keys, strict=True):
        more = [n - 1 for part in side for n in Counter(part).values() if n > 1]
        if more:
            found.append(
                f"{name}: {_prompts(len(more))} more than once ({_rows(sum(more))} too many); every row counts"
            )
    found += few_cautions(parts["fit"])
    for first, second in (("fit", "select"), ("fit", "report"), ("select", "report")):
        seen = {h for side in parts[first] for h in side.hashes}
        shared = [held_out_overlap(seen, side) for side in parts[second]]
        if any(shared):
            found.append(
                f"{first} and {second} share {shared[0]} positive and {shared[1]} negative prompts:"
                f" numbers of {second} are not held out for these"
            )
    return tuple(found)


def few_cautions(fit: tuple[PromptSet, PromptSet]) -> tuple[str, ...]:
    """Return a line for each class with few prompts in fit; these lines only matter if something is fitted.

    >>> from lens_steer.data.prompts import Prompt
    >>> few_cautions((PromptSet(()), PromptSet((Prompt.of("a"), Prompt.of("b")))))
    ('negative: 2 prompts in fit are few: class means vary much with the draw below 16',)
    """
    found = []
    for name, side in zip(CLASSES, fit, strict=True):
        if len(side) == 1:
            found.append(
                f"{name}: one prompt in fit: its class mean is that one prompt's activation; give at least {FEW}"
            )
        elif 1 < len(side) < FEW:
            found.append(f"{name}: {len(side)} prompts in fit are few: class means vary much with the draw below {FEW}")
    return tuple(found)


def held_out_overlap(seen: Collection[str], prompts: PromptSet) -> int:
    """Return how many of the prompts were already seen, by their hashes.

    >>> from lens_steer.data.prompts import Prompt
    >>> held_out_overlap({Prompt.of("a").hash}, PromptSet((Prompt.of("a"), Prompt.of("b"), Prompt.of("a"))))
    2
    """
    known = set(seen)
    return sum(h in known for h in prompts.hashes)


def overlap_counts(seen: Collection[str], parts: Mapping[str, Sequence[PromptSet]]) -> dict[str, tuple[int, int]]:
    """Return for each part how many of its prompts were already seen, and how many prompts it has.

    >>> from lens_steer.data.prompts import Prompt
    >>> overlap_counts({Prompt.of("a").hash}, {"report": [PromptSet((Prompt.of("a"),)), PromptSet((Prompt.of("b"),))]})
    {'report': (1, 2)}
    """
    return {name: (sum(held_out_overlap(seen, s) for s in sets), sum(map(len, sets))) for name, sets in parts.items()}


def fitted_overlap(
    seen: Collection[str], parts: Mapping[str, Sequence[PromptSet]], source: str = "calibration"
) -> str | None:
    """Return one line that says how many prompts of each part were used to make a calibration; None if there are none.

    Args:
        seen: The hashes of the prompts from which it was made.
        parts: The prompt sets, by the name of their part.
        source: The name of what was made.

    >>> from lens_steer.data.prompts import Prompt
    >>> a, b = Prompt.of("a"), Prompt.of("b")
    >>> fitted_overlap({a.hash}, {"select": [PromptSet((b,))], "report": [PromptSet((a, b))]})
    '1 of 2 report prompts is among those that the calibration was made from: results on it are not held out'
    """
    counts = overlap_counts(seen, parts)
    found = [f"{n} of {of} {name} prompts".replace("  ", " ") for name, (n, of) in counts.items() if n]
    if not found:
        return None
    one = sum(n for n, _ in counts.values()) == 1
    return (
        f"{' and '.join(found)} {'is' if one else 'are'} among those that the {source} was made from:"
        f" results on {'it' if one else 'them'} are not held out"
    )


def _prompts(n: int) -> str:
    return "1 prompt stands" if n == 1 else f"{n} prompts stand"


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"
