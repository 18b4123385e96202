"""Comparison of two next-token distributions over the whole vocabulary, slice by slice.

The logits of all positions never exist at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_steer.errors import LensSteerError
from lens_steer.inference.attach import standing_in
from lens_steer.models.loading import info_of
from lens_steer.models.logits import soft_cap
from lens_steer.operators.exact import exact, exact_device

MEASURES = ("kl", "kl_reverse", "entropy", "total_variation", "entropy_steered", "surprise", "surprise_steered")
SLICE = 8192  # The number of vocabulary entries in a slice.
MAX_NUMBERS = 2**20  # The maximal number of positions × slice entries at a time: 8 MiB in float64.


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The map from the states after the last norm to the logits.

    Attributes:
        weight: One row per vocabulary entry; a view of the model's weight.
        bias: One number per vocabulary entry; None if the model has no bias.
        scale: The number that the output of the weight is multiplied by before the cap.
        soft_cap: The cap c of ``c · tanh(logits / c)``, as in Gemma-2; None if the logits are not capped.
    """

    weight: Float[Tensor, "d_vocab d_model"]
    bias: Float[Tensor, " d_vocab"] | None = None
    soft_cap: float | None = None
    scale: float = 1.0

    @staticmethod
    def of(model: Any) -> Unembedding:
        """Return the unembedding of a model, on any backend.

        Raises:
            LensSteerError: If the model's logits are not those of a module, times a number, with a known cap.
        """
        if (scale := vars(model).get("lens_logit_scale", 1.0)) is None:
            raise LensSteerError(
                f"the logits of {info_of(model).architecture!r} are no multiple of what a module of it gives: "
                "divergence token by token needs that, see whole logits by response_logits"
            )
        head = unembedding_module(model)
        if info_of(model).backend == "hf":
            weight, bias, cap = head.weight, head.bias, soft_cap(model.config)
        else:
            weight, bias, cap = head.W_U.T, head.b_U, getattr(model.cfg, "output_logits_soft_cap", None)
        bias = None if bias is None else bias.detach()
        return Unembedding(weight.detach(), bias, cap if cap and cap > 0 else None, scale)

    def logits(self, states: Float[Tensor, "n d_model"], entries: slice) -> Float[Tensor, "n slice"]:
        """Return the logits of some vocabulary entries in float64.

        They are computed in the dtype of the model, as the model does, and then converted.

        >>> Unembedding(torch.eye(3), soft_cap=2.0).logits(torch.ones(1, 3), slice(1, 3))
        tensor([[0.9242, 0.9242]], dtype=torch.float64)
        """
        found = nn.functional.linear(states, self.weight[entries], None if self.bias is None else self.bias[entries])
        found = found if self.scale == 1 else found * self.scale
        capped = found if self.soft_cap is None else self.soft_cap * torch.tanh(found / self.soft_cap)
        return exact(capped)


def unembedding_module(model: Any) -> Any:
    """Return the module that unembeds."""
    return model.get_output_embeddings() if info_of(model).backend == "hf" else model.unembed


