"""Models that come otherwise than as a folder: a GGUF file, a base with an adapter, a revision of the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.models import info
from lens_steer.models.huggingface import merged_with
from lens_steer.models.loading import hf_twin, read_again
from lens_steer.models.location import locate
from lens_steer.models.tokenization import read_tokenizer
from tests.tiny import build

IDS = torch.tensor([[5, 9, 7, 30, 12]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with random factors on three kinds of layer."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj", "down_proj", "o_proj"], init_lora_weights=False
    )
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backend", ["auto", "bridge"])
def test_an_adapter_is_merged(base: Path, adapter: Path, backend: str) -> None:
    """Logits are those of PEFT's own model, on both engines and read again; the description has the folder."""
    import peft
    from transformers import AutoModelForCausalLM

    model: Any = ls.load_model(base, adapter=adapter, backend=backend)
    assert model.lens_info.adapter == str(adapter)
    assert f"adapter {adapter}" in repr(model.lens_info)
    with torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        before = plain(IDS).logits
        wanted = peft.PeftModel.from_pretrained(plain, adapter).eval()(IDS).logits
        assert (wanted - before).abs().max() > 0.1
        for found in (hf_twin(model)(IDS).logits, model(IDS), read_again(model)(IDS).logits):
            torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


def test_adapters_that_cannot_be_merged(base: Path, adapter: Path, tmp_path: Path) -> None:
    """No adapter there, one of another shape, weights in few bits; an adapter in a model's place names its base."""
    with pytest.raises(
        LensSteerError, match=r"adapter='nowhere' holds no PEFT adapter \(adapter_config.json is missing\)"
    ):
        ls.load_model(base, adapter="nowhere")
    with pytest.raises(LensSteerError, match="does not fit the model: it has vectors of"):
        ls.load_model("organism/llama", adapter=adapter)
    quantised = type("Quantised", (), {"is_quantized": True})()
    with pytest.raises(LensSteerError, match="weights in few bits: load the model without quantization"):
        merged_with(quantised, str(adapter))
    with pytest.raises(
        LensSteerError, match=f"holds an adapter and no model: load its base, '{base}', with adapter='{adapter}'"
    ):
        ls.load_model(adapter)
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LensSteerError, match="which its adapter_config.json does not name"):
        locate(tmp_path)


def test_an_adapter_on_an_adapter_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    """An exported adapter goes onto a base in a folder, and this model has none."""
    from lens_steer.interop.exports.lora import export_lora

    model = ls.load_model(base, adapter=adapter)
    contrast = ls.load_contrast("organism/refusal").select
    plan = ls.selective_steering(ls.calibrate(ls.record(model, contrast, progress=False)), 90, at="ln1")
    with pytest.raises(LensSteerError, match="has the adapter .* merged, so another adapter would have no base"):
        export_lora(plan, model, tmp_path / "out")


def test_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An organism written in llama.cpp's format: the logits are Transformers' own reading of the file, which has no
    tokenizer, and that is told.
    """
    pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM

    from tests.llama_cpp_runner import write_base

    file = write_base(hf_twin(ls.load_model("organism/llama")), tmp_path / "base.gguf")
    with pytest.raises(LensSteerError, match="the tokenizer of .*base.gguf' cannot be read: .*'none'"):
        ls.load_model(file)
    monkeypatch.setattr(info, "read_tokenizer", lambda *_: read_tokenizer(locate("organism/llama")))
    model: Any = ls.load_model(file)
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="base.gguf", dtype=torch.float32).eval()
    with torch.inference_mode():
        assert torch.equal(hf_twin(model)(IDS).logits, wanted(IDS).logits)
        torch.testing.assert_close(model(IDS), wanted(IDS).logits, atol=1e-3, rtol=1e-4)
    assert model.lens_info.folder == str(file)


def test_gguf_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Not there, not one, of an architecture that Transformers does not read: one line each."""
    gguf = pytest.importorskip("gguf")
    with pytest.raises(LensSteerError, match="model file .* does not exist"):
        ls.load_model(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("no model", encoding="utf-8")
    with pytest.raises(LensSteerError, match="Transformers cannot read this GGUF file") as error:
        ls.load_model(tmp_path / "text.gguf")
    assert "\n" not in str(error.value)
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "hyena")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(LensSteerError, match="Transformers cannot read this GGUF file: .*hyena"):
        ls.load_model(tmp_path / "other.gguf")


def test_a_revision(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hub's model: read from where it was fetched to, named in the description; of anything else refused."""
    import huggingface_hub

    asked: dict[str, Any] = {}

    def fetched(name: str, **given: Any) -> str:
        asked.update(given, name=name)
        return str(shutil.copytree(base, tmp_path / "0123abc"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    model: Any = ls.load_model("some/model", revision="v1")
    assert (asked["name"], asked["revision"]) == ("some/model", "v1")
    assert (model.lens_info.revision, Path(model.lens_info.folder).name, model.lens_info.name) == (
        "v1",
        "0123abc",
        "some/model",
    )
    for local in ("organism/llama", str(base)):
        with pytest.raises(LensSteerError, match="revision='v1': .* is no hub name, and only those have revisions"):
            ls.load_model(local, revision="v1")
    monkeypatch.undo()
    with pytest.raises(LensSteerError, match="model 'some/model' at revision='v1' cannot be fetched") as error:
        ls.load_model("some/model", revision="v1")
    assert "\n" not in str(error.value)
    assert json.loads((base / "config.json").read_text(encoding="utf-8"))["model_type"] == "llama"
