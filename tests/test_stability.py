"""Stability of selection: resamples against calibrate itself, planted and absent differences, and what is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from scipy.linalg import subspace_angles

from lens_steer.errors import LensSteerError
from lens_steer.figures import saving
from lens_steer.figures import stability as figures
from lens_steer.geometry import resampling
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.directions import select_direction
from lens_steer.geometry.planes import principal_angles, random_plane
from lens_steer.geometry.resampling import Options, bootstrap_counts, label_counts, pooled, recalibrate
from lens_steer.geometry.stability import Stability, stability
from lens_steer.inference.record import Activations
from tests.made import origin

SITES = tuple(f"blocks.{b}.{k}.hook_out" for b in range(3) for k in ("ln1", "ln2"))
OPTIONS: list[dict[str, Any]] = [
    {}, {"rule": "official"}, {"candidate_norm": "raw"}, {"candidate_norm": "sample_unit"},
    {"candidate_norm": "angular"}, {"pca_center": False},
    {"component": 1}, {"rule": "official", "candidate_norm": "sample_unit", "pca_center": False},
]  # fmt: skip


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def activations(positive: torch.Tensor, negative: torch.Tensor) -> Activations:
    sites = SITES[: positive.shape[1]]
    return Activations(sites, positive.float(), negative.float(), **origin(3))


def wavering(n_positive: int = 17, n_negative: int = 23, d_model: int = 12, seed: int = 0) -> Activations:
    """Weak differences, another one at every site, lengths that vary, and a first site where all prompts are alike."""
    difference, offset = randn(6, d_model, seed=seed), randn(6, d_model, seed=seed + 1)
    classes = []
    for n, sign, k in ((n_positive, 1, 2), (n_negative, -1, 3)):
        x = offset / 2 + sign * 0.15 * difference + randn(n, 6, d_model, seed=seed + k)
        x = x * (1 + randn(n, 1, 1, seed=seed + 10 * k).abs())
        x[:, 0] = offset[0]
        classes.append(x)
    return activations(*classes)


def planted(shift: float, n: int = 60, d_model: int = 24, seed: int = 0) -> Activations:
    """Noise around a mean away from 0, and ±shift at every site, both along one direction."""
    direction = torch.ones(d_model) / d_model**0.5
    noise = randn(2 * n, 6, d_model, seed=seed) + 2 * direction
    return activations(noise[:n] + shift * direction, noise[n:] - shift * direction)


def quick(acts: Activations, resamples: int = 99, **options: Any) -> Stability:
    return stability(acts, resamples=resamples, progress=False, **options)


def assert_same(found: resampling.Recalibrated, row: int, explicit: Calibration) -> None:
    assert explicit.sites[int(found.selected[row])] == explicit.selected_site
    assert torch.allclose(found.direction[row].float(), explicit.candidates[explicit.selected_index], atol=1e-6)
    assert torch.allclose(found.basis[row], explicit.basis, atol=1e-5)
    discriminative = tuple(s for s, d in zip(explicit.sites, found.discriminative[row], strict=True) if d)
    assert discriminative == explicit.discriminative_sites
    top = select_direction(explicit.candidates).mean_cosine.max()
    assert float(found.top_cosine[row]) == pytest.approx(float(top), abs=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_resample_is_what_calibrate_gives(options: dict[str, Any]) -> None:
    """Every resample equals calibrate on Activations that hold the drawn prompts, one after another; signs of b2
    too.
    """
    acts, asked = wavering(), Options(**options)
    everyone = pooled(acts, asked)
    counts = bootstrap_counts(17, 23, resamples=12, seed=5)
    found = recalibrate(everyone.rows(0, 17), everyone.rows(17, 40), counts, acts.sites, asked)
    for row in range(12):
        drawn = [torch.repeat_interleave(torch.arange(len(c[row])), c[row].long()) for c in counts]
        assert_same(
            found,
            row,
            calibrate(replace(acts, positive=acts.positive[drawn[0]], negative=acts.negative[drawn[1]]), **options),
        )
    assert len(found.selected.unique()) > 1
    assert len(found.discriminative.unique(dim=0)) > 1
    rows = everyone.rows(0, 17), everyone.rows(17, 40)
    bare = recalibrate(*rows, counts, acts.sites, asked, planes=False)
    assert bare.selected.equal(found.selected) and bare.discriminative.equal(found.discriminative)
    assert bare.direction.equal(found.direction) and bool(bare.basis.isnan().all())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_shuffle_is_what_calibrate_gives(options: dict[str, Any]) -> None:
    """The same of shuffled labels, with the size of each class kept."""
    acts, asked = wavering(), Options(**options)
    everyone, both = pooled(acts, asked), torch.cat([acts.positive, acts.negative])
    labels = label_counts(17, 23, resamples=8, seed=5)
    found = recalibrate(everyone, everyone, (labels, 1 - labels), acts.sites, asked)
    for row in range(8):
        positive = labels[row] == 1
        assert int(positive.sum()) == 17
        assert_same(found, row, calibrate(replace(acts, positive=both[positive], negative=both[~positive]), **options))


def test_stability_reports_those_resamples() -> None:
    """The result's cosine, angles and sizes are those of calibrate on the drawn prompts."""
    acts = wavering()
    full, found = calibrate(acts), quick(acts, 5, seed=3)
    counts = bootstrap_counts(17, 23, resamples=5, seed=3)
    for row in range(5):
        drawn = [torch.repeat_interleave(torch.arange(len(c[row])), c[row].long()) for c in counts]
        one = calibrate(replace(acts, positive=acts.positive[drawn[0]], negative=acts.negative[drawn[1]]))
        assert float(found.bootstrap.cosine[row]) == pytest.approx(float(one.basis[0] @ full.basis[0]), abs=1e-5)
        expected = np.rad2deg(subspace_angles(full.basis.numpy().T, one.basis.numpy().T))[::-1]
        assert np.allclose(found.bootstrap.angles[row], expected, atol=0.01)
        assert int(found.bootstrap.sizes[row]) == len(one.discriminative_sites)


