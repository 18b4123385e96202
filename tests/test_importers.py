"""Imported directions and planes: what the formats say comes out, plans steer as plain hooks do, and nothing but data is ever loaded."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import make_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lens_steer as ls
from lens_steer import cli
from lens_steer.errors import LensSteerError
from lens_steer.geometry.directions import cosine_matrix
from lens_steer.geometry.planes import gram_error
from lens_steer.interop.direction_files import load_directions, save_directions
from lens_steer.interop.directions import DirectionSet, direction_set, directions_of, on_model
from lens_steer.interop.importers import import_angular, import_refusal_direction, import_steering_vectors
from lens_steer.interop.refusal_direction import selection_order
from tests.test_official import Malicious

WIDTH = 48  # of the tiny models


def rows(*blocks: int, kind: str = "hook_resid_post", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {f"blocks.{b}.{kind}": torch.randn(WIDTH, generator=generator, dtype=torch.float64).to(dtype) for b in blocks}


def a_set(directions: dict[str, Tensor], **change: Any) -> DirectionSet:
    facts: dict[str, Any] = {"model": "tiny", "architecture": "qwen2", "n_layers": 4, "source_format": "test"}
    return direction_set(directions, **(facts | change))


# directions and their plans


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_saved_equals_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    """Vectors bit by bit in the dtype found, in network order, with all that is known."""
    made = a_set(rows(3, 1, dtype=dtype), selected_site="blocks.3.hook_resid_post", details={"position": -2, "note": None})
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
        ({"blocks.1.ln1_post.hook_out": torch.ones(3)}, "no Hugging Face module"),
    ],
)
def test_bad_directions(bad: dict[str, Any], message: str) -> None:
    """Refused with the site and what is wrong."""
    with pytest.raises(LensSteerError, match=message):
        a_set(bad)


def test_plans(tmp_path: Path) -> None:
    """Each site its own direction, one direction for several sites, the chosen one alone; ablation; saved plans; directions of a plan."""
    made = a_set(rows(1, 2, 3))
    plan = made.additive_plan(-1.5, at="blocks.1.hook_resid_post,blocks.3.hook_resid_post", positions="prompt[-1]+generated")
    assert (plan.method, plan.positions, plan.sites) == ("act-add", "prompt[-1]+generated", (made.sites[0], made.sites[2]))
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
        (lambda: made.additive_plan("much"), "is not a number"),
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


# steering with what was imported equals a plain hook


@cache
def loaded(folder: Path) -> Any:
    return ls.load_model(folder)


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        found = model(tokens)
    return found.logits if hasattr(found, "logits") else found


def by_hand(twin: Any, module: str, vector: Tensor, tokens: Tensor, *, before: bool = False) -> Tensor:
    """Logits with a vector added to a module's output, or its input, by a hook of PyTorch's own."""

    def added(found: Any) -> Any:
        return (found[0] + vector, *found[1:]) if isinstance(found, tuple) else found + vector

    target = twin.get_submodule(module)
    if before:
        handle = target.register_forward_pre_hook(lambda _, args: added(args))
    else:
        handle = target.register_forward_hook(lambda _, args, output: added(output))
    try:
        return logits_of(twin, tokens)
    finally:
        handle.remove()


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
    for kind in {"qwen2": ("input_layernorm", "self_attn"), "llama": ("mlp",), "gemma2": ("post_attention_layernorm",)}[family]:
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
        direction_set({"blocks.1.hook_resid_post": torch.ones(6)}, model="narrow", **facts, source_format="test"), tmp_path / "n"
    )
    with pytest.raises(LensSteerError, match="d_model 6"):
        load_directions(tmp_path / "n", model)


# refusal_direction


def publish_run(folder: Path, *, position: int = -1, layer: int = 2, means: Any = None) -> Path:
    """A run in the published layout."""
    if means is None:
        means = torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for name in ("generate_directions", "select_direction"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.save(means, folder / "generate_directions" / "mean_diffs.pt")
    if isinstance(means, Tensor):
        torch.save(means[position, layer].clone(), folder / "direction.pt")
    (folder / "direction_metadata.json").write_text(json.dumps({"pos": position, "layer": layer}), encoding="utf-8")
    return folder


def test_a_run(tmp_path: Path) -> None:
    """Every block's input at the chosen position, the chosen row, another position, the chosen direction alone."""
    run = publish_run(tmp_path / "some-model", position=-2, layer=1)
    means = torch.load(run / "generate_directions" / "mean_diffs.pt", weights_only=True)
    found = import_refusal_direction(run)
    assert found.sites == tuple(f"blocks.{b}.hook_resid_pre" for b in range(4))
    assert torch.equal(found.directions, means[1])
    assert (found.selected_site, found.model, found.n_layers, found.dtype) == (
        "blocks.1.hook_resid_pre",
        "some-model",
        4,
        "float64",
    )
    assert (found.architecture, found.details["position"], found.details["direction_difference"]) == (None, -2, 0.0)
    other = import_refusal_direction(run, position=-3, layer=0, architecture="llama")
    assert torch.equal(other.raw("blocks.0.hook_resid_pre"), means[0, 0])
    assert "direction_difference" not in other.details
    (run / "generate_directions" / "mean_diffs.pt").rename(run / "mean_diffs.pt")
    assert torch.equal(import_refusal_direction(run).directions, means[1])
    (run / "mean_diffs.pt").unlink()
    alone = import_refusal_direction(run)
    assert (alone.sites, alone.n_layers) == (("blocks.1.hook_resid_pre",), None)
    assert torch.equal(alone.directions[0], means[1, 1])


