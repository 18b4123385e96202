"""Harmonic fits on responses whose amplitude and phase are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.harmonics import Response, anti_steerable, fit_harmonic, how_many_angles

GRID = [float(a) for a in range(0, 360, 10)]
THETA = np.deg2rad(GRID)


@given(st.floats(-5, 5), st.floats(0.01, 10), st.floats(0, 359.9))
def test_what_was_put_in_comes_out(mean: float, amplitude: float, phase: float) -> None:
    """Exactly, from any three angles or from all; the phase is where the score is highest."""
    y = mean + amplitude * np.cos(THETA - np.deg2rad(phase))
    for used in (slice(None), [0, 7, 20]):
        fit = fit_harmonic(np.array(GRID)[used].tolist(), y[None, used])
        assert fit.mean[0] == pytest.approx(mean, abs=1e-8)
        assert fit.amplitude[0] == pytest.approx(amplitude, rel=1e-8)
        assert np.cos(np.deg2rad(fit.phase[0] - phase)) == pytest.approx(1, abs=1e-9)
        assert fit.r2[0] == pytest.approx(1)
        assert fit.at(GRID)[0] == pytest.approx(y, abs=1e-7)


def test_intervals_cover() -> None:
    """With noise, the 95 % intervals of amplitude and phase hold the truth about 95 times in 100."""
    rng = np.random.default_rng(0)
    truth = 2 * np.cos(THETA - np.deg2rad(70))
    fit = fit_harmonic(GRID, truth + rng.normal(0, 0.7, (2000, len(GRID))))
    rows = fit.rows()
    for low, high, value in (("amplitude_low", "amplitude_high", 2.0), ("phase_low", "phase_high", 70.0)):
        covered = np.mean([row[low] <= value <= row[high] for row in rows])
        assert 0.93 < covered < 0.97
    assert 0.6 < np.median(fit.r2) < 0.95


def test_a_second_harmonic_is_not_held() -> None:
    """R² is the first harmonic's share of the variance; a flat score has nothing to explain."""
    y = np.stack([np.cos(2 * THETA), np.cos(THETA) + np.cos(2 * THETA), np.ones_like(THETA)])
    assert fit_harmonic(GRID, y).r2 == pytest.approx([0, 0.5, 1], abs=1e-9)


def test_zero_and_full_turn_count_once() -> None:
    """0° and 360° are one angle."""
    y = np.cos(THETA)[None]
    closed = fit_harmonic([*GRID, 360.0], np.concatenate([y, y[:, :1]], axis=1))
    assert len(closed.angles) == len(GRID)


def test_a_response_holds_what_is_fitted_to_its_scores() -> None:
    """A prompt that follows its harmonic exactly has R² 1, the planted phase, and no error from few angles."""
    scores = 2 + 3 * np.cos(THETA - np.deg2rad(40))[None]
    found = Response.of(GRID, np.array([2.0]), scores)
    np.testing.assert_allclose((found.fit.r2[0], found.fit.amplitude[0], found.fit.phase[0]), (1, 3, 40), atol=1e-9)
    assert found.few and max(row["error"] for row in found.few) < 1e-9
    assert (found.plain.tolist(), found.scores is scores) == ([2.0], True)
    with pytest.raises(LensSteerError, match="angles"):
        Response.of(GRID[:2], np.array([2.0]), scores[:, :2])


def test_few_angles_do_for_a_pure_harmonic_and_not_for_another() -> None:
    """Three angles alias what five do not."""
    pure = how_many_angles(GRID, np.cos(THETA)[None])
    assert [row["n_angles"] for row in pure] == [3, 4, 6, 9, 12, 18]
    assert max(row["error"] for row in pure) < 1e-9
    mixed = how_many_angles(GRID, (np.cos(THETA) + np.cos(2 * THETA))[None])
    assert mixed[0]["error"] > 1 > mixed[-1]["error"]


def test_anti_steerable() -> None:
    """Counts the prompts that go the wrong way; a tie is not one."""
    found = anti_steerable(np.array([1.0, 1.0, 1.0, 1.0]), np.array([0.0, 2.0, 1.0, -1.0]))
    assert (found.value, found.n) == (0.25, 4)
    with pytest.raises(LensSteerError, match="plain is empty"):
        anti_steerable(np.array([]), np.array([]))


def test_too_few_angles() -> None:
    """Said with the angles; so are scores that are not finite."""
    with pytest.raises(LensSteerError, match="needs three different angles"):
        fit_harmonic([0, 360, 90], np.zeros((1, 3)))
    with pytest.raises(LensSteerError, match="not finite"):
        fit_harmonic([0, 90, 180], np.array([[0.0, np.nan, 1.0]]))
