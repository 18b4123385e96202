"""Per-token divergence: against full logits, the same however it is batched, at the right positions, without logits of
the whole vocabulary.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.inference.unembedding import MEASURES
from lens_steer.metrics.kl import kl, mean_kl_by_value
from lens_steer.metrics.token_divergence import TokenDivergence, token_divergence
from tests import tiny as tiny_models
from tests.conftest import HAS_HOOKED
from tests.test_parity import EVERY, PROMPTS
from tests.test_unembedding import Live

TEXTS = ["yes", "no, and not for a long while", "and so on", "b"]
MODULE = import_module("lens_steer.metrics.token_divergence")


@pytest.fixture(scope="module")
def tiny_calibration(tiny: Any) -> Any:
    return ls.calibrate(ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), EVERY, progress=False))


def by_full_logits(model: Any, plan: Any, prompts: Any, texts: list[str], engine: str) -> dict[int, np.ndarray]:
    """Every measure from the logits of the whole vocabulary: row → measures × positions."""
    forced = with_responses(prompts, texts)
    plain = {row: (logits, ids) for row, logits, ids in response_logits(model, forced, engine=engine)}
    with ls.steering(model, plan):
        steered = {row: logits for row, logits, _ in response_logits(model, forced, engine=engine)}
    found = {}
    for row, (logits, ids) in plain.items():
        log_p, log_q = (x.double().log_softmax(-1) for x in (logits, steered[row]))
        p, q = log_p.exp(), log_q.exp()
        at = torch.arange(len(ids))
        wanted = (
            kl(logits, steered[row]),
            kl(steered[row], logits),
            -(p * log_p).sum(-1),
            (p - q).abs().sum(-1) / 2,
            -(q * log_q).sum(-1),
            -log_p[at, ids],
            -log_q[at, ids],
        )
        found[row] = torch.stack(wanted).numpy()
    return found


def table(found: TokenDivergence) -> np.ndarray:
    return np.stack([getattr(found, m) for m in MEASURES])


@pytest.mark.parametrize("engine", ["tl", "hf"])
@pytest.mark.parametrize("where", ["ln2", "blocks.1.hook_resid_pre", "blocks.3.hook_resid_post"])
def test_equals_full_logits(tiny: Any, tiny_calibration: Any, engine: str, where: str) -> None:
    """Every measure of every family, backend and engine, from whichever block on; sorted; the model computes logits
    again afterwards.
    """
    plan = ls.selective_steering(tiny_calibration, 77.0, at=where)
    found = token_divergence(tiny, plan, PROMPTS, TEXTS, engine=engine, slice_size=100)
    wanted = by_full_logits(tiny, plan, PROMPTS, TEXTS, engine)
    assert found.row.tolist() == [row for row in range(4) for _ in range(wanted[row].shape[1])]
    assert found.position.tolist() == [t for row in range(4) for t in range(wanted[row].shape[1])]
    assert table(found) == pytest.approx(np.concatenate([wanted[row] for row in range(4)], axis=1), abs=1e-5)
    assert found.kl.max() > 1e-3
    assert {type(v) for v in found.rows()[0].values()} == {int, float, str}


def test_identity(tiny: Any, tiny_calibration: Any, qwen: Any, calibration: Any, refusal: Any) -> None:
    """At 0° nothing moves, at 360° nothing but rounding; elsewhere both divergences are above 0 and the variation
    between 0 and 1.
    """
    prompts = refusal.report.positive[:8]
    texts = ["Sure, here is how.", "I cannot do that."] * 4
    for model, made, at, given_ in (
        (tiny, tiny_calibration, "ln2", (PROMPTS, TEXTS)),
        (qwen, calibration, None, (prompts, texts)),
    ):
        for angle in (0.0, 360.0):
            same = token_divergence(model, ls.selective_steering(made, angle, at=at), *given_)
            assert np.abs([same.kl, same.kl_reverse]).max() <= 1e-6
            assert same.entropy_steered == pytest.approx(same.entropy, abs=1e-5)
    moved = token_divergence(qwen, ls.selective_steering(calibration, 150.0), prompts, texts)
    assert moved.kl.min() >= 0
    assert moved.kl_reverse.min() >= 0
    assert 0 <= moved.total_variation.min() < 0.5 < moved.total_variation.max() <= 1
    assert (
        moved.total_variation <= np.sqrt(np.minimum(moved.kl, moved.kl_reverse) / 2) + 1e-9
    ).all()  # Pinsker's inequality


@pytest.mark.parametrize("organism", ["organism/llama", "organism/gemma2", "organism/qwen2"])
def test_organisms_equal_full_logits(organism: str) -> None:
    """Trained models of every family, with a soft cap among them; the mean over tokens is what the sweep over values
    finds.
    """
    model = ls.load_model(organism)
    contrast = ls.load_contrast("organism/refusal")
    made = ls.calibrate(ls.record(model, contrast, progress=False))
    prompts, texts = contrast.report.positive[:5], ["Sure.", "I cannot do that.", "It is red.", "", "a b c d e f"]
    found = token_divergence(model, ls.selective_steering(made, 150.0), prompts, texts)
    wanted = by_full_logits(model, ls.selective_steering(made, 150.0), prompts, texts, "hf")
    assert table(found) == pytest.approx(np.concatenate([wanted[row] for row in (0, 1, 2, 4)], axis=1), abs=1e-5)
    means = mean_kl_by_value(model, lambda value: ls.selective_steering(made, value), [150.0], prompts, texts)[:, 0]
    assert found.per_prompt("kl") == pytest.approx(means, abs=1e-5, nan_ok=True)


def test_batches_and_engines_do_not_matter(tiny: Any, tiny_calibration: Any) -> None:
    """All at once, one by one, two by two, beside a long prompt that pads them all, on either engine, in one slice or
    many.
    """
    plan = ls.selective_steering(tiny_calibration, 77.0, at="ln2", positions="prompt[-1]+generated[1:]")
    wanted = token_divergence(tiny, plan, PROMPTS, TEXTS)
    padding = [*PROMPTS, Prompt.of("a rather long one " * 8)]
    sizes: tuple[dict[str, Any], ...] = ({"batch_size": 1}, {"batch_size": 2}, {"slice_size": 7}, {})
    for engine in ("hf", "tl"):
        for size in sizes:
            assert table(token_divergence(tiny, plan, PROMPTS, TEXTS, engine=engine, **size)) == pytest.approx(
                table(wanted), abs=1e-5
            )
        padded = token_divergence(tiny, plan, padding, [*TEXTS, "b"], engine=engine)
        assert table(padded)[:, padded.row < 4] == pytest.approx(table(wanted), abs=1e-5)


def test_padding_on_either_side_by_hand(tiny: Any, tiny_calibration: Any) -> None:
    """Padded on the right, in forwards of one's own: the logits at a row's column ``t`` decide its token ``t + 1``, so
    a response after a prompt of m tokens is decided by the columns ``m − 1, m, …``.
    """
    plan, twin = ls.selective_steering(tiny_calibration, 77.0, at="blocks.1.hook_resid_post"), ls.hf_twin(tiny)
    tokenizer = tiny.lens_info.tokenizer
    rows = [
        (batching.encode(tokenizer, p), tokenizer(t, add_special_tokens=False)["input_ids"])
        for p, t in zip(PROMPTS, TEXTS, strict=True)
    ]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.tensor([p + a + [tokenizer.pad_token_id] * (width - len(p) - len(a)) for p, a in rows])
    mask = torch.tensor([[1] * (len(p) + len(a)) + [0] * (width - len(p) - len(a)) for p, a in rows])
    assert len(set(mask.sum(dim=1).tolist())) > 1
    with torch.inference_mode():
        plain = twin(ids, attention_mask=mask).logits
        with ls.steering(twin, plan):
            steered = twin(ids, attention_mask=mask).logits
    wanted = [
        float(kl(plain[i, len(p) - 1 + t], steered[i, len(p) - 1 + t]))
        for i, (p, a) in enumerate(rows)
        for t in range(len(a))
    ]
    for size in (1, 64):
        found = token_divergence(tiny, plan, PROMPTS, TEXTS, batch_size=size)
        assert found.token_id.tolist() == [token for _, answer in rows for token in answer]
        assert found.kl == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) > 1e-3


def test_forwards_that_modules_had_been_given_stay(qwen: Any, calibration: Any, refusal: Any) -> None:
    """As Accelerate wraps the modules that it places: each still does its part afterwards."""
    twin, called = ls.hf_twin(qwen), []
    modules = {"first block": twin.model.layers[0], "unembedding": twin.lm_head}
    try:
        for name, module in modules.items():
            own = module.forward
            module.forward = lambda *args, _name=name, _own=own, **kwargs: called.append(_name) or _own(*args, **kwargs)
        plan = ls.selective_steering(calibration, 150.0, at="blocks.3.ln2.hook_out")
        token_divergence(qwen, plan, refusal.report.positive[:2], ["Sure.", "No."])
        assert called == ["first block"]  # the steered pass begins later, and no logits are made
        called.clear()
        list(response_logits(qwen, with_responses(refusal.report.positive[:1], ["No."]), engine="hf"))
        assert called == ["first block", "unembedding"]
    finally:
        for module in modules.values():
            vars(module).pop("forward", None)


def zero_at(found: TokenDivergence, row: int = 1) -> list[bool]:
    return (found.kl[found.row == row] == 0).tolist()


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_which_positions_move(tiny: Any, tiny_calibration: Any, engine: str) -> None:
    """A token is decided by the column before it: exactly the positions that a steered column can reach move."""

    def moved(positions: str, at: str) -> list[bool]:
        plan = ls.selective_steering(tiny_calibration, 77.0, at=at, positions=positions)
        return [not zero for zero in zero_at(token_divergence(tiny, plan, PROMPTS, TEXTS, engine=engine))]

    n = len(moved("all", "ln2"))
    assert n > 6
    early, last = "blocks.0.hook_resid_post", "blocks.3.hook_resid_post"
    assert moved("all", early) == moved("prompt", early) == [True] * n
    assert moved("generated", early) == [False] + [True] * (n - 1)
    assert moved("generated[2:]", early) == [False] * 3 + [True] * (n - 3)
    # the last block's output is read by its own column alone
    assert moved("prompt[-1]", last) == [True] + [False] * (n - 1)
    assert moved("generated[:2]", last) == [False, True, True] + [False] * (n - 3)
    # from an earlier block on, attention (of global reach in some block) carries what was steered to later tokens
    assert moved("generated[:1]", early)[:3] == [False, True, True]
    assert all(moved("generated[:1]", early)[1:])


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_bias_of_the_unembedding(backend: str, calibration: Any, refusal: Any) -> None:
    """A bias that is not zero is part of the logits."""
    if backend == "hooked" and not HAS_HOOKED:
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    model = ls.load_model("organism/qwen2", backend=backend)
    prompts, texts, plan = (
        refusal.report.positive[:2],
        ["Sure.", "I cannot do that."],
        ls.selective_steering(calibration, 150.0),
    )
    without = table(token_divergence(model, plan, prompts, texts, engine="tl"))
    with torch.no_grad():
        bias = model.unembed.b_U
        bias += 4 * torch.randn(len(bias), generator=torch.Generator().manual_seed(0))
    found = table(token_divergence(model, plan, prompts, texts, engine="tl"))
    wanted = by_full_logits(model, plan, prompts, texts, "tl")
    assert found == pytest.approx(np.concatenate([wanted[0], wanted[1]], axis=1), abs=1e-5)
    assert np.abs(found - without).max() > 0.1


def test_no_logits_of_a_large_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From end to end, on both engines: a fraction of what one pass's logits take, which teacher forcing with logits
    does take.
    """
    vocabulary = 60_000
    monkeypatch.setattr(tiny_models, "VOCABULARY", vocabulary)
    model = ls.load_model(tiny_models.build("qwen2", tmp_path))
    made = ls.calibrate(ls.record(model, Contrast(PROMPTS[:2], PROMPTS[2:]), "resid_post", progress=False))
    plan = ls.selective_steering(made, 77.0, at="blocks.1.hook_resid_post")
    texts = ["no, and not for a long while"] * 4
    ls.hf_twin(model)
    for engine in ("tl", "hf"):
        with Live() as live:
            found = token_divergence(model, plan, PROMPTS, texts, engine=engine, slice_size=500)
        logits = 4 * (len(found) // 4 + 1) * vocabulary * 4
        assert live.peak < logits / 4
    with Live() as live:
        list(response_logits(model, with_responses(PROMPTS, texts), engine="hf"))
    assert live.peak >= logits


def test_one_value_a_prompt(qwen: Any, calibration: Any, refusal: Any) -> None:
    """A plan with an angle for each prompt: every row at its own, whatever batch it comes in."""
    prompts, texts = refusal.report.positive[:3], ["Sure, here is how.", "No.", "I cannot do that."]
    together = token_divergence(
        qwen, ls.selective_steering(calibration, [0.0, 90.0, 150.0]), prompts, texts, batch_size=2
    )
    for row, angle in enumerate([0.0, 90.0, 150.0]):
        alone = token_divergence(qwen, ls.selective_steering(calibration, angle), prompts[row : row + 1], [texts[row]])
        assert table(together)[:, together.row == row] == pytest.approx(table(alone), abs=1e-5)


def test_bfloat16(calibration: Any, refusal: Any) -> None:
    """Logits as the model makes them, sums in float64: nothing at the identity, the oracle elsewhere."""
    model = ls.load_model("organism/qwen2", dtype="bfloat16")
    prompts, texts = refusal.report.positive[:3], ["Sure, here is how.", "No.", "I cannot do that."]
    assert token_divergence(model, ls.selective_steering(calibration, 0.0), prompts, texts).kl.max() <= 1e-6
    plan = ls.selective_steering(calibration, 150.0)
    wanted = by_full_logits(model, plan, prompts, texts, "hf")
    assert table(token_divergence(model, plan, prompts, texts)) == pytest.approx(
        np.concatenate([wanted[r] for r in range(3)], 1), rel=0.02, abs=1e-3
    )


def made_up(rows: dict[int, list[float]], n_prompts: int) -> TokenDivergence:
    """With these divergences, row by row; the other measures are twice, three times, … as large."""
    row = np.array([r for r, values in rows.items() for _ in values])
    position = np.array([t for values in rows.values() for t in range(len(values))])
    kl_ = np.array([v for values in rows.values() for v in values])
    measures = {m: kl_ * (k + 1) for k, m in enumerate(MEASURES)}
    return TokenDivergence(
        row, position, ("a",) * len(row), row * 0, n_prompts=n_prompts, n_empty=n_prompts - len(rows), **measures
    )


def test_means_by_position_and_prompt() -> None:
    """By hand, where responses have different lengths and one is empty."""
    found = made_up({0: [1.0, 2.0, 6.0], 2: [3.0], 3: [5.0, 4.0]}, 4)
    means = found.by_position("kl")
    assert [(e.value, e.n) for e in means] == [(3.0, 3), (3.0, 2), (6.0, 1)]
    assert (means[0].low, means[0].high) == (1.0, 5.0)
    assert all(e.low <= e.value <= e.high for e in means)
    assert found.by_position("kl", seed=1, max_position=1) == found.by_position("kl", seed=1)[:2]
    assert found.by_position("kl", max_position=99) == means
    assert [e.value for e in found.by_position("kl_reverse")] == [6.0, 6.0, 12.0]
    assert found.per_prompt() == pytest.approx([3.0, np.nan, 3.0, 4.5], nan_ok=True)
    assert found.rows()[3] == {"row": 2, "position": 0, "token": "a", "token_id": 0} | {
        m: 3.0 * (k + 1) for k, m in enumerate(MEASURES)
    }
    assert list(found.rows()[0])[:6] == ["row", "position", "token", "kl", "kl_reverse", "entropy"]
    assert repr(found) == "TokenDivergence(4 prompts, 1 of them empty, 6 tokens, mean KL 3.5)"
    with pytest.raises(LensSteerError, match="measure='kls': use one of kl, kl_reverse, entropy"):
        found.by_position("kls")
    with pytest.raises(LensSteerError, match="measure='row'"):
        found.per_prompt("row")
    with pytest.raises(LensSteerError, match="max_position=-1: the first position is 0"):
        found.by_position("kl", max_position=-1)


def test_intervals_cover_the_truth() -> None:
    """Of draws with a known mean, about 95 % of the intervals hold it; resampling tokens in place of prompts would not
    change this, dropping the draws would.
    """
    rng = np.random.default_rng(0)
    held = [
        e.low <= 1 <= e.high
        for _ in range(20)
        for e in made_up({r: rng.exponential(1.0, 10).tolist() for r in range(40)}, 40).by_position("kl", resamples=400)
    ]
    assert 0.86 <= np.mean(held) <= 0.99


def test_empty_responses_and_unsteered_batches(
    qwen: Any, calibration: Any, refusal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty response is left out and counted; that a plan steers nothing is said once, and only where it steers no
    prompt at all.
    """
    prompts, texts = refusal.report.positive[:3], ["Sure.", "", "I cannot do that."]
    plan = ls.selective_steering(calibration, 150.0, positions="generated[3:]")
    with caplog.at_level(logging.WARNING, logger="lens_steer"):
        found = token_divergence(qwen, plan, prompts, texts, batch_size=1)
    assert not caplog.records
    assert (found.n_prompts, found.n_empty, sorted(set(found.row.tolist()))) == (3, 1, [0, 2])
    assert found.kl[found.row == 0].max() == 0 < found.kl[found.row == 2].max()
    assert (found.entropy[found.row == 0] == found.entropy_steered[found.row == 0]).all()
    with caplog.at_level(logging.WARNING, logger="lens_steer"):
        none = token_divergence(qwen, plan, prompts[:2], texts[:2])
    assert none.kl.max() == 0
    assert [r.message for r in caplog.records] == [
        "the plan 'selective' steered no token: nothing stood at the positions 'generated[3:]'"
    ]


def test_tokens(qwen: Any, calibration: Any, refusal: Any) -> None:
    """Put together, a row's tokens are its response."""
    texts = ["Sure, here is how.", "I cannot do that."]
    found = token_divergence(qwen, ls.selective_steering(calibration, 150.0), refusal.report.positive[:2], texts)
    for row, text in enumerate(texts):
        own = found.row == row
        assert "".join(t for t, mine in zip(found.token, own, strict=True) if mine) == text
        assert qwen.lens_info.tokenizer.decode(found.token_id[own]) == text


def test_what_is_refused(qwen: Any, calibration: Any, refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, with the value and the mend, before any forward runs; nothing stays in force."""
    prompts, plan = refusal.report.positive[:2], ls.selective_steering(calibration, 150.0)

    def never(*args: Any) -> None:
        raise AssertionError("a forward ran")

    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "last_logits", never)
        cases: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
            ("1 responses for 2 prompts: give one each", ["a"], {}),
            ("all 2 responses are empty: at least one with a token is needed", ["", ""], {}),
            ("batch_size=0: at least 1 is needed", ["a", "b"], {"batch_size": 0}),
            ("slice_size=0: at least 1 is needed", ["a", "b"], {"slice_size": 0}),
            ("engine='tgi': use one of tl, hf", ["a", "b"], {"engine": "tgi"}),
            ("more than the model's context of", ["word " * 600, "b"], {}),
        )
        for message, responses, given_ in cases:
            with pytest.raises(LensSteerError, match=message):
                token_divergence(qwen, plan, prompts, responses, **given_)
        with pytest.raises(LensSteerError, match="a value for each of 3 prompts, and 2 are given"):
            token_divergence(qwen, ls.selective_steering(calibration, [1.0, 2.0, 3.0]), prompts, ["a", "b"])
        with (
            ls.steering(qwen, plan),
            pytest.raises(
                LensSteerError, match="the plan 'selective' is in force on the model: leave its 'with' block first"
            ),
        ):
            token_divergence(qwen, plan, prompts, ["a", "b"])
        written = ls.selective_steering(calibration, 90.0, at="blocks.3.hook_resid_mid")
        with pytest.raises(LensSteerError, match="cannot be written by engine='hf'"):
            token_divergence(qwen, written, prompts, ["a", "b"])
        with (
            monkeypatch.context() as none,
            pytest.raises(LensSteerError, match="all 2 responses are empty once tokenised"),
        ):
            none.setattr(batching, "encode_response", lambda *_: [])  # as tokenizers that strip blanks do
            token_divergence(qwen, plan, prompts, [" ", " "])
    assert "forward" not in vars(qwen.unembed)
    monkeypatch.setattr(MODULE, "compare", lambda p, *a, **k: torch.full((7, len(p)), torch.nan))
    with pytest.raises(
        LensSteerError, match="the distributions at response 0, position 0 are not finite: steer less strongly"
    ):
        token_divergence(qwen, plan, prompts, ["a", "b"])


def test_suppressed_tokens_are_told(
    qwen: Any, calibration: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A response token without any probability has an infinite surprise: kept, told, and refused where means would be
    taken; an infinite divergence is no distribution.
    """
    numbers = dict.fromkeys(MEASURES, 1.0)
    plan = ls.selective_steering(calibration, 90.0)
    monkeypatch.setattr(
        MODULE,
        "compare",
        lambda p, *a, **k: torch.tensor([[numbers[m]] * len(p) for m in MEASURES], dtype=torch.float64),
    )
    numbers["surprise"] = float("inf")
    found = token_divergence(qwen, plan, [Prompt.of("Hi")], ["No."])
    assert f"{len(found)} of {len(found)} response tokens have no probability at all" in caplog.text
    assert found.by_position("kl")[0].value == 1.0
    with pytest.raises(LensSteerError, match=r"measure='surprise' is infinite at \d+ tokens"):
        found.by_position("surprise")
    numbers["kl"] = float("inf")
    with pytest.raises(LensSteerError, match="are not finite: steer less strongly"):
        token_divergence(qwen, plan, [Prompt.of("Hi")], ["No."])
