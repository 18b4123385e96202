"""Probes: what they find and do not find, how they are kept, and what steering with one does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.geometry import logistic
from lens_steer.inference.record import Activations
from lens_steer.probes.depth import evaluate, probe_depth, reliability
from lens_steer.probes.probe import PENALTIES, choose_penalty, fit_probe
from lens_steer.stats.means import grouped_mean
from lens_steer.stats.rates import grouped_rate, wilson
from tests.made import origin

SITE = "blocks.1.hook_resid_post"
D, N = 64, 200  # width, and samples a class


def activations(
    positive: Tensor, negative: Tensor, *, groups: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
) -> Activations:
    """One site's activations of a model that does not exist."""
    return Activations((SITE,), positive[:, None], negative[:, None], *groups, **origin(model="organism/none"))


def planted(seed: int, *, shift: float = 3.0, n: int = N, direction_seed: int = 0) -> tuple[Tensor, Activations]:
    """Isotropic noise, the classes ``shift`` apart along a random direction."""
    unit = torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(direction_seed)), dim=0)
    rng = torch.Generator().manual_seed(seed)
    positive, negative = (torch.randn(n, D, generator=rng) + side * shift / 2 * unit for side in (1, -1))
    names = tuple(tuple(f"{seed}/{side}/{i}" for i in range(n)) for side in "+-")
    return unit, activations(positive, negative, groups=(names[0], names[1]))


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_direction_is_recovered(seed: int) -> None:
    """With 1000 samples a class in 64 dimensions, 3 noise widths apart: cosine at least 0.95, the boundary at the
    middle.
    """
    unit, acts = planted(seed + 1, n=1000)
    probe = fit_probe(acts, SITE)
    assert float(probe.direction @ unit) >= 0.95
    assert abs(probe.threshold) < 0.35
    assert probe.between


def test_nothing_is_found_in_noise() -> None:
    """Where the classes do not differ, and where labels are shuffled, the held-out intervals cover chance; over many
    seeds about as often as they say.
    """
    covered = []
    for seed in range(20):
        _, fit = planted(2 * seed + 1, shift=0.0, n=60)
        _, report = planted(2 * seed + 2, shift=0.0, n=60)
        found = evaluate(fit_probe(fit, SITE), fit, report, draws=4, blocks=4, seed=seed).measured
        covered.append(
            [
                found[name].low <= chance <= found[name].high
                for name, chance in (("accuracy", 0.5), ("auroc", 0.5), ("selectivity", 0.0))
            ]
        )
    assert np.mean(covered, axis=0).min() >= 0.8


def test_selectivity_of_a_real_difference_and_of_memory() -> None:
    """Shuffled labels leave the whole accuracy above chance; scenarios that can be told apart one by one take it all
    away.
    """
    names = tuple(f"scenario {i}" for i in range(40) for _ in range(2))

    def made(seed: int, spread: float) -> Activations:
        _, acts = planted(seed, shift=6.0, n=80)
        own = (spread * torch.randn(40, D, generator=torch.Generator().manual_seed(99 + seed))).repeat_interleave(
            2, dim=0
        )
        return activations(acts.positive[:, 0] + own, acts.negative[:, 0] + own, groups=(names, names))

    for spread, memory in ((0.0, False), (20.0, True)):
        fit = made(1, spread)
        report = made(2, spread)
        report = activations(
            report.positive[:, 0],
            report.negative[:, 0],
            groups=(tuple("r" + n for n in names), tuple("r" + n for n in names)),
        )
        found = evaluate(fit_probe(fit, SITE), fit, report, draws=5, blocks=2).measured
        assert found["selectivity"].value == pytest.approx(found["accuracy"].value - 0.5, abs=0.1)
        scenario = found["selectivity_scenario"]
        assert (scenario.value < 0.1) == memory, (spread, scenario)


