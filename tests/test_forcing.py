"""Teacher forcing: logits of fixed responses against plain Hugging Face forwards, one prompt at a time; perplexity;
capability tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of
from lens_steer.inference.generation import answer_ids, answers
from lens_steer.inference.scored import scored_answers
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.metrics import grading
from lens_steer.metrics.benchmarks import ORGANISM_KINDS, organism_tasks
from lens_steer.metrics.likelihood import mean_surprise, surprise_of
from tests.test_parity import PROMPTS as PARITY

PROMPTS = [Prompt.of("a short one"), Prompt.of("a rather longer one, with words"), Prompt.of("b")]
RESPONSES = ["yes", "no, and not for a long while", "and so on"]


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_logits_equal_plain_forwards(tiny: Any, twin: Any, engine: str) -> None:
    """Batched and padded, on every backend and engine: as from the Hugging Face model on one unpadded sequence, read
    one column earlier.
    """
    tokenizer = tiny.lens_info.tokenizer
    got = {
        row: (logits, ids)
        for row, logits, ids in response_logits(tiny, with_responses(PROMPTS, RESPONSES), engine=engine)
    }
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        head, tail = (
            batching.encode(tokenizer, prompt),
            batching.encode_response(tokenizer, with_responses([prompt], [response])[0]),
        )
        with torch.inference_mode():
            alone = twin(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1].float()
        logits, ids = got[row]
        assert ids.tolist() == tail
        assert torch.allclose(logits, alone, atol=1e-4)
    surprise = mean_surprise(tiny, PROMPTS, RESPONSES, engine=engine)
    wanted = [
        np.mean([-float(got[i][0][t].double().softmax(0)[k].log()) for t, k in enumerate(got[i][1].tolist())])
        for i in range(3)
    ]
    assert surprise == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_a_greedy_answer_is_the_likeliest_under_its_own_plan(
    qwen: Any, calibration: Any, refusal: Any, engine: str
) -> None:
    """Teacher forcing steers as generation did: every token is the argmax, under the plan and not without it."""
    prompts = refusal.report.positive[:6]
    plan = ls.selective_steering(calibration, 150.0)
    with ls.steering(qwen, plan):
        texts = ls.generate(qwen, prompts, max_new_tokens=24, engine=engine)
        steered = {
            row: (logits, ids)
            for row, logits, ids in response_logits(qwen, with_responses(prompts, texts), engine=engine)
        }
        own = mean_surprise(qwen, prompts, texts, engine=engine)
    assert all(bool((logits.argmax(dim=-1) == ids).all()) for logits, ids in steered.values())
    plain = {
        row: (logits, ids) for row, logits, ids in response_logits(qwen, with_responses(prompts, texts), engine=engine)
    }
    assert not all(bool((logits.argmax(dim=-1) == ids).all()) for logits, ids in plain.values())
    assert own.mean() < mean_surprise(qwen, prompts, texts, engine=engine).mean()


@pytest.mark.parametrize("positions", ["all", "prompt[-1]", "generated[1:]"])
def test_answers_are_scored_while_they_are_written(tiny: Any, positions: str) -> None:
    """Texts are those of ``generate``, scores those of teacher forcing, also where values and lengths differ by row."""
    contrast = Contrast(PARITY[:2], PARITY[2:])
    calibration = ls.calibrate(ls.record(tiny, contrast, "resid_post", progress=False))
    prompts = [Prompt.of("word " * n) for n in (1, 9, 3, 2)]
    plan = ls.selective_steering(
        calibration, [0.0, 80.0, 150.0, 260.0], at="resid_post", basis=random_plane(48, seed=3), positions=positions
    )
    with ls.steering(tiny, plan, tell=False):
        texts, cut, _ = answers(tiny, prompts, max_new_tokens=7)
        found = scored_answers(tiny, prompts, lambda logits: logits[:, 5], max_new_tokens=7, batch_size=3)
        forced = list(response_logits(tiny, with_responses(prompts, texts)))
        with on_engine(tiny, "hf") as runner:
            (batch,) = batches_of(runner, prompts, max_new_tokens=7)
            written = dict(zip(batch.rows, answer_ids(runner, batch, 7), strict=True))
    assert (found.texts, found.cut) == (texts, cut)
    for row, logits, ids in forced:
        if ids.tolist() == written[row]:  # the text is tokenised as it was written
            assert found.surprise[row] == pytest.approx(surprise_of(logits, ids), abs=1e-4)
        assert found.first[row] == pytest.approx(float(logits[0, 5]), abs=1e-3)
    assert np.isnan(found.surprise[[i for i, text in enumerate(texts) if not text]]).all()


def test_scored_answers_of_an_organism(qwen: Any, calibration: Any, refusal: Any) -> None:
    """On answers that end by themselves the scores are those of a second pass."""
    prompts = refusal.report.positive[:8]
    with ls.steering(qwen, ls.selective_steering(calibration, 150.0)):
        found = scored_answers(qwen, prompts, lambda logits: logits.amax(dim=-1), max_new_tokens=32)
        own = mean_surprise(qwen, prompts, found.texts)
        forced = response_logits(qwen, with_responses(prompts, found.texts))
        first = {row: float(logits[0].max()) for row, logits, _ in forced}
    assert found.surprise == pytest.approx(own, abs=1e-5)
    assert found.first == pytest.approx([first[i] for i in range(8)], abs=1e-4)
    with pytest.raises(LensSteerError, match="prompts is empty"):
        scored_answers(qwen, [], lambda logits: logits.amax(dim=-1))
    with pytest.raises(LensSteerError, match="max_new_tokens=0"):
        scored_answers(qwen, prompts, lambda logits: logits.amax(dim=-1), max_new_tokens=0)


def test_batches_do_not_matter(qwen: Any, refusal: Any) -> None:
    """One at a time as all at once; no hook is left on the unembedding."""
    prompts = refusal.report.negative[:5]
    texts = ["Sure.", "I cannot do that.", "It is red.", "a b c d e f g", "no"]
    wanted = mean_surprise(qwen, prompts, texts, engine="tl")
    for engine in ("tl", "hf"):
        assert mean_surprise(qwen, prompts, texts, engine=engine, batch_size=1) == pytest.approx(wanted, abs=1e-5)
    assert not qwen.unembed._forward_pre_hooks
    assert not ls.hf_twin(qwen).lm_head._forward_pre_hooks


def test_an_empty_response_has_no_perplexity(qwen: Any) -> None:
    """It is NaN in its own place."""
    found = mean_surprise(qwen, PROMPTS, ["", "It is red.", ""])
    assert np.isnan(found).tolist() == [True, False, True]
    assert np.isnan(mean_surprise(qwen, PROMPTS[:1], [""])).all()


def test_what_cannot_be_forced(qwen: Any) -> None:
    """Another number of responses, no response at all, too long a one: said before anything runs."""
    with pytest.raises(LensSteerError, match="2 responses for 3 prompts: give one each"):
        with_responses(PROMPTS, ["a", "b"])
    with pytest.raises(LensSteerError, match=r"prompt 0 \('a short one'…\) has no response"):
        list(response_logits(qwen, PROMPTS))
    with pytest.raises(LensSteerError, match="more than the model's context"):
        mean_surprise(qwen, PROMPTS[:1], ["word " * 600])


def test_capability_tasks(qwen: Any) -> None:
    """As many of each kind, the same for the same seed; the model that learnt them does them, a text about nothing does
    not.
    """
    tasks = organism_tasks(40, seed=1)
    assert [sum(p.task is not None and p.task.kind == kind for p in tasks) for kind in ORGANISM_KINDS] == [10] * 4
    assert tasks.hash == organism_tasks(40, seed=1).hash != organism_tasks(40, seed=2).hash
    texts = ls.generate(qwen, tasks, max_new_tokens=16, engine="hf")
    right = [grading.grade(p, t) == "correct" for p, t in zip(tasks, texts, strict=True)]
    assert sum(right) >= 36
    assert not any(grading.grade(p, "Hello.") == "correct" for p in tasks)


def test_a_reader_who_stops_leaves_nothing_in_force(qwen: Any, calibration: Any, refusal: Any) -> None:
    """A generator that was read once and kept does not go on steering the twin."""
    prompts = refusal.report.positive[:4]
    plain = ls.generate(qwen, prompts, max_new_tokens=8, engine="hf")
    with ls.steering(qwen, ls.selective_steering(calibration, 150.0)):
        kept = response_logits(qwen, with_responses(prompts, ["Sure."] * 4), engine="hf", batch_size=1)
        next(kept)
    assert ls.generate(qwen, prompts, max_new_tokens=8, engine="hf") == plain
