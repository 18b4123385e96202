"""What is read once, against reading it again: options after one reading of the question, scores of an answer while it
is written, and the tokens that all prompts of a batch share.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import lens_steer as ls
from lens_steer.data import Prompt, PromptSet
from lens_steer.data.general import general_questions
from lens_steer.inference import shared_prefix
from lens_steer.inference.continuations import continuation_logs
from lens_steer.inference.generation import answers
from lens_steer.inference.scored import scored_answers
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.metrics.likelihood import surprise_of
from lens_steer.metrics.refusal_score import refusal_scores_by_value
from tests.benchmarks.timing import Ratio, ratio, run


def options(name: str, model: Any, questions: int, turns: int) -> list[Ratio]:
    """Four options of each question."""
    prompts = [Prompt.asking(q) for q in general_questions(questions)]
    said = [[p.question.choices[i] for p in prompts if p.question is not None] for i in range(4)]

    def once() -> None:
        continuation_logs(model, prompts, said)

    def again() -> None:
        for texts in said:
            for _, logits, ids in response_logits(model, with_responses(prompts, texts)):
                surprise_of(logits, ids)

    seconds = run({"the question once": once, "the question again for each": again}, turns)
    case = f"four options of {questions} questions, engine hf, {name}"
    return [ratio(case, seconds, "the question once", "the question again for each", 1)]


def scores(name: str, model: Any, calibration: ls.Calibration, prompts: PromptSet, new: int, turns: int) -> list[Ratio]:
    """Answers under a plan, with the perplexity of each under the same plan."""
    plan = ls.selective_steering(calibration, 90)

    def written() -> None:
        with ls.steering(model, plan):
            scored_answers(model, prompts, lambda logits: logits.amax(dim=-1), max_new_tokens=new)

    def read() -> None:
        with ls.steering(model, plan):
            texts = answers(model, prompts, max_new_tokens=new).texts
            for _, logits, ids in response_logits(model, with_responses(prompts, texts)):
                surprise_of(logits, ids)

    seconds = run({"scored while written": written, "read again": read}, turns)
    case = f"{len(prompts)} answers of up to {new} new tokens with their perplexity, engine hf, {name}"
    return [ratio(case, seconds, "scored while written", "read again", 1)]


def shared(name: str, model: Any, calibration: ls.Calibration, prompts: PromptSet, turns: int) -> list[Ratio]:
    """Refusal scores at four angles, the beginning of the prompts read once for each angle or in every row."""
    build = partial(ls.selective_steering, calibration)

    def once() -> None:
        refusal_scores_by_value(model, build, [60.0, 120.0, 180.0, 240.0], prompts)

    def again() -> None:
        with patch.object(shared_prefix, "MIN_TOKENS", model.lens_info.n_ctx):
            once()

    seconds = run({"shared tokens once": once, "in every row": again}, turns)
    case = f"refusal scores of {len(prompts)} prompts at 4 angles, engine hf, {name}"
    return [ratio(case, seconds, "shared tokens once", "in every row", 1)]
