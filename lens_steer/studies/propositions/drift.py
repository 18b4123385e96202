"""Norms downstream of SAS and of SS at equal divergence: which of the two moves them further for the same effect.

At one nominal angle, one method changes the model more than another, and a larger drift of later norms may come from
this alone. Here both have the same mean ``KL(unsteered ‖ steered)`` on harmless prompts. The divergence is the middle
of the range that both reach at the angles of the grid (every 30°); between these angles either may reach more. The
divergence and the angles are found on the select split, by bisection. Where the divergence crosses this value several
times, the drift of a prompt is the mean over the crossings that were found; the others are counted, and told. Where
the two ranges do not overlap, no angle is taken, and this is told.

The drift is the mean of ``|‖h'‖/‖h‖ − 1|`` over the inputs of all norms after the first site that SS steers, at the
last prompt token, for both classes of the report split. At each crossing it is measured on both sides, at the two
nearest angles of the search, and taken in between, in proportion to the divergence. By how much this moved the mean
drift is added to both ends of its interval, for drifts that are not in proportion. The criterion, fixed before the
measurement: SAS drifts further if the 95 % interval of the difference from SS, by prompt, lies above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from lens_steer.steer.hooks import steering
from lens_steer.steer.method_table import find_method
from lens_steer.steer.methods import selective_steering, standard_angular
from lens_steer.studies.propositions.drift_claims import AT_DISC, PUBLISHED, SS, Drifted
from lens_steer.studies.propositions.norms import relative_change
from lens_steer.studies.propositions.recorded import depth_of, stream_sites

ANGLES = tuple(float(a) for a in range(0, 360, 30))  # degrees at which the curves of divergence are measured
TOLERANCE, STEPS = 0.005, 14  # of the search: the largest difference from the target, as a share of it; bisections
METHOD = "standard-everywhere"  # SAS as published
CONDITIONS = (SS, PUBLISHED, AT_DISC)


@dataclass(frozen=True)
class _Side:
    """One method at the target: angles, their divergence, the drift of each prompt, and what was moved and missed."""

    angles: tuple[float, ...]
    kl: tuple[float, ...]
    drift: Float[np.ndarray, " n_prompts"]
    moved: float
    unmatched: int


def published_calibration(
    model: Any, contrast: ContrastSet, *, engine: str = ENGINE, progress: bool = False
) -> Calibration:
    """Return the calibration of SAS as its authors make it, from the record of the method ``standard-everywhere``.

    It reads the inputs of the norms before attention and before the MLP of every block, at the last prompt token, and
    takes the difference of the means of unit-scaled activations, each scaled to unit length again.

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
    """Return the middle of the range of divergences that two curves both reach at their values; None if there is none.

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
        how: Mapping[str, Any] = {"engine": engine, "tolerance": TOLERANCE, "steps": STEPS}
        matches = [match(model, curves[n], target, harmless, answers, **how) for n in (name, SS)]
        sas, ss = (_at_target(each, target, drift) for each in matches)
        if sas is None or ss is None:
            found.append(_nothing(name, next(m.reason for each in matches for m in each if m.reason)))
            continue
        of_ss = {f"{key}_ss": value for key, value in vars(ss).items()}
        found.append(Drifted(condition=name, target=target, **vars(sas), **of_ss))
    return found


def _at_target(
    matches: Sequence[Match], target: float, drift: Callable[[Grid], Float[np.ndarray, " n_prompts"]]
) -> _Side | None:
    """Return the mean drift over the crossings, at the target; None if no crossing has an angle."""
    angles, kl, drifts, moves = [], [], [], []
    for m in matches:
        if m.grid is None or m.kl is None or m.other is None or m.grid.values[0] is None:
            continue
        near = drift(m.grid)
        move = between(near, drift(m.grid.at(m.other[0])), m.kl, m.other[1], target) - near
        angles.append(m.grid.values[0])
        kl.append(m.kl)
        drifts.append(near + move)
        moves.append(abs(float(move.mean())))
    if not drifts:
        return None
    unmatched = len(matches) - len(drifts)
    return _Side(tuple(angles), tuple(kl), np.stack(drifts).mean(axis=0), float(np.mean(moves)), unmatched)


def between(
    near: Float[np.ndarray, " n"], far: Float[np.ndarray, " n"], kl: float, kl_far: float, target: float
) -> Float[np.ndarray, " n"]:
    """Return the drift of each prompt at a divergence between two, in proportion to the divergence.

    Args:
        near: The drift at the angle with divergence ``kl``.
        far: The drift at the angle with divergence ``kl_far``, on the other side of the target.
        kl, kl_far: The two divergences; where they are equal, ``near`` is returned.
        target: The divergence between them.

    >>> between(np.array([1.0]), np.array([3.0]), 0.1, 0.2, 0.125)
    array([1.5])
    """
    return near if kl == kl_far else near + (far - near) * ((target - kl) / (kl_far - kl))


def clusters_of_report(contrast: ContrastSet) -> list[str | None]:
    """Return the cluster of each prompt whose drift is measured, in their order; None for a prompt that is alone.

    >>> import lens_steer as ls
    >>> len(clusters_of_report(ls.load_contrast("organism/refusal")))
    128
    """
    return [labels_of(p)[CLUSTER] for p in (*contrast.report.positive, *contrast.report.negative)]


def _later(calibration: Calibration) -> tuple[str, ...]:
    """Return the inputs of the norms after the first site that SS steers."""
    first = min(depth_of(name) for name in calibration.discriminative_sites)
    return tuple(name for name in stream_sites(calibration.n_layers) if depth_of(name) > first)


def _nothing(condition: str, reason: str) -> Drifted:
    return Drifted(condition=condition, reason=reason, drift=np.empty(0), drift_ss=np.empty(0))


def _apart(ss: Curve, sas: Curve) -> str:
    """Describe two ranges of divergence that do not overlap."""
    return (
        f"at the angles of the grid the divergence of SAS is {sas.floor:.3g} to {sas.top:.3g} nats a token, that of SS "
        f"{ss.floor:.3g} to {ss.top:.3g}: the two have none in common"
    )
