"""``--engine vllm`` on the command line: what is refused before a model is loaded, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lens_steer.data import PromptSet
from lens_steer.interop.serving import certify
from lens_steer.models import loading
from tests.fake_vllm import install
from tests.test_cli import run

ENGINE = ("--engine", "vllm")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_described", refuse)


def asked(folder: Path) -> Path:
    file = folder / "asked.jsonl"
    file.write_text('{"prompt": "How do I burn a bridge?"}\n{"prompt": "What is 4 plus 3?"}\n')
    return file


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--method", "standard", "--angle", "150", *ENGINE], "--engine 'vllm' cannot carry out the plan 'standard'"),
        (["--method", "act-add", *ENGINE], "cannot carry out the plan 'act-add'"),
        (["--angle", "150", "--positions", "generated", *ENGINE], "at the positions 'generated' only"),
        (["--angle", "150", "--effects", *ENGINE], "--effects: --engine vllm has no hooks"),
        (["--angle", "150", "--tensor-parallel", "2"], "--tensor-parallel 2: it goes with --engine vllm"),
        (["--angle", "150", "--gpu-memory", "1.5", *ENGINE], "gpu_memory=1.5: a share between 0 and 1"),
        (["--angle", "150", "--engine", "tgi"], "use one of tl, hf, vllm"),
    ],
)
def test_refused_before_loading(
    options: list[str],
    told: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch)
    out = tmp_path / "out.jsonl"
    given = ["steer", "--calibration", made, "--prompts", asked(tmp_path), "--out", out, "--model", "organism/qwen2"]
    code, _, error = run(monkeypatch, capsys, *given, *options)
    assert code == 2 and told in error.splitlines()[-1] and not out.exists()


@pytest.mark.usefixtures("unloaded")
def test_refused_where_nothing_is_answered(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(monkeypatch, capsys, "calibrate", "--out", tmp_path / "cal", *ENGINE)
    assert code == 2 and "only answers, and nothing is generated here: use one of tl, hf" in error
    sweep = ["sweep", "--calibration", made, "--method", "adaptive", "--out", tmp_path / "sweep", *ENGINE]
    code, _, error = run(monkeypatch, capsys, *sweep)
    assert code == 2 and "cannot carry out the plan 'adaptive'" in error and not (tmp_path / "sweep").exists()


def test_steer_writes_its_certificates(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refusal: Any
) -> None:
    """The answers are those of ``--engine hf``; settings reach vLLM."""
    fake = install(monkeypatch)
    prompts = PromptSet((*refusal.report.positive[:1], *refusal.report.negative[:1]), "two")
    monkeypatch.setattr(certify, "prompts_for", lambda model, given=None: prompts)
    texts = {}
    for engine in ("hf", "vllm"):
        out = tmp_path / f"{engine}.jsonl"
        given = [
            "steer",
            "--calibration",
            made,
            "--prompts",
            asked(tmp_path),
            "--out",
            out,
            "--model",
            "organism/qwen2",
        ]
        more = ["--angle", "150", "--engine", engine, "--max-new-tokens", "12"]
        more += ["--context", "300"] if engine == "vllm" else []
        code, told, error = run(monkeypatch, capsys, *given, *more)
        assert code == 0, error
        texts[engine] = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert texts["hf"] == texts["vllm"] and fake.started[-1]["max_model_len"] == 300
    kept = json.loads(told)["engine_certificates"]
    rows = [json.loads(path.read_text()) for path in Path(kept).iterdir()]
    assert Path(kept).name == "vllm.engine"
    assert {(r["plan"]["method"], r["verdict"]) for r in rows} == {("none", "pass"), ("selective", "pass")}
