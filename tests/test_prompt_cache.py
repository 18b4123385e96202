"""Responses to prompts that were read before: the same logits as without the cache, whatever is kept, in whatever order
they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation import sweeps
from lens_steer.evaluation.conditions import NONE, method_grids
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.inference import prompt_cache
from lens_steer.inference.prompt_cache import PromptCache
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.metrics.likelihood import mean_surprise
from tests.test_parity import PROMPTS

SAID = ["Yes.", "", "I cannot help with that request, sorry.", "The bridge stands in the north of the town.", "No."]


@pytest.fixture(scope="module")
def asked(refusal: Any) -> list[Prompt]:
    """Prompts of different lengths, one of them twice."""
    few = [Prompt(p.messages) for p in (*refusal.report.positive.prompts[:2], *refusal.report.negative.prompts[:2])]
    return [*few, few[0]]


def by_row(found: Any) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {row: (logits, ids) for row, logits, ids in found}


def check_same(model: Any, cache: PromptCache, prompts: Sequence[Prompt], responses: Sequence[str]) -> None:
    """The cache against a forward over prompt and response."""
    plain = by_row(response_logits(model, with_responses(prompts, responses)))
    cached = by_row(cache.response_logits(prompts, responses))
    assert sorted(plain) == sorted(cached)
    for row, (logits, ids) in plain.items():
        assert torch.equal(ids, cached[row][1])
        torch.testing.assert_close(cached[row][0], logits, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["organism/qwen2", "organism/llama", "organism/gemma2"])
def test_logits_are_those_of_a_forward_over_both(name: str, asked: list[Prompt]) -> None:
    model = ls.load_model(name)
    cache = PromptCache(model)
    check_same(model, cache, asked, SAID)
    check_same(
        model, cache, asked[::-1], ["A much longer response than the first one was, to the same prompt.", *SAID[1:]]
    )


def test_every_family_continues_its_own_kind_of_cache(tiny: Any) -> None:
    """Also sliding windows of a few tokens, soft caps, scaled rotary embeddings: prompts longer than the window."""
    long = [*PROMPTS, Prompt.of("Where does the long road go that begins behind the mill and ends beside the sea?")]
    said = [*SAID, "Along the river."][: len(long)]
    cache = PromptCache(tiny)
    check_same(tiny, cache, long, said)
    check_same(tiny, cache, long, [*said[1:], "No."])


def test_a_prompt_is_read_once(qwen: Any, asked: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    cache, widths = PromptCache(qwen), []
    twin = ls.hf_twin(qwen)
    handle = twin.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    try:
        for _ in range(2):
            dict(enumerate(cache.response_logits(asked, SAID)))
    finally:
        handle.remove()
    tokens = qwen.lens_info.tokenizer
    longest = max(len(tokens(text)["input_ids"]) for text in SAID)
    assert sum(width > longest for width in widths) == 1  # one batch of prompts; the rest are responses
    assert len(widths) == 3


@pytest.mark.parametrize("room", [0, 40_000])
def test_what_is_not_kept_is_read_anew(qwen: Any, asked: list[Prompt], room: int) -> None:
    cache = PromptCache(qwen, max_bytes=room)
    check_same(qwen, cache, asked, SAID)
    check_same(qwen, cache, asked, SAID)
    assert not cache._kept


def test_few_responses_a_forward_and_many_give_the_same(
    qwen: Any, asked: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = mean_surprise(qwen, asked, SAID, read=PromptCache(qwen))
    monkeypatch.setattr(prompt_cache, "MAX_ROWS", 1)
    np.testing.assert_allclose(mean_surprise(qwen, asked, SAID, read=PromptCache(qwen)), many, atol=1e-5)
    np.testing.assert_allclose(mean_surprise(qwen, asked, SAID), many, atol=1e-5)
    assert np.isnan(many[1]) and np.isfinite(many[[0, 2, 3, 4]]).all()


def test_a_plan_in_force_is_refused(qwen: Any, calibration: Any, asked: list[Prompt]) -> None:
    cache = PromptCache(qwen)
    with (
        ls.steering(qwen, ls.selective_steering(calibration, 90)),
        pytest.raises(LensSteerError, match="is in force on the model: leave its 'with' block first"),
    ):
        next(cache.response_logits(asked, SAID))


def test_too_long_a_response_is_refused_as_without(qwen: Any, asked: list[Prompt]) -> None:
    cache, long = PromptCache(qwen), ["word " * qwen.lens_info.n_ctx, *SAID[1:]]
    with pytest.raises(LensSteerError) as plain:
        list(response_logits(qwen, with_responses(asked, long)))
    with pytest.raises(LensSteerError) as cached:
        list(cache.response_logits(asked, long))
    assert str(cached.value) == str(plain.value)


def test_perplexities_of_the_unsteered_model_do_not_depend_on_the_cache(
    qwen: Any, asked: list[Prompt], calibration: Any, tmp_path: Path
) -> None:
    """Rows of a run with and without the cache: the same texts, perplexities to rounding, and with it the same bytes
    however the run was cut; engine ``tl`` keeps nothing.
    """
    contrast = Contrast(PromptSet(tuple(asked[:2]), "some"), PromptSet(tuple(asked[2:4]), "others"))
    grids = [Grid(NONE), *method_grids(calibration, "selective", values=[float(a) for a in range(0, 240, 30)])]
    plain = Protocol(qwen, contrast, "select", PromptSet(()), max_new_tokens=6, read_by=("ref",))
    cached = replace(plain, cached=True)
    assert "cached" not in plain.identity and cached.identity["cached"]
    assert replace(cached, engine="tl").prompt_cache is None
    found = [sweeps.run(p, grids, tmp_path / str(p.cached), "select", progress=False) for p in (plain, cached)]
    assert [r["text"] for r in found[0]] == [r["text"] for r in found[1]]
    surprise = np.array([[np.nan if r["surprise_ref"] is None else r["surprise_ref"] for r in rows] for rows in found])
    assert np.isfinite(surprise).any()
    np.testing.assert_allclose(surprise[0], surprise[1], atol=1e-5)
    assert all(r["surprise_self"] is None for rows in found for r in rows)
    parts = list(sweeps.parts_of(replace(cached), grids).values())  # with a cache in which nothing is yet
    assert len(parts) == 3
    again = [row for part in parts[1:] for row in part()]
    assert again == [{**row, "cut_off": bool(row["cut_off"])} for row in found[1][-len(again) :]]
