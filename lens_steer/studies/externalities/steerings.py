"""The two benign steerings of Steering Externalities: towards compliance, and towards answers in JSON.

Both read and write one tensor, the output of a block (``blocks.{l}.hook_resid_post``). The released code of the
conditional-steering library that the paper builds on reads the output of block l and adds to the *input* of block l,
which is the output of the block before. That code therefore does not steer the tensor that it read. ``at=`` with
``resid_pre`` sites gives this variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.models import sites
from lens_steer.models.fits import ModelRef
from lens_steer.steer.methods.common import Numbers, Positions
from lens_steer.steer.plans import SteeringPlan, Step, numbers

PAPER_BLOCKS, PAPER_DEPTH = (15, 17, 18, 19, 20, 21, 22, 23, 24), 32
METHODS = ("center", "pairwise")
Along = Mapping[str, Tensor] | None  # site → vector that is written in place of the direction


@dataclass(frozen=True, eq=False)
class Benign(ModelRef):
    """The common part of both calibrations: a unit direction at every block's output, and its origin.

    Attributes:
        sites: Outputs of all blocks, in network order.
        directions: Unit directions that point to the class with the wanted behaviour.
        mean: Mean of all recorded vectors, with equal weight for both classes.
        difference: Length of the difference of the class means.
        n_pairs: Number of pairs of prompts.
        prompt_hash: Hash of the prompts.
    """

    sites: tuple[str, ...]
    directions: Float[Tensor, "n_sites d_model"]
    mean: Float[Tensor, "n_sites d_model"]
    difference: Float[Tensor, " n_sites"]
    n_pairs: int
    prompt_hash: str

    @property
    def d_model(self) -> int:
        return self.directions.shape[1]

    def row(self, site: str) -> int:
        """Return the row of a site in the tables; the input of a block has the row of the output of the same block.

        Raises:
            LensSteerError: If the site was not recorded.
        """
        name = site.replace("resid_pre", "resid_post")
        if name not in self.sites:
            raise LensSteerError(f"site {site!r} was not recorded: use one of {self.sites[0]} … {self.sites[-1]}")
        return self.sites.index(name)

    def direction(self, site: str) -> Float[Tensor, " d_model"]:
        """Return the unit direction that is written at a site."""
        return self.directions[self.row(site)]


@dataclass(frozen=True, eq=False)
class ComplianceCalibration(Benign):
    """Calibration of STEER-COMPLIANCE: ``h + α v̂`` at several blocks.

    Attributes:
        method: ``center`` or ``pairwise``; see :func:`lens_steer.studies.externalities.calibration.oriented_component`.
        steered: Sites that are steered.
        explained: Share of the variance that the component explains.
        agreement: Share of the pairs whose complying member projects higher.
        lengths: Mean length of the residual vector of one response token, over all tokens of all responses.
    """

    method: str
    steered: tuple[str, ...]
    explained: Float[Tensor, " n_sites"]
    agreement: Float[Tensor, " n_sites"]
    lengths: Float[Tensor, " n_sites"]

    def plan(
        self,
        coefficient: Numbers,
        *,
        at: Sequence[str] | None = None,
        positions: Positions = "all",
        along: Along = None,
    ) -> SteeringPlan:
        """Return the plan ``h + α v̂`` at each steered site.

        α is in absolute units of the residual stream, as in the paper (about 1.3 there, on models of 8B).

        Args:
            coefficient: α, one number or one for each prompt.
            at: Other sites, each with the direction of its block; None uses the steered sites.
            positions: Tokens to steer; all tokens in the paper.
            along: Vectors w that are written in place of v̂ as they are, without scaling: ``h + α w``. None writes v̂.

        Raises:
            LensSteerError: If a site was not recorded, or if the coefficient is not a number.
        """
        alpha, chosen = numbers("coefficient", coefficient), self.steered if at is None else tuple(at)
        steps = [
            Step(
                "add",
                (name,),
                {"direction": self.direction(name) if along is None else along[name], "coefficient": alpha},
            )
            for name in chosen
        ]
        return SteeringPlan.of(self, "compliance", steps, positions)

    def relative(self, coefficient: float) -> dict[str, float]:
        """Return α divided by the mean length of a response token's residual vector, at each steered site."""
        return {name: coefficient / float(self.lengths[self.row(name)]) for name in self.steered}

    def absolute(self, share: float) -> float:
        """Return the α that is a given share of the mean length of a response token's residual vector.

        The mean length is averaged over the steered sites.
        """
        return share * float(self.lengths[[self.row(name) for name in self.steered]].mean())

    def __repr__(self) -> str:
        blocks = ", ".join(map(str, sites.blocks_of(self.steered)))
        return (
            f"ComplianceCalibration({self.model}: {self.method}, {self.n_pairs} pairs, blocks {blocks} of "
            f"{self.n_layers})"
        )


