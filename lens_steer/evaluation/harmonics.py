"""Harmonic response: the effect of a rotation on a prompt's score, as three numbers for each prompt.

SS rotates the in-plane part of an activation by θ, so a linear readout of it is a first harmonic of θ:
``score(θ) = m + a cos θ + b sin θ = m + A cos(θ − φ)``. R² tells how well a measured score follows this form. The
amplitude A tells how far a prompt can be steered at all, and the phase φ is the angle at which its score is highest.
These numbers replace a single best angle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens_steer.errors import LensSteerError
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import clustered_rate

PARAMETERS = 3
Degrees = Sequence[float] | Sequence[int]


@dataclass(frozen=True)
class HarmonicFit:
    """The first harmonics of several prompts' scores, one entry for each prompt.

    Attributes:
        mean, amplitude, phase: The parameters of each prompt; the phase is in degrees, 0 … 360.
        amplitude_se, phase_se: The standard errors (least squares, delta method), that of the phase in degrees; NaN
            with three angles.
        r2: The share of the score's variance over the angle that the harmonic explains; 1 for a score that does not
            vary.
        angles: The angles of the fit, sorted.
        columns: The columns of the given scores that belong to these angles.
    """

    mean: Float[np.ndarray, " n"]
    amplitude: Float[np.ndarray, " n"]
    phase: Float[np.ndarray, " n"]
    amplitude_se: Float[np.ndarray, " n"]
    phase_se: Float[np.ndarray, " n"]
    r2: Float[np.ndarray, " n"]
    angles: tuple[float, ...]
    columns: tuple[int, ...]

    def at(self, angles: Degrees) -> Float[np.ndarray, "n angles"]:
        """Return the fitted scores at any angles."""
        turned = np.deg2rad(np.asarray(angles, dtype=np.float64)[None] - self.phase[:, None])
        return self.mean[:, None] + self.amplitude[:, None] * np.cos(turned)

    def rows(self) -> list[dict[str, float | int]]:
        """Return one row for each prompt, with 95 % intervals of amplitude and phase."""
        from scipy.stats import t

        z = float(t.ppf(0.975, max(1, len(self.angles) - PARAMETERS)))
        return [
            {
                "prompt": i,
                "mean": float(self.mean[i]),
                "amplitude": float(self.amplitude[i]),
                "amplitude_low": float(max(0.0, self.amplitude[i] - z * self.amplitude_se[i])),
                "amplitude_high": float(self.amplitude[i] + z * self.amplitude_se[i]),
                "phase": float(self.phase[i]),
                "phase_low": float(self.phase[i] - z * self.phase_se[i]),
                "phase_high": float(self.phase[i] + z * self.phase_se[i]),
                "r2": float(self.r2[i]),
            }
            for i in range(len(self.mean))
        ]


def fit_harmonic(angles: Degrees, scores: Float[np.ndarray, "n angles"]) -> HarmonicFit:
    """Fit ``m + a cos θ + b sin θ`` by least squares, for every prompt at once.

    Args:
        angles: The angles in degrees; 0 and 360 are one angle and count once.
        scores: The scores, one row for each prompt.

    Raises:
        LensSteerError: If there are fewer than three different angles, or scores are not finite.

    >>> fit = fit_harmonic([0, 90, 180, 270], np.array([[3.0, 1.0, -1.0, 1.0]]))
    >>> (
    ...     round(float(fit.mean[0]), 6),
    ...     round(float(fit.amplitude[0]), 6),
    ...     round(float(fit.phase[0]), 6) % 360,
    ...     round(float(fit.r2[0]), 6),
    ... )
    (1.0, 2.0, 0.0, 1.0)
    """
    wrapped = np.asarray(angles, dtype=np.float64) % 360
    kept = np.unique(np.round(wrapped, 9), return_index=True)[1]
    if len(kept) < PARAMETERS:
        raise LensSteerError(
            f"angles={list(angles)!r}: a harmonic has three parameters and needs three different angles"
        )
    if not np.isfinite(scores).all():
        raise LensSteerError("scores holds entries that are not finite: drop the prompts that have them")
    theta, y = np.deg2rad(wrapped[kept]), np.asarray(scores, dtype=np.float64)[:, kept]
    design = np.stack([np.ones_like(theta), np.cos(theta), np.sin(theta)], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    m, a, b = inverse @ design.T @ y.T
    amplitude = np.hypot(a, b)
    residual = y - (design @ np.stack([m, a, b])).T
    spread = ((y - y.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    left = (residual**2).sum(axis=1)
    r2 = np.where(spread > 0, 1 - left / np.where(spread > 0, spread, 1), 1.0)
    freedom = len(theta) - PARAMETERS
    variance = left / freedom if freedom else np.full(len(y), np.nan)
    safe = np.where(amplitude > 0, amplitude, np.nan)
    along, across = np.stack([a, b]) / safe, np.stack([-b, a]) / safe
    covariance = inverse[1:, 1:]
    amplitude_se = np.sqrt(variance * np.einsum("in,ij,jn->n", along, covariance, along))
    phase_se = np.rad2deg(np.sqrt(variance * np.einsum("in,ij,jn->n", across, covariance, across)) / safe)
    return HarmonicFit(
        m,
        amplitude,
        np.rad2deg(np.arctan2(b, a)) % 360,
        amplitude_se,
        phase_se,
        r2,
        tuple(wrapped[kept].tolist()),
        tuple(kept.tolist()),
    )


def anti_steerable(
    plain: Float[np.ndarray, " n"], steered: Float[np.ndarray, " n"], clusters: Sequence[str | None] | None = None
) -> Estimate:
    """Return the share of prompts whose score rises under steering that should lower it, with its Wilson interval.

    An example is a refusal score under an angle that elicits compliance. Source of the notion: Tan et al. (arXiv
    2407.12404). Where prompts share clusters, the interval is that of :func:`lens_steer.stats.rates.clustered_rate`.

    Args:
        plain, steered: The scores of the prompts without and with steering.
        clusters: The name of each prompt's cluster; None for a prompt that is a cluster alone, or instead of all names.

    >>> print(anti_steerable(np.array([1.0, 2.0]), np.array([0.0, 3.0])))
    0.500 [0.095, 0.905] (n = 2)

    Raises:
        LensSteerError: If there is no prompt.
    """
    if not len(plain):
        raise LensSteerError("plain is empty: give at least one prompt's score")
    return clustered_rate((steered > plain).tolist(), clusters)


@dataclass(frozen=True)
class Response:
    """The refusal scores of a class over the angle.

    Attributes:
        plain: The scores without steering, by prompt.
        scores: The scores by prompt and angle.
        fit: The first harmonics of the scores.
        few: The errors of harmonics from few angles, see :func:`how_many_angles`.
    """

    plain: Float[np.ndarray, " n"]
    scores: Float[np.ndarray, "n angles"]
    fit: HarmonicFit
    few: list[dict[str, float | int]]

    @staticmethod
    def of(angles: Degrees, plain: Float[np.ndarray, " n"], scores: Float[np.ndarray, "n angles"]) -> Response:
        """Fit the harmonics of measured scores; see :func:`fit_harmonic`."""
        return Response(plain, scores, fit_harmonic(angles, scores), how_many_angles(angles, scores))


def how_many_angles(angles: Degrees, scores: Float[np.ndarray, "n angles"]) -> list[dict[str, float | int]]:
    """Measure how well a harmonic from few evenly spaced angles predicts the scores at the other angles.

    There is one row for each number of angles that divides the grid evenly; there are none if the grid is not even.
    ``error`` is the root mean square error at the angles left out, divided by the standard deviation of the scores
    there around each prompt's mean, and averaged over all positions of the first angle. ``amplitude_error`` is the mean
    error of the amplitude, relative to the mean amplitude of the whole grid.

    >>> grid = [30.0 * i for i in range(12)]
    >>> exact = np.cos(np.deg2rad(grid))[None]
    >>> [(row["n_angles"], round(row["error"], 6)) for row in how_many_angles(grid, exact)]
    [(3, 0.0), (4, 0.0), (6, 0.0)]
    """
    wrapped = np.asarray(angles, dtype=np.float64) % 360
    kept = np.unique(np.round(wrapped, 9), return_index=True)[1]
    grid, y = wrapped[kept], np.asarray(scores, dtype=np.float64)[:, kept]
    if not np.allclose(np.diff(grid), 360 / len(grid)):
        return []  # the grid is not even around the circle, so it has no evenly spaced subsets
    whole = fit_harmonic(grid.tolist(), y)
    found = []
    for n in range(PARAMETERS, len(grid)):
        if len(grid) % n:
            continue
        step, errors, amplitudes = len(grid) // n, [], []
        for offset in range(step):
            used = np.arange(offset, len(grid), step)
            rest = np.setdiff1d(np.arange(len(grid)), used)
            fit = fit_harmonic(grid[used].tolist(), y[:, used])
            spread = np.sqrt(((y[:, rest] - y.mean(axis=1, keepdims=True)) ** 2).mean())
            errors.append(float(np.sqrt(((fit.at(grid[rest].tolist()) - y[:, rest]) ** 2).mean()) / (spread or 1.0)))
            amplitudes.append(float(np.abs(fit.amplitude - whole.amplitude).mean() / (whole.amplitude.mean() or 1.0)))
        found.append({"n_angles": n, "error": float(np.mean(errors)), "amplitude_error": float(np.mean(amplitudes))})
    return found
