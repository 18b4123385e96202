"""Discriminative sites: five rules for the sites that separate the classes along the selected direction.

The definition is Selective Steering, Eqs. 9, 33 and 34. Paper and released code disagree, so there are two published
rules:

- ``paper``: The raw class means project with strictly opposite sign. It is applied site by site.
- ``official``: The means of unit-scaled activations project with strictly opposite sign, and they do so at every norm
  of the block. Then all sites of the block count.

Both rules ask on which side of zero a mean lies. But zero has no special meaning in the residual stream: where the mean
of one class is near zero, its sign is decided by chance. Three more rules do not depend on zero:

- ``centred``: The raw class means lie on opposite sides of one midpoint,
  ``m = mean over the recorded sites k of (aₖ + bₖ)/2``, where aₖ and bₖ are the projections of the two class means.
- ``effect``: Cohen's d of the prompts' projections at the site is above a bound.
- ``auroc``: The area under the ROC curve of the prompts' projections at the site is above a bound.

The last two measure the distance of the classes relative to their spread, one site at a time, and require the positive
class on the positive side. A shift of the stream changes neither. The default bounds were fixed before any result was
seen: a d of 1.0 (one pooled standard deviation; Cohen's "large" begins at 0.8) and an area of 0.9 ("outstanding"
discrimination on the scale of Hosmer and Lemeshow).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.directions import class_means, zero_rows
from lens_steer.geometry.separation import areas, cohens_d
from lens_steer.models import sites as site_names

RULES = ("paper", "official", "centred", "effect", "auroc")
BOUNDS = {"effect": 1.0, "auroc": 0.9}  # the rules that compare a measure of projections with a bound, and its default
NO_DIFFERENCE = {"effect": 0.0, "auroc": 0.5}
_HIGHEST = {"effect": math.inf, "auroc": 1.0}


@dataclass(frozen=True)
class Discriminative:
    """The set of discriminative sites, L_disc.

    Attributes:
        mask: Whether each recorded site is discriminative.
        sites: The names of the discriminative sites, in network order.
        blocks: The blocks with at least one discriminative site.
        projection_positive, projection_negative: The projections of the class means on the selected direction, of the
            means that decided.
        rule: The rule, one of :data:`RULES`.
        bound: The bound of the rule; None for a rule without one.
    """

    mask: Bool[Tensor, " n_sites"]
    sites: tuple[str, ...]
    blocks: tuple[int, ...]
    projection_positive: Float[Tensor, " n_sites"]
    projection_negative: Float[Tensor, " n_sites"]
    rule: str
    bound: float | None = None


def opposite_sign(a: Float[Tensor, "*n"], b: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """Return where two tensors have strictly opposite signs; a product of exactly 0 does not count.

    Signs are compared instead of products, so nothing can underflow.

    >>> opposite_sign(torch.tensor([1.0, 0.0, 1e-30]), torch.tensor([-2.0, -1.0, -1e-30])).tolist()
    [True, False, True]
    """
    return torch.sign(a) * torch.sign(b) < 0


def whole_blocks(mask: Bool[Tensor, "*draws n_sites"], names: Sequence[str]) -> Bool[Tensor, "*draws n_sites"]:
    """Keep a site only if every recorded site of its block is in the mask (``require_all`` in the released code)."""
    blocks = torch.tensor([site_names.parse(name).block for name in names])
    found = torch.zeros_like(mask)
    for block in blocks.unique():
        inside = blocks == block
        found[..., inside] = mask[..., inside].all(dim=-1, keepdim=True)
    return found


def check_rule(rule: str, bound: float | int | None = None) -> float | None:
    """Return the bound of a rule: the given one, or else the rule's default; None for a rule without a bound.

    >>> check_rule("paper"), check_rule("effect"), check_rule("effect", 2)
    (None, 1.0, 2.0)

    Raises:
        LensSteerError: If the rule is unknown, if a rule without a bound is given one, or if the bound is negative or
            so high that no site can exceed it.
    """
    if rule not in RULES:
        raise LensSteerError(f"rule={rule!r}: use one of {', '.join(RULES)}")
    if rule not in BOUNDS:
        if bound is not None:
            raise LensSteerError(
                f"bound={bound!r}: rule {rule!r} has no bound; leave it out, or use {' or '.join(BOUNDS)}"
            )
        return None
    found = BOUNDS[rule] if bound is None else float(bound)
    if not 0 <= found < _HIGHEST[rule]:
        raise LensSteerError(
            f"bound={bound!r}: rule {rule!r} needs a number from 0 up"
            + (", such as 1.0" if rule == "effect" else " to below 1, such as 0.9")
        )
    return found


def discriminative_sites(
    positive: Float[Tensor, "n_positive n_sites d_model"],
    negative: Float[Tensor, "n_negative n_sites d_model"],
    direction: Float[Tensor, " d_model"],
    names: Sequence[str],
    *,
    rule: str = "paper",
    bound: float | int | None = None,
) -> Discriminative:
    """Return L_disc by one of the rules; an empty set is a result, not an error.

    Args:
        positive, negative: The activations of both classes.
        direction: The selected direction; its length does not matter.
        names: The names of the sites.
        rule: One of :data:`RULES`.
        bound: The bound of the rule; None takes its default.

    Raises:
        LensSteerError: If the rule is unknown, or the bound does not fit it.
    """
    check_rule(rule, bound)
    if rule not in BOUNDS:
        return by_means(*class_means(positive, negative, unit_samples=rule == "official"), direction, names, rule=rule)
    unit = direction.double() / direction.double().norm()
    zero = zero_rows(torch.sub(*class_means(positive, negative)))
    return by_projections(positive.double() @ unit, negative.double() @ unit, names, rule=rule, bound=bound, zero=zero)


def by_means(
    mean_positive: Float[Tensor, "n_sites d_model"],
    mean_negative: Float[Tensor, "n_sites d_model"],
    direction: Float[Tensor, " d_model"],
    names: Sequence[str],
    *,
    rule: str,
) -> Discriminative:
    """Return :func:`discriminative_sites` from the class means that the rule needs.

    Raises:
        LensSteerError: If the rule needs the projections of single prompts.
    """
    if rule in BOUNDS:
        raise LensSteerError(f"rule={rule!r} needs the projections of single prompts: record them with keep='all'")
    unit = direction.double() / direction.double().norm()
    projections = mean_positive @ unit, mean_negative @ unit
    return found_sites(mean_rule(*projections, names, rule=rule), *projections, names, rule)


def by_projections(
    positive: Float[Tensor, "n_positive n_sites"],
    negative: Float[Tensor, "n_negative n_sites"],
    names: Sequence[str],
    *,
    rule: str,
    bound: float | int | None = None,
    zero: Bool[Tensor, " n_sites"],
) -> Discriminative:
    """Return :func:`discriminative_sites` by a rule with a bound, from the prompts' projections.

    Args:
        positive, negative: The projections on the unit selected direction.
        names, rule, bound: See :func:`discriminative_sites`.
        zero: The sites whose class means are equal up to rounding; they are never discriminative.
    """
    limit = check_rule(rule, bound)
    assert limit is not None, "the rules without a bound go by class means"
    mask = (measured(rule, positive, negative, zero) > limit) & ~zero
    return found_sites(mask, positive.double().mean(dim=0), negative.double().mean(dim=0), names, rule, limit)


def measured(
    rule: str,
    positive: Float[Tensor, "n_positive n_sites"],
    negative: Float[Tensor, "n_negative n_sites"],
    zero: Bool[Tensor, " n_sites"],
    counts: tuple[Float[Tensor, "rows n_positive"], Float[Tensor, "rows n_negative"]] | None = None,
) -> Float[Tensor, "*rows n_sites"]:
    """Return the measure that a rule with a bound compares: Cohen's d or the area.

    At the ``zero`` sites it is 0 or ½, since only rounding could be measured there.
    """
    values = (cohens_d if rule == "effect" else areas)(positive, negative, counts)
    return torch.where(zero, NO_DIFFERENCE[rule], values)


def mean_rule(
    positive: Float[Tensor, "*draws n_sites"],
    negative: Float[Tensor, "*draws n_sites"],
    names: Sequence[str],
    *,
    rule: str,
) -> Bool[Tensor, "*draws n_sites"]:
    """Return the mask of a rule that class means decide, from the projections of the means.

    For ``official`` these are the means of unit-scaled activations.

    >>> a, b = torch.tensor([3.0, 5.0]), torch.tensor([1.0, -1.0])
    >>> names = ["blocks.0.ln1.hook_out", "blocks.0.ln2.hook_out"]
    >>> [mean_rule(a, b, names, rule=rule).tolist() for rule in ("paper", "official", "centred")]
    [[False, True], [False, False], [True, True]]
    """
    if rule == "centred":
        midpoint = ((positive + negative) / 2).mean(dim=-1, keepdim=True)
        return opposite_sign(positive - midpoint, negative - midpoint)
    mask = opposite_sign(positive, negative)
    return whole_blocks(mask, names) if rule == "official" else mask


def found_sites(
    mask: Bool[Tensor, " n_sites"],
    positive: Float[Tensor, " n_sites"],
    negative: Float[Tensor, " n_sites"],
    names: Sequence[str],
    rule: str,
    bound: float | None = None,
) -> Discriminative:
    """Return L_disc from its mask, with the projections of the class means that decided."""
    inside = tuple(name for name, m in zip(names, mask.tolist(), strict=True) if m)
    return Discriminative(mask, inside, site_names.blocks_of(inside), positive, negative, rule, bound)
