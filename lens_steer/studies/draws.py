"""A method against the draws of a control: the difference, the rank, and the verdict that takes both."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer.evaluation.control_bands import band
from lens_steer.stats.clusters import Clusters
from lens_steer.stats.draws import less_mean_of_draws
from lens_steer.stats.estimates import Estimate
from lens_steer.studies.verdicts import LARGEST_P, SMALLEST, drawn_verdict

BEYOND = f"95 % interval over prompts and draws above 0, and a one-sided rank p of at most {LARGEST_P:g}"


def against_draws(
    own: Float[np.ndarray, " n"],
    draws: Float[np.ndarray, "n_draws n"],
    clusters: Clusters | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    smallest: float | None = SMALLEST,
    seen: bool = True,
) -> tuple[Estimate, str, dict[str, Any]]:
    """Return a method less the mean of the draws, the verdict on the claim that it does more, and what stands beside.

    Args:
        own: The value of each prompt under the method.
        draws: The values of the same prompts under each draw.
        clusters, level, seed: See :func:`lens_steer.stats.draws.less_mean_of_draws`.
        smallest, seen: See :func:`lens_steer.studies.verdicts.drawn_verdict`.

    Returns:
        The difference, the verdict, and a witness that holds the number of draws, their median, minimum and maximum,
        and the one-sided p of the method's rank among them.

    >>> hits = np.repeat([1.0, 0.0], 32)
    >>> effect, verdict, witness = against_draws(hits, np.zeros((19, 64)))
    >>> effect.value, verdict, witness["rank_p"]
    (0.5, 'HOLDS', 0.05)
    """
    effect = less_mean_of_draws(own, draws, clusters, level=level, seed=seed)
    among = band(draws.mean(axis=1).tolist(), float(own.mean()))
    ranks = among.p_at_least, among.p_at_most
    verdict = drawn_verdict(effect, ranks, among.n, smallest=smallest, seen=seen)
    spread = {"draws": among.n, "median": among.median, "minimum": among.minimum, "maximum": among.maximum}
    return effect, verdict, spread | {"rank_p": among.p_at_least}
