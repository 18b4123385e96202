"""Published calibrations: the reference numbers come out, and nothing but tensors is ever loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import gram_error, gram_schmidt, principal_component
from lens_steer.geometry.summary import summarise
from lens_steer.interop.imports.official import import_official
from lens_steer.interop.imports.source_files import load_archive

MODELS = ("Qwen2.5-3B-Instruct", "Llama-3.2-3B-Instruct", "gemma-2-2b-it")


def close(found: list[Any], wanted: list[Any], tolerance: float) -> None:
    """Equal lists of numbers, None for None."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a == pytest.approx(b, abs=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_geometry_of_published_calibrations(reference: Path, tmp_path: Path, name: str) -> None:
    """Imported, saved, loaded and summarised: selection, cosines, plane, shares, L_disc and Gram error as computed
    independently.
    """
    ls.save_calibration(import_official(reference / "ss_raw" / name), tmp_path)
    calibration = ls.load_calibration(tmp_path)
    found = summarise(calibration)
    wanted = json.loads((reference / "expected.json").read_text(encoding="utf-8"))["ss"][name]
    meta = json.loads((reference / "ss" / name / "meta.json").read_text(encoding="utf-8"))
    assert found["n_sites"] == wanted["n_points"]
    assert found["selection"]["selected_index"] == wanted["selection"]["stored_index"]
    assert found["selection"]["reproduced"] == wanted["selection"]["reproduced"]
    close(found["selection"]["mean_cosine_all_rows"], wanted["selection"]["mean_cos_with_self"], 1e-9)
    close(found["cosine"]["adjacent_sites"], wanted["cosine"]["adjacent_points"], 1e-9)
    for ours, theirs in zip(
        found["cosine"]["adjacent_blocks_same_kind"].values(),
        wanted["cosine"]["adjacent_blocks_same_type"].values(),
        strict=True,
    ):
        close(ours, theirs, 1e-9)
    for key in ("mean", "min", "max"):
        assert found["cosine"]["off_diagonal"][key] == pytest.approx(
            wanted["cosine"][f"offdiag_{key}_nondegenerate"], abs=1e-9
        )
    plane, expected = found["plane_all_rows"], wanted["plane"]
    close(plane["explained_variance_centred"], expected["explained_variance_ratio_centred"], 1e-9)
    close(plane["explained_variance_uncentred"], expected["explained_energy_ratio_uncentred"], 1e-9)
    for ours, theirs in (
        ("share_in_plane_uncentred", "fraction_of_candidate_energy_in_plane_uncentred"),
        ("share_in_plane_centred", "fraction_of_candidate_variance_in_plane_centred"),
        ("best_two_dimensions_centred", "best_possible_2d_centred"),
        ("best_two_dimensions_uncentred", "best_possible_2d_uncentred"),
        ("abs_cosine_component_b1_centred", "abs_cos_pc0_b1_centred"),
        ("abs_cosine_component_b1_uncentred", "abs_cos_pc0_b1_uncentred"),
    ):
        assert plane[ours] == pytest.approx(expected[theirs], abs=1e-9), ours
    assert plane["cosine_b2_centred"] > 0.9999
    inside, angles = found["candidates_in_plane"], wanted["candidates_in_plane"]
    close(inside["angle"], angles["angle_deg"], 1e-6)
    close(inside["radius"], angles["radius"], 1e-9)
    close(inside["fraction"], angles["in_plane_energy_fraction"], 1e-9)
    assert found["discriminative"]["blocks"] == wanted["L_disc"]["blocks"]
    assert found["discriminative"]["n_sites"] == sum(meta["discriminative_mask"]) == wanted["L_disc"]["n_points"]
    assert calibration.details["published_gram_error"] == pytest.approx(
        expected["max_abs_gram_minus_identity"], abs=1e-9
    )
    assert gram_error(calibration.basis) < 1e-6
    assert found["classes"] is None


