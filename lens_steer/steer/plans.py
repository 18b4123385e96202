"""Steering plans: operators bound to sites and positions, with everything needed to steer, apart from any model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lens_steer._display import Shown
from lens_steer._io.tensors import TensorFolder, all_finite
from lens_steer.errors import LensSteerError
from lens_steer.inference import positions as positions_
from lens_steer.models import sites
from lens_steer.models.fits import reference
from lens_steer.models.layout import Layout, WithLayout, layout_row, read_layout_row
from lens_steer.models.templates import ChatTemplate
from lens_steer.operators.catalogue import bind, operator

FOLDER = TensorFolder(name="plan", missing="write one with save_plan", again="save it again", facts_first=True)
Detail = float | list[float] | str
_FACTS = ("method", "positions", "model", "architecture", "n_layers", "d_model")


@dataclass(frozen=True, eq=False)
class Step:
    """One operator at some sites.

    Attributes:
        operator: The name of an operator in :data:`lens_steer.operators.catalogue.OPERATORS`.
        sites: The sites at which it acts, in network order.
        parameters: The operator's parameters: vectors, numbers, one number for each row, or names.
    """

    operator: str
    sites: tuple[str, ...]
    parameters: Mapping[str, Any]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Step):
            return NotImplemented
        own, others = ((step.operator, step.sites, step.parameters.keys()) for step in (self, other))
        return own == others and all(_same(v, other.parameters[name]) for name, v in self.parameters.items())

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        plain = {name: _checked(self.operator, name, value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", plain)

    @property
    def by_row(self) -> Tensor | None:
        """Return the step's values, one for each row; None where one value serves every row."""
        value = self.parameters.get(operator(self.operator).by_row or "")
        return value if isinstance(value, Tensor) and value.ndim else None

    @property
    def n_rows(self) -> int | None:
        """Return the number of rows for which the step has one value each; None where one value serves every row."""
        return None if self.by_row is None else len(self.by_row)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the numbers and names of the step, without its vectors; one number for each row becomes a list."""
        found = operator(self.operator).settings(self.parameters)
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in found.items()}

    def at_row(self, row: int) -> Step:
        """Return the step with the value of one row, which then serves every row."""
        if self.n_rows is None:
            return self
        name = str(operator(self.operator).by_row)
        return replace(self, parameters={**self.parameters, name: float(self.parameters[name][row])})

    def at_rows(self, rows: Tensor) -> Mapping[str, Any]:
        """Return the parameters for some of the rows."""
        if self.n_rows is None:
            return self.parameters
        name = str(operator(self.operator).by_row)
        return {**self.parameters, name: self.parameters[name][rows.cpu()]}


@dataclass(frozen=True, eq=False)
class SteeringPlan(WithLayout, Shown, view="models"):
    """A plan: which operators change which activations of which model.

    Attributes:
        method: The method that made it, a name of :data:`lens_steer.steer.method_table.METHODS`.
        steps: The operators bound to sites.
        positions: The tokens that are steered; see :mod:`lens_steer.inference.positions`.
        model, architecture, n_layers, d_model: The model for which the plan is made.
        details: What the parameters of the steps do not show: arguments of the method (such as StTP's α), and where a
            selected direction was read.
        template: The chat template of the prompts from which the vectors come; None where it is not known.
        own_layout: See :class:`lens_steer.models.layout.WithLayout`.
    """

    method: str
    steps: tuple[Step, ...]
    positions: str
    model: str
    architecture: str
    n_layers: int
    d_model: int
    details: Mapping[str, Detail] = field(default_factory=dict)
    template: ChatTemplate | None = None
    own_layout: Layout | None = None

    @classmethod
    def of(
        cls,
        source: Any,
        method: str,
        steps: Sequence[Step],
        positions: str | Sequence[int] = "all",
        **details: Detail,
    ) -> SteeringPlan:
        """Make a plan for the model from which its vectors come.

        Args:
            source: A calibration, a boundary or another :class:`~lens_steer.models.fits.ModelRef` with its ``d_model``,
                or a model's description.
            method, steps, details: See :class:`SteeringPlan`.
            positions: The tokens to steer, in words or as integers; see :mod:`lens_steer.inference.positions`.

        Raises:
            LensSteerError: If the positions are not understood, or a site can only be read.

        >>> import lens_steer as ls
        >>> calibration = ls.load_calibration("figures/calibration")
        >>> step = Step("ablate", calibration.sites[:2], {"direction": calibration.basis[0]})
        >>> SteeringPlan.of(calibration, "ablation", [step], (3, 7))
        SteeringPlan(ablation: 2 sites in 1 blocks of organism/qwen2 at all[3]+all[7])
        """
        sites.check_writable(name for step in steps for name in step.sites)
        return cls(
            method,
            tuple(steps),
            positions_.normalized(positions),
            **reference(source),
            d_model=source.d_model,
            details=details,
        )

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, SteeringPlan) else NotImplemented

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        given = "".join(f", {k}={v:.4g}" if isinstance(v, float) else f", {k}={v}" for k, v in self.parameters.items())
        where = "" if self.positions == "all" else f" at {self.positions}"
        return (
            f"SteeringPlan({self.method}{given}: {len(self.sites)} sites in {len(sites.blocks_of(self.sites))} blocks "
            f"of {self.model}{where})"
        )

    @property
    def sites(self) -> tuple[str, ...]:
        """Return every steered site, in network order."""
        return tuple(sorted({name for step in self.steps for name in step.sites}, key=lambda n: sites.parse(n).order))

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the numbers and names that all steps share, and the details; one value for each row becomes a list."""
        first, others = self.steps[0].settings, [step.settings for step in self.steps[1:]]
        shared = {n: v for n, v in first.items() if all(n in other and _same(other[n], v) for other in others)}
        return {**self.details, **shared}

    @property
    def angle(self) -> float | list[float] | None:
        """Return the angle in degrees, as a list for one angle a row; None for a method without an angle."""
        return self.parameters.get(operator(self.steps[0].operator).angle or "")

    @property
    def n_rows(self) -> int | None:
        """Return the number of prompts for which the plan has one value each; None where one value serves all."""
        return next((step.n_rows for step in self.steps if step.n_rows is not None), None)

    def at(self, angle: Any) -> SteeringPlan:
        """Return the same plan at another angle, or at one angle for each prompt.

        Args:
            angle: The angle in degrees, or one angle for each prompt.

        Raises:
            LensSteerError: If the method has no angle, or the angle is not a number.
        """
        if self.angle is None:
            raise LensSteerError(f"method={self.method!r} has no angle to change")
        degrees = numbers("angle", angle)
        turned = [replace(s, parameters={**s.parameters, str(operator(s.operator).angle): degrees}) for s in self.steps]
        return replace(self, steps=tuple(turned))

    def at_row(self, row: int) -> SteeringPlan:
        """Return the plan with the values of one row, which then serve every row."""
        return replace(self, steps=tuple(step.at_row(row) for step in self.steps))

    @property
    def digest(self) -> str:
        """Return a hash of everything that the plan does: operators, sites, parameters and positions."""
        found = hashlib.sha256()
        self.absorb(found)
        return found.hexdigest()

    def absorb(self, digest: Any) -> None:
        """Add everything that the plan does to a hash of ``hashlib``."""
        digest.update(repr((self.method, self.positions, self.model)).encode())
        for step in self.steps:
            digest.update(repr((step.operator, step.sites)).encode())
            for name, value in sorted(step.parameters.items()):
                plain = value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
                digest.update(name.encode() + plain)

    def operator(self, site: str | None = None, like: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return the pure function that is applied to the activations of one site: all of its steps, in order.

        Args:
            site: A steered site; None takes the first one.
            like: A tensor of the device and dtype of the activations; None stands for a float32 tensor on the CPU.

        Raises:
            LensSteerError: If the site is not steered.
        """
        name = self.sites[0] if site is None else site
        example = torch.zeros(self.d_model) if like is None else like
        bound = [bind(step.operator, step.parameters, example) for step in self.steps if name in step.sites]
        if not bound:
            raise LensSteerError(f"site={name!r} is not steered: the plan's sites are {', '.join(self.sites)}")

        def composed(h: Tensor) -> Tensor:
            for function in bound:
                h = function(h)
            return h

        return composed

    def describe(self) -> dict[str, Any]:
        """Return everything about the plan but its vectors.

        This is the method, its parameters, the steps, each steered tensor under its TransformerLens name and its module
        path in Hugging Face, the blocks, the positions, and the first steered token.
        """
        return {
            "method": self.method,
            "model": self.model,
            "parameters": self.parameters,
            "steps": [{"operator": s.operator, "sites": len(s.sites)} for s in self.steps],
            "tensors": [{"site": name, "module": sites.parse(name).described(self.layout)} for name in self.sites],
            "blocks": list(sites.blocks_of(self.sites)),
            "positions": self.positions,
            "first_steered_token": positions_.first_steered(self.positions),
        }

    def row(self, prompt: int | None = None) -> dict[str, Any]:
        """Return the plan as one row, which is written beside every generation.

        Args:
            prompt: The index of a prompt, whose own values replace the lists; None keeps the lists.
        """
        own = {k: v if prompt is None or not isinstance(v, list) else v[prompt] for k, v in self.parameters.items()}
        return {"method": self.method, **own, "n_sites": len(self.sites), "positions": self.positions}


def numbers(name: str, value: Any) -> float | Tensor:
    """Return a finite number as a float, or several as a float64 vector with one number for each prompt.

    Raises:
        LensSteerError: If the value is anything else.

    >>> numbers("angle", 200), numbers("angle", [0, 90])
    (200.0, tensor([ 0., 90.], dtype=torch.float64))
    """
    try:
        found = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise LensSteerError(f"{name}={value!r} is not a number, nor one number for each prompt") from None
    if found.ndim > 1 or not found.numel() or not torch.isfinite(found).all():
        raise LensSteerError(f"{name}={value!r} is not a finite number, nor one for each prompt")
    return found.clone() if found.ndim else float(found)


def parse_numbers(name: str, text: str) -> float | list[float]:
    """Read a number, or several with commas between them, from a command line or a file.

    Raises:
        LensSteerError: If the text is anything else.

    >>> parse_numbers("angle", "200"), parse_numbers("angle", "[0, 90]")
    (200.0, [0.0, 90.0])
    """
    try:
        found = [float(part) for part in text.strip("[] ").split(",")]
    except ValueError:
        raise LensSteerError(f"{name}={text!r} is not a number, nor one number for each prompt") from None
    return found if len(found) > 1 else found[0]


def save_plan(plan: SteeringPlan, folder: str | Path) -> None:
    """Write a plan to a folder (``plan.json``, ``plan.safetensors``), completely or not at all."""
    tensors: dict[str, Tensor] = {}
    steps = []
    for index, step in enumerate(plan.steps):
        plain = {}
        for name, value in step.parameters.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain[name] = value
        steps.append({"operator": step.operator, "sites": list(step.sites), "parameters": plain})
    facts = {
        **{name: getattr(plan, name) for name in _FACTS},
        "details": dict(plan.details),
        "template": None if plan.template is None else plan.template.row(),
        **layout_row(plan),
        "steps": steps,
    }
    FOLDER.write(folder, tensors, facts)


def load_plan(folder: str | Path) -> SteeringPlan:
    """Read a plan and check it.

    Checked are the names and parameters of the operators, the sites, the positions, and that all values are finite.

    Raises:
        LensSteerError: If a file is missing, or its content is corrupt or unknown.
    """
    tensors, facts = FOLDER.read(folder)
    with FOLDER.decoding(folder):
        read = [dict(s["parameters"]) for s in facts["steps"]]
        for key, tensor in tensors.items():
            index, name = key.split(".", 1)
            read[int(index)][name] = tensor
        plan = SteeringPlan(
            **{name: facts[name] for name in (*_FACTS, "details")},
            steps=tuple(Step(s["operator"], tuple(s["sites"]), p) for s, p in zip(facts["steps"], read, strict=True)),
            template=ChatTemplate.read(facts.get("template")),
            own_layout=read_layout_row(facts),
        )
    if not all_finite(tensors.values()):
        raise FOLDER.refusal(folder, "holds values that are not finite")
    positions_.parse(plan.positions)
    for name in plan.sites:
        plan.operator(name)
    return plan


def _checked(operator_name: str, name: str, value: Any) -> Any:
    """Return a parameter as a step keeps it.

    Vectors and names stay as they are, a number must be finite, and several numbers become a float64 vector.
    """
    found_operator = operator(operator_name)
    if not found_operator.is_number(name, value):
        return value
    found = numbers(name, parse_numbers(name, value) if isinstance(value, str) else value)
    if isinstance(found, Tensor) and name != found_operator.by_row:
        raise LensSteerError(f"{name}={value!r}: operator {operator_name!r} takes one number here")
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
    return type(a) is type(b) and a == b
