"""The prompts on which every setting of a sweep is measured, and how it is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from lens_steer._defaults import ENGINE, REMOTE
from lens_steer.data import Contrast, PromptSet
from lens_steer.evaluation.grids import Grid
from lens_steer.inference.prompt_cache import PromptCache
from lens_steer.interop.serving.adapters import check_served, engine_for
from lens_steer.metrics.degenerate import PerplexityBound
from lens_steer.metrics.judges import Judge
from lens_steer.models.info import UNLOADED
from lens_steer.models.loading import info_of
from lens_steer.models.templates import ChatTemplate

SIDES = POSITIVE, NEGATIVE, CAPABILITY = "positive", "negative", "capability"
READERS = ("ref", "self")


@dataclass(frozen=True)
class Protocol:
    """The prompts on which every setting is measured, and how it is measured.

    Attributes:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The prompts of one split.
        split: The name of the split.
        tasks: The capability tasks with a ground truth; may be empty.
        engine, max_new_tokens, max_thought_tokens: See :func:`lens_steer.generate`.
        openings: The openings of refusals; see :func:`lens_steer.metrics.refusal_score.refusal_tokens`.
        judge: The judge that grades answers in place of ground truth or phrases; None for no judge. An answer without a
            verdict is incoherent. Without a ground truth, only answers that are not degenerate are judged, without
            their thoughts.
        judged: The verdict (harmful or not) that counts as right, by side; by default a harmful answer counts as right
            for harmful prompts.
        reference: The prompts under which the unsteered model's surprise at an answer is measured instead of the side's
            own prompts, by side, one for each of its prompts.
        asked: The sides that are measured; those without prompts are left out.
        read_by: The models that read each answer again: ``ref``, the unsteered one, for ``surprise_ref``; ``self``, the
            steered one, for ``surprise_self`` and ``refusal_score``. Columns of a model that reads nothing are empty.
        cached: Whether the unsteered model reads each prompt once and keeps its keys and values for all answers to it.
            This is faster, and changes ``surprise_ref`` by rounding; it has no effect on engines other than ``hf``.
        mixed: Whether settings that a serving engine cannot carry out run on ``hf``; otherwise they are refused.
        bound: The perplexity under the unsteered model above which an answer without a ground truth is degenerate, from
            :func:`lens_steer.evaluation.bounds.measured_bound`. None decides from the text alone.
    """

    model: Any
    contrast: Contrast
    split: str
    tasks: PromptSet
    engine: str = ENGINE
    max_new_tokens: int = 48
    openings: tuple[str, ...] | None = None
    judge: Judge | None = None
    judged: Mapping[str, bool] = field(default_factory=lambda: {POSITIVE: True})
    reference: Mapping[str, PromptSet] = field(default_factory=dict)
    asked: tuple[str, ...] = SIDES
    read_by: tuple[str, ...] = READERS
    cached: bool = False
    mixed: bool = False
    bound: PerplexityBound | None = None
    max_thought_tokens: int | None = None

    @property
    def sides(self) -> dict[str, PromptSet]:
        """Return the prompts of the sides that are asked; a side without prompts is left out."""
        found = dict(zip(SIDES, (self.contrast.positive, self.contrast.negative, self.tasks), strict=True))
        return {name: prompts for name, prompts in found.items() if name in self.asked and len(prompts)}

    @cached_property
    def prompt_cache(self) -> PromptCache | None:
        """Return the prompts that the unsteered model has read; None where they are not kept."""
        return PromptCache(self.model) if self.cached and self.engine == "hf" else None

    def engine_of(self, grid: Grid) -> str:
        """Return the engine that answers under a grid.

        Raises:
            LensSteerError: If the engine is a serving engine that cannot carry out the grid's plan, and engines are not
                mixed; the message names the method, the reason and the engine that can.
        """
        if self.engine not in REMOTE:
            return self.engine
        own = None if grid.build is None else grid.build(grid.values[0])
        plans = [plan for plan in (own, grid.beside) if plan is not None]
        if self.mixed:
            return ENGINE if any(engine_for(plan, self.engine) == ENGINE for plan in plans) else self.engine
        for plan in plans:
            check_served(plan, self.engine)
        return self.engine

    @property
    def identity(self) -> dict[str, Any]:
        """Return everything on which the rows depend, except the grids.

        For the description of a model, which has no weights, what only the loaded model tells is left out.
        """
        info = info_of(self.model)
        loaded = (
            {}
            if info.backend == UNLOADED
            else {"weights": _weights_hash(self.model), "backend": info.backend, "dtype": str(info.dtype)}
        )
        return {
            "model": info.name,
            **loaded,
            "chat_template": _hash(info.tokenizer.chat_template),
            **_applied(info.template),
            "split": self.split,
            "engine": self.engine,
            "max_new_tokens": self.max_new_tokens,
            "openings": self.openings,
            "prompts": {name: p.hash for name, p in self.sides.items()},
            "truth": {name: _hash([p.truth for p in prompts]) for name, prompts in self.sides.items()},
            **({} if self.judge is None else {"judge": [self.judge.name, dict(self.judged), *_pattern(self.judge)]}),
            **({} if not self.reference else {"reference": {name: p.hash for name, p in self.reference.items()}}),
            **({} if self.read_by == READERS else {"read_by": self.read_by}),
            **({"cached": True} if self.cached else {}),
            **({} if self.bound is None else {"degenerate_above": self.bound.value}),
            **({} if self.max_thought_tokens is None else {"max_thought_tokens": self.max_thought_tokens}),
        }


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _pattern(judge: Judge) -> list[str]:
    """Return the pattern of a judge that has one: another pattern under the same name is another judge."""
    found = getattr(judge, "safe_pattern", None)
    return [] if found is None else [str(found)]


def _applied(template: ChatTemplate) -> dict[str, Any]:
    """Return the arguments and the date with which a chat template is applied, if there are any.

    The entries are left out otherwise, so that a sweep without them can resume the files of an earlier release.
    """
    return (
        {"template_args": dict(template.args), "template_date": template.date} if template.args or template.date else {}
    )


def _weights_hash(model: Any) -> str:
    """Return a hash of the beginning of every parameter.

    It is enough to tell apart two checkpoints of one name.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        # Entries are read by index: flattening a parameter that is a transposed view would copy all of it.
        first = torch.unravel_index(torch.arange(min(16, parameter.numel())), parameter.shape)
        digest.update(name.encode() + parameter.detach()[first].double().cpu().numpy().tobytes())
    return digest.hexdigest()
