"""Estimators against each other: overlaps, angles, cosines and held-out areas against their definitions; the figure;
the table.
"""

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
from sklearn.metrics import roc_auc_score

from analyses import directions as script
from analyses.common import Run
from lens_steer.errors import LensSteerError
from lens_steer.figures import directions as figures
from lens_steer.figures import saving
from lens_steer.geometry import direction_comparison
from lens_steer.geometry.calibration import calibrate
from lens_steer.geometry.direction_comparison import DirectionComparison, compare_directions
from lens_steer.geometry.estimators import ESTIMATORS
from lens_steer.inference.record import Activations
from tests.made import origin

SITES = tuple(f"blocks.{b}.{k}.hook_out" for b in range(4) for k in ("ln1", "ln2"))


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def activations(n_positive: int = 30, n_negative: int = 30, seed: int = 0) -> Activations:
    """Eight sites, the first without a difference, the others with one that grows with depth; noise of another size
    along every axis.
    """
    direction, offset = randn(8, 10, seed=100), randn(8, 10, seed=101)
    sizes, growth = torch.linspace(0.3, 2, 10), torch.linspace(0, 0.5, 8)[:, None]
    sides = []
    for n, sign, k in ((n_positive, 1, 1), (n_negative, -1, 2)):
        side = (
            sign * growth * (direction.mean(dim=0) + 0.3 * direction)
            + sizes * randn(n, 8, 10, seed=seed + k)
            + 0.1 * offset
        )
        side[:, 0] = offset[0]
        sides.append(side)
    return Activations(SITES, sides[0], sides[1], **origin())


def quick(acts: Activations, names: tuple[str, ...] = tuple(ESTIMATORS), **options: Any) -> DirectionComparison:
    return compare_directions(acts, names, **{"resamples": 8, "max_sites": 3, "progress": False} | options)


@pytest.fixture(scope="module")
def compared() -> DirectionComparison:
    """Every estimator on made-up prompts, with others held out."""
    return quick(activations(), held_out=activations(12, 17, seed=50))


def test_what_changes_against_its_definition(compared: DirectionComparison) -> None:
    """Calibrations are calibrate's; Jaccard by sets, angles by scipy, cosines by hand."""
    assert compared.default.candidates.equal(calibrate(activations()).candidates)
    assert list(compared.estimators) == list(ESTIMATORS)
    jaccards = set()
    for name, one in compared.estimators.items():
        made = calibrate(activations(), direction=name)
        assert torch.equal(one.calibration.basis, made.basis)
        ours, theirs = set(made.discriminative_sites), set(compared.default.discriminative_sites)
        assert one.jaccard == len(ours & theirs) / len(ours | theirs)
        jaccards.add(one.jaccard)
        expected = np.rad2deg(
            subspace_angles(compared.default.basis.double().numpy().T, made.basis.double().numpy().T)
        )[::-1]
        assert np.allclose(one.angles, expected, atol=1e-3)
        assert bool(one.cosine[0].isnan())
        cosines = (made.candidates.double() * compared.default.candidates.double()).sum(dim=1)
        assert torch.allclose(one.cosine[1:], cosines[1:], atol=1e-6)
        assert one.nonzero[0] == 0
    default = compared.estimators["difference"]
    assert default.jaccard == 1
    assert default.angles == pytest.approx((0, 0), abs=1e-4)
    assert torch.allclose(default.cosine[1:], torch.ones(7, dtype=torch.float64), atol=1e-6)
    assert len(jaccards) > 1
    assert min(compared.estimators["sparse"].nonzero[1:]) < 10 == min(compared.estimators["fisher"].nonzero[1:])


def test_two_empty_sets_are_the_same() -> None:
    """Nothing discriminative by either: overlap 1."""
    acts = activations()
    far = replace(acts, positive=acts.positive + 100, negative=acts.negative + 100)
    found = quick(far, ("fisher",))
    assert found.default.discriminative_sites == ()
    assert found.estimators["fisher"].calibration.discriminative_sites == ()
    assert found.estimators["fisher"].jaccard == 1


