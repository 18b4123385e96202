"""How a claim about side effects gets its result: by an interval at the study's level, or reported with a note."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import bootstrap_mean
from lens_steer.studies.claim import REPORTED, Claim
from lens_steer.studies.externalities import claim_texts as texts
from lens_steer.studies.externalities.conditions import CONTROL
from lens_steer.studies.externalities.found import Externalities
from lens_steer.studies.verdicts import effect_verdict

LEAST = 5  # smallest number of responses; with fewer, a bootstrap interval is too narrow to decide a claim


def decided(
    claim: Claim,
    e: Estimate,
    said: str | None = None,
    *,
    smallest: float | None = None,
    seen: bool = True,
    **witness: Any,
) -> Claim:
    """Add a result to a claim; None decides it by its criterion, an interval above or below 0."""
    if said is None:
        said = effect_verdict(e, below=claim.criterion == texts.BELOW, smallest=smallest, seen=seen)
    return replace(claim, value=e.value, n=e.n, interval=(e.low, e.high), verdict=said, witness=witness)


def reported(claim: Claim, note: str, *, n: int = 0, **witness: Any) -> Claim:
    """Return a claim without a verdict; the note says why it has none."""
    return replace(claim, n=n, verdict=REPORTED, witness={"note": note, **witness})


def by_mean(claim: Claim, values: np.ndarray, found: Externalities) -> Claim:
    """Decide a claim by the mean of one value for each response."""
    return too_few(claim, len(values)) if len(values) < LEAST else decided(claim, mean_of(values, found))


def mean_of(values: np.ndarray, found: Externalities) -> Estimate:
    """Return the mean with a bootstrap interval at the study's level."""
    return bootstrap_mean(values, seed=found.seed, level=found.level)


def too_few(claim: Claim, n: int) -> Claim:
    return reported(claim, f"{n} responses are long enough: at least {LEAST} are needed", n=n)


def key_of(name: str) -> str:
    """Return the name of a steering in the id of a claim."""
    return "control" if name == CONTROL else name


def listed(e: Estimate) -> list[float]:
    return [e.value, e.low, e.high]
