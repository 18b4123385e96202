"""Logits of routers: found by structure, recorded as a kind of site, and never written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.figures.geometry import KIND_LOOKS
from lens_steer.inference import batching
from lens_steer.inference.attach import attached
from lens_steer.inference.record import record_prompts, width_of
from lens_steer.inference.record_tokens import record_tokens
from lens_steer.models.layout import ROUTER_LOGITS, Layout, Router
from lens_steer.models.sites import NETWORK_ORDER, Site, parse, resolve
from lens_steer.steer.hook_proof import prove_hooks
from tests.further import FURTHER, build_further, layout_by
from tests.test_cli import run
from tests.test_parity import PROMPTS, relative

# By hand, from the modules of Transformers: the router, which of its outputs the logits are, and in which blocks.
ROUTERS = {
    "deepseek_v3": (Router("mlp.gate", 0, 4), (1, 2)),
    "gpt_oss": (Router("mlp.router", 0, 6), (0, 1, 2)),
    "granitemoe": (Router("block_sparse_moe.router", 0, 6), (0, 1, 2)),
    "jamba": (Router("feed_forward.router", 0, 2), (1,)),
    "llama4_text": (Router("feed_forward.router", 1, 4), (1,)),
    "mixtral": (Router("mlp.gate", 0, 6), (0, 1, 2)),
    "qwen3_moe": (Router("mlp.gate", 0, 6), (0, 1, 2)),
    "qwen3_next": (Router("mlp.gate", 0, 4), (0, 1, 2)),
}
SOME = ("mixtral", "gpt_oss", "llama4_text", "deepseek_v3")


@pytest.fixture(scope="module", params=SOME)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_further(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return ls.load_model(folder)


def names_of(model: Any) -> tuple[str, ...]:
    return resolve(ROUTER_LOGITS, model.lens_info.layout)


@pytest.mark.parametrize("family", FURTHER)
def test_routers_are_found(family: str) -> None:
    """Where there is a mixture, and nowhere else; the layout comes back from plain data."""
    layout = layout_by(family)
    router, at = ROUTERS.get(family, (None, ()))
    assert [block.router for block in layout.blocks] == [router if i in at else None for i in range(len(layout.blocks))]
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_old_files_have_no_router() -> None:
    """A layout that was saved without the entry is read."""
    told = layout_by("granite").to_json()
    for block in told["blocks"]:
        del block["router"]
    assert Layout.from_json(told) == layout_by("granite")


def test_recorded_logits_equal_plain_hooks(model: Any) -> None:
    """In a padded batch, at the last token: what the router's module gives for the prompt alone, the experts that it
    chooses by them among it, and the product of its weight with what it reads.
    """
    layout, names = model.lens_info.layout, names_of(model)
    acts = ls.record(model, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), ROUTER_LOGITS, progress=False)
    recorded = torch.cat([acts.positive, acts.negative])
    assert acts.sites == names
    assert recorded.shape == (len(PROMPTS), len(names), layout.blocks[parse(names[0]).block].router.experts)
    seen: dict[str, Any] = {}
    for row, prompt in enumerate(PROMPTS):
        handles = [
            model.get_submodule(parse(name).module(layout)).register_forward_hook(
                lambda module, args, output, name=name: seen.__setitem__(name, (module, args, output))
            )
            for name in names
        ]
        with torch.no_grad():
            model(torch.tensor([batching.encode(model.lens_info.tokenizer, prompt)]))
        for handle in handles:
            handle.remove()
        for column, name in enumerate(names):
            module, (given, *_), output = seen[name]
            output = output if isinstance(output, tuple) else (output,)
            logits = output[parse(name).output(layout)]
            assert relative(recorded[row, column], logits.reshape(-1, logits.shape[-1])[-1]) < 1e-4, name
            bias = getattr(module, "bias", None)
            product = torch.nn.functional.linear(given.reshape(-1, given.shape[-1])[-1], module.weight, bias)
            assert relative(recorded[row, column], product) < 1e-4, name
            for experts in (o for o in output if not o.is_floating_point()):  # where the router gives them
                k = experts.shape[-1]
                if getattr(module, "e_score_correction_bias", None) is None:
                    largest = recorded[row, column].topk(k).indices
                    assert set(experts.reshape(-1, k)[-1].tolist()) == set(largest.tolist())


def test_the_proof_of_hooks_looks_at_routers(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds; if something else were recorded at routers alone, it would not."""
    assert all(row.holds for row in prove_hooks(model))
    monkeypatch.setattr("lens_steer.steer.hook_proof.record_prompts", wrong_at_routers)
    assert [row.holds for row in prove_hooks(model)] == [False, True, True]


def wrong_at_routers(model: Any, prompts: Any, names: Any, **how: Any) -> torch.Tensor:
    found = record_prompts(model, prompts, names, **how)
    return found.flip(-1) if parse(names[0]).kind == ROUTER_LOGITS else found