def test_scores_choose_where_no_metadata_does(tmp_path: Path) -> None:
    """The published rule on the run's own scores; with metadata, whether they agree."""
    run = publish_run(tmp_path / "run", position=-1, layer=1)
    scores = [
        {"position": p, "layer": b, "refusal_score": -float(b), "steering_score": 1.0, "kl_div_score": 0.2 if b == 2 else 0.0}
        for p in (-2, -1)
        for b in range(4)
    ]
    (run / "select_direction" / "direction_evaluations.json").write_text(json.dumps(scores), encoding="utf-8")
    assert import_refusal_direction(run).details["selection_reproduced"] is False
    (run / "direction_metadata.json").unlink()
    (run / "direction.pt").unlink()
    found = import_refusal_direction(run)
    assert (found.details["position"], found.details["layer"], found.details["selection_reproduced"]) == (-2, 1, True)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (shutil.rmtree, "neither mean_diffs.pt nor direction.pt"),
        (lambda run: publish_run(run, means=torch.ones(4, WIDTH)), r"holds \(4, 48\)"),
        (lambda run: publish_run(run, means={"a": 1}), "holds dict"),
        (lambda run: publish_run(run, means=torch.full((3, 4, 5), float("nan"))), "not finite"),
        (lambda run: publish_run(run, means=torch.ones(3, 4, 5, dtype=torch.int32)), "floating-point"),
        (lambda run: (run / "direction_metadata.json").unlink(), "give position="),
        (lambda run: (run / "direction_metadata.json").write_text('{"pos": -9, "layer": 1}'), "out of range"),
        (lambda run: (run / "direction_metadata.json").write_text('{"pos": "a"}'), "whole numbers"),
        (lambda run: (run / "direction_metadata.json").write_text("[1]"), "holds a list"),
        (lambda run: (run / "direction_metadata.json").write_text("{"), "not valid JSON"),
        (lambda run: torch.save(torch.ones(WIDTH), run / "direction.pt"), "is not mean_diffs.pt at this position"),
        (lambda run: torch.save(torch.ones(9), run / "direction.pt"), "does not fit together"),
        (lambda run: (run / "direction.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "Git LFS pointer"),
        (lambda run: (run / "direction.pt").write_bytes(b"text"), "not written by torch.save"),
        (lambda run: (run / "direction.pt").write_bytes((run / "direction.pt").read_bytes()[:200]), "corrupt or truncated"),
    ],
)
def test_bad_runs(tmp_path: Path, break_it: Callable[[Path], Any], message: str) -> None:
    """Each named, with what a run holds."""
    run = publish_run(tmp_path / "run")
    break_it(run)
    with pytest.raises(LensSteerError, match=message):
        import_refusal_direction(run)


def test_a_run_of_another_depth(tmp_path: Path) -> None:
    """The caller's number of blocks must be the file's."""
    with pytest.raises(LensSteerError, match="of 4 blocks, not of n_layers=9"):
        import_refusal_direction(publish_run(tmp_path / "run"), n_layers=9)


