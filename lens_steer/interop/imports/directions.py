"""Imported directions: vectors with the site that each is added to, their model, and the plans made from them.

Other libraries publish one vector per layer, and each has its own convention for the tensor that "layer 12" means. Here
every vector has a site under this project's names (:mod:`lens_steer.models.sites`). The vectors keep their published
length and dtype; only a plan converts them to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.inference.positions import normalized
from lens_steer.interop.exports.affine import affine_map, not_affine
from lens_steer.interop.imports.model_facts import ModelFacts
from lens_steer.interop.imports.source_files import vector
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.info import ModelInfo
from lens_steer.models.layout import Layout, known_layout
from lens_steer.models.loading import info_of
from lens_steer.operators.addition import unit_direction
from lens_steer.steer.methods.common import Numbers, Positions, Sites
from lens_steer.steer.plans import SteeringPlan, Step, numbers

# The input of a block and everything that it adds to the stream. If all of these are ablated, no block can write the
# direction back.
EVERYWHERE = ("resid_pre", "attn_out", "mlp_out")
Detail = str | float | int | bool | None


@dataclass(frozen=True, eq=False)
class DirectionSet:
    """Directions as they were published, each with its site; use :func:`direction_set` to create one.

    Attributes:
        directions: The vectors, not scaled to unit length, in their published dtype.
        sites: The site of each row, in network order, each once.
        model: The name of the model that the directions were made on; empty if unknown.
        architecture, n_layers: The architecture and the number of blocks of that model. None if neither the file nor
            the caller gives them; no plan can then be made.
        source_format: The name of the published format.
        selected_site: The site of the row that was chosen at the source; None if every row is meant.
        details: Further facts of the source, and measurements made while reading it.
        own_layout: See :class:`lens_steer.models.layout.WithLayout`.
    """

    directions: Float[Tensor, "n d_model"]
    sites: tuple[str, ...]
    model: str
    architecture: str | None
    n_layers: int | None
    source_format: str
    selected_site: str | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)
    own_layout: Layout | None = None

    def __post_init__(self) -> None:
        for name in self.sites:
            site = sites.parse(name)
            if self.n_layers is not None and site.block >= self.n_layers:
                raise LensSteerError(
                    f"{name!r} does not exist in a model of {self.n_layers} blocks: import with the model that the "
                    "file was made on"
                )
            if self.architecture is not None and site.is_norm:
                site.module(self.own_layout or known_layout(self.architecture, site.block + 1))
        if self.selected_site is not None and self.selected_site not in self.sites:
            raise LensSteerError(
                f"selected_site={self.selected_site!r} has no direction: there are {', '.join(self.sites[:3])}, …"
            )

    @property
    def d_model(self) -> int:
        return self.directions.shape[1]

    @property
    def dtype(self) -> str:
        """Return the published dtype, such as ``float64``."""
        return str(self.directions.dtype).removeprefix("torch.")

    def __repr__(self) -> str:
        chosen = "" if self.selected_site is None else f", chosen {self.selected_site}"
        return (
            f"DirectionSet({len(self.sites)} of width {self.d_model} in {self.dtype} from {self.source_format}, "
            f"{self.model or 'model unknown'}{chosen})"
        )

    def raw(self, site: str) -> Float[Tensor, " d_model"]:
        """Return the direction of a site as it was published.

        Raises:
            LensSteerError: If the site has no row.
        """
        if site not in self.sites:
            raise LensSteerError(
                f"site={site!r} has no direction: there are {len(self.sites)}, at {', '.join(self.sites[:3])}, …"
            )
        return self.directions[self.sites.index(site)]

    def unit(self, site: str | None = None) -> Float[Tensor, " d_model"]:
        """Return ``d/‖d‖`` in float32, divided in float64, for the given site or, without one, for the chosen site.

        Raises:
            LensSteerError: If the site has no row, if no site is given and none was chosen, or if the direction is
                zero.
        """
        return unit_direction(self.raw(self._one(site)).double()).float()

    def additive_plan(
        self, coefficient: Numbers = 1.0, *, site: str | None = None, at: Sites = None, positions: Positions = "all"
    ) -> SteeringPlan:
        """Return a plan for ``h + α d``, with the length of d as published.

        Args:
            coefficient: α, one number or one per prompt.
            site: The site whose direction is used at every steered site. None uses at each site its own direction.
            at: The sites to steer. None stands for ``site``, else for the chosen site, else for every site of the set.
            positions: The tokens to steer (:mod:`lens_steer.inference.positions`).

        Raises:
            LensSteerError: If the architecture or the number of blocks is unknown, if a site has no row or does not
                exist in the model, or if a direction is zero.

        >>> found = direction_set(
        ...     {"blocks.1.hook_resid_post": torch.ones(4)},
        ...     model="m",
        ...     architecture="qwen2",
        ...     n_layers=2,
        ...     source_format="test",
        ... )
        >>> found.additive_plan(2).operator()(torch.zeros(4))
        tensor([2., 2., 2., 2.])
        """
        default = (site or self.selected_site,) if site or self.selected_site else self.sites
        alpha = numbers("coefficient", coefficient)
        places = self._places(at, default)
        steps = [Step("add", (n,), {"direction": self._usable(site or n), "coefficient": alpha}) for n in places]
        return self._plan("act-add", steps, positions)

    def ablation_plan(
        self, *, site: str | None = None, at: Sites = None, everywhere: bool = False, positions: Positions = "all"
    ) -> SteeringPlan:
        """Return a plan for ``h − (d̂·h) d̂`` with one direction.

        Args:
            site: The site whose direction is used. None stands for the chosen one.
            at: The sites to steer. None stands for the site of the direction.
            everywhere: True ablates at every block's input and in everything that attention and MLPs add, so that no
                block can write the direction back.
            positions: The tokens to steer.

        Raises:
            LensSteerError: For the reasons of :meth:`additive_plan`. Also if ``everywhere`` is given together with
                ``at``, or for a direction that belongs to a norm's output.
        """
        chosen = self._one(site)
        if everywhere and at is not None:
            raise LensSteerError(f"at={at!r}: everywhere=True names its own sites; leave one of the two out")
        if everywhere and sites.parse(chosen).is_norm:
            raise LensSteerError(
                f"everywhere=True ablates in the residual stream, and this direction belongs to {chosen}, a "
                "norm's output: leave it out"
            )
        where = self._places(EVERYWHERE if everywhere else at, (chosen,))
        step = Step("ablate", where, {"direction": self._usable(chosen)})
        return self._plan("ablation-everywhere" if everywhere else "ablation", [step], positions)

    def _one(self, site: str | None) -> str:
        if (found := site or self.selected_site or (self.sites[0] if len(self.sites) == 1 else None)) is None:
            raise LensSteerError(f"{self!r}: none was chosen at the source, so name one with site=…")
        return found

    def _usable(self, site: str) -> Tensor:
        found = self.raw(site).float()
        if not bool(torch.isfinite(found).all()) or not bool(found.any()):
            raise LensSteerError(
                f"the direction of {site!r} is zero, or too large for float32: name other sites with at=…"
            )
        return found

    def _places(self, at: Sites, default: tuple[Any, ...]) -> tuple[str, ...]:
        layout = self.own_layout or known_layout(*self._known())
        return sites.resolve(default if at is None else at, layout)

    def _known(self) -> tuple[str, int]:
        if self.architecture is None or self.n_layers is None:
            lacking = "architecture" if self.architecture is None else "n_layers"
            raise LensSteerError(
                f"{lacking} is unknown: import with it, or fit the directions to a loaded model with "
                "on_model(directions, model)"
            )
        return self.architecture, self.n_layers

    def _plan(self, method: str, steps: list[Step], positions: Positions) -> SteeringPlan:
        return SteeringPlan(
            method,
            tuple(steps),
            normalized(positions),
            self.model,
            *self._known(),
            self.d_model,
            own_layout=self.own_layout,
        )


def direction_set(
    rows: Mapping[str, Any],
    *,
    model: str,
    architecture: str | None,
    n_layers: int | None,
    source_format: str,
    selected_site: str | None = None,
    details: Mapping[str, Detail] | None = None,
    own_layout: Layout | None = None,
) -> DirectionSet:
    """Return a set of directions by site, checked and in network order.

    Raises:
        LensSteerError: If there are no directions, if they are not finite vectors of one width and dtype, if a site is
            unknown or does not exist in the model, or if the chosen site has no row.

    >>> direction_set(
    ...     {"blocks.1.hook_resid_post": torch.ones(4)},
    ...     model="",
    ...     architecture=None,
    ...     n_layers=None,
    ...     source_format="test",
    ... )
    DirectionSet(1 of width 4 in float32 from test, model unknown)
    """
    names = sorted(rows, key=lambda name: sites.parse(name).order)
    if not names:
        raise LensSteerError(f"the {source_format} source holds no direction at all")
    vectors = [vector(rows[name], f"the direction of {name!r}") for name in names]
    kinds = {(len(v), v.dtype) for v in vectors}
    if len(kinds) > 1:
        told = sorted(f"{width} in {str(dtype).removeprefix('torch.')}" for width, dtype in kinds)
        raise LensSteerError(f"the directions do not fit together: widths {', '.join(told)}")
    facts = (model, architecture, n_layers, source_format, selected_site)
    return DirectionSet(torch.stack(vectors), tuple(names), *facts, dict(details or {}), own_layout)


def directions_of(plan: SteeringPlan) -> DirectionSet:
    """Return an additive plan as directions, ``α d`` at each of its sites, in float32.

    Raises:
        LensSteerError: If the plan has another operator or one coefficient per prompt, or if it steers only some of the
            tokens.
    """
    if plan.positions != "all":
        raise LensSteerError(
            f"the plan steers the positions {plan.positions!r}, and a bare direction is added to every token: "
            "make it for all"
        )
    rows: dict[str, Tensor] = {}
    for step in plan.steps:
        added = None if not_affine(step.operator, step.parameters) else affine_map(step.operator, step.parameters)
        if added is None or added.rank:
            raise LensSteerError(
                f"the plan {plan.method!r} is no addition of fixed directions (operator {step.operator!r}): use "
                "act_add or unit_addition with one coefficient"
            )
        for name in step.sites:
            rows[name] = rows[name] + added.shift if name in rows else added.shift
    return direction_set(
        {name: row.float() for name, row in rows.items()},
        model=plan.model,
        architecture=plan.architecture,
        n_layers=plan.n_layers,
        source_format="plan",
        details={"method": plan.method},
        own_layout=plan.own_layout,
    )


def filled_in(directions: DirectionSet, model: ModelInfo | ModelFacts) -> DirectionSet:
    """Return the same directions with what they do not say of their model taken from its description.

    Raises:
        LensSteerError: If the model does not have one of the sites.
    """
    return replace(
        directions,
        model=directions.model or model.name,
        architecture=directions.architecture or model.architecture,
        n_layers=model.n_layers if directions.n_layers is None else directions.n_layers,
        own_layout=directions.own_layout or model.own_layout,
    )


def on_model(directions: DirectionSet, model: Any) -> DirectionSet:
    """Return the same directions for a loaded model: unknown facts are filled in, and known ones must agree with it.

    Raises:
        LensSteerError: If the width, the number of blocks or the architecture differs.
    """
    known = filled_in(directions, info_of(model))
    check_fits(known, model)
    return known
