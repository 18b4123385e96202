"""Controls of one method, each in many draws: a number of the method stands beside a band, not beside a line.

A control is the method with one thing put wrong: its plane or directions drawn at random, its sites drawn at random,
its labels shuffled before it was calibrated. What has only one form (the identity setting, all sites) runs once. All
run at the value that was chosen for the method; no control is chosen itself.
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
from lens_steer.evaluation.conditions import ALL, RANDOM_PLANE, RANDOM_SITES, SHUFFLED, plan_at_sites, shuffled_labels
from lens_steer.evaluation.control_bands import DRAW
from lens_steer.evaluation.sweeps import Grid
from lens_steer.geometry.boundary import Boundary
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.discriminative import RULES
from lens_steer.geometry.files import load_calibration, save_calibration
from lens_steer.geometry.planes import random_plane, turned_at_random
from lens_steer.inference.record import Activations, record
from lens_steer.models import sites
from lens_steer.operators.catalogue import operator
from lens_steer.steer.method_table import METHODS, turning_methods
from lens_steer.steer.plans import SteeringPlan, Step
from lens_steer.steer.value_sweep import Build

DRAWS, SELECT_VALUES = 10, 4
RANDOM_DIRECTION, IDENTITY_SETTING = "random direction", "identity setting"
SEEDS_APART = 1000  # between the draws of one seed and those of the next
AT_ITS_VALUE = (
    "Every control ran at the value that was chosen for the method on the select split. No control had a choice "
    "of its own, so this is no matched selection: part of what the method is ahead "
    "may come from choosing."
)
OF_ONE_SITE = "a probe was fitted at one site: what its boundary would be elsewhere is not known"


@dataclass(frozen=True)
class Controls:
    """What the controls of one method are made from.

    Attributes:
        source: the calibration or the boundary that the method's grids were made from.
        options: further ones of the plan constructor, as the grids were given them.
        draws: of each control that is drawn; 0 for no controls at all.
        select_values: at how many of the method's values random planes run on the select split too, for the band in its
            figures.
        seed: of everything that is drawn.

    Raises:
        LensSteerError: a negative number of draws or values.
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
        """The least that :attr:`lens_steer.evaluation.control_bands.Band.p_at_least` can be; None without draws."""
        return 1 / (1 + self.draws) if self.draws else None


def along_random(plan: SteeringPlan, seed: int) -> SteeringPlan:
    """The same plan along random directions, of the same lengths and of the same cosines among each other.

    Sites, tokens, gates, targets and coefficients stay; what is gated by a boundary keeps it, and writes along the
    random direction by steps of the same size (``along``).

    Raises:
        LensSteerError: a plan whose steps have no direction, such as a rotation's.

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
    """A step along another direction."""
    return replace(step, parameters={**step.parameters, operator(step.operator).directions[-1]: drawn})


def select_draws(controls: Controls, grids: Sequence[Grid]) -> list[Grid]:
    """Random planes in place of a rotation's own, at a few of its values spread over the grid; none for a method
    without an angle, which has no figure over values.
    """
    grid = grids[0]
    turning = [v for v in grid.values if v is not None and not _is_identity(grid.condition, v)]
    if grid.condition not in turning_methods() or len(turning) < 2 or not controls.select_values:
        return []
    return _random(controls, replace(grid, values=_inside(turning, controls.select_values)))


def report_draws(
    controls: Controls, chosen: Grid, shuffled: Sequence[Calibration] | str
) -> tuple[list[Grid], dict[str, str]]:
    """Every control of a method at its chosen value, and why those that are missing are.

    Args:
        controls: what they are made from.
        chosen: the method's grid at its chosen value alone.
        shuffled: calibrations from shuffled labels, or why there are none.

    Returns:
        grids, one a draw, and control → reason.

    Raises:
        LensSteerError: a grid that steers nothing.
    """
    if chosen.build is None:
        raise LensSteerError(f"condition {chosen.condition!r} steers nothing: controls are made for a method's grid")
    if not controls.draws:
        return [], {}
    method, value, source = chosen.condition, chosen.values[0], controls.source
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
        for k, where in enumerate(_site_sets(pool, own, controls.draws, controls.seed)):
            found.append(Grid(RANDOM_SITES, partial(placed, source, where), (value,), f"{DRAW} {k + 1}"))
        found.append(Grid(ALL, partial(placed, source, pool), (value,)))
    else:
        missing |= dict.fromkeys((RANDOM_SITES, ALL), f"{method} writes at all {len(own)} sites already")
    if isinstance(shuffled, str):
        missing[SHUFFLED] = shuffled
    else:
        found += [Grid(SHUFFLED, partial(placed, c, own), (value,), f"{DRAW} {k + 1}") for k, c in enumerate(shuffled)]
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
    """The calibration made again from shuffled labels, once a draw; or in words why that cannot be.

    Its fit prompts are recorded again at its sites, unless the ``activations`` are at hand. The results are kept in
    ``out/calibrations``, for a run that goes on later: another processor would round them otherwise.
    """
    source = controls.source
    if reason := not_shuffled(source, contrast):
        return reason
    assert isinstance(source, Calibration)
    found = []
    for k in range(controls.draws):
        seed, folder = controls.seed * SEEDS_APART + k, Path(out) / "calibrations" / f"shuffled_labels_{k + 1:02}"
        if folder.exists():
            kept = load_calibration(folder)
            if (kept.prompt_hash, kept.model, kept.sites, kept.seed) == (
                source.prompt_hash,
                source.model,
                source.sites,
                seed,
            ):
                found.append(kept)
                continue
        if activations is None:
            pooling: Any = source.details.get("pooling", "last")
            activations = record(
                model, contrast.fit, list(source.sites), pooling=pooling, engine=engine, progress=progress
            )
        save_calibration(_shuffled(source, activations, seed, progress), folder)
        found.append(load_calibration(folder))
    return found


def not_shuffled(source: Calibration | Boundary, contrast: ContrastSet) -> str:
    """Why labels cannot be shuffled; empty where they can.

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


