"""What a prefix cache hands over: positions by hand and by slicing, and a plan against a real cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_steer import generate, selective_steering, standard_angular, steering
from lens_steer.data import PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.work import bare
from lens_steer.inference.batching import Batch, encode
from lens_steer.inference.clock import Clock, running
from lens_steer.inference.places import Places
from lens_steer.inference.positions import first_steered, n_reused, parse
from lens_steer.metrics.benchmarks import organism_tasks
from lens_steer.studies.propositions.experiments import BASE, Experiments
from lens_steer.studies.propositions.prefix_cache import Reuse, readings, reuse_by_outcome, stale_grids
from lens_steer.studies.propositions.questions import QUESTIONS, experiment_claims
from lens_steer.studies.verdicts import NOT_SHOWN
from tests.conftest import HAS_HOOKED
from tests.test_behaviour_claims import measured
from tests.test_positions import batch_of


def test_whole_blocks_by_hand() -> None:
    """Blocks of 4, prompts of 3, 4, 5 and 9 tokens with an answer of 2: nothing, nothing (the last whole block is
    computed again, for its last token), one block, two; each counted from the row's own first token.
    """
    layout = Places.of(batch_of([3, 4, 5, 9], [2, 2, 2, 2]))
    reused = Clock("reused(4)").columns(layout, 0, 11).int().sum(dim=1)
    assert reused.tolist() == [0, 0, 4, 8]
    got = ["".join(".x"[int(v)] for v in row) for row in Clock("recomputed(4)+generated").columns(layout, 0, 11)]
    assert got == ["......xxxxx", ".....xxxxxx", "........xxx", "........xxx"]
    assert [n_reused(n, 4) for n in (3, 4, 5, 8, 9)] == [0, 0, 4, 4, 8]
    assert n_reused(torch.tensor([3, 9]), 4).tolist() == [0, 8]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=4), st.integers(1, 17))
@settings(deadline=None, max_examples=100)
def test_blocks_equal_slicing_of_each_row(rows: list[tuple[int, int]], block: int) -> None:
    """The longest prefix of whole blocks that leaves at least the last token, found by trying; in one forward, in two,
    and the two parts of a prompt together are the prompt.
    """
    layout = Places.of(batch_of([p for p, _ in rows], [r for _, r in rows]))
    width = layout.width
    reused, rest = (Clock(f"{part}({block})").columns(layout, 0, width) for part in ("reused", "recomputed"))
    for (prompt, response), mine in zip(rows, reused, strict=True):
        most = max(k for k in range(0, prompt, block))
        begin = width - prompt - response
        assert mine.tolist() == [begin <= column < begin + most for column in range(width)]
    assert torch.equal(reused | rest, Clock("prompt").columns(layout, 0, width))
    assert not bool((reused & rest).any())
    cut = width // 2
    again = [Clock(f"reused({block})").columns(layout, *ends) for ends in ((0, cut), (cut, width))]
    assert torch.equal(torch.cat(again, dim=1), reused)


def test_a_turn_has_its_own_blocks() -> None:
    """In a conversation the prompt of a turn is everything before its answer."""
    offset = torch.tensor([[-3, -2, -1, 0, 1, -4, -3, -2, -1]])  # 3 tokens, an answer of 2, 4 tokens
    ids = torch.ones(1, 9, dtype=torch.long)
    layout = Places.of(Batch((0,), ids, ids, (0,), offset))
    got = Clock("reused(2)").columns(layout, 0, 9)[0].tolist()
    assert got == [True, True, False, False, False, True, True, True, False]


def test_words_and_what_is_refused() -> None:
    """The first steered token in words; a block without a token, and a block where none belongs."""
    rest = "the first token of the prompt that a prefix cache with blocks of 8 does not hand over"
    assert first_steered("recomputed(8)+generated") == first_steered("prompt[-1]+recomputed(8)") == rest
    assert first_steered("reused(8)+generated") == rest.replace("does not hand over", "hands over, if any")
    assert first_steered("recomputed(8)+prompt") == first_steered("prompt[:4]+reused(8)") == "token 0 of the prompt"
    # where a prompt is short nothing is handed over, and its first token is computed again
    later = rest.replace("first token of the prompt", "first one")
    assert first_steered("recomputed(8)+prompt[5]") == f"token 5 of the prompt, or {later}"
    with pytest.raises(LensSteerError, match=r"positions='reused\(0\)': a block of 0 tokens holds no token"):
        parse("reused(0)")
    for bad in ("generated(4)", "reused", "recomputed(-1)", "reused[4]"):
        with pytest.raises(LensSteerError, match="is not understood; use all, prompt"):
            parse(bad)
    with pytest.raises(LensSteerError, match="block=0: give the number of tokens in a block"):
        n_reused(8, 0)
    with pytest.raises(LensSteerError, match="prompts is empty"):
        Reuse.of(None, PromptSet(()))


def logits_with_a_real_cache(model: Any, ids: list[int], k: int, first: Any, then: Any) -> torch.Tensor:
    """The logits after k tokens went into a key–value cache under one plan, and the others followed under another."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as Cache

    cache = Cache.init_cache(model.cfg, "cpu", 1)
    tokens = torch.tensor([ids])
    if k:
        with steering(model, first, tell=False):
            model(tokens[:, :k], past_kv_cache=cache)
    with steering(model, then, tell=False):
        return model(tokens[:, k:], past_kv_cache=cache)


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("method", [selective_steering, standard_angular])
def test_a_plan_with_positions_is_a_real_stale_cache(qwen: Any, refusal: Any, calibration: Any, method: Any) -> None:
    """Whole blocks at 0° in a key–value cache, the rest and two answer tokens at an angle: the logits are those of one
    padded batch under the plans by positions, for prompts with and without a whole block.
    """
    tokenizer = qwen.lens_info.tokenizer
    prompts = [refusal.report.positive[i] for i in (0, 1, 2, 3)]
    block = 5
    rows = [[*encode(tokenizer, p), 40, 41] for p in prompts] + [[*encode(tokenizer, prompts[0])[:4], 40, 41]]
    lengths = [len(row) - 2 for row in rows]
    assert {n_reused(n, block) for n in lengths} > {0}
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    batch = Batch(tuple(range(len(rows))), ids, mask, (2,) * len(rows))
    at_angle, at_zero = readings(block)["stale cache"]
    with (
        running(batch),
        steering(qwen, method(calibration, 0.0, positions=at_zero), tell=False),
        steering(qwen, method(calibration, 150.0, positions=at_angle), tell=False),
    ):
        found = qwen(ids, attention_mask=mask)
    plain = qwen(ids, attention_mask=mask)
    for row, tokens, length in zip(range(len(rows)), rows, lengths, strict=True):
        k = n_reused(length, block)
        wanted = logits_with_a_real_cache(qwen, tokens, k, method(calibration, 0.0), method(calibration, 150.0))[0]
        assert torch.allclose(found[row, -len(wanted) :], wanted, atol=2e-4), row
        assert not torch.allclose(plain[row, -len(wanted) :], wanted, atol=1e-2)


