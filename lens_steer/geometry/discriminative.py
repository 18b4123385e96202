"""Which sites separate the classes by sign along the selected direction (Selective Steering, Eqs. 9, 33, 34).

Paper and released code disagree, so there are two rules:

``paper``     the raw class means project with strictly opposite sign; the unit is the site.
``official``  the means of unit-scaled activations do, and every norm of the block does; then all of the block's sites count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer import sites as site_names
from lens_steer.errors import LensSteerError
from lens_steer.geometry.directions import class_means

RULES = ("paper", "official")


@dataclass(frozen=True)
class Discriminative:
    """The discriminative set L_disc.

    Attributes:
        mask: per recorded site.
        sites: names of the discriminative sites, in network order.
        blocks: blocks with at least one of them.
        projection_positive, projection_negative: the means that decided, projected on the selected direction.
        rule: ``paper`` or ``official``.
    """

    mask: Bool[Tensor, " n_sites"]
    sites: tuple[str, ...]
    blocks: tuple[int, ...]
    projection_positive: Float[Tensor, " n_sites"]
    projection_negative: Float[Tensor, " n_sites"]
    rule: str


def opposite_sign(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Strictly opposite signs; a product of exactly 0 does not count. Compares signs, so nothing can underflow.

    >>> opposite_sign(torch.tensor([1.0, 0.0, 1e-30]), torch.tensor([-2.0, -1.0, -1e-30])).tolist()
    [True, False, True]
    """
    return torch.sign(a) * torch.sign(b) < 0


def whole_blocks(mask: Bool[Tensor, " n_sites"], names: Sequence[str]) -> Bool[Tensor, " n_sites"]:
    """Keep a site only if every recorded site of its block is in the mask: the released code's ``require_all`` rule."""
    blocks = [site_names.parse(name).block for name in names]
    complete = {b for b in blocks if all(bool(m) for m, other in zip(mask, blocks, strict=True) if other == b)}
    return torch.tensor([b in complete for b in blocks])


def check_rule(rule: str) -> None:
    """Raises :class:`LensSteerError` for a rule that is neither ``paper`` nor ``official``."""
    if rule not in RULES:
        raise LensSteerError(f"rule={rule!r}: use one of {', '.join(RULES)}")


def discriminative_sites(
    positive: Float[Tensor, "n_positive n_sites d_model"],
    negative: Float[Tensor, "n_negative n_sites d_model"],
    direction: Float[Tensor, " d_model"],
    names: Sequence[str],
    *,
    rule: str = "paper",
) -> Discriminative:
    """L_disc by one of the two rules. An empty set is a result, not an error.

    Raises:
        LensSteerError: unknown rule.
    """
    check_rule(rule)
    return by_means(*class_means(positive, negative, unit_samples=rule == "official"), direction, names, rule=rule)


def by_means(
    mean_positive: Float[Tensor, "n_sites d_model"],
    mean_negative: Float[Tensor, "n_sites d_model"],
    direction: Float[Tensor, " d_model"],
    names: Sequence[str],
    *,
    rule: str,
) -> Discriminative:
    """:func:`discriminative_sites` from the class means that the rule asks for."""
    means = mean_positive, mean_negative
    unit = direction.double() / direction.double().norm()
    projections = means[0] @ unit, means[1] @ unit
    mask = opposite_sign(*projections)
    if rule == "official":
        mask = whole_blocks(mask, names)
    kept = tuple(name for name, m in zip(names, mask, strict=True) if m)
    return Discriminative(mask, kept, site_names.blocks_of(kept), projections[0], projections[1], rule)
