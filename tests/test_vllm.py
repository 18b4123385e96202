"""The engine ``vllm`` with vLLM itself (``make test-vllm``, in an environment of its own): equal to the hooks.

Skipped where vLLM is not installed. What the engine does up to vLLM's border is tested everywhere, in
``tests/test_serving.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE, method_grids
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.inference import batching
from lens_steer.interop.imports.hidden_states import import_hidden_states
from lens_steer.interop.serving.certify import certify_engine
from lens_steer.interop.serving.vllm_engine import VllmEngine
from lens_steer.models.loading import hf_twin, info_of
from lens_steer.models.sites import resolve

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm")

ANGLES = tuple(float(angle) for angle in range(0, 360, 30))
REAL = os.environ.get("LENS_STEER_REAL_MODELS")
CODER = "qwen2.5-coder-0.5b-instruct"


def contrast_of(refusal: Any, n: int) -> Contrast:
    return Contrast(refusal.report.positive[:n], refusal.report.negative[:n])


@pytest.fixture(scope="module", params=["organism/qwen2", "organism/llama", "organism/gemma2"])
def served(request: pytest.FixtureRequest, refusal: Any) -> Iterator[tuple[Any, Any, VllmEngine]]:
    """A model, its calibration at the norms that adapters reach (not Gemma-2's post-norms), and vLLM beside it."""
    model = ls.load_model(request.param)
    names = [name for kind in ("ln1", "ln2") for name in resolve(kind, info_of(model).layout)]
    calibration = ls.calibrate(ls.record(model, refusal, names, progress=False))
    with ls.vllm_engine(model, adapters=len(ANGLES)) as engine:
        yield model, calibration, engine


def test_a_sweep_of_twelve_angles(served: Any, refusal: Any, tmp_path: Path) -> None:
    """Every row is that of the hooks, in float32; thirteen certificates pass, and most of them could have failed."""
    model, calibration, engine = served
    grids = [Grid(NONE), *method_grids(calibration, "selective", values=ANGLES)]
    rows = {}
    for name in ("hf", "vllm"):
        how = {"engine": name, "max_new_tokens": 32, "read_by": ("ref",)}
        protocol = Protocol(model, contrast_of(refusal, 4), "report", PromptSet(()), **how)
        rows[name] = run(protocol, grids, tmp_path / name, "report", progress=False)
    for one, two in zip(rows["hf"], rows["vllm"], strict=True):
        assert two.pop("engine") == "vllm"
        for name, value in one.items():
            assert two[name] == (pytest.approx(value, abs=1e-3) if isinstance(value, float) else value), name
    assert len(engine.certificates) == 1 + len(ANGLES)
    assert {c.verdict for c in engine.certificates} == {"pass"}
    assert sum(c.tells for c in engine.certificates) >= len(ANGLES) - 3
    assert max(c.largest_difference for c in engine.certificates) < 1e-3


def test_unsteered_requests_in_one_batch_with_steered_ones(served: Any) -> None:
    """Every adapter is there, and so are requests without one: each is what it is alone."""
    model, calibration, engine = served
    plans = [None, *(ls.selective_steering(calibration, angle) for angle in ANGLES)]
    made = certify_engine(model, engine, plans, name="vllm", version="", prompts=[ls.Prompt.of("What is 4 plus 3?")])
    assert [c.verdict for c in made] == ["pass"] * len(plans)


@pytest.mark.parametrize("fault", ["ignored", "wrong"])
def test_a_fault_is_found_out(served: Any, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters that do not arrive, and adapters that are another's."""
    model, calibration, engine = served
    send = engine._run

    def faulty(sequences: Any, adapters: Any, max_new_tokens: int, **how: Any) -> Any:
        other = engine._bank.of(ls.selective_steering(calibration, 300))
        nothing = engine._bank.nothing()
        changed = [a if a is nothing else nothing if fault == "ignored" else other for a in adapters]
        return send(sequences, changed, max_new_tokens, **how)

    monkeypatch.setattr(engine, "_run", faulty)
    known = len(engine.certificates)
    angle = {"ignored": 151, "wrong": 152}[fault]
    with (
        ls.steering(model, ls.selective_steering(calibration, angle)),
        pytest.raises(LensSteerError, match="does not do what the hooks do") as told,
    ):
        ls.generate(model, ["Hello"], engine="vllm", max_new_tokens=2)
    assert len(engine.certificates) == known
    assert ("ignores the adapter" in str(told.value)) or fault == "wrong"


def test_gemma2_has_its_softcapping() -> None:
    """The twin computes what the HookedTransformer does, also with a Transformers that would leave softcapping out."""
    model = ls.load_model("organism/gemma2")
    ids = torch.tensor([batching.encode(info_of(model).tokenizer, ls.Prompt.of("How do I burn a bridge?"))])
    with torch.inference_mode():
        torch.testing.assert_close(hf_twin(model)(ids).logits, model(ids), atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(REAL is None, reason="LENS_STEER_REAL_MODELS names no folder with real models")
def test_a_real_model_in_bfloat16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The certificate passes on a model of 0.5 B parameters; the share of equal answers is told, not demanded."""
    model = ls.load_model(str(Path(str(REAL)) / CODER), dtype="bfloat16")
    pair = Contrast(
        PromptSet(tuple(map(ls.Prompt.of, ("Write a poem.", "Name a colour.", "Tell me a story.", "Say hello.")))),
        PromptSet(tuple(map(ls.Prompt.of, ("What is 2 + 2?", "What is 9 - 4?", "What is 3 * 3?", "What is 8 / 2?")))),
    )
    calibration = ls.calibrate(ls.record(model, pair, progress=False))
    asked = [*pair.positive, *pair.negative]
    with ls.vllm_engine(model, context=512) as engine:
        begun = time.perf_counter()
        with ls.steering(model, ls.selective_steering(calibration, 120)):
            by = {e: ls.generate(model, asked, engine=e, max_new_tokens=24) for e in ("vllm", "hf")}
        seconds = time.perf_counter() - begun
    assert [c.verdict for c in engine.certificates] == ["pass", "pass"] and engine.certificates[1].tells
    equal = sum(a == b for a, b in zip(by["vllm"], by["hf"], strict=True))
    with capsys.disabled():
        for c in engine.certificates:
            print(f"\n{CODER}, bfloat16, {c.plan['method']}: {c.row()}")  # noqa: T201
        print(f"{equal} of {len(asked)} answers equal, {seconds:.0f} s")  # noqa: T201


def test_hidden_states_that_vllm_wrote(refusal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are our recording, before every block and after the last one."""
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]
    from vllm.config import KVTransferConfig  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    model, layers = ls.load_model("organism/qwen2"), list(range(13))
    pair = Contrast(refusal.fit.positive[:3], refusal.fit.negative[:3])
    tokenizer = info_of(model).tokenizer
    draft = {"hf_config": {"eagle_aux_hidden_state_layer_ids": layers}}
    llm = LLM(
        model=info_of(model).folder,
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=256,
        enforce_eager=True,
        enable_prefix_caching=False,
        speculative_config={
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": draft,
        },
        kv_transfer_config=KVTransferConfig(
            kv_connector="CpuHiddenStates",
            kv_connector_module_path="tests.vllm_hidden_states",
            kv_role="kv_producer",
            kv_connector_extra_config={"shared_storage_path": str(tmp_path)},
        ),
    )
    prompts = [{"prompt_token_ids": batching.encode(tokenizer, p)} for p in (*pair.positive, *pair.negative)]
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=1, detokenize=False), use_tqdm=False)
    llm.llm_engine.engine_core.shutdown()
    for kind in ("resid_pre", "resid_post"):
        found = import_hidden_states(tmp_path, model, pair, layers, kind=kind)
        own = ls.record(model, pair, list(found.sites), progress=False)
        assert len(found.sites) == 12
        torch.testing.assert_close(found.positive, own.positive, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(found.negative, own.negative, atol=1e-3, rtol=1e-4)
