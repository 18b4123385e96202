"""Real pretrained models and real prompts, where they are: neither belongs to a clone.

``LENS_STEER_REAL_MODELS`` names a folder with ``smollm2-135m-instruct``, ``qwen2.5-coder-0.5b-instruct`` and their GGUF
files; ``LENS_STEER_REAL_PROMPTS`` one with ``harmful_train.json`` and its like. No test prints or keeps an answer to a
harmful prompt.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

SMOL, CODER = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"
GGUF = {SMOL: "SmolLM2-135M-Instruct.Q4_1.gguf", CODER: "qwen2.5-coder-0.5b-instruct.Q4_K_M.gguf"}
PROMPTS = Path(os.environ.get("LENS_STEER_REAL_PROMPTS", Path(__file__).parents[3] / "shared" / "real" / "prompts"))
MODELS = os.environ.get("LENS_STEER_REAL_MODELS", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is ``real``; without models it is skipped, with a reason."""
    missing = not MODELS or not (Path(MODELS).expanduser() / CODER / "config.json").exists()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)
            if missing:
                item.add_marker(pytest.mark.skip(reason="LENS_STEER_REAL_MODELS names no folder with the real models"))


@pytest.fixture(scope="session")
def models() -> Path:
    """Folder of the models."""
    return Path(MODELS).expanduser()


@pytest.fixture(scope="session")
def prompts() -> Path:
    """Folder of the published prompts."""
    if not (PROMPTS / "harmful_train.json").exists():
        pytest.skip(f"no published prompts at {PROMPTS} (set LENS_STEER_REAL_PROMPTS)")
    return PROMPTS


@pytest.fixture(scope="session", params=[SMOL, CODER])
def name(request: pytest.FixtureRequest) -> str:
    """Each model's name in turn."""
    return request.param


@pytest.fixture(scope="session")
def exact(models: Path, name: str) -> Any:
    """The model in float32, with which parity is tested."""
    import lens_steer as ls

    return ls.load_model(models / name, dtype="float32")
