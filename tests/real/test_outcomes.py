"""On a pretrained model: answers of a model that collapsed are called degenerate, those of the model as it is are
not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.data import Prompt
from lens_steer.evaluation.bounds import measured_bound
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.metrics.degenerate import PerplexityBound
from lens_steer.metrics.grading import ANSWERED, DEGENERATE, REFUSED, outcome_of
from lens_steer.metrics.likelihood import mean_surprise

FOLDER = os.environ.get("LENS_STEER_REAL_MODELS", "")
NAME = "qwen2.5-coder-0.5b-instruct"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (Path(FOLDER or "absent").expanduser() / NAME).exists(),
        reason=f"LENS_STEER_REAL_MODELS names no folder with {NAME}",
    ),
]
# two classes that differ in what is asked for; nothing harmful is needed to see a model collapse
ABOUT_FOOD = [
    "How do I bake a sourdough loaf?",
    "Give me a recipe for lentil soup.",
    "What goes well with roasted carrots?",
    "How long do I boil an egg?",
    "Suggest three toppings for a pizza.",
    "How do I keep basil fresh?",
    "What can I cook from leftover rice?",
    "How is yoghurt made?",
    "Write a shopping list for a picnic.",
    "Why does bread rise?",
    "How do I make a vinaigrette?",
    "Name two ways to cook fennel.",
]
ABOUT_TOWNS = [
    "Why do cities grow along rivers?",
    "How is a bridge inspected?",
    "Describe a small harbour in two sentences.",
    "What does a town clerk do?",
    "How do I read a bus timetable?",
    "Why are some roofs flat?",
    "Suggest a name for a public park.",
    "How does a lock on a canal work?",
    "What makes a street safe to cycle on?",
    "Why do lighthouses differ in colour?",
    "How is a tunnel aired?",
    "Name two kinds of crossroads.",
]
TOKENS = 32


@pytest.fixture(scope="module")
def coder() -> Any:
    return ls.load_model(Path(FOLDER).expanduser() / NAME, dtype="bfloat16")


@pytest.fixture(scope="module")
def calibration(coder: Any) -> Any:
    return ls.calibrate(
        ls.record(
            coder,
            ls.Contrast(ls.PromptSet(_prompts(ABOUT_FOOD), "food"), ls.PromptSet(_prompts(ABOUT_TOWNS), "towns")),
            "norm_out",
        )
    )


@pytest.fixture(scope="module")
def bound(coder: Any, tmp_path_factory: pytest.TempPathFactory) -> PerplexityBound:
    contrast = ls.Contrast(ls.PromptSet(_prompts(ABOUT_FOOD), "food"), ls.PromptSet(_prompts(ABOUT_TOWNS), "towns"))
    protocol = Protocol(coder, contrast, "select", ls.PromptSet(()), max_new_tokens=TOKENS, read_by=("ref",))
    found = measured_bound(protocol, tmp_path_factory.mktemp("bound"), progress=False)
    assert found is not None
    return found


def graded(coder: Any, texts: list[str], bound: PerplexityBound) -> tuple[list[str], list[float]]:
    """Grades of answers to the prompts about food, and their perplexities under the unsteered model."""
    perplexities = np.exp(mean_surprise(coder, _prompts(ABOUT_FOOD), texts)).tolist()
    pairs = zip(texts, perplexities, strict=True)
    return [outcome_of(text, perplexity=p, bound=bound.value) for text, p in pairs], perplexities


def _prompts(texts: list[str]) -> tuple[Prompt, ...]:
    return tuple(map(Prompt.of, texts))


def test_the_model_as_it_is_answers(coder: Any, bound: PerplexityBound) -> None:
    """Prompts that the bound was not measured on: none degenerate."""
    texts = ls.generate(coder, ABOUT_FOOD, max_new_tokens=TOKENS)
    grades, perplexities = graded(coder, texts, bound)
    assert grades.count(DEGENERATE) == 0, sorted(perplexities)
    assert grades.count(ANSWERED) >= 0.5 * len(texts)  # it is a model for code, and says so of a few of them
    assert bound.n == len(ABOUT_TOWNS)


@pytest.mark.parametrize("kind", ["act-add", "standard on all norm outputs"])
def test_a_model_that_collapsed_is_degenerate(coder: Any, calibration: Any, bound: PerplexityBound, kind: str) -> None:
    """No phrase of refusal is in what it writes, and still hardly any of it is called an answer."""
    plan = (
        ls.act_add(calibration, coefficient=16.0)
        if kind == "act-add"
        else ls.standard_angular(calibration, 90, at="norm_out")
    )
    with ls.steering(coder, plan):
        texts = ls.generate(coder, ABOUT_FOOD, max_new_tokens=TOKENS)
    grades, perplexities = graded(coder, texts, bound)
    assert grades.count(DEGENERATE) >= 0.75 * len(texts), (bound, [f"{p:.1f}" for p in perplexities], grades)
    assert grades.count(REFUSED) <= 1
