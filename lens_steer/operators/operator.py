"""What an operator is: a pure function of tensors, its parameters, how a hook binds it, where its gate fires, and its
affine map.
"""

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
Parameters = Mapping[str, Any]  # a vector or basis, numbers, one number a row, or a name


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator. All that a plan, a hook, a control, a table or an export has to know of its parameters stands here.

    Attributes:
        name: The operator's name.
        function: The pure function of tensors, called with the activations and then the parameters by name. Its
            signature has the defaults.
        parameters: Its parameters, in the order of the function. Of several directions the last is the one that is
            written along.
        binder: From all parameters and a tensor of the wanted device and dtype, make ``h ↦ h'``.
        gate_binder: From the same, make ``h ↦`` where it moves anything; None for an operator without a gate.
        affine: From all parameters, make the affine map that the operator is; or the reason why it is none; None where
            nobody has said.
        isometry: Whether it keeps all lengths where its planes are orthonormal.
        removes: Whether it leaves nothing of its direction.
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
        """Names of the parameters without a default."""
        return tuple(p.name for p in self.parameters if p.name not in self.defaults)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the parameters with a default."""
        return tuple(p.name for p in self.parameters if p.name in self.defaults)

    @cached_property
    def by_row(self) -> str | None:
        """The parameter that may hold one number for each row of a batch."""
        return next((p.name for p in self.parameters if p.by_row), None)

    @cached_property
    def angle(self) -> str | None:
        """The parameter that is the angle of the steering, in degrees."""
        return next((p.name for p in self.parameters if p.by_row and p.unit == "degrees"), None)

    @cached_property
    def planes(self) -> tuple[str, ...]:
        """The parameters that are planes."""
        return tuple(p.name for p in self.parameters if p.kind == "plane")

    @cached_property
    def directions(self) -> tuple[str, ...]:
        """The parameters that are directions; the last is the one that is written along."""
        return tuple(p.name for p in self.parameters if p.kind == "direction")

    @cached_property
    def vectors(self) -> tuple[str, ...]:
        """The parameters that are planes or directions."""
        return (*self.planes, *self.directions)

    @property
    def gate(self) -> Callable[[Parameters, Tensor], Fires] | None:
        """:attr:`gate_binder`, for parameters of which those with a default may be left out."""
        binder = self.gate_binder
        return None if binder is None else lambda parameters, like: binder({**self.defaults, **parameters}, like)

    def bind(self, parameters: Parameters, like: Tensor) -> Bound:
        """:attr:`binder`, for parameters of which those with a default may be left out."""
        return self.binder({**self.defaults, **parameters}, like)

    def is_number(self, name: str, value: object) -> bool:
        """Whether a value of one of its parameters has to be a number, or one for each row; None is none where it is
        the default.

        >>> from lens_steer.operators.catalogue import operator
        >>> [operator("mirror").is_number(name, None) for name in ("direction", "gate", "cap", "coefficient")]
        [False, False, False, True]
        """
        if value is None and self.defaults.get(name, 0) is None:
            return False
        return all(p.kind == "number" for p in self.parameters if p.name == name)

    def settings(self, parameters: Parameters) -> dict[str, Any]:
        """The numbers and names among the parameters of a step, without its vectors.

        >>> from lens_steer.operators.catalogue import operator
        >>> operator("clamp").settings({"direction": [1.0, 0.0], "target": 2.0})
        {'target': 2.0}
        """
        return {name: value for name, value in parameters.items() if name not in self.vectors}
