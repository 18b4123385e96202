"""What is read once, against reading it again: options after one reading of the question, scores of an answer while it
is written.
"""

from __future__ import annotations

from typing import Any

import lens_steer as ls
from lens_steer.data import Prompt, PromptSet
from lens_steer.data.general import general_questions
from lens_steer.inference.continuations import continuation_logs
from lens_steer.inference.generation import answers
from lens_steer.inference.scored import scored_answers
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.metrics.likelihood import surprise_of
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
            texts, _ = answers(model, prompts, max_new_tokens=new)
            for _, logits, ids in response_logits(model, with_responses(prompts, texts)):
                surprise_of(logits, ids)

    seconds = run({"scored while written": written, "read again": read}, turns)
    case = f"{len(prompts)} answers of up to {new} new tokens with their perplexity, engine hf, {name}"
    return [ratio(case, seconds, "scored while written", "read again", 1)]