def test_reference_run(reference: Path, tmp_path: Path) -> None:
    """The published gemma-2b-it run: choice, norms, cosines and the chosen direction as computed independently; the scores choose the same."""
    wanted = json.loads((reference / "expected.json").read_text(encoding="utf-8"))["rd"]["gemma-2b-it"]
    stored = load_file(reference / "rd" / "gemma-2b-it" / "mean_diffs.safetensors")
    run = publish_run(
        tmp_path / "gemma-2b-it", position=wanted["chosen_position"], layer=wanted["chosen_layer"], means=stored["mean_diffs"]
    )
    torch.save(stored["direction"], run / "direction.pt")
    shutil.copy(reference / "rd" / "gemma-2b-it" / "direction_evaluations.json", run / "select_direction")
    save_directions(import_refusal_direction(run), tmp_path / "set")
    found = load_directions(tmp_path / "set")
    chosen = found.raw(str(found.selected_site))
    assert (len(found.sites), found.d_model, found.dtype, found.n_layers) == (18, 2048, "float64", wanted["n_layers"])
    assert (found.details["direction_difference"], found.details["selection_reproduced"]) == (0.0, True)
    assert torch.equal(chosen, stored["direction"])
    assert float(chosen.norm()) == pytest.approx(wanted["direction_norm"], rel=1e-12)
    norms = found.directions.norm(dim=-1)
    assert norms.tolist() == pytest.approx(wanted["norms_at_chosen_position"], rel=1e-12)
    assert int(norms.argmax()) == wanted["argmax_norm_layer_at_chosen_position"]
    cosine = cosine_matrix(found.directions)
    assert cosine.diagonal(1).tolist() == pytest.approx(wanted["adjacent_cos_at_chosen_position"], abs=1e-9)
    assert cosine.mean(dim=1).tolist() == pytest.approx(wanted["mean_cos_with_self"], abs=1e-9)
    kept = cosine[1:, 1:]
    off = (float(kept.sum()) - 17) / (17 * 16)
    assert off == pytest.approx(wanted["offdiag_mean_nondegenerate"], abs=1e-9)


@pytest.mark.parametrize("model", ["gemma-2b-it", "yi-6b-chat"])
def test_reference_selection(reference: Path, model: str) -> None:
    """The published rule keeps the same candidates in the same order."""
    wanted = json.loads((reference / "expected.json").read_text(encoding="utf-8"))["rd"][model]
    scores = json.loads((reference / "rd" / model / "direction_evaluations.json").read_text(encoding="utf-8"))
    found = selection_order(scores, wanted["n_layers"])
    assert [list(pair) for pair in found] == wanted["selection"]["kept_in_order"]
    assert found[0] == (wanted["chosen_position"], wanted["chosen_layer"])


# steering-vectors