def test_resamples_are_refits_of_the_drawn_prompts(compared: DirectionComparison) -> None:
    """Cosine of the estimate and the difference of means of the same draw; pairs stay together for paired_pca alone."""
    acts = activations()
    assert compared.resampled_sites == (1, 4, 7)
    draws = list(direction_comparison._draws(30, 30, 8, 0))
    for name, one in compared.estimators.items():
        for row, (first, second) in enumerate(draws):
            for column, k in enumerate(compared.resampled_sites):
                classes = acts.positive[first, k], acts.negative[first if name == "paired_pca" else second, k]
                expected = ESTIMATORS[name](*classes) @ ESTIMATORS["difference"](*classes)
                assert float(one.resampled[row, column]) == pytest.approx(float(expected), abs=1e-9)


def test_draws_cover_each_class() -> None:
    """As many as the class has, with replacement, each class on its own."""
    for first, second in direction_comparison._draws(20, 7, 30, 3):
        assert (len(first), len(second)) == (20, 7)
        assert int(second.max()) < 7
        assert len(first.unique()) < 20


def test_held_out_areas(compared: DirectionComparison) -> None:
    """Scikit-learn's, of the held-out projections on the fit direction; none where there is no direction."""
    held_out = activations(12, 17, seed=50)
    labels = np.repeat([1, 0], [12, 17])
    for one in compared.estimators.values():
        assert one.auroc[0] is None
        for k in range(1, 8):
            found, direction = one.auroc[k], one.calibration.candidates[k].double()
            assert found is not None
            scores = torch.cat([held_out.positive[:, k], held_out.negative[:, k]]).double() @ direction
            assert found.value == pytest.approx(float(roc_auc_score(labels, scores.numpy())), abs=1e-9)
            assert found.low <= found.value <= found.high
            assert found.n == 29


def test_rows_and_summary(compared: DirectionComparison) -> None:
    """One row an estimator and site, one an estimator; plain JSON; what does not exist is None."""
    rows = json.loads(json.dumps(compared.rows(), allow_nan=False))
    assert [(r["estimator"], r["site"]) for r in rows] == [(name, site) for name in ESTIMATORS for site in SITES]
    for row in rows:
        k = SITES.index(row["site"])
        drawn = compared.estimators[row["estimator"]].resampled
        if k in compared.resampled_sites:
            expected = np.quantile(drawn[:, compared.resampled_sites.index(k)].numpy(), [0.025, 0.5, 0.975])
            assert [row[f"cosine_{e}"] for e in ("low", "median", "high")] == pytest.approx(expected.tolist())
        else:
            assert row["cosine_low"] is row["cosine_median"] is row["cosine_high"] is None
        assert (row["cosine"] is None) == (row["auroc"] is None) == (row["nonzero"] == 0) == (k == 0)
    summary = json.loads(json.dumps(compared.summary(), allow_nan=False))
    assert [r["estimator"] for r in summary] == list(ESTIMATORS)
    for row, one in zip(summary, compared.estimators.values(), strict=True):
        own = [r for r in rows if r["estimator"] == row["estimator"]]
        assert [r["site"] for r in own if r["selected"]] == [row["selected_site"]] == [one.calibration.selected_site]
        assert sum(r["discriminative"] for r in own) == row["discriminative_sites"]
        assert row["median_cosine"] == pytest.approx(float(np.median([r["cosine"] for r in own[1:]])))
        assert row["median_nonzero"] == np.median([r["nonzero"] for r in own[1:]])
        assert row["mean_auroc"] == pytest.approx(np.mean([r["auroc"] for r in own[1:]]))
        assert row["auroc"] == next(r["auroc"] for r in own if r["selected"])
        apart = [r["site"] for r in own if r["auroc_low"] is not None and r["auroc_low"] > 0.5]
        assert row["first_apart"] == (apart[0] if apart else None)
        assert row["zero_candidates"] == 1
    assert "8 sites, 8 resamples, held out (12, 17)" in repr(compared)


