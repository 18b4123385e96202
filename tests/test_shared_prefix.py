"""The tokens that a batch's rows share are read once: the values of whole rows, and where every row is read whole."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Prompt
from lens_steer.inference import shared_prefix as module
from lens_steer.inference.attach import at_input
from lens_steer.inference.batching import Batch, encode
from lens_steer.inference.continuations import continuation_logs
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of, last_logits
from lens_steer.inference.prompt_cache import PromptCache
from lens_steer.inference.shared_prefix import counted_from_the_first, shared_prefix
from lens_steer.inference.teacher_forcing import with_responses
from lens_steer.models.loading import blocks_of
from lens_steer.steer.effects import EffectLog
from lens_steer.steer.value_sweep import logits_by_value
from tests.test_parity import relative

SYSTEM = "You are a careful helper who answers in one sentence, and who says what is not known."
ASKED = ["Hi", "How do I bake a loaf of bread for eight people?", "What is two and two?", "Hello there, friend"]
TEXTS = ["Sure.", "No, and not for a long while.", "b", "Take the hammer"]
PLANS = {
    "all": 140.0,
    "generated": 140.0,
    "prompt[3:]+generated[:2]": 70.0,
    "a value for each row": [0.0, 140.0, 140.0, 260.0],
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows of the tiny models are shorter than what is worth sharing."""
    monkeypatch.setattr(module, "MIN_TOKENS", 4)


