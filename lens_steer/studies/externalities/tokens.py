"""Divergence by response token on fixed harmful and benign responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer._defaults import ENGINE
from lens_steer.data import PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.unembedding import MEASURES
from lens_steer.metrics.token_divergence import TokenDivergence, token_divergence
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import bootstrap_mean
from lens_steer.steer.plans import SteeringPlan

HARMFUL, BENIGN = "harmful", "benign"
START = 3  # number of tokens that form the start of a response; all others are later tokens
STARTS = (1, 2, 3, 4, 5, 8)  # numbers of first tokens that are reported beside a claim about START
LEAST_LATER = 3  # smallest number of later tokens for a slope
Divergences = Mapping[tuple[str, str], TokenDivergence]  # (condition, set of responses)


def divergences(
    model: Any,
    plans: Mapping[str, SteeringPlan],
    responses: Mapping[str, PromptSet],
    *,
    engine: str = ENGINE,
    progress: bool = False,
) -> dict[tuple[str, str], TokenDivergence]:
    """Measure the divergence of every plan on every set of responses that is not empty.

    See :func:`lens_steer.metrics.token_divergence.token_divergence`.
    """
    return {
        (condition, name): token_divergence(
            model, plan, prompts, [p.response or "" for p in prompts], engine=engine, progress=progress
        )
        for condition, plan in plans.items()
        for name, prompts in responses.items()
        if len(prompts)
    }


def over_draws(found: Divergences, groups: Mapping[str, str]) -> dict[tuple[str, str], TokenDivergence]:
    """Average the draws of a control into one condition.

    Each measure of the steered model's distribution is averaged over the draws, token by token. Other conditions stay
    as they are.

    Args:
        found: The divergence of every condition, by its name and the set of responses.
        groups: The name of the one condition, by the names of its draws.
    """
    kept: dict[tuple[str, str], TokenDivergence] = {}
    draws: dict[tuple[str, str], list[TokenDivergence]] = {}
    for (condition, responses), one in found.items():
        if condition in groups:
            draws.setdefault((groups[condition], responses), []).append(one)
        else:
            kept[condition, responses] = one
    means = {
        key: replace(group[0], **{m: np.mean([getattr(one, m) for one in group], axis=0) for m in MEASURES})
        for key, group in draws.items()
    }
    return kept | means


def table(found: TokenDivergence) -> Float[np.ndarray, "n_prompts positions"]:
    """Return KL(unsteered ‖ steered) by prompt and position; NaN beyond the end of a response."""
    values = np.full((found.n_prompts, int(found.position.max()) + 1), np.nan)
    values[found.row, found.position] = found.kl
    return values


def start(found: TokenDivergence) -> Float[np.ndarray, " n"]:
    """Return the mean KL over the first 3 tokens by prompt; shorter responses are left out."""
    values = table(found)[:, :START]
    return values[np.isfinite(values).all(axis=1)].mean(axis=1) if values.shape[1] == START else np.empty(0)


def excess(found: TokenDivergence, *, n: int = START) -> Float[np.ndarray, " n"]:
    """Return the mean KL over the first ``n`` tokens less the mean over the later ones, by prompt.

    Responses without later tokens are left out.
    """
    values = table(found)
    if values.shape[1] <= n:
        return np.empty(0)
    values = values[np.isfinite(values[:, n])]
    return values[:, :n].mean(axis=1) - np.nanmean(values[:, n:], axis=1)


def excess_by_start(found: TokenDivergence) -> dict[int, float]:
    """Return the mean of :func:`excess` over responses, for each number of :data:`STARTS`.

    A number is left out if no response is longer.
    """
    values = {n: excess(found, n=n) for n in STARTS}
    return {n: float(v.mean()) for n, v in values.items() if len(v)}


def slopes(found: TokenDivergence) -> Float[np.ndarray, " n"]:
    """Return the least-squares slope of KL over the later tokens by prompt, in nats per token.

    Responses with fewer than 3 later tokens are left out.
    """
    kept = []
    for row in table(found)[:, START:]:
        y = row[np.isfinite(row)]
        if len(y) >= LEAST_LATER:
            # With centred positions x, the least-squares slope is Σ x y / Σ x²; the mean of y drops out.
            x = np.arange(len(y)) - (len(y) - 1) / 2
            kept.append(float(x @ y / (x @ x)))
    return np.array(kept, dtype=np.float64)


def gap(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"], *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Return the difference of two means over different prompts, with a bootstrap interval.

    The bootstrap resamples each set by itself. ``n`` is the sum of both numbers of values.

    >>> import numpy as np
    >>> print(gap(np.array([2.0, 2.0]), np.array([1.0, 1.0, 1.0])))
    1.000 [1.000, 1.000] (n = 5)

    Raises:
        LensSteerError: If a set has no values.
    """
    if not len(first) or not len(second):
        raise LensSteerError(f"{len(first)} and {len(second)} values: each set needs at least one")
    rng, tail = np.random.default_rng(seed), (1 - level) / 2
    resamples = max(2000, round(25 / tail))
    draws = [v[rng.integers(0, len(v), (resamples, len(v)))].mean(axis=1) for v in (first, second)]
    low, high = np.quantile(draws[0] - draws[1], [tail, 1 - tail])
    return Estimate(float(first.mean() - second.mean()), float(low), float(high), len(first) + len(second))


def by_position(found: Divergences, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row per condition, set of responses, measure and position.

    Positions count from 0. Each row has the mean over prompts, its interval and n.
    """
    return [
        {
            "condition": condition,
            "responses": name,
            "measure": measure,
            "position": t,
            "mean": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
        }
        for (condition, name), one in found.items()
        for measure in ("kl", "kl_reverse", "total_variation")
        for t, e in enumerate(one.by_position(measure, seed=seed))
    ]


def summary(found: Divergences, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row per condition and set of responses: KL at the start and later, and the slope of the later part.

    The start is the first 3 tokens, and the slope is taken over the later tokens. Each number is a mean over prompts
    with its interval.
    """
    rows = []
    for (condition, name), one in found.items():
        values = table(one)
        later = values[:, START:]
        later = later[np.isfinite(later).any(axis=1)]
        measured = {
            "start": start(one),
            "later": np.nanmean(later, axis=1) if len(later) else np.empty(0),
            "slope": slopes(one),
        }
        row: dict[str, Any] = {"condition": condition, "responses": name, "n": one.n_prompts - one.n_empty}
        for key, v in measured.items():
            e = bootstrap_mean(v, seed=seed) if len(v) else None
            row |= {key: e and e.value, f"{key}_low": e and e.low, f"{key}_high": e and e.high}
        rows.append(row)
    return rows