@contextmanager
def read_by_unembedding(model: Any) -> Iterator[list[Tensor]]:
    """Yield a list of the states that the unembedding receives in the forwards inside the ``with`` block.

    The unembedding returns these states unchanged, so no logits are computed there.
    """
    kept: list[Tensor] = []

    def keep(states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kept.append(states)
        return states

    with standing_in(unembedding_module(model), keep):
        yield kept


@torch.inference_mode()
def compare(
    p_states: Float[Tensor, "n d_model"],
    q_states: Float[Tensor, "n d_model"],
    ids: Int[Tensor, " n"],
    unembedding: Unembedding,
    *,
    slice_size: int = SLICE,
) -> Float[Tensor, "measures n"]:
    """Return the :data:`MEASURES` of two next-token distributions p and q, in nats and float64.

    p comes from unembedding the first states, q from unembedding the second:
    ``kl = Σ_v p(v) (log p(v) − log q(v))``, ``kl_reverse = Σ_v q(v) (log q(v) − log p(v))``, both set to 0 where
    rounding makes them negative, ``entropy = −Σ_v p(v) log p(v)``, ``total_variation = ½ Σ_v |p(v) − q(v)|``,
    ``entropy_steered = −Σ_v q(v) log q(v)``, ``surprise = −log p(id)``, ``surprise_steered = −log q(id)``.

    A first pass over the vocabulary computes the log-sum-exps, and a second pass computes the sums. Besides the result,
    no intermediate tensor has more than :data:`MAX_NUMBERS` numbers, or more than one row of a slice or of the states
    if a row is larger. A token of probability zero (a bias of −∞ suppresses it) adds nothing to the sums of that
    distribution; its surprise is infinite.

    Args:
        p_states, q_states: The inputs of the unembedding.
        ids: The ids of the tokens whose surprise is computed.
        unembedding: The unembedding of the model.
        slice_size: The number of vocabulary entries in a slice.

    Returns:
        One row per measure, one column per position.

    >>> bias, even = torch.log(torch.tensor([1.0, 3.0])), -torch.log(torch.tensor([[3.0]]))
    >>> one_and_three = Unembedding(torch.tensor([[0.0], [1.0]]), bias)  # ¼, ¾ where the state is 0
    >>> found = compare(even, torch.zeros(1, 1), torch.tensor([1]), one_and_three, slice_size=1)
    >>> found[:3, 0].tolist()  # ½ log(½/¼) + ½ log(½/¾), …, log 2
    [0.143841..., 0.130812..., 0.693147...]
    """
    widest = max(min(slice_size, len(unembedding.weight)), unembedding.weight.shape[1])
    at_once = max(1, MAX_NUMBERS // widest)
    parts = zip(p_states.split(at_once), q_states.split(at_once), ids.split(at_once), strict=True)
    return torch.cat([_compare(p, q, tokens, unembedding, slice_size) for p, q, tokens in parts], dim=1)


def _compare(
    p_states: Float[Tensor, "n d_model"],
    q_states: Float[Tensor, "n d_model"],
    ids: Int[Tensor, " n"],
    unembedding: Unembedding,
    size: int,
    *,
    zeros: bool = False,
) -> Float[Tensor, "measures n"]:
    """Return :func:`compare` of a few positions.

    ``zeros`` is True for distributions in which some token has probability zero. Such a distribution is detected by the
    NaN that it leaves in the result of a first run with ``zeros=False``.
    """
    weight = unembedding.weight
    exact = exact_device(weight.device)
    p_states, q_states, ids = p_states.to(weight.device), q_states.to(weight.device), ids.to(exact)
    slices = [slice(begin, min(begin + size, len(weight))) for begin in range(0, len(weight), size)]
    a = b = torch.empty(0)
    p_total = q_total = torch.full((len(ids),), -torch.inf, dtype=torch.float64, device=exact)
    for entries in slices:
        a, b = unembedding.logits(p_states, entries), unembedding.logits(q_states, entries)
        p_total, q_total = torch.logaddexp(p_total, a.logsumexp(dim=-1)), torch.logaddexp(q_total, b.logsumexp(dim=-1))
    found = torch.zeros(len(MEASURES), len(ids), dtype=torch.float64, device=exact)
    for entries in reversed(slices):
        if entries is not slices[-1]:  # The logits of the last slice are still there from the first pass.
            a, b = unembedding.logits(p_states, entries), unembedding.logits(q_states, entries)
        log_p, log_q = a - p_total[:, None], b - q_total[:, None]
        p, q, gap = log_p.exp(), log_q.exp(), log_p - log_q
        column = (ids - entries.start)[:, None]
        inside = (column >= 0) & (column < a.shape[1])
        known = column.clamp(0, a.shape[1] - 1)
        surprises = [torch.where(inside, -x.gather(1, known), 0)[:, 0] for x in (log_p, log_q)]
        sums = [
            _weighted(p, gap, zeros),
            -_weighted(q, gap, zeros),
            -_weighted(p, log_p, zeros),
            (p - q).abs().sum(dim=-1) / 2,
            -_weighted(q, log_q, zeros),
        ]
        found += torch.stack([*sums, *surprises])
    if not zeros and bool(found.isnan().any()):
        return _compare(p_states, q_states, ids, unembedding, size, zeros=True)
    found[:2].clamp_(min=0)
    return found


def _weighted(weights: Float[Tensor, "n slice"], values: Float[Tensor, "n slice"], zeros: bool) -> Float[Tensor, " n"]:
    """Return ``Σ_v w(v) x(v)``; with ``zeros``, terms of weight zero add nothing, also if x is infinite."""
    terms = weights * values
    return (terms.masked_fill(weights == 0, 0) if zeros else terms).sum(dim=-1)
