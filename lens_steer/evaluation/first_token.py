"""The length of the first prompt token's activation, relative to the others, where a plan steers.

In the residual stream of pretrained models the vector of the first token is often a hundred times as long as any other,
whatever the token is: attention heads attend to it when nothing else is relevant. A rotation moves a vector in
proportion to its length in the plane, so the effect of such a plan on the first token is examined separately.
``positions="prompt[1:]+generated"`` leaves this token alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.attach import SiteFunction
from lens_steer.inference.batching import Batch
from lens_steer.inference.clock import clock_for
from lens_steer.inference.forward import read_sites
from lens_steer.inference.places import Places
from lens_steer.steer.plans import SteeringPlan

FIRST_OF = 16  # this many prompts are enough
LONG = 10.0  # there is a note if the first token is at least this many times as long as the others
WITHOUT_FIRST = "prompt[1:]+generated"


@dataclass(frozen=True)
class FirstToken:
    """The median lengths of the first prompt token and of all others.

    Attributes:
        sites: The sites that were examined.
        first, others: The medians over the first tokens and over all other prompt tokens, by site.
        steered: Whether the plan steers the first token.
        n: The number of prompts.
    """

    sites: tuple[str, ...]
    first: tuple[float, ...]
    others: tuple[float, ...]
    steered: bool
    n: int

    @property
    def ratios(self) -> dict[str, float]:
        """Return the length of the first token in units of the others' length, by site."""
        return {
            name: a / b if b else float("inf") for name, a, b in zip(self.sites, self.first, self.others, strict=True)
        }

    @property
    def highest(self) -> tuple[str, float]:
        """Return the site with the highest ratio, and the ratio."""
        return max(self.ratios.items(), key=lambda item: item[1])

    @property
    def told(self) -> str:
        """Return a note about a long first token that is steered; empty where there is none."""
        site, ratio = self.highest
        if not self.steered or ratio < LONG:
            return ""
        return (
            f"the first prompt token is {ratio:.0f} times as long as the others at {site}, and is steered too: "
            f"positions {WITHOUT_FIRST!r} leave it alone"
        )

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        return {"n": self.n, "steered": self.steered, "norm_ratio": self.ratios, "told": self.told}


def first_token(model: Any, plan: SteeringPlan, prompts: PromptSet, *, engine: str = ENGINE) -> FirstToken:
    """Measure the lengths of unsteered activations at a plan's sites, first prompt tokens apart from all others.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        plan: The plan, for its sites and positions.
        prompts: The prompts; a few are enough.
        engine: See :func:`lens_steer.record`.

    Raises:
        LensSteerError: If there are no prompts.

    >>> import lens_steer as ls
    >>> model, calibration = ls.load_model("organism/qwen2"), ls.load_calibration("figures/calibration")
    >>> found = first_token(
    ...     model, ls.selective_steering(calibration, 90), ls.load_contrast("organism/refusal").select.positive[:4]
    ... )
    >>> found.steered, len(found.ratios) == len(calibration.discriminative_sites)
    (True, True)
    """
    if not len(prompts):
        raise LensSteerError("prompts is empty: give at least one")
    firsts: dict[str, list[float]] = {name: [] for name in plan.sites}
    others: dict[str, list[float]] = {name: [] for name in plan.sites}
    steered = False

    def measures(batch: Batch) -> dict[str, SiteFunction]:
        nonlocal steered
        layout, own = Places.of(batch), batch.mask.bool()
        begin = layout.counts(0, own.shape[1])[0] == 0
        steered |= bool((clock_for(model, plan.positions).columns(layout, 0, own.shape[1]) & begin).any())
        return {
            n: partial(_lengths, begin=begin, rest=own & ~begin, firsts=firsts[n], others=others[n]) for n in plan.sites
        }

    read_sites(model, prompts, measures, engine=engine)
    return FirstToken(
        plan.sites,
        tuple(_median(firsts[n]) for n in plan.sites),
        tuple(_median(others[n]) for n in plan.sites),
        steered,
        len(prompts),
    )


def _lengths(
    activation: Float[Tensor, "batch pos d_model"],
    hook: Any = None,
    *,
    begin: Tensor,
    rest: Tensor,
    firsts: list[float],
    others: list[float],
) -> None:
    """Collect the lengths of both groups of tokens; this is the forward hook."""
    length = activation.float().norm(dim=-1)
    firsts += length[begin.to(length.device)].tolist()
    others += length[rest.to(length.device)].tolist()


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else 0.0