def test_every_layout_of_a_steering_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's object, its two fields, a bare dict, safetensors: one and the same; layers from the end; half precision kept."""
    before = set(torch.serialization.get_safe_globals())
    layers = {1: torch.randn(WIDTH, dtype=torch.bfloat16), 3: torch.randn(WIDTH, dtype=torch.bfloat16)}
    module = ModuleType("steering_vectors.steering_vector")
    kind = make_dataclass("SteeringVector", [("layer_activations", dict), ("layer_type", str, "decoder_block")])
    kind.__module__ = module.__name__
    vars(module)["SteeringVector"] = kind
    monkeypatch.setitem(sys.modules, "steering_vectors", ModuleType("steering_vectors"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save(kind(layers), tmp_path / "object.pt")
    torch.save(kind(layers), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    monkeypatch.delitem(sys.modules, module.__name__)
    torch.save({"layer_activations": layers, "layer_type": "decoder_block"}, tmp_path / "fields.pt")
    torch.save({1: layers[1][None], -1: layers[3]}, tmp_path / "bare.pt")
    save_file({f"layer_{n}": v for n, v in layers.items()}, tmp_path / "plain.safetensors", {"layer_type": "decoder_block"})
    for name in ("object.pt", "old.pt", "fields.pt", "bare.pt", "plain.safetensors"):
        found = import_steering_vectors(tmp_path / name, n_layers=4)
        assert found.sites == ("blocks.1.hook_resid_post", "blocks.3.hook_resid_post")
        assert torch.equal(found.directions, torch.stack([layers[1], layers[3]]))
        assert (found.dtype, found.details["layer_type"]) == ("bfloat16", "decoder_block")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({}, {}, "without vectors by layer"),
        ([1, 2], {}, "holds a list"),
        (torch.ones(3), {}, "holds a Tensor"),
        ({"twelve": torch.ones(3)}, {}, "no layer number"),
        ({"layer_activations": {1: torch.ones(3)}, "layer_type": 7}, {}, "without vectors by layer"),
        ({1: torch.ones(3)}, {"layer_type": "block"}, "use one of decoder_block"),
        ({1: torch.ones(3)}, {"layer_type": "mlp"}, "needs the model's architecture"),
        ({1: torch.ones(3)}, {"layer_type": "mlp", "architecture": "gemma2"}, "no site between"),
        ({-1: torch.ones(3)}, {}, "counts from the end"),
        ({-9: torch.ones(3)}, {"n_layers": 4}, "does not exist"),
        ({4: torch.ones(3)}, {"n_layers": 4}, "does not exist in a model of 4 blocks"),
        ({1: torch.ones(3), "1": torch.ones(3)}, {}, "two vectors for"),
        ({1: torch.ones(2, 3)}, {}, "has shape"),
        ({1: torch.tensor([1.0, float("inf")])}, {}, "not finite"),
    ],
)
def test_bad_steering_vectors(tmp_path: Path, content: Any, options: dict[str, Any], message: str) -> None:
    """Each refused with what is accepted."""
    torch.save(content, tmp_path / "sv.pt")
    with pytest.raises(LensSteerError, match=message):
        import_steering_vectors(tmp_path / "sv.pt", **options)


# Angular Steering


def plane(seed: int = 0, dtype: Any = np.float32) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    first = generator.standard_normal(WIDTH)
    first = (first / np.linalg.norm(first)).astype(dtype)
    return {
        "mode": "rotate_to",
        "first_direction": first,
        "second_direction": (generator.standard_normal(WIDTH) + first).astype(dtype),
    }


def config(entry: dict[str, Any] | None = None, *, first_norm: bool = True, blocks: int = 4) -> dict[str, Any]:
    names = [f"model.layers.{b}.{n}" for b in range(blocks) for n in ("input_layernorm", "post_attention_layernorm")]
    shared = plane() if entry is None else entry
    return dict.fromkeys(names[0 if first_norm else 1 :], shared)


def save_npy(path: Path, content: Any, protocol: int | None = None) -> Path:
    """As ``numpy.save`` does; with a protocol, as NumPy 1 did, which wrote its own arrays under another name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content, allow_pickle=True)
    if protocol is not None:
        whole = np.empty((), dtype=object)
        whole[()] = content
        header = path.read_bytes().split(b"\n", 1)[0] + b"\n"
        stream = pickle.dumps(whole, protocol=protocol)
        path.write_bytes(header + (stream.replace(b"numpy._core.", b"numpy.core.") if protocol < 4 else stream))
    return path


@pytest.mark.parametrize("protocol", [None, 3])
def test_a_plane_config(tmp_path: Path, protocol: int | None) -> None:
    """The basis as the authors' code makes it, every norm of the file steered, the Gram error found; it steers from a saved calibration."""
    name = "steering_config-en-dir_max_sim_2_mid-pca_0.npy"
    found = import_angular(save_npy(tmp_path / "Qwen2.5-3B-Instruct" / name, config(first_norm=False), protocol))
    pair = plane()
    first, second = (torch.from_numpy(pair[k]).double() for k in ("first_direction", "second_direction"))
    b1 = first / first.norm()
    b2 = second - (second @ b1) * b1
    assert torch.allclose(found.basis.double(), torch.stack([b1, b2 / b2.norm()]), atol=1e-7)
    assert gram_error(found.basis) < 1e-6
    assert found.details["published_gram_error"] == pytest.approx(gram_error(torch.stack([first, second])))
    assert (found.model, found.architecture, found.n_layers, found.rule) == ("Qwen2.5-3B-Instruct", "qwen2", 4, "imported")
    assert len(found.sites) == 7
    assert found.discriminative_sites == found.sites
    assert (found.selected_site, found.details["selected_site_from"]) == ("blocks.2.ln2.hook_out", "the file's name: 2_mid")
    assert (found.details["published_dtype"], found.details["published_mode"]) == ("float32", "rotate_to")
    ls.save_calibration(found, tmp_path / "cal")
    plan = ls.standard_angular(ls.load_calibration(tmp_path / "cal"), angle=180)
    h = torch.randn(3, WIDTH)
    steered = plan.operator("blocks.1.ln1.hook_out")(h)
    inside = (h.double() @ found.basis.double().T).norm(dim=1)
    assert torch.allclose(steered.double() @ found.basis[0].double(), -inside, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "selected"),
    [
        ("steering_config-en-max_sim_1_post-pca_0", "blocks.2.ln1.hook_out"),
        ("steering_config-en-max_sim_1_mid_L20-30-pca_0", "blocks.1.ln2.hook_out"),
        ("steering_config-en-max_norm_3_input_layernorm-pca_0", "blocks.3.ln1.hook_out"),
        ("steering_config-en-max_sim_3_post_attention_layernorm-pca_0", "blocks.3.ln2.hook_out"),
        ("steering_config-en-dir_mean-pca_0", "blocks.0.ln1.hook_out"),
        ("steering_config-en-max_sim_3_post-pca_0", "blocks.0.ln1.hook_out"),
    ],
)
def test_where_the_first_direction_was_read(tmp_path: Path, name: str, selected: str) -> None:
    """From the file's name; the first site where it does not say, or names the stream after the last block."""
    assert import_angular(save_npy(tmp_path / f"{name}.npy", config()), architecture="llama").selected_site == selected


