"""What is refused before a weight is read: another model's calibration, prompts without room, sites that are not there,
a model without a template.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lens_steer as ls
from lens_steer.cli.loading import Load
from lens_steer.cli.precheck import describe, precheck
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.pieces import Pieces, check_beginning
from lens_steer.models import info
from lens_steer.models.location import locate
from lens_steer.models.tokenization import read_tokenizer
from lens_steer.reports import report
from tests.test_cli import run


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a weight fails."""
    from transformers import PreTrainedModel

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Load, "__call__", fail)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", fail)


@pytest.fixture(scope="module")
def weightless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that lacks its weights."""
    folder = tmp_path_factory.mktemp("weightless") / "model"
    shutil.copytree(locate("organism/qwen2"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture(scope="module")
def long_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "long.txt"
    path.write_text("\n".join(f"word {i} " * 2000 for i in range(8)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plain_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("plain")
    for name in ("positive", "negative"):
        (folder / f"{name}.txt").write_text("\n".join(f"{name} {i}" for i in range(8)) + "\n", encoding="utf-8")
    return folder / "positive.txt", folder / "negative.txt"


def test_a_description_is_what_loading_tells(qwen: Any, weightless: Path) -> None:
    """Name aside, everything that a calibration is held against; and no weight is there to be read."""
    loaded, told = qwen.lens_info, describe(weightless).lens_info
    same_facts(replace(told, name=loaded.name, folder=loaded.folder), loaded)
    assert (told.backend, told.dtype) == ("unloaded", "")
    with pytest.raises(LensSteerError, match="does not exist"):
        describe("/no/such/folder")


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "its config.json cannot be read: Unrecognized model"),
        ("null", "its config.json cannot be read"),
        ("{", "its config.json cannot be read: It looks like the config file"),
        ({"hidden_size": "abc"}, "its config.json cannot be read: Validation error for field 'hidden_size': TypeError"),
        ({"layer_types": []}, "its config.json cannot be read: Class validation error"),
        ({"dtype": []}, "its config.json cannot be read"),
        ({"model_type": {}}, "its config.json cannot be read"),
        (
            {"num_hidden_layers": 0, "layer_types": None},
            "its config.json says num_hidden_layers=0: at least 1 is needed",
        ),
    ],
)
def test_a_configuration_that_is_none(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    weightless: Path,
    content: Any,
    told: str,
) -> None:
    """Whatever is wrong with it, one line that says so, and no traceback."""
    folder = tmp_path / "model"
    shutil.copytree(weightless, folder)
    good = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        content if isinstance(content, str) else json.dumps(good | content), encoding="utf-8"
    )
    with pytest.raises(LensSteerError) as caught:
        describe(folder)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    code, _, error = run(monkeypatch, capsys, "calibrate", "--model", folder, "--out", tmp_path / "out")
    assert (code, error.splitlines()[-1]) == (2, f"lens-steer: {' '.join(str(caught.value).split())}")


def same_facts(told: Any, loaded: Any) -> None:
    """All but what loading decides, and what only a loaded model's tokenizer object is."""
    decided = {"backend", "dtype", "quantization", "device_map", "tokenizer"}
    for field in fields(loaded):
        if field.name not in decided:
            assert getattr(told, field.name) == getattr(loaded, field.name), field.name
    assert told.tokenizer.chat_template == loaded.tokenizer.chat_template
    assert told.template == loaded.template