def test_moments_files_and_pooling(model: Any, tmp_path: Path) -> None:
    """Everything else that is recorded of the stream is recorded of routers."""
    contrast = ls.Contrast(PROMPTS[:2], PROMPTS[2:])
    acts = ls.record(model, contrast, ROUTER_LOGITS, progress=False)
    moments = ls.record(model, contrast, ROUTER_LOGITS, keep="moments", progress=False)
    assert relative(moments.mean_positive, acts.positive.double().mean(dim=0)) < 1e-6
    ls.save_recording(acts, tmp_path / "kept")
    again = ls.load_recording(tmp_path / "kept")
    assert isinstance(again, ls.Activations)
    assert torch.equal(again.positive, acts.positive)
    assert again.sites == acts.sites


def test_what_is_refused(model: Any, qwen: Any) -> None:
    """Writing, calibrating, and recording beside the stream; a model without routers says what it has."""
    name = names_of(model)[0]
    acts = ls.record(model, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), "norm_out", progress=False)
    with pytest.raises(LensSteerError, match="cannot be written: the logits of a router are no vectors of the stream"):
        ls.act_add(ls.calibrate(acts), 1.0, at=[name], direction=torch.ones(48))
    with pytest.raises(LensSteerError, match="cannot be written"), attached(model, [(name, lambda h, hook: h)]):
        pass
    with pytest.raises(LensSteerError, match=r"sites of different widths .* has 48.*: record them apart"):
        ls.record(model, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), ["norm_out", ROUTER_LOGITS], progress=False)
    routed = ls.record(model, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), ROUTER_LOGITS, progress=False)
    assert "width" in repr(routed)
    with pytest.raises(LensSteerError, match="logits of routers are no vectors of the stream"):
        ls.calibrate(routed)
    with pytest.raises(LensSteerError, match="sites of different widths"):
        record_tokens(model, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), ["norm_out", ROUTER_LOGITS], region="prompt")
    with pytest.raises(LensSteerError, match="'router_logits' do not exist in this model"):
        resolve(ROUTER_LOGITS, qwen.lens_info.layout)
    with pytest.raises(LensSteerError, match="'blocks.0.hook_router_logits' does not exist: block 0 has resid_pre"):
        Site(0, ROUTER_LOGITS).module(qwen.lens_info.layout)
    assert width_of(model.lens_info, [name]) != width_of(model.lens_info, ["blocks.0.hook_resid_pre"]) == 48


def test_a_probe_on_a_router(model: Any, tmp_path: Path) -> None:
    """It is fitted, kept, loaded on its model and monitored; nothing steers by it."""
    name = names_of(model)[0]
    single = record_tokens(model, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), [name], region="prompt")
    probe = ls.fit_probe(single, name)
    ls.save_probe(probe, tmp_path / "probe")
    again = ls.load_probe(tmp_path / "probe", model)
    with ls.monitor(model, again) as seen:
        ls.generate(model, PROMPTS[:1], max_new_tokens=2)
    asked = [token for token in seen.of(0) if token["region"] == "prompt"]
    recorded = record_tokens(model, ls.Contrast(PROMPTS[:1], PROMPTS[1:]), [name], region="prompt").positive[:, 0]
    wanted = (recorded @ again.direction).tolist()
    assert [token["projection"] for token in asked] == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    with pytest.raises(LensSteerError, match="cannot be written"):
        ls.mirror_projection(again, 3)


def test_commands_on_routers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``probe`` draws its figures; what cannot be is refused before weights are read."""
    sides = []
    for part, own in (("", "fit"), ("report-", "report")):
        for side in ("positive", "negative"):
            prompts = getattr(getattr(ls.load_contrast("organism/refusal"), own), side)[:6]
            (tmp_path / f"{part}{side}.txt").write_text("\n".join(p.text for p in prompts), encoding="utf-8")
            sides.append(f"--{part}{side}={tmp_path / (part + side)}.txt")
    how = ("--model", folder, *sides, "--split", "1,0,0", "--out", tmp_path / "made")
    code, _, err = run(monkeypatch, capsys, "probe", *how, "--sites", "router_logits")
    assert code == 0, err
    assert (tmp_path / "made" / "probe_depth.png").exists()
    assert not (tmp_path / "made" / "boundary_plane.png").exists()  # it shows tokens that a plan has moved
    for command, sites, said in (
        ("calibrate", "router_logits", "cannot be written"),
        ("record", "router_logits,ln1,resid_pre", "sites of different widths"),
    ):
        how = ("--model", folder, *sides[:2], "--sites", sites, "--out", tmp_path / command)
        code, _, err = run(monkeypatch, capsys, command, *how)
        assert (code, "loaded" in err) == (2, False)
        assert said in err


def test_every_kind_has_a_look() -> None:
    assert KIND_LOOKS.keys() == set(NETWORK_ORDER)


def test_sites_shows_routers(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(monkeypatch, capsys, "sites", "--model", folder)
    assert code == 0
    (line,) = {line for line in err.splitlines() if "hook_router_logits" in line}
    family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    router, _ = ROUTERS[family]
    place = f"output {router.output}" if router.output else "output"
    assert line.split("  ")[-2].strip() == f"{place} of model.layers.{{l}}.{router.module}"
    assert line.endswith(f"{router.experts} experts, read only")