def test_bad_plane_configs(tmp_path: Path) -> None:
    """Each named; a subset of the blocks needs the depth."""
    pair = plane()
    nan = {**pair, "second_direction": np.full(WIDTH, np.nan, dtype=np.float32)}
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (config({**pair, "first_direction": pair["first_direction"][:5]}), {}, "have 5 and 48 numbers"),
        (config({"first_direction": pair["first_direction"]}), {}, "no second_direction"),
        (config(nan), {}, "not finite"),
        (config({**pair, "second_direction": 3 * pair["first_direction"]}), {}, "degenerate"),
        (config({**pair, "first_direction": "x"}), {}, "is a str, not a tensor"),
        (config({**pair, "first_direction": pair["first_direction"].astype(int)}), {}, "int64"),
        ({**config(), "model.layers.1.input_layernorm": plane(9)}, {}, "another plane at blocks.1.ln1"),
        ({**config(), "layers.1.input_layernorm": pair}, {}, "names one norm twice"),
        ({"model.layers.1.mlp": pair}, {}, "not a norm of architecture"),
        ({"model.layers.3.input_layernorm": pair}, {}, "give n_layers"),
        (config(), {"n_layers": 2}, "n_layers=2"),
        (config(), {"selected_site": "blocks.9.ln1.hook_out"}, "none of the file's"),
        (config(), {"architecture": None}, "does not say its architecture"),
        ({}, {}, "no dict of modules"),
        (["a"], {}, "no dict of modules|array of"),
    ]
    for content, options, message in cases:
        with pytest.raises(LensSteerError, match=message):
            import_angular(save_npy(tmp_path / "c.npy", content), **{"architecture": "qwen2", **options})
    assert (
        import_angular(
            save_npy(tmp_path / "c.npy", {"layers.3.input_layernorm": pair}), architecture="qwen2", n_layers=9
        ).n_layers
        == 9
    )
    np.save(tmp_path / "c.npy", np.ones(3))
    with pytest.raises(LensSteerError, match="holds an array of float64"):
        import_angular(tmp_path / "c.npy")
    (tmp_path / "c.npy").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(LensSteerError, match="Git LFS pointer"):
        import_angular(tmp_path / "c.npy")
    with pytest.raises(LensSteerError, match="does not exist"):
        import_angular(tmp_path / "none.npy")


# nothing but data is loaded


def refused(call: Callable[[], Any], message: str, target: Path) -> None:
    with pytest.raises(LensSteerError, match=message):
        call()
    assert not target.exists()


