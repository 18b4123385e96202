"""Random controls of SS at L_disc, each in many draws: how far chance comes with one part of the method drawn.

A single draw of a control tells of that draw alone. Here a random half of the blocks, random sites, a random second
axis and a random plane are drawn many times, all at the angle that was chosen for SS. No draw has a choice of its own.
SS is compared with all of them on the same prompts: with their mean, and with each by rank.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import comb

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer._defaults import VERIFY_DRAWS
from lens_steer.evaluation.conditions import RANDOM_PLANE, RANDOM_SITES
from lens_steer.evaluation.control_bands import Band, band
from lens_steer.evaluation.controls import Controls, report_draws
from lens_steer.evaluation.grids import Grid
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.planes import orthonormalise, random_plane
from lens_steer.models import sites
from lens_steer.stats.draws import less_mean_of_draws
from lens_steer.stats.estimates import Estimate
from lens_steer.steer.methods import selective_steering
from lens_steer.studies.propositions.measured import Measured

DRAWS = VERIFY_DRAWS
HALF, SITES, AXIS, PLANE = "SS, random half", "SS, random sites", "SS, random b2", "SS, random plane"
DRAWN = (HALF, SITES, AXIS, PLANE)


def draw_grids(calibration: Calibration, angle: float, *, draws: int = DRAWS, seed: int = 0) -> list[Grid]:
    """Return the grids of all draws of all four controls at one angle.

    Random sites are missing where SS steers every site already, and there are fewer draws where no more sets exist.

    Args:
        calibration: A calibration with discriminative sites.
        angle: The angle in degrees.
        draws: The number of draws of each control.
        seed: The seed of all draws.

    Raises:
        LensSteerError: If the number of draws is negative.

    >>> import lens_steer as ls
    >>> grids = draw_grids(ls.load_calibration("figures/calibration"), 150.0, draws=3)
    >>> [g.name for g in grids if g.draw == 2]
    ['SS, random half (draw 2)', 'SS, random b2 (draw 2)', 'SS, random plane (draw 2)', 'SS, random sites (draw 2)']
    """
    controls, ss = Controls(calibration, draws=draws, seed=seed), partial(selective_steering, calibration)
    base = Grid("SS, L_disc", ss, (angle,), method="selective")
    halves = [partial(ss, at=names) for names in _halves(calibration, draws, seed)]
    axes = [partial(ss, basis=_with_random_axis(calibration, one)) for one in controls.seeds]
    found = [
        replace(base, condition=name, build=build, variant=f"draw {k}", draw=k)
        for name, builds in ((HALF, halves), (AXIS, axes))
        for k, build in enumerate(builds, start=1)
    ]
    drawn, _ = report_draws(controls, base, "not asked")
    wanted = {RANDOM_PLANE: PLANE, RANDOM_SITES: SITES}
    return found + [replace(g, condition=wanted[g.condition]) for g in drawn if g.condition in wanted]


def _halves(calibration: Calibration, draws: int, seed: int) -> list[tuple[str, ...]]:
    """Return the norm outputs of different random halves of the blocks, none of them the sites of SS itself."""
    names = sites.resolve("norm_out", calibration.layout)
    rng, half = random.Random(f"random halves/{seed}"), calibration.n_layers // 2
    own = set(calibration.discriminative_sites)
    blocks_of_own = tuple(sorted({sites.parse(n).block for n in own}))
    whole = own == {n for n in names if sites.parse(n).block in blocks_of_own} and len(blocks_of_own) == half
    found: list[tuple[int, ...]] = []
    while len(found) < min(draws, comb(calibration.n_layers, half) - whole):
        blocks = tuple(sorted(rng.sample(range(calibration.n_layers), half)))
        found += [] if blocks in found or (whole and blocks == blocks_of_own) else [blocks]
    return [tuple(n for n in names if sites.parse(n).block in blocks) for blocks in found]


def _with_random_axis(calibration: Calibration, seed: int) -> Float[Tensor, "2 d_model"]:
    """Return a plane of b1 and a random second axis."""
    drawn = random_plane(calibration.d_model, seed)[0].double()
    return orthonormalise(calibration.basis[0].double(), drawn)[0]


@dataclass(frozen=True)
class Common:
    """One outcome of SS and of the draws of a control, on the prompts that have a value under all of them.

    Attributes:
        own: The value of each prompt under SS.
        draws: The values under each draw that has any.
        kept: For each prompt of the split whether it is among these.
    """

    own: Float[np.ndarray, " n_kept"]
    draws: Float[np.ndarray, "n_draws n_kept"]
    kept: Bool[np.ndarray, " n"]


def common(base: Measured, drawn: Sequence[Measured], outcome: str) -> Common | None:
    """Return an outcome of SS and of the draws of a control on the prompts that they share.

    A draw without any value is left out.

    Args:
        base: SS at L_disc.
        drawn: The draws, on the same prompts.
        outcome: Field of :class:`Measured` that holds the values.

    Returns:
        The values; None without draws, or if there is no prompt with a value under SS and under every draw.
    """
    own, each = _values(base, outcome), [_values(m, outcome) for m in drawn]
    others = [values for values in each if not np.isnan(values).all()]
    if not others:
        return None
    stacked = np.stack(others)
    kept = ~np.isnan(own) & ~np.isnan(stacked).any(axis=0)
    return Common(own[kept], stacked[:, kept], kept) if kept.any() else None


@dataclass(frozen=True)
class Against:
    """One quantity of SS against the draws of a control, all on the same prompts.

    Attributes:
        difference: SS less the mean of the draws. Its interval is over prompts and over draws.
        band: The band of the draws' own values, and the ranks of the value of SS among them.
    """

    difference: Estimate
    band: Band

    def rank_p(self, sign: int) -> float:
        """Return the one-sided p of the rank of SS: among the largest for a sign of 1, among the smallest for −1."""
        return self.band.p_at_least if sign > 0 else self.band.p_at_most


def against(
    base: Measured, drawn: Sequence[Measured], outcome: str, *, comparisons: int = 1, seed: int = 0
) -> Against | None:
    """Compare SS with the draws of a control on the prompts that all of them have a value for.

    Args:
        base: SS at L_disc.
        drawn: The draws, on the same prompts.
        outcome: Field of :class:`Measured` that holds the values.
        comparisons: The number of comparisons for which the interval holds at 95 % together (Bonferroni).
        seed: Seed of the bootstrap.

    Returns:
        The comparison; None without draws, or if there is no prompt with a value under SS and under every draw.
    """
    found = common(base, drawn, outcome)
    if found is None:
        return None
    clusters = base.clusters_at(outcome, found.kept)
    effect = less_mean_of_draws(found.own, found.draws, clusters, level=1 - 0.05 / comparisons, seed=seed)
    return Against(effect, band(found.draws.mean(axis=1).tolist(), float(found.own.mean())))


def _values(measured: Measured, outcome: str) -> Float[np.ndarray, " n"]:
    return getattr(measured, outcome).astype(float)


def by_control(measured: Sequence[Measured]) -> Mapping[str, tuple[Measured, ...]]:
    """Return the draws by control, in the order of :data:`DRAWN`; a control without draws is left out."""
    found = {name: tuple(m for m in measured if m.condition == name) for name in DRAWN}
    return {name: draws for name, draws in found.items() if draws}
