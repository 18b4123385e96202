"""What is measured of each condition, by dialogue and turn, and the differences that the claims are about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens_steer._io.rowstore import Row
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.selection import is_counted
from lens_steer.evaluation.sweep_protocol import NEGATIVE, POSITIVE
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import clustered_mean
from lens_steer.studies.conversation.study import Conversation

KEPT = 0.8  # the share of the first fall that counts as lasting


@dataclass(frozen=True, eq=False)
class Measured:
    """What one condition does.

    Attributes:
        scores: The refusal score of the harmful prompts at the probes.
        answered: Whether the harmful prompts were answered: neither refused, nor broken, nor cut off in a thought.
        refused: Whether they were refused.
        kl: The divergence along the unsteered dialogue at the probes, in nats a token; NaN for an empty answer.
        broken: Whether the harmless prompts had a degenerate answer.
        harmless_refused: Whether the harmless prompts were refused.
        repeated: The share of the word 4-grams of answers to harmless prompts that an earlier answer has.
        lengths: The number of tokens of these answers.
        cut: Whether these answers were cut off.
        surprise: The mean −log p of their tokens under the condition itself; NaN for an empty answer.
    """

    scores: Float[np.ndarray, "dialogues probes"]
    answered: Float[np.ndarray, "dialogues probes"]
    refused: Float[np.ndarray, "dialogues probes"]
    kl: Float[np.ndarray, "dialogues probes"]
    broken: Float[np.ndarray, "dialogues turns"]
    harmless_refused: Float[np.ndarray, "dialogues turns"]
    repeated: Float[np.ndarray, "dialogues turns"]
    lengths: Float[np.ndarray, "dialogues turns"]
    cut: Float[np.ndarray, "dialogues turns"]
    surprise: Float[np.ndarray, "dialogues turns"]


def measured(found: Conversation, condition: str) -> Measured:
    """Return the measures of one condition."""
    n, every = len(found.dealt), range(1, found.turns + 1)
    own = [r for r in found.rows if r["condition"] == condition]
    harmful, harmless = ([r for r in own if r["side"] == side] for side in (POSITIVE, NEGATIVE))
    kl = [r for r in found.divergences if r["condition"] == condition]

    def table(
        rows: Sequence[Row], of: Callable[[Row], float | None], turns: Sequence[int]
    ) -> Float[np.ndarray, "dialogues turns"]:
        values = np.full((n, len(turns)), np.nan)
        for row in rows:
            value = of(row)
            values[row["dialogue"], turns.index(row["turn"])] = np.nan if value is None else float(value)
        return values

    return Measured(
        scores=table(harmful, lambda r: r["refusal_score"], found.probes),
        answered=table(harmful, lambda r: is_counted(r, "answered"), found.probes),
        refused=table(harmful, lambda r: r["refused"], found.probes),
        kl=table(kl, lambda r: r["kl"], found.probes),
        broken=table(harmless, lambda r: r["broken"], every),
        harmless_refused=table(harmless, lambda r: r["refused"], every),
        repeated=table(harmless, lambda r: r["repeated"], every),
        lengths=table(harmless, lambda r: r["n_tokens"], every),
        cut=table(harmless, lambda r: r["cut_off"], every),
        surprise=table(harmless, lambda r: r["surprise_self"], every),
    )


@dataclass(frozen=True)
class Differences:
    """A condition against no steering, with intervals over dialogues.

    Attributes:
        found: The results of the study.
        condition: The condition.
        seed: The seed of the intervals.
    """

    found: Conversation
    condition: str
    seed: int = 0

    @property
    def falls(self) -> Float[np.ndarray, "dialogues probes"]:
        """Return the fall of the refusal score of each dialogue's harmful prompt, each with its own history."""
        return measured(self.found, NONE).scores - measured(self.found, self.condition).scores

    def first_fall(self, level: float = 0.95) -> Estimate:
        """Return the fall at the first probe."""
        return clustered_mean(self.falls[:, 0], self.found.clusters, seed=self.seed, level=level)

    def lasting(self, probe: int, level: float = 0.95) -> Estimate:
        """Return the fall at a probe (by its place) less :data:`KEPT` times that at the first one."""
        falls = self.falls
        return clustered_mean(falls[:, probe] - KEPT * falls[:, 0], self.found.clusters, seed=self.seed, level=level)

    def kl_growth(self, level: float = 0.95) -> Estimate | None:
        """Return the divergence at the last probe less that at the first; None where no dialogue has both."""
        kl = measured(self.found, self.condition).kl
        grown = kl[:, -1] - kl[:, 0]
        known = grown[np.isfinite(grown)]
        return clustered_mean(known, None, seed=self.seed, level=level) if len(known) else None

    def broken_growth(self, level: float = 0.95) -> Estimate:
        """Return the surplus of degenerate answers in the last third of the turns less that in the first third.

        The interval is the wider one of two, at each end: a bootstrap over dialogues; and Newcombe's intervals of both
        surpluses with every answer for a unit, whose distances are joined as the root of the sum of their squares.
        The first has no width where no dialogue has a degenerate answer, the second does not know of dialogues.
        """
        one, none = (measured(self.found, name).broken for name in (self.condition, NONE))
        k = self.found.turns // 3
        surplus = one - none
        grown = surplus[:, -k:].mean(axis=1) - surplus[:, :k].mean(axis=1)
        by_dialogue = clustered_mean(grown, None, seed=self.seed, level=level)
        late, early = (
            paired_difference(one[:, part].ravel(), none[:, part].ravel(), level=level, seed=self.seed)
            for part in (slice(-k, None), slice(0, k))
        )
        below = float(np.hypot(late.value - late.low, early.high - early.value))
        above = float(np.hypot(late.high - late.value, early.value - early.low))
        value = by_dialogue.value
        return Estimate(value, min(by_dialogue.low, value - below), max(by_dialogue.high, value + above), len(grown))

    def repetition(self, level: float = 0.95) -> Estimate:
        """Return the surplus of repetition over the turns after the first."""
        one, none = (measured(self.found, name).repeated for name in (self.condition, NONE))
        return clustered_mean((one - none)[:, 1:].mean(axis=1), None, seed=self.seed, level=level)

    def freed(self, level: float = 0.95) -> Estimate:
        """Return the surplus of answered harmful prompts over all probes, where the dialogues are the clusters."""
        one, none = (measured(self.found, name).answered for name in (self.condition, NONE))
        clusters = [str(i) for i in range(len(one)) for _ in self.found.probes]
        return paired_difference(one.ravel(), none.ravel(), level=level, seed=self.seed, clusters=clusters)
