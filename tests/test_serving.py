"""The engine ``vllm`` up to vLLM itself, for which Transformers and PEFT stand in: dispatch, adapters, certificates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.data import Contrast, PromptSet
from lens_steer.data.general import general_questions
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE, method_grids
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import CAPABILITY, Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.inference.remote import KEPT
from lens_steer.interop.serving import adapters, certificate, certify, vllm_engine
from lens_steer.interop.serving.vllm_engine import VllmEngine, VllmSettings
from lens_steer.metrics.benchmarks import question_splits
from lens_steer.metrics.likelihood import mean_surprise
from tests.fake_vllm import LLM, install

NOBODY = PromptSet(())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, refusal: Any) -> PromptSet:
    """Four prompts, on which engines are certified too."""
    report = refusal.report
    prompts = PromptSet((*report.positive[:2], *report.negative[:2]), "four prompts")
    monkeypatch.setattr(certify, "prompts_for", lambda model, given=None: prompts)
    return prompts


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, few: PromptSet) -> type[LLM]:
    return install(monkeypatch)


def test_answers_equal_the_hooks_in_one_batch(fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet) -> None:
    """One value a prompt is one adapter a value; all go in one call, and the order is kept."""
    plan = ls.selective_steering(calibration, 0).at([150.0, 60.0, 150.0, 250.0])
    with ls.vllm_engine(qwen) as engine:
        plain = ls.generate(qwen, few, engine="vllm", max_new_tokens=12)
        with ls.steering(qwen, plan):
            steered = ls.generate(qwen, few, engine="vllm", max_new_tokens=12)
            expected = ls.generate(qwen, few, max_new_tokens=12)
        assert fake.batches[-1][0] == fake.batches[-1][2] and len(set(fake.batches[-1])) == 3
        assert [c.plan["method"] for c in engine.certificates] == ["none"] + ["selective"] * 3
        assert all(c.verdict == "pass" for c in engine.certificates) and engine.certificates[1].tells
    assert plain == ls.generate(qwen, few, max_new_tokens=12) != steered == expected
    assert KEPT not in vars(qwen) or not vars(qwen)[KEPT]


def test_it_starts_by_itself_and_certifies_once(fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet) -> None:
    try:
        for _ in range(2):
            with ls.steering(qwen, ls.selective_steering(calibration, 150)):
                ls.generate(qwen, few, engine="vllm", max_new_tokens=4)
        assert len(fake.started) == 1 and fake.started[0]["dtype"] == "float32"
        assert len(vars(qwen)[KEPT]["vllm"].certificates) == 2
    finally:
        vars(qwen)[KEPT]["vllm"].close()


def test_surprise_and_dialogues(fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet) -> None:
    said = ["I cannot help you.", "", "1. Take the hammer.", "7."]
    talk = [ls.Dialogue(("What is 4 plus 3?", "How do I burn a bridge?")), ls.Dialogue(("Sort 3, 1, 2.",))]
    with ls.vllm_engine(qwen), ls.steering(qwen, ls.selective_steering(calibration, 120)):
        served, own = (mean_surprise(qwen, few, said, engine=e) for e in ("vllm", "hf"))
        assert np.isnan(served[1]) and np.isnan(own[1])
        np.testing.assert_allclose(served, own, atol=1e-4)
        assert ls.converse(qwen, talk, engine="vllm", max_new_tokens=8) == ls.converse(qwen, talk, max_new_tokens=8)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("ignored", "ignores the adapter"),
        ("swapped", "log-probabilities differ"),
        ("prompt only", "its answers go on with tokens"),
    ],
)
def test_a_faulty_engine_is_found_out(
    fault: str, told: str, monkeypatch: pytest.MonkeyPatch, qwen: Any, calibration: Any, few: PromptSet
) -> None:
    install(monkeypatch, fault)
    plan = ls.selective_steering(calibration, 0).at([150.0, 30.0, 150.0, 30.0])
    with ls.vllm_engine(qwen) as engine, ls.steering(qwen, plan), pytest.raises(LensSteerError, match=told) as caught:
        ls.generate(qwen, few, engine="vllm", max_new_tokens=4)
    assert "use engine='hf'" in str(caught.value) and not engine.certificates


def test_unsteered_requests_among_steered_ones(
    monkeypatch: pytest.MonkeyPatch, qwen: Any, calibration: Any, few: PromptSet
) -> None:
    """An engine that gives them another's adapter does no harm, as they carry one of zeros; without it, it is found
    out.
    """
    install(monkeypatch, "last")
    for zeros in (True, False):
        monkeypatch.setattr(vllm_engine, "ZEROS", zeros)
        with ls.vllm_engine(qwen) as engine:
            engine.answer_under([ls.selective_steering(calibration, 150)], [[1, 2]], 1)  # an adapter is there already
            if zeros:
                assert ls.generate(qwen, few, engine="vllm", max_new_tokens=8) == ls.generate(
                    qwen, few, max_new_tokens=8
                )
                continue
            with pytest.raises(LensSteerError, match=r"\(method=none\): log-probabilities differ"):
                ls.generate(qwen, few, engine="vllm", max_new_tokens=8)


def test_a_certificate_needs_a_plan_that_does_something(
    fake: type[LLM], monkeypatch: pytest.MonkeyPatch, qwen: Any, calibration: Any, few: PromptSet
) -> None:
    """At 0° an ignored adapter cannot be found out, and the certificate says so."""
    monkeypatch.setattr(fake, "fault", "ignored")
    with ls.vllm_engine(qwen) as engine, ls.steering(qwen, ls.selective_steering(calibration, 0), tell=False):
        ls.generate(qwen, few, engine="vllm", max_new_tokens=4)
    assert [(c.verdict, c.tells) for c in engine.certificates] == [("pass", False)] * 2


@pytest.mark.parametrize(
    ("method", "how", "reason"),
    [
        (ls.standard_angular, {"angle": 150}, "one ray"),
        (ls.adaptive_angular, {"angle": 150}, "gate"),
        (ls.act_add, {}, "adds a constant|acts at resid"),
        (ls.selective_steering, {"angle": 150, "positions": "generated"}, "at the positions 'generated' only"),
        (ls.selective_steering, {"angle": 150, "at": "resid_post"}, "acts at resid_post"),
    ],
)
def test_what_does_not_fold_is_refused_by_name(
    method: Any, how: dict[str, Any], reason: str, fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet
) -> None:
    plan = method(calibration, **how)
    with pytest.raises(LensSteerError, match=reason) as caught:
        adapters.check_served(plan, "vllm")
    assert repr(plan.method) in str(caught.value) and "use engine='hf'" in str(caught.value)
    with ls.vllm_engine(qwen), ls.steering(qwen, plan), pytest.raises(LensSteerError, match=reason):
        ls.generate(qwen, few, engine="vllm", max_new_tokens=4)


def test_hooks_that_read_are_refused(fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet) -> None:
    with ls.vllm_engine(qwen):
        log = ls.EffectLog()
        with (
            ls.steering(qwen, ls.selective_steering(calibration, 150), effects=log),
            pytest.raises(LensSteerError, match="effect log"),
        ):
            ls.generate(qwen, few, engine="vllm", max_new_tokens=4)
        with ls.monitor(qwen, ls.boundary(calibration)), pytest.raises(LensSteerError, match="'monitor' reads"):
            ls.generate(qwen, few, engine="vllm", max_new_tokens=4)


def test_settings_and_room(fake: type[LLM], qwen: Any, few: PromptSet) -> None:
    given = VllmSettings(tensor_parallel=2, pipeline_parallel=3, gpu_memory=0.5, context=40, adapters=5, max_rank=9)
    with VllmEngine(qwen, given):
        told = fake.started[-1]
        with pytest.raises(LensSteerError, match="greater context"):
            ls.generate(qwen, few, engine="vllm", max_new_tokens=30)
    assert (told["tensor_parallel_size"], told["pipeline_parallel_size"]) == (2, 3)
    assert (told["gpu_memory_utilization"], told["max_model_len"]) == (0.5, 40)
    assert (told["max_loras"], told["max_lora_rank"]) == (6, 16)
    with pytest.raises(LensSteerError, match="gpu_memory=1.5: a share"):
        VllmSettings(gpu_memory=1.5)
    with pytest.raises(LensSteerError, match="tensor_parallel=0"):
        VllmSettings(tensor_parallel=0)


def test_without_vllm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, qwen: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(LensSteerError, match=r"lens-steer\[vllm\]"):
        ls.generate(qwen, ["Hello"], engine="vllm")


def test_a_sweep_by_the_engine_is_that_of_the_hooks(
    fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet, tmp_path: Path
) -> None:
    """The same rows but for the column of the engine and rounding; certificates of every adapter lie beside them."""
    grids = [Grid(NONE), *method_grids(calibration, "selective", values=(60.0, 150.0, 250.0))]
    contrast = Contrast(few[:2], few[2:])
    with ls.vllm_engine(qwen):
        by = {
            engine: run(
                Protocol(qwen, contrast, "report", NOBODY, engine=engine, max_new_tokens=16),
                grids,
                tmp_path / engine,
                "report",
                progress=False,
            )
            for engine in ("hf", "vllm")
        }
    for one, two in zip(by["hf"], by["vllm"], strict=True):
        assert two.pop("engine") == "vllm" and one.keys() == two.keys()
        for name, value in one.items():
            assert two[name] == (pytest.approx(value, abs=1e-3) if isinstance(value, float) else value), name
    kept = [json.loads(path.read_text()) for path in sorted((tmp_path / "vllm" / "report.engine").iterdir())]
    assert sorted(row["plan"]["method"] for row in kept) == ["none"] + ["selective"] * 3
    assert {row["verdict"] for row in kept} == {"pass"} and not (tmp_path / "hf" / "report.engine").exists()


def test_engines_are_mixed_only_where_it_is_asked_for(
    fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet, tmp_path: Path
) -> None:
    grids = [g for name in ("selective", "standard") for g in method_grids(calibration, name, values=(150.0,))]
    strict = Protocol(qwen, Contrast(few[:2], few[2:]), "report", NOBODY, engine="vllm", max_new_tokens=8, read_by=())
    with pytest.raises(LensSteerError, match="cannot carry out the plan 'standard', which puts every token on one ray"):
        run(strict, grids, tmp_path / "strict", "report", progress=False)
    assert not (tmp_path / "strict").exists() and not fake.started
    with ls.vllm_engine(qwen):
        rows = run(replace(strict, mixed=True), grids, tmp_path / "mixed", "report", progress=False)
    assert {(r["condition"], r["engine"]) for r in rows} == {("selective", "vllm"), ("standard", "hf")}


def test_two_plans_go_as_one_adapter(fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet) -> None:
    first, second = ls.selective_steering(calibration, 150), ls.directional_ablation(calibration)
    with ls.vllm_engine(qwen) as engine, ls.steering(qwen, first), ls.steering(qwen, second):
        assert ls.generate(qwen, few, engine="vllm", max_new_tokens=8) == ls.generate(qwen, few, max_new_tokens=8)
    assert engine.certificates[-1].plan["method"] == "selective and ablation"


def test_records_of_a_run_are_kept_together(tmp_path: Path) -> None:
    """One file a plan: what is there stays, and other shards' come beside it."""
    folder = tmp_path / "a.engine"
    certificate.keep_records(folder, [])
    assert not folder.exists()
    certificate.keep_records(folder, [{"digest": "", "n": 1}, {"digest": "a", "n": 1}])
    certificate.keep_records(folder, [{"digest": "a", "n": 2}, {"digest": "b", "n": 2}])
    kept = {path.stem: json.loads(path.read_text())["n"] for path in folder.iterdir()}
    assert kept == {"unsteered": 1, "a": 1, "b": 2}