def test_planted_difference_is_stable_and_significant() -> None:
    """Every site discriminative in every resample, hardly any when shuffled, both p-values as small as they can be."""
    found = quick(planted(6.0, n=200), 199)
    assert bool(found.bootstrap.discriminative.all())
    assert all(row["discriminative_share"] == 1 for row in found.rows())
    assert float(found.shuffled.discriminative.double().mean()) < 0.05
    assert found.p_size == found.p_top_cosine == pytest.approx(1 / 200)
    assert float(found.bootstrap.cosine.min()) > 0.95


def test_noise_is_not_significant() -> None:
    """No difference: over 60 data sets the p-values are spread like uniform ones, or larger where |L_disc| ties."""
    found = [quick(planted(0.0, n=10, seed=1000 + k), 39) for k in range(60)]
    for values, largest in (([f.p_top_cosine for f in found], 0.65), ([f.p_size for f in found], 1.0)):
        assert 0.38 < np.mean(values) <= largest
        assert np.mean(np.array(values) <= 0.1) < 0.25
        assert min(values) >= 1 / 40


def test_centred_activations_make_every_labelling_discriminative() -> None:
    """Why |L_disc| alone says nothing: means that cancel have opposite signs under any labels, so p is 1 for a clear
    difference.
    """
    acts = planted(6.0, n=40)
    middle = torch.cat([acts.positive, acts.negative]).double().mean(dim=0)
    found = quick(activations(acts.positive - middle, acts.negative - middle))
    assert float(found.shuffled.discriminative.double().mean()) > 0.999
    assert found.p_size == 1.0
    assert found.p_top_cosine == pytest.approx(1 / 100)


def test_equal_classes_are_refused_as_calibrate_refuses_them() -> None:
    """No direction on all prompts is an error, not a result."""
    same = randn(5, 6, 8, seed=0)
    with pytest.raises(LensSteerError, match="every candidate direction is zero"):
        quick(activations(same, same))


