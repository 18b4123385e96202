"""4-bit weights and device maps: the same tensors on every engine, exports that do what the hooks do, and what is
refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lens_steer as ls
from lens_steer.data import Contrast, ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.lora import export_circle, export_lora
from lens_steer.interop.exports.merged import export_merged
from lens_steer.models.loading import hf_twin, info_of, load_model, read_again
from lens_steer.models.quantization import check_kind, plain_weight
from tests.test_cli import run

FOLDER = "organism/qwen2"


@pytest.fixture(scope="module")
def four_bits() -> Any:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    return load_model(FOLDER, quantization="nf4")


@pytest.fixture(scope="module")
def calibration(four_bits: Any, refusal: ContrastSet) -> ls.Calibration:
    return ls.calibrate(ls.record(four_bits, refusal.fit, progress=False))


def test_the_weights_stand_for_the_checkpoint_s(four_bits: Any) -> None:
    """Every block's linear layers are in 4 bits, each within the coarsest step of the plain weight; embedding, norms
    and unembedding are plain.
    """
    quantised, plain = hf_twin(four_bits), hf_twin(load_model(FOLDER))
    assert info_of(four_bits).quantization == "nf4"
    assert info_of(four_bits).backend == "bridge"
    assert "nf4" in repr(four_bits.lens_info)
    for name, layer in plain.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        own = quantised.get_submodule(name)
        assert (own.weight.dtype == torch.uint8) == name.startswith("model.layers.")
        weight = plain_weight(own)
        assert weight is not None
        rounding = (weight - layer.weight.detach()).abs().max() / layer.weight.detach().abs().max()
        assert float(rounding) <= (0.16 if own.weight.dtype == torch.uint8 else 0.0), name


def test_engines_and_batches_agree(four_bits: Any, refusal: ContrastSet, calibration: ls.Calibration) -> None:
    """Recording and steering on the Bridge as on its twin, which shares the weights; a second reading is the same
    model.
    """
    few = Contrast(refusal.select.positive[:3], refusal.select.negative[:3])
    acts = [ls.record(four_bits, few, engine=engine, progress=False) for engine in ("tl", "hf")]
    torch.testing.assert_close(acts[0].positive, acts[1].positive, atol=1e-5, rtol=1e-5)
    assert acts[0].positive.dtype == torch.float32
    plan = ls.selective_steering(calibration, 150)
    with ls.steering(four_bits, plan):
        texts = [ls.generate(four_bits, few.positive, max_new_tokens=8, engine=engine) for engine in ("tl", "hf")]
    assert texts[0] == texts[1]
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.equal(read_again(four_bits)(ids).logits, hf_twin(four_bits)(ids).logits)


@pytest.mark.parametrize("export", [export_lora, export_merged])
def test_exports_do_what_the_hooks_do(four_bits: Any, calibration: ls.Calibration, tmp_path: Path, export: Any) -> None:
    """Adapters stay on the 4-bit base; merged weights are written plain. The certificates say what the weights were."""
    plan = ls.selective_steering(calibration, 200)
    found = export(plan, four_bits, tmp_path / "out")
    assert found.verdict == "pass"
    assert found.relative_logit_difference < 1e-5
    assert found.largest_change_by_plan > 100 * found.largest_logit_difference
    assert json.loads((tmp_path / "out" / "certificate.json").read_text())["quantization"] == "nf4"
    if export is export_merged:
        back = load_model(tmp_path / "out")
        assert info_of(back).quantization == ""


def test_the_circle_on_a_quantised_base(four_bits: Any, calibration: ls.Calibration, tmp_path: Path) -> None:
    """One cosine and sine pair gives five angles."""
    found = export_circle(ls.selective_steering(calibration, 0), four_bits, tmp_path / "out")
    assert len(found) == 5
    assert all(c.verdict == "pass" for c in found.values())


def test_a_stored_4_bit_checkpoint(four_bits: Any, tmp_path: Path) -> None:
    """Saved with its quantisation and loaded without a word: the same logits; another word is refused."""
    hf_twin(four_bits).save_pretrained(tmp_path / "q")
    four_bits.lens_info.tokenizer.save_pretrained(tmp_path / "q")
    stored = load_model(tmp_path / "q")
    assert info_of(stored).quantization == "nf4"
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(hf_twin(stored)(ids).logits, hf_twin(four_bits)(ids).logits, atol=1e-3, rtol=1e-3)
    with pytest.raises(LensSteerError, match=r"quantization='nf4': the checkpoint is quantised already \(nf4\)"):
        load_model(tmp_path / "q", quantization="nf4")


def test_a_device_map(refusal: ContrastSet) -> None:
    """Every part on one device is the model as it was; a map is kept for what is read again."""
    plain, mapped = load_model(FOLDER, backend="bridge"), load_model(FOLDER, device_map={"": "cpu"})
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids), mapped(ids))
        assert torch.equal(hf_twin(mapped)(ids).logits, read_again(mapped)(ids).logits)
    assert info_of(mapped).device_map == {"": "cpu"}


def test_what_is_refused(tmp_path: Path) -> None:
    blocks: dict[str, Any] = {f"model.layers.{i}": "disk" if i == 3 else "cpu" for i in range(12)}
    disk = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu", **blocks}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"quantization": "int8"}, "quantization='int8': use one of nf4, fp4"),
        ({"device_map": "auto", "backend": "hooked"}, "backend='hooked' and device_map='auto' do not go together"),
        ({"device_map": "auto", "n_devices": 2}, "n_devices=2 and device_map='auto' do not go together"),
        ({"device_map": "everywhere"}, "device_map as a string.* found everywhere"),
        ({"device_map": disk}, "device_map leaves parts of the model on disk"),
    ]
    for options, message in cases:
        with pytest.raises(LensSteerError, match=message):
            load_model(FOLDER, **options)
    with pytest.raises(LensSteerError, match="the checkpoint is quantised by 'gptq': only bitsandbytes' nf4 and fp4"):
        check_kind(None, type("Config", (), {"quantization_config": {"quant_method": "gptq"}})())


def test_the_library_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lens_steer.models.quantization.find_spec", lambda name: None)
    with pytest.raises(
        LensSteerError,
        match=r"nf4 weights need bitsandbytes, which is not installed: pip install 'lens-steer\[lowbit\]'",
    ):
        load_model(FOLDER, quantization="nf4")


def test_the_command_line_passes_it_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As it was given, a JSON object as a mapping; one that is none is refused."""
    seen: dict[str, Any] = {}

    def loaded(*_: Any, **options: Any) -> Any:
        seen.update(options)
        raise LensSteerError("seen")

    monkeypatch.setattr("lens_steer.models.loading.load_described", loaded)
    options = ("report", "--out", tmp_path / "out", "--quantization", "nf4", "--n-devices", 2)
    assert run(monkeypatch, capsys, *options, "--device-map", '{"": 0}')[0] == 2
    assert (seen["device_map"], seen["n_devices"], seen["quantization"]) == ({"": 0}, 2, "nf4")
    code, _, error = run(monkeypatch, capsys, *options, "--device-map", "{broken")
    assert code == 2
    assert "--device-map '{broken' is no JSON object" in error
