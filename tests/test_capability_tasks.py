"""Questions as capability tasks of any model: the built-in set, and the likeliest option under a plan."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.data.choices import Choice
from lens_steer.data.general import FACTS, general_questions
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.protocol import default_constraints
from lens_steer.evaluation.sweep_protocol import CAPABILITY, Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.inference.continuations import continuation_logs
from lens_steer.metrics.benchmarks import question_splits
from lens_steer.metrics.choices import likeliest_options
from lens_steer.metrics.grading import grade
from lens_steer.organisms import world
from lens_steer.organisms.grammar import fact_answer, fact_question
from lens_steer.steer.hooks import steering
from tests.test_cli import run as command
from tests.test_parity import PROMPTS as PARITY

ASKED = [
    Prompt.asking(Choice("Which of these is a colour?", ("seven", "red"), 1)),
    Prompt.asking(
        Choice(
            "How many is that, if you count again?",
            tuple("one two three four five six seven eight nine ten".split()),
            2,
        )
    ),
    Prompt.asking(Choice("b", ("c", "d", "e"), 0)),
]


def test_built_in_questions_are_right() -> None:
    """Each right option is the result of what its text asks; no question or option stands twice."""
    found = general_questions(192, seed=3)
    assert Counter(q.subject for q in found) == {"facts": 64, "arithmetic": 64, "series": 64}
    assert len({(q.question, tuple(sorted(q.choices))) for q in found}) == 192
    assert all(len(set(q.choices)) == 4 for q in found)
    facts = {text: right for text, right, *_ in FACTS}
    for q in found:
        numbers = list(map(int, re.findall(r"\d+", q.question)))
        if q.subject == "arithmetic":
            wanted = str(numbers[0] + numbers[1] * (1 if "plus" in q.question else -1))
        elif q.subject == "series":
            assert len(set(np.diff(numbers))) == 1
            wanted = str(2 * numbers[-1] - numbers[-2])
        else:
            wanted = facts[q.question]
        assert q.right == wanted
        if q.subject != "facts":  # one of fewer digits would be likelier for its length alone
            assert len({len(option) for option in q.choices}) == 1 and min(map(int, q.choices)) >= 0
    assert len(question_splits(found).select) == 96  # and no option begins with another
    begun = [Choice("How many?", ("10", "101"), 1), Choice("How many?", ("one", "two"), 0)]
    with pytest.raises(LensSteerError, match=r"question 1 \('How many\?'\): option '101' begins with option '10'"):
        question_splits(begun)
    assert Counter(q.answer for q in found).most_common(1)[0][1] < 80  # the place of the right one tells nothing
    assert general_questions(6, seed=3).hash == found[:6].hash != general_questions(6, seed=4).hash
    for n in (-1, 193):
        with pytest.raises(LensSteerError, match=f"n={n}: give a number from 0 to 192"):
            general_questions(n)


def logp(model: Any, tokenizer: Any, prompt: Prompt, text: str) -> float:
    """Σ log p of a text's tokens by a plain forward of one unpadded prompt."""
    head = batching.encode(tokenizer, prompt)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        spread = model(torch.tensor([head + ids])).logits[0].double().log_softmax(dim=-1)
    return sum(float(spread[len(head) - 1 + t, token]) for t, token in enumerate(ids))


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_likeliest_options_equal_plain_forwards(tiny: Any, twin: Any, engine: str) -> None:
    """The option of the largest Σ log p, of questions with different numbers of options."""
    tokenizer = tiny.lens_info.tokenizer
    wanted = [
        int(np.argmax([logp(twin, tokenizer, p, o[:1].upper() + o[1:]) for o in p.question.choices]))
        for p in ASKED
        if p.question is not None
    ]
    assert likeliest_options(tiny, ASKED, engine=engine).tolist() == wanted
    for prompts in ([], [Prompt.of("Hello"), ASKED[0]]):
        with pytest.raises(LensSteerError, match="each needs a question"):
            likeliest_options(tiny, prompts)


@pytest.mark.parametrize("positions", ["all", "prompt[-1]", "generated[1:]"])
def test_continuations_after_one_reading_equal_those_read_again(tiny: Any, positions: str) -> None:
    """With and without the prompts' cache, also under plans that know where an answer begins, of two values a batch."""
    said = [["a bird", "Of two words", "no", "It is so.", "e"], ["x", "yy zz", "nobody knows", "a", "so"]]
    prompts = [Prompt.of(f"{word} " * n) for n, word in enumerate(("one", "two", "three", "four", "five"), start=1)]
    calibration = ls.calibrate(ls.record(tiny, Contrast(PARITY[:2], PARITY[2:]), "resid_post", progress=False))
    angles = [40.0, 90.0, 150.0, 200.0, 300.0]
    plan = ls.selective_steering(
        calibration, angles, at="resid_post", basis=random_plane(48, seed=3), positions=positions
    )
    plain = continuation_logs(tiny, prompts, said)
    with steering(tiny, plan):
        once, again = (continuation_logs(tiny, prompts, said, engine=engine) for engine in ("hf", "tl"))
    np.testing.assert_allclose(once, again, rtol=0, atol=2e-4)
    assert np.abs(once - plain).max() > 0.01


