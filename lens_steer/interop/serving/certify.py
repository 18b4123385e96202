"""The certificate of a serving engine: for each adapter, its tokens and log-probabilities against the hooked model's.

The hooked model answers some prompts with greedy decoding under the plan. Prompts and answers together are then read by
three models: the hooked model under the plan, the same model without it, and the engine with the adapter. Each gives
the log-probability of every token but the first. The engine must agree with the first of them, and be nearer to it than
to the second: an engine that ignores an adapter, or takes another one, is found out. The engine also answers the
prompts itself. Where its answer parts from the hooked model's, the hooked model must hold both tokens for about equally
probable: so an engine that uses the adapter on prompts but not while it writes is found out, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.forward import batches_of, last_logits
from lens_steer.inference.generation import answer_ids
from lens_steer.inference.teacher_forcing import logits_budget
from lens_steer.interop.exports.certificate import count_equal, prompts_for
from lens_steer.interop.serving.certificate import UNSTEERED, EngineCertificate
from lens_steer.models.loading import device_of, hf_twin, info_of
from lens_steer.models.tokenization import pad_id
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan

NEW_TOKENS = 16
# The largest and the mean difference of log-probabilities that pass, in nats, by the dtype of the model. Half precision
# rounds the logits themselves: bfloat16 keeps eight bits, so a logit of 20 is known to 0.06.
BOUNDS: dict[str, tuple[float, float]] = {
    "float32": (1e-3, 1e-4),
    "float16": (0.2, 0.02),
    "bfloat16": (1.0, 0.1),
}


@runtime_checkable
class Answering(Protocol):
    """What a certificate asks of an engine: answers and log-probabilities, each sequence under its own plan or none."""

    def answer_under(
        self, plans: Sequence[SteeringPlan | None], sequences: Sequence[list[int]], max_new_tokens: int
    ) -> list[list[int]]: ...

    def log_probs_under(
        self, plans: Sequence[SteeringPlan | None], sequences: Sequence[list[int]], lengths: Sequence[int]
    ) -> list[Float[np.ndarray, " _"]]: ...


def certify_engine(
    model: Any,
    engine: Answering,
    plans: Sequence[SteeringPlan | None],
    *,
    name: str,
    version: str,
    prompts: Any = None,
    new_tokens: int = NEW_TOKENS,
) -> list[EngineCertificate]:
    """Compare an engine with the hooked model under each of some plans.

    Args:
        model: A model of :func:`lens_steer.load_model`.
        engine: The engine.
        plans: The plans, each with one value for all prompts; None is the unsteered model.
        name, version: The name and the version of the engine, for the record.
        prompts: The prompts; None stands for the default of
            :func:`lens_steer.interop.exports.certificate.prompts_for`.
        new_tokens: The greatest length of the answers.

    Returns:
        One certificate for each plan, whether it passes or not.

    Raises:
        LensSteerError: If there are no bounds for the model's dtype.
    """
    info, asked = info_of(model), prompts_for(model, prompts)
    if info.dtype not in BOUNDS:
        raise LensSteerError(f"dtype={info.dtype!r}: an engine is certified in {', '.join(BOUNDS)} alone")
    largest, mean = BOUNDS[info.dtype]
    sequences = [batching.encode(info.tokenizer, prompt) for prompt in asked]
    # The engine is asked for all plans at once, so that they run in few batches.
    each = [plan for plan in plans for _ in sequences]
    written = engine.answer_under(each, sequences * len(plans), new_tokens)
    own = [_own_answers(model, plan, list(asked), new_tokens) for plan in plans]
    whole = [a + b for answers in own for a, b in zip(sequences, answers, strict=True)]
    scored = engine.log_probs_under(each, whole, [len(ids) - 1 for ids in whole])
    n, found = len(sequences), []
    for i, plan in enumerate(plans):
        part = slice(i * n, (i + 1) * n)
        told = _compared(model, plan, sequences, own[i], written[part], scored[part])
        found.append(
            EngineCertificate(
                engine=name,
                engine_version=version,
                model=info.name,
                dtype=info.dtype,
                plan={"method": UNSTEERED} if plan is None else plan.row(),
                digest="" if plan is None else plan.digest,
                prompts=getattr(asked, "name", "given"),
                n_prompts=len(asked),
                largest_allowed=largest,
                mean_allowed=mean,
                **told,
            )
        )
    return found


def _own_answers(model: Any, plan: SteeringPlan | None, prompts: list[Any], new_tokens: int) -> list[list[int]]:
    """Return the token ids of the hooked model's answers under a plan."""
    found: list[list[int]] = [[] for _ in prompts]
    with _under(model, plan) as runner:
        for batch in batches_of(runner, prompts, max_new_tokens=new_tokens):
            for row, ids in zip(batch.rows, answer_ids(runner, batch, new_tokens), strict=True):
                found[row] = ids
    return found


