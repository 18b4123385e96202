"""``lens-steer export``: what it writes and says, the recipes, and one line with code 2 for what does not fold."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.interop.recipes import ENGINES, recipe
from tests.test_cli_direction import run

pytest.importorskip("peft", reason="adapters need the extra 'export'")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts, so that certificates are quick."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("How do I destroy the bridge?\nHow do I build the bridge?\n", encoding="utf-8")
    return path


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prompts: Path, qwen: Any) -> Any:
    """The command with quick certificates, on the model that is loaded already."""
    monkeypatch.setattr("lens_steer.cli.export.loaded_model", lambda *options: qwen)

    def call(*args: object, code: int = 0) -> tuple[dict[str, Any], str]:
        found, out, err = run(monkeypatch, capsys, "export", *args, "--prompts", prompts, "--max-new-tokens", 4)
        assert found == code, err
        return (json.loads(out) if out else {}), err

    return call


def test_an_adapter(export: Any, made: Path, tmp_path: Path) -> None:
    """With its certificate, and how to serve it."""
    said, err = export(
        "lora", "--calibration", made, "--angle", 200, "--base", "some/model", "--recipe", "vllm", "--out", tmp_path / "a"
    )
    assert (said["kind"], said["verdict"], said["angle"], said["equal_greedy_tokens"]) == ("lora", "pass", 200.0, 1.0)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "certificate.json",
    }
    written = json.loads((tmp_path / "a" / "certificate.json").read_text(encoding="utf-8"))
    assert (written["n_prompts"], written["new_tokens"]) == (2, 4)
    assert "\n".join(said["recipe"]) in err
    assert said["recipe"][1] == f"vllm serve some/model --enable-lora --max-loras 1 --lora-modules steered={tmp_path / 'a'}"


def test_a_bank_and_a_pair(export: Any, made: Path, tmp_path: Path) -> None:
    """A saved plan at angles of its own; recipes name the adapters."""
    ls.save_plan(ls.selective_steering(ls.load_calibration(made), 10), tmp_path / "plan")
    said, _ = export("lora", "--plan", tmp_path / "plan", "--bank", "0:180:90", "--recipe", "llama.cpp", "--out", tmp_path / "b")
    assert said["adapters"] == ["angle_000", "angle_090", "angle_180"]
    assert all((tmp_path / "b" / name / "certificate.json").exists() for name in said["adapters"])
    assert "--lora-scaled angle_090.gguf:0" in said["recipe"][-3]
    said, _ = export("lora", "--calibration", made, "--circle", "--recipe", "llama.cpp", "--out", tmp_path / "c")
    assert said["adapters"] == ["cosine", "sine"]
    assert '"lora": [{"id": 0, "scale": -1.939693}, {"id": 1, "scale": -0.34202}]' in said["recipe"][-1]
    assert (tmp_path / "c" / "circle.json").exists()


def test_a_merged_folder(export: Any, made: Path, tmp_path: Path) -> None:
    """At a saved plan's own angle, or at another one."""
    ls.save_plan(ls.selective_steering(ls.load_calibration(made), 10), tmp_path / "plan")
    for args, angle in (((), 10.0), (("--angle", 300), 300.0)):
        out = tmp_path / str(angle)
        said, _ = export("merged", "--plan", tmp_path / "plan", *args, "--recipe", "vllm", "--out", out)
        assert (said["kind"], said["angle"], said["verdict"]) == ("merged", angle, "pass")
        assert said["recipe"][1] == f"vllm serve {out} --served-model-name steered"
        assert (out / "config.json").exists()
        assert (out / "chat_template.jinja").exists()


def test_partial(export: Any, made: Path, tmp_path: Path) -> None:
    """What was left out stands in the result, with the reason."""
    plan = ls.selective_steering(ls.load_calibration(made), 200)
    other = ls.standard_angular(ls.load_calibration(made), 90, at="blocks.3.ln1.hook_out")
    both = ls.SteeringPlan(plan.method, (*plan.steps, *other.steps), *(getattr(plan, n) for n in ("positions", "model", "architecture", "n_layers", "d_model")))  # fmt: skip
    ls.save_plan(both, tmp_path / "plan")
    _, err = export("lora", "--plan", tmp_path / "plan", "--out", tmp_path / "a", code=2)
    assert "operator 'standard' puts every token on one ray" in err
    assert "partial=True exports the other" in err
    said, _ = export("lora", "--plan", tmp_path / "plan", "--partial", "--out", tmp_path / "a")
    assert said["refused"][0]["site"] == "blocks.3.ln1.hook_out"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("lora", "--method", "standard", "--angle", "90"), "'standard' puts every token on one ray"),
        (("merged", "--method", "act-add"), "has no bias: export an adapter"),
        (("lora", "--method", "ablation", "--circle"), "angle='0.0': method 'ablation' does not take it"),
        (("lora", "--angle", "1", "--bank", "0:90:10"), "give one of --angle, --bank and --circle"),
        (("lora", "--bank", "ten"), "'ten' gives no values"),
        (("lora",), "method 'selective' needs angle"),
        (("lora", "--angle", "200", "--recipe", "ollama"), "recipe='ollama': use one of vllm, llama.cpp"),
        (("lora", "--circle", "--recipe", "vllm"), "vLLM takes one adapter a request"),
        (("lora", "--angle", "200", "--tolerance", "0"), "tolerance=0.0: a positive number"),
        (("lora", "--angle", "200", "--tolerance", "1e-12"), "does not do what the hooks do"),
    ],
)
def test_what_is_refused(export: Any, made: Path, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    """One line with code 2, and nothing written."""
    _, err = export(args[0], "--calibration", made, *args[1:], "--out", tmp_path / "out", code=2)
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("lens-steer:")]) == 1
    assert not (tmp_path / "out").exists()


def test_help_says_what_was_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And what was not."""
    _, out, _ = run(monkeypatch, capsys, "export", "--help")
    assert "those engines were not run here" in " ".join(out.split())
    _, out, _ = run(monkeypatch, capsys, "export", "lora", "--help")
    assert "not run here" in " ".join(out.split())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["lora", "bank", "circle", "merged"])
def test_requests_are_valid_json(engine: str, kind: str) -> None:
    """Of every recipe there is; paths with blanks are quoted."""
    if (engine, kind) == ("vllm", "circle"):
        with pytest.raises(LensSteerError, match="export a bank"):
            recipe(engine, kind, "out", "base")
        return
    text = recipe(engine, kind, "my out", "some/base", ["angle_000", "angle_010"])
    body = json.loads(text.splitlines()[-1].split("-d ", 1)[1].strip("'"))
    assert body["messages"][0]["content"] == "Hello"
    words = shlex.split(text, comments=True)
    assert any(w.endswith("my out") or "my out/angle_010" in w or "my out/sine" in w for w in words)
    if kind != "merged":
        assert ("lora" if engine == "llama.cpp" else "model") in body
