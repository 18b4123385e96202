"""Thought and answer as segments: which token is which, steering them, recording them, and a budget for thoughts."""

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
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.batching import Batch, padded
from lens_steer.inference.clock import Clock, clock_for, running, steers
from lens_steer.inference.decoding import begins_in_thought, opens_thought
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of, last_logits
from lens_steer.inference.generation import answer_ids, answers
from lens_steer.inference.places import Places
from lens_steer.inference.pooling import check_poolable, checked_pooling
from lens_steer.inference.positions import first_steered, normalized, parse
from lens_steer.inference.record import record_prompts
from lens_steer.inference.record_tokens import record_tokens
from lens_steer.inference.segments import ANSWER, MARK, THOUGHT, Reader, Segments
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.inference.thought_budget import ThoughtBudget, check_budget
from lens_steer.metrics.thinking import split_thought
from lens_steer.models.thoughts import ANSWER_CHANNEL, TAGS, THOUGHT_CHANNEL, Marks, marks_of
from tests.test_parity import relative
from tests.thinking import CHANNEL_TOKENS, build_thinking

THINK = Marks(*TAGS[0], "a test")
CHANNELS = Marks(THOUGHT_CHANNEL, ANSWER_CHANNEL, "a test")
LETTER = {MARK: ".", THOUGHT: "t", ANSWER: "a"}
ASKED = [Prompt.of("How do I burn a bridge?"), Prompt.of("Please help me dig a well at harbour 3."), Prompt.of("Hi")]
SAID = [
    "It is a bridge.</think>Take the rope now.",
    "Which well?</think>\nDig",
    "No.</think>Hello to you, and good day.",
]
SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_thinking(tmp_path_factory.mktemp("thinking"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return ls.load_model(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    """The same model in the mode without thoughts."""
    return ls.load_model(folder, template_args={"enable_thinking": False})


@pytest.fixture(scope="module")
def calibration(model: Any) -> Any:
    contrast = ls.Contrast(PromptSet(tuple(ASKED[:2])), PromptSet(tuple(ASKED[1:])))
    return ls.calibrate(ls.record(model, contrast, "resid_post", progress=False))


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
    if said is None:  # the thought never ends: what was answered before it does not count
        assert found.endswith("t") or pieces[-1:] == [THINK.opening] or not parts[-1]
    else:
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


def ids_of(model: Any, text: str) -> list[int]:
    return list(model.lens_info.tokenizer(text, add_special_tokens=False)["input_ids"])


def forced(model: Any) -> Batch:
    """The prompts with their responses, in one batch."""
    (batch,) = batches_of(model, with_responses(ASKED, SAID), with_response=True)
    return batch


def spelled(model: Any, batch: Batch, positions: str) -> list[str]:
    """The selected tokens of every row, in the order of the prompts, decoded."""
    chosen = clock_for(model, positions).columns(Places.of(batch), 0, batch.ids.shape[1])
    found = [model.lens_info.tokenizer.decode(ids[own]) for ids, own in zip(batch.ids, chosen, strict=True)]
    return [found[batch.rows.index(row)] for row in range(len(found))]


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


# Steering


@pytest.mark.parametrize("positions", ["thought", "answer", "thought[1:]+answer[:2]"])
def test_steered_segments_equal_plain_hooks(model: Any, folder: Path, calibration: Any, positions: str) -> None:
    """Fixed responses in a padded batch, on both engines: what a plain hook gives that adds at these tokens alone."""
    plan = ls.act_add(calibration, 4.0, at=[SITE], positions=positions)
    prompts, tokenizer = with_responses(ASKED, SAID), model.lens_info.tokenizer
    segments = Segments(tokenizer, "a test")
    vector = 4.0 * torch.as_tensor(plan.steps[0].parameters["direction"])
    hf: Any = ls.load_model(folder, backend="hf")
    for engine in ("hf", "tl"):
        with ls.steering(model, plan):
            steered = {row: logits for row, logits, _ in response_logits(model, prompts, engine=engine)}
        for row, prompt in enumerate(prompts):
            asked, said = batching.encode(tokenizer, prompt), batching.encode_response(tokenizer, prompt)
            by_hand = "".join(LETTER[kind] for kind in segments.of(asked, said))
            assert by_hand == "t" * by_hand.index(".") + "." + "a" * (len(said) - by_hand.index(".") - 1)
            close, n = by_hand.index("."), len(said)
            columns = {
                "thought": range(close),
                "answer": range(close + 1, n),
                "thought[1:]+answer[:2]": [*range(1, close), *range(close + 1, min(close + 3, n))],
            }[positions]

            def add(module: Any, args: Any, output: Any, columns: Any = columns, start: int = len(asked)) -> Any:
                output[:, [start + c for c in columns]] += vector
                return output

            handle = hf.get_submodule("model.layers.1").register_forward_hook(add)
            with torch.inference_mode():
                wanted = hf(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1]
            handle.remove()
            assert relative(steered[row], wanted) < 1e-4, (engine, row)


def written(model: Any, most: int | None, new: int = 12, **how: Any) -> list[list[int]]:
    """The ids that a model writes after each prompt, with a budget for its thoughts or without one."""
    found: dict[int, list[int]] = {}
    with on_engine(model, "hf") as runner:
        for batch in batches_of(runner, ASKED, max_new_tokens=new, **how):
            budget = None if most is None else ThoughtBudget(model.lens_info.tokenizer, batch, most, ())
            found |= zip(batch.rows, answer_ids(runner, batch, new, heard=budget), strict=True)
    return [found[row] for row in range(len(ASKED))]


@pytest.mark.parametrize("positions", ["thought", "answer", "prompt+thought[2:]"])
def test_generation_under_steered_segments(model: Any, calibration: Any, positions: str) -> None:
    """Cache = no cache = one by one; every token that was not forced is the likeliest one when all are read at once."""
    plan = ls.act_add(calibration, 30.0, at=[SITE], positions=positions)
    how: dict[str, Any] = {"max_new_tokens": 12, "max_thought_tokens": 5}
    unsteered, tokenizer = written(model, 5), model.lens_info.tokenizer
    with ls.steering(model, plan):
        found = answers(model, ASKED, **how)
        assert answers(model, ASKED, kv_cache=False, **how) == found
        assert [answers(model, p, **how).texts[0] for p in ASKED] == found.texts
        ids = written(model, 5)
        assert ids == written(model, 5, max_rows=1)
        rows = [
            (i, batching.encode(tokenizer, p) + own, len(own))
            for i, (p, own) in enumerate(zip(ASKED, ids, strict=True))
        ]
        (batch,) = padded(rows, 0)
        with on_engine(model, "hf") as runner:
            likeliest = last_logits(runner, batch, 13).argmax(dim=-1)
    assert ids != unsteered
    (closing,) = ids_of(model, "</think>")
    for row, predicted in zip(batch.rows, likeliest.tolist(), strict=True):
        own = ids[row]
        pairs = zip(own, predicted[-len(own) - 1 : -1], strict=True)
        assert all(token in (best, closing) for token, best in pairs)


def test_engine_tl_generates_the_same_segments(model: Any, plain: Any, calibration: Any) -> None:
    """Where no budget is needed: in the mode without thoughts, everything is answer."""
    contrast = ls.Contrast(PromptSet(tuple(ASKED[:2])), PromptSet(tuple(ASKED[1:])))
    made = ls.calibrate(ls.record(plain, contrast, "resid_post", progress=False))
    with ls.steering(plain, ls.act_add(made, 30.0, at=[SITE], positions="answer[1:]")):
        texts = ls.generate(plain, ASKED, max_new_tokens=8)
        for kv_cache in (True, False):  # without a cache TransformerLens embeds the newest token alone
            assert ls.generate(plain, ASKED, max_new_tokens=8, engine="tl", kv_cache=kv_cache) == texts
    with ls.steering(plain, ls.act_add(made, 30.0, at=[SITE], positions="generated[1:]")):
        assert ls.generate(plain, ASKED, max_new_tokens=8) == texts


# A budget


@pytest.mark.parametrize("most", [0, 1, 4])
def test_a_thought_is_closed_at_its_budget(model: Any, most: int) -> None:
    """A random model goes on thinking until it is stopped: exactly so many tokens, then the mark, then an answer."""
    segments, tokenizer = Segments(model.lens_info.tokenizer, "a test"), model.lens_info.tokenizer
    free = written(model, None, 9)
    for prompt, ids, unbound in zip(ASKED, written(model, most, 9), free, strict=True):
        kinds = "".join(LETTER[kind] for kind in segments.of(batching.encode(tokenizer, prompt), ids))
        assert kinds.startswith("t" * most + ".a")
        assert ids[:most] == unbound[:most]
    assert written(model, 9, 9) == free
    assert answers(model, ASKED, max_new_tokens=9, max_thought_tokens=most).ended == [True] * 3
    assert answers(model, ASKED, max_new_tokens=9).ended == [False] * 3


def test_an_end_in_a_thought_is_no_budget(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A row that ends in its thought is left alone while others go on; a closed thought is told."""
    end, vocabulary = model.lens_info.end_tokens[0], model.lens_info.tokenizer
    (batch,) = batches_of(model, ASKED, max_new_tokens=9)
    budget = ThoughtBudget(vocabulary, batch, 2, [end])
    ids, word = batch.ids, ids_of(model, "rope")[0]
    logits = torch.zeros(3, len(vocabulary))
    logits[:, word] = 1
    first = [0 if i == 0 else 1 for i in range(3)]
    for step in range(4):
        found = budget(ids, logits)
        forced_rows = torch.isinf(found).any(dim=1).tolist()
        assert forced_rows == [False, step == 2, step == 2]
        new = torch.tensor([[end if row == 0 and step == 0 else word] for row in range(3)])
        new[1:] = found.argmax(dim=-1, keepdim=True)[1:]
        ids = torch.cat([ids, new], dim=1)
    assert budget.ended == [bool(f) for f in first]
    ls.generate(model, ASKED, max_new_tokens=9, max_thought_tokens=2)
    assert "3 of 3 thoughts were closed at max_thought_tokens=2" in caplog.text


def test_bad_budgets(model: Any) -> None:
    with pytest.raises(LensSteerError, match="max_thought_tokens=-1: give the number of tokens of the thoughts"):
        check_budget(-1, "hf")
    with pytest.raises(LensSteerError, match="only engine 'hf' closes thoughts, and the engine is 'tl'"):
        ls.generate(model, "Hi", max_thought_tokens=3, engine="tl")
    check_budget(None, "vllm")
    with pytest.raises(LensSteerError, match="max_thought_tokens=8 and the closing mark take 9 of max_new_tokens=9"):
        ls.generate(model, "Hi", max_new_tokens=9, max_thought_tokens=8)
    assert len(ls.generate(model, "Hi", max_new_tokens=10, max_thought_tokens=8)) == 1


# Recording


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_pooled_segments_are_means_of_their_tokens(model: Any, engine: str) -> None:
    """Of both segments, in a padded batch; with the marks they are all of the response."""
    prompts = with_responses(ASKED, SAID)
    contrast = ls.Contrast(prompts[:2], prompts[1:])
    own: dict[str, Any] = {}
    for region in ("thought", "answer", "response"):
        pooled = ls.record(model, contrast, [SITE], pooling=region, engine=engine, progress=False)  # type: ignore[call-overload]
        single = record_tokens(model, contrast, [SITE], region=region, engine=engine)
        assert single.pooling == ("token" if region == "response" else f"{region} token")
        counts = [
            int((clock_for(model, normalized(region)).columns(Places.of(b), 0, b.ids.shape[1])).sum())
            for b in one_each(model)
        ]
        parts = single.positive.split(counts[:2])
        assert relative(pooled.positive, torch.stack([p.mean(dim=0) for p in parts])) < 1e-5
        own[region] = single.positive
    marks = len(own["response"]) - len(own["thought"]) - len(own["answer"])
    assert marks == 2
    assert repr(pooled) and "response tokens averaged" in repr(pooled)


def one_each(model: Any) -> list[Batch]:
    """Every prompt with its response in a batch of its own, in order."""
    return [
        next(iter(batches_of(model, with_responses([p], [said]), with_response=True)))
        for p, said in zip(ASKED, SAID, strict=True)
    ]


def test_bad_pooling(model: Any, plain: Any, qwen: Any) -> None:
    """Named before anything runs: the prompt that has no thought or no answer, and the model without marks."""
    cut = with_responses(ASKED, [SAID[0], "It is a", SAID[2]])
    lacks = r"the response of prompt 1 of .*1 of 3 are so\) has no token of its answer: leave them out"
    with pytest.raises(LensSteerError, match=lacks):
        check_poolable(model, cut, "answer")
    with pytest.raises(LensSteerError, match="prompt 0 of .* closes a thought that neither it nor the chat"):
        check_poolable(plain, with_responses(ASKED, SAID), "answer")
    check_poolable(model, cut, "thought")
    with pytest.raises(LensSteerError, match=r"prompt 0 of .*3 of 3 are so\) has no token of its thought"):
        check_poolable(plain, with_responses(ASKED, ["A rope."] * 3), "thought")
    with pytest.raises(LensSteerError, match="pooling='thought': neither the templates"):
        record_prompts(qwen, with_responses(ASKED, SAID), [SITE], pooling="thought")
    with pytest.raises(LensSteerError, match="pooling='answer' needs a response for every prompt: prompt 0"):
        check_poolable(model, PromptSet(tuple(ASKED)), "answer")
    with pytest.raises(LensSteerError, match="pooling='mean': use one of 'last', 'response', 'thought', 'answer'"):
        checked_pooling("mean")


# Modes


def test_modes_are_told(model: Any, plain: Any, calibration: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A calibration carries the mode of its prompts; steering the other mode with it is told."""
    assert begins_in_thought(model.lens_info.tokenizer, ASKED[0])
    assert not begins_in_thought(plain.lens_info.tokenizer, ASKED[0])
    assert opens_thought(f"x{THOUGHT_CHANNEL}")
    with ls.steering(plain, ls.act_add(calibration, 1.0, at=[SITE])):
        ls.generate(plain, "Hi", max_new_tokens=2)
    assert "args {} and {'enable_thinking': False}" in caplog.text


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


def test_a_steered_batch_follows_a_plan_beside_it(model: Any, calibration: Any) -> None:
    """Two plans at once, each with its own segment, do what one plan does that steers both."""
    plans = [ls.act_add(calibration, 30.0, at=[SITE], positions=p) for p in ("thought", "answer", "thought+answer")]
    how: dict[str, Any] = {"max_new_tokens": 14, "max_thought_tokens": 5}
    with ls.steering(model, plans[0]), ls.steering(model, plans[1]):
        both = answers(model, ASKED, **how)
    with ls.steering(model, plans[2]):
        assert answers(model, ASKED, **how) == both


def test_channels_of_a_model(tmp_path: Path) -> None:
    """A vocabulary with the tokens of gpt-oss: its channels are segments of a fixed response."""
    model = ls.load_model(build_thinking(tmp_path, CHANNEL_TOKENS, special=True), backend="hf")
    said = "<|channel|>analysis<|message|>No?<|end|><|start|>assistant<|channel|>final<|message|>Take the rope."
    (batch,) = batches_of(model, with_responses(ASKED[:1], [said]), with_response=True)
    assert spelled(model, batch, "thought") == ["No?"]
    assert spelled(model, batch, "answer") == ["Take the rope."]
    with pytest.raises(LensSteerError, match="positions"):
        clock_for(model, "analysis")
