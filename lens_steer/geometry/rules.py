"""L_disc of one calibration by every rule, without recording again, and warnings about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lens_steer.errors import LensSteerError, expect
from lens_steer.geometry.calibration import Calibration, separations
from lens_steer.geometry.directions import zero_rows
from lens_steer.geometry.discriminative import (
    BOUNDS,
    RULES,
    Discriminative,
    by_means,
    by_projections,
    check_rule,
    found_sites,
    mean_rule,
)
from lens_steer.geometry.membership import unit_projections

# A site whose membership probability is above SURE counts as in L_disc whatever prompts are drawn, and one below
# 1 − SURE as out of it. For a site between the two, the answer depends on the prompts.
SURE = 0.95
MANY_UNSURE = 0.1  # the share of unsure sites above which there is a caution
BY_SITE = ("membership", "auroc", "cohens_d")


def discriminative_by_rule(
    calibration: Calibration, rules: Sequence[str] | None = None, *, bounds: Mapping[str, float | int] | None = None
) -> dict[str, Discriminative]:
    """Return L_disc by several rules, from the contents of a calibration.

    Args:
        calibration: A calibration recorded by this project.
        rules: The rules, of :data:`lens_steer.geometry.discriminative.RULES`. None takes all rules that the contents
            can decide: all five with per-prompt statistics, ``paper`` and ``centred`` from class means alone.
        bounds: The bounds, keyed by rule, for rules that have one; see
            :data:`lens_steer.geometry.discriminative.BOUNDS`.

    Returns:
        The :class:`~lens_steer.geometry.discriminative.Discriminative` of each rule, empty sets included.

    Raises:
        LensSteerError: If a rule is unknown, a bound does not fit its rule, or a rule needs more than the calibration
            holds.

    >>> from lens_steer import load_calibration
    >>> found = discriminative_by_rule(load_calibration("figures/calibration"))
    >>> list(found), found["paper"].sites == load_calibration("figures/calibration").discriminative_sites
    (['paper', 'official', 'centred', 'effect', 'auroc'], True)
    """
    expect("calibration", calibration, Calibration, "make it with ls.calibrate, or ls.load_calibration(folder)")
    given = dict(bounds or {})
    for name, bound in given.items():
        check_rule(name, bound)
    if rules is None and calibration.statistics is not None:
        rules = RULES
    elif rules is None:
        rules = () if calibration.mean_positive is None else ("paper", "centred")
    return {rule: _by_rule(calibration, rule, given.get(rule)) for rule in rules}


def with_rule(
    calibration: Calibration, rule: str, *, bound: float | int | None = None, membership: bool = True
) -> Calibration:
    """Return the same calibration with the discriminative sites of another rule, for a plan or a condition.

    Direction and plane stay as they are, so that only the sites differ. The sign of b2 stays too; it was determined by
    the sites of the rule with which the calibration was made.

    Args:
        calibration, rule, bound: See :func:`discriminative_by_rule`.
        membership: Whether to compute the sites' bootstrap probabilities under the rule, which takes a moment. False
            leaves them out.

    Raises:
        LensSteerError: If :func:`discriminative_by_rule` refuses an argument.

    >>> from lens_steer import load_calibration, selective_steering
    >>> strict = with_rule(load_calibration("figures/calibration"), "effect", bound=3)
    >>> strict.rule, strict.bound, selective_steering(strict, 90).sites == strict.discriminative_sites
    ('effect', 3.0, True)
    """
    found = discriminative_by_rule(calibration, (rule,), bounds=None if bound is None else {rule: bound})[rule]
    other = replace(
        calibration,
        discriminative_sites=found.sites,
        discriminative_blocks=found.blocks,
        rule=rule,
        bound=found.bound,
        membership=None,
        mean_projection_positive=found.projection_positive.float(),
        mean_projection_negative=found.projection_negative.float(),
    )
    return replace(other, membership=with_separations(other).membership) if membership else other


def with_separations(calibration: Calibration) -> Calibration:
    """Return the calibration with membership, AUROC and Cohen's d, computed if an older folder lacks them.

    They are computed from the projections of the prompts. The calibration is returned unchanged where it has none.

    >>> from lens_steer import load_calibration
    >>> with_separations(load_calibration("figures/calibration")).membership is not None
    True
    """
    if calibration.membership is not None or calibration.statistics is None or calibration.rule not in RULES:
        return calibration
    zero, by = zero_rows(calibration.candidates), {"rule": calibration.rule, "bound": calibration.bound}
    found = separations(calibration.statistics, calibration.sites, zero, **by, seed=calibration.seed)
    return replace(calibration, **found)


def sureness(calibration: Calibration) -> dict[str, Any] | None:
    """Count the sites that are surely in L_disc, surely out of it, or dependent on the prompts.

    A site is surely in L_disc if its probability is above 0.95, and surely out if it is below 0.05. None without
    probabilities.
    """
    if calibration.membership is None:
        return None
    p, k = calibration.membership, calibration.selected_index
    return {
        "n": len(p),
        "probability_above_0.95": int((p > SURE).sum()),
        "between": int(_unsure(p).sum()),
        "probability_below_0.05": int((p < 1 - SURE).sum()),
        "selected": {name: _number(getattr(calibration, name), k) for name in BY_SITE},
    }


def site_rows(calibration: Calibration) -> list[dict[str, Any]] | None:
    """Return one row for each site, in network order; None without membership.

    A row holds whether the site is discriminative, its probability of being so, AUROC and Cohen's d, rounded to four
    digits.

    >>> from lens_steer import load_calibration
    >>> site_rows(with_separations(load_calibration("figures/calibration")))[-1]["auroc"]
    1.0
    """
    if calibration.membership is None:
        return None
    return [
        {
            "site": site,
            "discriminative": site in calibration.discriminative_sites,
            **{name: _number(getattr(calibration, name), k) for name in BY_SITE},
        }
        for k, site in enumerate(calibration.sites)
    ]


def cautions(calibration: Calibration) -> tuple[str, ...]:
    """Return the cautions for steering at the calibration's L_disc.

    There is one if the selected site is outside L_disc, and one if for more than a tenth of the recorded sites the
    membership depends on the prompts.

    >>> from lens_steer import load_calibration
    >>> cautions(load_calibration("figures/calibration"))
    ()
    """
    found = []
    if calibration.discriminative_sites and calibration.selected_site not in calibration.discriminative_sites:
        found.append(f"the selected site {calibration.selected_site} is outside L_disc (rule {calibration.rule!r})")
    if calibration.membership is not None:
        unsure = _unsure(calibration.membership)
        drawn = {name for name, u in zip(calibration.sites, unsure.tolist(), strict=True) if u}
        inside = len(drawn.intersection(calibration.discriminative_sites))
        if len(drawn) > MANY_UNSURE * len(unsure):
            found.append(
                f"whether {len(drawn)} of {len(unsure)} sites are in L_disc hangs on which prompts were drawn "
                f"(bootstrap probability between 0.05 and 0.95; {inside} of them are among its "
                f"{len(calibration.discriminative_sites)}): compare with the rules 'centred', 'effect' and 'auroc'"
            )
    return tuple(found)


def _by_rule(calibration: Calibration, rule: str, bound: float | int | None) -> Discriminative:
    limit, names, statistics = check_rule(rule, bound), calibration.sites, calibration.statistics
    if rule in BOUNDS and statistics is not None:
        sides = statistics.projection_positive.double(), statistics.projection_negative.double()
        found = by_projections(*sides, names, rule=rule, bound=limit, zero=zero_rows(calibration.candidates))
    elif rule == "official" and statistics is not None:
        a = unit_projections(statistics.projection_positive, statistics.norm_positive).mean(dim=0)
        b = unit_projections(statistics.projection_negative, statistics.norm_negative).mean(dim=0)
        found = found_sites(mean_rule(a, b, names, rule=rule), a, b, names, rule)
    elif (
        rule in ("paper", "centred") and calibration.mean_positive is not None and calibration.mean_negative is not None
    ):
        means = calibration.mean_positive.double(), calibration.mean_negative.double()
        found = by_means(*means, calibration.basis[0], names, rule=rule)
    else:
        raise LensSteerError(
            f"rule={rule!r} needs "
            f"{'class means' if rule in ('paper', 'centred') else 'projections of single prompts'}, and the "
            f"calibration of {calibration.model!r} has none (imported, or made from moments): calibrate on this model "
            "with record(…, keep='all')"
        )
    if (rule, limit) != (calibration.rule, calibration.bound):
        return found
    # The calibration's own answer is kept: it was computed from float64 vectors, the one above from stored float32.
    mask = torch.tensor([name in calibration.discriminative_sites for name in names])
    return replace(found, mask=mask, sites=calibration.discriminative_sites, blocks=calibration.discriminative_blocks)


def _unsure(probability: torch.Tensor) -> torch.Tensor:
    return (probability >= 1 - SURE) & (probability <= SURE)


def _number(values: torch.Tensor | None, index: int) -> float | None:
    return None if values is None else round(float(values[index]), 4)
