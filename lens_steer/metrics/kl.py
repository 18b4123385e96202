"""Kullback–Leibler divergence between unsteered and steered next-token distributions, under teacher forcing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.inference.teacher_forcing import with_responses
from lens_steer.operators.exact import exact
from lens_steer.steer.plans import SteeringPlan
from lens_steer.steer.value_sweep import logits_by_value

log = logging.getLogger(__name__)

NUMBERS = 2**18  # logits of one distribution that are compared at a time


def kl(p_logits: Float[Tensor, "*batch d_vocab"], q_logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch"]:
    """Return ``Σ_v p(v) (log p(v) − log q(v))`` over the whole vocabulary, in nats, computed in float64.

    A token with p(v) = 0 (a suppressed token, whose logit is −∞) adds 0 to the sum. If q(v) = 0 for a token with p(v) >
    0, the divergence is infinite. Logits that define no distribution (all −∞, some +∞, some NaN) give NaN.

    >>> round(kl(torch.tensor([0.0, 0.0]), torch.log(torch.tensor([0.25, 0.75]))).item(), 6)  # ½ log(½/¼) + ½ log(½/¾)
    0.143841
    >>> kl(torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]), torch.tensor([[1.0, -torch.inf], [0.0, -torch.inf]])).tolist()
    [0.0, inf]
    """
    flat = [x.reshape(-1, x.shape[-1]) for x in (p_logits, q_logits)]
    found = []
    # Σ p (log p − log q) = Σ p (a − b) − log Σ eᵃ + log Σ eᵇ with the logits a and b. A few positions at a time, so
    # that the passes over them stay in the processor's cache.
    for rows in zip(*(x.split(max(1, NUMBERS // x.shape[-1])) for x in flat), strict=True):
        a, b = (exact(x) for x in rows)
        p_log, q_log = a.logsumexp(dim=-1), b.logsumexp(dim=-1)
        never = (a == -torch.inf) & p_log.isfinite()[:, None]
        terms = torch.where(never, 0, (a - p_log[:, None]).exp() * (a - b))
        found.append((terms.sum(dim=-1) - p_log + q_log).clamp_min(0))
    return torch.cat(found).reshape(p_logits.shape[:-1])


def mean_kl_by_value(
    model: Any,
    build: Callable[[Any], SteeringPlan],
    values: Sequence[float],
    prompts: PromptSet | Sequence[Prompt],
    responses: Sequence[str],
    *,
    engine: str = ENGINE,
) -> Float[np.ndarray, "n values"]:
    """Return the mean of ``KL(unsteered ‖ steered)`` over the tokens of each response, at every value of a parameter.

    Args:
        model, build, values, engine: See :func:`lens_steer.steer.value_sweep.logits_by_value`.
        prompts: One prompt per response.
        responses: Fixed texts, such as the unsteered model's own answers.

    Returns:
        Divergences in nats, one row per prompt and one column per value. The row of an empty response is NaN.
    """
    found = np.full((len(prompts), len(values)), np.nan)
    plain: dict[int, Tensor] = {}
    forced = with_responses(prompts, responses)
    for row, value, logits, ids in logits_by_value(model, build, values, forced, engine=engine):
        if not len(ids):
            continue
        if value is None:
            plain[row] = logits
            continue
        found[row, value] = float(kl(plain[row], logits).mean())
        if value == len(values) - 1:
            del plain[row]
    if infinite := int(np.isinf(found).any(axis=1).sum()):
        log.warning(
            "the divergence is infinite for %d of %d responses at some value: steering gives a token no "
            "probability that it had",
            infinite,
            len(found),
        )
    return found