def test_a_model_in_few_bits_has_other_weights(fake: type[LLM], qwen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen, "lens_info", replace(qwen.lens_info, quantization="nf4"))
    with pytest.raises(LensSteerError, match="quantization='nf4': vLLM would read the unquantised weights"):
        VllmEngine(qwen)


def test_options_are_read_on_the_twin(
    fake: type[LLM], qwen: Any, calibration: Any, few: PromptSet, tmp_path: Path
) -> None:
    """Questions whose likeliest option is taken: their rows name the engine that read them, and are those of ``hf``."""
    contrast, tasks = Contrast(few[:2], few[2:]), question_splits(general_questions(6)).select
    (grid,) = method_grids(calibration, "selective", values=(150.0,))
    by = {}
    for engine in ("vllm", "hf"):
        protocol = Protocol(qwen, contrast, "select", tasks, engine=engine, max_new_tokens=6, read_by=())
        by[engine] = run(protocol, [Grid(NONE), grid], tmp_path / engine, "rows", progress=False)
    asked = {engine: [r for r in rows if r["side"] == CAPABILITY] for engine, rows in by.items()}
    assert {r["engine"] for r in asked["vllm"]} == {"hf"} and {r["engine"] for r in by["vllm"]} == {"hf", "vllm"}
    assert [r["text"] for r in asked["vllm"]] == [r["text"] for r in asked["hf"]] and len(asked["hf"]) == 6
