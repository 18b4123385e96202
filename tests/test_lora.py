"""Adapters and merged folders: what PEFT and Transformers load is what the hooks do, token for token; what differs is
an error.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching, engines
from lens_steer.interop.exports import adapters
from lens_steer.interop.exports.adapters import load_adapter, quiet, write_adapter
from lens_steer.interop.exports.certificate import Trial, certify, prompts_for, require
from lens_steer.interop.exports.folding import fold
from lens_steer.interop.exports.lora import CIRCLE_ANGLES, circle_weights, export_bank, export_circle, export_lora
from lens_steer.interop.exports.merged import export_merged, merged_model
from lens_steer.models.loading import hf_twin
from tests.test_folding import ABLATE, ADD, AFFINE, GEMMAS, OTHER, PLANE, TURN, plan_of
from tests.test_parity import PROMPTS

peft = pytest.importorskip("peft", reason="adapters need the extra 'export'")

ANGLES = (0.0, 60.0, 130.0, 200.0, 340.0)
SMALL = Trial(PROMPTS, new_tokens=4)
CLOSE = 5e-6  # of the largest logit, which is 5 (tiny models) to 27 (organisms)


def base_of(model: Any) -> Any:
    """The base model by Transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model.lens_info.folder, dtype=torch.float32).eval()


def same(model: Any, exported: Any, plan: ls.SteeringPlan) -> float:
    """The largest logit difference to the hooked model, over the largest logit; greedy answers must be equal to those
    of its TransformerLens engine.
    """
    exported.lens_info = replace(model.lens_info, backend="hf")
    asked = list(prompts_for(model))[6:10] if model.lens_info.name.startswith("organism") else list(PROMPTS)
    worst, largest = 0.0, 0.0
    with ls.steering(model, plan):
        wanted = ls.generate(model, asked, max_new_tokens=5, engine="tl")
    assert ls.generate(exported, asked, max_new_tokens=5) == wanted
    for batch in batching.batches(model.lens_info.tokenizer, asked, n_ctx=128):
        at = {"attention_mask": batch.mask, "position_ids": (batch.mask.cumsum(dim=1) - 1).clamp_min(0)}
        with torch.inference_mode(), ls.steering(model, plan), engines.on_engine(model, "hf") as twin:
            hooked = twin(batch.ids, **at).logits
        with torch.inference_mode():
            worst = max(worst, float((hooked - exported(batch.ids, **at).logits)[batch.mask.bool()].abs().max()))
            largest = max(largest, float(hooked[batch.mask.bool()].abs().max()))
    return worst / largest


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Any:
    """A tiny random model of each family, on the backend that there is."""
    return ls.load_model(tiny_folder)


