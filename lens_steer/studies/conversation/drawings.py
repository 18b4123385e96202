"""The data of the figure of the study, which is that of its table too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer.evaluation.conditions import NONE, RANDOM_PLANE
from lens_steer.figures.core import Drawing
from lens_steer.stats.clusters import Clusters
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import clustered_mean
from lens_steer.stats.rates import clustered_rate
from lens_steer.studies.conversation.figures import CONTROL, RANDOM, STEERING, UNSTEERED
from lens_steer.studies.conversation.measures import Measured, measured
from lens_steer.studies.conversation.study import STEERED, Conversation

LINES = {NONE: UNSTEERED, STEERED: STEERING, RANDOM_PLANE: RANDOM}  # any other condition is the positive control


def drawings(found: Conversation, *, seed: int = 0) -> dict[str, Drawing]:
    """Return the drawings of the study, by figure name."""
    notes = {"n": len(found.dealt), "angle": found.angle, "budget": found.budget}
    return {"conversation_turns": Drawing.of("conversation_turns", turn_rows(found, seed=seed), notes)}


def turn_rows(found: Conversation, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row a condition, quantity and turn, with 95 % intervals over dialogues.

    Means have a bootstrap interval, rates Wilson's. Falls and divergences are those of steered conditions alone.
    """
    rows, plain = [], measured(found, NONE)
    every = tuple(range(1, found.turns + 1))
    for condition in found.conditions:
        one = measured(found, condition)
        head = {"condition": condition, "line": LINES.get(condition, CONTROL)}
        for quantity, turns, values, clusters in _quantities(found, condition, one, plain, every):
            for turn, column in zip(turns, values.T, strict=True):
                known = np.isfinite(column)
                if not known.any():
                    continue
                groups = None if clusters is None else [c for c, k in zip(clusters, known, strict=True) if k]
                e = _estimate(quantity, column[known], groups, seed)
                row = {"quantity": quantity, "turn": turn, "value": e.value, "low": e.low, "high": e.high, "n": e.n}
                rows.append(head | row)
    return rows


def _quantities(
    found: Conversation, condition: str, one: Measured, plain: Measured, every: tuple[int, ...]
) -> list[tuple[str, Sequence[int], Float[np.ndarray, "dialogues turns"], Clusters | None]]:
    probes, clusters = found.probes, found.clusters
    steered = [("fall", probes, plain.scores - one.scores, clusters), ("kl", probes, one.kl, None)]
    return [
        *(steered if condition != NONE else []),
        ("answered", probes, one.answered, clusters),
        ("refused", probes, one.refused, clusters),
        ("broken", every, one.broken, None),
        ("repeated", every, one.repeated, None),
        ("harmless_refused", every, one.harmless_refused, None),
        ("cut", every, one.cut, None),
        ("length", every, one.lengths, None),
        ("surprise", every, one.surprise, None),
    ]


def _estimate(quantity: str, values: Float[np.ndarray, " n"], clusters: Clusters | None, seed: int) -> Estimate:
    if quantity in RATES:
        return clustered_rate(values, clusters)
    return clustered_mean(values, clusters, seed=seed)


RATES = ("answered", "refused", "broken", "harmless_refused", "cut")
