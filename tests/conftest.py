"""Shared fixtures. Models are loaded once a session; the reference bundle is used where it is present."""

from __future__ import annotations

import os
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# It runs inside vLLM's worker and cannot be imported without vLLM.
collect_ignore = [] if find_spec("vllm") else ["vllm_hidden_states.py"]
HAS_HOOKED = int(metadata.version("transformer-lens").split(".")[0]) < 4
REFERENCE = Path(os.environ.get("LENS_STEER_REFERENCE", Path(__file__).parents[2] / "shared" / "reference"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of published directions and expected numbers; tests that need it are skipped where it is not."""
    if not (REFERENCE / "expected.json").exists():
        pytest.skip(f"no reference bundle at {REFERENCE} (a clone does not carry it; set LENS_STEER_REFERENCE)")
    return REFERENCE


FIELD = Path(os.environ.get("LENS_STEER_FIELD", Path(__file__).parents[2] / "shared" / "field"))


@pytest.fixture(scope="session")
def field() -> Path:
    """Folder of small inputs as they come in the field; tests that need it are skipped where it is not."""
    if not (FIELD / "thinking.jsonl").exists():
        pytest.skip(f"no field inputs at {FIELD} (a clone does not carry them; set LENS_STEER_FIELD)")
    return FIELD


@pytest.fixture(scope="session")
def qwen() -> Any:
    """The embedded Qwen2 organism as a HookedTransformer."""
    import lens_steer as ls

    return ls.load_model("organism/qwen2")


@pytest.fixture(scope="session")
def thinking_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with marks of thoughts, and a template that opens one unless thinking is off."""
    from tests.thinking import build_thinking

    return build_thinking(tmp_path_factory.mktemp("thinking"))


@pytest.fixture(scope="session")
def refusal() -> Any:
    """The refusal contrast with its split."""
    import lens_steer as ls

    return ls.load_contrast("organism/refusal")


@pytest.fixture(scope="session")
def calibration(qwen: Any, refusal: Any) -> Any:
    """The refusal calibration of the Qwen2 organism."""
    import lens_steer as ls

    return ls.calibrate(ls.record(qwen, refusal, progress=False))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, calibration: Any) -> Path:
    """A calibration of the Qwen2 organism on disk."""
    import lens_steer as ls

    folder = tmp_path_factory.mktemp("made") / "calibration"
    ls.save_calibration(calibration, folder)
    return folder


@pytest.fixture(scope="session")
def selected(qwen: Any, refusal: Any) -> Any:
    """A direction of the Qwen2 organism that was selected on a few prompts."""
    from tests.directions import few, select

    return select(qwen, few(refusal))


LATER = (
    "qwen3",
    "mistral",
    "gemma3_text",
)  # what sets them apart is in test_families.py; everything else of them is slow by its number


@pytest.fixture(
    scope="session",
    params=["qwen2", "llama", "gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in LATER)],
)
def tiny_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of each family, as a Hugging Face folder."""
    from tests.tiny import build

    return build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session", params=["hooked", "bridge"])
def tiny(request: pytest.FixtureRequest, tiny_folder: Path) -> Any:
    """The same, as a HookedTransformer (where TransformerLens still has it) and as a TransformerBridge."""
    import lens_steer as ls

    if request.param == "hooked" and not HAS_HOOKED:
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    return ls.load_model(tiny_folder, backend=request.param)


@pytest.fixture(scope="session")
def tiny_calibration(tiny: Any) -> Any:
    """Its calibration from four prompts, at every norm's output."""
    import lens_steer as ls
    from tests.test_parity import PROMPTS

    return ls.calibrate(ls.record(tiny, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), progress=False))


@pytest.fixture(scope="session")
def twin(tiny_folder: Path) -> Any:
    """The same, as a plain Hugging Face model."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