def shuffled_from(controls: Controls, activations: Activations) -> list[Calibration]:
    """The same from the activations that the calibration was made of, where they are at hand.

    Raises:
        LensSteerError: a boundary, which is no calibration.
    """
    if not isinstance(controls.source, Calibration):
        raise LensSteerError(
            f"controls.source is a {type(controls.source).__name__}: {OF_ONE_SITE}; give a calibration"
        )
    return [_shuffled(controls.source, activations, controls.seed * SEEDS_APART + k) for k in range(controls.draws)]


def _shuffled(source: Calibration, activations: Activations, seed: int, progress: bool = False) -> Calibration:
    """A calibration made as the source was, from shuffled labels."""
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
    """A method's grid in random planes, or along random directions, a draw each."""
    seeds, source = [controls.seed * SEEDS_APART + k for k in range(controls.draws)], controls.source
    assert grid.build is not None
    if _in_a_plane(grid.condition) and isinstance(source, Calibration):
        name, own = RANDOM_PLANE, grid.build(grid.values[0]).sites
        planes = [replace(source, basis=random_plane(source.d_model, seed)) for seed in seeds]
        builds: list[Build] = [partial(plan_at_sites, grid.condition, dict(controls.options), c, own) for c in planes]
    else:
        name, builds = RANDOM_DIRECTION, [partial(_along_random, grid.build, seed) for seed in seeds]
    return [replace(grid, condition=name, build=b, variant=f"{DRAW} {k + 1}") for k, b in enumerate(builds)]


def _along_random(build: Build, seed: int, value: Any) -> SteeringPlan:
    return along_random(build(value), seed)


def _pool(calibration: Calibration, own: tuple[str, ...], *, directed: bool) -> tuple[str, ...]:
    """The sites that a method could as well have been given: those recorded (with a direction there, if it needs one of
    the site), or all of the kinds that it writes at.
    """
    if set(own) <= set(calibration.sites):
        return tuple(
            n for n, c in zip(calibration.sites, calibration.candidates, strict=True) if bool(c.any()) or not directed
        )
    kinds = sorted({sites.parse(n).kind for n in own})
    return sites.resolve(kinds, n_layers=calibration.n_layers, architecture=calibration.architecture)


def _site_sets(pool: tuple[str, ...], own: tuple[str, ...], draws: int, seed: int) -> list[tuple[str, ...]]:
    """Different sets of as many sites as the method's, none its own; fewer than asked for where there are no more."""
    rng, found = random.Random(f"random sites/{seed}"), []
    while len(found) < min(draws, math.comb(len(pool), len(own)) - 1):
        drawn = tuple(sorted(rng.sample(pool, len(own)), key=lambda n: sites.parse(n).order))
        if drawn != own and drawn not in found:
            found.append(drawn)
    return found


def _in_a_plane(method: str) -> bool:
    """Whether a method steers in the plane, and not along directions."""
    return method in METHODS and bool(operator(METHODS[method].operator).planes)


def _identities(method: str) -> tuple[float, ...]:
    return METHODS[method].identities if method in METHODS else ()


def _is_identity(method: str, value: float) -> bool:
    return value % 360 in _identities(method)


def _inside(values: Sequence[float], n: int) -> tuple[float, ...]:
    """At most ``n`` of the values, each from the middle of one of ``n`` equal parts: the ends of a circle are next to
    its identity.
    """
    return tuple(values) if len(values) <= n else tuple(values[int((i + 0.5) * len(values) / n)] for i in range(n))
