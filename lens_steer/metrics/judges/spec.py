"""Judges from one word or from a small JSON file, for the command line.

The word is ``world`` or the name of a phrase list. The file gives the ``kind`` of judge and its arguments::

    {
        "kind": "endpoint",
        "model": "some-model",
        "base_url": "http://localhost:8000/v1",
        "template": "honesty.txt",
        "harmful_pattern": "LIE",
        "safe_pattern": "TRUE",
    }
    {"kind": "classifier", "model": "path/or/hub-name", "harmful_labels": ["toxic"]}
    {
        "kind": "generative",
        "model": "path/or/hub-name",
        "template": "ask.txt",
        "harmful_pattern": "^yes",
        "safe_pattern": "^no",
    }
    {"kind": "preset", "preset": "llama_guard"}
    {"kind": "pattern", "safe_pattern": "sorry to hear|understand how you feel"}

The file must not hold a key. The key of an endpoint is read from the environment.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.metrics.judges.classifier import ClassifierJudge
from lens_steer.metrics.judges.endpoint import LLMJudge
from lens_steer.metrics.judges.generative import GenerativeJudge
from lens_steer.metrics.judges.presets import preset_judge
from lens_steer.metrics.judges.rules import PatternJudge, PhraseJudge, WorldJudge
from lens_steer.metrics.judges.verdicts import Judge
from lens_steer.metrics.refusal import PHRASES

KINDS: dict[str, Callable[..., Judge]] = {
    "classifier": ClassifierJudge,
    "endpoint": LLMJudge,
    "generative": GenerativeJudge,
    "pattern": PatternJudge,
    "preset": preset_judge,
}
HOW = f"give world, {', '.join(PHRASES)}, or a .json file with a kind ({', '.join(KINDS)}) and its arguments"


def judge_of(spec: str | Path) -> Judge:
    """Return the judge that a word or a file describes.

    Relative paths of ``template`` and ``cache`` are relative to the folder of the file.

    Raises:
        LensSteerError: If ``spec`` is neither a known word nor a file, if the file is not JSON of this form, if a kind
            or an argument is unknown, or if the file holds a key. Also for the reasons of the judge itself.

    >>> judge_of("refusal_15").name
    'refusal_15'
    """
    word = str(spec)
    if word == "world":
        return WorldJudge()
    if word in PHRASES:
        return PhraseJudge(word)
    path = Path(spec)
    if path.suffix != ".json" or not path.is_file():
        raise LensSteerError(f"judge {word!r} is neither a known word nor a file: {HOW}")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LensSteerError(f"judge file {word!r} is not valid JSON: {error}") from None
    if not isinstance(given, dict) or given.get("kind") not in KINDS:
        raise LensSteerError(f"judge file {word!r}: {HOW}")
    options: dict[str, Any] = {k: v for k, v in given.items() if k != "kind"}
    for name in ("template", "cache"):
        if isinstance(options.get(name), str) and (name == "cache" or (path.parent / options[name]).is_file()):
            options[name] = path.parent / options[name]
    if "api_key" in options:
        raise LensSteerError(
            f"judge file {word!r} holds an api_key: name the environment variable that holds it, with api_key_env"
        )
    make = KINDS[given["kind"]]
    try:
        signature(make).bind(**options)
    except TypeError as error:
        raise LensSteerError(
            f"judge file {word!r}: {error}; {given['kind']} takes {', '.join(signature(make).parameters)}"
        ) from None
    return make(**options)
