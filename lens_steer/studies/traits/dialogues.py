"""A trait over dialogues: several scenarios one after the other under one system prompt, each answer graded.

We did not find how the paper measures repetition. Here repetition is two numbers: the share of words of an answer that
stand in repeated n-grams (counted as the code of Selective Steering counts them), and the share of answers from the
second turn on that equal an earlier answer of their dialogue word for word.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.dialogue import Dialogue, converse
from lens_steer.interop.serving.adapters import engine_for
from lens_steer.metrics import grading
from lens_steer.metrics.degenerate import is_degenerate
from lens_steer.metrics.judges import Judge
from lens_steer.metrics.rows import text_metrics
from lens_steer.models.loading import info_of
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import grouped_mean
from lens_steer.stats.rates import grouped_rate
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan

TURNS = (5, 10)  # smallest and largest number of turns of a dialogue
ALIGNED, MALICIOUS = "aligned, no steering", "malicious, no steering"


@dataclass(frozen=True)
class Script:
    """A dialogue, and the scenarios of its turns.

    Attributes:
        aligned, malicious: The same dialogue under each of the two system prompts.
        scenarios: One scenario per turn, under the aligned prompt.
    """

    aligned: Dialogue
    malicious: Dialogue
    scenarios: tuple[Prompt, ...]


def scripts(
    model: Any, aligned: PromptSet, malicious: PromptSet, n: int, *, max_new_tokens: int, seed: int = 0
) -> list[Script]:
    """Draw ``n`` dialogues of 5 to 10 turns from paired scenarios.

    A dialogue has fewer turns where the context or the number of scenarios does not allow more.

    Args:
        model: A model from :func:`lens_steer.load_model`, for its tokenizer and context length.
        aligned, malicious: The same scenarios, row by row, under the two system prompts.
        n: Number of dialogues.
        max_new_tokens: Largest number of tokens of each answer.
        seed: Seed of the draw.

    Raises:
        LensSteerError: If there are fewer than 5 scenarios, or if the context is too short for the shortest dialogue.
    """
    if len(aligned) < TURNS[0]:
        raise LensSteerError(
            f"dialogues of {TURNS[0]} turns need as many scenarios, and there are {len(aligned)}: give more, or "
            "no dialogues"
        )
    info, rng = info_of(model), random.Random(f"dialogues/{seed}")

    def length(text: str) -> int:
        return len(info.tokenizer(text, add_special_tokens=False)["input_ids"])

    longest = max(length(p.text) for p in aligned) + max_new_tokens + MARKUP
    head = max(length(_system(p) or "") for side in (aligned, malicious) for p in side)
    # The longest turn is the longest scenario, its answer and the chat template around it. ``room`` is the number of
    # such turns that fit into the context after the longest system prompt, so no dialogue exceeds it.
    room = (info.n_ctx - head - MARKUP) // longest
    if room < TURNS[0]:
        raise LensSteerError(
            f"a dialogue of {TURNS[0]} turns needs {TURNS[0] * longest + head + MARKUP} tokens, and the context "
            f"has {info.n_ctx}: lower max_new_tokens={max_new_tokens}"
        )
    made = []
    for _ in range(n):
        picked = rng.sample(range(len(aligned)), rng.randint(TURNS[0], min(TURNS[1], room, len(aligned))))
        turns = tuple(aligned[i].text for i in picked)
        good, bad = (Dialogue(turns, _system(side[picked[0]])) for side in (aligned, malicious))
        made.append(Script(good, bad, tuple(aligned[i] for i in picked)))
    return made


MARKUP = 16  # upper bound on the tokens of the chat template around one turn


def talk(
    model: Any,
    made: Sequence[Script],
    plans: Mapping[str, SteeringPlan],
    judge: Judge | None,
    *,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
) -> list[dict[str, Any]]:
    """Run every dialogue under every condition and return one row per answer.

    The conditions are no steering under both system prompts, and each plan under the malicious one.
    """
    runs: dict[str, tuple[list[Dialogue], SteeringPlan | None]] = {
        ALIGNED: ([s.aligned for s in made], None),
        MALICIOUS: ([s.malicious for s in made], None),
        **{name: ([s.malicious for s in made], plan) for name, plan in plans.items()},
    }
    rows: list[dict[str, Any]] = []
    for name, (dialogues, plan) in runs.items():
        with nullcontext() if plan is None else steering(model, plan):
            by = engine_for(plan, engine)
            answers = converse(model, dialogues, max_new_tokens=max_new_tokens, engine=by)
        for d, (script, texts) in enumerate(zip(made, answers, strict=True)):
            grades = _grades(script.scenarios, texts, judge)
            for turn, (text, grade) in enumerate(zip(texts, grades, strict=True)):
                rows.append(
                    {
                        "condition": name,
                        "dialogue": d,
                        "turn": turn,
                        "prompt": script.scenarios[turn].text,
                        "text": text,
                        "right": grade is True,
                        "broken": grade is None,
                        "repeated": bool(text.strip()) and text in texts[:turn],
                        "ngram_repetition": text_metrics(text)["ngram_repetition"],
                    }
                )
    return rows


def over_dialogues(rows: Sequence[Mapping[str, Any]], name: str, *, seed: int = 0) -> dict[str, Estimate]:
    """Return the results of one condition, with dialogues as the independent units.

    The names are ``dialogue_trait``, ``dialogue_coherence``, ``dialogue_repeated`` and ``dialogue_ngram_repetition``.
    """
    own = [r for r in rows if r["condition"] == name]
    groups = [str(r["dialogue"]) for r in own]
    later = [r for r in own if r["turn"] > 0]
    return {
        "dialogue_trait": grouped_rate(np.array([r["right"] for r in own]), groups),
        "dialogue_coherence": grouped_rate(np.array([not r["broken"] for r in own]), groups),
        "dialogue_repeated": grouped_rate(
            np.array([r["repeated"] for r in later]), [str(r["dialogue"]) for r in later]
        ),
        "dialogue_ngram_repetition": grouped_mean(
            np.array([float(r["ngram_repetition"]) for r in own]), groups, seed=seed
        ),
    }


def _grades(scenarios: Sequence[Prompt], texts: Sequence[str], judge: Judge | None) -> list[bool | None]:
    """Return for each answer whether it shows the trait; None for an incoherent answer.

    With a judge, an answer that is empty or repeats itself is incoherent, too.
    """
    if judge is not None:
        verdicts = zip(judge(scenarios, texts), texts, strict=True)
        return [None if v.harmful is None or is_degenerate(text) else not v.harmful for v, text in verdicts]
    best = grading.grades_of(scenarios)[0]
    found = [grading.grade(p, t) for p, t in zip(scenarios, texts, strict=True)]
    return [None if g == "incoherent" else g == best for g in found]


def _system(prompt: Prompt) -> str | None:
    return next((m["content"] for m in prompt.messages if m["role"] == "system"), None)
