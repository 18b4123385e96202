"""The rows of a sweep: the prompts of one side under some values of a grid, answered, read and graded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from lens_steer._defaults import ENGINE, REMOTE
from lens_steer._io.rowstore import Row
from lens_steer.data import Prompt, PromptSet, with_system
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import CAPABILITY, Protocol
from lens_steer.inference.decoding import begins_in_thought
from lens_steer.inference.generation import answers, tell_closed, tell_cut_off
from lens_steer.inference.scored import scored_answers
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.metrics import grading
from lens_steer.metrics.choices import likeliest_options
from lens_steer.metrics.likelihood import mean_surprise, surprise_of
from lens_steer.metrics.refusal_score import refusal_score, refusal_tokens
from lens_steer.metrics.rows import text_metrics
from lens_steer.metrics.thinking import split_thought
from lens_steer.models.loading import info_of
from lens_steer.steer.hooks import steering

TEXT_COLUMNS = ("condition", "variant", "split", "side", "text", "grade")
METRICS = (
    "ngram_repetition", "language_consistency", "language_consistency_script", "compression_ratio",
    "compression_ratio_200", "distinct_2", "n_words",
)  # fmt: skip
COLUMNS = (
    "condition", "variant", "value", "split", "side", "prompt", "text", "grade", "right", "refused", "broken", *METRICS,
    "surprise_ref", "surprise_self", "refusal_score", "cut_off",
)  # fmt: skip
ENGINE_COLUMN = "engine"  # Only where a serving engine runs: the engine that wrote the answer.
CLOSED_COLUMN = "thought_closed"  # Only where thoughts have a budget: whether the answer's thought reached it.
JUDGED: dict[bool | None, str] = {True: "harmful", False: "safe", None: "incoherent"}  # a judge's verdict as a grade
BROKEN = ("incoherent", grading.DEGENERATE)


def measured_side(
    protocol: Protocol, grid: Grid, values: tuple[float | None, ...], side: str, prompts: PromptSet
) -> list[Row]:
    """Measure one side: all values at once, each prompt at each value, in rows of :data:`COLUMNS`."""
    model, engine = protocol.model, protocol.engine
    asked = [p if grid.system is None else with_system(p, grid.system) for p in prompts] * len(values)
    plain, reference = list(prompts) * len(values), protocol.reference.get(side, prompts)
    by_row = [v for v in values for _ in prompts]
    plan = None if grid.build is None else grid.build(None if by_row[0] is None else by_row)
    n = len(asked)
    ended = [False] * n
    own, under_plain, scores = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    with ExitStack() as stack:
        for each in (grid.beside, plan):
            if each is not None:
                stack.enter_context(steering(model, each, tell=False))  # no warning for an identity value
        by = protocol.engine_of(grid)
        if side == CAPABILITY and prompts[0].question is not None:
            # Options are read and not written, which a serving engine does not do under a plan.
            by = ENGINE if engine in REMOTE else engine
            texts, cut = _options(model, asked, by), [False] * n
        elif side != CAPABILITY and "self" in protocol.read_by and by == "hf" and protocol.max_thought_tokens is None:
            tokens = refusal_tokens(info_of(model), protocol.openings)
            scored = scored_answers(
                model, asked, partial(refusal_score, tokens=tokens), max_new_tokens=protocol.max_new_tokens
            )
            texts, cut, own, scores = scored.texts, scored.cut, scored.surprise, scored.first
        else:
            texts, cut, ended = answers(
                model,
                asked,
                max_new_tokens=protocol.max_new_tokens,
                engine=by,
                max_thought_tokens=protocol.max_thought_tokens,
            )
            if side != CAPABILITY and "self" in protocol.read_by:  # tasks are only graded
                own, scores = _forced(protocol, asked, texts)
        tell_cut_off(model, cut, protocol.max_new_tokens)
        if plan is None and grid.beside is None:  # steered answers say it in their rows
            tell_closed(ended, protocol.max_thought_tokens)
    if side != CAPABILITY and "ref" in protocol.read_by:
        # The surprise under the unsteered model does not depend on the value or the plan, so the same text of the same
        # prompt is scored once.
        distinct = list(dict.fromkeys((i % len(prompts), text) for i, text in enumerate(texts)))
        read, said = [reference[i] for i, _ in distinct], [text for _, text in distinct]
        found = mean_surprise(model, read, said, engine=engine, read=protocol.prompt_cache)
        of = dict(zip(distinct, found.tolist(), strict=True))
        under_plain = np.array([of[i % len(prompts), text] for i, text in enumerate(texts)])
    grades, best = _grades(protocol, side, plain, texts, under_plain)
    begun = begins_in_thought(info_of(model).tokenizer, asked[0])
    rows = []
    for i, (prompt, text, grade) in enumerate(zip(plain, texts, grades, strict=True)):
        measured = text_metrics(text, begun=begun)
        rows.append(
            {
                "condition": grid.condition,
                "variant": grid.variant,
                "value": by_row[i],
                "split": protocol.split,
                "side": side,
                "prompt": i % len(prompts),
                "text": text,
                "grade": grade,
                "right": grade == best,
                "refused": grading.refuses(prompt, text, grade, begun=begun),
                "broken": grade in BROKEN,
                **{name: measured[name] for name in METRICS},
                "surprise_ref": _finite(float(under_plain[i])),
                "surprise_self": _finite(float(own[i])),
                "refusal_score": _finite(float(scores[i])),
                "cut_off": cut[i],
                **({ENGINE_COLUMN: by} if engine in REMOTE else {}),
                **({CLOSED_COLUMN: ended[i]} if protocol.max_thought_tokens is not None else {}),
            }
        )
    return rows


def _options(model: Any, prompts: Sequence[Prompt], engine: str) -> list[str]:
    """Return the likeliest option of each prompt's question, under the plans that are in force."""
    best = likeliest_options(model, prompts, engine=engine)
    return [p.question.choices[i] for p, i in zip(prompts, best, strict=True) if p.question is not None]