def test_an_adapter_is_checked_before_weights(
    tmp_path: Path, weightless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No adapter, one without weights, one for another width or depth; what fits is described as it will be loaded."""
    pytest.importorskip("peft")
    d_model, n_layers = (describe(weightless).lens_info.d_model, describe(weightless).lens_info.n_layers)

    def adapter(name: str, width: int, block: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        settings = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": 2,
            "lora_alpha": 2,
            "target_modules": ["q_proj"],
            "base_model_name_or_path": "",
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        key = f"base_model.model.model.layers.{block}.self_attn.q_proj.lora_"
        save_file(
            {f"{key}A.weight": torch.zeros(2, width), f"{key}B.weight": torch.zeros(d_model, 2)},
            folder / "adapter_model.safetensors",
        )
        return folder

    good = adapter("good", d_model, n_layers - 1)
    told = describe("organism/qwen2", adapter=good).lens_info
    assert told.adapter == str(good)
    same_facts(told, ls.load_model("organism/qwen2", adapter=good).lens_info)
    empty = adapter("empty", d_model, 0)
    (empty / "adapter_model.safetensors").unlink()
    broken = adapter("broken", d_model, 0)
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    for folder, message in (
        (tmp_path, r"holds no PEFT adapter \(adapter_config.json is missing\)"),
        (empty, r"holds no weights \(adapter_model.safetensors is missing\): save it again"),
        (broken, "cannot be read"),
        (
            adapter("wide", d_model + 1, 0),
            f"does not fit the model: it has vectors of {d_model + 1} numbers, and the model's have {d_model}",
        ),
        (
            adapter("deep", d_model, n_layers),
            f"does not fit the model: it has block {n_layers}, and the model has {n_layers} blocks",
        ),
    ):
        with pytest.raises(LensSteerError, match=message):
            describe(weightless, adapter=folder)
    code, _, error = run(
        monkeypatch,
        capsys,
        "calibrate",
        "--model",
        weightless,
        "--adapter",
        tmp_path / "deep",
        "--out",
        tmp_path / "out",
    )
    assert (
        code,
        error.splitlines()[-1].startswith(f"lens-steer: --adapter '{tmp_path / 'deep'}' does not fit the model"),
    ) == (
        2,
        True,
    )


def test_a_gguf_file_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it will be loaded; what it lacks is told before its weights are dequantised."""
    pytest.importorskip("gguf")
    from tests.llama_cpp_runner import write_base

    file = write_base(ls.hf_twin(ls.load_model("organism/llama")), tmp_path / "base.gguf")
    with pytest.raises(LensSteerError, match="the tokenizer of .*base.gguf' cannot be read"):
        describe(file)
    monkeypatch.setattr(info, "read_tokenizer", lambda *_: read_tokenizer(locate("organism/llama")))
    told = describe(file).lens_info
    same_facts(told, ls.load_model(file).lens_info)
    assert told.folder == str(file)
    with pytest.raises(LensSteerError, match=r"revision='main': .* is no hub name"):
        describe(file, revision="main")


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("command", ["steer", "sweep", "divergence", "lora", "merged"])
def test_another_models_calibration(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Path,
    plain_files: tuple[Path, Path],
) -> None:
    """Refused in seconds by every command that steers."""
    responses = tmp_path / "responses.jsonl"
    responses.write_text(json.dumps({"prompt": "Hello", "response": "Hi."}) + "\n", encoding="utf-8")
    common = ("--model", "organism/gemma2", "--calibration", made)
    args: dict[str, tuple[object, ...]] = {
        "steer": ("steer", *common, "--angle", 30, "--prompts", plain_files[0], "--out", tmp_path / "o.jsonl"),
        "sweep": (
            "sweep",
            *common,
            "--positive",
            plain_files[0],
            "--negative",
            plain_files[1],
            "--angles",
            "0,30",
            "--out",
            tmp_path / "o",
        ),
        "divergence": ("divergence", *common, "--angle", 30, "--responses", responses, "--out", tmp_path / "o"),
        "lora": ("export", "lora", *common, "--angle", 30, "--out", tmp_path / "o"),
        "merged": ("export", "merged", *common, "--angle", 30, "--out", tmp_path / "o"),
    }
    begun = time.monotonic()
    code, _, error = run(monkeypatch, capsys, *args[command])
    assert time.monotonic() - begun < 20  # well under five seconds on a machine that does nothing else
    assert code == 2
    assert "was made on 'organism/qwen2'" in error
    assert "'organism/gemma2' has" in error
    assert list(tmp_path.iterdir()) == [responses]


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("command", ["report", "compare", "calibrate", "sweep", "probe", "steer"])
def test_prompts_without_room(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Path,
    plain_files: tuple[Path, Path],
    long_prompts: Path,
) -> None:
    files = ("--positive", long_prompts, "--negative", plain_files[1])
    out = ("--out", tmp_path / "o")
    args: dict[str, tuple[object, ...]] = {
        "report": (*files, *out),
        "compare": (*files, *out),
        "calibrate": (*files, *out),
        "probe": (*files, *out),
        "sweep": ("--calibration", made, "--angles", "0,30", *files, *out),
        "steer": ("--calibration", made, "--angle", 30, "--prompts", long_prompts, "--out", tmp_path / "o.jsonl"),
    }
    code, _, error = run(monkeypatch, capsys, command, "--model", "organism/qwen2", *args[command])
    assert code == 2
    assert "more than the model's context of" in error
    assert error.splitlines()[-1].startswith("lens-steer: prompt 0 (")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_weights")
def test_sites_template_and_splits(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    weightless: Path,
    plain_files: tuple[Path, Path],
) -> None:
    files = ("--positive", plain_files[0], "--negative", plain_files[1], "--out", tmp_path / "o")
    code, _, error = run(monkeypatch, capsys, "calibrate", "--sites", "blocks.99.ln1.hook_out", *files)
    assert (code, "blocks.99" in error) == (2, True)
    bare = tmp_path / "bare"
    shutil.copytree(weightless, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((bare / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    code, _, error = run(monkeypatch, capsys, "calibrate", "--model", bare, *files)
    assert (code, "has no chat template" in error) == (2, True)
    with pytest.raises(AssertionError, match="a weight was read"):  # with a template there is nothing left to refuse
        run(monkeypatch, capsys, "calibrate", "--model", bare, "--chat-template", "plain", *files)
    code, _, error = run(monkeypatch, capsys, "report", "--split", "1,0,0", *files)
    assert (code, "has no select prompts" in error) == (2, True)


def test_a_plan_a_probe_and_forced_answers(calibration: Any, refusal: Any, qwen: Any) -> None:
    """The library's own words for what fits and what does not."""
    plan = ls.selective_steering(calibration, 30)
    prompts = [Prompt.of("Hello")]
    own, other = describe("organism/qwen2"), describe("organism/llama")
    precheck(own, [(prompts, 8)], made=plan, site_spec="norm_out")
    with pytest.raises(LensSteerError, match="SteeringPlan was made on 'organism/qwen2'"):
        precheck(other, made=plan)
    probe = ls.fit_probe(
        ls.record(qwen, refusal, ["blocks.3.hook_resid_post"], progress=False), "blocks.3.hook_resid_post"
    )
    precheck(own, made=probe)
    with pytest.raises(LensSteerError, match=r"was (made|fitted) on"):
        precheck(other, made=probe)
    said = Prompt.of("Hello")
    said = type(said)(said.messages, "word " * 3000)
    precheck(own, [([said], 8)])  # asked, a fixed response is not read
    with pytest.raises(LensSteerError, match="more than the model's context"):
        precheck(own, forced=[[said]])


def test_another_report_s_folder_is_refused_before_loading(
    qwen: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By everything that is known without the weights; a folder of the same report is not refused, and what only the
    loaded model tells is compared when the report begins.
    """
    contrast = ls.load_contrast("organism/refusal")
    how: dict[str, Any] = {"max_new_tokens": 48, "engine": "hf"}
    kept = report._identity(qwen, contrast, "norm_out", "paper", 0, 10, how)
    assert kept["select"]["weights"]
    Pieces(tmp_path, "report", kept)

    def loading(*_: Any) -> Any:
        raise LensSteerError("the model is loaded")

    monkeypatch.setattr(Load, "__call__", loading)
    for options, told in (
        ((), "the model is loaded"),
        (("--seed", 1), "(fit, report, seed, select differ): give another folder, or empty it"),
        (("--max-new-tokens", 9), "(report, select differ)"),
        (("--sites", "resid_post"), "(sites differ)"),
        (("--controls", 3), "(draws differ)"),
        (("--model", "organism/llama"), "(report, select differ)"),
    ):
        code, _, error = run(monkeypatch, capsys, "report", "--out", tmp_path, *options)
        assert (code, told in error.splitlines()[-1]) == (2, True), error
    assert [p.name for p in tmp_path.iterdir()] == [".parts"]
    kept["select"]["weights"] = "others"
    shutil.rmtree(tmp_path / ".parts")
    Pieces(tmp_path, "report", kept)
    assert "the model is loaded" in run(monkeypatch, capsys, "report", "--out", tmp_path)[2]
    with pytest.raises(LensSteerError, match=r"another run \(select differ\)"):
        report.make_report(qwen, contrast, tmp_path, progress=False)


def test_values_that_are_not_given_are_not_compared(tmp_path: Path) -> None:
    """Unless the identity is whole; a file that nobody wrote refuses nothing."""
    check_beginning(tmp_path, "run", {"seed": 0})
    Pieces(tmp_path, "run", {"seed": 0, "model": {"name": "a", "dtype": "b"}, "sites": ["x"]})
    check_beginning(tmp_path, "run", {"model": {"name": "a"}}, whole=False)
    for identity, whole, told in (
        ({"model": {"name": "a"}}, True, "model, seed, sites differ"),
        ({"model": {"name": "b"}}, False, "model differ"),
        ({"sites": ["x", "y"], "seed": 0}, False, "sites differ"),
        ({"seed": 0, "rule": "paper"}, False, "rule differ"),
    ):
        with pytest.raises(LensSteerError, match=rf"beginning of another run \({told}\)"):
            check_beginning(tmp_path, "run", identity, whole=whole)
