"""``lens-steer export``: what it writes and says, the recipes, and one line with code 2 for what does not fold."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.recipes import ENGINES, not_served, recipe
from lens_steer.interop.gguf.vectors import import_gguf
from lens_steer.interop.imports.direction_files import save_directions
from lens_steer.interop.imports.directions import direction_set
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
    monkeypatch.setattr("lens_steer.cli.loading.Load.__call__", lambda load, model: qwen)

    def call(*args: object, code: int = 0) -> tuple[dict[str, Any], str]:
        found, out, err = run(monkeypatch, capsys, "export", *args, "--prompts", prompts, "--max-new-tokens", 4)
        assert found == code, err
        return (json.loads(out) if out else {}), err

    return call


def test_an_adapter(export: Any, made: Path, tmp_path: Path) -> None:
    """With its certificate, and how to serve it."""
    said, err = export(
        "lora",
        "--calibration",
        made,
        "--angle",
        200,
        "--base",
        "some/model",
        "--recipe",
        "vllm",
        "--out",
        tmp_path / "a",
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
    assert (
        said["recipe"][1]
        == f"vllm serve some/model --enable-lora --max-loras 1 --lora-modules steered={tmp_path / 'a'}"
    )


def test_a_bank_and_a_pair(export: Any, made: Path, tmp_path: Path) -> None:
    """A saved plan at angles of its own; recipes name the adapters."""
    ls.save_plan(ls.selective_steering(ls.load_calibration(made), 10), tmp_path / "plan")
    said, _ = export(
        "lora", "--plan", tmp_path / "plan", "--bank", "0:180:90", "--recipe", "llama.cpp", "--out", tmp_path / "b"
    )
    assert said["adapters"] == ["angle_000", "angle_090", "angle_180"]
    assert all((tmp_path / "b" / name / "certificate.json").exists() for name in said["adapters"])
    assert any("--lora-scaled angle_000.gguf:0,angle_090.gguf:0,angle_180.gguf:0 " in line for line in said["recipe"])
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
    both = ls.SteeringPlan(
        plan.method,
        (*plan.steps, *other.steps),
        *(getattr(plan, n) for n in ("positions", "model", "architecture", "n_layers", "d_model")),
    )
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
        (("lora", "--method", "ablation", "--circle"), "--angle '0.0': method 'ablation' does not take it"),
        (("lora", "--angle", "1", "--bank", "0:90:10"), "give one of --angle, --bank and --circle"),
        (("lora", "--bank", "ten"), "'ten' gives no values"),
        (("lora",), "method 'selective' needs --angle"),
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


def test_adapters_for_llama_cpp(export: Any, made: Path, tmp_path: Path) -> None:
    """A file beside each, which the certificate is of too; its recipe converts the base model only."""
    said, _ = export(
        "lora", "--calibration", made, "--angle", 200, "--gguf", "--recipe", "llama.cpp", "--out", tmp_path / "a"
    )
    assert said["gguf"] == [str(tmp_path / "a" / "adapter.gguf")]
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "adapter.gguf",
        "adapter_config.json",
        "adapter_model.safetensors",
        "certificate.json",
    }
    assert (
        json.loads((tmp_path / "a" / "certificate.json").read_text(encoding="utf-8"))["gguf"]["architecture"] == "qwen2"
    )
    text = "\n".join(said["recipe"])
    assert f"--lora-scaled {tmp_path / 'a'}/adapter.gguf:0 " in text
    assert "convert_lora_to_gguf" not in text


def test_a_constant_is_no_adapter_for_llama_cpp(export: Any, made: Path, tmp_path: Path) -> None:
    """Refused before the export, with what to do; without --gguf it is exported."""
    args = ("lora", "--calibration", made, "--method", "act-add", "--sites", "blocks.3.ln2.hook_out")
    _, err = export(*args, "--gguf", "--out", tmp_path / "a", code=2)
    assert "adds a constant to model.layers.3.mlp.gate_proj" in err
    assert not (tmp_path / "a").exists()
    said, _ = export(*args, "--recipe", "llama.cpp", "--out", tmp_path / "a")
    assert (said["verdict"], "gguf" in said) == ("pass", False)
    assert said["recipe"][1].startswith("# llama.cpp cannot serve this export: its adapters hold no constants")
    assert len(said["recipe"]) == 2


@pytest.fixture
def vector(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], qwen: Any) -> Any:
    """``export gguf-cvec``; the model is there only where one is asked for."""

    def call(*args: object, code: int = 0) -> tuple[dict[str, Any], str]:
        def loaded(load: object, model: str) -> Any:
            assert "--model" in args and not code, "no model is needed"
            return qwen

        monkeypatch.setattr("lens_steer.cli.loading.Load.__call__", loaded)
        found, out, err = run(monkeypatch, capsys, "export", "gguf-cvec", *args)
        assert found == code, err
        return (json.loads(out) if out else {}), err

    return call


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory, qwen: Any, refusal: Any) -> Path:
    """A calibration of the organism's stream."""
    folder = tmp_path_factory.mktemp("stream") / "calibration"
    ls.save_calibration(ls.calibrate(ls.record(qwen, refusal, "resid_post", progress=False)), folder)
    return folder


