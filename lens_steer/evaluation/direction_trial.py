"""What one candidate direction does: three numbers from the logits of the first token of the answer.

The prompts are tokenised once, and logits are computed at the last position only. For an addition at the input of block
ℓ, the blocks before ℓ are the same as without steering, so they run once for all candidates of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.geometry.selected_direction import CandidateScore, StreamDirection
from lens_steer.inference.batching import Batch
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of, forward, last_logits, read_sites
from lens_steer.inference.teacher_forcing import first_logits_by_batch
from lens_steer.metrics.kl import kl
from lens_steer.metrics.refusal_score import refusal_score
from lens_steer.models import sites
from lens_steer.models.fits import reference
from lens_steer.models.loading import info_of
from lens_steer.steer.hooks import steering
from lens_steer.steer.methods import act_add, directional_ablation
from lens_steer.steer.plans import SteeringPlan
from lens_steer.steer.value_sweep import from_block


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """Prompts of both classes, tokenised, with what the unsteered model says to them; use :func:`trial`.

    Attributes:
        model: The model.
        engine: The engine that runs it.
        tokens: The ids of the tokens with which refusals begin.
        n_positive: The number of positive prompts; they are the first rows of ``both``.
        both: The batches of both classes.
        negative: The batches of the negative class alone.
        plain: The unsteered logits of the first token of the answer, one tensor for each batch of ``both``.
        baseline_refusal_score: The unsteered mean refusal score of the positive prompts.
        baseline_induce_score: The unsteered mean refusal score of the negative prompts.
    """

    model: Any
    engine: str
    tokens: tuple[int, ...]
    n_positive: int
    both: tuple[Batch, ...]
    negative: tuple[Batch, ...]
    plain: tuple[Float[Tensor, "batch d_vocab"], ...]
    baseline_refusal_score: float
    baseline_induce_score: float

    def score(
        self, candidate: StreamDirection, streams: Sequence[Float[Tensor, "batch pos d_model"]]
    ) -> CandidateScore:
        """Return the scores of a candidate.

        Those of a candidate of length zero are NaN: there is no direction.

        Args:
            candidate: The candidate.
            streams: The unsteered inputs of its block; see :meth:`inputs`.
        """
        place = (candidate.position, candidate.block)
        if not bool(candidate.direction.any()):
            return CandidateScore(*place, nan, nan, nan)
        refusal, divergence = self.ablated(candidate)
        return CandidateScore(*place, refusal, self.induced(candidate, streams), divergence)

    def ablated(self, candidate: StreamDirection) -> tuple[float, float]:
        """Return the mean refusal score of the positive prompts and the mean divergence of the negative ones.

        Both are under ablation of the unit direction at the input of every block and at the output of every attention
        and every MLP, at all positions.
        """
        logits = self._run(self.both, directional_ablation(candidate, everywhere=True))
        rows = [row for batch in self.both for row in batch.rows]
        scores = torch.cat([refusal_score(x, self.tokens) for x in logits])
        # the divergence is computed for negative rows alone: over a large vocabulary it is the dearer half
        found = [
            kl(p[keep], q[keep])
            for p, q, keep in zip(self.plain, logits, map(self._is_negative, self.both), strict=True)
        ]
        positive = torch.tensor([row < self.n_positive for row in rows], device=scores.device)
        return float(scores[positive].mean()), float(torch.cat(found).mean())

    def induced(self, candidate: StreamDirection, streams: Sequence[Float[Tensor, "batch pos d_model"]]) -> float:
        """Return the mean refusal score of the negative prompts with the raw direction added at its block's input."""
        logits = self._run(self.negative, act_add(candidate), first=candidate.block, streams=streams)
        return float(torch.cat([refusal_score(x, self.tokens) for x in logits]).mean())

    def inputs(self, block: int) -> list[Float[Tensor, "batch pos d_model"]]:
        """Return the unsteered input of a block for the negative prompts, batch by batch."""
        kept: list[Tensor] = []
        site = sites.Site(block, "resid_pre").name
        with on_engine(self.model, self.engine) as runner:
            for batch in self.negative:
                forward(runner, batch, {site: partial(_keep, kept=kept)})
        return kept

    def _run(
        self,
        batches: Sequence[Batch],
        plan: SteeringPlan | None,
        *,
        first: int = 0,
        streams: Sequence[Tensor] | None = None,
    ) -> list[Float[Tensor, "batch d_vocab"]]:
        """Return the logits of the first token of the answer under a plan, batch by batch.

        With ``streams`` the blocks before ``first`` are not run: they are given the stream that the first block reads.
        """
        found = []
        with on_engine(self.model, self.engine) as runner:
            steered: AbstractContextManager[Any] = nullcontext() if plan is None else steering(runner, plan, tell=False)
            with steered:
                for i, batch in enumerate(batches):
                    with nullcontext() if streams is None else from_block(runner, first, streams[i]):
                        found.append(last_logits(runner, batch, 1)[:, -1].float())
        return found

    def _is_negative(self, batch: Batch) -> Tensor:
        return torch.tensor([row >= self.n_positive for row in batch.rows], device=batch.ids.device)


