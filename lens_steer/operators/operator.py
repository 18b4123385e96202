"""The record of an operator: its pure function, its parameters, its binding for a hook, its gate and its affine map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.operators.affine import AffineMap
from lens_steer.operators.parameters import Parameter

Bound = Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch d_model"]]
Fires = Callable[[Float[Tensor, "*batch d_model"]], Bool[Tensor, "*batch"]]
Parameters = Mapping[str, Any]  # Each value is a vector, a basis, a number, one number per row, or a name.


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator, with all that a plan, a hook, a control, a table or an export must know about its parameters.

    Attributes:
        name: The name of the operator.
        function: The pure function of tensors. It is called with the activations, and with the parameters by name. Its
            signature holds the defaults.
        parameters: The parameters, in the order of the function. If there are several directions, the operator writes
            along the last one.
        binder: A function that takes all parameters and a tensor of the wanted device and dtype, and returns
            ``h ↦ h'``.
        gate_binder: A function that takes the same arguments and returns ``h ↦`` the mask of the vectors that the
            operator moves; None for an operator without a gate.
        affine: A function that takes all parameters and returns the affine map of low rank that equals the operator;
            or the reason why there is none, as the end of a sentence that begins with the operator; or None if neither
            is stated.
        isometry: True if the operator keeps all lengths when its planes are orthonormal.
        removes: True if the operator leaves no part of an activation along its direction.
    """

    name: str
    function: Callable[..., Tensor]
    parameters: tuple[Parameter, ...]
    binder: Callable[[Parameters, Tensor], Bound]
    gate_binder: Callable[[Parameters, Tensor], Fires] | None = None
    affine: Callable[[Parameters], AffineMap] | str | None = None
    isometry: bool = False
    removes: bool = False

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default of each parameter that has one."""
        found = signature(self.function).parameters
        return {
            p.name: found[p.name].default for p in self.parameters if found[p.name].default is not found[p.name].empty
        }

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the parameters without a default."""
        return tuple(p.name for p in self.parameters if p.name not in self.defaults)

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the parameters with a default."""
        return tuple(p.name for p in self.parameters if p.name in self.defaults)

    @cached_property
    def by_row(self) -> str | None:
        """The name of the parameter that may hold one number per row of a batch; None if there is no such parameter."""
        return next((p.name for p in self.parameters if p.by_row), None)

    @cached_property
    def angle(self) -> str | None:
        """The name of the parameter that is the steering angle, in degrees; None if there is no such parameter."""
        return next((p.name for p in self.parameters if p.by_row and p.unit == "degrees"), None)

    @cached_property
    def planes(self) -> tuple[str, ...]:
        """The names of the parameters that are planes."""
        return tuple(p.name for p in self.parameters if p.kind == "plane")

    @cached_property
    def directions(self) -> tuple[str, ...]:
        """The names of the parameters that are directions; the operator writes along the last one."""
        return tuple(p.name for p in self.parameters if p.kind == "direction")

    @cached_property
    def vectors(self) -> tuple[str, ...]:
        """The names of the parameters that are planes or directions."""
        return (*self.planes, *self.directions)

    @property
    def gate(self) -> Callable[[Parameters, Tensor], Fires] | None:
        """``gate_binder``, in a form that fills in the defaults of missing parameters; None without a gate."""
        binder = self.gate_binder
        return None if binder is None else lambda parameters, like: binder({**self.defaults, **parameters}, like)

    def bind(self, parameters: Parameters, like: Tensor) -> Bound:
        """Call ``binder``, with the defaults filled in for missing parameters."""
        return self.binder({**self.defaults, **parameters}, like)

    def is_number(self, name: str, value: object) -> bool:
        """Return True if a value of a parameter must be a number, or one number per row.

        The value None is not a number if None is the default of the parameter.

        >>> from lens_steer.operators.catalogue import operator
        >>> [operator("mirror").is_number(name, None) for name in ("direction", "gate", "cap", "coefficient")]
        [False, False, False, True]
        """
        if value is None and self.defaults.get(name, 0) is None:
            return False
        return all(p.kind == "number" for p in self.parameters if p.name == name)

    def settings(self, parameters: Parameters) -> dict[str, Any]:
        """Return the numbers and names among the parameters of a step, without its vectors.

        >>> from lens_steer.operators.catalogue import operator
        >>> operator("clamp").settings({"direction": [1.0, 0.0], "target": 2.0})
        {'target': 2.0}
        """
        return {name: value for name, value in parameters.items() if name not in self.vectors}
