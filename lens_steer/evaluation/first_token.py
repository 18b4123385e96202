"""How long the first token of a prompt is beside the others, where a plan steers.

In the residual stream of pretrained models the first token's vector is often a hundred times as long as any other's,
whatever the token is: attention rests on it where it has nothing to look at. A rotation moves a vector in proportion to
its length in the plane, so what such a plan does there is looked at apart: ``positions="prompt[1:]+generated"`` leaves
that token alone.
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
from lens_steer.inference.forward import read_sites
from lens_steer.inference.positions import Clock, Layout
from lens_steer.steer.plans import SteeringPlan

FIRST_OF = 16  # prompts are enough
LONG = 10.0  # times the other tokens' length: worth saying
WITHOUT_FIRST = "prompt[1:]+generated"


@dataclass(frozen=True)
class FirstToken:
    """Median lengths of the first prompt token and of all others.

    Attributes:
        sites: that were looked at.
        first, others: medians over prompts and over all other prompt tokens, by site.
        steered: whether the plan steers the first token.
        n: prompts.
    """

    sites: tuple[str, ...]
    first: tuple[float, ...]
    others: tuple[float, ...]
    steered: bool
    n: int

    @property
    def ratios(self) -> dict[str, float]:
        """Site → how many times as long as the others the first token is."""
        return {
            name: a / b if b else float("inf") for name, a, b in zip(self.sites, self.first, self.others, strict=True)
        }

    @property
    def highest(self) -> tuple[str, float]:
        """The site with the highest ratio, and that."""
        return max(self.ratios.items(), key=lambda item: item[1])

    @property
    def told(self) -> str:
        """What is worth saying of it; empty where there is nothing."""
        site, ratio = self.highest
        if not self.steered or ratio < LONG:
            return ""
        return (
            f"the first prompt token is {ratio:.0f} times as long as the others at {site}, and is steered too: "
            f"positions {WITHOUT_FIRST!r} leave it alone"
        )

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {"n": self.n, "steered": self.steered, "norm_ratio": self.ratios, "told": self.told}


def first_token(model: Any, plan: SteeringPlan, prompts: PromptSet, *, engine: str = ENGINE) -> FirstToken:
    """Lengths of unsteered activations at a plan's sites, the first token of each prompt apart from its others.

    Args:
        model: from :func:`lens_steer.load_model`.
        plan: whose sites and tokens.
        prompts: some are enough.
        engine: see :func:`lens_steer.record`.

    Raises:
        LensSteerError: no prompts.

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
        layout, own = Layout.of(batch), batch.mask.bool()
        begin = layout.counts(0, own.shape[1])[0] == 0
        steered |= bool((Clock(plan.positions).columns(layout, 0, own.shape[1]) & begin).any())
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
    """Forward hook."""
    length = activation.float().norm(dim=-1)
    firsts += length[begin.to(length.device)].tolist()
    others += length[rest.to(length.device)].tolist()


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else 0.0