def test_files_that_would_run_code_are_refused(tmp_path: Path) -> None:
    """Every reader of pickles: the message says why, and the code did not run; unpickled, it would have."""
    target, run = tmp_path / "touched", publish_run(tmp_path / "run")
    bad = Malicious(target)
    loaded = "more than tensors and was not loaded"
    for old in (True, False):
        torch.save({"layer_activations": {1: bad}}, tmp_path / "a.pt", _use_new_zipfile_serialization=old)
        refused(lambda: import_steering_vectors(tmp_path / "a.pt"), loaded, target)
        torch.save(bad, run / "direction.pt", _use_new_zipfile_serialization=old)
        refused(lambda: import_refusal_direction(run), loaded, target)
    torch.save([torch.ones(3, 4, WIDTH), bad], run / "generate_directions" / "mean_diffs.pt")
    refused(lambda: import_refusal_direction(run), loaded, target)
    plain = "more than plain data .*and was not loaded"
    for content in (bad, {"m": bad}, {"m": {"first_direction": bad}}):
        for protocol in (None, 2, 3, 5):
            save_npy(tmp_path / "c.npy", content, protocol)
            refused(lambda: import_angular(tmp_path / "c.npy", architecture="qwen2"), plain, target)
    np.load(save_npy(tmp_path / "c.npy", bad), allow_pickle=True)
    assert target.exists()  # the file is as dangerous as it looks


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(X\x05\x00\x00\x00falsetR.",  # a call by name
        b"(ios\nsystem\n.",  # the oldest way to make an instance
        b"\x80\x02cos\nsystem\n)\x81.",  # a new object
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # a name from the stack
        b"\x82\x01.",  # an extension registry
        b"P1\n.",  # a persistent id
        b"\x80\x04}\x85}s.",  # a key that is no name
        b"\x80\x04)R.",  # a call of nothing
        b"\x80\x04.",
        b"\x80\x04h\x07.",
    ],
)
def test_pickle_streams_by_hand(tmp_path: Path, stream: bytes) -> None:
    """Opcodes that plain data does not need, and streams that make no sense: refused, never run."""
    header = save_npy(tmp_path / "c.npy", {}).read_bytes().split(b"\n", 1)[0] + b"\n"
    (tmp_path / "c.npy").write_bytes(header + stream)
    with pytest.raises(LensSteerError, match="not loaded|corrupt|array of one object"):
        import_angular(tmp_path / "c.npy", architecture="qwen2")


