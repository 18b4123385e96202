"""Conditions of the study: each benign steering, its controls, and the same steering at fewer tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.equal_divergence import Match
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.selection import Choice
from lens_steer.geometry.calibration import Calibration
from lens_steer.inference.positions import parse
from lens_steer.steer.methods.common import row_of
from lens_steer.steer.plans import SteeringPlan
from lens_steer.studies.externalities.choice import COMPLIANCE
from lens_steer.studies.externalities.controls import Vectors, parts, random_like, refusal_bases, rotation
from lens_steer.studies.externalities.steerings import Benign, ComplianceCalibration, JsonCalibration

KS = (1, 2, 4, 8)
RANDOM_DRAWS = 19  # so that the rank of a steering above all of them has a p of 0.05
WHOLE_DRAWS = 3  # of them that are measured on everything; the others on harmful requests alone
CONTROL = "StTP against refusal"
KINDS = STEERED, RANDOM, OUTSIDE, OUTSIDE_EQUAL, INSIDE, AGAINST, ROTATION, RELEASED = (
    "steered", "random direction", "without its refusal part", "without its refusal part, equal norm",
    "refusal part alone", "against refusal, equal norm", "rotation of equal KL", "written as released",
)  # fmt: skip
# The logits at a token decide the token after it. The tokens that decide the first k tokens of an answer are therefore
# the last token of the prompt and the first k − 1 tokens of the answer.
# Families of steered tokens, for k = 1, 2, …; :func:`positions_of` has their positions.
FIRST, WITH_PROMPT, REST, AFTER = "first k", "prompt and first k", "all but first k", "after first k, no prompt"
FAMILIES = (FIRST, WITH_PROMPT, REST, AFTER)


@dataclass(frozen=True, eq=False)
class Steering:
    """A benign steering at its choice.

    Attributes:
        name: ``compliance`` or ``json``.
        source: Calibration of the steering.
        choice: α, or the block, as chosen on the select split.
    """

    name: str
    source: Benign
    choice: Choice

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites at which the steering writes."""
        return self.source.steered if isinstance(self.source, ComplianceCalibration) else (self.choice.variant,)

    @property
    def directions(self) -> dict[str, Any]:
        """Site → unit direction."""
        return {site: self.source.direction(site) for site in self.sites}

    @property
    def strength(self) -> float:
        """α for compliance, z̄ for JSON."""
        if isinstance(self.source, JsonCalibration):
            return float(self.source.target[self.source.row(self.choice.variant)])
        return float(self.choice.value or 0.0)

    def plan(
        self,
        value: Any = None,
        *,
        positions: str = "all",
        along: Vectors | None = None,
        at: Sequence[str] | None = None,
        one_way: bool = False,
    ) -> SteeringPlan:
        """Return the plan of the steering.

        The arguments serve controls.

        Args:
            value: Another α, or another target of the clamp; None uses the chosen one.
            positions: Tokens to steer.
            along: Vectors by site that are written in place of the directions; None writes the directions.
            at: Other sites, for compliance alone; None uses the sites of the calibration.
            one_way: Whether every token is moved along ``along``, also where the clamp moves it the other way; the step
                towards compliance always is.
        """
        if isinstance(self.source, JsonCalibration):
            how: dict[str, Any] = {"positions": positions, "along": along, "one_way": one_way}
            return self.source.plan(self.choice.variant, target=value, **how)
        assert isinstance(self.source, ComplianceCalibration)
        return self.source.plan(self.strength if value is None else value, at=at, positions=positions, along=along)


def named(steering: str | None, kind: str, *, draw: int = 0, k: int | None = None) -> str:
    """Return the name of a condition in rows, files and figures; see :class:`Condition`.

    A random direction without a draw stands for the mean over the draws.

    >>> named("json", STEERED), named("json", RANDOM, draw=2), named("json", FIRST, k=4), named(None, CONTROL)
    ('json', 'json, random direction 2', 'json, first k, k = 4', 'StTP against refusal')
    """
    parts = (steering, kind if kind != STEERED else None, k and f"k = {k}")
    return ", ".join(part for part in parts if part) + (f" {draw}" if draw else "")


@dataclass(frozen=True, eq=False, kw_only=True)
class Condition:
    """One condition under which the model is run.

    Attributes:
        steering: The benign steering that it is, or that it controls; None without any.
        kind: A kind such as :data:`STEERED`, or a family of :data:`FAMILIES`.
        plan: Plan of the condition; None without steering, or where the condition cannot be made.
        reason: The reason why the condition cannot be made; empty otherwise.
        draw: Number of the draw from 1, for a random direction; 0 otherwise.
        k: Number of tokens, for a condition at fewer tokens; None otherwise.
    """

    steering: str | None
    kind: str
    plan: SteeringPlan | None
    reason: str = ""
    draw: int = 0
    k: int | None = None

    @property
    def name(self) -> str:
        """The name of the condition."""
        return named(self.steering, self.kind, draw=self.draw, k=self.k)

    @property
    def group(self) -> str:
        """The name that the condition shares with the other draws of its kind."""
        return named(self.steering, self.kind, k=self.k)

    @property
    def grid(self) -> Grid:
        """The condition as a grid for :func:`lens_steer.evaluation.sweeps.run`."""
        return Grid(self.name, None if self.plan is None else partial(_constant, self.plan))

    @property
    def runs(self) -> bool:
        """True if the condition can be run."""
        return not self.reason


