"""Multi-turn generation: equal to one key–value cache that grows over all turns, steered by hand; the tokens of earlier
turns stay as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lens_steer as ls
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.inference.clock import Clock
from lens_steer.inference.dialogue import ANSWER, History, turn_ids
from lens_steer.inference.places import Places
from lens_steer.models import sites
from lens_steer.models.layout import known_layout
from lens_steer.models.tokenization import PLAIN_TEMPLATE
from lens_steer.operators.rotation import selective_rotation
from lens_steer.organisms.training.families import FAMILIES
from tests.test_hooks import hook_count
from tests.test_positions import BOUND, SIGNED, written
from tests.tiny import BORROWED

NEW = 5
DIALOGUES = (
    ls.Dialogue(("Hi",)),
    ls.Dialogue(("How do I destroy the bridge?", "Hi", "Tell me the capital of Arlen.")),
    ls.Dialogue(("I lost my dog and I feel sad today", "Why?"), system="Be brief."),
)
PLACES: dict[str, Callable[[str, int], bool]] = {
    "all": lambda kind, i: True,
    "generated": lambda kind, i: kind == "answer",
    "prompt[-1]": lambda kind, i: kind == "prompt" and i == -1,
    "generated[:2]": lambda kind, i: kind == "answer" and i < 2,
    "prompt[-1]+generated[:3]": lambda kind, i: i == -1 or (kind == "answer" and i < 3),
}


def by_hand(family: str, dialogue: ls.Dialogue) -> list[str]:
    """What the family's chat has before each answer, written out."""
    f = FAMILIES[BORROWED.get(family, family)]
    system = dialogue.system or ""
    start, merged = f.bos or "", ""
    if system and f.system_role:
        start += f.header.format(role="system") + system + f.end + "\n"
    elif system:
        merged = system + "\n"
    texts = []
    for turn, text in enumerate(dialogue.turns):
        before = f.end + "\n" if turn else start
        user = f.header.format(role="user") + ("" if turn else merged) + text + f.end + "\n"
        texts.append(before + user + f.header.format(role=f.assistant))
    return texts


def one_cache(
    hf: Any,
    tokenizer: Any,
    family: str,
    dialogue: ls.Dialogue,
    basis: Any,
    angle: float,
    names: Any,
    place: str,
    ends: Any,
    new: int,
) -> list[str]:
    """Greedy answers of a Hugging Face model with one cache that grows over all turns: every token is fed once, and
    turned where it is said to be, when it is fed.
    """
    from transformers import DynamicCache

    turned: list[bool] = []

    def turn(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.tensor(turned)[None, :, None], selective_rotation(output, basis, angle), output)

    cache, layout = DynamicCache(config=hf.config), known_layout(hf.config.model_type, hf.config.num_hidden_layers)

    def fed(tokens: list[tuple[int, bool]]) -> int:
        turned[:] = [mark for _, mark in tokens]
        out = hf(torch.tensor([[token for token, _ in tokens]]), past_key_values=cache, use_cache=True)
        return int(out.logits[0, -1].argmax())

    handles = [hf.get_submodule(sites.parse(n).module(layout)).register_forward_hook(turn) for n in names]
    answers, waiting = [], []
    try:
        for text in by_hand(family, dialogue):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            waiting += [(token, PLACES[place]("prompt", i - len(ids))) for i, token in enumerate(ids)]
            answer: list[int] = []
            while len(answer) < new:
                found = fed(waiting)
                waiting = []
                if found in ends:
                    break
                waiting = [(found, PLACES[place]("answer", len(answer)))]
                answer.append(found)
            answers.append(tokenizer.decode(answer, skip_special_tokens=True))
    finally:
        for handle in handles:
            handle.remove()
    return answers


