"""Answers in the formats of MT-Bench and AlpacaEval: what is written, byte for byte, and turns that know the ones
before them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.interop.harness.benchmark_answers import (
    Question,
    alpaca_eval_rows,
    load_questions,
    mt_bench_answers,
    mt_bench_rows,
    write_alpaca_eval,
    write_mt_bench,
)
from tests.test_choices import plain_hooks
from tests.test_parity import PROMPTS

QUESTIONS = [
    Question(82, ("Which one is red?", "And blue?"), "writing"),
    Question(81, ("What is 4 plus 3?", "Why is that, in a few words?"), "math"),
    Question(90, ("b", "c")),
]


def oracle(model: Any, tokenizer: Any, ends: tuple[int, ...], messages: list[dict[str, str]], n: int) -> str:
    """A greedy answer, token by token, each from a plain forward of the whole unpadded sequence."""
    ids = batching.encode(tokenizer, Prompt(tuple(messages)))
    start = len(ids)
    for _ in range(n):
        with torch.inference_mode():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_two_turns_equal_plain_forwards(tiny: Any, twin: Any, engine: str) -> None:
    """Every turn is answered given the turns and answers before it, under the plan: as plain forwards, one question at
    a time; batched as single.
    """
    info = tiny.lens_info
    calibration = ls.calibrate(ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), "resid_post", progress=False))
    plan = ls.selective_steering(calibration, 130, at="resid_post", basis=random_plane(48, seed=3))
    given: dict[str, Any] = {"model_id": "m", "max_new_tokens": 6, "engine": engine}
    with ls.steering(tiny, plan):
        found = mt_bench_answers(tiny, QUESTIONS, **given)
        assert mt_bench_answers(tiny, QUESTIONS, batch_size=1, **given) == found
    assert found != mt_bench_answers(tiny, QUESTIONS, **given)
    with plain_hooks(twin, plan):
        for question, row in zip(QUESTIONS, found, strict=True):
            messages: list[dict[str, str]] = []
            for asked, answered in zip(question.turns, row["choices"][0]["turns"], strict=True):
                messages.append({"role": "user", "content": asked})
                assert answered == oracle(twin, info.tokenizer, info.end_tokens, messages, 6)
                messages.append({"role": "assistant", "content": answered})


def test_a_system_message_stands_before_every_turn(qwen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the second turn has the first answer before it."""
    seen: list[list[Prompt]] = []

    def answer(model: Any, prompts: list[Prompt], **kwargs: Any) -> list[str]:
        seen.append(prompts)
        return [f"answer {len(seen)} to {p.text}" for p in prompts]

    monkeypatch.setattr("lens_steer.interop.harness.benchmark_answers.generate", answer)
    rows = mt_bench_answers(qwen, QUESTIONS[:1], model_id="m", system="Be brief.", tstamp=5.0)
    assert [[m["content"] for m in prompts[0].messages] for prompts in seen] == [
        ["Be brief.", "Which one is red?"],
        ["Be brief.", "Which one is red?", "answer 1 to Which one is red?", "And blue?"],
    ]
    assert [m["role"] for m in seen[1][0].messages] == ["system", "user", "assistant", "user"]
    assert rows[0]["choices"] == [{"index": 0, "turns": ["answer 1 to Which one is red?", "answer 2 to And blue?"]}]
    assert rows[0]["tstamp"] == 5.0