def test_a_control_vector_without_a_model(vector: Any, stream: Path, tmp_path: Path) -> None:
    """Of a calibration and a method, of a saved plan: what the plan adds stands in the file."""
    cal, at = ls.load_calibration(stream), "blocks.5.hook_resid_post"
    args = (
        "--calibration",
        stream,
        "--coefficient",
        -1.5,
        "--sites",
        at,
        "--recipe",
        "llama.cpp",
        "--out",
        tmp_path / "v.gguf",
    )
    said, err = vector(*args)
    assert (said["kind"], said["directions"], said["read_back"]) == ("gguf-cvec", {"direction.5": at}, "equal")
    assert (said["method"], said["coefficient"], "verdict" in said) == ("act-add", -1.5, False)
    assert [p.name for p in tmp_path.iterdir()] == ["v.gguf"]
    plan = ls.act_add(cal, -1.5, at=at)
    wanted = -1.5 * plan.steps[0].parameters["direction"]
    assert torch.allclose(import_gguf(tmp_path / "v.gguf").raw(at), wanted.float())
    assert f"--control-vector {tmp_path / 'v.gguf'} " in "\n".join(said["recipe"])
    assert "\n".join(said["recipe"]) in err
    ls.save_plan(plan, tmp_path / "plan")
    vector("--plan", tmp_path / "plan", "--out", tmp_path / "w.gguf")
    assert torch.equal(import_gguf(tmp_path / "w.gguf").directions, import_gguf(tmp_path / "v.gguf").directions)


def test_a_control_vector_with_its_certificate(vector: Any, stream: Path, prompts: Path, tmp_path: Path) -> None:
    """Where a model is named."""
    args = ("--calibration", stream, "--method", "compliance", "--prompts", prompts, "--max-new-tokens", 4)
    said, _ = vector(*args, "--model", "organism/qwen2", "--out", tmp_path / "v.gguf")
    assert (said["method"], said["verdict"], said["equal_greedy_tokens"]) == ("compliance", "pass", 1.0)
    assert len(said["directions"]) == said["n_sites"] > 1
    written = json.loads((tmp_path / "v.certificate.json").read_text(encoding="utf-8"))
    assert (written["n_prompts"], written["kind"], written["directions"]) == (2, "control vector", said["directions"])