@pytest.fixture
def prompts() -> list[Prompt]:
    return [Prompt.of(text, system=SYSTEM) for text in ASKED]


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes every row be read whole from then on."""
    return lambda: monkeypatch.setattr(module, "MIN_TOKENS", 10**6)


def plan_of(calibration: Any, name: str) -> Any:
    plan = ls.selective_steering(calibration, PLANS[name])
    return plan if name.startswith("a ") else ls.selective_steering(calibration, PLANS[name], positions=name)


def read_by_first_block(runner: Any, batch: Batch, keep: int) -> tuple[Any, list[int]]:
    """The logits, and how many tokens the first block was given in each forward."""
    seen: list[int] = []
    first = blocks_of(runner)[0]
    own = first.forward

    def counting(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(hidden.shape[0] * hidden.shape[1])
        return own(hidden, *args, **kwargs)

    first.forward = counting
    try:
        return last_logits(runner, batch, keep), seen
    finally:
        del first.forward


@pytest.mark.parametrize("name", [None, *PLANS])
def test_logits_are_those_of_whole_rows(tiny: Any, tiny_calibration: Any, prompts: Any, name: str | None) -> None:
    """Padded rows, with answers, under every kind of plan that shares; and fewer tokens are read."""
    forced = with_responses(prompts, TEXTS)
    with ExitStack() as stack:
        if name is not None:
            stack.enter_context(ls.steering(tiny, plan_of(tiny_calibration, name)))
        runner = stack.enter_context(on_engine(tiny, "hf"))
        (batch,) = batches_of(runner, forced, with_response=True)
        n = shared_prefix(runner, batch)
        own = [encode(tiny.lens_info.tokenizer, p) for p in prompts]
        common = next(i for i, tokens in enumerate(zip(*own, strict=False)) if len(set(tokens)) > 1)
        window = getattr(runner.config, "sliding_window", None)
        assert n == (common if window is None else min(common, window - 1)) and n >= 7
        keep = max(batch.response_lengths) + 1
        found, read = read_by_first_block(runner, batch, keep)
        expected = last_logits(runner, batch, keep, shared=0)
        values = 3 if name == "a value for each row" else 1
        assert read == [n * values, len(prompts) * (batch.ids.shape[1] - n)]
    for i, length in enumerate(batch.response_lengths):
        assert relative(found[i, -length - 1 :], expected[i, -length - 1 :]) < 1e-5


@pytest.mark.parametrize("positions", ["all", "generated", "prompt[-1]"])
@pytest.mark.parametrize("at", ["norm_out", "blocks.2.hook_resid_pre"])
def test_many_values(tiny: Any, tiny_calibration: Any, prompts: Any, whole: Any, positions: str, at: str) -> None:
    """The sweep over values begins at its first steered block on top of the shared tokens, too."""
    build, forced = partial(ls.selective_steering, tiny_calibration, at=at, positions=positions), []
    values, asked = [0.0, 90.0, 200.0], with_responses(prompts, TEXTS)
    for _ in range(2):
        rows = logits_by_value(tiny, build, values, asked, engine="hf")
        forced.append({(row, value): logits for row, value, logits, _ in rows})
        whole()
    assert forced[0].keys() == forced[1].keys() and len(forced[0]) == len(prompts) * 4
    assert all(relative(logits, forced[1][key]) < 1e-5 for key, logits in forced[0].items())
    assert relative(forced[0][0, 1], forced[0][0, None]) > 1e-3


@pytest.mark.parametrize("name", [None, *PLANS])
def test_what_stands_on_it(tiny: Any, tiny_calibration: Any, prompts: Any, whole: Any, name: str | None) -> None:
    """Answers and the likelihood of texts; without a plan also answers to kept prompts."""
    found = []
    for _ in range(2):
        with ExitStack() as stack:
            if name is not None:
                stack.enter_context(ls.steering(tiny, plan_of(tiny_calibration, name)))
            answers = ls.generate(tiny, prompts, max_new_tokens=6)
            logs = continuation_logs(tiny, prompts, [TEXTS, TEXTS[::-1]], engine="hf")
        kept = PromptCache(tiny).response_logits(prompts, TEXTS) if name is None else ()
        found.append((answers, logs, {row: logits for row, logits, _ in kept}))
        whole()
    (answers, logs, kept), (again, expected, read) = found
    assert answers == again
    assert logs == pytest.approx(expected, rel=1e-4)
    assert all(relative(logits, read[row]) < 1e-5 for row, logits in kept.items())


def test_two_plans(tiny: Any, tiny_calibration: Any, prompts: Any) -> None:
    """Nested plans act on the shared tokens in their order; one of them has a value for each row."""
    by_row, turned = plan_of(tiny_calibration, "a value for each row"), plan_of(tiny_calibration, "all")
    with ls.steering(tiny, by_row), ls.steering(tiny, turned), on_engine(tiny, "hf") as runner:
        (batch,) = batches_of(runner, prompts)
        assert shared_prefix(runner, batch) >= 7
        assert relative(last_logits(runner, batch, 1), last_logits(runner, batch, 1, shared=0)) < 1e-5


def test_where_every_row_is_read_whole(tiny: Any, tiny_calibration: Any, prompts: Any) -> None:
    """Positions from the end, a hook that may read, effects, one row, other beginnings, TransformerLens itself."""
    with on_engine(tiny, "hf") as runner:
        (batch,) = batches_of(runner, prompts)
        assert shared_prefix(runner, batch) >= 7 and not shared_prefix(tiny, batch)
        (alone,) = batches_of(runner, prompts[:1])
        ids = batch.ids.clone()
        ids[2, -int(batch.mask[2].sum())] += 1  # the first token of one row is another
        unlike = Batch(batch.rows, ids, batch.mask, batch.response_lengths)
        turns = Batch(batch.rows, batch.ids, batch.mask, batch.response_lengths, offset=torch.zeros_like(batch.ids))
        assert [shared_prefix(runner, b) for b in (alone, turns, unlike)] == [0, 0, 0]
        handle = at_input(blocks_of(runner)[1], lambda stream, hook: None)
        assert not shared_prefix(runner, batch)
        handle.remove()
    for positions in ("prompt[-2:]", "prompt[:-1]", "recomputed(16)+generated"):
        plan = ls.selective_steering(tiny_calibration, 90, positions=positions)
        with ls.steering(tiny, plan), on_engine(tiny, "hf") as runner:
            assert not shared_prefix(runner, batch) and not counted_from_the_first(positions)
    with ls.steering(tiny, plan_of(tiny_calibration, "all"), effects=EffectLog()), on_engine(tiny, "hf") as runner:
        assert not shared_prefix(runner, batch)


def test_the_whole_prompt_is_never_shared(tiny: Any, prompts: Any) -> None:
    """Equal prompts: the token that gives the first logits is read for every row."""
    with on_engine(tiny, "hf") as runner:
        (batch,) = batches_of(runner, [prompts[0]] * 3)
        n = shared_prefix(runner, batch)
        assert n <= batch.ids.shape[1] - 1
        assert relative(last_logits(runner, batch, 1), last_logits(runner, batch, 1, shared=0)) < 1e-5
