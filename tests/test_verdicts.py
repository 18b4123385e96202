"""Verdicts: planted effects and planted nulls get the verdict that they deserve, as often as the level says."""

from __future__ import annotations

import numpy as np
import pytest

from lens_steer.errors import LensSteerError
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import bootstrap_mean
from lens_steer.studies.verdicts import (
    HOLDS,
    INSENSITIVE,
    NOT_SHOWN,
    REFUTED,
    SMALLEST,
    change_verdict,
    effect_verdict,
    shows,
)


def outcomes(n: int, shared: float, first: float, second: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw paired 0/1 outcomes: right in both with probability ``shared``, in one alone with ``first``, ``second``."""
    u = np.random.default_rng(seed).random(n)
    return (u < shared + first).astype(float), ((u < shared) | (u > 1 - second)).astype(float)


def shares(n: int, shared: float, first: float, second: float, runs: int = 300) -> dict[str, float]:
    """Return how often each verdict falls on the claim that the first condition is right more often."""
    found = [effect_verdict(paired_difference(*outcomes(n, shared, first, second, s))) for s in range(runs)]
    return {v: found.count(v) / runs for v in set(found)}


def test_four_to_none_of_64_decides_nothing() -> None:
    """The exact test of the four pairs that differ has p = 0.125; a bootstrap of the differences called it decided."""
    first, second = np.repeat([1.0, 0.0], [4, 60]), np.zeros(64)
    assert bootstrap_mean(first - second).low > 0
    assert effect_verdict(paired_difference(first, second)) == NOT_SHOWN
    assert effect_verdict(paired_difference(second, first)) not in (REFUTED, HOLDS)


def test_a_planted_effect_holds() -> None:
    """And is called refuted or excluded next to never."""
    found = shares(64, 0.2, 0.4, 0.02)
    assert found[HOLDS] > 0.95
    assert found.get(REFUTED, 0) == 0


@pytest.mark.parametrize(("shared", "first", "second"), [(0.0, 0.02, 0.02), (0.5, 0.05, 0.05), (0.9, 0.05, 0.05)])
def test_a_planted_null_neither_holds_nor_is_refuted(shared: float, first: float, second: float) -> None:
    """Each false verdict is as rare as one tail of the level allows (2.5 %, and what 300 runs scatter)."""
    found = shares(64, shared, first, second)
    assert found.get(HOLDS, 0) <= 0.05
    assert found.get(REFUTED, 0) <= 0.05


def test_a_planted_null_is_excluded_with_enough_prompts() -> None:
    """64 prompts are too few to exclude a tenth; 1,000 are enough."""
    few, many = shares(64, 0.4, 0.1, 0.1), shares(1000, 0.4, 0.05, 0.05, runs=100)
    assert few[NOT_SHOWN] > 0.4
    assert many[f"EXCLUDED BEYOND {SMALLEST:g}"] > 0.9


@pytest.mark.parametrize(("shared", "first"), [(0.0, 0.05), (0.5, 0.05), (0.9, 0.04), (0.0, 0.03)])
def test_coverage_where_pairs_differ_one_way(shared: float, first: float) -> None:
    """Newcombe's interval holds the truth at its level; the bootstrap, which the propositions used, did not."""

    def covered(interval: object, runs: int = 400) -> float:
        made = [interval(*outcomes(64, shared, first, 0.0, s)) for s in range(runs)]  # type: ignore[operator]
        return float(np.mean([e.low <= first <= e.high for e in made]))

    assert covered(paired_difference) >= 0.93
    assert covered(lambda a, b: bootstrap_mean(a - b, resamples=400)) < 0.92


@pytest.mark.parametrize(
    ("effect", "below", "seen", "verdict"),
    [
        (Estimate(0.2, 0.01, 0.4, 9), False, True, HOLDS),
        (Estimate(-0.2, -0.4, -0.01, 9), True, False, HOLDS),
        (Estimate(-0.2, -0.4, -0.01, 9), False, False, REFUTED),  # an assay that sees the opposite is not blind
        (Estimate(0.0, -0.05, 0.05, 9), False, True, "EXCLUDED BEYOND 0.1"),
        (Estimate(0.0, -0.05, 0.05, 9), False, False, INSENSITIVE),
        (Estimate(0.0, -0.3, 0.3, 9), False, True, NOT_SHOWN),
        (Estimate(0.0, -0.3, 0.3, 9), True, False, INSENSITIVE),
        (Estimate(0.0, 0.0, 0.0, 9), False, True, "EXCLUDED BEYOND 0.1"),
    ],
)
def test_each_verdict(effect: Estimate, below: bool, seen: bool, verdict: str) -> None:
    """In both directions, with a positive control that was seen and one that was not."""
    assert effect_verdict(effect, below=below, seen=seen) == verdict


def test_without_a_smallest_effect_nothing_is_excluded() -> None:
    """However narrow the interval."""
    assert effect_verdict(Estimate(0.0, -1e-6, 1e-6, 9), smallest=None) == NOT_SHOWN


def test_a_change() -> None:
    """Either direction holds; the absence needs both ends inside, and an assay that could have seen it."""
    none = Estimate(0.0, -0.05, 0.05, 200)
    assert change_verdict(Estimate(0.2, 0.05, 0.4, 64)) == change_verdict(Estimate(-0.2, -0.4, -0.05, 64)) == HOLDS
    assert change_verdict(none) == "EXCLUDED BEYOND 0.1"
    assert change_verdict(none, seen=False) == INSENSITIVE
    assert change_verdict(Estimate(0.0, -0.2, 0.05, 64)) == NOT_SHOWN


def test_a_control_has_to_show_the_smallest_effect() -> None:
    """A rise that is only above zero could not have shown an effect of interest."""
    assert shows(Estimate(0.5, 0.1, 0.8, 64))
    assert not shows(Estimate(0.5, 0.09, 0.8, 64))


def test_the_smallest_effect_is_positive() -> None:
    """An effect of interest of no size would exclude nothing."""
    for judge in (effect_verdict, change_verdict):
        with pytest.raises(LensSteerError, match="smallest=0.0: give the smallest effect of interest, above 0"):
            judge(Estimate(0.0, -0.1, 0.1, 9), smallest=0.0)
