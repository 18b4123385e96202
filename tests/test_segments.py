"""Which tokens of a reasoning model are thought and which are answer: in batches, conversations and vocabularies."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.inference.batching import Batch, padded
from lens_steer.inference.clock import Clock, clock_for, running, steers
from lens_steer.inference.forward import batches_of
from lens_steer.inference.generation import answers
from lens_steer.inference.places import Places
from lens_steer.inference.pooling import check_poolable
from lens_steer.inference.positions import first_steered, normalized, parse
from lens_steer.inference.segments import ANSWER, THOUGHT, Reader
from lens_steer.inference.teacher_forcing import with_responses
from lens_steer.metrics.thinking import split_thought
from lens_steer.models.thoughts import ANSWER_CHANNEL, TAGS, THOUGHT_CHANNEL, Marks, marks_of
from tests.thinking import ASKED, CHANNEL_TOKENS, LETTER, SAID, build_thinking, ids_of, spelled

THINK = Marks(*TAGS[0], "a test")
CHANNELS = Marks(THOUGHT_CHANNEL, ANSWER_CHANNEL, "a test")


@pytest.fixture(scope="module")
def model(thinking_folder: Path) -> Any:
    return ls.load_model(thinking_folder)


@pytest.fixture(scope="module")
def plain(thinking_folder: Path) -> Any:
    """The same model in the mode without thoughts."""
    return ls.load_model(thinking_folder, template_args={"enable_thinking": False})


def letters(pieces: list[str], marks: Marks = THINK, starts: tuple[str, ...] = (), *, thinking: bool = False) -> str:
    reader = Reader(marks, starts, thinking=thinking)
    return "".join(LETTER[reader.read(piece)[0]] for piece in pieces)


# Marks


def tokenizer_of(template: Any = None, added: tuple[str, ...] = (), response: Any = None) -> Any:
    return SimpleNamespace(
        chat_template=template, get_added_vocab=lambda: {t: i for i, t in enumerate(added)}, response_template=response
    )


@pytest.mark.parametrize(
    ("tokenizer", "opening", "where"),
    [
        (tokenizer_of("…{% if thinking %}<think>\n{% endif %}"), "<think>", "chat template"),
        (tokenizer_of("{{ m.content.split('</think>')[-1] }}"), "<think>", "chat template"),
        (tokenizer_of("[THINK]…[/THINK] and what <think> is"), "[THINK]", "chat template"),
        (tokenizer_of("<|channel>thought\n<channel|>"), "<|channel>thought", "chat template"),
        (tokenizer_of({"default": "◁think▷"}), "◁think▷", "chat template"),
        (tokenizer_of("<|start|>assistant<|channel|>final<|message|>"), THOUGHT_CHANNEL, "chat template"),
        (tokenizer_of("plain", response={"fields": {"x": {"open": "<thought>"}}}), "<thought>", "response template"),
        (tokenizer_of("plain", ("<|im_end|>", "<think>", "</think>")), "<think>", "vocabulary"),
        (tokenizer_of("plain", ("<|channel|>", "<|message|>")), THOUGHT_CHANNEL, "vocabulary"),
    ],
)
def test_marks_are_found(tokenizer: Any, opening: str, where: str) -> None:
    """In the template first, in the vocabulary last; a pair that is whole before one that is not."""
    marks = marks_of(tokenizer)
    assert marks is not None
    assert (marks.opening, marks.found_in) == (opening, where)


def test_a_model_without_marks(qwen: Any) -> None:
    """It has none, and what needs them says so, with what to use in their place."""
    assert marks_of(qwen.lens_info.tokenizer) is None
    assert marks_of(tokenizer_of()) is None
    with pytest.raises(LensSteerError, match=r"^positions='thought': neither .* known \(<think>, .*: use 'generated'"):
        clock_for(qwen, "thought")
    with pytest.raises(LensSteerError, match="^max_thought_tokens=3: neither the templates .*: leave it out"):
        ls.generate(qwen, "Hi", max_thought_tokens=3)


# Which token is in which segment


@pytest.mark.parametrize(
    ("pieces", "thinking", "wanted"),
    [
        (["a", "<think>", "b", "c", "</think>", "d"], False, "a.tt.a"),
        (["b", "</think>", "\n\n", "d"], True, "t.aa"),
        (["<think>", "</think>", "d", "<think>", "e"], False, "..a.t"),
        (["a", "</think>", "b"], False, "a.a"),  # nothing was opened; a mark is a mark
        # Marks that are no token of their own are known with their last piece.
        (["<", "think", ">", "b", "</", "think", ">\n", "d"], False, "aa.ttt.a"),
        (["b <", "/th", "ink>", "d"], True, "tt.a"),
        (["<think></think>", "d"], False, ".a"),
    ],
)
def test_tags_by_hand(pieces: list[str], thinking: bool, wanted: str) -> None:
    assert letters(pieces, thinking=thinking) == wanted


def test_channels_and_marks_of_several_added_tokens_by_hand() -> None:
    """gpt-oss names its channels; Gemma 4 opens with an added token and a word."""
    header = ["<|start|>", "assistant", "<|channel|>"]
    said = ["<|channel|>", "analysis", "<|message|>", "No", "?", "<|end|>", *header, "final", "<|message|>", "Yes"]
    assert letters(said, CHANNELS) == "...tt......a"
    tool = ["<|channel|>", "comm", "entary", " to=x", "<|message|>", "{", "<|call|>"]
    assert letters(tool, CHANNELS) == ".....t."
    assert letters(["Hello"], CHANNELS) == "a"
    gemma = Marks(*TAGS[-1], "a test")
    said = ["<|channel>", "thought", "\n", "No", "<channel|>", "Yes"]
    assert letters(said, gemma, ("<|channel>",)) == "..tt.a"
    assert letters(["<|channel>", "other", "x"], gemma, ("<|channel>",)) == ".aa"


PIECES = ["a", " b", "\n", "<", "/", "think", "é"]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=5), min_size=1, max_size=5), st.booleans())
@settings(deadline=None, max_examples=300)
def test_segments_are_what_the_text_is_split_into(parts: list[list[str]], begun: bool) -> None:
    """Thoughts and answers that alternate, between marks of one token: the pieces of each, joined, are its text."""
    pieces: list[str] = []
    for i, part in enumerate(parts):
        thinking = (i % 2 == 0) == begun
        if i:
            pieces.append(THINK.opening if thinking else THINK.closing)
        pieces += part
    text = "".join(pieces)
    if sum(map(text.count, TAGS[0])) != len(parts) - 1:
        return  # pieces that make a mark by chance
    found = letters(pieces, thinking=begun)
    thought = "".join(p for p, letter in zip(pieces, found, strict=True) if letter == "t")
    answer = "".join(p for p, letter in zip(pieces, found, strict=True) if letter == "a")
    split, said = split_thought(text, begun=begun)
    assert re.sub(r"\s", "", thought) == re.sub(r"\s", "", split)
    assert (said is None) == (((len(parts) - 1) % 2 == 0) == begun)  # the last part is a thought
    if said is not None:
        assert answer.strip() == said.strip()


@given(st.lists(st.sampled_from(["<think>", "</think>", *PIECES]), max_size=12), st.integers(0, 12), st.booleans())
def test_a_later_token_changes_nothing(pieces: list[str], cut: int, thinking: bool) -> None:
    """And a reader that was copied goes on as if it had read everything itself."""
    whole = letters(pieces, thinking=thinking)
    assert letters(pieces[:cut], thinking=thinking) == whole[:cut]
    first = Reader(THINK, thinking=thinking)
    read = [first.read(piece) for piece in pieces[:cut]]
    twin = first.another()
    rest = [twin.read(piece) for piece in pieces[cut:]]
    assert rest == [first.read(piece) for piece in pieces[cut:]]
    assert "".join(LETTER[kind] for kind, _ in read + rest) == whole
    for segment in (THOUGHT, ANSWER):
        places = [place for kind, place in read + rest if kind == segment]
        assert places == list(range(len(places)))


# Positions


def test_specifications_of_segments() -> None:
    """They have slices from the front, as ``generated`` has, and words for the first token."""
    assert normalized("thought + answer[:5]") == "thought+answer[:5]"
    assert first_steered("answer[2:]+thought").startswith("token 0 of the thought or token 2 of the answer,")
    assert first_steered("answer[2:]") == "token 2 of the answer, thoughts apart"
    assert (
        first_steered("thought+generated[20:]")
        == "token 20 of the answer or token 0 of the thought, whichever comes first"
    )
    assert first_steered("prompt[-1]+thought") == "token -1 of the prompt"
    for bad in ("thought[-1]", "answer[-2:]", "thoughts", "answer[1:1]"):
        with pytest.raises(LensSteerError, match="positions="):
            parse(bad)


def forced(model: Any) -> Batch:
    """The prompts with their responses, in one batch."""
    (batch,) = batches_of(model, with_responses(ASKED, SAID), with_response=True)
    return batch


def test_columns_of_fixed_responses(model: Any, plain: Any) -> None:
    """Thoughts, answers and their slices, spelled; the two segments and the marks are all that is generated."""
    batch = forced(model)
    assert spelled(model, batch, "thought") == ["It is a bridge.", "Which well?", "No."]
    assert spelled(model, batch, "answer") == ["Take the rope now.", "\nDig", "Hello to you, and good day."]
    clock = clock_for(model, "thought[1:3]+answer[:1]")
    assert clock.columns(Places.of(batch), 0, batch.ids.shape[1]).sum(dim=1).tolist() == [3, 3, 3]
    layout = Places.of(batch)
    both, generated = (clock_for(model, p).columns(layout, 0, layout.width) for p in ("thought+answer", "generated"))
    assert not bool((both & ~generated).any())
    assert batch.ids[generated & ~both].tolist() == ids_of(model, "</think>") * 3
    assert steers(model, "thought", batch)
    # In the other mode the template has closed the thought, and the response is an answer up to its mark.
    (other,) = batches_of(plain, with_responses(ASKED, ["A rope."] * 3), with_response=True)
    assert spelled(plain, other, "answer") == ["A rope."] * 3
    assert not steers(plain, "thought", other)


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=6, max_size=6), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.sampled_from(["thought", "answer", "thought[1:]", "answer[:2]+prompt[-1]", "thought+generated[4:]"]),
)
@settings(deadline=None, max_examples=100)
def test_grown_columns_equal_whole_ones(
    model: Any, new: list[list[int]], lengths: list[int], responses: list[int], positions: str
) -> None:
    """Token by token after a cache, several at once, and without a cache: the same columns, as often as one likes."""
    words = [ids_of(model, text)[0] for text in ("<think>", "</think>", "rope", " a")]
    tokens = torch.tensor([[words[i] for i in row] for row in new])
    rows = [(i, [words[2]] * lengths[i] + [words[1]] * responses[i], responses[i]) for i in range(len(new))]
    (batch,) = padded(rows, 0)
    tokens, width = tokens[list(batch.rows)], batch.ids.shape[1]
    whole = torch.cat([batch.ids, tokens], dim=1)

    def seen(steps: list[tuple[int, int]], clock: Clock) -> torch.Tensor:
        found = []
        for begin, end in steps:
            clock.announce(None)
            clock.follow(whole[:, begin:end])
            clock.start(len(whole), end - begin, begin)
            own = clock.selected
            found.append(torch.ones(len(whole), end - begin, dtype=torch.bool) if own is None else own)
        return torch.cat(found, dim=1)

    with running(batch):
        clock = clock_for(model, positions)
        at_once = seen([(0, width + 6)], clock)
        one_by_one = [(0, width), *((width + k, width + k + 1) for k in range(6))]
        assert torch.equal(seen(one_by_one, clock), at_once)
        assert torch.equal(seen(one_by_one, clock), at_once)
        assert torch.equal(seen([(0, width), (width, width + 2), (width + 2, width + 6)], clock), at_once)
        for k in range(6):
            assert torch.equal(seen([(0, width + k)], clock), at_once[:, : width + k])


def test_every_turn_of_a_conversation_has_its_own_segments(model: Any) -> None:
    """An answer's segments and places begin anew with every answer."""
    texts = ["Hi<think>", "No</think>Yes", "And?<think>", "So</think>Well then"]
    parts = [ids_of(model, text) for text in texts]
    offsets = [o for i, p in enumerate(parts) for o in (range(len(p)) if i % 2 else range(-len(p), 0))]
    (batch,) = padded([(0, [i for p in parts for i in p], len(parts[-1]))], 0, offsets={0: list(offsets)})
    assert spelled(model, batch, "thought") == ["NoSo"]
    assert spelled(model, batch, "answer") == ["YesWell then"]
    firsts = [ids_of(model, text)[0] for text in ("No", "Yes", "So", "Well")]
    assert spelled(model, batch, "thought[0]+answer[0]") == [model.lens_info.tokenizer.decode(firsts)]


