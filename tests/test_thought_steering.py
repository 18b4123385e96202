"""Steering the thought or the answer of a reasoning model, and a budget for its thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.batching import padded
from lens_steer.inference.decoding import begins_in_thought, opens_thought
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of, last_logits
from lens_steer.inference.generation import answer_ids, answers
from lens_steer.inference.segments import Segments
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.inference.thought_budget import ThoughtBudget, check_budget
from lens_steer.models.thoughts import THOUGHT_CHANNEL
from tests.test_parity import relative
from tests.thinking import ASKED, LETTER, SAID, ids_of

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model(thinking_folder: Path) -> Any:
    return ls.load_model(thinking_folder)


@pytest.fixture(scope="module")
def plain(thinking_folder: Path) -> Any:
    """The same model in the mode without thoughts."""
    return ls.load_model(thinking_folder, template_args={"enable_thinking": False})


@pytest.fixture(scope="module")
def calibration(model: Any) -> Any:
    contrast = ls.Contrast(PromptSet(tuple(ASKED[:2])), PromptSet(tuple(ASKED[1:])))
    return ls.calibrate(ls.record(model, contrast, "resid_post", progress=False))


@pytest.mark.parametrize("positions", ["thought", "answer", "thought[1:]+answer[:2]"])
def test_steered_segments_equal_plain_hooks(
    model: Any, thinking_folder: Path, calibration: Any, positions: str
) -> None:
    """Fixed responses in a padded batch, on both engines: what a plain hook gives that adds at these tokens alone."""
    plan = ls.act_add(calibration, 4.0, at=[SITE], positions=positions)
    prompts, tokenizer = with_responses(ASKED, SAID), model.lens_info.tokenizer
    segments = Segments(tokenizer, "a test")
    vector = 4.0 * torch.as_tensor(plan.steps[0].parameters["direction"])
    hf: Any = ls.load_model(thinking_folder, backend="hf")
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


# Two plans, two modes


def test_a_steered_batch_follows_a_plan_beside_it(model: Any, calibration: Any) -> None:
    """Two plans at once, each with its own segment, do what one plan does that steers both."""
    plans = [ls.act_add(calibration, 30.0, at=[SITE], positions=p) for p in ("thought", "answer", "thought+answer")]
    how: dict[str, Any] = {"max_new_tokens": 14, "max_thought_tokens": 5}
    with ls.steering(model, plans[0]), ls.steering(model, plans[1]):
        both = answers(model, ASKED, **how)
    with ls.steering(model, plans[2]):
        assert answers(model, ASKED, **how) == both


def test_modes_are_told(model: Any, plain: Any, calibration: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A calibration carries the mode of its prompts; steering the other mode with it is told."""
    assert begins_in_thought(model.lens_info.tokenizer, ASKED[0])
    assert not begins_in_thought(plain.lens_info.tokenizer, ASKED[0])
    assert opens_thought(f"x{THOUGHT_CHANNEL}")
    with ls.steering(plain, ls.act_add(calibration, 1.0, at=[SITE])):
        ls.generate(plain, "Hi", max_new_tokens=2)
    assert "args {} and {'enable_thinking': False}" in caplog.text
