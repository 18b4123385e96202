"""Per-token divergence between the original and the steered model on fixed responses.

Both forward passes stop at the input of the unembedding, and :mod:`lens_steer.inference.unembedding` compares the two
distributions slice by slice. The blocks before the first steered one are the same in both passes and run once. No keys
or values are carried from one pass to the other.

Index of the logits: the logits for the response's token at position ``t`` (from 0) are those at the token before it;
for position 0 that is the prompt's last token. A plan that steers ``generated`` alone therefore leaves position 0
unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer._display import Shown
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.clock import steers
from lens_steer.inference.engines import check_idle, check_rows, on_engine
from lens_steer.inference.forward import batches_of, last_logits
from lens_steer.inference.teacher_forcing import with_responses
from lens_steer.inference.unembedding import MEASURES, SLICE, Unembedding, compare, read_by_unembedding
from lens_steer.models import sites
from lens_steer.models.loading import info_of
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import bootstrap_means
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan
from lens_steer.steer.value_sweep import from_block, kept_input

log = logging.getLogger(__name__)

NOTHING_MOVED = 1e-6  # nats; divergences below it at every token are rounding errors


@dataclass(frozen=True, eq=False)
class TokenDivergence(Shown, view="tokens"):
    """Divergences between unsteered and steered next-token distributions, in nats, sorted by row and position.

    There is one entry per token of every response. Below, p is the distribution of the original model and q that of the
    steered one, over the whole vocabulary, given the prompt and the response up to the token.

    Attributes:
        row: The index of the prompt.
        position: The position of the token in its response, from 0.
        token, token_id: The response's token at this position.
        kl: ``Σ_v p(v) (log p(v) − log q(v))``. Values below 0, which rounding can cause, are set to 0.
        kl_reverse: ``Σ_v q(v) (log q(v) − log p(v))``, likewise.
        entropy, entropy_steered: ``−Σ_v p(v) log p(v)``, and the same for q.
        total_variation: ``½ Σ_v |p(v) − q(v)|``, from 0 to 1, without a unit.
        surprise, surprise_steered: ``−log p`` and ``−log q`` of the response's token.
        n_prompts: The number of prompts.
        n_empty: The number of prompts whose response has no token, and which therefore have no entry.
    """

    row: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    token: tuple[str, ...] = field(repr=False)
    token_id: Int[np.ndarray, " n"]
    kl: Float[np.ndarray, " n"]
    kl_reverse: Float[np.ndarray, " n"]
    entropy: Float[np.ndarray, " n"]
    total_variation: Float[np.ndarray, " n"]
    entropy_steered: Float[np.ndarray, " n"]
    surprise: Float[np.ndarray, " n"]
    surprise_steered: Float[np.ndarray, " n"]
    n_prompts: int
    n_empty: int

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        return (
            f"TokenDivergence({self.n_prompts} prompts, {self.n_empty} of them empty, {len(self)} tokens, mean KL "
            f"{self.kl.mean():.4g})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per token with ``row``, ``position``, ``token``, the measures and ``token_id``."""
        names = ("row", "position", "token", *MEASURES, "token_id")
        columns = [c.tolist() if isinstance(c := getattr(self, name), np.ndarray) else c for name in names]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def per_prompt(self, measure: str = "kl") -> Float[np.ndarray, " n_prompts"]:
        """Return the mean of a measure over each response's tokens; NaN for an empty response.

        Raises:
            LensSteerError: If the measure is unknown.
        """
        values = self._of(measure)
        counts = np.bincount(self.row, minlength=self.n_prompts)
        sums = np.bincount(self.row, weights=values, minlength=self.n_prompts)
        return np.divide(sums, counts, out=np.full(self.n_prompts, np.nan), where=counts > 0)

    def by_position(
        self, measure: str = "kl", *, seed: int = 0, max_position: int | None = None, resamples: int = 2000
    ) -> tuple[Estimate, ...]:
        """Return the mean of a measure at positions 0, 1, …, each with a 95 % bootstrap interval.

        The mean at a position is over the prompts whose response has a token there; their number is ``n`` of the
        estimate. The bootstrap resamples prompts.

        Args:
            measure: One of :data:`lens_steer.inference.unembedding.MEASURES`.
            seed: The seed of the bootstrap. The same draws are used for every measure.
            max_position: The last position. None stands for the last position of the longest response.
            resamples: The number of bootstrap resamples.

        Raises:
            LensSteerError: If the measure is unknown or infinite at some token, or if ``max_position`` is negative.
        """
        values = self._of(measure)
        if impossible := int(np.isinf(values).sum()):
            raise LensSteerError(
                f"measure={measure!r} is infinite at {impossible} tokens, which have no probability at all: leave "
                "their responses out, or use another measure"
            )
        check_max_position(max_position)
        last = int(self.position.max()) if max_position is None else min(max_position, int(self.position.max()))
        table = np.full((self.n_prompts, last + 1), np.nan)
        kept = self.position <= last
        table[self.row[kept], self.position[kept]] = values[kept]
        n = np.isfinite(table).sum(axis=0)
        found: list[Estimate] = []
        # Positions with equal counts are reached by the same responses, so that one bootstrap serves all of them.
        for count in sorted(set(n.tolist()), reverse=True):
            columns = table[:, n == count]
            columns = columns[np.isfinite(columns[:, 0])]
            means = (v.tolist() for v in bootstrap_means(columns, resamples=resamples, seed=seed))
            found += [Estimate(*values, n=count) for values in zip(*means, strict=True)]
        return tuple(found)

    def _of(self, measure: str) -> Float[np.ndarray, " n"]:
        if measure not in MEASURES:
            raise LensSteerError(f"measure={measure!r}: use one of {', '.join(MEASURES)}")
        return getattr(self, measure)


