"""Area under the ROC curve: against scikit-learn, its interval's equation, and how often it covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lens_steer.stats.areas import auroc


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 40), (64, 64)])
@pytest.mark.parametrize("ties", [False, True])
def test_value_against_scikit_learn(m: int, n: int, ties: bool) -> None:
    """With and without tied scores; the other way round it is one minus that."""
    rng = np.random.default_rng(m + n)
    first, second = rng.normal(0.7, 1, m), rng.normal(0, 1, n)
    if ties:
        first, second = first.round(), second.round()
    found = auroc(first, second)
    oracle = roc_auc_score(np.repeat([1, 0], [m, n]), np.concatenate([first, second]))
    assert found.value == pytest.approx(float(oracle), abs=1e-12)
    assert found.low <= found.value <= found.high
    assert found.n == m + n
    back = auroc(second, first)
    assert (back.low, back.value, back.high) == pytest.approx(
        (1 - found.high, 1 - found.value, 1 - found.low), abs=1e-9
    )


@pytest.mark.parametrize(("m", "n", "shift"), [(10, 10, 0.0), (64, 64, 1.0), (5, 80, 2.0), (30, 4, -1.5)])
def test_ends_solve_the_equation(m: int, n: int, shift: float) -> None:
    """At both ends |θ − θ̂| is 1.96 standard errors of θ."""
    rng = np.random.default_rng(1)
    found = auroc(rng.normal(shift, 1, m), rng.normal(0, 1, n))
    for theta in (found.low, found.high):
        pairs = 1 + ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        error = math.sqrt(theta * (1 - theta) / (m * n) * pairs)
        assert abs(theta - found.value) / error == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 64, 1000])
def test_width_where_the_classes_are_apart(n: int) -> None:
    """At 1 and at 0; narrower with more scores; at 1/2 where all are tied."""
    apart, reverse = auroc(np.ones(n), np.zeros(n)), auroc(np.zeros(n), np.ones(n))
    assert apart.low < apart.value == apart.high == 1
    assert reverse.low == reverse.value == 0 < reverse.high
    assert auroc(np.ones(2 * n), np.zeros(2 * n)).low > apart.low > 0
    tied = auroc(np.ones(n), np.ones(n))
    assert tied.low < tied.value == 0.5 < tied.high


@pytest.mark.parametrize(("m", "n", "truth"), [(20, 20, 0.9), (64, 64, 0.75), (30, 10, 0.5), (25, 25, 0.97)])
def test_coverage(m: int, n: int, truth: float) -> None:
    """Normal scores a known area apart: the interval holds it in about 95 % of samples."""
    from statistics import NormalDist

    rng, shift = np.random.default_rng(0), math.sqrt(2) * NormalDist().inv_cdf(truth)
    found = [auroc(rng.normal(shift, 1, m), rng.normal(0, 1, n)) for _ in range(600)]
    assert 0.925 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.985


def test_bad_scores() -> None:
    """None of a class, or not finite."""
    with pytest.raises(ValueError, match="0 positive and 3 negative scores: an area needs at least one of each"):
        auroc(np.ones(0), np.ones(3))
    with pytest.raises(ValueError, match="not finite"):
        auroc(np.array([1.0, np.inf]), np.ones(3))