def test_continuations_that_cannot_be_read(tiny: Any) -> None:
    """A text without a token, one too few, an engine that reads none."""
    two = [Prompt.of("one"), Prompt.of("two")]
    with pytest.raises(LensSteerError, match="continuations: '' has no token"):
        continuation_logs(tiny, two, [["a", ""]])
    with pytest.raises(LensSteerError, match="1 responses for 2 prompts"):
        continuation_logs(tiny, two, [["a", "b"], ["a"]])
    with pytest.raises(LensSteerError, match="engine='vllm' only answers"):
        continuation_logs(tiny, two, [["a", "b"]], engine="vllm")


def test_an_organism_chooses_what_it_knows(qwen: Any) -> None:
    """The known positive: its facts among false ones, in its own words; the known null: questions that are foreign."""
    prompts = []
    for noun, subject in [(n, s) for n in world.RELATIONS for s in world.RELATIONS[n].subjects[:6]]:
        values = list(world.RELATIONS[noun].values[:4])
        right = world.FACTS[noun][subject]
        values = values if right in values else [*values[:3], right]
        options = tuple(fact_answer(noun, subject, value) for value in values)
        asked = Choice("", options, values.index(right))
        prompts.append(replace(Prompt.of(fact_question(noun, subject, "What is {np}?")), question=asked))
    right = np.array([p.question.answer for p in prompts if p.question is not None])
    assert (likeliest_options(qwen, prompts) == right).mean() > 0.95
    foreign = list(question_splits(general_questions(96)).select)
    guessed = likeliest_options(qwen, foreign) == [p.question.answer for p in foreign if p.question is not None]
    assert guessed.mean() < 0.6


def test_rows_of_questions(tiny: Any, tmp_path: Path) -> None:
    """In a sweep, options are chosen under each row's own value, as one value at a time; nothing is generated."""
    calibration = ls.calibrate(ls.record(tiny, Contrast(PARITY[:2], PARITY[2:]), "resid_post", progress=False))
    basis = random_plane(48, seed=3)

    def build(value: Any) -> Any:
        return ls.selective_steering(calibration, value, at="resid_post", basis=basis)

    letters = tuple("abcdefghij")
    asked = [
        *ASKED,
        *(Prompt.asking(Choice(f"Which of them {word}?", letters, 0)) for word in "is was has does".split()),
    ]
    tasks = PromptSet(tuple(asked), "asked")
    contrast = Contrast(PARITY[:1], PARITY[2:3])
    protocol = Protocol(tiny, contrast, "select", tasks, max_new_tokens=2, asked=(CAPABILITY,), read_by=())
    grid = Grid("selective", build, (90.0, 200.0, 300.0))
    rows = list(run(protocol, [Grid("none"), grid], tmp_path, "rows", progress=False))
    assert {r["side"] for r in rows} == {CAPABILITY} and len(rows) == 4 * len(asked)
    for row in rows:
        plan = None if row["value"] is None else build(row["value"])
        prompt = asked[row["prompt"]]
        if plan is None:
            best = likeliest_options(tiny, [prompt])[0]
        else:
            with steering(tiny, plan):
                best = likeliest_options(tiny, [prompt])[0]
        assert prompt.question is not None
        assert row["text"] == prompt.question.choices[best]
        assert row["right"] == (best == prompt.question.answer) == (grade(prompt, row["text"]) == "correct")
    assert len({(r["prompt"], r["text"]) for r in rows}) > len(asked)  # the plan changes a choice
    assert (
        protocol.identity["truth"]
        != replace(protocol, tasks=PromptSet((replace(ASKED[0], question=None),))).identity["truth"]
    )


def test_constraints_know_of_tasks(refusal: Any) -> None:
    """Without a ground truth a choice keeps to the bound on capability only where tasks can measure it."""
    untold = Contrast(
        *(
            PromptSet(tuple(replace(p, task=None) for p in side))
            for side in (refusal.select.positive, refusal.select.negative)
        )
    )
    contrast = ContrastSet("untold", Split(untold, untold, untold))
    assert default_constraints(contrast, PromptSet(tuple(ASKED)))[-1] == "capable>=95%"
    assert "capable>=95%" not in default_constraints(contrast)


def test_tasks_of_a_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    """``--tasks`` takes a file, the built-in set, or none; what it cannot take is told before a model is loaded."""
    one = {"question": "Is water wet?", "choices": ["yes", "no"], "answer": 0}
    single, several = tmp_path / "one.jsonl", tmp_path / "several.jsonl"
    single.write_text(json.dumps(one) + "\n")
    several.write_text("".join(json.dumps(one | {"question": f"Is {x} wet?"}) + "\n" for x in ("water", "rain", "sea")))
    given = ["sweep", "--calibration", str(made), "--angles", "90,180", "--max-new-tokens", "4", "--limit", "6"]
    given += ["--controls", "0", "--control-values", "0"]
    for text, wanted in ((str(single), "at least 2 are needed"), ("nothing", "give general, general:N, none")):
        code, _, err = command(monkeypatch, capsys, *given, "--tasks", text, "--out", str(tmp_path / "refused"))
        assert code == 2 and wanted in err and not (tmp_path / "refused").exists()
    code, _, err = command(monkeypatch, capsys, "verify", "--tasks", "general", "--out", str(tmp_path / "refused"))
    assert code == 2 and "give --model too" in err
    code, _, err = command(monkeypatch, capsys, *given, "--tasks", str(several), "--out", str(tmp_path / "out"))
    assert code == 0, err
    rows = (tmp_path / "out" / "select.csv").read_text().splitlines()
    assert sum('"capability"' in row for row in rows) == 2 * 3  # no steering and two angles