def test_a_control_vector_of_imported_directions(vector: Any, tmp_path: Path) -> None:
    """As found, scaled, or one row elsewhere; what they do not say of their model is read from its configuration."""
    rows = {f"blocks.{b}.hook_resid_pre": torch.full((128,), float(b)) for b in (3, 7)}
    unknown: dict[str, Any] = {"model": "", "architecture": None, "n_layers": None, "source_format": "test"}
    save_directions(direction_set(rows, **unknown), tmp_path / "d")
    _, err = vector("--directions", tmp_path / "d", "--out", tmp_path / "v.gguf", code=2)
    assert "architecture is unknown" in err
    said, _ = vector(
        "--directions", tmp_path / "d", "--model", "organism/qwen2", "--max-new-tokens", 2, "--out", tmp_path / "v.gguf"
    )
    assert said["directions"] == {"direction.2": "blocks.3.hook_resid_pre", "direction.6": "blocks.7.hook_resid_pre"}
    assert said["verdict"] == "pass"
    save_directions(direction_set(rows, **unknown | {"architecture": "qwen2", "n_layers": 12}), tmp_path / "e")
    said, _ = vector(
        "--directions",
        tmp_path / "e",
        "--site",
        "blocks.7.hook_resid_pre",
        "--sites",
        "blocks.4.hook_resid_post",
        "--coefficient",
        2,
        "--out",
        tmp_path / "w.gguf",
    )
    found = import_gguf(tmp_path / "w.gguf")
    assert (found.sites, found.directions.unique().tolist()) == (("blocks.4.hook_resid_post",), [14.0])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--calibration", "{stream}", "--method", "selective"), "method 'selective' needs --angle"),
        (("--calibration", "{stream}", "--method", "ablation"), "no addition of fixed directions (operator 'ablate')"),
        (("--calibration", "{stream}", "--sites", "blocks.0.hook_resid_post"), "the output of block 0"),
        (("--calibration", "{made}"), "output of a block only"),
        (
            ("--calibration", "{stream}", "--site", "blocks.3.hook_resid_post"),
            "--site chooses one of imported directions",
        ),
        (
            ("--calibration", "{stream}", "--tolerance", "0.1"),
            "--tolerance belongs to the certificate: give --model too",
        ),
        (("--calibration", "{stream}", "--recipe", "vllm"), "vLLM has no control vectors"),
        (("--directions", "{stream}", "--method", "act-add"), "leave out --plan, --calibration, --probe and --method"),
        (("--directions", "{stream}"), "have no directions.safetensors"),
        ((), "give one of --calibration, --probe (with --method) and --plan"),
    ],
)
def test_what_is_no_control_vector(
    vector: Any, stream: Path, made: Path, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    """One line with code 2, no model loaded, nothing written; also where a model is named."""
    filled = [a.format(stream=stream, made=made) for a in args]
    for more in ((), ("--model", "no/such/model")) if "--tolerance" not in args else ((),):
        _, err = vector(*filled, *more, "--out", tmp_path / "out" / "v.gguf", code=2)
        assert message in err
        assert len([line for line in err.splitlines() if line.startswith("lens-steer:")]) == 1
    assert not (tmp_path / "out").exists()


def test_help_says_what_was_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(monkeypatch, capsys, "export", "--help")
    text = " ".join(out.split())
    assert "llama.cpp was run on all three kinds" in text
    assert "vLLM 0.32 on adapters of the same models" in text


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["lora", "bank", "circle", "merged", "cvec"])
def test_requests_are_valid_json(engine: str, kind: str) -> None:
    """Of every recipe there is; paths with blanks are quoted."""
    if engine == "vllm" and kind in ("circle", "cvec"):
        with pytest.raises(LensSteerError, match="export a bank" if kind == "circle" else "no control vectors"):
            recipe(engine, kind, "out", "base")
        return
    text = recipe(engine, kind, "my out", "some/base", ["angle_000", "angle_010"])
    body = json.loads(text.splitlines()[-1].split("-d ", 1)[1].strip("'"))
    assert body["messages"][0]["content"] == "Hello"
    words = shlex.split(text, comments=True)
    part = {"bank": "my out/angle_010", "circle": "my out/sine"}.get(kind, "my out")
    assert any(w.endswith(part) for w in words)
    if kind not in ("merged", "cvec"):
        assert ("lora" if engine == "llama.cpp" else "model") in body


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gemma2", "tie_word_embeddings": False}, "takes Gemma-2's unembedding from the embedding"),
        (
            {"model_type": "gemma2", "tie_word_embeddings": True, "attention_bias": True},
            "reads no bias of attention's output on 'gemma2'",
        ),
        ({"model_type": "llama", "tie_word_embeddings": False, "attention_bias": True}, None),
        ({"model_type": "qwen2", "tie_word_embeddings": False}, None),
    ],
)
def test_folders_that_llama_cpp_does_not_serve(tmp_path: Path, config: dict[str, Any], reason: str | None) -> None:
    """The recipe says so in place of commands that would give other answers, or none."""
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert (not_served(tmp_path) or "None").startswith("it " if reason else "None")
    text = recipe("llama.cpp", "merged", tmp_path, "base")
    assert (reason or "llama-server -m steered.gguf") in text
    assert ("llama-server" in text) == (reason is None)


def test_adapters_that_an_engine_does_not_load(tmp_path: Path) -> None:
    """Any of a bank's; an unembedding that the base ties, but not one of its own."""
    for name, change in (("angle_000", {}), ("angle_010", {"lora_bias": True})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"lora_bias": False} | change), encoding="utf-8"
        )
    for engine, serves in (("llama.cpp", "llama-server"), ("vllm", "vllm serve")):
        assert "hold no constants" in recipe(engine, "bank", tmp_path, "base", ["angle_000", "angle_010"])
        assert serves in recipe(engine, "bank", tmp_path, "base", ["angle_000"])
    (tmp_path / "adapter_config.json").write_text(json.dumps({"target_modules": ["lm_head"]}), encoding="utf-8")
    for tied in (True, False):
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}), encoding="utf-8")
        text = recipe("llama.cpp", "lora", tmp_path, str(tmp_path / "base"))
        assert ("no adapter reaches one of them alone" in text, "llama-server" in text) == (tied, not tied)