def test_readings_differ_where_they_should(qwen: Any, refusal: Any, calibration: Any) -> None:
    """With blocks longer than the prompts nothing is handed over: fresh; the answer alone is the prompt left out."""
    prompts = refusal.report.positive[:4]

    def answers(grid: Any) -> list[str]:
        with steering(qwen, grid.build(150.0), tell=False):
            return generate(qwen, bare(prompts), max_new_tokens=8)

    fresh = generated(qwen, prompts, selective_steering(calibration, 150.0))
    by_name = {g.condition: g for g in stale_grids(calibration, [150.0], block=64)}
    assert answers(by_name["SS, stale cache"]) == fresh
    assert all(by_name[f"SAS, {name}"].beside is not None for name in readings())
    alone = generated(qwen, prompts, selective_steering(calibration, 150.0, positions="generated"))
    assert answers(by_name["SS, answer alone"]) == alone != fresh
    none = Reuse.of(qwen.lens_info.tokenizer, prompts, 64)
    assert (none.n_with_block, none.share_of_tokens) == (0, 0.0)
    some = Reuse.of(qwen.lens_info.tokenizer, prompts, 16)
    assert f"{some.n_with_block} of 4 prompts have a whole block of 16 tokens" in str(some)
    lengths = [len(encode(qwen.lens_info.tokenizer, p)) for p in prompts]
    assert some.share_of_tokens == sum(16 * (n > 16) for n in lengths) / sum(lengths)


