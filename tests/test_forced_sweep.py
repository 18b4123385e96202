"""Many values in one forward against one run a value; the refusal score and the divergence that stand on it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lens_steer as ls
from lens_steer.data import Contrast, Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.metrics.kl import kl, mean_kl_by_value
from lens_steer.metrics.refusal_score import refusal_score, refusal_scores_by_value, refusal_tokens
from lens_steer.steer.methods import act_add
from lens_steer.steer.value_sweep import logits_by_value
from tests.test_parity import EVERY, PROMPTS

TEXTS = ["yes", "no, and not for a long while", "and so on", "b"]
VALUES = [0.0, 77.0, 200.0]


@pytest.fixture(scope="module")
def tiny_calibration(tiny: Any) -> Any:
    return ls.calibrate(ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), EVERY, progress=False))


@pytest.mark.parametrize("engine", ["tl", "hf"])
@pytest.mark.parametrize("where", ["ln2", "blocks.1.hook_resid_pre", "blocks.0.ln1.hook_out"])
def test_every_value_equals_its_own_run(tiny: Any, tiny_calibration: Any, engine: str, where: str) -> None:
    """On every backend and engine, from whichever block on: as with the plan in force, one value at a time; the
    unsteered logits too.
    """
    n = min(len(PROMPTS), len(TEXTS))
    prompts = with_responses(PROMPTS[:n], TEXTS[:n])
    build = partial(ls.selective_steering, tiny_calibration, at=where)
    got = {
        (row, v): (logits, ids) for row, v, logits, ids in logits_by_value(tiny, build, VALUES, prompts, engine=engine)
    }
    assert len(got) == n * (len(VALUES) + 1)
    alone = {row: logits for row, logits, _ in response_logits(tiny, prompts, engine=engine)}
    assert all(torch.allclose(got[row, None][0], logits, atol=1e-4) for row, logits in alone.items())
    for k, value in enumerate(VALUES):
        with ls.steering(tiny, build(value)):
            for row, logits, ids in response_logits(tiny, prompts, engine=engine):
                assert got[row, k][1].tolist() == ids.tolist()
                assert torch.allclose(got[row, k][0], logits, atol=1e-4)
    assert not torch.allclose(got[0, 1][0], got[0, None][0], atol=1e-4)
    # nothing is left behind: the blocks compute again
    assert all(
        torch.allclose(logits, alone[row], atol=1e-6)
        for row, logits, _ in response_logits(tiny, prompts, engine=engine)
    )


def test_coefficients_and_positions(qwen: Any, calibration: Any, refusal: Any) -> None:
    """Another method, and only the last prompt token steered."""
    prompts = refusal.select.positive[:3]
    build = partial(act_add, calibration, positions="prompt[-1]")
    plain, scores = refusal_scores_by_value(qwen, build, [0.0, -1.0, -2.0], prompts)
    assert scores[:, 0] == pytest.approx(plain, abs=1e-3)
    with ls.steering(qwen, build(-2.0)):
        again = refusal_scores_by_value_by_hand(qwen, prompts)
    assert scores[:, 2] == pytest.approx(again, abs=1e-3)


def refusal_scores_by_value_by_hand(model: Any, prompts: Any) -> list[float]:
    """From the model's own forward, one prompt at a time."""
    from lens_steer.inference import batching, clock

    found = []
    tokens = list(refusal_tokens(model.lens_info))
    for prompt in prompts:
        batch = next(batching.batches(model.lens_info.tokenizer, [prompt], n_ctx=512))
        with clock.running(batch), torch.inference_mode():
            p = model(batch.ids)[0, -1].double().softmax(-1)[tokens].sum()
        found.append(float(torch.log(p + 1e-8) - torch.log(1 - p + 1e-8)))
    return found


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=8), st.lists(st.floats(-20, 20), min_size=3, max_size=8))
def test_divergence(p: list[float], q: list[float]) -> None:
    """Against scipy; zero with itself, never negative, untouched by a constant."""
    from scipy.special import rel_entr, softmax

    n = min(len(p), len(q))
    a, b = torch.tensor(p[:n], dtype=torch.float64), torch.tensor(q[:n], dtype=torch.float64)
    wanted = rel_entr(softmax(a.numpy()), softmax(b.numpy())).sum()
    assert float(kl(a, b)) == pytest.approx(max(0.0, wanted), abs=1e-9)
    assert float(kl(a, a + 3)) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.booleans(), st.booleans()), min_size=2, max_size=8))
def test_divergence_with_suppressed_tokens(drawn: list[tuple[float, float, bool, bool]]) -> None:
    """Against scipy: what p gives nothing counts nothing, what q alone gives nothing is infinite; nothing at all, or
    NaN, is NaN.
    """
    from scipy.special import rel_entr, softmax

    drawn = [(0.0, 0.0, False, False), *drawn]  # one token at least has a probability in both
    a, b = (torch.tensor([-torch.inf if d[k + 2] else d[k] for d in drawn], dtype=torch.float64) for k in (0, 1))
    wanted = rel_entr(softmax(a.numpy()), softmax(b.numpy())).sum()
    assert float(kl(a, b)) == pytest.approx(max(0.0, float(wanted)), abs=1e-9)
    assert np.isinf(float(kl(a, b))) == any(d[3] and not d[2] for d in drawn)
    assert kl(torch.full_like(a, -torch.inf), b).isnan()
    assert kl(b, torch.full_like(a, torch.nan)).isnan()


