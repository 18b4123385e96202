"""Agreement of two judges beyond chance."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from lens_steer.errors import LensSteerError
from lens_steer.metrics.judges.verdicts import Verdict
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import bootstrap
from lens_steer.stats.rates import wilson

UNDEFINED = "both judges gave the same one verdict throughout: kappa is undefined"
NOTHING = "no response has a verdict of both judges"


@dataclass(frozen=True)
class Agreement:
    """The agreement of two judges on the same responses.

    Attributes:
        kappa: Cohen's ``κ = (p_o − p_e) / (1 − p_e)`` with its 95 % bootstrap interval over responses. None if κ is
            undefined; ``note`` gives the reason.
        observed: ``p_o``, the share of responses with the same verdict, with its Wilson interval. None if no response
            has a verdict of both judges.
        n: The number of responses with a verdict of both judges.
        left_out: The number of responses for which at least one judge gave no readable verdict.
        undefined_resamples: The number of bootstrap resamples in which κ is undefined; the interval leaves them out.
        note: The reason why ``kappa`` is None; empty otherwise.
    """

    kappa: Estimate | None
    observed: Estimate | None
    n: int
    left_out: int
    undefined_resamples: int = 0
    note: str = ""


def agreement(a: Sequence[Verdict], b: Sequence[Verdict], *, resamples: int = 500, seed: int = 0) -> Agreement:
    """Return Cohen's kappa of the verdicts of two judges, with the quantities behind it.

    Args:
        a, b: The two judges' verdicts on the same responses, in the same order.
        resamples, seed: The number of resamples of the bootstrap, and its seed.

    Raises:
        LensSteerError: If there are no verdicts, or if the judges gave different numbers of them.

    Source: Cohen (1960), Educational and Psychological Measurement 20.

    >>> yes, no = Verdict(True, None, "yes"), Verdict(False, None, "no")
    >>> found = agreement([yes, yes, no, no], [yes, no, no, no])
    >>> found.kappa.value, found.observed.value, found.n
    (0.5, 0.75, 4)
    """
    if len(a) != len(b) or not a:
        raise LensSteerError(
            f"{len(a)} verdicts of one judge and {len(b)} of the other: give those of the same responses, at least one"
        )
    pairs = [
        (x.harmful, y.harmful) for x, y in zip(a, b, strict=True) if x.harmful is not None and y.harmful is not None
    ]
    left_out = len(a) - len(pairs)
    if not pairs:
        return Agreement(None, None, 0, left_out, note=NOTHING)
    first, second = np.array(pairs, dtype=bool).T
    observed = wilson(int((first == second).sum()), len(pairs))
    if np.isnan(_kappa(first, second)):
        return Agreement(None, observed, len(pairs), left_out, note=UNDEFINED)
    draws: list[float] = []

    def statistic(rows: Int[np.ndarray, " n"]) -> float:
        draws.append(_kappa(first[rows], second[rows]))
        return draws[-1]

    value = bootstrap(statistic, len(pairs), resamples=resamples, seed=seed).value
    # The bootstrap evaluates the statistic on the original rows last; that draw is the value, not a resample.
    low, high = np.nanquantile(draws[:resamples], [0.025, 0.975])
    return Agreement(
        Estimate(value, float(low), float(high), len(pairs)),
        observed,
        len(pairs),
        left_out,
        int(np.isnan(draws[:resamples]).sum()),
    )


def _kappa(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float:
    """Return Cohen's kappa, or NaN if chance agreement is 1: both judges give the same verdict to every response."""
    from sklearn.metrics import cohen_kappa_score

    if first.all() == second.all() and first.any() == second.any() and first.all() == first.any():
        return float("nan")
    return float(cohen_kappa_score(first, second))


def agreement_table(
    verdicts: Mapping[str, Sequence[Verdict]], *, resamples: int = 500, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the :func:`agreement` of every pair of judges, one flat row per pair, ready for a CSV file.

    Args:
        verdicts: The verdicts by the judge's name, on the same responses in the same order.
        resamples, seed: The number of resamples of the bootstrap, and its seed.

    Raises:
        LensSteerError: If there are fewer than two judges. Also for the reasons of :func:`agreement`.

    >>> yes, no = Verdict(True, None, "yes"), Verdict(False, None, "no")
    >>> [row] = agreement_table({"a": [yes, no], "b": [yes, no]})
    >>> row["judge_a"], row["judge_b"], row["kappa"], row["n"]
    ('a', 'b', 1.0, 2)
    """
    if len(verdicts) < 2:
        raise LensSteerError(
            f"verdicts of {len(verdicts)} judges ({', '.join(verdicts) or 'none'}): give at least two to compare"
        )
    rows = []
    for a, b in itertools.combinations(verdicts, 2):
        found = agreement(verdicts[a], verdicts[b], resamples=resamples, seed=seed)
        row: dict[str, Any] = {"judge_a": a, "judge_b": b}
        for name in ("kappa", "observed"):
            estimate: Estimate | None = getattr(found, name)
            row |= {
                f"{name}{end}": None if estimate is None else getattr(estimate, part)
                for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
        counts = {name: getattr(found, name) for name in ("n", "left_out", "undefined_resamples", "note")}
        rows.append(row | counts)
    return rows
