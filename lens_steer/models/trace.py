"""What a forward pass computes from what, recorded on the meta device: no weight is read, and no number is computed.

PyTorch calls :meth:`Trace.__torch_dispatch__` for every operation, and module hooks tell which module runs it. Every
value gets a number; a tensor that is changed in place holds a new value from then on.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

N_TOKENS = 13  # no number of experts, so that a router is not taken for attention
# Operations whose result holds the numbers of their first input, if it has as many.
ALIASES = {
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "view_as", "unsqueeze", "squeeze", "expand", "slice"),
    *("alias", "detach", "clone", "contiguous", "lift_fresh", "_to_copy", "to", "native_dropout"),
}


@dataclass(frozen=True)
class Operation:
    """One operation: its name in ATen, its input values and their shapes, and the module that ran it."""

    name: str
    inputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    module: str

    @property
    def attends(self) -> bool:
        """True for attention over positions: a fused kernel, or a softmax over ``[…, query, key]``.

        A key more than there are tokens is an attention sink. The softmax of a router is over experts.
        """
        if "softmax" not in self.name:
            return "scaled_dot_product" in self.name
        return self.shapes[0][-2:] in ((N_TOKENS, N_TOKENS), (N_TOKENS, N_TOKENS + 1))


@dataclass(frozen=True)
class Call:
    """The calls of a module: the values that went into the last one and came out of it, and how many there were."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...] = ()
    count: int = 1


class Trace(TorchDispatchMode):
    """A record of one forward pass.

    Attributes:
        made: The operation that made each value.
        calls: The calls of each module that was called, by its path.
        shapes: The shape of each value.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.made: dict[int, Operation] = {}
        self.calls: dict[str, Call] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self._model, self._stack = model, [""]
        self._values: dict[int, int] = {}  # by the id of the tensor that holds each now
        self._alive: list[Tensor] = []  # every tensor that was seen, so that no id is used twice
        self._handles: list[Any] = []

    def __enter__(self) -> Trace:
        for name, module in self._model.named_modules():
            if name:
                self._handles += [
                    module.register_forward_pre_hook(self._entering(name), with_kwargs=True),
                    module.register_forward_hook(self._leaving(name), with_kwargs=True),
                ]
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*raised)

    def origin(self, value: int) -> int:
        """Return the value of which one is a view, a copy or a cast."""
        while (before := self.aliased(value)) is not None:
            value = before
        return value

    def aliased(self, value: int) -> int | None:
        """Return the value of which one is directly a view, a copy or a cast; None if it is computed otherwise."""
        made = self.made.get(value)
        if made is None or made.name not in ALIASES or not made.inputs:
            return None
        before = made.inputs[0]
        return before if prod(self.shapes[before]) == prod(self.shapes[value]) else None

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._stack.append(name)
            before = self.calls[name].count if name in self.calls else 0
            self.calls[name] = Call(self._held((args, kwargs)), count=before + 1)

        return enter

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._stack.pop()
            self.calls[name] = replace(self.calls[name], outputs=self._held(output))

        return leave

    def _held(self, structure: Any) -> tuple[int, ...]:
        """Return the values that the tensors of some arguments hold now."""
        tensors = [leaf for leaf in tree_leaves(structure) if isinstance(leaf, Tensor)]
        return tuple(self._values[id(t)] if id(t) in self._values else self._new(t) for t in tensors)

    def _new(self, tensor: Tensor) -> int:
        value = len(self.shapes)
        self._alive.append(tensor)
        self._values[id(tensor)], self.shapes[value] = value, tuple(tensor.shape)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = self._held((args, kwargs))
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        made = Operation(name, inputs, tuple(self.shapes[value] for value in inputs), self._stack[-1])
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (id(tensor) not in self._values or name.endswith("_")):
                self.made[self._new(tensor)] = made
        return result


def on_meta(config: Any) -> nn.Module:
    """Build the model of a configuration without memory for its weights, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    # bfloat16: Transformers' grouped products of experts take no other dtype without weights.
    with _quiet(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.bfloat16).eval()  # which sets its dtype


def traced(model: nn.Module) -> Trace:
    """Record the forward pass of a model on the meta device over one prompt of :data:`N_TOKENS` tokens.

    Masks are looked at by some families, which numbers on the meta device do not allow; so they are given ready-made
    where the family takes them, in the first of a few forms that works.

    Raises:
        Exception: What the first form raised, if none works: whatever a family's own code raises if it needs numbers.
    """
    tokens = torch.zeros(1, N_TOKENS, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, N_TOKENS, N_TOKENS, dtype=torch.bfloat16, device="meta")
    forms: tuple[dict[str, Tensor], ...] = (
        {"attention_mask": mask, "position_ids": tokens},
        {"attention_mask": mask},
        {"attention_mask": torch.ones_like(tokens)},
        {},
    )
    raised: list[Exception] = []
    for form in forms:
        try:
            with torch.no_grad(), _quiet(), Trace(model) as trace:
                model(input_ids=tokens, use_cache=False, **form)
            return trace
        except Exception as error:
            raised.append(error)
    raise raised[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide notes on kernels that are not installed: nothing is computed."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
