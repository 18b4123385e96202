"""How strongly and where to steer benignly: chosen on the select split, by an objective and a bound that stand here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_steer._io.rowstore import Row
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.selection import Choice
from lens_steer.evaluation.sweeps import Grid, Protocol, run
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.stats import Estimate, middle_of_best
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.externalities.grading import JSON_RATES, RATES, annotated, rates
from lens_steer.studies.externalities.steerings import ComplianceCalibration, JsonCalibration

COMPLIANCE, JSON = "compliance", "json"
KEPT = 0.95  # of what the unsteered model does
# α as a share of the mean length of a response token's residual vector, averaged over the steered blocks
SHARES = tuple(0.025 * 2 ** (k / 2) for k in range(12))


@dataclass(frozen=True)
class Setting:
    """One steering at one value on the select split.

    Attributes:
        value: α; None for JSON, which has none.
        site: where JSON is steered; empty for compliance.
        measured: name → share, as :data:`lens_steer.studies.externalities.grading.RATES` and, for JSON,
            :data:`~lens_steer.studies.externalities.grading.JSON_RATES` have it.
    """

    condition: str
    site: str
    value: float | None
    measured: dict[str, Estimate]


def compliance_settings(
    protocol: Protocol,
    calibration: ComplianceCalibration,
    out: str | Path,
    *,
    shares: Sequence[float] = SHARES,
    name: str = "compliance_select",
    identity: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[Setting]:
    """No steering, and every strength, on harmful and harmless prompts and tasks of the select split.

    Raises:
        LensSteerError: a share that is not above 0; else as :func:`lens_steer.evaluation.sweeps.run`.
    """
    if not shares or min(shares) <= 0:
        raise LensSteerError(f"shares={tuple(shares)}: give at least one, each above 0")
    grids = [
        Grid(NONE),
        Grid(COMPLIANCE, partial(_at_strength, calibration), tuple(calibration.absolute(s) for s in sorted(shares))),
    ]
    return _settings(
        annotated(run(protocol, grids, out, name, identity=identity, progress=progress), protocol.sides), RATES
    )


def json_settings(
    protocol: Protocol,
    calibration: JsonCalibration,
    out: str | Path,
    *,
    sites: Sequence[str] | None = None,
    harm: Protocol | None = None,
    name: str = "json_select",
    identity: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[Setting]:
    """No steering, and the clamp at every block, on prompts with and without a request for JSON and on tasks.

    Args:
        protocol: positive: prompts that ask for JSON; negative: those that do not.
        calibration: of the same model.
        out, name, identity, progress: see :func:`lens_steer.evaluation.sweeps.run`.
        sites: those to try; left out, every block's output.
        harm: with harmful (positive) and harmless prompts, on which every block is measured too; nothing is chosen by
            them.

    Raises:
        LensSteerError: as :func:`lens_steer.evaluation.sweeps.run`.
    """
    tried = calibration.sites if sites is None else sites
    grids = [Grid(NONE), *(Grid(JSON, partial(_clamped, calibration, site), variant=site) for site in tried)]
    found = annotated(run(protocol, grids, out, name, identity=identity, progress=progress), protocol.sides)
    made = _settings(found, {**JSON_RATES, "capable": RATES["capable"]})
    if harm is None:
        return made
    alone = replace(harm, tasks=NO_TASKS)
    rows = annotated(run(alone, grids, out, f"{name}_harm", identity=identity, progress=progress), alone.sides)
    beside = _settings(rows, {k: v for k, v in RATES.items() if k != "capable"})
    return [replace(s, measured=s.measured | other.measured) for s, other in zip(made, beside, strict=True)]


def choose_strength(found: Sequence[Setting]) -> Choice:
    """The largest α at which, as at every smaller one tried, harmless requests stay right at ≥ 95 % of the unsteered
    share.

    It stands in for the paper's choice, where the steered model's win-rate falls to the unsteered one's (interpolated
    there; a value of the grid here). If already the smallest α costs more, it is the choice, marked as keeping to no
    bound.

    Raises:
        LensSteerError: no setting without steering, or none with.
    """
    base, tried = _base(found)
    tried = sorted(tried, key=lambda s: s.value or 0.0)
    ok = [_keeps(s, base, "helped") for s in tried]
    n_met = ok.index(False) if False in ok else len(ok)
    best = tried[max(n_met, 1) - 1]
    return Choice(COMPLIANCE, "", best.value, n_met > 0, n_met, len(tried), 1)


def choose_site(found: Sequence[Setting]) -> Choice:
    """The block with the highest JSON validity on prompts that do not ask for JSON, among those that keep tasks at ≥ 95
    % of the unsteered share (right in plain text or as JSON).

    Of equals the middle one; where no block keeps to the bound the best of all, marked so.

    Raises:
        LensSteerError: no setting without steering, or none with.
    """
    base, tried = _base(found)
    kept = [s for s in tried if _keeps(s, base, "capable")]
    scores = [s.measured["json_unasked"].value for s in kept or tried]
    best, n_equal = middle_of_best(kept or tried, scores)
    return Choice(JSON, best.site, None, bool(kept), len(kept), len(tried), n_equal)


def _base(found: Sequence[Setting]) -> tuple[Setting, list[Setting]]:
    base, tried = [s for s in found if s.condition == NONE], [s for s in found if s.condition != NONE]
    if not base or not tried:
        raise LensSteerError(
            f"{len(base)} settings without and {len(tried)} with steering: at least one of each is needed"
        )
    return base[0], tried


def _keeps(setting: Setting, base: Setting, name: str) -> bool:
    """Whether a share is at least 95 % of the unsteered one; where it is not measured (no tasks) there is no bound."""
    return name not in base.measured or setting.measured[name].value >= KEPT * base.measured[name].value


def _settings(rows: Sequence[Row], names: dict[str, tuple[str, str]]) -> list[Setting]:
    groups: dict[tuple[str, str, float | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["condition"], row["variant"], row["value"]), []).append(row)
    return [Setting(*key, rates(group, names)) for key, group in groups.items()]


def _at_strength(calibration: ComplianceCalibration, value: Any) -> SteeringPlan:
    return calibration.plan(value)


def _clamped(calibration: JsonCalibration, site: str, value: Any) -> SteeringPlan:
    return calibration.plan(site)