def test_mt_bench_file(tmp_path: Path) -> None:
    """FastChat's fields in its order, one object a line, by question number; the same input gives the same bytes."""
    rows = mt_bench_rows([82, 81], [["a", "b"], ["\u2028é", "d"]], model_id="qwen2 at 200°", tstamp=1.5)
    for name in ("one", "two"):
        write_mt_bench(rows, tmp_path / f"{name}.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    lines = (tmp_path / "one.jsonl").read_text(encoding="ascii").splitlines()
    first = json.loads(lines[0])
    assert list(first) == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
    assert first["question_id"] == 81 and first["choices"] == [{"index": 0, "turns": ["\u2028é", "d"]}]
    assert first["model_id"] == "qwen2 at 200°" and first["tstamp"] == 1.5 and len(lines) == 2
    again = mt_bench_rows([82, 81], [["a", "b"], ["\u2028é", "d"]], model_id="qwen2 at 200°")
    ids = {row["answer_id"] for row in (*rows, *mt_bench_rows([82], [["a", "b"]], model_id="other"))}
    assert len(ids) == 3 and [r["answer_id"] for r in again] == [r["answer_id"] for r in rows]


def test_alpaca_eval_file(tmp_path: Path) -> None:
    """One JSON list; prompts as a set, as prompts or as texts; the set's name is the data set where none is given."""
    prompts = PromptSet((Prompt.of("Name a colour.", system="Be brief."), Prompt.of("And é?")), "mine.json")
    rows = alpaca_eval_rows(prompts, ["Red.", ""], generator="qwen2 at 200°")
    assert rows[0] == {
        "instruction": "Name a colour.",
        "output": "Red.",
        "generator": "qwen2 at 200°",
        "dataset": "mine.json",
    }
    assert (
        alpaca_eval_rows(["Name a colour.", "And é?"], ["Red.", ""], generator="qwen2 at 200°", dataset="mine.json")
        == rows
    )
    write_alpaca_eval(rows, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == rows
    before = (tmp_path / "out.json").read_bytes()
    write_alpaca_eval(rows, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == before


def test_questions_file(tmp_path: Path) -> None:
    """MT-Bench's own fields; those that are not needed are left alone."""
    file = tmp_path / "question.jsonl"
    file.write_text('{"question_id": 81, "category": "writing", "turns": ["a", "b"], "reference": ["x", "y"]}\n\n')
    assert load_questions(file) == (Question(81, ("a", "b"), "writing"),)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ("[]", "line 1: question_id=None: a whole number is needed"),
        ('{"question_id": "81", "turns": ["a"]}', "question_id='81': a whole number is needed"),
        ('{"question_id": 81, "turns": []}', r"turns=\[\]: a list of the user's texts is needed"),
        ('{"question_id": 81, "turns": ["a", ""]}', r"turns=\['a', ''\]: a list of the user's texts"),
        ('{"question_id": 81, "turns": ["a"]}\n{"question_id": 81, "turns": ["a"]}', "question_id 81 is there twice"),
        ("\n", "holds no questions"),
    ],
)
def test_a_bad_questions_file(tmp_path: Path, lines: str, message: str) -> None:
    """The line, the value found and what is expected."""
    file = tmp_path / "question.jsonl"
    file.write_text(lines + "\n")
    with pytest.raises(LensSteerError, match=message):
        load_questions(file)


def test_bad_input(qwen: Any, tmp_path: Path) -> None:
    """Said before anything is generated or written."""
    with pytest.raises(LensSteerError, match=r"questions file '.*none.jsonl' cannot be read"):
        load_questions(tmp_path / "none.jsonl")
    with pytest.raises(LensSteerError, match="questions is empty"):
        mt_bench_answers(qwen, [], model_id="m")
    with pytest.raises(LensSteerError, match="question 3 has 1 turns and question 82 has 2"):
        mt_bench_answers(qwen, [QUESTIONS[0], Question(3, ("a",))], model_id="m")
    with pytest.raises(LensSteerError, match="more than the model's context"):
        mt_bench_answers(qwen, QUESTIONS, model_id="m", max_new_tokens=512)
    with pytest.raises(LensSteerError, match="1 prompts and 2 outputs: give one each"):
        alpaca_eval_rows(["a"], ["b", "c"], generator="m")
    with pytest.raises(LensSteerError, match="2 question_ids and 1 turns: give one each"):
        mt_bench_rows([1, 2], [["a"]], model_id="m")
    with pytest.raises(LensSteerError, match="1 question_ids and 2 answer_ids: give one each"):
        mt_bench_rows([1], [["a"]], model_id="m", answer_ids=["x", "y"])
    with pytest.raises(LensSteerError, match="answer_ids has 'x' twice: give each one once"):
        mt_bench_rows([1, 2], [["a"], ["b"]], model_id="m", answer_ids=["x", "x"])
    with pytest.raises(LensSteerError, match="is a folder: name a file in it"):
        write_mt_bench([], tmp_path)
    with pytest.raises(LensSteerError, match="is a folder: name a file in it"):
        write_alpaca_eval([], tmp_path)