def test_identical_prompts_give_every_resample_the_same() -> None:
    """Within each class one prompt over and over: nothing moves."""
    positive, negative = (randn(1, 6, 8, seed=k).expand(7, -1, -1) for k in (0, 1))
    acts = activations(positive, negative)
    found, full = quick(acts, 20), calibrate(acts)
    assert found.bootstrap.selected_share(full.selected_index).value == 1
    assert torch.allclose(found.bootstrap.cosine, torch.ones(20, dtype=torch.float64), atol=1e-6)
    assert float(found.bootstrap.angles.max()) < 1e-3
    assert all(row["discriminative_share"] == row["discriminative"] for row in found.rows())


def test_resamples_without_a_direction_are_counted() -> None:
    """One prompt carries the whole difference: without it nothing is selected, and the shares still run over all
    resamples.
    """
    positive = torch.zeros(4, 6, 8)
    positive[0] = randn(6, 8, seed=2)
    found = quick(activations(positive, torch.zeros(5, 6, 8)), 200, seed=1)
    missing = int((bootstrap_counts(4, 5, resamples=200, seed=1)[0][:, 0] == 0).sum())
    assert found.bootstrap.no_direction == missing > 0
    assert found.bootstrap.degenerate == 0
    rows, summary = found.rows(), found.summary()
    assert sum(row["selected_share"] for row in rows) == pytest.approx(1 - missing / 200)
    assert summary["no_direction"]["bootstrap"] == missing
    assert summary["direction_cosine"]["bootstrap"]["n"] == 200 - missing
    assert summary["selected"]["share_low"] <= summary["selected"]["share"] <= summary["selected"]["share_high"]


def lopsided() -> Activations:
    """Two sites with the same candidate but for what one prompt adds to the second."""
    positive, negative = torch.zeros(4, 2, 3), torch.zeros(4, 2, 3)
    positive[:, :, 0] = 1
    positive[0, 1, 1] = 4
    return activations(positive, negative)


def test_degenerate_planes_are_counted_in_result_and_figure() -> None:
    """Without the one prompt there is a direction but no plane: only the angles leave such a resample out."""
    found = quick(lopsided(), 200, seed=1)
    missing = int((bootstrap_counts(4, 4, resamples=200, seed=1)[0][:, 0] == 0).sum())
    assert found.bootstrap.degenerate == missing > 0
    assert found.bootstrap.no_direction == 0
    summary = found.summary()
    assert summary["degenerate_planes"]["bootstrap"] == missing
    assert summary["principal_angles"]["bootstrap"]["first"]["n"] == 200 - missing
    assert summary["direction_cosine"]["bootstrap"]["n"] == 200
    drawing = figures.drawing(found)
    assert drawing.notes["planes"]["bootstrap"] == 200 - missing
    fig, _ = figures.selection_stability(drawing)
    assert f"without a plane: {missing} of prompts resampled" in fig.legends[0].get_title().get_text()


def test_principal_angles() -> None:
    """Zero for the same plane however it is turned, 90 for one apart, scipy's otherwise, NaN for NaN."""
    plane = random_plane(9, 0)
    turned = torch.stack([plane[0] + plane[1], plane[1] - plane[0]]) / 2**0.5
    others = torch.stack([turned, *(random_plane(9, k) for k in range(1, 6)), torch.full((2, 9), torch.nan)])
    found = principal_angles(plane, others)
    assert float(found[0].max()) < 1e-4
    for angles, other in zip(found[1:6], others[1:6], strict=True):
        assert np.allclose(angles, np.rad2deg(subspace_angles(plane.numpy().T, other.numpy().T))[::-1], atol=1e-3)
    assert bool(found[6].isnan().all())
    assert principal_angles(torch.eye(4)[:2], torch.eye(4)[None, 2:]).tolist() == [[90.0, 90.0]]


def test_random_planes_are_uniform() -> None:
    """The mean of cos²θ₁ + cos²θ₂ is 4/d."""
    found = quick(planted(3.0, d_model=16), 400)
    cosines = torch.cos(torch.deg2rad(found.random_angles))
    assert float(cosines.square().sum(dim=1).mean()) == pytest.approx(4 / 16, rel=0.1)


