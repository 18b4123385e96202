"""What one recorded vector of a prompt is: its last token, or a mean over tokens of its fixed response."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer.data import PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.places import Places
from lens_steer.inference.segments import SEGMENTS, Segments
from lens_steer.models.loading import info_of

Pooling = Literal["last", "response", "thought", "answer", "token", "prompt token", "thought token", "answer token"]
# Those with one vector per prompt; the others are single tokens, of record_tokens.
POOLINGS: tuple[Pooling, ...] = ("last", "response", "thought", "answer")
FORCED = POOLINGS[1:]  # those that need fixed responses


def checked_pooling(pooling: str) -> Pooling:
    """Return a pooling that gives one vector per prompt, and refuse any other.

    >>> checked_pooling("thought")
    'thought'
    """
    for known in POOLINGS:
        if pooling == known:
            return known
    raise LensSteerError(
        f"pooling={pooling!r}: use one of {', '.join(map(repr, POOLINGS))} (single tokens: ls.record_tokens)"
    )


def check_poolable(model: Any, prompts: PromptSet, pooling: str) -> None:
    """Refuse prompts whose fixed responses have nothing of what is recorded.

    Args:
        model: A loaded model, or a model that is described without its weights.
        prompts: The prompts.
        pooling: One of :data:`POOLINGS`, or a region: ``response``, ``thought`` or ``answer``.

    Raises:
        LensSteerError: If a prompt has no response, or its response has no thought or no answer where that is recorded,
            or if the model has no marks of thoughts that are known. The message names the first prompt.

    >>> import lens_steer as ls
    >>> from lens_steer.data import Prompt
    >>> model = ls.load_model("organism/qwen2")
    >>> check_poolable(model, PromptSet((Prompt.of("Hi"),)), "last")
    """
    if pooling not in FORCED:
        return
    missing = next((i for i, p in enumerate(prompts) if not p.response), None)
    if missing is not None:
        raise LensSteerError(
            f"pooling={pooling!r} needs a response for every prompt: prompt {missing} of {prompts.name!r} has none"
        )
    if pooling not in SEGMENTS:
        return
    tokenizer = info_of(model).tokenizer
    segments = segments_of(model, pooling)
    assert segments is not None
    lacking = []
    for i, prompt in enumerate(prompts):
        asked, said = batching.encode(tokenizer, prompt), batching.encode_response(tokenizer, prompt)
        if segments.closes_what_is_not_open(asked, said):
            raise LensSteerError(
                f"pooling={pooling!r}: the response of prompt {i} of {prompts.name!r} closes a thought that neither it "
                "nor the chat template has opened: give the template arguments with which it was written"
            )
        lacking += [] if SEGMENTS[pooling] in segments.of(asked, said) else [i]
    if lacking:
        raise LensSteerError(
            f"pooling={pooling!r}: the response of prompt {lacking[0]} of {prompts.name!r} "
            f"({prompts[lacking[0]].text[:40]!r}…; {len(lacking)} of {len(prompts)} are so) has no token of its "
            f"{pooling}: leave them out (a thought that was cut off has no answer after it), or give the template "
            "arguments with which they were written"
        )


def segments_of(model: Any, region: str) -> Segments | None:
    """Return what reads the segments of a model's responses; None for a region that is no segment.

    Raises:
        LensSteerError: If the model has no marks of thoughts that are known.
    """
    if region not in SEGMENTS:
        return None
    return Segments(info_of(model).tokenizer, f"pooling={region!r}", "use 'response', which is all of it")


def tokens_of(batch: batching.Batch, region: str, segments: Segments | None) -> Bool[Tensor, "batch pos"]:
    """Return True for every token of a batch's fixed responses that is in a region.

    Args:
        batch: The prompts with their responses.
        region: ``response``, ``thought`` or ``answer``.
        segments: Those of :func:`segments_of`.
    """
    if segments is None:
        return batch.in_response.cpu()
    kind, _ = segments.columns(Places.of(batch), 0, batch.ids.shape[1])
    return (kind == SEGMENTS[region]).cpu()


def pool_weights(batch: batching.Batch, pooling: str, segments: Segments | None) -> Float[Tensor, "batch pos"] | None:
    """Return the weights of the mean over positions; None if only the last position is recorded."""
    if pooling not in FORCED:
        return None
    wanted = tokens_of(batch, pooling, segments).float()
    return wanted / wanted.sum(dim=1, keepdim=True)