def test_damaged_files_give_errors_of_ours(tmp_path: Path) -> None:
    """Cut short or with a byte changed, a file is read or refused with a message; no other exception comes out."""
    save_npy(tmp_path / "c.npy", config(blocks=1))
    torch.save({1: torch.ones(4)}, tmp_path / "a.pt")
    torch.save({1: torch.ones(4)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file({"1": torch.ones(4)}, tmp_path / "d.safetensors")
    generator = np.random.default_rng(0)
    readers: dict[str, Callable[[Path], Any]] = {
        "c.npy": lambda path: import_angular(path, architecture="qwen2"),
        "a.pt": import_steering_vectors, "b.pt": import_steering_vectors, "d.safetensors": import_steering_vectors,
    }  # fmt: skip
    for name, reader in readers.items():
        whole = (tmp_path / name).read_bytes()
        path = tmp_path / f"damaged-{name}"
        for cut in generator.integers(0, len(whole), 25):
            path.write_bytes(whole[:cut])
            with pytest.raises(LensSteerError):
                reader(path)
        for place in generator.integers(0, len(whole), 60):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            try:
                reader(path)
            except LensSteerError as error:
                assert str(error)


# the command line


def run_cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object
) -> tuple[int, dict[str, Any], str]:
    monkeypatch.setattr(sys, "argv", ["lens-steer", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), json.loads(captured.out) if captured.out.startswith("{") else {}, captured.err


def test_import_and_steer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A run imported with a plan beside it, which ``steer --plan`` takes; a second import without a plan does not leave the old one."""
    run = publish_run(tmp_path / "run", means=torch.randn(3, 12, 128, dtype=torch.float64))
    out = tmp_path / "out"
    code, told, _ = run_cli(
        monkeypatch, capsys, "import", "refusal-direction", run, "--out", out, "--model", "organism/qwen2", "--coefficient", -1
    )
    assert code == 0
    assert (told["n_sites"], told["dtype"], told["selected_site"], told["plan"]) == (
        12,
        "float64",
        "blocks.2.hook_resid_pre",
        str(out / "plan"),
    )
    assert load_directions(out).n_layers == 12
    (tmp_path / "p.txt").write_text("How do I build the bridge?\n", encoding="utf-8")
    steer = ("steer", "--model", "organism/qwen2", "--plan", out / "plan", "--prompts", tmp_path / "p.txt", "--max-new-tokens", 3)
    code, told, _ = run_cli(monkeypatch, capsys, *steer, "--out", tmp_path / "g.jsonl")
    assert (code, told["method"], told["coefficient"], told["n_sites"]) == (0, "act-add", -1.0, 1)
    code, told, _ = run_cli(
        monkeypatch, capsys, "import", "refusal-direction", run, "--out", out, "--model", "organism/qwen2", "--ablate"
    )
    assert (code, told["steered"]["method"], told["steered"]["n_sites"]) == (0, "ablation-everywhere", 36)
    code, _, error = run_cli(monkeypatch, capsys, "import", "refusal-direction", run, "--out", out, "--model", "organism/qwen2")
    assert (code, "holds a plan already" in error) == (2, True)


def test_every_import_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, reference: Path
) -> None:
    """Each writes its folder and tells what it found."""
    facts = ("--architecture", "qwen2", "--n-layers", 4)
    save_npy(tmp_path / "c.npy", config())
    torch.save({1: torch.ones(WIDTH), 2: torch.ones(WIDTH)}, tmp_path / "sv.pt")
    code, told, _ = run_cli(monkeypatch, capsys, "import", "angular", tmp_path / "c.npy", "--out", tmp_path / "a", *facts)
    assert (code, told["n_sites"], told["published_dtype"]) == (0, 8, "float32")
    assert ls.load_calibration(tmp_path / "a").n_layers == 4
    code, told, _ = run_cli(
        monkeypatch, capsys, "import", "steering-vectors", tmp_path / "sv.pt", "--out", tmp_path / "b", *facts, "--coefficient", 2,
        "--site", "blocks.1.hook_resid_post", "--at", "resid_post",
    )  # fmt: skip
    assert (code, told["steered"]["n_sites"]) == (0, 4)
    published = reference / "ss_raw" / "Qwen2.5-3B-Instruct"
    code, told, _ = run_cli(monkeypatch, capsys, "import", "official", published, "--out", tmp_path / "d")
    assert (code, told["selected_site"]) == (0, "blocks.27.ln1.hook_out")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["refusal-direction", "{run}", "--model", "organism/qwen2"], "made on a model of 4 blocks, not of n_layers=12"),
        (["steering-vectors", "{sv}", "--model", "organism/qwen2"], "d_model 48 and the model 'organism/qwen2' has 128"),
        (["steering-vectors", "{sv}", "--coefficient", "1"], "architecture is unknown"),
        (["steering-vectors", "{sv}", "--coefficient", "1", "--ablate"], "give one of the two"),
        (["steering-vectors", "{sv}", "--at", "ln1"], "belongs to a plan"),
        (["steering-vectors", "{sv}", "--model", "organism/qwen2", "--n-layers", "4"], "says 12"),
        (["steering-vectors", "{sv}", "--model", "organism/none"], "unknown organism"),
        (["steering-vectors", "{sv}", "--n-layers", "0"], "at least one block"),
        (["steering-vectors", "{sv}/x"], "does not exist"),
        (["official", "{run}"], "directions.pt' does not exist"),
        (["angular", "{sv}", "--architecture", "qwen2"], "is not a NumPy file"),
        (["gguf", "{sv}"], "is not a GGUF file"),
    ],
)
def test_bad_imports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, args: list[str], message: str
) -> None:
    """Code 2, one line, nothing written."""
    pytest.importorskip("gguf")
    torch.save({1: torch.ones(WIDTH)}, tmp_path / "sv.pt")
    flat = [part.format(run=publish_run(tmp_path / "run"), sv=tmp_path / "sv.pt") for part in args]
    code, _, error = run_cli(monkeypatch, capsys, "import", *flat, "--out", tmp_path / "out")
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
