"""The sets of sites that are compared: those of the published rules, of effect sizes, plain ones, and random ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import draw_sites
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.discriminative import BOUNDS, RULES
from lens_steer.geometry.rules import with_rule, with_separations
from lens_steer.models import sites as names_of

MIDDLE, ALL, RANDOM = "middle half", "all", "random"
SIGN = RULES[0]  # the published rule: opposite signs of the class means
MEASURES = {"effect": "cohens_d", "auroc": "auroc"}
DRAWS = 10


@dataclass(frozen=True)
class SiteSet:
    """Sites at which one method is steered.

    Attributes:
        rule: What chose them: a name of :data:`lens_steer.geometry.discriminative.RULES`, ``middle half``, ``all`` or
            ``random``.
        sites: Their names, in network order.
        draw: The number, from 1, of a random draw; 0 for every other set.
    """

    rule: str
    sites: tuple[str, ...]
    draw: int = 0

    @property
    def condition(self) -> str:
        """Return the name of the set's condition, which is the same for all draws: the rule and the number of sites.

        >>> SiteSet("random", ("blocks.3.ln1.hook_out",), 2).condition
        'random (1 site)'
        """
        n = len(self.sites)
        return f"{self.rule} ({n} site{'' if n == 1 else 's'})"

    @property
    def variant(self) -> str:
        """Return the name of the draw; empty for a set that is not drawn."""
        return f"draw {self.draw}" if self.draw else ""

    @property
    def name(self) -> str:
        """Return the condition and the draw."""
        return f"{self.condition}, {self.variant}" if self.draw else self.condition


def site_sets(
    calibration: Calibration, *, counts: Sequence[int] | None = None, draws: int = DRAWS, seed: int = 0
) -> tuple[SiteSet, ...]:
    """Return the sets that are compared, the published rule's first.

    The rules without a bound give the sets that they give. Effect sizes (Cohen's d, the area under the ROC curve) rank
    the sites, so each gives the best k of them, for every count k; random sets are drawn for the same counts. A rule
    that finds no site is left out.

    Args:
        calibration: A calibration with the projections of single prompts (recorded with ``keep="all"``), at the sites
            among which is chosen.
        counts: The numbers of sites besides that of the published rule. None takes a quarter and a half of all.
        draws: The number of random sets of each count.
        seed: The seed of the draws.

    Raises:
        LensSteerError: If the published rule finds no site, a count is not between 1 and the number of sites, or the
            number of draws is negative.

    >>> from lens_steer import load_calibration
    >>> [s.name for s in site_sets(load_calibration("figures/calibration"), counts=[3], draws=1)][-4:]
    ['middle half (12 sites)', 'all (24 sites)', 'random (3 sites), draw 1', 'random (11 sites), draw 1']
    """
    every = calibration.sites
    own = with_rule(calibration, SIGN, membership=False).discriminative_sites
    if not own:
        raise LensSteerError(
            f"no site of {calibration.model!r} is discriminative by the published rule, so there is nothing to compare "
            "with: use more prompts, or another contrast"
        )
    if draws < 0:
        raise LensSteerError(f"draws={draws}: give a number of at least 0 (0: none)")
    asked = (max(1, len(every) // 4), max(1, len(every) // 2)) if counts is None else counts
    check_counts(asked, len(every))
    wanted = sorted({len(own), *asked})
    found = [SiteSet(SIGN, own)]
    for rule in (r for r in RULES if r != SIGN and r not in BOUNDS):
        if sites := with_rule(calibration, rule, membership=False).discriminative_sites:
            found.append(SiteSet(rule, sites))
    measured = with_separations(calibration)
    for rule, field in MEASURES.items():
        values = getattr(measured, field).tolist()
        ranked = sorted(range(len(every)), key=lambda i, v=values: -v[i])  # the earlier one of equals
        found += [SiteSet(rule, _in_order(every[i] for i in ranked[:k])) for k in wanted]
    low, high = calibration.n_layers // 4, calibration.n_layers - calibration.n_layers // 4
    found.append(SiteSet(MIDDLE, tuple(n for n in every if low <= names_of.parse(n).block < high)))
    found.append(SiteSet(ALL, every))
    for k in wanted:
        drawn = random.Random(f"site choice/{seed}/{k}")
        found += [SiteSet(RANDOM, draw_sites(drawn, every, k), draw) for draw in range(1, draws + 1)]
    return tuple(found)


def check_counts(counts: Sequence[int] | None, n_sites: int) -> None:
    """Refuse numbers of sites of which there are not as many.

    Raises:
        LensSteerError: If one is below 1 or above the number of sites.
    """
    if wrong := [k for k in counts or () if not 1 <= k <= n_sites]:
        raise LensSteerError(f"counts={wrong[0]}: give numbers of sites from 1 to {n_sites}")


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: names_of.parse(name).order))