@pytest.mark.parametrize("name", MODELS)
def test_rebuilt_b2(reference: Path, name: str) -> None:
    """The principal component of all centred rows, made orthogonal to b1, is the reference's; the basis the reference's
    too.
    """
    calibration = import_official(reference / "ss_raw" / name)
    expected = load_file(reference / "ss" / name / "expected.safetensors")
    assert calibration.published_candidates is not None
    assert calibration.published_basis is not None
    axis, _ = principal_component(calibration.published_candidates.double())
    rebuilt, _ = gram_schmidt(calibration.published_basis[0].double(), axis)
    assert (
        float(rebuilt[1] @ expected["b2_rebuilt_centred"].double() / expected["b2_rebuilt_centred"].double().norm())
        > 0.999999
    )
    assert float(calibration.basis[0].double() @ expected["e1"]) > 1 - 1e-7
    assert float(calibration.basis[1].double() @ expected["e2"]) > 1 - 1e-7


def publish(folder: Path, **change: Any) -> Path:
    """A small folder in the published format."""
    names = [f"model.layers.{b}.{n}" for b in range(2) for n in ("input_layernorm", "post_attention_layernorm")]
    torch.manual_seed(0)
    directions = {"candidates": {n: torch.randn(6, dtype=torch.bfloat16) for n in names}}
    plane = {
        "basis": (torch.randn(6, dtype=torch.bfloat16), torch.randn(6, dtype=torch.bfloat16)),
        "extra_info": {"layer_steering_mask": {n: n.startswith("model.layers.1") for n in names}},
    }
    facts = {"selected_layer": names[2], "harmful_samples": 4, "harmless_samples": 5}
    folder.mkdir(exist_ok=True)
    torch.save(change.get("directions", directions), folder / "directions.pt")
    torch.save(change.get("plane", plane), folder / "plane.pt")
    (folder / "metadata.json").write_text(json.dumps(change.get("facts", facts)), encoding="utf-8")
    return folder


def test_a_made_folder(tmp_path: Path) -> None:
    """Sites, selection, mask and counts; module names become site names."""
    found = import_official(publish(tmp_path))
    assert found.sites == tuple(f"blocks.{b}.{k}.hook_out" for b in range(2) for k in ("ln1", "ln2"))
    assert found.selected_site == "blocks.1.ln1.hook_out"
    assert found.discriminative_blocks == (1,)
    assert (found.n_positive, found.n_negative, found.rule, found.mean_positive) == (4, 5, "imported", None)


class Malicious:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


def test_archives_that_would_run_code_are_refused(tmp_path: Path) -> None:
    """The message says why, and the code did not run."""
    target = tmp_path / "touched"
    folder = publish(tmp_path / "cal", directions={"candidates": Malicious(target)})
    with pytest.raises(LensSteerError, match="more than tensors and was not loaded"):
        import_official(folder)
    assert not target.exists()


def test_bad_folders(tmp_path: Path) -> None:
    """Missing, truncated, incomplete and misshapen: each named."""
    with pytest.raises(LensSteerError, match=r"directions.pt' does not exist"):
        import_official(tmp_path)
    folder = publish(tmp_path / "a")
    (folder / "plane.pt").write_bytes((folder / "plane.pt").read_bytes()[:300])
    with pytest.raises(LensSteerError, match="corrupt or truncated"):
        load_archive(folder / "plane.pt")
    with pytest.raises(LensSteerError, match="lack 'basis'"):
        import_official(publish(tmp_path / "b", plane={"extra_info": {}}))
    plane = {"basis": (torch.ones(5), torch.ones(5)), "extra_info": {"layer_steering_mask": {}}}
    with pytest.raises(LensSteerError, match="vectors of one length"):
        import_official(publish(tmp_path / "c", plane=plane))
    with pytest.raises(LensSteerError, match="selected_layer 'nothing'"):
        import_official(publish(tmp_path / "d", facts={"selected_layer": "nothing"}))