def check_max_position(max_position: int | None) -> None:
    """Refuse a negative last position.

    Raises:
        LensSteerError: If ``max_position`` is negative.
    """
    if max_position is not None and max_position < 0:
        raise LensSteerError(f"max_position={max_position}: the first position is 0, so 0 or more is needed")


def token_divergence(
    model: Any,
    plan: SteeringPlan,
    prompts: PromptSet | Sequence[Prompt] | Sequence[str],
    responses: Sequence[str],
    *,
    engine: str = ENGINE,
    batch_size: int = 64,
    slice_size: int = SLICE,
    progress: bool = False,
) -> TokenDivergence:
    """Compare the steered with the original model at every token of fixed responses, by teacher forcing.

    The logits are those of the model, in its dtype and with its bias and soft cap. Log-softmax and sums are computed in
    float64.

    Args:
        model: A model of :func:`lens_steer.load_model`, with no plan in force.
        plan: What to steer, and at which positions. The tokens of a response count as generated.
        prompts: One prompt per response.
        responses: One response per prompt. Each is tokenised on its own, without the end token. An empty response is
            left out and counted.
        engine: See :func:`lens_steer.generate`.
        batch_size: The largest number of prompts in a batch.
        slice_size: The number of rows that are unembedded at a time.
        progress: True shows a progress bar.

    Raises:
        LensSteerError: If the numbers of prompts and responses differ, if all responses are empty, if a plan is already
            in force, if the plan does not fit the model or has values for another number of prompts, if a prompt is too
            long, if a size is below 1, or if the distributions are not finite.

    Source: Steering Externalities (arXiv 2602.04896), divergence by response position. The paper does not state the
    direction of the KL divergence, so both are computed.

    >>> import lens_steer as ls
    >>> model, contrast = ls.load_model("organism/qwen2"), ls.load_contrast("organism/refusal")
    >>> plan = ls.selective_steering(ls.calibrate(ls.record(model, contrast, progress=False)), 150)
    >>> found = token_divergence(model, plan, contrast.report.positive[:2], ["Sure.", "I cannot do that."])
    >>> found.row.tolist()[:2], bool(found.kl.min() >= 0), bool((found.total_variation <= 1).all())
    ([0, 0], True, True)
    """
    forced = with_responses(prompts, responses)
    for name, size in (("batch_size", batch_size), ("slice_size", slice_size)):
        if size < 1:
            raise LensSteerError(f"{name}={size}: at least 1 is needed")
    if not any(responses):
        raise LensSteerError(f"all {len(responses)} responses are empty: at least one with a token is needed")
    check_idle(model)
    info = info_of(model)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    lengths: dict[int, int] = {}
    steered_any = False
    with (
        on_engine(model, engine) as runner,
        tqdm(total=len(forced), desc="divergence", unit="prompt", disable=not progress, leave=False) as bar,
    ):
        with steering(runner, plan):  # refuses a plan that does not fit the model or the prompts, before any batch runs
            check_rows(runner, len(forced))
            unembedding = Unembedding.of(runner)
        for batch in batches_of(model, forced, with_response=True, max_rows=batch_size):
            lengths |= zip(batch.rows, batch.response_lengths, strict=True)
            if any(batch.response_lengths):
                moved = steers(runner, plan.positions, batch)
                steered_any |= moved
                parts.append(_of_batch(runner, batch, plan if moved else None, unembedding, slice_size))
            bar.update(len(batch.rows))
    if not parts:
        raise LensSteerError(
            f"all {len(responses)} responses are empty once tokenised: at least one with a token is needed"
        )
    if not steered_any:
        log.warning("the plan %r steered no token: nothing stood at the positions %r", plan.method, plan.positions)
    elif all(float(values[:2].max()) < NOTHING_MOVED for *_, values in parts):
        log.warning(
            "the plan %r moved nothing: both divergences are below %g nats at every token", plan.method, NOTHING_MOVED
        )
    row, position, ids, values = (torch.cat(part, dim=-1).numpy() for part in zip(*parts, strict=True))
    order = np.lexsort((position, row))
    row, position, ids, values = row[order], position[order], ids[order], values[:, order]
    sound = np.isfinite(values) | (
        np.isposinf(values) & np.array([name.startswith("surprise") for name in MEASURES])[:, None]
    )
    if not sound.all():
        bad = int(np.argmin(sound.all(axis=0)))
        raise LensSteerError(
            f"the distributions at response {row[bad]}, position {position[bad]} are not finite: steer less "
            "strongly, or load the model in float32 or bfloat16"
        )
    if impossible := int(np.isinf(values).any(axis=0).sum()):
        log.warning(
            "%d of %d response tokens have no probability at all (suppressed: a logit of −∞): their surprise is "
            "infinite",
            impossible,
            len(row),
        )
    texts = {int(i): info.tokenizer.decode([int(i)]) for i in np.unique(ids)}
    return TokenDivergence(
        row=row,
        position=position,
        token=tuple(texts[int(i)] for i in ids),
        token_id=ids,
        **dict(zip(MEASURES, values, strict=True)),
        n_prompts=len(forced),
        n_empty=sum(n == 0 for n in lengths.values()),
    )


