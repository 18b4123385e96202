"""Steering in the weights, by an adapter and by hooks, against the model without steering.

A merged model has the layers and shapes of the unsteered one, so what is to be seen is a difference of nothing: the
case runs four times as many turns as the others, and beside it stands a control that cannot differ, a copy of the
unsteered model against the model itself.
"""

from __future__ import annotations

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lens_steer as ls
from lens_steer.data import PromptSet
from lens_steer.inference import batching
from lens_steer.interop.exports.adapters import load_adapter, write_adapter
from lens_steer.interop.exports.folding import fold
from lens_steer.interop.exports.merged import merged_model
from lens_steer.models.loading import hf_twin
from tests.benchmarks.timing import Ratio, ratio, run

MORE = 4


def merged_generation(
    name: str, model: Any, calibration: ls.Calibration, prompts: PromptSet, new: int, turns: int
) -> list[Ratio]:
    """Hugging Face's ``generate`` at 200° in the norm outputs that fold, exactly ``new`` tokens an answer, so that all
    variants do equal work.
    """
    info, twin = model.lens_info, hf_twin(model)
    plan = ls.selective_steering(calibration, 200, at="ln1,ln2")
    merged = merged_model(fold(plan, model, into="merged"), model)
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(Path(folder), fold(plan, model).factors, info.folder)
        adapted = load_adapter(model, folder).get_base_model()
    batch = next(batching.batches(info.tokenizer, prompts, n_ctx=info.n_ctx, max_new_tokens=new))

    def answer(of: Any, hooked: bool = False) -> None:
        options = {
            "max_new_tokens": new,
            "min_new_tokens": new,
            "do_sample": False,
            "pad_token_id": info.tokenizer.pad_token_id,
        }
        with torch.inference_mode():
            if not hooked:
                of.generate(batch.ids, attention_mask=batch.mask, **options)
                return
            with ls.steering(of, plan):
                of.generate(batch.ids, attention_mask=batch.mask, **options)

    variants = {
        "merged": merged,
        "adapter (PEFT)": adapted,
        "a copy, not steered": copy.deepcopy(twin),
        "not steered": twin,
    }
    seconds = run(
        {"hooks": partial(answer, twin, True), **{key: partial(answer, of) for key, of in variants.items()}},
        MORE * turns,
    )
    case = f"steered Hugging Face generate, {len(prompts)} prompts, {new} new tokens, {len(plan.sites)} sites, {name}"
    return [
        ratio(case, seconds, "merged", "not steered", 0.97),
        ratio(case, seconds, "a copy, not steered", "not steered"),
        ratio(case, seconds, "adapter (PEFT)", "not steered"),
        ratio(case, seconds, "hooks", "not steered"),
    ]