# Vocabularies


def test_special_marks_stay_in_an_answer(tmp_path: Path) -> None:
    """Marks that are special tokens vanish from a decoded text unless they are kept: the segments survive the round."""
    model = ls.load_model(build_thinking(tmp_path, TAGS[1], special=True))
    (text,) = answers(model, ASKED[0], max_new_tokens=8, max_thought_tokens=3).texts
    assert "[/THINK]" in text
    assert split_thought(text, begun=True)[1] is not None
    check_poolable(model, with_responses(ASKED[:1], [text]), "thought")


def test_marks_in_pieces_of_bytes(tmp_path: Path) -> None:
    """A mark of which no character is a token: it is known with its last byte, and a budget writes it once."""
    model: Any = ls.load_model(build_thinking(tmp_path, (), mode=TAGS[4]))
    tokenizer, (opening, closing) = model.lens_info.tokenizer, TAGS[4]
    assert marks_of(tokenizer) == Marks(opening, closing, "chat template")
    ids = ids_of(model, closing)
    assert any(tokenizer.decode([i]).endswith("\ufffd") for i in ids)
    said = f"It is.{closing}Take the rope."
    (batch,) = batches_of(model, with_responses(ASKED[:1], [said]), with_response=True)
    assert spelled(model, batch, "answer") == ["Take the rope."]
    assert spelled(model, batch, "thought")[0].startswith("It is.")
    (text,) = answers(model, ASKED[0], max_new_tokens=24, max_thought_tokens=3).texts
    assert text.count(closing) == 1


def test_channels_of_a_model(tmp_path: Path) -> None:
    """A vocabulary with the tokens of gpt-oss: its channels are segments of a fixed response."""
    model = ls.load_model(build_thinking(tmp_path, CHANNEL_TOKENS, special=True), backend="hf")
    said = "<|channel|>analysis<|message|>No?<|end|><|start|>assistant<|channel|>final<|message|>Take the rope."
    (batch,) = batches_of(model, with_responses(ASKED[:1], [said]), with_response=True)
    assert spelled(model, batch, "thought") == ["No?"]
    assert spelled(model, batch, "answer") == ["Take the rope."]
    with pytest.raises(LensSteerError, match="positions"):
        clock_for(model, "analysis")