def test_seeds() -> None:
    """Same seed, same bytes, whatever the global generators are at; another seed, other draws; blocks of resamples do
    not matter.
    """
    acts = wavering()
    torch.manual_seed(1)
    first = quick(acts, 30, seed=4)
    torch.manual_seed(2)
    again, other = quick(acts, 30, seed=4), quick(acts, 30, seed=5)
    assert json.dumps(first.summary()) == json.dumps(again.summary())
    assert torch.equal(first.bootstrap.angles, again.bootstrap.angles)
    for name in ("bootstrap", "shuffled"):
        assert not torch.equal(getattr(first, name).top_cosine, getattr(other, name).top_cosine)
    assert not torch.equal(first.random_angles, other.random_angles)


def test_blocks_of_resamples_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """One resample at a time or all at once."""
    acts = wavering()
    together = quick(acts, 10, rule="official")
    monkeypatch.setattr(resampling, "CHUNK_ENTRIES", 1)
    alone = quick(acts, 10, rule="official")
    assert torch.allclose(together.bootstrap.top_cosine, alone.bootstrap.top_cosine, atol=1e-12)
    assert torch.equal(together.shuffled.discriminative, alone.shuffled.discriminative)


@pytest.mark.parametrize("rule", ["paper", "official"])
def test_rows_blocks_and_summary(rule: str) -> None:
    """Shares inside their intervals; a block's share is that of any of its sites; everything is plain JSON."""
    found = quick(wavering(), 50, rule=rule)
    rows, blocks = found.rows(), found.block_rows()
    assert [row["site"] for row in rows] == list(SITES)
    assert [row["selected"] for row in rows].count(True) == 1
    for row in rows + blocks:
        for name in (k for k in row if k.endswith("_share")):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    for block in blocks:
        inside = [row["discriminative_share"] for row in rows if row["block"] == block["block"]]
        assert block["discriminative_share"] >= max(inside)
        assert rule == "paper" or block["discriminative_share"] == inside[0]
        assert block["discriminative"] == any(row["discriminative"] for row in rows if row["block"] == block["block"])
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert summary["rule"] == rule
    assert summary["size"]["value"] == len(found.calibration.discriminative_sites)
    assert "p " in repr(found)


def test_bad_input() -> None:
    """Named, with the value and the mend."""
    acts = wavering()
    with pytest.raises(LensSteerError, match="rule='best': use one of paper, official"):
        quick(acts, rule="best")
    with pytest.raises(LensSteerError, match="candidate_norm='l1'"):
        quick(acts, candidate_norm="l1")
    with pytest.raises(LensSteerError, match="resamples=0: use at least 1"):
        quick(acts, 0)
    with pytest.raises(LensSteerError, match="seed=-1: use 0 or a positive"):
        quick(acts, seed=-1)
    with pytest.raises(LensSteerError, match="1 negative prompts: resampling needs at least 2"):
        quick(replace(acts, negative=acts.negative[:1]))
    broken = acts.positive.clone()
    broken[2, 1, 0] = torch.inf
    with pytest.raises(LensSteerError, match="not finite"):
        quick(replace(acts, positive=broken))


def test_progress_bar_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Work of less than a second shows none."""
    acts = wavering()
    assert stability(acts, resamples=3).summary() == quick(acts, 3).summary()
    assert capsys.readouterr().out == ""


def test_figure(tmp_path: Path) -> None:
    """Three panels, a legend that overlaps none of them, text of 7 to 9 points; saved, read back and drawn again from
    its numbers.
    """
    drawing = figures.drawing(quick(wavering(), 40))
    fig, axes = figures.selection_stability(drawing)
    fig.canvas.draw()
    assert len(axes) == 3
    texts = [a for a in fig.findobj(Text) if isinstance(a, Text) and a.get_text()]
    assert all(7 <= float(text.get_fontsize()) <= 9 for text in texts)
    boxes: list[Any] = [axis.get_tightbbox() for axis in axes]
    legend = fig.legends[0].get_window_extent()
    assert not any(legend.overlaps(box) for box in boxes)
    saving.save(drawing, "stability", tmp_path, {})
    before = (tmp_path / "stability.png").read_bytes()
    loaded, _ = saving.load(tmp_path, "stability")
    assert loaded.columns == drawing.columns
    assert saving.redraw(tmp_path) == ["stability"]
    assert (tmp_path / "stability.png").read_bytes() == before