def trial(model: Any, select: Contrast, tokens: Sequence[int], *, engine: str) -> Trial:
    """Tokenise the select prompts of both classes and run the unsteered model on them.

    Args:
        model: A model from :func:`lens_steer.load_model`, with no plan in force.
        select: The prompts, at least one of each class.
        tokens: The ids of the tokens with which refusals begin.
        engine: See :func:`lens_steer.generate`.
    """
    n = len(select.positive)
    batches = tuple(batches_of(model, [*select.positive, *select.negative]))
    made = Trial(
        model=model,
        engine=engine,
        tokens=tuple(tokens),
        n_positive=n,
        both=batches,
        negative=tuple(batches_of(model, list(select.negative))),
        plain=(),
        baseline_refusal_score=nan,
        baseline_induce_score=nan,
    )
    plain = made._run(batches, None)
    rows = torch.tensor([row for batch in batches for row in batch.rows])
    scores = torch.cat([refusal_score(x, made.tokens).cpu() for x in plain])
    return Trial(
        **vars(made)
        | {
            "plain": tuple(plain),
            "baseline_refusal_score": float(scores[rows < n].mean()),
            "baseline_induce_score": float(scores[rows >= n].mean()),
        }
    )


def mean_differences(
    model: Any, fit: Contrast, n_positions: int, *, engine: str, bar: Any = None
) -> Float[Tensor, "n_positions n_layers d_model"]:
    """Return the difference of the class means at the input of every block, at the last tokens of the prompts.

    The means are taken in float64.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        fit: The prompts, at least one of each class.
        n_positions: The number of tokens, counted from the end. The last row is that of the last token.
        engine: See :func:`lens_steer.record`.
        bar: A progress bar, which is advanced by the prompts of each batch. None: no bar.

    Raises:
        LensSteerError: If an activation is not finite.
    """
    info = info_of(model)
    names = sites.resolve("resid_pre", info.layout)
    means = []
    for side in (fit.positive, fit.negative):
        sums = torch.zeros(len(names), n_positions, info.d_model, dtype=torch.float64)
        readers = {name: partial(_add, sums=sums[k]) for k, name in enumerate(names)}
        read_sites(model, side, lambda batch, readers=readers: readers, engine=engine, bar=bar)
        if not bool(torch.isfinite(sums).all()):
            raise LensSteerError(
                f"activations of {side.name!r} are not finite: load the model in float32 or bfloat16, and check its "
                "weights"
            )
        means.append(sums / len(side))
    return (means[0] - means[1]).transpose(0, 1).contiguous()


def candidate_of(model: Any, direction: Float[Tensor, " d_model"], position: int, block: int) -> StreamDirection:
    """Return a candidate of a model, its direction in float32."""
    return StreamDirection(**reference(info_of(model)), direction=direction.float(), block=block, position=position)


def refusal_scores(
    model: Any, prompts: PromptSet, tokens: Sequence[int], *, engine: str
) -> Float[Tensor, " n_prompts"]:
    """Return the unsteered refusal score of every prompt, in float64 on the CPU."""
    found = torch.empty(len(prompts), dtype=torch.float64)
    for rows, logits in first_logits_by_batch(model, prompts, engine=engine):
        found[list(rows)] = refusal_score(logits, tokens).cpu()
    return found


def _keep(stream: Float[Tensor, "batch pos d_model"], hook: Any = None, *, kept: list[Tensor]) -> None:
    kept.append(stream.detach())


def _add(
    stream: Float[Tensor, "batch pos d_model"], hook: Any = None, *, sums: Float[Tensor, "n_positions d_model"]
) -> None:
    """Add the last tokens of a batch to the sums; this is the forward hook."""
    sums += stream[:, -len(sums) :].cpu().double().sum(dim=0)