def _of_batch(
    runner: Any, batch: batching.Batch, plan: SteeringPlan | None, unembedding: Unembedding, slice_size: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "measures n"]]:
    """Return the rows, positions, token ids and measures of the response tokens of a batch.

    If the plan is None, the steered pass equals the original one and is not run.
    """
    keep = max(batch.response_lengths) + 1
    first = min(sites.blocks_of(plan.sites)) if plan else 0
    # The original pass keeps the input of the first steered block, and the steered pass begins there.
    with read_by_unembedding(runner) as read, kept_input(runner, first) as kept:
        last_logits(runner, batch, keep)
    if plan:
        with (
            steering(runner, plan, tell=False),
            from_block(runner, first, kept[0]),
            read_by_unembedding(runner) as read_steered,
        ):
            last_logits(runner, batch, keep)
    else:
        read_steered = read
    wanted = [(i, n) for i, n in enumerate(batch.response_lengths) if n]
    # The n tokens of a response end its row; the state at the token before each of them gives its logits.
    p, q = (torch.cat([states[0][i, -n - 1 : -1] for i, n in wanted]) for states in (read, read_steered))
    ids = torch.cat([batch.ids[i, -n:] for i, n in wanted])
    row = torch.tensor([batch.rows[i] for i, n in wanted for _ in range(n)])
    position = torch.tensor([t for _, n in wanted for t in range(n)])
    return row, position, ids.cpu(), compare(p, q, ids, unembedding, slice_size=slice_size).cpu()
