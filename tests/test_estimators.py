"""Estimators of the direction: planted directions, oracles, how they turn with the data, and calibrations made with
them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression

from lens_steer.errors import LensSteerError
from lens_steer.geometry import estimators
from lens_steer.geometry.calibration import calibrate
from lens_steer.geometry.directions import candidate_directions, class_means
from lens_steer.geometry.estimators import (
    ESTIMATORS,
    check_classes,
    fisher,
    logistic,
    paired_pca,
    site_directions,
    sparse,
)
from lens_steer.inference.record import Activations
from tests.made import origin

NAMES = tuple(ESTIMATORS)
ROTATED = ("difference", "fisher", "paired_pca", "logistic")  # the basis does not matter to these


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


def two_classes(direction: torch.Tensor, shift: float, n: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Isotropic noise of size 1 around ±shift along a direction, away from the origin."""
    d_model = len(direction)
    noise, offset = randn(2 * n, d_model, seed=seed), randn(d_model, seed=seed + 1)
    return noise[:n] + shift * direction + offset, noise[n:] - shift * direction + offset


def small(n: int = 30, d_model: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes with noise of another size along every axis."""
    x, y = two_classes(unit(torch.ones(d_model, dtype=torch.float64)), 0.8, n, seed=seed)
    sizes = torch.linspace(0.5, 2, d_model, dtype=torch.float64)
    return x * sizes, y * sizes


@pytest.mark.parametrize("name", ROTATED)
def test_planted_direction_in_isotropic_noise(name: str) -> None:
    """1000 prompts a class, 64 dimensions, classes 3 apart: cosine of at least 0.95 with a dense direction."""
    direction = unit(randn(64, seed=9))
    assert float(ESTIMATORS[name](*two_classes(direction, 1.5, 1000)) @ direction) >= 0.95


def test_sparse_finds_the_support() -> None:
    """Three planted coordinates of 64: their cosine, they are the largest three, and a strong penalty leaves them
    alone.
    """
    direction = torch.zeros(64, dtype=torch.float64)
    direction[[3, 20, 41]] = unit(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    classes = two_classes(direction, 1.5, 1000)
    found = sparse(*classes)
    assert float(found @ direction) >= 0.95
    assert sorted(found.abs().topk(3).indices.tolist()) == [3, 20, 41]
    strong = sparse(*classes, C=0.02)
    assert strong.nonzero().flatten().tolist() == [3, 20, 41]
    assert int(torch.count_nonzero(strong)) < int(torch.count_nonzero(found)) < 64


def test_fisher_beats_the_difference_in_anisotropic_noise() -> None:
    """Noise thirty times larger in five directions: its sampling error swamps the difference of means, on held-out
    prompts too.
    """
    direction, d_model, n = unit(randn(48, seed=3)), 48, 200
    loud = torch.linalg.qr(torch.cat([direction[:, None], randn(d_model, 5, seed=4)], dim=1))[0][:, 1:]

    def drawn(seed: int) -> list[torch.Tensor]:
        return [
            side + 30 * randn(n, 5, seed=seed + k) @ loud.T
            for k, side in enumerate(two_classes(direction, 1.0, n, seed=seed), 5)
        ]

    fit, held_out = drawn(0), drawn(100)
    found = {name: ESTIMATORS[name](*fit) for name in ("difference", "fisher")}
    assert float(found["fisher"] @ direction) > 0.9
    assert float(found["difference"] @ direction) < 0.5
    right = {k: float((held_out[0] @ v > (held_out[1] @ v).median()).double().mean()) for k, v in found.items()}
    assert right["fisher"] > 0.95
    assert right["difference"] < 0.8


def test_paired_pca_needs_its_pairs() -> None:
    """A nuisance common to each pair cancels; the same prompts paired at random give the nuisance instead."""
    direction, n = unit(randn(40, seed=5)), 60
    common = 10 * randn(n, 1, seed=6) * unit(randn(40, seed=7)) + randn(n, 40, seed=8)
    positive = common + direction + 0.1 * randn(n, 40, seed=10)
    negative = common - direction + 0.1 * randn(n, 40, seed=11)
    assert float(paired_pca(positive, negative) @ direction) >= 0.95
    assert float(paired_pca(positive, negative.roll(1, dims=0)) @ direction) < 0.5


def test_difference_is_the_candidate() -> None:
    """The same numbers as the rows of a calibration, one site at a time."""
    x, y = randn(20, 5, 9, seed=0), randn(25, 5, 9, seed=1)
    expected = candidate_directions(*class_means(x, y))
    for k in range(5):
        assert torch.allclose(ESTIMATORS["difference"](x[:, k], y[:, k]), expected[k], atol=1e-14)
    assert torch.equal(site_directions("difference", x, y), expected)


@pytest.mark.parametrize(("n_positive", "n_negative", "d_model"), [(5, 7, 40), (12, 9, 21), (60, 40, 15), (3, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fisher_against_a_dense_solve(n_positive: int, n_negative: int, d_model: int, dtype: torch.dtype) -> None:
    """Scikit-learn's shrunk covariance, inverted whole, with fewer and with more samples than dimensions; its intensity
    too.
    """
    sizes = torch.linspace(0.1, 5, d_model, dtype=torch.float64)
    x, y = (
        (randn(n_positive, d_model, seed=1) * sizes + 1).to(dtype),
        (randn(n_negative, d_model, seed=2) * sizes).to(dtype),
    )
    a, b = x.double().numpy(), y.double().numpy()
    residuals = np.concatenate([a - a.mean(0), b - b.mean(0)])
    covariance: Any = LedoitWolf(assume_centered=True).fit(residuals).covariance_
    expected = np.linalg.solve(covariance, a.mean(0) - b.mean(0))
    assert np.allclose(fisher(x, y), expected / np.linalg.norm(expected), atol=1e-9)
    if d_model > 1:
        variances = torch.linalg.svdvals(torch.from_numpy(residuals)).square() / len(residuals)
        own = estimators._ledoit_wolf(torch.from_numpy(residuals), variances)
        assert own == pytest.approx(ledoit_wolf_shrinkage(residuals, assume_centered=True), abs=1e-12)


def test_fisher_without_a_spread_and_without_an_intensity() -> None:
    """No residuals: the difference of means. Residuals that are all alike (intensity 0): the part of it that has no
    spread at all.
    """
    x = torch.tensor([[1.0, 2.0, 0.0]] * 3)
    assert torch.allclose(fisher(x, torch.zeros(2, 3)), unit(x[0].double()))
    spread = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    found = fisher(spread + torch.tensor([3.0, 4.0, 5.0]), spread)
    assert torch.allclose(found, torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize(("n", "d_model", "C"), [(30, 12, 1.0), (15, 50, 1.0), (15, 50, 0.01)])
def test_logistic_against_scikit_learn(n: int, d_model: int, C: float) -> None:
    """The full problem by L-BFGS, on raw features."""
    x, y = small(n, d_model)
    labels = np.repeat([1, 0], n)
    oracle: Any = LogisticRegression(C=C, tol=1e-10, max_iter=20_000).fit(torch.cat([x, y]).numpy(), labels)
    assert np.allclose(logistic(x, y, C=C), oracle.coef_[0] / np.linalg.norm(oracle.coef_[0]), atol=1e-4)


def test_sparse_is_at_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimality of the L1 problem on scaled features: gradient ±1 where a coordinate is not zero, at most that
    elsewhere, 0 for the intercept.
    """
    seen: dict[str, Any] = {}
    original = LogisticRegression.fit

    def spy(self: Any, features: Any, labels: Any, **how: Any) -> Any:
        seen.update(model=original(self, features, labels, **how), features=features, labels=labels)
        return seen["model"]

    monkeypatch.setattr(LogisticRegression, "fit", spy)
    x, y = small(40, 30)
    y = y[:25]
    found = sparse(x, y, C=0.5)
    weight, features = seen["model"].coef_[0], seen["features"]
    errors = expit(features @ weight + seen["model"].intercept_) - seen["labels"]
    gradient = 0.5 * features.T @ errors
    assert abs(errors.sum()) < 0.01
    assert 0 < np.count_nonzero(weight) < 30
    assert np.abs(gradient).max() < 1 + 1e-3
    assert np.allclose(np.abs(gradient[weight != 0]), 1, atol=1e-3)
    pooled = ((39 * x.var(dim=0) + 24 * y.var(dim=0)) / 63).sqrt().numpy()
    assert np.allclose(found, unit(torch.from_numpy(weight / pooled)), atol=1e-12)


def test_sparse_features_without_a_spread() -> None:
    """Constant everywhere: left out. Constant within each class but different between them: kept, and nothing is
    infinite.
    """
    x, y = small(20, 6)
    x[:, 0], y[:, 0] = 7.0, 7.0
    found = sparse(x, y)
    assert bool(found.isfinite().all())
    assert float(found[0]) == 0
    x[:, 0] = 9.0
    assert float(sparse(x, y)[0]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_unit_length_and_sign(name: str) -> None:
    """Unit, float64, the positive mean higher; swapping the classes flips the sign."""
    x, y = small()
    found = ESTIMATORS[name](x.float(), y.float())
    assert found.dtype == torch.float64
    assert float(found.norm()) == pytest.approx(1)
    assert float(found @ (x.mean(dim=0) - y.mean(dim=0))) > 0
    assert torch.allclose(ESTIMATORS[name](y.float(), x.float()), -found, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_translation(name: str) -> None:
    """A common offset changes nothing."""
    x, y = small()
    offset = 20 * randn(12, seed=4)
    assert torch.allclose(
        ESTIMATORS[name](x + offset, y + offset), ESTIMATORS[name](x, y), atol=1e-3 if name == "sparse" else 1e-6
    )


@pytest.mark.parametrize("name", ["difference", "fisher", "paired_pca", "sparse"])
def test_scaling(name: str) -> None:
    """A common factor changes nothing."""
    x, y = small()
    assert torch.allclose(
        ESTIMATORS[name](50 * x, 50 * y), ESTIMATORS[name](x, y), atol=1e-3 if name == "sparse" else 1e-9
    )


def test_scaling_of_the_two_regressions() -> None:
    """L2 on raw features: a factor s is a C that is s² times as large. L1 on scaled features: a factor a feature
    divides its weight.
    """
    x, y = small()
    assert torch.allclose(logistic(3 * x, 3 * y), logistic(x, y, C=9), atol=1e-6)
    assert not torch.allclose(logistic(3 * x, 3 * y), logistic(x, y), atol=1e-3)
    sizes = torch.linspace(0.2, 5, 12, dtype=torch.float64)
    assert torch.allclose(sparse(x * sizes, y * sizes), unit(sparse(x, y) / sizes), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_rotation(name: str) -> None:
    """A rotation of the activations rotates the direction, of all but the sparse one."""
    x, y = small()
    turn = torch.linalg.qr(randn(12, 12, seed=8))[0]
    same = torch.allclose(ESTIMATORS[name](x @ turn, y @ turn), ESTIMATORS[name](x, y) @ turn, atol=1e-6)
    assert same == (name in ROTATED)


@pytest.mark.parametrize("name", NAMES)
def test_equal_means_give_zero(name: str) -> None:
    """Whatever the spread."""
    x = randn(10, 6, seed=0)
    assert torch.equal(ESTIMATORS[name](x, x), torch.zeros(6, dtype=torch.float64))
    assert torch.equal(ESTIMATORS[name](x[:1].expand(4, -1), x[:1].expand(4, -1)), torch.zeros(6, dtype=torch.float64))


def test_paired_pca_with_a_mean_across_the_component() -> None:
    """The mean difference does not project on the component at all: its largest entry is positive."""
    found = paired_pca(torch.tensor([[-9.0, 1.0], [9.0, 1.0]]), torch.zeros(2, 2))
    assert found.tolist() == [1.0, 0.0]


def test_sparse_penalty_that_leaves_nothing() -> None:
    """Zero coordinates, and so no direction."""
    assert int(torch.count_nonzero(sparse(*small(), C=1e-4))) == 0


BAD: list[tuple[Callable[[], object], str]] = [
    (
        lambda: site_directions("median", *(side[:, None] for side in small())),
        "direction='median': use one of difference, fisher, paired_pca, logistic, sparse",
    ),
    (lambda: check_classes("median", 5, 5), "direction='median'"),
    (lambda: check_classes("fisher", 5, 1), "negative holds 1 prompts.*at least two of each class"),
    (lambda: check_classes("paired_pca", 5, 4), "pairs prompts in their order, found 5 positive and 4 negative"),
    (
        lambda: paired_pca(randn(5, 3, seed=0), randn(4, 3, seed=1)),
        "found 5 positive and 4 negative.*another estimator",
    ),
    (lambda: logistic(*small(), C=0.0), "C=0.0: the inverse strength"),
    (lambda: sparse(*small(), C=-1), "C=-1: the inverse strength"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call: Callable[[], object], message: str) -> None:
    """Named, with the value and the mend."""
    with pytest.raises(LensSteerError, match=message):
        call()


@pytest.mark.parametrize("name", NAMES)
def test_samples_that_no_estimator_takes(name: str) -> None:
    """One sample, or a value that is not finite."""
    x, y = small()
    with pytest.raises(LensSteerError, match="positive holds 1 prompts: an estimated direction needs at least two"):
        ESTIMATORS[name](x[:1], y)
    y[3, 2] = torch.nan
    with pytest.raises(LensSteerError, match="negative holds values that are not finite"):
        ESTIMATORS[name](x, y)


def test_one_prompt_a_class_is_enough_for_the_default() -> None:
    """As it has always been."""
    check_classes("difference", 1, 1)


def recorded(n_positive: int = 25, n_negative: int = 25) -> Activations:
    """Six sites, the first without a difference but for rounding, noise of another size along every axis."""
    names = tuple(f"blocks.{b}.{k}.hook_out" for b in range(3) for k in ("ln1", "ln2"))
    sizes, offset = torch.linspace(0.3, 2, 10, dtype=torch.float64), randn(6, 10, seed=1)
    sides = []
    for n, sign, seed in ((n_positive, 1, 2), (n_negative, -1, 3)):
        side = (
            sizes * (sign * 0.6 * unit(torch.ones(10, dtype=torch.float64)) + randn(n, 6, 10, seed=seed)) + 0.1 * offset
        )
        side[:, 0] = offset[0] + 1e-9 * randn(n, 10, seed=seed + 10)
        sides.append(side.float())
    return Activations(names, sides[0], sides[1], **origin(3))


@pytest.mark.parametrize("name", NAMES)
def test_calibration_by_an_estimator(name: str) -> None:
    """Candidates site by site, zero where the means are equal but for rounding; the rest follows from them; the
    estimator is recorded.
    """
    acts = recorded()
    made = calibrate(acts, direction=name)
    assert made.details["direction"] == name
    assert made.details["zero_candidates"] == 1
    assert torch.equal(made.candidates[0], torch.zeros(10))
    for k in range(1, 6):
        expected = ESTIMATORS[name](acts.positive[:, k], acts.negative[:, k])
        assert torch.allclose(made.candidates[k].double(), expected, atol=1e-6)
    assert torch.allclose(made.basis[0], made.candidates[made.selected_index], atol=1e-6)
    means = [(m.double() @ made.basis[0].double()).tolist() for m in class_means(acts.positive, acts.negative)]
    opposite = tuple(s for s, a, b in zip(made.sites, *means, strict=True) if a * b < 0)
    assert made.discriminative_sites == opposite


def test_the_default_is_the_difference() -> None:
    """Bit for bit, with the option and without."""
    acts = recorded(20, 31)
    plain, named = calibrate(acts), calibrate(acts, direction="difference")
    assert torch.equal(plain.candidates, candidate_directions(*class_means(acts.positive, acts.negative)).float())
    assert torch.equal(plain.candidates, named.candidates)
    assert torch.equal(plain.basis, named.basis)
    assert plain.details == named.details
    assert not torch.allclose(calibrate(acts, direction="fisher").candidates, plain.candidates, atol=1e-2)


def test_an_option_goes_by_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial in the table can be named."""
    monkeypatch.setitem(ESTIMATORS, "few", partial(sparse, C=0.25))
    few, many = calibrate(recorded(), direction="few"), calibrate(recorded(), direction="sparse")
    assert int(torch.count_nonzero(few.candidates)) < int(torch.count_nonzero(many.candidates))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "median"}, "direction='median': use one of"),
        (
            {"direction": "fisher", "candidate_norm": "raw"},
            "candidate_norm='raw' is a scaling.*use candidate_norm='unit'",
        ),
        ({"direction": "fisher", "candidate_norm": "sample_unit"}, "candidate_norm='sample_unit' is a scaling"),
    ],
)
def test_bad_options_of_a_calibration(options: dict[str, Any], message: str) -> None:
    """Named before anything is estimated."""
    with pytest.raises(LensSteerError, match=message):
        calibrate(recorded(), **options)


def test_pairs_of_a_calibration() -> None:
    """Classes of different size."""
    with pytest.raises(LensSteerError, match="found 25 positive and 24 negative"):
        calibrate(recorded(25, 24), direction="paired_pca")


@pytest.mark.filterwarnings("error")
def test_no_warning_is_raised() -> None:
    """Scikit-learn is asked as its current release wants to be."""
    for name in NAMES:
        ESTIMATORS[name](*small())
