"""What was measured of norms downstream of SAS and of SS at equal divergence, and the claims on it.

How it is measured, and the criterion, are told in :mod:`lens_steer.studies.propositions.drift`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer.stats.clusters import Clusters
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import clustered_mean
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions.recorded import DRIFT
from lens_steer.studies.verdicts import HOLDS, NOT_SHOWN, effect_verdict, shows

SS, PUBLISHED, AT_DISC = "SS, L_disc", "SAS, as published", "SAS, L_disc"
IDS = {PUBLISHED: "drift-equal-divergence-published", AT_DISC: "drift-equal-divergence-L_disc"}
SAID = {
    PUBLISHED: "SAS as published (plane from norm inputs, written after every norm before attention and MLP)",
    AT_DISC: "SAS at the discriminative sites",
}


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """The drift of a condition of SAS and that of SS at equal divergence.

    Attributes:
        condition: ``SAS, as published`` or ``SAS, L_disc``.
        target: The divergence that both have, in nats a token; None where no angles have the same one.
        reason: The reason why there is none; empty otherwise.
        angles, angles_ss: The angles of SAS and of SS with this divergence, in degrees.
        kl, kl_ss: The divergence at each of these angles.
        drift, drift_ss: The drift of each prompt at the target, the mean over the crossings; empty where there is none.
        moved, moved_ss: By how much the mean drift was moved from the angles' own divergence to the target.
        unmatched, unmatched_ss: The number of crossings at which no angle was found.
    """

    condition: str
    target: float | None = None
    reason: str = ""
    angles: tuple[float, ...] = ()
    angles_ss: tuple[float, ...] = ()
    kl: tuple[float, ...] = ()
    kl_ss: tuple[float, ...] = ()
    drift: Float[np.ndarray, " n_prompts"]
    drift_ss: Float[np.ndarray, " n_prompts"]
    moved: float = 0.0
    moved_ss: float = 0.0
    unmatched: int = 0
    unmatched_ss: int = 0

    def row(self) -> dict[str, Any]:
        """Return plain values, which :meth:`of` reads again."""
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in vars(self).items()}

    @staticmethod
    def of(row: Mapping[str, Any]) -> Drifted:
        """Build the record from the values that :meth:`row` returned, also after they were kept as JSON.

        >>> met = Drifted(condition="SAS, L_disc", target=0.1, angles=(30.0,), drift=np.ones(2), drift_ss=np.zeros(2))
        >>> Drifted.of(met.row()).angles, Drifted.of(met.row()).drift
        ((30.0,), array([1., 1.]))
        """
        arrays: dict[str, Any] = {name: np.array(row[name], dtype=np.float64) for name in ("drift", "drift_ss")}
        tuples: dict[str, Any] = {name: tuple(row[name]) for name in ("angles", "angles_ss", "kl", "kl_ss")}
        return Drifted(**{**row, **arrays, **tuples})


def drift_claims(
    found: Sequence[Drifted], model: str, *, clusters: Clusters | None = None, seed: int = 0
) -> list[Claim]:
    """Test whether SAS moves later norms further than SS at equal divergence.

    An effect is excluded beyond :data:`lens_steer.studies.propositions.recorded.DRIFT` where the interval lies below
    it, and one of the two drifts further than that, so that a drift could be seen.

    Args:
        found: The drifts of :func:`lens_steer.studies.propositions.drift.at_equal_divergence`.
        model: Name of the model.
        clusters: The cluster of each prompt; None where every prompt is a cluster alone.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If the numbers of drifts and clusters differ.
    """
    return [_claim(each, model, len(found), clusters, seed) for each in found]


def _claim(found: Drifted, model: str, family: int, clusters: Clusters | None, seed: int) -> Claim:
    asked = Claim(
        id=IDS[found.condition],
        statement=f"at equal divergence on harmless prompts, {SAID[found.condition]} changes the lengths that later "
        "norms of the model read more than SS at the discriminative sites does",
        formula="mean over sites of |‖h'‖/‖h‖ − 1|, SAS less SS, paired by prompt",
        level="downstream",
        domain=f"{model}, report split, both classes, last prompt token, the inputs of the norms after the first site "
        "that SS steers",
        quantity="difference of the mean relative change of norms; its interval also allows for what is left of a "
        "difference in divergence",
        criterion=f"95 % interval above 0; excluded beyond {DRIFT:g} if it lies below {DRIFT:g} and one of the two "
        "drifts by more than that",
        value=None,
        n=0,
        verdict=f"{NOT_SHOWN} (no angles have the same divergence)",
        witness={"reason": found.reason},
    )
    if found.target is None:
        return asked
    sides = ((found.drift, found.moved), (found.drift_ss, found.moved_ss))
    own, other = (_wider(clustered_mean(d, clusters, seed=seed), moved) for d, moved in sides)
    seen = any(shows(e, smallest=DRIFT) for e in (own, other))
    left = found.moved + found.moved_ss
    how: Mapping[str, Any] = {"seed": seed, "clusters": clusters}
    effect, jointly = (
        _wider(paired_difference(found.drift, found.drift_ss, level=1 - 0.05 / n, **how), left) for n in (1, family)
    )
    verdict = effect_verdict(effect, smallest=DRIFT, seen=seen)
    holds = {"holds_jointly": effect_verdict(jointly, smallest=DRIFT, seen=seen) == HOLDS} if verdict == HOLDS else {}
    return replace(
        asked,
        domain=f"{asked.domain}; SAS at {_list(found.angles)}, SS at {_list(found.angles_ss)}, where the divergence on "
        f"harmless select prompts is {found.target:.3g} nats a token, the middle of what both reach at the angles of "
        "the grid",
        value=effect.value,
        n=effect.n,
        interval=(effect.low, effect.high),
        verdict=verdict,
        witness={
            "SAS": [own.value, own.low, own.high],
            "SS": [other.value, other.low, other.high],
            "divergence": found.target,
            "divergence_SAS": list(found.kl),
            "divergence_SS": list(found.kl_ss),
            "divergence_apart": max(abs(kl / found.target - 1) for kl in (*found.kl, *found.kl_ss)),
            "moved_to_equal_divergence": left,
            "crossings_without_an_angle": {"SAS": found.unmatched, "SS": found.unmatched_ss},
            **holds,
        },
    )


def _wider(estimate: Estimate, by: float) -> Estimate:
    return replace(estimate, low=estimate.low - by, high=estimate.high + by)


def _list(angles: Sequence[float]) -> str:
    return " and ".join(f"{a:.4g}°" for a in angles)
