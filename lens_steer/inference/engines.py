"""Engines: the loaded model itself (``"tl"``) or its Hugging Face twin (``"hf"``), under the plans that are active.

A serving engine (``"vllm"``; see :mod:`lens_steer.inference.remote`) only answers. Everything that needs activations or
logits runs on the twin in its place.

:mod:`lens_steer.steer.hooks` registers the active plans here, so that generation and recording can apply the same plans
to the twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lens_steer._defaults import ENGINES, REMOTE
from lens_steer.errors import LensSteerError
from lens_steer.models.fingerprint import fingerprint
from lens_steer.models.loading import hf_twin, info_of


@dataclass(frozen=True, eq=False)
class Active:
    """A plan that is active on a model.

    Attributes:
        method: The method of the plan.
        handles: The handles of the hooks that the plan added at sites.
        followers: The handles of the hooks that the plan added to follow the forwards.
        n_rows: The number of prompts for which the plan holds values; None if one value serves all prompts.
        on: A function that activates the same plan on another model.
        plan: The plan itself, if an engine without hooks may carry it out in their place. None for functions that read
            activations, which only hooks can.
    """

    method: str
    handles: tuple[object, ...]
    followers: tuple[object, ...]
    n_rows: int | None
    on: Callable[[Any], AbstractContextManager[Any]]
    plan: Any = None


_ACTIVE: WeakKeyDictionary[nn.Module, list[Active]] = WeakKeyDictionary()


@contextmanager
def active(model: Any, entry: Active) -> Iterator[None]:
    """Register a plan as active on a model for the length of the ``with`` block."""
    entries = _ACTIVE.setdefault(model, [])
    entries.append(entry)
    try:
        yield
    finally:
        entries.remove(entry)


@contextmanager
def on_engine(model: Any, engine: str) -> Iterator[Any]:
    """Yield the model that runs, under the plans that are active on ``model``.

    Raises:
        LensSteerError: If the engine is unknown, or if the twin would not do what the model does: the user added hooks
            to the model, the hooks of an active plan were removed, or weights of a HookedTransformer were replaced,
            moved or changed where the twin does not see it.
    """
    check_engine(engine)
    if engine == "tl" or info_of(model).backend == "hf":
        yield model
        return
    plans = active_plans(model)
    twin = hf_twin(model)
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(plan.on(twin))
        yield twin


def active_on(model: Any) -> Sequence[Active]:
    """Return what is active on the model that runs, in the order in which it acts."""
    return tuple(_ACTIVE.get(model, ()))


def active_plans(model: Any) -> list[Active]:
    """Return the plans that are active on a model, which another engine is to carry out.

    Raises:
        LensSteerError: If the model does something else that the other engine would not do; see :func:`on_engine`.
    """
    plans = list(active_on(model))
    if info_of(model).backend != "hf":
        _check_unchanged(model, plans)
    return plans


def _check_unchanged(model: Any, plans: list[Active]) -> None:
    """Refuse a model from which the twin would differ.

    The twin runs no hooks of the user. It differs if the hooks of a plan were reset, or if the user edited weights that
    the twin does not share.
    """
    # Hook points are compared by identity, because a TransformerBridge has several names for one point.
    points = {id(point): point for point in model.hook_dict.values()}
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


def check_engine(engine: str, *, answers: bool = True) -> None:
    """Refuse an unknown engine.

    Args:
        engine: The name of the engine.
        answers: If False, nothing is generated, so an engine that only answers is refused.

    Raises:
        LensSteerError: If the engine is unknown, or has nothing to do.
    """
    known = [name for name in ENGINES if answers or name not in REMOTE]
    if engine not in known:
        why = " only answers, and nothing is generated here" if engine in REMOTE else ""
        raise LensSteerError(f"engine={engine!r}{why}: use one of {', '.join(known)}")


def check_idle(model: Any) -> None:
    """Refuse a model on which a plan is active.

    Raises:
        LensSteerError: If a plan is active; the message names its method.
    """
    for plan in active_on(model):
        raise LensSteerError(f"the plan {plan.method!r} is in force on the model: leave its 'with' block first")


def steered(model: Any) -> bool:
    """Return True if a plan is active on a model."""
    return bool(active_on(model))


def check_rows(model: Any, n: int) -> None:
    """Refuse to run ``n`` prompts under a plan that holds one value per prompt for another number of prompts.

    Raises:
        LensSteerError: If the numbers differ; the message names both.
    """
    for plan in active_on(model):
        if plan.n_rows not in (None, n):
            raise LensSteerError(
                f"the plan {plan.method!r} has a value for each of {plan.n_rows} prompts, and {n} are given: give "
                "as many"
            )
