"""Controls of one method, each in many draws, so that the method's numbers are compared with a band.

A control is the method with one wrong part: a random plane or random directions, random sites, or labels that were
shuffled before the calibration. A control that has only one form (the identity setting, all sites) runs once. All
controls run at the value that was chosen for the method; no control has a choice of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import (
    ALL,
    RANDOM_PLANE,
    RANDOM_SITES,
    SHUFFLED,
    draw_sites,
    plan_at_sites,
    shuffled_labels,
)
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.pieces import kept_calibration
from lens_steer.geometry.boundary import Boundary
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.discriminative import RULES
from lens_steer.geometry.planes import random_plane, turned_at_random
from lens_steer.inference.record import Activations, record
from lens_steer.models import sites
from lens_steer.operators.catalogue import operator
from lens_steer.steer.method_table import METHODS
from lens_steer.steer.plans import SteeringPlan, Step
from lens_steer.steer.value_sweep import Build

DRAWS, SELECT_VALUES = 10, 4
RANDOM_DIRECTION, IDENTITY_SETTING = "random direction", "identity setting"
SEEDS_APART = 1000  # the distance between the draws of one seed and those of the next
AT_ITS_VALUE = (
    "Every control ran at the value that was chosen for the method on the select split. No control had a choice of "
    "its own, so this is no matched selection: part of what the method is ahead may come from choosing."
)
OF_ONE_SITE = "a probe was fitted at one site: what its boundary would be elsewhere is not known"


@dataclass(frozen=True)
class Controls:
    """The source of one method's controls.

    Attributes:
        source: The calibration or the boundary from which the method's grids were made.
        options: Further arguments of the plan constructor, as given to the grids.
        draws: The number of draws of each drawn control; 0 for no controls at all.
        select_values: The number of the method's values at which random planes run on the select split too, for the
            band in its figures.
        seed: The seed of all draws.

    Raises:
        LensSteerError: If a number of draws or values is negative.
    """

    source: Calibration | Boundary
    options: Mapping[str, Any] = field(default_factory=dict)
    draws: int = DRAWS
    select_values: int = SELECT_VALUES
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("draws", self.draws), ("select_values", self.select_values)):
            if value < 0:
                raise LensSteerError(f"{name}={value}: give a number of at least 0 (0: none)")

    @property
    def smallest_p(self) -> float | None:
        """Return the smallest possible p-value of a band; None without draws.

        See :attr:`lens_steer.evaluation.control_bands.Band.p_at_least`.
        """
        return 1 / (1 + self.draws) if self.draws else None

    @property
    def seeds(self) -> list[int]:
        """Return the seed of each draw."""
        return [self.seed * SEEDS_APART + k for k in range(self.draws)]


def along_random(plan: SteeringPlan, seed: int) -> SteeringPlan:
    """Return the same plan along random directions of the same lengths and with the same cosines between each other.

    Sites, tokens, gates, targets and coefficients stay. An operator with a gate at a boundary keeps the boundary, and
    writes steps of the same size along the random direction (``along``).

    Raises:
        LensSteerError: If a step of the plan has no direction, as in a rotation.

    >>> from lens_steer import act_add, load_calibration
    >>> plan = act_add(load_calibration("figures/calibration"), 2)
    >>> a, b = (p.steps[0].parameters["direction"] for p in (plan, along_random(plan, seed=1)))
    >>> bool(torch.isclose(a.norm(), b.norm())), bool(torch.isclose(a, b).all())
    (True, False)
    """
    if not all(operator(s.operator).directions for s in plan.steps):
        raise LensSteerError(
            f"plan of method {plan.method!r} has steps without a direction: give a rotation a random basis instead"
        )
    own = [s.parameters[operator(s.operator).directions[0]] for s in plan.steps]
    drawn = turned_at_random(torch.stack(own), seed)
    return replace(plan, steps=tuple(_along(s, d) for s, d in zip(plan.steps, drawn, strict=True)))


def _along(step: Step, drawn: Tensor) -> Step:
    """Return a step that writes along another direction."""
    return replace(step, parameters={**step.parameters, operator(step.operator).directions[-1]: drawn})


def select_draws(controls: Controls, grids: Sequence[Grid]) -> list[Grid]:
    """Return grids with random planes in place of a rotation's own, at a few values spread over its grid.

    There are none for a method without an angle, which has no figure over values.
    """
    grid = grids[0]
    turning = [v for v in grid.values if v is not None and not _is_identity(grid.method, v)]
    if not grid.turns or len(turning) < 2 or not controls.select_values:
        return []
    return _random(controls, replace(grid, values=_inside(turning, controls.select_values)))


def report_draws(
    controls: Controls, chosen: Grid, shuffled: Sequence[Calibration] | str
) -> tuple[list[Grid], dict[str, str]]:
    """Return every control of a method at its chosen value, and the reasons for those that are missing.

    Args:
        controls: The source of the controls.
        chosen: The method's grid at only its chosen value.
        shuffled: The calibrations from shuffled labels, or the reason why there are none.

    Returns:
        The grids, one for each draw, and the reason for each missing control, by control.

    Raises:
        LensSteerError: If the grid steers nothing.
    """
    if chosen.build is None:
        raise LensSteerError(f"condition {chosen.condition!r} steers nothing: controls are made for a method's grid")
    if not controls.draws:
        return [], {}
    method, value, source = chosen.method, chosen.values[0], controls.source
    found: list[Grid] = []
    missing: dict[str, str] = {}
    if identities := _identities(method):
        found.append(replace(chosen, condition=IDENTITY_SETTING, values=identities[:1], variant=""))
    else:
        missing[IDENTITY_SETTING] = f"no value of {method} leaves a token as it is"
    found += _random(controls, chosen)
    if isinstance(source, Boundary):
        return found, missing | dict.fromkeys((RANDOM_SITES, ALL, SHUFFLED), OF_ONE_SITE)
    own = chosen.build(value).sites
    pool = _pool(source, own, directed=not _in_a_plane(method))
    placed = partial(plan_at_sites, method, dict(controls.options))
    if len(own) < len(pool):
        places = _site_sets(pool, own, controls.draws, controls.seed)
        found += _drawn(chosen, RANDOM_SITES, [partial(placed, source, where) for where in places])
        found.append(replace(chosen, condition=ALL, build=partial(placed, source, pool), variant=""))
    else:
        missing |= dict.fromkeys((RANDOM_SITES, ALL), f"{method} writes at all {len(own)} sites already")
    if isinstance(shuffled, str):
        missing[SHUFFLED] = shuffled
    else:
        found += _drawn(chosen, SHUFFLED, [partial(placed, c, own) for c in shuffled])
    return found, missing


def shuffled_calibrations(
    model: Any,
    contrast: ContrastSet,
    controls: Controls,
    out: str | Path,
    *,
    engine: str = ENGINE,
    activations: Activations | None = None,
    progress: bool = True,
) -> list[Calibration] | str:
    """Make the calibration again from shuffled labels, once for each draw.

    Its fit prompts are recorded again at its sites, unless ``activations`` are given. The results are kept in
    ``out/calibrations`` for a resumed run, since another processor would round them differently.

    Returns:
        The calibrations, or the reason why there are none.
    """
    source = controls.source
    if reason := not_shuffled(source, contrast):
        return reason
    assert isinstance(source, Calibration)

    def made(seed: int) -> Calibration:
        nonlocal activations
        if activations is None:
            how: dict[str, Any] = {"pooling": source.details.get("pooling", "last"), "engine": engine}
            activations = record(model, contrast.fit, list(source.sites), progress=progress, **how)
        assert activations is not None
        return _shuffled(source, activations, seed, progress)

    folder = Path(out) / "calibrations"
    return [
        kept_calibration(folder / f"shuffled_labels_{k:02}", source, partial(made, seed), seed=seed)
        for k, seed in enumerate(controls.seeds, start=1)
    ]


def not_shuffled(source: Calibration | Boundary, contrast: ContrastSet) -> str:
    """Return the reason why the labels cannot be shuffled; empty where they can.

    >>> import lens_steer as ls
    >>> calibration, contrast = ls.load_calibration("figures/calibration"), ls.load_contrast("organism/refusal")
    >>> not_shuffled(calibration, contrast), not_shuffled(calibration, contrast.first(fit=4))[:42]
    ('', 'the calibration was made from other prompt')
    """
    if isinstance(source, Boundary):
        return OF_ONE_SITE
    if source.prompt_hash != contrast.fit.hash:
        return (
            "the calibration was made from other prompts than this contrast's fit split, so its activations cannot be "
            "recorded again"
        )
    return ""


def _shuffled(source: Calibration, activations: Activations, seed: int, progress: bool = False) -> Calibration:
    """Make a calibration with the source's options, from shuffled labels."""
    details = source.details
    return calibrate(
        shuffled_labels(activations, seed),
        rule=source.rule if source.rule in RULES else RULES[0],
        bound=source.bound,
        candidate_norm=str(details.get("candidate_norm", "unit")),
        pca_center=bool(details.get("pca_center", True)),
        component=int(details.get("pca_component") or 0),
        direction=str(details.get("direction", "difference")),
        seed=seed,
        progress=progress,
    )


