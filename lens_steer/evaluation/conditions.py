"""What is compared: every method with the values of its parameter, and the controls that always run beside it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.sweeps import Grid
from lens_steer.geometry.boundary import Boundary, boundary
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.discriminative import BOUNDS, RULES
from lens_steer.geometry.planes import random_plane
from lens_steer.geometry.rules import with_rule
from lens_steer.inference.record import Activations
from lens_steer.models import sites
from lens_steer.steer.methods import BY_BOUNDARY, METHODS, make_plan, method_name
from lens_steer.steer.plans import SteeringPlan

ANGLES = tuple(float(a) for a in range(0, 360, 10))
SITES_TRIED = 6  # of an addition at one site: as many settings as there are angles
NONE, PROMPT_ONLY, IDENTITY, SHUFFLED = "no steering", "prompt only", "identity angle", "shuffled labels"
RANDOM_PLANE, RANDOM_SITES, EARLY, LATE, ALL = "random plane", "random sites", "early half", "late half", "all sites"
CONTROLS = (IDENTITY, RANDOM_PLANE, RANDOM_SITES, EARLY, LATE, ALL, SHUFFLED)
ANGULAR = ("selective", "standard", "adaptive", "mean-phase")
FIXED = ("ablation", "ablation-everywhere", "phase-collapse", "clamp")
# Methods that write at one site, and their values. What elicits takes harmful activations towards the harmless side: against the direction, below the boundary.
ONE_SITE: dict[str, tuple[float, ...]] = {
    "act-add": (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0),
    "act-add-keep-norm": (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0),
    "swfc": (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0),
    "sttp": (0.0, -2.0, -4.0, -8.0, -16.0, -36.0),
    "stmp": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
}
# The same towards the positive side, from below the boundary, to somewhat beyond the best ones of the paper (4, 36 and 4).
TOWARDS_POSITIVE: dict[str, tuple[float, ...]] = {
    "swfc": (0.5, 1.0, 2.0, 4.0, 6.0, 8.0), "sttp": (0.0, 6.0, 12.0, 24.0, 36.0, 48.0), "stmp": (0.5, 1.0, 2.0, 3.0, 4.0, 6.0),
}  # fmt: skip
GATED = {"sttp": {"gate": "above"}, "stmp": {"gate": "above"}}
COEFFICIENTS = (-8.0, -4.0, -2.0, -1.3, -1.0, 1.0)
# What each method's authors read and write; the others use the norms' outputs, as Selective Steering does.
READS = {"act-add": "resid_pre", "act-add-keep-norm": "resid_pre", "ablation-everywhere": "resid_pre", "swfc": "resid_post", "sttp": "resid_post",
         "stmp": "resid_post"}  # fmt: skip
AT_DISCRIMINATIVE = (
    *ANGULAR,
    "phase-collapse",
    "compliance",
)  # methods that write at the discriminative sites, whichever rule gives them
# The bounds that a rule is swept over, so that one is chosen on select like an angle.
RULE_BOUNDS: dict[str, tuple[float, ...]] = {"effect": (0.5, 1.0, 2.0, 3.0), "auroc": (0.8, 0.9, 0.95, 0.99)}
_MEASURES = {"effect": "d", "auroc": "AUROC"}
COMPARED = (
    "selective",
    "standard",
    "adaptive",
    "act-add",
    "act-add-keep-norm",
    "ablation",
    "ablation-everywhere",
    "swfc",
    "sttp",
    "stmp",
)


def method_grids(calibration: Calibration, method: str, *, values: Sequence[float] | None = None, **options: Any) -> list[Grid]:
    """One method's grids: its angles, or its coefficients at each of several sites, spread over the discriminative ones (over all, where none is).

    Args:
        calibration: of the model.
        method: a name of :data:`lens_steer.steer.methods.METHODS`.
        values: angles or coefficients; left out: ten degrees apart, or the method's own list.
        options: further ones of the plan constructor, such as ``at`` or ``positions``.

    Raises:
        LensSteerError: an unknown method, or one without a parameter that can be swept, given values.

    >>> from lens_steer import load_calibration
    >>> [(g.variant, len(g.values)) for g in method_grids(load_calibration("figures/calibration"), "selective")]
    [('', 36)]
    """
    method = method_name(method)
    build = partial(_build, method, calibration, options)
    if method in FIXED:
        if values is not None:
            raise LensSteerError(f"method={method!r} has no angle and no coefficient to sweep: leave the values out")
        return [Grid(method, build)]
    if method in ANGULAR:
        return [Grid(method, build, tuple(ANGLES if values is None else values))]
    if method in ONE_SITE and "at" not in options:
        tried = _spread(calibration.discriminative_sites or calibration.sites, SITES_TRIED)
        chosen = tuple(ONE_SITE[method] if values is None else values)
        return [
            Grid(method, partial(_build_at, method, calibration, name, GATED.get(method, {}) | options), chosen, name)
            for name in tried
        ]
    return [Grid(method, build, tuple(COEFFICIENTS if values is None else values))]


def rule_condition(method: str, rule: str) -> str:
    """The name of a method's condition at another rule's sites."""
    return f"{method} ({rule})"


def rule_grids(
    calibration: Calibration, method: str, rules: Sequence[str], *, values: Sequence[float] | None = None,
    bounds: Mapping[str, Sequence[float]] = RULE_BOUNDS, **options: Any,
) -> tuple[list[Grid], list[str]]:  # fmt: skip
    """A method at the discriminative sites of other rules: a condition for each rule, a variant for each bound of it and its number of sites.

    Args:
        calibration: whose direction and plane are used; it says which sites a rule gives (:func:`lens_steer.geometry.rules.discriminative_by_rule`).
        method: one of :data:`AT_DISCRIMINATIVE`.
        rules: of :data:`lens_steer.geometry.discriminative.RULES`.
        values, options: see :func:`method_grids`.
        bounds: rule → bounds that are tried.

    Returns:
        grids, and a line for whatever was left out (a rule or bound without a site, a bound that gives the same sites as a lower one, the calibration's own rule).

    Raises:
        LensSteerError: a method that does not write at discriminative sites, an unknown rule, or what a rule lacks in the calibration.

    >>> from lens_steer import load_calibration
    >>> grids, left_out = rule_grids(load_calibration("figures/calibration"), "selective", ["paper", "centred", "effect"])
    >>> [g.name for g in grids][:2], left_out[0]
    (['selective (centred) (15 sites)', 'selective (effect) (d > 0.5, 11 sites)'], "rule 'paper' is the calibration's own: condition 'selective' has it")
    """
    method = method_name(method)
    if method not in AT_DISCRIMINATIVE:
        raise LensSteerError(
            f"rules={list(rules)!r}: method {method!r} does not write at the discriminative sites; use one of {', '.join(AT_DISCRIMINATIVE)}"
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
    """A boundary's grid: one of the methods that take one, over its coefficients at the boundary's site.

    Moves towards the positive class unless ``gate`` says otherwise.

    Raises:
        LensSteerError: a method that needs a calibration.
    """
    method = method_name(method)
    build = partial(_build, method, source, options)
    if method not in BY_BOUNDARY:
        raise LensSteerError(f"method {method!r} needs a calibration, and a probe was given: use one of {', '.join(BY_BOUNDARY)}")
    return Grid(method, build, tuple(TOWARDS_POSITIVE[method] if values is None else values), source.site)


def control_grids(
    calibration: Calibration,
    shuffled: Calibration | None,
    *,
    values: Sequence[float] = ANGLES,
    system: str | None = None,
    seed: int = 0,
) -> list[Grid]:
    """No steering, a system prompt alone, and SS with one thing put wrong at a time: plane, sites, labels.

    Args:
        calibration: of the model.
        shuffled: the same made with shuffled labels; without it there is no such control.
        values: angles of each control, as of the method itself.
        system: of the prompt-only baseline; None leaves it out.
        seed: of what is drawn.
    """
    norms = sites.resolve("norm_out", n_layers=calibration.n_layers, architecture=calibration.architecture)
    half, angles = calibration.n_layers // 2, tuple(values)
    drawn = random.Random(f"controls/{seed}").sample(norms, len(calibration.discriminative_sites))
    places = {
        RANDOM_SITES: tuple(sorted(drawn, key=lambda n: sites.parse(n).order)),
        EARLY: tuple(n for n in norms if sites.parse(n).block < half),
        LATE: tuple(n for n in norms if sites.parse(n).block >= half),
        ALL: norms,
    }
    found = [Grid(NONE)]
    if system is not None:
        found.append(Grid(PROMPT_ONLY, system=system))
    found += [
        Grid(IDENTITY, partial(_build, "selective", calibration, {}), (0.0,)),
        Grid(RANDOM_PLANE, partial(_build, "selective", calibration, {"basis": random_plane(calibration.d_model, seed)}), angles),
        *(Grid(name, partial(_build, "selective", calibration, {"at": where}), angles) for name, where in places.items()),
    ]
    if shuffled is not None:
        at = calibration.discriminative_sites  # a shuffled calibration may have none of its own
        found.append(Grid(SHUFFLED, partial(_build, "selective", shuffled, {"at": at}), angles))
    return found


def has_angle(condition: str) -> bool:
    """Whether a condition's values are degrees.

    >>> has_angle("standard"), has_angle("random plane"), has_angle("act-add")
    (True, True, False)
    """
    return condition in (*ANGULAR, *CONTROLS, *(rule_condition(m, rule) for m in ANGULAR for rule in RULES))


def shuffled_labels(activations: Activations, seed: int = 0) -> Activations:
    """The same activations with their class labels permuted."""
    both = torch.cat([activations.positive, activations.negative])
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))
    n = len(activations.positive)
    groups = (*activations.groups_positive, *activations.groups_negative)
    first, second = (tuple(groups[i] for i in part) if groups else () for part in (order[:n].tolist(), order[n:].tolist()))
    return replace(
        activations,
        positive=both[order[:n]],
        negative=both[order[n:]],
        groups_positive=first,
        groups_negative=second,
        stream=None,
    )


def _build(method: str, calibration: Calibration | Boundary, options: dict[str, Any], value: Any) -> SteeringPlan:
    """A plan from one value or one a row; None for a method that has none."""
    if value is None:
        return make_plan(method, calibration, **options)
    return make_plan(method, calibration, **{"angle" if method in ANGULAR else "coefficient": value}, **options)


def _build_at(method: str, calibration: Calibration, name: str, options: dict[str, Any], value: Any) -> SteeringPlan:
    """A plan at one site: an addition there, or an operator on the boundary there."""
    if method in ("act-add", "act-add-keep-norm"):
        return _build(method, calibration, {**options, "at": (name,)}, value)
    return METHODS[method](boundary(calibration, name), value, **options)


def _spread(names: Sequence[str], n: int) -> list[str]:
    """At most ``n`` of the names, evenly spaced, both ends among them."""
    if len(names) <= n:
        return list(names)
    return [names[round(i * (len(names) - 1) / (n - 1))] for i in range(n)]
