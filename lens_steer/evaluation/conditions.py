"""Conditions of a comparison: every method with the values of its parameter, and the controls that run beside it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.grids import Grid
from lens_steer.geometry.boundary import Boundary, boundary
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.discriminative import BOUNDS, RULES
from lens_steer.geometry.planes import random_plane
from lens_steer.geometry.rules import with_rule
from lens_steer.geometry.selected_direction import StreamDirection
from lens_steer.inference.record import Activations
from lens_steer.models import sites
from lens_steer.steer.method_table import ANGLES, METHODS, find_method, turning_methods
from lens_steer.steer.methods import Source, check_source, make_plan
from lens_steer.steer.plans import SteeringPlan

SITES_TRIED = 6  # sites of an addition: with 6 coefficients it has as many settings as there are angles (36)
NONE, PROMPT_ONLY, IDENTITY, SHUFFLED = "no steering", "prompt only", "identity angle", "shuffled labels"
RANDOM_PLANE, RANDOM_SITES, EARLY, LATE, ALL = "random plane", "random sites", "early half", "late half", "all sites"
CONTROLS = (IDENTITY, RANDOM_PLANE, RANDOM_SITES, EARLY, LATE, ALL, SHUFFLED)
# The bounds over which a rule is swept, so that one of them is chosen on select, as an angle is.
RULE_BOUNDS: dict[str, tuple[float, ...]] = {"effect": (0.5, 1.0, 2.0, 3.0), "auroc": (0.8, 0.9, 0.95, 0.99)}
_MEASURES = {"effect": "d", "auroc": "AUROC"}
COMPARED = tuple(m.name for m in METHODS.values() if m.compared)
TOWARDS_POSITIVE = {
    m.name: m.positive_grid for m in METHODS.values() if m.positive_grid
}  # the grids of a probe, from below its boundary


def method_grids(
    calibration: Calibration | StreamDirection, method: str, *, values: Sequence[float] | None = None, **options: Any
) -> list[Grid]:
    """Return one method's grids.

    An angular method has one grid over its angles. A method that writes at one site has one grid over its coefficients
    for each of several sites, spread over the discriminative sites (over all sites if there is no discriminative one).
    A selected direction has only its own site.

    Args:
        calibration: The calibration of the model, or a selected direction (:func:`lens_steer.select_direction`).
        method: A name of :data:`lens_steer.steer.method_table.METHODS`.
        values: The angles or coefficients. None takes angles ten degrees apart, or the method's own list.
        options: Further arguments of the plan constructor, such as ``at`` or ``positions``.

    Raises:
        LensSteerError: If the method is unknown or does not take a selected direction, or if values are given for a
            method without a parameter to sweep.

    >>> from lens_steer import load_calibration
    >>> [(g.variant, len(g.values)) for g in method_grids(load_calibration("figures/calibration"), "selective")]
    [('', 36)]
    """
    record = find_method(method)
    check_source(record, calibration)
    build = partial(plan_at_value, record.name, calibration, options)
    if record.swept is None:
        if values is not None:
            raise LensSteerError(
                f"method={record.name!r} has no angle and no coefficient to sweep: leave the values out"
            )
        return [Grid(record.name, build, method=record.name)]
    chosen = record.grid if values is None else tuple(values)
    if not record.tries_sites or "at" in options or isinstance(calibration, StreamDirection):
        return [Grid(record.name, build, chosen, method=record.name)]
    tried = _spread(calibration.discriminative_sites or calibration.sites, SITES_TRIED)
    at_site = partial(plan_at_sites, record.name, options, calibration)
    return [Grid(record.name, partial(at_site, (n,)), chosen, n, method=record.name) for n in tried]


def rule_condition(method: str, rule: str) -> str:
    """Return the name of a method's condition at another rule's sites."""
    return f"{method} ({rule})"


def rule_grids(
    calibration: Calibration,
    method: str,
    rules: Sequence[str],
    *,
    values: Sequence[float] | None = None,
    bounds: Mapping[str, Sequence[float]] = RULE_BOUNDS,
    **options: Any,
) -> tuple[list[Grid], list[str]]:
    """Return a method's grids at the discriminative sites of other rules.

    There is one condition for each rule, and one variant for each of its bounds; the variant's name tells the number of
    sites.

    Args:
        calibration: The calibration with the direction and the plane. The sites of a rule come from it too
            (:func:`lens_steer.geometry.rules.discriminative_by_rule`).
        method: A method that writes at the discriminative sites, whichever rule gives them.
        rules: Names of :data:`lens_steer.geometry.discriminative.RULES`.
        values, options: See :func:`method_grids`.
        bounds: The bounds to try, by rule.

    Returns:
        The grids, and a line for each case that was left out. That is a rule or bound without a site, a bound that
        gives the same sites as a lower one, or the calibration's own rule.

    Raises:
        LensSteerError: If the method does not write at discriminative sites, a rule is unknown, or the calibration
            lacks what a rule needs.

    >>> from lens_steer import load_calibration
    >>> grids, left_out = rule_grids(
    ...     load_calibration("figures/calibration"), "selective", ["paper", "centred", "effect"]
    ... )
    >>> [g.name for g in grids][:2]
    ['selective (centred) (15 sites)', 'selective (effect) (d > 0.5, 11 sites)']
    >>> left_out[0]
    "rule 'paper' is the calibration's own: condition 'selective' has it"
    """
    method = find_method(method).name
    if METHODS[method].writes != "discriminative":
        others = ", ".join(m.name for m in METHODS.values() if m.writes == "discriminative")
        raise LensSteerError(
            f"rules={list(rules)!r}: method {method!r} does not write at the discriminative sites; use one of {others}"
        )
    grids: list[Grid] = []
    left_out: list[str] = []
    for rule in dict.fromkeys(rules):
        if rule == calibration.rule and rule not in BOUNDS:
            left_out.append(f"rule {rule!r} is the calibration's own: condition {method!r} has it")
            continue
        before: dict[tuple[str, ...], float | None] = {}
        for bound in sorted(bounds.get(rule, (BOUNDS[rule],))) if rule in BOUNDS else (None,):
            other = with_rule(calibration, rule, bound=bound, membership=False)
            found, where = other.discriminative_sites, "" if bound is None else f" at a bound of {bound:g}"
            if not found:
                left_out.append(f"rule {rule!r}{where} has no site")
            elif found in before:
                left_out.append(f"rule {rule!r}{where} has the same {len(found)} sites as at {before[found]:g}")
            else:
                before[found] = bound
                limit = "" if bound is None else f"{_MEASURES[rule]} > {bound:g}, "
                variant = f"{limit}{len(found)} site{'s' if len(found) > 1 else ''}"
                made = method_grids(other, method, values=values, **options)
                grids += [replace(g, condition=rule_condition(method, rule), variant=variant) for g in made]
    return grids, left_out


def probe_grid(source: Boundary, method: str, *, values: Sequence[float] | None = None, **options: Any) -> Grid:
    """Return the grid of a method over its coefficients, at the site of a boundary.

    It moves tokens towards the positive class unless ``gate`` says otherwise.

    Raises:
        LensSteerError: If the method needs a calibration.
    """
    record = find_method(method)
    check_source(record, source)
    own = record.positive_grid or record.grid or (None,)
    chosen = own if values is None else tuple(values)
    build = partial(plan_at_value, record.name, source, options)
    return Grid(record.name, build, chosen, source.site, method=record.name)


def control_grids(
    calibration: Calibration,
    shuffled: Calibration | None,
    *,
    values: Sequence[float] = ANGLES,
    system: str | None = None,
    seed: int = 0,
) -> list[Grid]:
    """Return the grids of the controls: no steering, a system prompt alone, and SS with one wrong part at a time.

    The wrong part is the plane, the sites or the labels.

    Args:
        calibration: The calibration of the model.
        shuffled: The same calibration made with shuffled labels; None leaves this control out.
        values: The angles of each control, the same as of the method itself.
        system: The system prompt of the prompt-only baseline; None leaves it out.
        seed: The seed of all draws.
    """
    norms = sites.resolve("norm_out", calibration.layout)
    half, angles = calibration.n_layers // 2, tuple(values)
    n_sites = len(calibration.discriminative_sites)
    places = {
        RANDOM_SITES: draw_sites(random.Random(f"controls/{seed}"), norms, n_sites),
        EARLY: tuple(n for n in norms if sites.parse(n).block < half),
        LATE: tuple(n for n in norms if sites.parse(n).block >= half),
        ALL: norms,
    }

    def wrong(name: str, source: Calibration, options: Mapping[str, Any], values: tuple[float, ...] = angles) -> Grid:
        return Grid(name, partial(plan_at_value, "selective", source, options), values, method="selective")

    found = [Grid(NONE), *([] if system is None else [Grid(PROMPT_ONLY, system=system)])]
    found += [
        wrong(IDENTITY, calibration, {}, (0.0,)),
        wrong(RANDOM_PLANE, calibration, {"basis": random_plane(calibration.d_model, seed)}),
        *(wrong(name, calibration, {"at": where}) for name, where in places.items()),
    ]
    if shuffled is not None:  # a shuffled calibration may have no discriminative sites of its own
        found.append(wrong(SHUFFLED, shuffled, {"at": calibration.discriminative_sites}))
    return found


def draw_sites(drawn: random.Random, names: Sequence[str], n: int) -> tuple[str, ...]:
    """Draw some of the sites, each at most once, and return them in network order.

    >>> draw_sites(random.Random(0), [f"blocks.{i}.ln1.hook_out" for i in range(12)], 2)
    ('blocks.6.ln1.hook_out', 'blocks.11.ln1.hook_out')
    """
    return tuple(sorted(drawn.sample(list(names), n), key=lambda name: sites.parse(name).order))


def has_angle(condition: str) -> bool:
    """Return whether the values of a condition in a file are degrees; a grid has :attr:`Grid.turns`.

    >>> has_angle("standard"), has_angle("random plane"), has_angle("act-add")
    (True, True, False)
    """
    by_rule = (rule_condition(method, rule) for method in turning_methods() for rule in RULES)
    return condition in (*turning_methods(), *CONTROLS, *by_rule)


def shuffled_labels(activations: Activations, seed: int = 0) -> Activations:
    """Return the same activations with their class labels permuted."""
    both = torch.cat([activations.positive, activations.negative])
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))
    n = len(activations.positive)
    groups = (*activations.groups_positive, *activations.groups_negative)
    first, second = (
        tuple(groups[i] for i in part) if groups else () for part in (order[:n].tolist(), order[n:].tolist())
    )
    return replace(
        activations,
        positive=both[order[:n]],
        negative=both[order[n:]],
        groups_positive=first,
        groups_negative=second,
        stream=None,
    )


def plan_at_value(method: str, source: Source, options: Mapping[str, Any], value: Any) -> SteeringPlan:
    """Make a plan at one value of the swept parameter, or at one value for each row.

    The value is None for a method that is not swept.

    >>> from lens_steer import load_calibration
    >>> plan_at_value("selective", load_calibration("figures/calibration"), {}, 90.0).angle
    90.0
    """
    return make_plan(method, source, **METHODS[method].at_value(value), **options)


def plan_at_sites(
    method: str, options: Mapping[str, Any], calibration: Calibration, where: tuple[str, ...], value: Any
) -> SteeringPlan:
    """Make a plan at given sites.

    A method that uses a boundary has a step of its own at each site, with the boundary there.

    >>> from lens_steer import load_calibration
    >>> calibration = load_calibration("figures/calibration")
    >>> len(plan_at_sites("swfc", {}, calibration, calibration.sites[4:6], 1.0).steps)
    2
    """
    record = METHODS[method]
    if record.writes != "boundary":
        return plan_at_value(record.elsewhere or method, calibration, {**options, "at": where}, value)
    further = {**record.swept_with, **options}
    plans = [plan_at_value(method, boundary(calibration, name), further, value) for name in where]
    return replace(plans[0], steps=tuple(step for plan in plans for step in plan.steps))


def _spread(names: Sequence[str], n: int) -> list[str]:
    """Return at most ``n`` of the names, evenly spaced, with the first and the last among them."""
    if len(names) <= n:
        return list(names)
    return [names[round(i * (len(names) - 1) / (n - 1))] for i in range(n)]
