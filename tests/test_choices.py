"""Multiple choice: letters' probabilities against plain Hugging Face forwards, one question at a time; the questions'
file; first logits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt
from lens_steer.data.choices import LETTERS, Choice, ChoiceSet, load_choices
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.inference.teacher_forcing import first_logits, first_logits_by_batch
from lens_steer.metrics.choices import _letter_tokens, choice_accuracy
from tests.test_parity import PROMPTS as PARITY

ITEMS = [
    Choice("Which of these is a colour?", ("seven", "red"), 1, "words"),
    Choice("How many is that?", ("one", "two", "three", "four"), 2),
    Choice("And which {of} these?", tuple("abcdefghij"), 9, "letters"),
    Choice("b", ("c", "d", "e"), 0),
]
PROMPTS = [Prompt.of("a short one"), Prompt.of("a rather longer one, with words"), Prompt.of("b", response="not read")]


@pytest.fixture(scope="module")
def plan(tiny: Any) -> Any:
    """A plan in a random plane of the tiny model's stream."""
    calibration = ls.calibrate(ls.record(tiny, Contrast(PARITY[:2], PARITY[2:]), "resid_post", progress=False))
    return ls.selective_steering(calibration, 130, at="resid_post", basis=random_plane(48, seed=3))


def alone(oracle: Any, prompt: Prompt) -> torch.Tensor:
    """The first answer token's logits from a plain forward of one unpadded prompt."""
    model, tokenizer = oracle
    with torch.inference_mode():
        return model(torch.tensor([batching.encode(tokenizer, prompt)])).logits[0, -1].float()


@pytest.fixture(scope="module")
def oracle(tiny: Any, twin: Any) -> tuple[Any, Any]:
    """The plain Hugging Face model, with the tokenizer beside it."""
    return twin, tiny.lens_info.tokenizer


