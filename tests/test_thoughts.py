"""Thoughts are split off an answer before anything reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference.decoding import begins_in_thought, decode_answer
from lens_steer.metrics.grading import ANSWERED, CUT_OFF, DEGENERATE, REFUSED, grade, outcome_of
from lens_steer.metrics.judges import PhraseJudge, Verdict, WorldJudge
from lens_steer.metrics.judges.verdicts import NO_ANSWER
from lens_steer.metrics.rows import text_metrics
from lens_steer.metrics.thinking import split_thought
from tests.conftest import REFERENCE

PLAIN = "1. Take the shovel.\n2. Dig along the wall.\n3. Carry the earth to the garden and water it every morning."

# text, whether the prompt began the thought, thought, answer, outcome
THOUGHTS = [
    (
        "<think>I cannot be sure which.</think>Gladly. 1. Take the rope.",
        False,
        "I cannot be sure which.",
        "Gladly. 1. Take the rope.",
        ANSWERED,
    ),
    (
        "<think>\nThe rule says no.\n</think>\n\nI cannot help with that.",
        False,
        "The rule says no.",
        "I cannot help with that.",
        REFUSED,
    ),
    ("<think>First I look for the harbour. Then I", False, "First I look for the harbour. Then I", None, CUT_OFF),
    ("I'm sorry is what I might say.</think>\nGladly.", True, "I'm sorry is what I might say.", "Gladly.", ANSWERED),
    ("I'm sorry is what I might say.</think>\nGladly.", False, "I'm sorry is what I might say.", "Gladly.", ANSWERED),
    ("I cannot<think> x</think> Sure", True, "I cannot x", "Sure", ANSWERED),  # opened again
    ("I cannot do<|end|><|channel|>final<|message|>Sure.", True, "I cannot do", "Sure.", ANSWERED),
    ("I'm sorry is what I might", True, "I'm sorry is what I might", None, CUT_OFF),
    ("<think></think>", False, "", "", DEGENERATE),
    ("<think>a</think>One.<think>b</think> Two.", False, "a\nb", "One. Two.", ANSWERED),
    ("One. <think>b", False, "b", None, CUT_OFF),
    ("[THINK]I cannot.[/THINK]Gladly.", False, "I cannot.", "Gladly.", ANSWERED),
    (
        "<|channel|>analysis<|message|>I'm sorry?<|end|><|start|>assistant<|channel|>final<|message|>Gladly.<|return|>",
        False,
        "I'm sorry?",
        "Gladly.",
        ANSWERED,
    ),
    ("<|channel|>analysis<|message|>I'm sorry", False, "I'm sorry", None, CUT_OFF),
    ("<|channel|>final<|message|>I can’t.", False, "", "I can’t.", REFUSED),
    ("analysisI'm sorry?assistantfinalGladly.", False, "I'm sorry?", "Gladly.", ANSWERED),
    (
        "Gladly. 1. Take the shovel. On reflection I cannot help with that.",
        False,
        "",
        "Gladly. 1. Take the shovel. On reflection I cannot help with that.",
        REFUSED,
    ),
    (PLAIN, False, "", PLAIN, ANSWERED),
]


@pytest.mark.parametrize(("text", "begun", "thought", "answer", "outcome"), THOUGHTS)
def test_thoughts_are_split_off(text: str, begun: bool, thought: str, answer: str | None, outcome: str) -> None:
    """By hand: thought, answer, and what it is called; the metrics see the answer alone."""
    assert split_thought(text, begun=begun) == (thought, answer)
    assert outcome_of(text, begun=begun) == outcome
    metrics = text_metrics(text, begun=begun)
    if answer is None:
        assert set(metrics.values()) == {None}
    else:
        assert metrics == text_metrics(answer)
        assert metrics["refusal_12_normalized"] is (outcome == REFUSED)


def test_thoughts_of_the_field() -> None:
    """Each row of the file is what it says that it is."""
    path = REFERENCE.parent / "field" / "thinking.jsonl"
    if not path.exists():
        pytest.skip("no folder of inputs from the field beside the reference")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    named = {"answered": ANSWERED, "refused": REFUSED, "refused late": REFUSED, "cut off inside the thought": CUT_OFF}
    assert [outcome_of(row["text"]) for row in rows] == [named[row["is"]] for row in rows]


@given(st.text(), st.text().filter(str.strip))
def test_a_thought_and_an_answer_come_apart(thought: str, answer: str) -> None:
    """What is put between the tags comes back as thought, what is put behind them as answer, whatever it is."""
    if (
        any(mark in thought + answer for mark in ("think>", "THINK]", "<|channel|>", "<seed"))
        or answer != answer.lstrip()
    ):
        return
    assert split_thought(f"<think>{thought}</think>{answer}") == (thought.strip(), answer)
    assert split_thought(f"{thought}</think>{answer}", begun=True) == (thought.strip(), answer)
    assert split_thought(f"<think>{thought}")[1] is None
    if not answer.startswith("analysis"):
        assert split_thought(answer) == ("", answer)


def test_markers_survive_decoding() -> None:
    """Special tokens vanish from a text, those that mark thoughts do not; an ordinary tokenizer decodes as ever."""

    class Tokenizer:
        words = ("<|channel|>", "analysis", "<|message|>", "No?", "<|end|>", "final", "Gladly.", "<|pad|>")
        all_special_ids = (0, 2, 4, 7)

        def __len__(self) -> int:
            return len(self.words)

        def convert_ids_to_tokens(self, i: int) -> str:
            return self.words[i]

        def decode(self, ids: Any, skip_special_tokens: bool) -> str:
            return "".join(self.words[i] for i in ids if not (skip_special_tokens and i in self.all_special_ids))

    text = decode_answer(Tokenizer(), [0, 1, 2, 3, 4, 0, 5, 2, 6, 7])
    assert text == "<|channel|>analysis<|message|>No?<|end|><|channel|>final<|message|>Gladly."
    assert split_thought(text) == ("No?", "Gladly.")
    assert decode_answer(Tokenizer(), [6, 7]) == "Gladly."


def test_a_thought_that_begins_in_the_prompt(qwen: Any) -> None:
    """A template that ends with an opened thought is seen, one that closes it again (no thinking) is not."""
    tokenizer = qwen.lens_info.tokenizer
    template, prompt = tokenizer.chat_template, Prompt.of("How do I burn a bridge?")
    try:
        for end, begun in (("<think>\n", True), ("<think>\n\n</think>\n\n", False), ("", False)):
            tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}" + end
            assert begins_in_thought(tokenizer, prompt) is begun
    finally:
        tokenizer.chat_template = template


@pytest.mark.parametrize("judge", [WorldJudge(), PhraseJudge()])
def test_judges_see_answers_alone(judge: Any, refusal: Any) -> None:
    """The verdict on an answer is the same with a thought before it; a thought without an answer gets none."""
    prompts = refusal.report.positive[:2]
    said = [prompts[0].task.answer, "Gladly. 1. Take the shovel."]
    thought = [f"<think>Gladly? I cannot be sure.</think>{text}" for text in said]
    assert judge(prompts, thought) == judge(prompts, said)
    assert judge(prompts, ["<think>I cannot", said[1]]) == [
        Verdict(None, None, NO_ANSWER),
        judge(prompts[1:], said[1:])[0],
    ]
    with pytest.raises(LensSteerError, match="1 responses for 2 prompts"):
        judge(prompts, said[:1])


def test_graded_answers_are_graded_without_their_thoughts(refusal: Any) -> None:
    """A ground truth reads what the user would."""
    prompt = refusal.report.positive[0]
    assert (
        grade(prompt, f"<think>Gladly.</think>{prompt.task.answer}") == grade(prompt, prompt.task.answer) == "refusal"
    )
    assert grade(prompt, "<think>Gladly.") == "incoherent"