@pytest.fixture(
    scope="module", params=["organism/qwen2", "qwen2", "llama", "gemma2", "qwen3", "mistral", "gemma3_text"]
)
def steered(
    request: pytest.FixtureRequest, qwen: Any, calibration: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A model and a selective plan for it: the organism with its own calibration, tiny random ones in a random plane at
    every foldable norm.
    """
    from tests.tiny import build

    if request.param == "organism/qwen2":
        return qwen, ls.selective_steering(calibration, 200)
    model = ls.load_model(build(request.param, tmp_path_factory.mktemp(request.param)))
    return model, plan_of(model, ("selective", "ln1,ln2", AFFINE["selective"]))


def test_a_bank_at_five_angles(steered: Any, tmp_path: Path) -> None:
    """Each adapter, loaded by PEFT alone: logits to 1e-5, every greedy token; the certificates say so too, and 0°
    changes nothing.
    """
    model, plan = steered
    found = export_bank(plan, [*ANGLES, 360.0], model, tmp_path / "bank", trial=SMALL)
    assert list(found) == ["angle_000", "angle_060", "angle_130", "angle_200", "angle_340"]
    assert json.loads((tmp_path / "bank" / "bank.json").read_text(encoding="utf-8"))["adapters"] == dict(
        zip(found, ANGLES, strict=True)
    )
    base = base_of(model)
    for name, angle in zip(found, ANGLES, strict=True):
        folder = tmp_path / "bank" / name
        with quiet():
            loaded = peft.PeftModel.from_pretrained(base, folder)
        assert same(model, loaded.get_base_model(), plan.at(angle)) < CLOSE
        base = loaded.unload()
        written = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
        assert (written["verdict"], written["equal_greedy_tokens"], written["plan"]["angle"]) == ("pass", 1.0, angle)
        assert (written["largest_change_by_plan"] > 0.1) == (angle != 0)
    assert not any(
        t.any()
        for k, t in load_file(tmp_path / "bank" / "angle_000" / "adapter_model.safetensors").items()
        if "lora_B" in k
    )


def test_a_pair_gives_every_angle(steered: Any, tmp_path: Path) -> None:
    """Two adapters combined by PEFT with cos θ − 1 and sin θ, at five angles that are not the certificate's."""
    model, plan = steered
    found = export_circle(plan, model, tmp_path / "circle", trial=SMALL)
    assert tuple(found) == CIRCLE_ANGLES
    assert all(c.verdict == "pass" for c in found.values())
    with quiet():
        loaded = peft.PeftModel.from_pretrained(base_of(model), tmp_path / "circle" / "cosine", adapter_name="cosine")
        loaded.load_adapter(tmp_path / "circle" / "sine", adapter_name="sine")
    for angle in (0.0, 60.0, 155.0, 222.5, 310.0):
        loaded.add_weighted_adapter(
            ["cosine", "sine"], list(circle_weights(angle)), f"a{angle:.0f}", combination_type="cat"
        )
        loaded.set_adapter(f"a{angle:.0f}")
        assert same(model, loaded.get_base_model(), plan.at(angle)) < CLOSE
    written = json.loads((tmp_path / "circle" / "certificate.json").read_text(encoding="utf-8"))
    assert [a["plan"]["angle"] for a in written["angles"]] == list(CIRCLE_ANGLES)
    assert "cat" in json.loads((tmp_path / "circle" / "circle.json").read_text(encoding="utf-8"))["peft"]


def test_a_merged_folder(steered: Any, tmp_path: Path) -> None:
    """Transformers and load_model load it; template, tokens and end tokens are the model's own."""
    model, plan = steered
    found = export_merged(plan, model, tmp_path / "merged", trial=SMALL)
    assert (found.verdict, found.folded_sites) == ("pass", plan.sites)
    again: Any = ls.load_model(tmp_path / "merged")
    assert again.lens_info.end_tokens == model.lens_info.end_tokens
    assert again.lens_info.tokenizer.chat_template == model.lens_info.tokenizer.chat_template
    assert same(model, hf_twin(again), plan) < CLOSE
    with ls.steering(model, plan):
        assert ls.generate(again, list(PROMPTS), max_new_tokens=5) == ls.generate(
            model, list(PROMPTS), max_new_tokens=5, engine="tl"
        )


def test_adapters_of_other_kinds(plain: Any, tmp_path: Path) -> None:
    """Ranks of several sizes, constants as biases, layers that write, a turned stream with its unembedding."""
    plan = plan_of(plain, ("ablate", "ln1", ABLATE[1]), ("selective", "ln1", TURN[1]), ("add", "ln1,ln2", ADD[1]))
    assert export_lora(plan, plain, tmp_path / "a", trial=SMALL).verdict == "pass"
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["lora_bias"], len(config["target_modules"])) == (3, 3, True, 20)
    if plain.lens_info.architecture in GEMMAS:
        return
    plan = plan_of(
        plain, ("selective", "resid_mid", {"basis": PLANE, "angle": 40.0}), ("add", "resid_post,attn_out", ADD[1])
    )
    found = export_lora(plan, plain, tmp_path / "b", trial=SMALL)
    assert (found.verdict, found.engine) == ("pass", "tl")
    assert (
        "lm_head" in json.loads((tmp_path / "b" / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"]
    )


def test_merged_weights_that_untie_or_get_biases(plain: Any, tmp_path: Path) -> None:
    """An ablation everywhere leaves the unembedding alone; constants need the configuration's flag."""
    architecture = plain.lens_info.architecture
    everywhere = plan_of(plain, ("ablate", "resid_pre,attn_out,mlp_out", ABLATE[1]))
    constant = plan_of(plain, ("add", "resid_post,ln1,ln2", ADD[1]))
    if architecture in (*GEMMAS, "qwen3"):
        before_attention = plan_of(plain, ("add", "ln1", ADD[1]))
        assert export_merged(before_attention, plain, tmp_path / "b", trial=SMALL).verdict == "pass"
        assert json.loads((tmp_path / "b" / "config.json").read_text(encoding="utf-8"))["attention_bias"]
        biased: Any = ls.load_model(tmp_path / "b")
        assert biased.lens_info.backend == "bridge"  # a HookedTransformer would leave the biases out
        with ls.steering(plain, before_attention):
            assert ls.generate(biased, list(PROMPTS), max_new_tokens=5) == ls.generate(
                plain, list(PROMPTS), max_new_tokens=5, engine="tl"
            )
    if architecture in GEMMAS:
        with pytest.raises(LensSteerError, match="writes through a norm"):
            export_merged(everywhere, plain, tmp_path / "m")
        return
    assert export_merged(everywhere, plain, tmp_path / "m", trial=SMALL).verdict == "pass"
    assert not json.loads((tmp_path / "m" / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]
    again: Any = ls.load_model(tmp_path / "m")
    with ls.steering(plain, everywhere):
        assert ls.generate(again, list(PROMPTS), max_new_tokens=5) == ls.generate(
            plain, list(PROMPTS), max_new_tokens=5, engine="tl"
        )
    if architecture == "llama":
        export_merged(constant, plain, tmp_path / "c", trial=SMALL)
        config = json.loads((tmp_path / "c" / "config.json").read_text(encoding="utf-8"))
        assert config["attention_bias"]
        assert config["mlp_bias"]
        bridged: Any = ls.load_model(tmp_path / "c", backend="bridge")
        again_plan = plan_of(
            bridged, ("selective", "attn_out,resid_post,ln1", TURN[1])
        )  # layers that write have biases of their own now
        assert export_lora(again_plan, bridged, tmp_path / "d", trial=SMALL).verdict == "pass"
        with ls.steering(plain, constant):
            assert ls.generate(bridged, list(PROMPTS), max_new_tokens=5) == ls.generate(
                plain, list(PROMPTS), max_new_tokens=5, engine="tl"
            )


def test_partial_certificates_compare_what_folded(plain: Any, tmp_path: Path) -> None:
    """The rest stands in the certificate with its reason."""
    plan = plan_of(plain, ("selective", "ln1", TURN[1]), ("standard", "ln2", TURN[1]))
    with pytest.raises(LensSteerError, match="'standard' puts every token on one ray"):
        export_lora(plan, plain, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    for export in (export_lora, export_merged):
        found = export(plan, plain, tmp_path / export.__name__, partial=True, trial=SMALL)
        assert found.verdict == "pass"
        assert [r["site"] for r in found.refused] == [f"blocks.{b}.ln2.hook_out" for b in range(4)]
        assert all("one ray" in r["reason"] for r in found.refused)


def test_the_same_export_twice_is_the_same_bytes(qwen: Any, calibration: Any, tmp_path: Path) -> None:
    """Adapter, configuration and certificate."""
    for name in ("a", "b"):
        export_lora(ls.selective_steering(calibration, 200), qwen, tmp_path / name, trial=SMALL, base="base/model")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert (
        json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        == "base/model"
    )


@pytest.mark.parametrize("damage", ["scaled", "a layer missing", "not finite"])
def test_a_damaged_adapter_fails_its_certificate(
    qwen: Any, calibration: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The certificate says by how much, and an export that comes back so leaves nothing."""

    def damaged(folder: Path, factors: Any, base: str) -> None:
        write_adapter(folder, factors, base)
        tensors = load_file(folder / adapters.ADAPTER)
        name = next(k for k in sorted(tensors) if "lora_B" in k)
        if damage == "a layer missing":
            del tensors[name]
        else:
            tensors[name] = tensors[name] * (1.01 if damage == "scaled" else torch.nan)
        save_file(tensors, folder / adapters.ADAPTER)

    plan = ls.selective_steering(calibration, 200)
    folded = fold(plan, qwen)
    damaged(tmp_path / "by hand", folded.factors, qwen.lens_info.folder)
    found = certify(qwen, load_adapter(qwen, tmp_path / "by hand").get_base_model(), folded, "lora", SMALL)
    assert found.verdict == "fail"
    with pytest.raises(
        LensSteerError, match=r"lora export does not do what the hooks do: logits differ by .* nothing was kept"
    ):
        require(found)
    monkeypatch.setattr("lens_steer.interop.exports.lora.write_adapter", damaged)
    with pytest.raises(LensSteerError, match="nothing was kept"):
        export_lora(plan, qwen, tmp_path / "out", trial=SMALL)
    assert not (tmp_path / "out").exists()


def test_half_precision(tiny_folder: Path, tmp_path: Path) -> None:
    """A bfloat16 model: the adapter stays float32, merged weights are bfloat16, the certificate has the dtype's own
    tolerance.
    """
    model: Any = ls.load_model(tiny_folder, dtype="bfloat16")
    plan = plan_of(model, ("selective", "ln1,ln2", TURN[1]))
    found = export_lora(plan, model, tmp_path / "a", trial=SMALL)
    assert (found.verdict, found.dtype, found.tolerance) == ("pass", "bfloat16", 0.15)
    assert {t.dtype for t in load_file(tmp_path / "a" / "adapter_model.safetensors").values()} == {torch.float32}
    assert export_merged(plan, model, tmp_path / "m", trial=SMALL).verdict == "pass"
    assert {t.dtype for t in load_file(tmp_path / "m" / "model.safetensors").values()} == {torch.bfloat16}


def test_a_bridge_folds_the_same(tiny_folder: Path, plain: Any) -> None:
    """Its twin shares its weights, and keeps them."""
    model: Any = ls.load_model(tiny_folder, backend="bridge")
    before = [p.clone() for p in hf_twin(model).parameters()]
    here, there = (fold(plan_of(m, ("selective", "ln1,ln2", TURN[1])), m, into="merged") for m in (model, plain))
    assert all(torch.equal(here.factors[k].b, there.factors[k].b) for k in there.factors)
    assert all(
        torch.equal(a, b)
        for a, b in zip(merged_model(here, model).parameters(), merged_model(there, plain).parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(before, hf_twin(model).parameters(), strict=True))


def test_a_pair_is_of_rotations_only(plain: Any, tmp_path: Path) -> None:
    """Other operators, two at one site, the stream."""
    for steps, message in (
        ([("mean_phase", "ln1", AFFINE["mean_phase"])], "operator 'mean_phase' is no rotation by it"),
        (
            [("selective", "ln1", TURN[1]), ("selective", "ln1", {"basis": OTHER, "angle": 130.0})],
            "turns twice at blocks.0.ln1",
        ),
        ([("selective", "resid_post", TURN[1])], "turns the stream at blocks.0.hook_resid_post"),
    ):
        with pytest.raises(LensSteerError, match=f"{message}.*: export the plan at an angle, or as a bank"):
            export_circle(plan_of(plain, *steps), plain, tmp_path / "c")


def test_bad_input(qwen: Any, calibration: Any, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each before any work, with nothing written: another model, a folder in use, prompts, angles, a plan in force,
    PEFT missing.
    """
    plan, out = ls.selective_steering(calibration, 200), tmp_path / "out"
    for export in (export_lora, export_merged, export_circle):
        with pytest.raises(LensSteerError, match="was made on"):
            export(plan, plain, out)
        with pytest.raises(LensSteerError, match="is not empty: name a new one"):
            export(plan, qwen, Path(__file__).parent)
        with pytest.raises(LensSteerError, match="prompts is empty"):
            export(plan, qwen, out, trial=Trial([]))
        with pytest.raises(LensSteerError, match="new_tokens=0"):
            export(plan, qwen, out, trial=Trial(new_tokens=0))
        with pytest.raises(LensSteerError, match="tolerance=-1.0: a positive"):
            export(plan, qwen, out, trial=Trial(tolerance=-1.0))
        with pytest.raises(LensSteerError, match="more than the model's context"):
            export(plan, qwen, out, trial=Trial([ls.Prompt.of("hammer " * 600)]))
        with ls.steering(qwen, plan), pytest.raises(LensSteerError, match="is in force on the model"):
            export(plan, qwen, out)
    with pytest.raises(LensSteerError, match="angles is empty"):
        export_bank(plan, [], qwen, out)
    with pytest.raises(LensSteerError, match="angle=inf is not a finite number"):
        export_bank(plan, [float("inf")], qwen, out)
    with pytest.raises(LensSteerError, match="has no angle to change"):
        export_bank(ls.directional_ablation(calibration), [0.0], qwen, out)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LensSteerError, match=r"PEFT, which is not installed: pip install 'lens-steer\[export\]'"):
        export_lora(plan, qwen, out)
    assert not out.exists()


def test_the_prompts_of_a_certificate(qwen: Any, plain: Any) -> None:
    """An organism's own contrast, eight questions for another model, or those given."""
    assert "organism/refusal" in str(getattr(prompts_for(qwen), "name", ""))
    assert len(prompts_for(plain)) == 8
    assert prompts_for(plain, PROMPTS) is PROMPTS