@contextmanager
def plain_hooks(model: Any, plan: Any) -> Iterator[None]:
    """The plan's pure operators on the output of a plain Hugging Face model's blocks."""
    handles = []
    for site in plan.sites:
        function = plan.operator(site)
        block = model.model.layers[int(site.split(".")[1])]
        handles.append(block.register_forward_hook(lambda module, args, output, function=function: function(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_first_logits_equal_plain_forwards(tiny: Any, oracle: Any, engine: str) -> None:
    """Padded together, on every backend and engine: as one at a time without padding, in the prompts' order, float32 on
    the CPU.
    """
    found = first_logits(tiny, PROMPTS, engine=engine)
    assert found.dtype == torch.float32 and found.device.type == "cpu" and len(found) == 3
    for row, prompt in zip(found, PROMPTS, strict=True):
        assert torch.allclose(row, alone(oracle, prompt), atol=1e-4)
    assert torch.allclose(first_logits(tiny, PROMPTS, engine=engine, batch_size=1), found, atol=1e-4)
    rows = [row for batch, _ in first_logits_by_batch(tiny, PROMPTS, engine=engine, batch_size=2) for row in batch]
    assert sorted(rows) == [0, 1, 2]


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_choices_equal_plain_forwards(tiny: Any, oracle: Any, engine: str) -> None:
    """Every option's probability is that of its letter, with and without a space, where each is one token; the
    likeliest is chosen.
    """
    tokenizer = tiny.lens_info.tokenizer
    found = choice_accuracy(tiny, ITEMS, engine=engine)
    for i, item in enumerate(ITEMS):
        spread = alone(oracle, Prompt.of(item.render())).double().softmax(dim=-1)
        wanted = []
        for letter in LETTERS[: len(item.choices)]:
            variants = {tuple(tokenizer.encode(text, add_special_tokens=False)) for text in (letter, " " + letter)}
            wanted.append(sum(float(spread[v[0]]) for v in variants if len(v) == 1))
        assert found.probabilities[i] == pytest.approx(wanted, abs=1e-5)
        assert found.chosen[i] == LETTERS[int(np.argmax(wanted))]
        assert found.correct[i] == (found.chosen[i] == item.letter)
        assert found.mass[i] == pytest.approx(sum(wanted), abs=1e-5)
    assert found.accuracy.value == sum(found.correct) / 4 and found.accuracy.n == 4
    single = choice_accuracy(tiny, ITEMS, engine=engine, batch_size=1)
    assert single.chosen == found.chosen
    for a, b in zip(single.probabilities, found.probabilities, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_steering_changes_what_is_chosen(tiny: Any, oracle: Any, plan: Any) -> None:
    """The active plan steers the questions, as plain forward hooks do one at a time; without it the model is itself
    again.
    """
    plain = choice_accuracy(tiny, ITEMS)
    with ls.steering(tiny, plan):
        steered = [choice_accuracy(tiny, ITEMS, engine=engine) for engine in ("tl", "hf")]
        logits = [first_logits(tiny, PROMPTS, engine=engine) for engine in ("tl", "hf")]
    assert not np.allclose(steered[0].mass, plain.mass, rtol=0.05)
    assert steered[0].mass == pytest.approx(steered[1].mass, abs=1e-5)
    with plain_hooks(oracle[0], plan):
        wanted = torch.stack([alone(oracle, prompt) for prompt in PROMPTS])
    assert all(torch.allclose(found, wanted, atol=1e-3) for found in logits)
    assert not torch.allclose(wanted, first_logits(tiny, PROMPTS), atol=0.1)
    assert choice_accuracy(tiny, ITEMS).probabilities == plain.probabilities


def test_a_value_for_each_question(qwen: Any, calibration: Any) -> None:
    """A plan with one angle a prompt gives each question its own, whatever order they run in; for another number of
    questions it is refused.
    """
    angles = [0.0, 90.0, 180.0, 270.0]
    with ls.steering(qwen, ls.selective_steering(calibration, angles)):
        together = choice_accuracy(qwen, ITEMS)
        with pytest.raises(LensSteerError, match="a value for each of 4 prompts, and 2 are given"):
            choice_accuracy(qwen, ITEMS[:2])
    for i, angle in enumerate(angles):
        with ls.steering(qwen, ls.selective_steering(calibration, angle)):
            assert choice_accuracy(qwen, ITEMS[i : i + 1]).probabilities[0] == pytest.approx(
                together.probabilities[i], abs=1e-5
            )


def test_rendering() -> None:
    """Lettered options in order; braces in a question are text; a template of one's own."""
    text = ITEMS[2].render()
    assert text.startswith("And which {of} these?") and "A. a\nB. b\n" in text and "J. j" in text and "I or J" in text
    assert ITEMS[0].render("[{subject}] {question} {options}") == "[words] Which of these is a colour? A. seven\nB. red"


def test_a_file_of_questions(tmp_path: Path) -> None:
    """Answers as index or letter, blank lines, a line separator inside a text; the set has a name, subjects and a
    hash.
    """
    rows: list[dict[str, Any]] = [
        {"question": "one\u2028line", "choices": ["a", "b"], "answer": 1, "subject": "x"},
        {"question": "q", "choices": ["a", "b", "c"], "answer": " c"},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n", encoding="utf-8")
    found = load_choices(file)
    assert [(c.question, c.choices, c.letter) for c in found] == [
        ("one\u2028line", ("a", "b"), "B"),
        ("q", ("a", "b", "c"), "C"),
    ]
    assert repr(found) == "ChoiceSet('q.jsonl', 2 questions)" and found.subjects == ("", "x")
    assert found[:1].hash == ChoiceSet((Choice("one\u2028line", ("a", "b"), 1, "x"),)).hash != found.hash


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ("[1]", "line 1: list is no object with question, choices and answer"),
        ('{"choices": ["a", "b"], "answer": 0}', "question=None: a text is needed"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', r"choices=\['a'\]: a list of 2 to 10 texts"),
        ('{"question": "q", "choices": [1, 2], "answer": 0}', r"choices=\[1, 2\]: a list of 2 to 10 texts"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "answer=2: one of A, B or 0 to 1 is needed"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "C"}', "answer='C': one of A, B"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "b)"}', r"answer='b\)': one of A, B"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "answer=True: one of A, B"),
        ('{"question": "q", "choices": ["a", "b"]}', "answer=None: one of A, B"),
        ("", "holds no questions"),
    ],
)
def test_a_bad_file(tmp_path: Path, line: str, message: str) -> None:
    """The line, the value found and what is expected."""
    file = tmp_path / "q.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(LensSteerError, match=message):
        load_choices(file)


def test_bad_input(qwen: Any, tmp_path: Path) -> None:
    """Said before the model runs."""
    with pytest.raises(LensSteerError, match=r"questions file '.*none.jsonl' cannot be read"):
        load_choices(tmp_path / "none.jsonl")
    with pytest.raises(LensSteerError, match="items is empty"):
        choice_accuracy(qwen, [])
    with pytest.raises(LensSteerError, match="prompts is empty"):
        first_logits(qwen, [])
    with pytest.raises(LensSteerError, match="engine='other': use one of tl, hf"):
        choice_accuracy(qwen, ITEMS, engine="other")
    with pytest.raises(LensSteerError, match=r"\{options\} is missing"):
        choice_accuracy(qwen, ITEMS, template="{question}")
    with pytest.raises(LensSteerError, match="unknown field 'choices', use question, options, letters, subject"):
        choice_accuracy(qwen, ITEMS, template="{question} {choices}")
    with pytest.raises(LensSteerError, match="write a brace of the text twice"):
        choice_accuracy(qwen, ITEMS, template="{question} {options")
    with pytest.raises(LensSteerError, match="more than the model's context"):
        choice_accuracy(qwen, [Choice("word " * 600, ("a", "b"), 0)])
    with pytest.raises(LensSteerError, match="2 to 10 options are needed"):
        Choice("q", ("a",), 0)
    with pytest.raises(LensSteerError, match="answer=-1: one of A, B or 0 to 1"):
        Choice("q", ("a", "b"), -1)


def test_tokens_of_letters() -> None:
    """Only what writes the letter alone as one token counts; letters that share a token, or have none, are refused."""

    def tokenizer(table: dict[str, list[int]]) -> Any:
        return lambda text, add_special_tokens: {"input_ids": table[text]}

    assert _letter_tokens(tokenizer({"A": [5], " A": [9], "B": [6, 7], " B": [8]}), 2) == [(5, 9), (8,)]
    assert _letter_tokens(tokenizer({"A": [5], " A": [5]}), 1) == [(5,)]
    with pytest.raises(LensSteerError, match=r"no token of its own for the letter 'B' \(it reads \[0\]\)"):
        _letter_tokens(tokenizer({"A": [0], " A": [1], "B": [0], " B": [2]}), 2)
    with pytest.raises(LensSteerError, match="no token of its own for the letter 'A'"):
        _letter_tokens(tokenizer({"A": [1, 2], " A": [3, 1, 2]}), 1)