@pytest.mark.parametrize(
    ("n", "standardize", "C"), [(30, False, 1.0), (200, False, 0.01), (200, True, 1.0), (30, True, 10.0)]
)
def test_the_fit_is_that_of_plain_logistic_regression(n: int, standardize: bool, C: float) -> None:
    """Fewer samples than dimensions or more, raw or standardised: the minimum that L-BFGS finds in all dimensions."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, D)) * np.geomspace(0.1, 10, D) + rng.normal(size=D)
    labels = x[:, 0] + 0.3 * x[:, 40] + rng.normal(size=n) > 0
    weight, bias = logistic.fit(logistic.prepare(x, standardize=standardize), labels, C=C)
    scaler = StandardScaler().fit(x) if standardize else None
    plain = LogisticRegression(C=C, tol=1e-10, max_iter=100_000).fit(
        x if scaler is None else scaler.transform(x), labels
    )
    expected = plain.decision_function(x if scaler is None else scaler.transform(x))
    np.testing.assert_allclose(x @ weight + bias, expected, atol=1e-3 * np.abs(expected).max())


def test_counts_are_copies() -> None:
    """A weight of two is a sample twice, of nought none."""
    rng = np.random.default_rng(1)
    x, labels, counts = rng.normal(size=(40, 6)), rng.random(40) > 0.5, rng.integers(0, 3, 40)
    weighted = logistic.fit(logistic.prepare(x), labels, weights=counts.astype(float))
    copied = logistic.fit(logistic.prepare(np.repeat(x, counts, axis=0)), np.repeat(labels, counts))
    np.testing.assert_allclose(weighted[0], copied[0], atol=1e-6)
    assert weighted[1] == pytest.approx(copied[1], abs=1e-6)


def test_boundary_and_probability_agree() -> None:
    """Half on the boundary; swapped classes turn the normal round; a shift of the data shifts the boundary alone."""
    acts = planted(3)[1]
    probe = fit_probe(acts, SITE)
    on = probe.threshold * probe.direction + (torch.eye(D)[5] - probe.direction[5] * probe.direction)
    assert float(probe.probability(on)) == pytest.approx(0.5, abs=1e-4)
    assert float(probe.project(on)) == pytest.approx(probe.threshold, abs=1e-4)
    swapped = fit_probe(activations(acts.negative[:, 0], acts.positive[:, 0]), SITE)
    torch.testing.assert_close(swapped.direction, -probe.direction, atol=1e-5, rtol=0)
    assert swapped.threshold == pytest.approx(-probe.threshold, abs=1e-5)
    shift = torch.randn(D, generator=torch.Generator().manual_seed(8)) * 5
    moved = fit_probe(activations(acts.positive[:, 0] + shift, acts.negative[:, 0] + shift), SITE)
    torch.testing.assert_close(moved.direction, probe.direction, atol=1e-4, rtol=0)
    assert moved.threshold == pytest.approx(probe.threshold + float(shift @ probe.direction), abs=1e-3)


@pytest.mark.parametrize(("n", "rare"), [(4, 4), (30, 4), (200, 200)])
def test_cosines_have_intervals_that_hold_them(n: int, rare: int) -> None:
    """With few samples, with few of one class, and narrower with many; the direction that generated the data is the
    common limit.
    """
    _, fit = planted(11, n=n, shift=8.0)
    fit = activations(fit.positive[:rare, 0], fit.negative[:, 0])
    measured = evaluate(fit_probe(fit, SITE), fit, planted(12)[1], draws=2).measured
    for name in ("cosine_to_difference", "cosine_to_fisher"):
        assert measured[name].low <= measured[name].value <= measured[name].high <= 1
        if n == 200:
            assert measured[name].low > 0.85


def test_the_penalty_is_chosen_without_leaks() -> None:
    """Labels that only a scenario's name explains: with folds by scenario the strongest penalty is best; folds by row
    would take the weakest.
    """
    rng = np.random.default_rng(0)
    own = rng.normal(size=(20, 40)) * 3
    of = np.arange(20).repeat(8)
    x = own[of] + 0.05 * rng.normal(size=(160, 40))
    labels = (rng.permutation(20) % 2 == 0)[of]
    honest = choose_penalty(x, labels, [str(g) for g in of])
    leaking = choose_penalty(x, labels, [str(i) for i in range(160)])
    assert honest <= 1e-3 < leaking
    assert fit_probe(planted(4)[1], SITE, C=None).C in PENALTIES


def test_reliability_bins_hold_every_prompt() -> None:
    """Counts add up, the edges belong somewhere, and calibrated probabilities lie within their intervals."""
    rng = np.random.default_rng(0)
    p = np.concatenate([[0.0, 1.0], rng.random(3000)])
    labels = rng.random(len(p)) < p
    bins = reliability(p, labels, [str(i) for i in range(len(p))])
    fewer = reliability(p, labels, [str(i // 4) for i in range(len(p))])
    assert all(
        b.observed.high - b.observed.low < f.observed.high - f.observed.low for b, f in zip(bins, fewer, strict=True)
    )
    assert sum(b.observed.n for b in bins) == len(p)
    assert sum(b.observed.low <= b.predicted <= b.observed.high for b in bins) >= len(bins) - 1


def test_groups_widen_intervals() -> None:
    """Rows that come in fours count as one; alone they give the plain intervals."""
    hits = np.array([True] * 30 + [False] * 10)
    alone = grouped_rate(hits, [str(i) for i in range(40)])
    assert (alone.low, alone.high) == (wilson(30, 40).low, wilson(30, 40).high)
    fours = [str(i // 4) for i in range(40)]
    assert grouped_rate(hits, fours).low < alone.low < alone.value == grouped_rate(hits, fours).value
    values = np.repeat(np.random.default_rng(0).normal(size=10), 4)
    wide, narrow = grouped_mean(values, fours), grouped_mean(values, [str(i) for i in range(40)])
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    with pytest.raises(ValueError, match="needs at least one"):
        grouped_rate(np.array([], dtype=bool), [])
    with pytest.raises(ValueError, match="needs at least one"):
        grouped_mean(np.array([]), [])


def test_a_wrong_sided_boundary_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A rare class drags an over-penalised boundary past its own mean."""
    _, acts = planted(5, shift=1.0)
    with caplog.at_level(logging.WARNING):
        probe = fit_probe(activations(acts.positive[:10, 0], acts.negative[:, 0]), SITE, C=1e-4)
    assert not probe.between
    assert "does not lie between the class means" in caplog.text