def test_without_held_out_prompts() -> None:
    """No area anywhere; classes of different size are fine for the others."""
    found = quick(activations(20, 26), ("difference", "fisher"))
    assert all(row["auroc"] is None for row in found.rows())
    assert all(row["auroc"] is row["mean_auroc"] is row["first_apart"] is None for row in found.summary())


def test_estimators_with_spread_see_what_the_difference_does_not() -> None:
    """A class difference along one axis, thirty times louder noise along two others: held-out AUROC tells fisher from
    the difference of means.
    """
    sides = []
    for n, sign, seed in ((60, 1, 1), (60, -1, 2)):
        side = randn(2 * n, 2, 10, seed=seed) * torch.tensor([1.0] * 8 + [30.0] * 2)
        side[..., 0] += 1.2 * sign
        sides.append(side)
    fit, held_out = (
        replace(activations(), sites=SITES[:2], positive=sides[0][part], negative=sides[1][part])
        for part in (slice(60), slice(60, None))
    )
    found = {
        row["estimator"]: row["mean_auroc"] for row in quick(fit, ("difference", "fisher"), held_out=held_out).summary()
    }
    assert found["fisher"] > 0.85
    assert found["difference"] < 0.75


def test_seeds(compared: DirectionComparison) -> None:
    """Same seed, same bytes; another seed, other draws; a bar changes nothing."""
    held_out = activations(12, 17, seed=50)
    again = compare_directions(activations(), held_out=held_out, resamples=8, max_sites=3)
    assert json.dumps(again.rows()) == json.dumps(compared.rows())
    assert json.dumps(again.summary()) == json.dumps(compared.summary())
    other = quick(activations(), ("fisher",), seed=1)
    assert not torch.equal(other.estimators["fisher"].resampled, compared.estimators["fisher"].resampled)


