"""Imported directions as an artifact: saved is loaded, plans steer as plain hooks do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.interop.imports.direction_files import load_directions, save_directions
from lens_steer.interop.imports.directions import DirectionSet, direction_set, directions_of, on_model
from lens_steer.interop.imports.refusal_direction import import_refusal_direction
from lens_steer.interop.imports.steering_vectors import import_steering_vectors
from tests.imported import WIDTH, a_set, by_hand, loaded, logits_of, publish_run, rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_saved_equals_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    """Vectors bit by bit in the dtype found, in network order, with all that is known."""
    made = a_set(
        rows(3, 1, dtype=dtype), selected_site="blocks.3.hook_resid_post", details={"position": -2, "note": None}
    )
    assert made.sites == ("blocks.1.hook_resid_post", "blocks.3.hook_resid_post")
    save_directions(made, tmp_path)
    back = load_directions(tmp_path)
    assert torch.equal(back.directions, made.directions)
    assert (back.dtype, back.sites, back.selected_site, dict(back.details)) == (
        made.dtype,
        made.sites,
        made.selected_site,
        dict(made.details),
    )
    assert (back.model, back.architecture, back.n_layers, back.source_format) == ("tiny", "qwen2", 4, "test")
    assert abs(float(back.unit().norm()) - 1) < 1e-6
    assert "DirectionSet(2 of width 48" in repr(back)


def test_damaged_folders(tmp_path: Path) -> None:
    """Missing, truncated, of another version or contradictory: each named."""
    save_directions(a_set(rows(1, 2)), tmp_path / "ok")
    for change, message in (
        ({"format_version": 9}, "format version 9"),
        ({"sites": ["blocks.1.hook_resid_post"]}, "do not fit together: 1 sites"),
        ({"sites": ["blocks.1.hook_resid_post"] * 2}, "do not fit together"),
        ({"sites": ["a", "b"]}, "site 'a' is unknown"),
        ({"n_layers": "4"}, "n_layers is '4'"),
        ({"n_layers": 2}, "does not exist in a model of 2 blocks"),
        ({"selected_site": "blocks.0.hook_resid_post"}, "has no direction"),
    ):
        folder = tmp_path / "bad"
        shutil.copytree(tmp_path / "ok", folder)
        facts = json.loads((folder / "directions.json").read_text(encoding="utf-8"))
        (folder / "directions.json").write_text(json.dumps(facts | change), encoding="utf-8")
        with pytest.raises(LensSteerError, match=message):
            load_directions(folder)
        shutil.rmtree(folder)
    whole = (tmp_path / "ok" / "directions.safetensors").read_bytes()
    (tmp_path / "ok" / "directions.safetensors").write_bytes(whole[:90])
    with pytest.raises(LensSteerError, match="corrupt or truncated"):
        load_directions(tmp_path / "ok")
    with pytest.raises(LensSteerError, match=r"have no directions\.safetensors"):
        load_directions(tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "no direction at all"),
        ({"blocks.1.hook_resid_post": torch.ones(3, 3)}, "one vector of the model's width"),
        ({"blocks.1.hook_resid_post": torch.ones(3, dtype=torch.int64)}, "int64"),
        ({"blocks.1.hook_resid_post": torch.tensor([1.0, float("nan")])}, "not finite"),
        ({"blocks.1.hook_resid_post": [1.0]}, "is a list, not a tensor"),
        ({"blocks.1.hook_resid_post": torch.ones(3), "blocks.2.hook_resid_post": torch.ones(4)}, "do not fit together"),
        ({"blocks.4.hook_resid_post": torch.ones(3)}, "does not exist in a model of 4 blocks"),
        ({"blocks.1.ln1_post.hook_out": torch.ones(3)}, "block 1 has resid_pre, ln1, attn_out"),
    ],
)
def test_bad_directions(bad: dict[str, Any], message: str) -> None:
    """Refused with the site and what is wrong."""
    with pytest.raises(LensSteerError, match=message):
        a_set(bad)


def test_plans(tmp_path: Path) -> None:
    """Each site its own direction, one direction for several sites, the chosen one alone; ablation; saved plans;
    directions of a plan.
    """
    made = a_set(rows(1, 2, 3))
    plan = made.additive_plan(
        -1.5, at="blocks.1.hook_resid_post,blocks.3.hook_resid_post", positions="prompt[-1]+generated"
    )
    assert (plan.method, plan.positions, plan.sites) == (
        "act-add",
        "prompt[-1]+generated",
        (made.sites[0], made.sites[2]),
    )
    assert torch.allclose(plan.operator(made.sites[2])(torch.zeros(WIDTH)), -1.5 * made.raw(made.sites[2]))
    one = made.additive_plan(2, site=made.sites[0], at="resid_pre")
    assert len(one.sites) == 4
    assert torch.equal(one.operator("blocks.3.hook_resid_pre")(torch.zeros(WIDTH)), 2 * made.raw(made.sites[0]))
    assert made.additive_plan().sites == made.sites
    chosen = a_set(rows(1, 2), selected_site="blocks.2.hook_resid_post")
    assert chosen.additive_plan().sites == ("blocks.2.hook_resid_post",)
    assert chosen.ablation_plan(everywhere=True).method == "ablation-everywhere"
    assert len(chosen.ablation_plan(everywhere=True).sites) == 12
    h = torch.randn(5, WIDTH)
    assert float((chosen.ablation_plan().operator()(h) @ chosen.unit()).abs().max()) < 1e-5
    ls.save_plan(plan, tmp_path)
    assert ls.load_plan(tmp_path) == plan
    back = directions_of(made.additive_plan(-1.5))
    assert back.sites == made.sites
    assert torch.allclose(back.directions, -1.5 * made.directions)
    for call, message in (
        (made.ablation_plan, "none was chosen at the source"),
        (lambda: made.raw("blocks.0.hook_resid_post"), "has no direction"),
        (lambda: made.additive_plan(at="blocks.0.hook_resid_post"), "has no direction"),
        (lambda: made.additive_plan([]), "is not a finite number"),
        (lambda: chosen.ablation_plan(everywhere=True, at="ln1"), "leave one of the two out"),
        (lambda: a_set(rows(1, kind="ln1.hook_out")).ablation_plan(everywhere=True), "a norm's output"),
        (lambda: a_set({"blocks.1.hook_resid_post": torch.zeros(4)}).additive_plan(), "is zero"),
        (lambda: a_set(rows(1), architecture=None).additive_plan(), "architecture is unknown"),
        (lambda: a_set(rows(1), n_layers=None).additive_plan(), "n_layers is unknown"),
        (lambda: directions_of(chosen.ablation_plan()), "no addition of fixed directions"),
        (lambda: directions_of(plan), "positions"),
        (lambda: directions_of(made.additive_plan([1.0, 2.0])), "one coefficient"),
    ):
        with pytest.raises(LensSteerError, match=message):
            call()


def test_steering_equals_a_plain_hook(tiny_folder: Path, twin: Any, tmp_path: Path) -> None:
    """The site of each convention: block outputs, block inputs, norms and branches, on every family."""
    model = loaded(tiny_folder)
    family = model.lens_info.architecture
    tokens = torch.arange(9)[None] + 60
    base, vector = logits_of(twin, tokens), 2 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))

    def check(found: DirectionSet, wanted: Tensor, coefficient: float = 1.0) -> None:
        with ls.steering(model, on_model(found, model).additive_plan(coefficient)):
            steered = logits_of(model, tokens)
        assert float((steered - wanted).abs().max()) < 2e-4
        assert float((steered - base).abs().max()) > 1e-2

    facts: dict[str, Any] = {"architecture": family, "n_layers": 4}
    torch.save({"layer_activations": {2: vector}, "layer_type": "decoder_block"}, tmp_path / "sv.pt")
    check(import_steering_vectors(tmp_path / "sv.pt"), by_hand(twin, "model.layers.2", 0.5 * vector, tokens), 0.5)
    kinds = {
        "qwen2": ("input_layernorm", "self_attn"), "llama": ("mlp",), "gemma2": ("post_attention_layernorm",),
        "qwen3": ("self_attn",), "mistral": ("input_layernorm",), "gemma3_text": ("post_attention_layernorm",),
    }  # fmt: skip
    for kind in kinds[family]:
        torch.save({1: vector}, tmp_path / "sv.pt")
        check(
            import_steering_vectors(tmp_path / "sv.pt", layer_type=kind, **facts),
            by_hand(twin, f"model.layers.1.{kind}", vector, tokens),
        )
    run = publish_run(tmp_path / "run", position=-2, layer=3)
    direction = torch.load(run / "direction.pt", weights_only=True).float()
    check(import_refusal_direction(run), by_hand(twin, "model.layers.3", -direction, tokens, before=True), -1.0)
    wrong = direction_set(
        rows(1), model="other", architecture="llama" if family != "llama" else "qwen2", n_layers=4, source_format="test"
    )
    with pytest.raises(LensSteerError, match="architecture"):
        on_model(wrong, model)
    with pytest.raises(LensSteerError, match="architecture"), ls.steering(model, wrong.additive_plan()):
        pass
    save_directions(
        direction_set({"blocks.1.hook_resid_post": torch.ones(6)}, model="narrow", **facts, source_format="test"),
        tmp_path / "n",
    )
    with pytest.raises(LensSteerError, match="d_model 6"):
        load_directions(tmp_path / "n", model)