def generated(model: Any, prompts: Any, plan: Any) -> list[str]:
    """Eight tokens of each answer under a plan."""
    with steering(model, plan, tell=False):
        return generate(model, bare(prompts), max_new_tokens=8)


def test_where_nothing_is_handed_over_nothing_is_shown() -> None:
    """Prompts shorter than a block: fresh and stale are the same, and the verdict says why; with blocks, the share of
    prompts that have one stands in the claim's domain.
    """
    base, stale = (measured(np.arange(64) < k, condition=name) for k, name in ((60, BASE), (9, "SS, stale cache")))
    by_reuse = {}
    for n in (0, 51):
        reused = Reuse(16, np.arange(64) < n, n / 90, "harmful prompts")
        found = Experiments((base, stale), {}, reused={"positive_right": reused})
        by_reuse[n] = {c.id: c for c in experiment_claims(found, "m")}
    none, some = (claims["engine-cache-SS"] for claims in by_reuse.values())
    assert (none.verdict, none.value, none.interval) == (f"{NOT_SHOWN} (no prompt has a whole block)", None, None)
    assert (none.n, none.witness["n_prompts"]) == (0, 64)
    assert (some.value, some.witness["n_with_block"]) == (51 / 64, 51)
    assert some.domain.endswith(
        "51 of 64 harmful prompts have a whole block of 16 tokens, and 57% of all their tokens are handed over"
    )
    value, low, high, n = some.witness["among_prompts_with_a_block"]
    assert (value, n) == (42 / 51, 51)
    assert low < value < high
    assert (
        "n_with_block" not in by_reuse[51]["capable-engine-cache-SS"].witness
    )  # other prompts, of which it says nothing
    assert "n_with_block" not in by_reuse[51]["fresh-cache-SS"].witness


def test_each_outcome_has_its_own_prompts(qwen: Any, refusal: Any) -> None:
    """Harmful prompts, prompts of both classes, capability tasks: in this order, each with its own blocks."""
    few, tasks = refusal.first(report=3).report, organism_tasks(4)
    found = reuse_by_outcome(qwen.lens_info.tokenizer, few, tasks)
    prompts = {"positive_right": few.positive, "surprise": (*few.positive, *few.negative), "capable": tasks}
    for outcome, reused in found.items():
        lengths = [len(encode(qwen.lens_info.tokenizer, p)) for p in prompts[outcome]]
        assert reused.with_block.tolist() == [n > 16 for n in lengths], outcome
    assert [r.said for r in found.values()] == ["harmful prompts", "prompts of both classes", "capability tasks"]


def test_an_id_stays_with_its_experiment() -> None:
    """What was asked under an id is asked under it still; the engine's cache has ids of its own."""
    asked = {key: (first, second) for key, first, second, _, _ in QUESTIONS}
    for method in ("SS", "SAS"):
        assert asked[f"fresh-cache-{method}"] == (f"{method}, L_disc", f"{method}, answer alone")
        assert asked[f"engine-cache-{method}"] == (f"{method}, L_disc", f"{method}, stale cache")
