"""Runs of refusal_direction: what the files say comes out, and what does not fit together is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lens_steer.errors import LensSteerError
from lens_steer.geometry.directions import cosine_matrix
from lens_steer.interop.imports.direction_files import load_directions, save_directions
from lens_steer.interop.imports.refusal_direction import import_refusal_direction, selection_order
from tests.imported import WIDTH, publish_run


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
        {
            "position": p,
            "layer": b,
            "refusal_score": -float(b),
            "steering_score": 1.0,
            "kl_div_score": 0.2 if b == 2 else 0.0,
        }
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
        (
            lambda run: (run / "direction.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"),
            "Git LFS pointer",
        ),
        (lambda run: (run / "direction.pt").write_bytes(b"text"), "not written by torch.save"),
        (
            lambda run: (run / "direction.pt").write_bytes((run / "direction.pt").read_bytes()[:200]),
            "corrupt or truncated",
        ),
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
    """The published gemma-2b-it run: choice, norms, cosines and the chosen direction as computed independently; the
    scores choose the same.
    """
    wanted = json.loads((reference / "expected.json").read_text(encoding="utf-8"))["rd"]["gemma-2b-it"]
    stored = load_file(reference / "rd" / "gemma-2b-it" / "mean_diffs.safetensors")
    run = publish_run(
        tmp_path / "gemma-2b-it",
        position=wanted["chosen_position"],
        layer=wanted["chosen_layer"],
        means=stored["mean_diffs"],
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
