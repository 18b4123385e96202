"""The tokens with which a model's own refusals begin, measured on its greedy answers.

The refusal score (:mod:`lens_steer.metrics.refusal_score`) needs them. Arditi et al. (arXiv 2406.11717) look them up
by hand for every family ("I", and "As" for Qwen).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer._io.progress import counting
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.decoding import begins_in_thought, decode_answer
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of
from lens_steer.inference.generation import answer_ids
from lens_steer.metrics.grading import REFUSED, grade
from lens_steer.models.loading import info_of

REFUSALS = (REFUSED, "refusal")  # the grades of a refusal, without and with a ground truth


class NoRefusalError(LensSteerError):
    """The model refuses nothing, or in no way by which a refusal could be told from its first token."""


@dataclass(frozen=True)
class Opening:
    """A token with which answers of the model begin.

    Attributes:
        token: The id of the token.
        text: The text of the token.
        refusals: The number of refusals that begin with it.
        answers: The number of answers that begin with it, refusals among them.
        share: The share of all refusals that begin with it.
        used: Whether it counts as the beginning of a refusal; see :func:`measured_openings`.
    """

    token: int
    text: str
    refusals: int
    answers: int
    share: float
    used: bool


def measured_openings(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    *,
    max_new_tokens: int = 48,
    engine: str = ENGINE,
    progress: bool = False,
) -> tuple[Opening, ...]:
    """Generate greedy answers and return the first tokens of those that refuse, the most frequent first.

    An answer refuses if the ground truth of its prompt says so, or without a ground truth if it contains one of the 12
    published phrases (:mod:`lens_steer.metrics.refusal`). A token is used if at least half of the answers that begin
    with it refuse. A token that mostly begins something else would count that as a refusal.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        prompts: Prompts that the model is expected to refuse.
        max_new_tokens: The maximal number of tokens of each answer; a refusal that comes later is not seen.
        engine: See :func:`lens_steer.generate`.
        progress: If True, a progress bar is shown.

    Returns:
        At least one opening that is used.

    Raises:
        LensSteerError: If there are no prompts, if no answer refuses, or if no token can be used.

    >>> import lens_steer as ls
    >>> prompts = ls.load_contrast("organism/refusal").fit.positive[:8]
    >>> [(o.text, o.refusals, o.answers, o.used) for o in measured_openings(ls.load_model("organism/qwen2"), prompts)]
    [('I', 8, 8, True)]
    """
    if not len(prompts):
        raise LensSteerError("prompts is empty: give at least one that the model refuses")
    tokenizer = info_of(model).tokenizer
    begun = begins_in_thought(tokenizer, prompts[0])
    answers: Counter[int] = Counter()
    refusals: Counter[int] = Counter()
    with on_engine(model, engine) as runner, counting("openings of refusals", len(prompts), shown=progress):
        for batch in batches_of(runner, list(prompts), max_new_tokens=max_new_tokens):
            for row, ids in zip(batch.rows, answer_ids(runner, batch, max_new_tokens), strict=True):
                if not ids:
                    continue
                answers[ids[0]] += 1
                refusals[ids[0]] += grade(prompts[row], decode_answer(tokenizer, ids), begun=begun) in REFUSALS
    return openings_of(refusals, answers, tokenizer)


def openings_of(refusals: Counter[int], answers: Counter[int], tokenizer: Any) -> tuple[Opening, ...]:
    """Return the openings from the counts of refusals and of answers by first token; see :func:`measured_openings`.

    Raises:
        LensSteerError: If there is no refusal, or if no token can be used.
    """
    total, n = sum(refusals.values()), sum(answers.values())
    if not total:
        raise NoRefusalError(
            f"the model refuses none of the {n} positive prompts that it was asked, so there is no refusal to find a "
            "direction of: give prompts that it refuses, or say with openings=… how its refusals begin"
        )
    found = []
    for token in sorted(refusals, key=lambda t: (-refusals[t], t)):
        if count := refusals[token]:
            used = 2 * count >= answers[token]
            found.append(Opening(token, tokenizer.decode([token]), count, answers[token], count / total, used))
    if not any(opening.used for opening in found):
        told = ", ".join(f"{o.text!r} {o.refusals} of {o.answers}" for o in found[:5])
        raise NoRefusalError(
            f"no token marks a refusal of this model: most answers that begin like one do not refuse (refusals of "
            f"answers by first token: {told}): say with openings=… how its refusals begin"
        )
    return tuple(found)
