"""Plans as adapters of a serving engine: which plans it can carry out, and a bank of those that were written for it.

An adapter of a serving engine changes the linear layers of the blocks alone: no embedding, no unembedding, and no
constants. So a step folds there only at the norms before attention and MLP or, if no norm stands behind them, at their
outputs, and only if it is linear.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lens_steer._defaults import ENGINE, REMOTE
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.adapters import peft, write_adapter
from lens_steer.interop.exports.affine import affine_map, not_affine
from lens_steer.interop.exports.folding import Factor, fold
from lens_steer.interop.exports.layers import READERS, WRITERS
from lens_steer.models import sites
from lens_steer.models.loading import hf_twin, info_of
from lens_steer.steer.plans import SteeringPlan

NOTHING = "model.layers.0.self_attn.q_proj"  # the layer of the adapter that does nothing
SERVED = (*READERS, *WRITERS)  # the kinds of sites whose layers an adapter reaches


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk.

    Attributes:
        number: Its number in the bank, from 1 on.
        name: Its name.
        folder: Its folder, in PEFT's format.
    """

    number: int
    name: str
    folder: Path


def not_served(plan: SteeringPlan) -> str | None:
    """Return the reason why no adapter of a serving engine can carry out a plan; None if nothing speaks against it.

    The plan alone is read, no model. What depends on the weights is refused later, when the plan is folded.

    >>> import lens_steer as ls
    >>> calibration = ls.load_calibration("figures/calibration")
    >>> not_served(ls.selective_steering(calibration, 150)) is None
    True
    >>> not_served(ls.standard_angular(calibration, 150))
    'puts every token on one ray: the length of its in-plane part is not linear in it'
    """
    if plan.positions != "all":
        return f"acts at the positions {plan.positions!r} only, and an adapter acts on every token"
    for step in plan.steps:
        single = step.at_row(0)
        if (reason := not_affine(single.operator, single.parameters)) is not None:
            return reason
        kinds = {sites.parse(name).kind for name in step.sites}
        if other := sorted(kinds - set(SERVED)):
            return f"acts at {', '.join(other)}, and adapters of the engine reach the linear layers of the blocks alone"
        if affine_map(single.operator, single.parameters).shifts:
            return "adds a constant, and adapters of the engine hold none"
    return None


def engine_for(plan: SteeringPlan | None, engine: str) -> str:
    """Return the engine that runs a plan where engines may be mixed: ``hf`` in place of one that cannot carry it out.

    >>> import lens_steer as ls
    >>> calibration = ls.load_calibration("figures/calibration")
    >>> engine_for(ls.selective_steering(calibration, 150), "vllm")
    'vllm'
    >>> engine_for(ls.standard_angular(calibration, 150), "vllm"), engine_for(None, "tl")
    ('hf', 'tl')
    """
    return ENGINE if engine in REMOTE and plan is not None and not_served(plan) is not None else engine


def check_served(plan: SteeringPlan, engine: str) -> None:
    """Refuse a plan that a serving engine cannot carry out.

    Raises:
        LensSteerError: If it cannot; the message names the method, the reason and the engine that can.

    >>> import lens_steer as ls
    >>> check_served(ls.selective_steering(ls.load_calibration("figures/calibration"), 150), "vllm")
    """
    if (reason := not_served(plan)) is not None:
        raise LensSteerError(
            f"engine={engine!r} cannot carry out the plan {plan.method!r}, which {reason}: use engine='hf'"
        )


def together(plans: Sequence[SteeringPlan]) -> SteeringPlan | None:
    """Return plans that are in force together as one plan, in their order; None without a plan.

    >>> import lens_steer as ls
    >>> plan = ls.selective_steering(ls.load_calibration("figures/calibration"), 150)
    >>> len(together([plan, plan]).steps), together([])
    (2, None)
    """
    if len(plans) < 2:
        return plans[0] if plans else None
    method = " and ".join(plan.method for plan in plans)
    return replace(plans[0], method=method, steps=tuple(step for plan in plans for step in plan.steps))


class AdapterBank:
    """The adapters that were written for one engine, in a folder that is deleted with the bank.

    Args:
        model: The model that the plans steer.
        engine: The name of the engine, for messages.
        greatest_rank: The greatest rank that the engine takes.

    Raises:
        LensSteerError: If PEFT is not installed.
    """

    def __init__(self, model: Any, engine: str, greatest_rank: int) -> None:
        peft()
        self._model, self._engine, self._greatest_rank = model, engine, greatest_rank
        self._folder = tempfile.TemporaryDirectory(prefix="lens-steer-adapters-")
        self._adapters: dict[str, Adapter] = {}

    def of(self, plan: SteeringPlan) -> Adapter:
        """Return the adapter of a plan, which is folded and written when it is first asked for.

        Raises:
            LensSteerError: If the plan does not fold, or if its rank is greater than the engine takes.
        """
        key = plan.digest
        if key not in self._adapters:
            check_served(plan, self._engine)
            folded = fold(plan, self._model, into="lora")
            biased = next((m for m, factor in folded.factors.items() if factor.bias is not None), None)
            if biased is not None:
                raise LensSteerError(
                    f"engine={self._engine!r} cannot carry out the plan {plan.method!r}, which adds a constant to the "
                    f"output of {biased}: use engine='hf'"
                )
            rank = max(len(factor.a) for factor in folded.factors.values())
            if rank > self._greatest_rank:
                raise LensSteerError(
                    f"the plan {plan.method!r} is an adapter of rank {rank}, and the engine takes "
                    f"{self._greatest_rank}: start it with max_rank={rank}, or use engine='hf'"
                )
            self._add(key, folded.factors)
        return self._adapters[key]

    def nothing(self) -> Adapter:
        """Return an adapter of zeros, under which the model is unsteered."""
        if NOTHING not in self._adapters:
            layer: Any = hf_twin(self._model).get_submodule(NOTHING)
            a, b = (1, layer.in_features), (layer.out_features, 1)
            zeros = (torch.zeros(shape, dtype=torch.float64) for shape in (a, b))
            self._add(NOTHING, {NOTHING: Factor(NOTHING, *zeros)})
        return self._adapters[NOTHING]

    def _add(self, key: str, factors: Mapping[str, Factor]) -> None:
        number = len(self._adapters) + 1
        name = f"{number:04}"
        path = Path(self._folder.name) / name
        write_adapter(path, factors, info_of(self._model).folder)
        self._adapters[key] = Adapter(number, name, path)

    def close(self) -> None:
        """Delete the adapters."""
        self._folder.cleanup()
        self._adapters.clear()
