"""Recording the thought or the answer of fixed responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.batching import Batch
from lens_steer.inference.clock import clock_for
from lens_steer.inference.forward import batches_of
from lens_steer.inference.places import Places
from lens_steer.inference.pooling import check_poolable, checked_pooling
from lens_steer.inference.positions import normalized
from lens_steer.inference.record import record_prompts
from lens_steer.inference.record_tokens import record_tokens
from lens_steer.inference.teacher_forcing import with_responses
from tests.test_parity import relative
from tests.thinking import ASKED, SAID

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model(thinking_folder: Path) -> Any:
    return ls.load_model(thinking_folder)


@pytest.fixture(scope="module")
def plain(thinking_folder: Path) -> Any:
    """The same model in the mode without thoughts."""
    return ls.load_model(thinking_folder, template_args={"enable_thinking": False})


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_pooled_segments_are_means_of_their_tokens(model: Any, engine: str) -> None:
    """Of both segments, in a padded batch; with the marks they are all of the response."""
    prompts = with_responses(ASKED, SAID)
    contrast = ls.Contrast(prompts[:2], prompts[1:])
    own: dict[str, Any] = {}
    for region in ("thought", "answer", "response"):
        pooled = ls.record(model, contrast, [SITE], pooling=region, engine=engine, progress=False)  # type: ignore[call-overload]
        single = record_tokens(model, contrast, [SITE], region=region, engine=engine)
        assert single.pooling == ("token" if region == "response" else f"{region} token")
        counts = [
            int((clock_for(model, normalized(region)).columns(Places.of(b), 0, b.ids.shape[1])).sum())
            for b in one_each(model)
        ]
        parts = single.positive.split(counts[:2])
        assert relative(pooled.positive, torch.stack([p.mean(dim=0) for p in parts])) < 1e-5
        own[region] = single.positive
    marks = len(own["response"]) - len(own["thought"]) - len(own["answer"])
    assert marks == 2
    assert repr(pooled) and "response tokens averaged" in repr(pooled)


def one_each(model: Any) -> list[Batch]:
    """Every prompt with its response in a batch of its own, in order."""
    return [
        next(iter(batches_of(model, with_responses([p], [said]), with_response=True)))
        for p, said in zip(ASKED, SAID, strict=True)
    ]


def test_bad_pooling(model: Any, plain: Any, qwen: Any) -> None:
    """Named before anything runs: the prompt that has no thought or no answer, and the model without marks."""
    cut = with_responses(ASKED, [SAID[0], "It is a", SAID[2]])
    lacks = r"the response of prompt 1 of .*1 of 3 are so\) has no token of its answer: leave them out"
    with pytest.raises(LensSteerError, match=lacks):
        check_poolable(model, cut, "answer")
    with pytest.raises(LensSteerError, match="prompt 0 of .* closes a thought that neither it nor the chat"):
        check_poolable(plain, with_responses(ASKED, SAID), "answer")
    check_poolable(model, cut, "thought")
    with pytest.raises(LensSteerError, match=r"prompt 0 of .*3 of 3 are so\) has no token of its thought"):
        check_poolable(plain, with_responses(ASKED, ["A rope."] * 3), "thought")
    with pytest.raises(LensSteerError, match="pooling='thought': neither the templates"):
        record_prompts(qwen, with_responses(ASKED, SAID), [SITE], pooling="thought")
    with pytest.raises(LensSteerError, match="pooling='answer' needs a response for every prompt: prompt 0"):
        check_poolable(model, PromptSet(tuple(ASKED)), "answer")
    with pytest.raises(LensSteerError, match="pooling='mean': use one of 'last', 'response', 'thought', 'answer'"):
        checked_pooling("mean")