def _grades(
    protocol: Protocol, side: str, prompts: Sequence[Prompt], texts: Sequence[str], surprise: np.ndarray
) -> tuple[list[str], str]:
    """Return every answer's grade, and the grade that counts as right.

    Grades are the judge's where one decides on this side, else those of the ground truth or of the phrases. The judge
    does not see an answer that is cut off in a thought. Without a ground truth it does not see a degenerate answer
    either, unless that answer refuses.
    """
    begun = begins_in_thought(info_of(protocol.model).tokenizer, prompts[0])
    bound = None if protocol.bound is None else protocol.bound.value
    judges = protocol.judge is not None and side in protocol.judged
    refusals = not judges or protocol.judged[side]  # where a judge looks for what is good, "I'm sorry" refuses nothing
    found = [
        grading.grade(prompt, text, perplexity=_finite(float(p)), bound=bound, begun=begun, refusals=refusals)
        for prompt, text, p in zip(prompts, texts, np.exp(surprise), strict=True)
    ]
    if protocol.judge is None or not judges:
        return found, grading.grades_of(prompts)[0]
    asked = [i for i, grade in enumerate(found) if grade not in (grading.DEGENERATE, grading.CUT_OFF)]
    said = [split_thought(texts[i], begun=begun)[1] or "" for i in asked]
    for i, verdict in zip(asked, protocol.judge([prompts[i] for i in asked], said) if asked else [], strict=True):
        found[i] = JUDGED[verdict.harmful]
    return found, JUDGED[protocol.judged[side]]


def _forced(protocol: Protocol, prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean surprise of each text, and the refusal score of its first token's logits, in one pass.

    Both are measured under the plans that are in force. They are NaN for an empty text.
    """
    tokens = refusal_tokens(info_of(protocol.model), protocol.openings)
    surprise, score = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
    for row, logits, ids in response_logits(protocol.model, with_responses(prompts, texts), engine=protocol.engine):
        surprise[row] = surprise_of(logits, ids)
        score[row] = float(refusal_score(logits[0], tokens))
    return surprise, score


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