def _random(controls: Controls, grid: Grid) -> list[Grid]:
    """Return a method's grid in random planes or along random directions, once for each draw."""
    seeds, source = controls.seeds, controls.source
    assert grid.build is not None
    if _in_a_plane(grid.method) and isinstance(source, Calibration):
        name, own = RANDOM_PLANE, grid.build(grid.values[0]).sites
        planes = [replace(source, basis=random_plane(source.d_model, seed)) for seed in seeds]
        builds: list[Build] = [partial(plan_at_sites, grid.method, dict(controls.options), c, own) for c in planes]
    else:
        name, builds = RANDOM_DIRECTION, [partial(_along_random, grid.build, seed) for seed in seeds]
    return _drawn(grid, name, builds)


def _drawn(grid: Grid, condition: str, builds: Sequence[Build]) -> list[Grid]:
    """Return a method's grid as a drawn control, one for each draw."""
    return [replace(grid, condition=condition, build=b, variant=f"draw {k}", draw=k) for k, b in enumerate(builds, 1)]


def _along_random(build: Build, seed: int, value: Any) -> SteeringPlan:
    return along_random(build(value), seed)


def _pool(calibration: Calibration, own: tuple[str, ...], *, directed: bool) -> tuple[str, ...]:
    """Return the sites that the method could have been given instead.

    These are the recorded sites, if the method's own are among them; for a method that needs a direction of the site,
    only those with one. Otherwise they are all sites of the kinds at which the method writes.
    """
    if set(own) <= set(calibration.sites):
        return tuple(
            n for n, c in zip(calibration.sites, calibration.candidates, strict=True) if bool(c.any()) or not directed
        )
    kinds = sorted({sites.parse(n).kind for n in own})
    return sites.resolve(kinds, calibration.layout)


def _site_sets(pool: tuple[str, ...], own: tuple[str, ...], draws: int, seed: int) -> list[tuple[str, ...]]:
    """Draw different sets of as many sites as the method's, none equal to its own.

    There are fewer sets than requested if no more exist.
    """
    rng, found = random.Random(f"random sites/{seed}"), []
    while len(found) < min(draws, math.comb(len(pool), len(own)) - 1):
        drawn = draw_sites(rng, pool, len(own))
        if drawn != own and drawn not in found:
            found.append(drawn)
    return found


def _in_a_plane(method: str) -> bool:
    """Return whether a method steers in the plane and not along directions."""
    return method in METHODS and bool(operator(METHODS[method].operator).planes)


def _identities(method: str) -> tuple[float, ...]:
    return METHODS[method].identities if method in METHODS else ()


def _is_identity(method: str, value: float) -> bool:
    return value % 360 in _identities(method)


def _inside(values: Sequence[float], n: int) -> tuple[float, ...]:
    """Return at most ``n`` of the values, each from the middle of one of ``n`` equal parts.

    The ends are avoided, since on a circle of angles they lie next to the identity.
    """
    return tuple(values) if len(values) <= n else tuple(values[int((i + 0.5) * len(values) / n)] for i in range(n))