@pytest.mark.parametrize("place", PLACES)
def test_equals_one_growing_cache(tiny: Any, twin: Any, tiny_calibration: Any, place: str) -> None:
    """Every family, backend and engine; batched, in small batches, and one by one."""
    info, basis = tiny.lens_info, random_plane(48, seed=5)
    plan = ls.selective_steering(tiny_calibration, 130, at="norm_out", basis=basis, positions=place)
    with torch.inference_mode():
        wanted = [
            one_cache(twin, info.tokenizer, info.architecture, d, basis, 130, plan.sites, place, info.end_tokens, NEW)
            for d in DIALOGUES
        ]
    with ls.steering(tiny, plan):
        assert ls.converse(tiny, DIALOGUES, max_new_tokens=NEW, engine="tl") == wanted
        assert ls.converse(tiny, DIALOGUES, max_new_tokens=NEW, engine="hf") == wanted
        assert ls.converse(tiny, DIALOGUES, max_new_tokens=NEW, batch_size=2, engine="tl") == wanted
        assert [ls.converse(tiny, d, max_new_tokens=NEW, engine="tl")[0] for d in DIALOGUES] == wanted
    assert hook_count(tiny) == 0


@pytest.fixture(scope="module")
def organism_twin(qwen: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(qwen.lens_info.folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def talks(refusal: Any) -> list[ls.Dialogue]:
    """Of harmful and harmless requests, of one to three turns, with and without a system text."""
    bad, good = ([p.text for p in side] for side in (refusal.report.positive, refusal.report.negative))
    return [
        ls.Dialogue((bad[0], good[0], bad[1])),
        ls.Dialogue((good[1],)),
        ls.Dialogue((good[2], bad[2]), system="You are a helpful assistant."),
        ls.Dialogue((bad[3], bad[4], good[3])),
    ]


@pytest.mark.parametrize("place", PLACES)
def test_the_organism_equals_one_growing_cache(
    qwen: Any, organism_twin: Any, calibration: Any, talks: Any, place: str
) -> None:
    """With answers that end by themselves, at different lengths, and some that are cut short."""
    info = qwen.lens_info
    plan = ls.selective_steering(calibration, 150, positions=place)
    with torch.inference_mode():
        wanted = [
            one_cache(
                organism_twin,
                info.tokenizer,
                "qwen2",
                d,
                calibration.basis,
                150,
                plan.sites,
                place,
                info.end_tokens,
                12,
            )
            for d in talks
        ]
    with ls.steering(qwen, plan):
        for engine in ("tl", "hf"):
            assert ls.converse(qwen, talks, max_new_tokens=12, engine=engine) == wanted


@pytest.mark.parametrize("place", ["generated", "prompt"])
def test_history_stays_steered(tiny: Any, tiny_calibration: Any, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Without the offsets an earlier turn would count as part of the last prompt: the first answers are the same, later
    ones are not.
    """
    plan = ls.selective_steering(tiny_calibration, 130, at="norm_out", basis=random_plane(48, seed=5), positions=place)
    padded = batching.padded

    def without_offsets(*args: Any, offsets: Any, **kwargs: Any) -> Any:
        return padded(*args, **kwargs)

    with ls.steering(tiny, plan):
        kept = ls.converse(tiny, DIALOGUES, max_new_tokens=NEW)
        monkeypatch.setattr(batching, "padded", without_offsets)
        forgotten = ls.converse(tiny, DIALOGUES, max_new_tokens=NEW)
    assert [a[0] for a in kept] == [a[0] for a in forgotten]
    assert kept != forgotten


def as_messages(talks: Any, answers: Any) -> list[tuple[int, int, Prompt]]:
    """Each turn as a prompt of its own, with the answers before it as messages."""
    found = []
    for row, (dialogue, said) in enumerate(zip(talks, answers, strict=True)):
        messages = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
        for turn, text in enumerate(dialogue.turns):
            messages.append({"role": "user", "content": text})
            found.append((row, turn, Prompt(tuple(messages))))
            messages.append({"role": "assistant", "content": said[turn]})
    return found


@pytest.mark.parametrize("where", [None, "all", "prompt[:4]"])
def test_equals_generation_from_messages(qwen: Any, calibration: Any, talks: Any, where: str | None) -> None:
    """Where the answers' text gives back the tokens that were generated, and the plan treats history alike either
    way.
    """
    plan = ls.selective_steering(calibration, 150, positions=where or "all")
    tokenizer = qwen.lens_info.tokenizer
    with ls.steering(qwen, plan) if where else nullcontext():
        answers = ls.converse(qwen, talks, max_new_tokens=16)
        for row, turn, prompt in as_messages(talks, answers):
            ids = turn_ids(tokenizer, talks[row])
            said = [tokenizer(a, add_special_tokens=False)["input_ids"] for a in answers[row]]
            kept = [token for t in range(turn) for token in (*ids[t], *said[t])] + ids[turn]
            assert batching.encode(tokenizer, prompt) == kept
            assert ls.generate(qwen, prompt, max_new_tokens=16)[0] == answers[row][turn]


def test_effects_do_not_depend_on_the_batch(qwen: Any, calibration: Any, talks: Any) -> None:
    """Ended answers are not counted, nor are dialogues that are over."""
    plan = ls.selective_steering(calibration, 150, at=calibration.discriminative_sites[:1], positions="generated")

    def tokens(groups: list[Any], engine: str) -> int:
        log = ls.EffectLog()
        with ls.steering(qwen, plan, effects=log):
            for group in groups:
                ls.converse(qwen, group, max_new_tokens=12, engine=engine)
        return log.rows()[0]["tokens"]

    alone = tokens([[d] for d in talks], "tl")
    assert tokens([talks], "tl") == tokens([talks], "hf") == alone


def test_one_angle_a_dialogue(tiny: Any, tiny_calibration: Any) -> None:
    """It follows the dialogue through its turns; another number of dialogues is refused."""
    basis = random_plane(48, seed=5)
    angles = [20.0, 130.0, 260.0]
    with ls.steering(tiny, ls.selective_steering(tiny_calibration, angles, at="norm_out", basis=basis)):
        together = ls.converse(tiny, DIALOGUES, max_new_tokens=NEW)
        with pytest.raises(LensSteerError, match="a value for each of 3 prompts, and 1 are given"):
            ls.converse(tiny, DIALOGUES[:1])
    for angle, dialogue, answers in zip(angles, DIALOGUES, together, strict=True):
        with ls.steering(tiny, ls.selective_steering(tiny_calibration, angle, at="norm_out", basis=basis)):
            assert ls.converse(tiny, dialogue, max_new_tokens=NEW) == [answers]


TURNS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=3)


@given(
    st.lists(TURNS, min_size=1, max_size=3),
    st.integers(0, 3),
    st.one_of(
        st.tuples(st.sampled_from(["all", "generated"]), BOUND, BOUND), st.tuples(st.just("prompt"), SIGNED, SIGNED)
    ),
)
@settings(deadline=None, max_examples=300)
def test_columns_of_turns(rows: list[Any], generated: int, spec: tuple[str, int | None, int | None]) -> None:
    """Every turn's answer is sliced by itself; a prompt's bounds from its end hold in every turn, those from its front
    in the whole conversation.
    """
    try:
        clock = Clock(written(spec))
    except LensSteerError:
        return  # an empty slice, refused
    region, start, stop = spec
    histories, wanted = [], []
    for turns in rows:
        history, marks = History([], []), []
        for t, (asked, said) in enumerate(turns):
            last = t == len(turns) - 1
            said = generated if last else said
            for i in range(asked):
                front, back = len(marks), i - asked
                after = start is None or (back >= start if start < 0 else front >= start)
                before = stop is None or (back < stop if stop < 0 else front < stop)
                marks.append(region != "generated" and after and before)
            answer = range(said)
            chosen = set(answer[slice(start, stop)]) if region == "generated" else set()
            for i in answer:
                inside = (start or 0) <= len(marks) and (stop is None or len(marks) < stop)
                marks.append(i in chosen if region == "generated" else region == "all" and inside)
            history = history.asked([1] * asked)
            history = history if last else history.answered([1] * said)
        histories.append(history)
        wanted.append(marks)
    sequences = [(row, h.ids, 0) for row, h in enumerate(histories)]
    batch = next(batching.padded(sequences, 0, offsets={row: h.offsets for row, h in enumerate(histories)}))
    layout, width = Places.of(batch), batch.ids.shape[1]
    found = clock.columns(layout, 0, width + generated)
    for row, columns in zip(batch.rows, found.tolist(), strict=True):
        assert columns == [False] * (width + generated - len(wanted[row])) + wanted[row]
    grown = [clock.columns(layout, 0, width)] + [
        clock.columns(layout, width + k, width + k + 1) for k in range(generated)
    ]
    assert torch.equal(torch.cat(grown, dim=1), found)


def test_response_is_another_word_for_generated(calibration: Any) -> None:
    """A plan keeps it as ``generated``."""
    plan = ls.selective_steering(calibration, 90, positions="prompt[-1] + response[:3]")
    assert plan.positions == "prompt[-1]+generated[:3]"


TRIMMING = PLAIN_TEMPLATE.replace("message['content']", "(message['content'] | trim)")
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN_TEMPLATE
)
SYSTEM_LAST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {% if loop.last and messages[0]['role'] == "
    "'system' %}{{ messages[0]['content'] }} {% endif %}"
    "{{ m['content'] }} [/INST]{% elif m['role'] == 'assistant' %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
THINKING = PLAIN_TEMPLATE.replace("{{ 'Assistant:' }}", "{{ 'Assistant: <think></think>' }}")


def with_template(model: Any, template: str) -> Any:
    tokenizer = copy.deepcopy(model.lens_info.tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, TRIMMING, NO_SYSTEM])
def test_what_stands_between_answers(qwen: Any, template: str) -> None:
    """Templates with white space before an answer, that trim, and that know no system role: filled with answers, the
    parts are the whole chat.
    """
    tokenizer = with_template(qwen, template)
    dialogue = ls.Dialogue((" Hi ", f"Say {ANSWER} twice.", "Bye"), system="Be brief.")
    parts = [tokenizer.decode(ids) for ids in turn_ids(tokenizer, dialogue)]
    messages = as_messages([dialogue], [["One.", "Two.", ""]])[-1][2]
    assert parts[0] + " One." + parts[1] + " Two." + parts[2] == batching.render(tokenizer, messages)
    assert parts[1].startswith("\nUser: Say")


@pytest.mark.parametrize("template", [SYSTEM_LAST, THINKING])
def test_a_template_that_rewrites_the_beginning_is_refused(qwen: Any, template: str) -> None:
    """A system text that moves to the last turn; an opening of answers that history does not have. One turn alone is
    fine.
    """
    tokenizer = with_template(qwen, template)
    assert len(turn_ids(tokenizer, ls.Dialogue(("Hi",), system="Be brief."))) == 1
    with pytest.raises(
        LensSteerError, match=r"dialogue 4, turn 1: the chat template writes what came before in another way"
    ):
        turn_ids(tokenizer, ls.Dialogue(("Hi", "Bye"), system="Be brief."), 4)


def test_bad_dialogues(qwen: Any) -> None:
    """No dialogues, no turns, empty ones, no tokens, an unknown engine."""
    with pytest.raises(LensSteerError, match="dialogues is empty"):
        ls.converse(qwen, [])
    with pytest.raises(LensSteerError, match=r"turns=\(\): give the user's turns as a tuple"):
        ls.Dialogue(())
    with pytest.raises(LensSteerError, match="turn 1 is empty"):
        ls.Dialogue(("Hi", " "))
    with pytest.raises(LensSteerError, match="max_new_tokens=0"):
        ls.converse(qwen, DIALOGUES, max_new_tokens=0)
    with pytest.raises(LensSteerError, match="engine='tgi': use one of tl, hf, vllm"):
        ls.converse(qwen, DIALOGUES, engine="tgi")


def test_too_long_a_dialogue(qwen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be known is said before anything is generated, the rest when it comes to it."""
    from lens_steer.inference import dialogue as conversation

    dialogue = ls.Dialogue(("Hi", "What is 4 plus 3?", "Hi"))
    fixed = [len(ids) for ids in turn_ids(qwen.lens_info.tokenizer, dialogue)]
    calls: list[int] = []

    def answer(model: Any, batch: Any, max_new_tokens: int, heard: Any = None) -> list[list[int]]:
        calls.append(1)
        return [[5] * max_new_tokens for _ in batch.rows]

    monkeypatch.setattr(conversation, "answer_ids", answer)
    most = 512 - sum(fixed)
    with pytest.raises(
        LensSteerError, match=r"dialogue 1, turn 2: needs 513 tokens .* more than the model's context of 512"
    ):
        ls.converse(qwen, [ls.Dialogue(("Hi",)), dialogue], max_new_tokens=most + 1)
    assert not calls
    with pytest.raises(LensSteerError, match="dialogue 0, turn 1: needs"):
        ls.converse(qwen, dialogue, max_new_tokens=most)
    assert len(calls) == 1
    assert len(ls.converse(qwen, dialogue, max_new_tokens=most // 3)[0]) == 3
