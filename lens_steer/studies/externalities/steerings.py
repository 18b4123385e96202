"""The two benign steerings of Steering Externalities: towards compliance, and towards answers in JSON.

Both read and write one tensor, a block's output (``blocks.{l}.hook_resid_post``). The released code of the
conditional-steering library that the paper builds on reads the output of block l and adds to the *input* of block l,
which is the output of the block before: there what is steered is not what was read. ``at=`` with ``resid_pre`` sites
gives that variant.
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
Along = Mapping[str, Tensor] | None  # site → what is written in place of its direction


@dataclass(frozen=True, eq=False)
class Benign(ModelRef):
    """What both calibrations have: a unit direction at every block's output, and where it came from.

    Attributes:
        sites: of every block, in network order.
        directions: unit, pointing to the class with the wanted behaviour.
        mean: of all recorded vectors, both classes alike.
        difference: length of the difference of the class means.
        n_pairs: of prompts.
        prompt_hash: of the prompts.
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
        """Where a site, or for a block's input the output of the same block, stands in the tables.

        Raises:
            LensSteerError: a site of which nothing is known.
        """
        name = site.replace("resid_pre", "resid_post")
        if name not in self.sites:
            raise LensSteerError(f"site {site!r} was not recorded: use one of {self.sites[0]} … {self.sites[-1]}")
        return self.sites.index(name)

    def direction(self, site: str) -> Float[Tensor, " d_model"]:
        """The unit direction that is written at a site."""
        return self.directions[self.row(site)]


@dataclass(frozen=True, eq=False)
class ComplianceCalibration(Benign):
    """STEER-COMPLIANCE: ``h + α v̂`` at several blocks.

    Attributes:
        method: ``center`` or ``pairwise``; see :func:`lens_steer.studies.externalities.calibration.oriented_component`.
        steered: the sites that are steered.
        explained: share of the variance that the component has.
        agreement: share of the pairs whose complying member projects higher.
        lengths: mean length of the residual vector of one response token, over all tokens of all responses.
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
        """``h + α v̂`` at each steered site; α is in absolute units of the residual stream, as in the paper (about 1.3
        there, on models of 8B).

        Args:
            coefficient: α, one number or one for each prompt.
            at: other sites, each with its block's direction.
            positions: which tokens; all in the paper.
            along: written in place of v̂, as it is, not scaled: ``h + α w``.

        Raises:
            LensSteerError: a site that was not recorded, a coefficient that is no number.
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
        """α over the mean length of a response token's residual vector, at each steered site."""
        return {name: coefficient / float(self.lengths[self.row(name)]) for name in self.steered}

    def absolute(self, share: float) -> float:
        """The α that is this share of the mean length of a response token's residual vector, averaged over the steered
        sites.
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
    """STEER-JSON: ``h + (z̄ − ⟨h, u⟩) u`` at one block.

    Attributes:
        target: z̄, mean projection of the prompts with the request.
        without: mean projection of those without.
        lengths: mean length of the last prompt token's residual vector.
    """

    target: Float[Tensor, " n_sites"]
    without: Float[Tensor, " n_sites"]
    lengths: Float[Tensor, " n_sites"]

    def plan(
        self, site: str, *, target: Numbers | None = None, positions: Positions = "all", along: Along = None
    ) -> SteeringPlan:
        """Every token's projection on u set to z̄, at one site.

        Args:
            site: where.
            target: another value than z̄, or one for each prompt.
            positions: which tokens; all in the paper.
            along: the step ``(z̄ − ⟨h, u⟩) w`` in place of the one along u; w is of length 1 at most.

        Raises:
            LensSteerError: a site that was not recorded, a target that is no number, several of them with ``along``, a
                w longer than 1.
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
        # two gated steps of half a mirror each: a token is below z̄ or above it, and as ‖w‖ ≤ 1 the first step takes
        # none beyond z̄
        shared = {"direction": unit, "threshold": to, "coefficient": length / 2, "along": along[site]}
        return SteeringPlan.of(
            self, "clamp", [Step("mirror", (site,), {**shared, "gate": gate}) for gate in ("below", "above")], positions
        )

    def __repr__(self) -> str:
        return f"JsonCalibration({self.model}: {self.n_pairs} pairs, {self.n_layers} blocks)"


def paper_blocks(n_layers: int) -> tuple[int, ...]:
    """The blocks 15, 17, 18, …, 24 of 32 at the same relative depth: ``⌊(l + ½) n_layers / 32⌋``, each once.

    >>> paper_blocks(12), paper_blocks(32)
    ((5, 6, 7, 8, 9), (15, 17, 18, 19, 20, 21, 22, 23, 24))
    """
    return tuple(dict.fromkeys((2 * block + 1) * n_layers // (2 * PAPER_DEPTH) for block in PAPER_BLOCKS))