def test_resampled_sites_are_spread() -> None:
    """All where there are few, else both ends and evenly between."""
    assert direction_comparison._spread([1, 2, 3], 12) == [1, 2, 3]
    found = direction_comparison._spread(range(1, 72), 12)
    assert (len(found), found[0], found[-1]) == (12, 1, 71)
    assert set(np.diff(found)) <= {6, 7}
    assert direction_comparison._spread([4, 5, 6], 1) == [4]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"names": ()}, "names is empty: name at least one of difference"),
    ({"names": ("median",)}, "direction='median': use one of"),
    ({"resamples": 0}, "resamples=0: use at least 1"),
    ({"max_sites": 0}, "max_sites=0: use at least 1"),
    ({"seed": -1}, "seed=-1: use 0 or a positive"),
    ({"rule": "best"}, "rule='best'"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(options: dict[str, Any], message: str) -> None:
    """Named, with the value and the mend."""
    with pytest.raises(LensSteerError, match=message):
        quick(activations(), **{"names": ("fisher",)} | options)


def test_bad_activations() -> None:
    """Held out at other sites, not finite, pairs that do not exist, a class of one, an estimator that leaves no
    plane.
    """
    acts = activations()
    other = replace(acts, sites=SITES[:7], positive=acts.positive[:, :7], negative=acts.negative[:, :7])
    with pytest.raises(
        LensSteerError, match="held_out was recorded at 7 sites of width 10, the fit split at 8 of width 10"
    ):
        quick(acts, held_out=other)
    with pytest.raises(LensSteerError, match="held_out holds values that are not finite"):
        quick(acts, held_out=replace(acts, positive=acts.positive * torch.inf))
    with pytest.raises(LensSteerError, match="found 30 positive and 29 negative"):
        quick(activations(30, 29))
    with pytest.raises(LensSteerError, match="negative holds 1 prompts"):
        quick(activations(30, 1), ("fisher",))


def test_the_estimator_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that finds no direction anywhere."""
    monkeypatch.setitem(ESTIMATORS, "nothing", lambda positive, negative: torch.zeros(10, dtype=torch.float64))
    with pytest.raises(LensSteerError, match="direction='nothing': every candidate direction is zero"):
        quick(activations(), ("nothing",))


@pytest.mark.parametrize("held_out", [True, False])
def test_figure(compared: DirectionComparison, tmp_path: Path, held_out: bool) -> None:
    """A legend that overlaps no panel, text of 7 to 9 points, counts in its title; read back and drawn again from its
    numbers.
    """
    drawing = figures.drawing(compared if held_out else quick(activations()))
    fig, axes = figures.direction_estimators(drawing)
    fig.canvas.draw()
    assert len(axes) == 1 + held_out
    texts = [a for a in fig.findobj(Text) if isinstance(a, Text) and a.get_text()]
    assert all(7 <= float(text.get_fontsize()) <= 9 for text in texts)
    boxes: list[Any] = [axis.get_tightbbox() for axis in axes]
    legend = fig.legends[0]
    assert not any(legend.get_window_extent().overlaps(box) for box in boxes)
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= fig.bbox.x1 and box.y1 <= fig.bbox.y1 for box in boxes)
    assert {"difference of means", "logistic, L1"} <= {text.get_text() for text in legend.get_texts()}
    title = legend.get_title().get_text()
    assert "fit on 30 positive and 30 negative prompts" in title
    assert ("held out: 12 positive and 17 negative prompts" in title) == held_out
    looks = [
        (str(line.get_color()), str(line.get_marker()))
        for line in axes[0].get_lines()
        if line.get_marker() not in ("None", "")
    ]
    assert len(looks) == len(set(looks)) == len(ESTIMATORS)
    saving.save(drawing, "direction_estimators", tmp_path, {})
    before = (tmp_path / "direction_estimators.png").read_bytes()
    loaded, _ = saving.load(tmp_path, "direction_estimators")
    assert list(loaded.columns) == list(drawing.columns)
    assert saving.redraw(tmp_path) == ["direction_estimators"]
    assert (tmp_path / "direction_estimators.png").read_bytes() == before


def test_figure_of_an_estimator_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a look is drawn under that name."""
    monkeypatch.setitem(ESTIMATORS, "mine", ESTIMATORS["fisher"])
    fig, _ = figures.direction_estimators(figures.drawing(quick(activations(), ("mine",))))
    assert "mine" in {text.get_text() for text in fig.legends[0].get_texts()}


def test_analysis(qwen: Any, refusal: Any, tmp_path: Path) -> None:
    """Figure, record and table of a model at a few sites; pairs that do not exist are left out and named."""
    import lens_steer as ls

    sites = [f"blocks.{b}.ln2.hook_out" for b in (7, 8, 9)]
    fit = replace(refusal.fit, positive=refusal.fit.positive[:40], negative=refusal.fit.negative[:39])
    contrast = replace(refusal, split=replace(refusal.split, fit=fit))
    run = Run(qwen, contrast, ls.calibrate(ls.record(qwen, fit, sites, progress=False)), tmp_path, 0)
    script.draw(run)
    record = json.loads((tmp_path / "directions.json").read_text(encoding="utf-8"))
    assert list(record["left_out"]) == ["paired_pca"]
    assert "found 40 positive and 39 negative" in record["left_out"]["paired_pca"]
    assert [row["estimator"] for row in record["estimators"]] == ["difference", "fisher", "logistic", "sparse"]
    assert len(record["sites"]) == 4 * 3
    lines = (tmp_path / "directions.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert "1.00 [" in lines[2]
    assert (tmp_path / "direction_estimators.png").exists()