@dataclass(frozen=True, eq=False)
class JsonCalibration(Benign):
    """Calibration of STEER-JSON: ``h + (z̄ − ⟨h, u⟩) u`` at one block.

    Attributes:
        target: z̄, the mean projection of the prompts with a request for JSON.
        without: Mean projection of the prompts without a request.
        lengths: Mean length of the residual vector of the last prompt token.
    """

    target: Float[Tensor, " n_sites"]
    without: Float[Tensor, " n_sites"]
    lengths: Float[Tensor, " n_sites"]

    def plan(
        self,
        site: str,
        *,
        target: Numbers | None = None,
        positions: Positions = "all",
        along: Along = None,
        one_way: bool = False,
    ) -> SteeringPlan:
        """Return the plan that sets the projection of every token on u to z̄, at one site.

        Args:
            site: Site to steer.
            target: Another value in place of z̄, one number or one for each prompt. None uses z̄.
            positions: Tokens to steer; all tokens in the paper.
            along: Vectors w; the step is then ``(z̄ − ⟨h, u⟩) w`` in place of the step along u. The length of w is at
                most 1. None writes u.
            one_way: Whether the step is ``|z̄ − ⟨h, u⟩| w``, along w at every token.

        Raises:
            LensSteerError: If the site was not recorded, if the target is not a number, if there are several targets
                together with ``along``, or if w is zero or longer than 1.
        """
        unit, to = (
            self.direction(site),
            numbers("target", float(self.target[self.row(site)]) if target is None else target),
        )
        if along is None:
            return SteeringPlan.of(
                self, "clamp", [Step("clamp", (site,), {"direction": unit, "target": to})], positions
            )
        if isinstance(to, Tensor):
            raise LensSteerError(f"target={target!r}: along= takes one target for all prompts")
        length = float(along[site].norm())
        if not 0 < length <= 1 + 1e-5:
            raise LensSteerError(f"along has length {length:.4g} at {site}: above 0 and at most 1 is needed")
        # The operator ``mirror`` takes a step 2α (m − ρ) along a unit vector, on one side of its threshold m. With
        # m = z̄, α = ‖w‖/2 and the unit vector w/‖w‖, this is the step (z̄ − ρ) w. Two such steps, one below and one
        # above z̄, cover every token. ‖w‖ ≤ 1 ensures that the first step moves no token past z̄ into the second gate.
        shared = {"direction": unit, "threshold": to, "coefficient": length / 2}
        ways = {"below": along[site], "above": -along[site] if one_way else along[site]}
        steps = [Step("mirror", (site,), {**shared, "along": w, "gate": gate}) for gate, w in ways.items()]
        return SteeringPlan.of(self, "clamp", steps, positions)

    def __repr__(self) -> str:
        return f"JsonCalibration({self.model}: {self.n_pairs} pairs, {self.n_layers} blocks)"


def paper_blocks(n_layers: int) -> tuple[int, ...]:
    """Map the blocks 15, 17, 18, …, 24 of 32 to the same relative depth: ``⌊(l + ½) n_layers / 32⌋``, each once.

    >>> paper_blocks(12), paper_blocks(32)
    ((5, 6, 7, 8, 9), (15, 17, 18, 19, 20, 21, 22, 23, 24))
    """
    return tuple(dict.fromkeys((2 * block + 1) * n_layers // (2 * PAPER_DEPTH) for block in PAPER_BLOCKS))
