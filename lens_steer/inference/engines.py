"""Which model does the work: the one that was loaded (``"tl"``) or its Hugging Face twin (``"hf"``), under the plans
that are active.

Hooks that steer are registered here by :mod:`lens_steer.steer.hooks`, so that generation and recording can carry them
to the twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lens_steer._defaults import ENGINES
from lens_steer.errors import LensSteerError
from lens_steer.models.loading import fingerprint, hf_twin, info_of


@dataclass(frozen=True, eq=False)
class Active:
    """A plan in force on a model.

    Attributes:
        method: of the plan.
        handles: of the hooks it has added at sites.
        followers: of the hooks it has added to follow forwards.
        n_rows: how many prompts it has a value for; None where one value serves all.
        on: puts the same plan in force on another model.
    """

    method: str
    handles: tuple[object, ...]
    followers: tuple[object, ...]
    n_rows: int | None
    on: Callable[[Any], AbstractContextManager[Any]]


_ACTIVE: WeakKeyDictionary[nn.Module, list[Active]] = WeakKeyDictionary()


@contextmanager
def active(model: Any, entry: Active) -> Iterator[None]:
    """Say that a plan is in force for the length of the block."""
    entries = _ACTIVE.setdefault(model, [])
    entries.append(entry)
    try:
        yield
    finally:
        entries.remove(entry)


@contextmanager
def on_engine(model: Any, engine: str) -> Iterator[Any]:
    """The model that does the work, under the plans in force on ``model``.

    Raises:
        LensSteerError: an unknown engine, or hooks of the user's own, which the twin would not run.
    """
    check_engine(engine)
    if engine == "tl" or info_of(model).backend == "hf":
        yield model
        return
    plans = list(_ACTIVE.get(model, []))
    _check_unchanged(model, plans)
    twin = hf_twin(model)
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(plan.on(twin))
        yield twin


def _check_unchanged(model: Any, plans: list[Active]) -> None:
    """Refuse what the twin would not do: hooks of the user's own, a plan's hooks that were reset, edited weights that
    it does not share.
    """
    points = {
        id(point): point for point in model.hook_dict.values()
    }  # a TransformerBridge has several names for one point
    there = {id(handle) for point in points.values() for handle in point.fwd_hooks}
    ours = {id(handle) for plan in plans for handle in plan.handles}
    versions, plain = fingerprint(model)
    versions_loaded, plain_loaded = vars(model)["lens_fingerprint"]
    if there - ours or plain > plain_loaded + sum(len(plan.followers) for plan in plans):
        raise LensSteerError(
            "engine='hf' does not run hooks that were added to the model by hand: remove them, or use engine='tl'"
        )
    if ours - there:
        raise LensSteerError(
            "the hooks of the active plan were removed (reset_hooks?): leave its 'with' block, or use engine='tl'"
        )
    if versions != versions_loaded and info_of(model).backend == "hooked":
        raise LensSteerError(
            "weights of the model were replaced, moved or changed after loading, which its Hugging Face twin does "
            "not see: use engine='tl'"
        )


def check_engine(engine: str) -> None:
    """Refuse an unknown engine."""
    if engine not in ENGINES:
        raise LensSteerError(f"engine={engine!r}: use one of {', '.join(ENGINES)}")


def check_idle(model: Any) -> None:
    """Refuse a model that is being steered already.

    Raises:
        LensSteerError: with the plan's method.
    """
    for plan in _ACTIVE.get(model, []):
        raise LensSteerError(f"the plan {plan.method!r} is in force on the model: leave its 'with' block first")


def steered(model: Any) -> bool:
    """Whether a plan is in force on a model."""
    return bool(_ACTIVE.get(model))


def check_rows(model: Any, n: int) -> None:
    """Refuse to run ``n`` prompts under a plan with one value a prompt for another number of them.

    Raises:
        LensSteerError: with both numbers.
    """
    for plan in _ACTIVE.get(model, []):
        if plan.n_rows not in (None, n):
            raise LensSteerError(
                f"the plan {plan.method!r} has a value for each of {plan.n_rows} prompts, and {n} are given: give "
                "as many"
            )