def test_an_infinite_divergence_is_told(
    qwen: Any, calibration: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how many responses; the number stays what it is."""
    from lens_steer.metrics import kl as module

    def suppressing(*args: Any, **kwargs: Any) -> Any:
        for row, value, logits, ids in logits_by_value(*args, **kwargs):
            if value == 1 and row == 0:
                logits = logits.clone()
                logits[0, 7] = -torch.inf
            yield row, value, logits, ids

    monkeypatch.setattr(module, "logits_by_value", suppressing)
    found = mean_kl_by_value(
        qwen,
        partial(ls.selective_steering, calibration),
        [10.0, 20.0],
        [Prompt.of("Hi"), Prompt.of("Ho")],
        ["Sure."] * 2,
    )
    assert np.isinf(found).tolist() == [[False, True], [False, False]]
    assert "the divergence is infinite for 1 of 2 responses" in caplog.text


def test_a_warning_only_where_no_batch_is_steered(
    qwen: Any, calibration: Any, refusal: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch whose responses are too short for the positions is left as it is, without a word; all of them are told of
    once.
    """
    from lens_steer.steer import value_sweep

    monkeypatch.setattr(value_sweep, "MAX_ROWS", 1)  # every prompt its own batch
    prompts = with_responses(refusal.select.positive[:2], ["I cannot help with that at all.", "No."])
    found = {}
    for where in ("generated[3:]", "generated[90:]"):
        caplog.clear()
        build = partial(ls.selective_steering, calibration, positions=where)
        found[where] = {(r, v): logits for r, v, logits, _ in logits_by_value(qwen, build, [150.0], prompts)}
        told = [m for m in caplog.messages if "steered no token" in m]
        assert len(told) == (where == "generated[90:]")
        assert torch.equal(found[where][1, 0], found[where][1, None])
    assert not torch.allclose(found["generated[3:]"][0, 0], found["generated[3:]"][0, None], atol=1e-4)


def test_mean_divergence(qwen: Any, calibration: Any, refusal: Any) -> None:
    """Nothing at the identity angle, the same at −θ's neighbour 360 − θ as by hand, NaN for an empty response."""
    prompts, texts = refusal.select.negative[:3], ["Sure.", "", "It is red."]
    build = partial(ls.selective_steering, calibration)
    found = mean_kl_by_value(qwen, build, [0.0, 150.0], prompts, texts)
    assert np.isnan(found[1]).all()
    assert found[[0, 2], 0] == pytest.approx([0, 0], abs=1e-9)
    plain = {row: logits for row, logits, _ in response_logits(qwen, with_responses(prompts, texts), engine="hf")}
    with ls.steering(qwen, build(150.0)):
        steered = {row: logits for row, logits, _ in response_logits(qwen, with_responses(prompts, texts), engine="hf")}
    for row in (0, 2):
        p, q = plain[row].double().softmax(-1), steered[row].double().softmax(-1)
        assert found[row, 1] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-3)


def test_the_score_is_the_log_odds() -> None:
    """Of the mass on all refusal tokens together; finite at both ends."""
    logits = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert float(refusal_score(logits, [0, 1])) == pytest.approx(np.log(0.3 / 0.7), abs=1e-6)
    sure = torch.tensor([1e4, 0.0])
    assert float(refusal_score(sure, [0])) == pytest.approx(-np.log(1e-8), abs=1e-3)
    assert float(refusal_score(sure, [1])) == pytest.approx(np.log(1e-8), abs=1e-3)


def test_the_score_tells_the_classes_apart(qwen: Any, refusal: Any, calibration: Any) -> None:
    """Harmful prompts score high, harmless ones low, and SS at its best angle lowers the harmful ones."""
    build = partial(ls.selective_steering, calibration)
    harmful, steered = refusal_scores_by_value(qwen, build, [150.0], refusal.select.positive[:8])
    harmless, _ = refusal_scores_by_value(qwen, build, [150.0], refusal.select.negative[:8])
    assert harmful.min() > 5 > -5 > harmless.max()
    assert (steered[:, 0] < harmful).all()


def test_what_is_refused(qwen: Any, calibration: Any) -> None:
    """No value, some responses only, a plan in force, an opening without a token: named, before anything runs."""
    build = partial(ls.selective_steering, calibration)
    with pytest.raises(LensSteerError, match="values is empty"):
        next(logits_by_value(qwen, build, [], PROMPTS))
    mixed = [Prompt.of("a", response="b"), Prompt.of("a")]
    with pytest.raises(LensSteerError, match="some prompts have a response and some have none"):
        next(logits_by_value(qwen, build, [0.0], mixed))
    with (
        ls.steering(qwen, build(30.0)),
        pytest.raises(
            LensSteerError, match="the plan 'selective' is in force on the model: leave its 'with' block first"
        ),
    ):
        next(logits_by_value(qwen, build, [0.0], PROMPTS))
    with pytest.raises(LensSteerError, match="'' has no token"):
        refusal_tokens(qwen.lens_info, ["I", ""])
    with pytest.raises(LensSteerError, match="openings is empty"):
        refusal_tokens(qwen.lens_info, [])