def controls(
    steering: Steering, refusal: Calibration, match: Match, *, n_random: int = RANDOM_DRAWS, seed: int = 0
) -> list[Condition]:
    """Return the steering itself and all its controls.

    A control that cannot be made is listed with its reason.

    Args:
        steering: The steering at its choice.
        refusal: Calibration of harmful against harmless prompts, at sites that include those of the steering.
        match: The rotation of equal divergence.
        n_random: Number of random directions.
        seed: Seed of the first random direction; the others follow from it.
    """
    name, sites, directions, bases = steering.name, steering.sites, steering.directions, refusal_bases(refusal)
    inside, outside = parts(directions, bases)
    harmful = {site: refusal.candidates[row_of(refusal, site)] for site in sites}
    plans = {
        STEERED: steering.plan(),
        OUTSIDE: steering.plan(along=outside),
        INSIDE: steering.plan(along=inside),
        AGAINST: steering.plan(along={site: -d / d.norm() for site, d in harmful.items()}, one_way=True),
    }
    if name == COMPLIANCE:
        plans[RELEASED] = steering.plan(at=[site.replace("resid_post", "resid_pre") for site in sites])
    found = [Condition(steering=name, kind=kind, plan=plan) for kind, plan in plans.items()]
    for i in range(n_random):
        drawn = steering.plan(along=random_like(directions, 1000 * seed + i))
        found.append(Condition(steering=name, kind=RANDOM, plan=drawn, draw=i + 1))
    try:
        lengthened, reason = steering.plan(along=parts(directions, bases, equal_norm=True)[1]), ""
    except LensSteerError as error:
        lengthened, reason = None, str(error)
    found.append(Condition(steering=name, kind=OUTSIDE_EQUAL, plan=lengthened, reason=reason))
    turned = None if match.grid is None else rotation(steering.source, sites, match.grid.values[0])
    found.append(Condition(steering=name, kind=ROTATION, plan=turned, reason=match.reason))
    return sorted(found, key=lambda c: KINDS.index(c.kind))


def positions_of(family: str, k: int) -> str:
    """Return the positions of a family of tokens at k.

    ``first k`` and ``all but first k`` together cover every token once, and so do ``prompt and first k`` and
    ``after first k, no prompt``.

    >>> [positions_of(f, 4) for f in FAMILIES]
    ['prompt[-1]+generated[:3]', 'prompt+generated[:3]', 'prompt[:-1]+generated[3:]', 'generated[3:]']

    Raises:
        LensSteerError: If the family is unknown, or if k is below 1.
    """
    if family not in FAMILIES or k < 1:
        raise LensSteerError(f"family={family!r}, k={k}: use one of {', '.join(FAMILIES)}, and k of 1 or more")
    opening = "" if k == 1 else f"+generated[:{k - 1}]"
    return {
        FIRST: f"prompt[-1]{opening}",
        WITH_PROMPT: f"prompt{opening}",
        REST: f"prompt[:-1]+generated[{k - 1}:]",
        AFTER: f"generated[{k - 1}:]",
    }[family]


def prefixes(name: str, build: Callable[..., SteeringPlan], ks: Sequence[int] = KS) -> list[Condition]:
    """Return a steering at the tokens of each family and k; ``build`` makes its plan from ``positions=``."""
    return [
        Condition(steering=name, kind=family, plan=build(positions=positions_of(family, k)), k=k)
        for family in FAMILIES
        for k in ks
    ]


def first_decided(positions: str) -> int | None:
    """Return the index, from 0, of the first answer token that a steered token decides by itself.

    The result is None where only tokens before the last token of the prompt are steered.

    >>> [first_decided(positions_of(f, 4)) for f in FAMILIES], first_decided("all"), first_decided("prompt[:-1]")
    ([0, 0, 4, 4], 0, None)
    """
    found = []
    for term in parse(positions):
        if term.region == "generated":
            found.append((term.start or 0) + 1)
        elif term.region == "all" and term.stop is None and (term.start or 0) >= 0:
            found.append(0)  # on the assumption that prompts are longer than the tokens left out at their beginning
        elif term.region in ("prompt", "recomputed") and term.stop is None:
            found.append(0)
    return min(found, default=None)


def baselines(control: SteeringPlan) -> list[Condition]:
    """Return no steering and the positive control, given its plan."""
    plans = {NONE: None, CONTROL: control}
    return [Condition(steering=None, kind=kind, plan=plan) for kind, plan in plans.items()]


def _constant(plan: SteeringPlan, value: Any) -> SteeringPlan:
    return plan