def test_probes_come_back_equal(tmp_path: Path) -> None:
    """Saved, then loaded; the file holds what others need to read it."""
    _, acts = planted(6)
    probe = fit_probe(acts, SITE)
    ls.save_probe(probe, tmp_path / "p")
    back = ls.load_probe(tmp_path / "p")
    for name, value in vars(probe).items():
        found = getattr(back, name)
        assert torch.equal(found, value) if isinstance(value, Tensor) else found == value, name
    facts = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert facts["delta_mu"] == pytest.approx(facts["mu_positive"] - facts["mu_negative"])
    assert facts["n"] == 2 * N
    assert "Probe(blocks.1.hook_resid_post of organism/none: m" in repr(back)


def _facts(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def mend(folder: Path) -> None:
        facts = json.loads((folder / "probe.json").read_text())
        change(facts)
        (folder / "probe.json").write_text(json.dumps(facts))

    return mend


def _other_direction(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "probe.safetensors")
    save_file({**tensors, "direction": -tensors["direction"]}, folder / "probe.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "probe.json").unlink(), r"has no probe.json: give a folder of one site"),
        (lambda f: (f / "probe.safetensors").write_bytes(b"abc"), "is corrupt or truncated"),
        (_facts(lambda d: d.pop("threshold")), r"is corrupt or truncated \(KeyError: 'threshold'\)"),
        (_facts(lambda d: d.update(format_version=9)), "has format version 9, this release reads 1"),
        (_facts(lambda d: d.update(site="blocks.1.q")), "site 'blocks.1.q' is unknown"),
        (_facts(lambda d: d.update(threshold=float("nan"))), "holds values that are not finite"),
        (_other_direction, "direction is not weight / ‖weight‖"),
    ],
)
def test_bad_probe_files(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    _, acts = planted(7, n=20)
    ls.save_probe(fit_probe(acts, SITE), tmp_path / "p")
    damage(tmp_path / "p")
    with pytest.raises(LensSteerError, match=message):
        ls.load_probe(tmp_path / "p")


def test_bad_input() -> None:
    """One class, one sample, values that are not numbers, splits that share scenarios."""
    _, acts = planted(8, n=20)
    with pytest.raises(LensSteerError, match="was not recorded"):
        fit_probe(acts, "blocks.0.hook_resid_post")
    with pytest.raises(LensSteerError, match="at least two samples of each class: there are 1 and 20"):
        fit_probe(activations(acts.positive[:1, 0], acts.negative[:, 0]), SITE)
    with pytest.raises(LensSteerError, match=r"C=-1.0: the inverse strength"):
        fit_probe(acts, SITE, C=-1.0)
    with pytest.raises(LensSteerError, match="not finite"):
        fit_probe(activations(acts.positive[:, 0] * torch.nan, acts.negative[:, 0]), SITE)
    with pytest.raises(LensSteerError, match=r"40 scenarios \('8/\+/0', …\) are in both splits"):
        probe_depth(acts, acts, progress=False)
    with pytest.raises(LensSteerError, match="the fit split has 3 positive scenarios, and intervals need 4"):
        probe_depth(activations(acts.positive[:3, 0], acts.negative[:, 0]), planted(10, n=20)[1], progress=False)
    same = activations(torch.ones(4, D), torch.ones(4, D))
    with pytest.raises(LensSteerError, match="do not differ at any of the sites"):
        probe_depth(same, same, progress=False)


@pytest.fixture(scope="module")
def honest(qwen: Any) -> Any:
    """A probe of honesty on the Qwen2 organism."""
    contrast = ls.load_contrast("organism/honesty")
    acts = ls.record(qwen, contrast, ["blocks.4.hook_resid_post"], pooling="response", progress=False)
    return fit_probe(acts, "blocks.4.hook_resid_post")


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_steering_with_a_probe_recovers_honesty(qwen: Any, honest: Any, engine: str) -> None:
    """Under a dishonest system prompt the model lies; carried far beyond the probe's boundary it tells the truth more
    often than along a random direction.
    """
    from lens_steer.metrics.grading import grade
    from lens_steer.studies.traits.search import random_direction

    prompts = ls.load_contrast("organism/honesty").report.negative[:16]

    def true(plan: Any) -> int:
        with ls.steering(qwen, plan):
            texts = ls.generate(qwen, prompts, max_new_tokens=24, engine=engine)
        return sum(grade(p, t) == "correct" for p, t in zip(prompts, texts, strict=True))

    along = true(ls.mirror_projection(honest, 3.0, along=random_direction(qwen.cfg.d_model, 0)))
    assert true(ls.mirror_projection(honest, 3.0)) > along + 3


def test_a_probe_of_another_model_is_refused(tmp_path: Path, qwen: Any, honest: Any) -> None:
    """By width, and where that agrees by name."""
    _, acts = planted(9, n=20)
    ls.save_probe(fit_probe(acts, SITE), tmp_path / "narrow")
    with pytest.raises(LensSteerError, match="made on 'organism/none' \\(d_model 64\\)"):
        ls.load_probe(tmp_path / "narrow", qwen)
    from dataclasses import replace

    ls.save_probe(replace(honest, model="organism/other"), tmp_path / "other")
    with pytest.raises(
        LensSteerError, match="was fitted on 'other' and the model is 'qwen2': fit a probe on this model"
    ):
        ls.load_probe(tmp_path / "other", qwen)
    ls.save_probe(honest, tmp_path / "own")
    assert ls.load_probe(tmp_path / "own", qwen).threshold == honest.threshold


def test_methods_that_need_a_calibration_refuse_a_probe(honest: Any) -> None:
    """And the function's names serve as well as the short ones."""
    from lens_steer.evaluation.conditions import probe_grid
    from lens_steer.steer.methods import make_plan

    assert make_plan("mirror_projection", honest, coefficient=2.0).method == "stmp"
    message = "method 'selective' needs a calibration, and a probe was given: use one of swfc, sttp, stmp"
    with pytest.raises(LensSteerError, match=message):
        make_plan("selective", honest)
    with pytest.raises(LensSteerError, match=message):
        probe_grid(honest, "selective")
