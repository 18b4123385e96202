"""Norms downstream of SAS and of SS at equal divergence: which of the two moves them further for the same effect.

At one nominal angle, one method changes the model more than another, and a larger drift of later norms may come from
this alone. Here both have the same mean ``KL(unsteered ‖ steered)`` on harmless prompts. The divergence is the middle
of the range that both reach on the circle; it and the angles are found on the select split, by bisection. Where several
angles have the divergence, the drift of a prompt is the mean over them. Where the two ranges do not overlap, no angle
is taken, and this is told.

The drift is the mean of ``|‖h'‖/‖h‖ − 1|`` over the inputs of all norms after the first site that SS steers, at the
last prompt token, for both classes of the report split. The criterion, fixed before the measurement: SAS drifts further
if the 95 % interval of the difference from SS, by prompt, lies above 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_steer._defaults import ENGINE
from lens_steer.data import ContrastSet, PromptSet
from lens_steer.evaluation.cells import CLUSTER, labels_of
from lens_steer.evaluation.equal_divergence import Curve, Match, curve, match
from lens_steer.evaluation.grids import Grid
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.inference.generation import generate
from lens_steer.inference.record import record, record_prompts
from lens_steer.stats import clustered_mean, paired_difference
from lens_steer.steer.hooks import steering
from lens_steer.steer.method_table import find_method
from lens_steer.steer.methods import selective_steering, standard_angular
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions.norms import relative_change
from lens_steer.studies.propositions.recorded import DRIFT, depth_of, stream_sites
from lens_steer.studies.verdicts import HOLDS, NOT_SHOWN, effect_verdict, shows

ANGLES = tuple(float(a) for a in range(0, 360, 30))  # degrees at which the curves of divergence are measured
METHOD = "standard-everywhere"  # SAS as published
SS, PUBLISHED, AT_DISC = "SS, L_disc", "SAS, as published", "SAS, L_disc"
CONDITIONS = (SS, PUBLISHED, AT_DISC)
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
        drift, drift_ss: The drift of each prompt, the mean over the angles; empty where there are none.
        clusters: The cluster of each prompt; empty, or None for each, where every prompt is a cluster alone.
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
    clusters: tuple[str | None, ...] = ()

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
        tuples: dict[str, Any] = {name: tuple(row[name]) for name in ("angles", "angles_ss", "kl", "kl_ss", "clusters")}
        return Drifted(condition=row["condition"], target=row["target"], reason=row["reason"], **tuples, **arrays)


def published_calibration(
    model: Any, contrast: ContrastSet, *, engine: str = ENGINE, progress: bool = False
) -> Calibration:
    """Return the calibration of SAS as its authors make it, from the record of the method ``standard-everywhere``.

    It reads the inputs of the norms before attention and before the MLP of every block, at the last prompt token, and
    takes the difference of the means of unit-scaled activations.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The contrast whose fit split is recorded.
        engine: Engine that records.
        progress: Show a progress bar.

    Raises:
        LensSteerError: If no site has a direction, or the plane is degenerate.

    Source: Angular Steering (arXiv 2510.26243) and its code.
    """
    method = find_method(METHOD)
    read = record(model, contrast.fit, method.reads, engine=engine, progress=progress)
    how: Mapping[str, Any] = method.calibrated_with
    return calibrate(read, progress=progress, **how)


def grids(calibration: Calibration, published: Calibration) -> dict[str, Grid]:
    """Return the grids of SS, of SAS as published and of SAS at the sites of SS, by condition.

    Args:
        calibration: The calibration of SS, with discriminative sites.
        published: The calibration of SAS as published; see :func:`published_calibration`.

    >>> import lens_steer as ls
    >>> calibration = ls.load_calibration("figures/calibration")
    >>> [len(g.build(90.0).sites) for g in grids(calibration, calibration).values()]
    [11, 24, 11]
    """
    ss, sas = partial(selective_steering, calibration), partial(standard_angular, calibration)
    everywhere = partial(standard_angular, published, everywhere=True)
    return {
        SS: Grid(SS, ss, ANGLES, method="selective"),
        PUBLISHED: Grid(PUBLISHED, everywhere, ANGLES, method=METHOD),
        AT_DISC: Grid(AT_DISC, sas, ANGLES, method="standard"),
    }


def common_divergence(one: Curve, other: Curve) -> float | None:
    """Return the middle of the range of divergences that two curves both reach; None where there is none.

    >>> whole, upper = (Curve(Grid("a"), (0.0, 90.0), kl) for kl in ((0.0, 0.4), (0.2, 0.9)))
    >>> round(common_divergence(whole, upper), 9), common_divergence(whole, Curve(Grid("b"), (0.0,), (0.5,)))
    (0.3, None)
    """
    low, high = max(one.floor, other.floor), min(one.top, other.top)
    return (low + high) / 2 if low < high else None


def at_equal_divergence(
    model: Any,
    contrast: ContrastSet,
    calibration: Calibration,
    *,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    progress: bool = False,
) -> list[Drifted]:
    """Measure the drift of SAS, as published and at the sites of SS, and that of SS, at equal divergence.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: Prompts. The calibration of SAS as published comes from the fit split, divergence and angles from the
            harmless prompts of the select split, the drift from both classes of the report split.
        calibration: The calibration of SS, with discriminative sites.
        engine: Engine that records and generates.
        max_new_tokens: Largest number of tokens of the unsteered answers along which the divergence is measured.
        progress: Show progress bars.
    """
    tried = grids(calibration, published_calibration(model, contrast, engine=engine, progress=progress))
    harmless = contrast.select.negative
    answers = generate(model, harmless, max_new_tokens=max_new_tokens, engine=engine, progress=progress)
    curves = {name: curve(model, grid, harmless, answers, engine=engine) for name, grid in tried.items()}
    names = _later(calibration)
    both = PromptSet((*contrast.report.positive, *contrast.report.negative))
    plain = record_prompts(model, both, names, engine=engine)

    def drift(grid: Grid) -> Float[np.ndarray, " n_prompts"]:
        assert grid.build is not None
        with steering(model, grid.build(grid.values[0]), tell=False):
            steered = record_prompts(model, both, names, engine=engine)
        return relative_change(plain, steered).abs().mean(dim=1).numpy()

    found = []
    for name in (PUBLISHED, AT_DISC):
        target = common_divergence(curves[SS], curves[name])
        if target is None:
            found.append(_nothing(name, _apart(curves[SS], curves[name])))
            continue
        sas, ss = (match(model, curves[n], target, harmless, answers, engine=engine) for n in (name, SS))
        if not (_met(sas) and _met(ss)):
            found.append(_nothing(name, next(m.reason for m in (*sas, *ss) if m.reason)))
            continue
        found.append(
            Drifted(
                condition=name,
                target=target,
                angles=tuple(angle for _, angle, _ in _met(sas)),
                angles_ss=tuple(angle for _, angle, _ in _met(ss)),
                kl=tuple(kl for _, _, kl in _met(sas)),
                kl_ss=tuple(kl for _, _, kl in _met(ss)),
                drift=np.stack([drift(grid) for grid, _, _ in _met(sas)]).mean(axis=0),
                drift_ss=np.stack([drift(grid) for grid, _, _ in _met(ss)]).mean(axis=0),
                clusters=tuple(labels_of(prompt)[CLUSTER] for prompt in both),
            )
        )
    return found


def _met(matches: Sequence[Match]) -> list[tuple[Grid, float, float]]:
    """Return the grid, the angle and the divergence of each match that has a value."""
    met = [(m.grid, m.grid.values[0], m.kl) for m in matches if m.grid is not None]
    return [(grid, angle, kl) for grid, angle, kl in met if angle is not None and kl is not None]


def drift_claims(found: Sequence[Drifted], model: str, *, seed: int = 0) -> list[Claim]:
    """Test whether SAS moves later norms further than SS at equal divergence.

    An effect is excluded beyond :data:`lens_steer.studies.propositions.recorded.DRIFT` where the interval lies below
    it, and one of the two drifts further than that, so that a drift could be seen.

    Args:
        found: The drifts of :func:`at_equal_divergence`.
        model: Name of the model.
        seed: Seed of the bootstrap.
    """
    return [_claim(each, model, len(found), seed) for each in found]


def _claim(found: Drifted, model: str, family: int, seed: int) -> Claim:
    asked = Claim(
        id=IDS[found.condition],
        statement=f"at equal divergence on harmless prompts, {SAID[found.condition]} changes the lengths that later "
        "norms of the model read more than SS at the discriminative sites does",
        formula="mean over sites of |‖h'‖/‖h‖ − 1|, SAS less SS, paired by prompt",
        level="downstream",
        domain=f"{model}, report split, both classes, last prompt token, the inputs of the norms after the first site "
        "that SS steers",
        quantity="difference of the mean relative change of norms",
        criterion=f"95 % interval above 0; excluded beyond {DRIFT:g} if it lies below {DRIFT:g} and one of the two "
        "drifts by more than that",
        value=None,
        n=0,
        verdict=f"{NOT_SHOWN} (no angles have the same divergence)",
        witness={"reason": found.reason},
    )
    if found.target is None:
        return asked
    clusters = found.clusters or None
    own, other = (clustered_mean(d, clusters, seed=seed) for d in (found.drift, found.drift_ss))
    seen = any(shows(e, smallest=DRIFT) for e in (own, other))
    effect, jointly = (
        paired_difference(found.drift, found.drift_ss, level=1 - 0.05 / n, seed=seed, clusters=clusters)
        for n in (1, family)
    )
    verdict = effect_verdict(effect, smallest=DRIFT, seen=seen)
    holds = {"holds_jointly": effect_verdict(jointly, smallest=DRIFT, seen=seen) == HOLDS} if verdict == HOLDS else {}
    return replace(
        asked,
        domain=f"{asked.domain}; SAS at {_list(found.angles)}, SS at {_list(found.angles_ss)}, where the divergence on "
        f"harmless select prompts is {found.target:.3g} nats a token",
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
            **holds,
        },
    )


def _later(calibration: Calibration) -> tuple[str, ...]:
    """Return the inputs of the norms after the first site that SS steers."""
    first = min(depth_of(name) for name in calibration.discriminative_sites)
    return tuple(name for name in stream_sites(calibration.n_layers) if depth_of(name) > first)


def _nothing(condition: str, reason: str) -> Drifted:
    return Drifted(condition=condition, reason=reason, drift=np.empty(0), drift_ss=np.empty(0))


def _apart(ss: Curve, sas: Curve) -> str:
    """Describe two ranges of divergence that do not overlap."""
    return (
        f"on the circle the divergence of SAS is {sas.floor:.3g} to {sas.top:.3g} nats a token, that of SS "
        f"{ss.floor:.3g} to {ss.top:.3g}: the two have none in common"
    )


def _list(angles: Sequence[float]) -> str:
    return " and ".join(f"{a:.4g}°" for a in angles)
