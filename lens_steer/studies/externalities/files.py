"""Material for the study of side effects from a user's own prompt files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split, load_contrast, load_prompts
from lens_steer.errors import LensSteerError
from lens_steer.metrics.judges import Judge
from lens_steer.studies.externalities.material import Material, in_the_splits_of, places_of
from lens_steer.studies.externalities.tokens import HARMFUL

log = logging.getLogger(__name__)

# Continuations of this project; those of the paper, and its request for JSON, are not published.
COMPLYING = ("Sure, I can do that. Here is", "Yes, of course. First,", "Gladly. The answer is")
REFUSING = (
    "Sorry, that is something I won't do.",
    "No, I am not able to help here.",
    "I have to decline this request.",
)
JSON_REQUEST = "Reply with a single JSON object and nothing else."
SPLIT = (0.5, 0.25, 0.25)  # default shares of fit, select and report
_NAMES = ("fit", "select", "report")


def file_material(
    positive: str | Path | PromptSet,
    negative: str | Path | PromptSet,
    *,
    complying: str | Path | PromptSet | None = None,
    refusing: str | Path | PromptSet | None = None,
    json_asked: str | Path | PromptSet | None = None,
    json_plain: str | Path | PromptSet | None = None,
    responses: str | Path | PromptSet | None = None,
    benign_responses: str | Path | PromptSet | None = None,
    unrestricted: str | None = None,
    judge: Judge | None = None,
    harmful_name: str = HARMFUL,
    split: Sequence[float | int] = SPLIT,
    seed: int = 0,
) -> Material:
    """Build the material of a study from prompt files (formats: :mod:`lens_steer.data`) or prompt sets.

    Args:
        positive, negative: Harmful and harmless prompts.
        complying, refusing: The same harmless prompts row by row, with a complying and with a refusing ``response``. If
            both are None, the harmless prompts of the fit split take :data:`COMPLYING` and :data:`REFUSING` in turn.
        json_asked, json_plain: Prompts row by row with and without a request for JSON. ``json_plain`` alone is used
            with :data:`JSON_REQUEST` and as it is; if both are None, so are the harmless prompts of each split.
        responses: Harmful prompts with a fixed complying ``response``, for the divergences. Files that
            ``lens-steer steer`` wrote are accepted too. None: see
            :class:`~lens_steer.studies.externalities.material.Material`.
        benign_responses: Harmless prompts with a fixed ``response``; None uses the unsteered model's own answers.
        unrestricted, judge, harmful_name: See :class:`~lens_steer.studies.externalities.material.Material`.
        split: Shares of fit, select and report.
        seed: Seed of the split.

    Raises:
        LensSteerError: If only one file of a pair is given, if the files of a pair have different lengths, if a row has
            no response, or if no prompt is left for the report split.

    >>> from lens_steer.data import Prompt
    >>> sides = [PromptSet(tuple(Prompt.of(f"{word} {i}?") for i in range(8)), word) for word in ("harm", "help")]
    >>> found = file_material(*sides)
    >>> (
    ...     found.json.report.positive[0].text.endswith(JSON_REQUEST),
    ...     found.compliance.fit.negative[0].response == REFUSING[0],
    ... )
    (True, True)
    """
    refusal = load_contrast(positive=positive, negative=negative, split=split, seed=seed)
    if _both("complying", complying, "refusing", refusing):
        sides = [_answered(name, source) for name, source in (("complying", complying), ("refusing", refusing))]
        _check_pairs("complying", sides[0], "refusing", sides[1])
        pairs = in_the_splits_of(load_contrast(positive=sides[0], negative=sides[1]), refusal)
    else:
        pairs = _continued(refusal)
    if json_asked is None and json_plain is None:
        requests = ContrastSet("json", Split(*(_requested(getattr(refusal, s).negative) for s in _NAMES)))
    else:
        pair = _json_pairs(json_asked, json_plain)
        given = load_contrast(positive=pair.positive, negative=pair.negative, split=split, seed=seed)
        requests = in_the_splits_of(given, refusal)
    fixed = [
        None if source is None else held_out(_answered(name, source), refusal, name)
        for name, source in (("responses", responses), ("benign_responses", benign_responses))
    ]
    return Material(
        pairs,
        requests,
        refusal,
        harmful_responses=fixed[0],
        benign_responses=fixed[1],
        unrestricted=unrestricted,
        judge=judge,
        harmful_name=harmful_name,
    )


def held_out(prompts: PromptSet, main: ContrastSet, name: str) -> PromptSet:
    """Return the prompts that are in neither the fit nor the select split of a contrast, on any side.

    A warning in the log counts the prompts that are left out.

    Raises:
        LensSteerError: If no prompt is left.
    """
    place = places_of(main)
    kept = tuple(p for p in prompts if place.get(p.group, "report") == "report")
    if not kept:
        raise LensSteerError(
            f"{name} {prompts.name!r}: all {len(prompts)} prompts are in the fit or select split of "
            f"{main.name!r}: give others, or another seed"
        )
    if len(kept) < len(prompts):
        log.warning(
            "%s: left out %d of %d prompts, which are in the fit or select split",
            name,
            len(prompts) - len(kept),
            len(prompts),
        )
    return PromptSet(kept, prompts.name)


def _continued(refusal: ContrastSet) -> ContrastSet:
    """Return the harmless fit prompts with a complying and with a refusing beginning of an answer."""
    prompts = refusal.fit.negative
    sides = [
        PromptSet(tuple(replace(p, response=texts[i % len(texts)]) for i, p in enumerate(prompts)), name)
        for name, texts in (("complying", COMPLYING), ("refusing", REFUSING))
    ]
    empty = Contrast(PromptSet((), "complying"), PromptSet((), "refusing"))
    return ContrastSet("compliance", Split(Contrast(sides[0], sides[1]), empty, empty))


def _requested(prompts: PromptSet) -> Contrast:
    """Return the prompts with a request for JSON (positive) and as they are (negative).

    The request stands at the end of the last user message.
    """
    return Contrast(PromptSet(tuple(_asking(p) for p in prompts), f"{prompts.name}, JSON"), prompts)


def _json_pairs(json_asked: Any, json_plain: Any) -> Contrast:
    """Return given prompts with and without a request for JSON; both of a pair fall into the same split."""
    if json_plain is None:
        raise LensSteerError("json_plain is missing: json_asked is paired with it row by row, give both")
    plain = _read(json_plain)
    if json_asked is None:
        return _requested(plain)
    asked = _read(json_asked)
    _check_pairs("json_asked", asked, "json_plain", plain)
    together = (replace(a, scenario=p.group) for a, p in zip(asked, plain, strict=True))
    return Contrast(PromptSet(tuple(together), asked.name), plain)


def _asking(prompt: Prompt) -> Prompt:
    last = max(i for i, m in enumerate(prompt.messages) if m["role"] == "user")
    messages = [
        {"role": m["role"], "content": f"{m['content']} {JSON_REQUEST}"} if i == last else m
        for i, m in enumerate(prompt.messages)
    ]
    return Prompt(tuple(messages), scenario=prompt.group)


def _read(source: Any) -> PromptSet:
    return source if isinstance(source, PromptSet) else load_prompts(source, response=("response", "text"))


def _answered(name: str, source: Any) -> PromptSet:
    prompts = _read(source)
    missing = next((i for i, p in enumerate(prompts, start=1) if p.response is None or not p.response.strip()), None)
    if missing is not None:
        raise LensSteerError(
            f"{name} {prompts.name!r}, row {missing} has no response: give every row a prompt and a response"
        )
    return prompts


def _both(first: str, one: Any, second: str, other: Any) -> bool:
    if (one is None) != (other is None):
        absent = second if other is None else first
        raise LensSteerError(f"{absent} is missing: {first} and {second} are paired row by row, give both or neither")
    return one is not None


def _check_pairs(first: str, one: PromptSet, second: str, other: PromptSet) -> None:
    if len(one) != len(other):
        raise LensSteerError(
            f"{first} has {len(one)} rows and {second} {len(other)}: they are paired row by row, give as many of each"
        )
