"""A table with one record for each steering method.

The command line, the grids, the controls, the exports and the tables of the documentation are made from these records.
Reading a record needs no tensor, so ``--help`` is quick; the constructor is imported when it is first used. To add a
method, write its constructor in :mod:`lens_steer.steer.methods` and its record here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from typing import Any, Literal

from lens_steer._io.tables import markdown
from lens_steer.errors import LensSteerError
from lens_steer.operators.parameters import ANGLE, COEFFICIENT, GATE, GATE_AXIS, TARGET, THRESHOLD, Parameter

Writes = Literal["discriminative", "selected", "everywhere", "boundary"]

ANGLES = tuple(float(a) for a in range(0, 360, 10))
# The direction points from harmless to harmful. Steering that elicits compliance moves harmful activations towards the
# harmless side, against the direction, so most of these values are negative (``compliance`` reverses the direction).
_STEPS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Method:
    """The record of one steering method.

    Attributes:
        name: The name that ``--method`` takes.
        constructor: The function that makes a plan from a calibration or a boundary: either the text
            ``"module.function"`` of one in :mod:`lens_steer.steer.methods`, or the function itself.
        fixed: The arguments of the constructor that are fixed for this method.
        operator: The name of the operator of its steps.
        reads: The sites on which the authors of the method calibrate.
        calibrated_with: The options of :func:`lens_steer.calibrate` with which they do, other than its defaults.
        writes: The sites that it steers: the discriminative sites, the selected site, its own sites in every block, or
            the site of a boundary.
        elsewhere: The name of the method that does the same at given sites; empty for a method that does not write
            everywhere.
        parameters: The parameters that the command line sets. A sweep varies the first one, if there is a grid.
        grid: The values of the first parameter that a sweep tries, towards the harmless side; empty for a method that
            is not swept.
        positive_grid: The values for a probe, from below its boundary towards its positive side.
        swept_with: Further arguments of the constructor in a sweep over sites.
        identities: The values at which the method leaves every token as it is; empty if there are none.
        compared: Whether ``lens-steer compare`` runs the method when no method is named.
        takes_direction: Whether the constructor also takes a direction that was selected by what it does
            (:func:`lens_steer.select_direction`), in place of a calibration.
        help: What the method does, in one line.
        formula: The formula of the steered activation.
        keeps: The quantities that the method leaves unchanged.
        defaults: The parameters and their defaults, in symbols.
        source: The publication, as an arXiv number.
    """

    name: str
    constructor: str | Callable[..., Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    operator: str
    reads: str = "norm_out"
    calibrated_with: Mapping[str, str] = field(default_factory=dict)
    writes: Writes
    elsewhere: str = ""
    parameters: tuple[Parameter, ...] = ()
    grid: tuple[float, ...] = ()
    positive_grid: tuple[float, ...] = ()
    swept_with: Mapping[str, Any] = field(default_factory=dict)
    identities: tuple[float, ...] = ()
    compared: bool = False
    takes_direction: bool = False
    help: str
    formula: str
    keeps: str
    defaults: str
    source: str

    @cached_property
    def build(self) -> Callable[..., Any]:
        """Return the constructor with its fixed arguments bound."""
        made = self.constructor
        if isinstance(made, str):
            module, _, function = made.rpartition(".")
            made = getattr(import_module(f"lens_steer.steer.methods.{module}"), function)
        return partial(made, **self.fixed) if self.fixed else made

    @property
    def swept(self) -> Parameter | None:
        """Return the parameter that a sweep varies; None for a method that is not swept."""
        return self.parameters[0] if self.grid else None

    @property
    def turns(self) -> bool:
        """Return whether the swept parameter is an angle."""
        return self.swept is not None and self.swept.unit == "degrees"

    @property
    def tries_sites(self) -> bool:
        """Return whether a sweep tries several sites: it does if the method is swept and writes at a single site."""
        return self.swept is not None and self.writes in ("selected", "boundary")

    def at_value(self, value: Any) -> dict[str, Any]:
        """Return the swept parameter as an argument of the constructor.

        The result is empty where the value is None or the method is not swept.

        >>> METHODS["act-add"].at_value(2.0), METHODS["ablation"].at_value(None)
        ({'coefficient': 2.0}, {})
        """
        return {} if self.swept is None or value is None else {self.swept.name: value}


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            name="selective", constructor="rotations.selective_steering", operator="selective",
            writes="discriminative", parameters=(ANGLE,), grid=ANGLES, identities=(0.0, 360.0), compared=True,
            help="SS: rotate by a relative --angle at the discriminative sites",
            formula="h + (R_θ c − c) B", keeps="norm, inner products, complement of the plane", defaults="θ relative",
            source="2601.19375, Eqs. 6, 10",
        ),
        Method(
            name="standard", constructor="rotations.standard_angular", operator="standard", writes="discriminative",
            parameters=(ANGLE,), grid=ANGLES, compared=True,
            help="SAS at L_disc: set an absolute --angle at the discriminative sites, lengths kept",
            formula="h + (r u_θ − c) B", keeps="norm, complement", defaults="θ absolute",
            source="2510.26243; 2601.19375, Eq. 2",
        ),
        Method(
            name="adaptive", constructor="rotations.adaptive_angular", operator="adaptive", writes="discriminative",
            parameters=(ANGLE, THRESHOLD, GATE_AXIS), grid=ANGLES, compared=True,
            help="AAS at L_disc: SAS for tokens with h·b1 (--gate-axis 1: h·b2) above --threshold",
            formula="SAS where h·b1 > τ", keeps="norm, complement, ungated tokens",
            defaults="θ absolute; τ = 0; axis = b1", source="2510.26243",
        ),
        Method(
            name="standard-everywhere", constructor="rotations.standard_angular", fixed={"everywhere": True},
            operator="standard", reads="norm_in", calibrated_with={"candidate_norm": "sample_unit"},
            writes="everywhere", elsewhere="standard", parameters=(ANGLE,), grid=ANGLES, compared=True,
            help="SAS as published: set an absolute --angle after every norm",
            formula="SAS at every norm before attention and MLP", keeps="norm, complement", defaults="θ absolute",
            source="2510.26243",
        ),
        Method(
            name="adaptive-everywhere", constructor="rotations.adaptive_angular", fixed={"everywhere": True},
            operator="adaptive", reads="norm_in", calibrated_with={"candidate_norm": "sample_unit"},
            writes="everywhere", elsewhere="adaptive", parameters=(ANGLE, THRESHOLD, GATE_AXIS), grid=ANGLES,
            compared=True, help="AAS as published: the same, for tokens with h·b1 above --threshold",
            formula="AAS at every norm before attention and MLP", keeps="norm, complement, ungated tokens",
            defaults="θ absolute; τ = 0; axis = b1", source="2510.26243",
        ),
        Method(
            name="mean-phase", constructor="rotations.mean_phase_rotation", operator="mean_phase",
            writes="discriminative", parameters=(ANGLE,), grid=ANGLES,
            help="X1: the rotating half of SAS, by --angle minus each site's mean phase",
            formula="SS by θ − φ̄ (X1)", keeps="norm, inner products, complement",
            defaults="θ absolute; φ̄ of both classes", source="here",
        ),
        Method(
            name="phase-collapse", constructor="rotations.phase_collapse", operator="phase_collapse",
            writes="discriminative",
            help="X2: the collapsing half of SAS, every token to the site's mean phase",
            formula="SAS at φ̄ (X2)", keeps="norm, complement", defaults="φ̄ of both classes", source="here",
        ),
        Method(
            name="act-add", constructor="directions.act_add", operator="add", reads="resid_pre", writes="selected",
            parameters=(COEFFICIENT,), grid=_STEPS, identities=(0.0,), compared=True,
            takes_direction=True,
            help="ActAdd: add --coefficient times the raw difference of class means at the selected site",
            formula="h + α d", keeps="what is orthogonal to d", defaults="α = 1; d = μ⁺ − μ⁻, raw",
            source="2406.11717, 2.4",
        ),
        Method(
            name="act-add-keep-norm", constructor="directions.act_add", fixed={"keep_norm": True},
            operator="add_keep_norm", reads="resid_pre", writes="selected", parameters=(COEFFICIENT,), grid=_STEPS,
            identities=(0.0,), compared=True,
            help="ActAdd, each sum scaled back to the token's own length",
            formula="(h + α d) ‖h‖ / ‖h + α d‖", keeps="norm", defaults="α = 1", source="here",
        ),
        Method(
            name="ablation", constructor="directions.directional_ablation", operator="ablate", writes="selected",
            compared=True,
            help="remove the selected direction at the selected site",
            formula="h − (d̂·h) d̂", keeps="what is orthogonal to d", defaults="—", source="2406.11717, 2.4",
        ),
        Method(
            name="ablation-everywhere", constructor="directions.directional_ablation", fixed={"everywhere": True},
            operator="ablate", reads="resid_pre", writes="everywhere", elsewhere="ablation", compared=True,
            takes_direction=True,
            help="remove it from every block's input and what every attention and MLP adds",
            formula="the same at every block input, attention and MLP output", keeps="what is orthogonal to d",
            defaults="—", source="2406.11717, 2.4",
        ),
        Method(
            name="compliance", constructor="directions.unit_addition", operator="add", writes="discriminative",
            parameters=(COEFFICIENT,), grid=(8.0, 4.0, 2.0, 1.3, 1.0, -1.0), identities=(0.0,),
            help="STEER-COMPLIANCE's form: add --coefficient times each discriminative site's −d̂, towards compliance",
            formula="h − α d̂, d̂ of each site", keeps="what is orthogonal to d̂", defaults="α = 1.3",
            source="2602.04896",
        ),
        Method(
            name="clamp", constructor="directions.projection_clamp", operator="clamp", writes="selected",
            parameters=(TARGET,),
            help="STEER-JSON's form: set the projection at the selected site to --target (the positive mean)",
            formula="h + (z̄ − û·h) û", keeps="what is orthogonal to û", defaults="z̄ = positive mean",
            source="2602.04896, Eq. 4",
        ),
        # The grids towards the positive side go somewhat beyond the best values of the paper (SwFC 4, StTP 36, StMP 4).
        Method(
            name="swfc", constructor="projections.fixed_coefficient", operator="add", reads="resid_post",
            writes="boundary", parameters=(COEFFICIENT,), grid=_STEPS, positive_grid=(0.5, 1.0, 2.0, 4.0, 6.0, 8.0),
            identities=(0.0,), compared=True,
            help="SwFC: add --coefficient class separations along the selected direction",
            formula="h + α Δμ v̂", keeps="what is orthogonal to v̂", defaults="α = 1", source="2604.08169, Eq. 3",
        ),
        Method(
            name="sttp", constructor="projections.target_projection", operator="target", reads="resid_post",
            writes="boundary", parameters=(COEFFICIENT, GATE), grid=(0.0, -2.0, -4.0, -8.0, -16.0, -36.0),
            positive_grid=(0.0, 6.0, 12.0, 24.0, 36.0, 48.0), swept_with={"gate": "above"}, compared=True,
            help="StTP: tokens past the boundary (--gate) get the projection mean + --coefficient standard deviations",
            formula="ρ < m: h + (s − ρ) v̂, s = μ⁺ + α σ⁺", keeps="what is orthogonal to v̂, ungated tokens",
            defaults="α = 0; gate below", source="2604.08169, Eq. 4",
        ),
        Method(
            name="stmp", constructor="projections.mirror_projection", operator="mirror", reads="resid_post",
            writes="boundary", parameters=(COEFFICIENT, GATE), grid=(0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
            positive_grid=(0.5, 1.0, 2.0, 3.0, 4.0, 6.0), swept_with={"gate": "above"}, identities=(0.0,),
            compared=True,
            help="StMP: tokens past the boundary (--gate) are mirrored at it, or carried further by --coefficient",
            formula="ρ < m: h + 2α (m − ρ) v̂", keeps="what is orthogonal to v̂, ungated tokens",
            defaults="α = 1; cap μ⁺ + 40 σ⁺; gate below", source="2604.08169, Eq. 5",
        ),
    )
}  # fmt: skip
DEFAULT, DEFAULT_OF_A_PROBE = "selective", "sttp"  # the methods used when none is named


def find_method(name: str) -> Method:
    """Return the method of a name, which is the name of the record or of its constructor.

    Raises:
        LensSteerError: If there is no such method.

    >>> find_method("target_projection").name
    'sttp'
    """
    for method in METHODS.values():
        made = method.constructor
        function = made.rpartition(".")[2] if isinstance(made, str) else getattr(made, "__name__", "")
        if name == method.name or (name == function and not method.fixed):
            return method
    raise LensSteerError(f"method={name!r}: use one of {', '.join(METHODS)}")


def options() -> list[Parameter]:
    """Return every parameter that the command line sets, once.

    Parameters that may hold one value for each prompt come first.

    >>> [p.name for p in options()]
    ['angle', 'coefficient', 'target', 'threshold', 'gate_axis', 'gate']
    """
    found = {p.name: p for method in METHODS.values() for p in method.parameters}
    return sorted(found.values(), key=lambda p: not p.by_row)


def boundary_methods() -> tuple[str, ...]:
    """Return the names of the methods that take a probe or another boundary.

    >>> boundary_methods()
    ('swfc', 'sttp', 'stmp')
    """
    return tuple(m.name for m in METHODS.values() if m.writes == "boundary")


def direction_methods() -> tuple[str, ...]:
    """Return the names of the methods that take a selected direction.

    >>> direction_methods()
    ('act-add', 'ablation-everywhere')
    """
    return tuple(m.name for m in METHODS.values() if m.takes_direction)


def turning_methods() -> tuple[str, ...]:
    """Return the names of the methods that have an angle.

    >>> turning_methods()
    ('selective', 'standard', 'adaptive', 'standard-everywhere', 'adaptive-everywhere', 'mean-phase')
    """
    return tuple(m.name for m in METHODS.values() if m.turns)


def markdown_table() -> str:
    """Return the table of methods in the documentation, as Markdown.

    >>> markdown_table().splitlines()[0]
    "| `--method` | h' | keeps | parameters | source |"
    """
    head = ("`--method`", "h'", "keeps", "parameters", "source")
    return markdown(head, [(f"`{m.name}`", m.formula, m.keeps, m.defaults, m.source) for m in METHODS.values()])