def _compared(
    model: Any,
    plan: SteeringPlan | None,
    asked: list[list[int]],
    own: list[list[int]],
    written: list[list[int]],
    scored: list[Float[np.ndarray, " _"]],
) -> dict[str, Any]:
    """Return the measured fields of a certificate.

    Args:
        model, plan: The hooked model and the plan.
        asked: The token ids of the prompts.
        own, written: Those of the hooked model's and of the engine's answers.
        scored: The engine's log-probabilities of the tokens of prompts and own answers.
    """
    whole = [a + b for a, b in zip(asked, own, strict=True)]
    ends = info_of(model).end_tokens
    changes, aways, differences, gaps = [], [], [], [0.0]
    plain = {row: _of_tokens(log_probs, whole[row][1:]) for row, log_probs in _log_probs(hf_twin(model), whole)}
    with _under(model, plan) as runner:
        for row, log_probs in _log_probs(runner, whole):
            steered = _of_tokens(log_probs, whole[row][1:])
            differences.append(np.abs(scored[row] - steered))
            changes.append(np.abs(steered - plain[row]))
            aways.append(np.abs(scored[row] - plain[row]))
            gaps.append(_gap(log_probs, len(asked[row]), own[row], written[row], ends))
    equal, tokens = count_equal(own, written)
    difference, change, away = (np.concatenate(values) for values in (differences, changes, aways))
    return {
        "n_positions": len(difference),
        "largest_difference": _number(difference.max()),
        "mean_difference": _number(difference.mean()),
        "mean_change": _number(change.mean()),
        "mean_from_unsteered": _number(away.mean()),
        "equal_tokens": equal / tokens,
        "largest_gap": max(gaps),
    }


def _under(model: Any, plan: SteeringPlan | None) -> Any:
    """Return a context that yields the twin under a plan alone, whatever is in force on the model itself."""
    twin = hf_twin(model)
    return nullcontext(twin) if plan is None else steering(twin, plan, tell=False)


def _log_probs(runner: Any, sequences: Sequence[list[int]]) -> Iterator[tuple[int, Float[Tensor, "pos d_vocab"]]]:
    """Yield for each sequence its row, and the log-probabilities that predict its tokens from the second one on.

    Only those of one batch are kept at a time.
    """
    rows = [(i, ids, len(ids) - 1) for i, ids in enumerate(sequences)]
    pad, limit = pad_id(info_of(runner).tokenizer), logits_budget(runner)
    for batch in batching.padded(rows, pad, max_logits=limit, device=device_of(runner)):
        logits = last_logits(runner, batch, max(batch.response_lengths) + 1)
        for i, (row, length) in enumerate(zip(batch.rows, batch.response_lengths, strict=True)):
            yield row, logits[i, -length - 1 :].float().log_softmax(dim=-1).cpu()


def _of_tokens(log_probs: Float[Tensor, "pos d_vocab"], ids: Sequence[int]) -> Float[np.ndarray, " tokens"]:
    return log_probs[:-1].gather(-1, torch.tensor(ids)[:, None])[:, 0].double().numpy()


def _gap(
    log_probs: Float[Tensor, "pos d_vocab"], start: int, own: list[int], other: list[int], ends: Sequence[int]
) -> float:
    """Return how much less probable the hooked model holds the other answer's token where two answers first part."""
    at = next((t for t, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
    if at == len(own) == len(other):
        return 0.0
    here = log_probs[start - 1 + at]
    ended = float(here[list(ends)].max()) if ends else float("-inf")
    mine = float(here[own[at]]) if at < len(own) else ended
    theirs = float(here[other[at]]) if at < len(other) else ended
    return _number(mine - theirs)


def _number(value: Any) -> float:
    """Return a float; infinity where it is not finite, so that it is above every bound."""
    return float(value) if np.isfinite(value) else float("inf")
