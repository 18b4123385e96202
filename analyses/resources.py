"""What a study would take: reckoned from configurations alone, for a 70-billion-parameter model, and beside what the
embedded models really take.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import lens_steer as ls
from analyses import tables
from lens_steer._io.tables import markdown
from lens_steer.inference.batching import encode
from lens_steer.models.footprint import GIB, Shape, estimate, measured_flops
from lens_steer.models.loading import info_of
from lens_steer.models.location import locate, read_config

# Llama 3.3 70B, from its published configuration
LARGE = {
    "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
STUDY = {"n_prompts": 1040, "prompt_tokens": 60, "max_new_tokens": 256, "batch_size": 16}
TFLOPS = 400  # of a current accelerator in bfloat16, at full use
ORGANISMS = ("organism/qwen2", "organism/llama", "organism/gemma2")


def large_table() -> str:
    """Memory and lower bounds on time of one study of the large model, by dtype of its weights."""
    from transformers import LlamaConfig

    shape = Shape.of(LlamaConfig(**LARGE))
    head = (
        "weights in",
        "weights",
        "while a HookedTransformer is loaded from a checkpoint in bfloat16",
        f"activations of {STUDY['n_prompts']} prompts at all norm outputs",
        "the same as moments",
        "cache",
        f"recording at {TFLOPS} TFLOP/s, at least",
        "answering once, at least",
    )
    rows = []
    for dtype in ("bfloat16", "int4"):
        e = estimate(shape, **STUDY, n_sites=2 * shape.n_layers, dtype=dtype, flops=TFLOPS * 1e12, stored="bfloat16")
        memory = (f"{b / GIB:.2f} GiB" for b in (e.weights, e.weights_while_loading, e.recorded, e.moments, e.cache))
        rows.append((dtype, *memory, f"{e.record_seconds:.0f} s", f"{e.generate_seconds:.0f} s"))
    return markdown(head, rows)


def measured_table() -> str:
    """The embedded models: parameters and bytes as reckoned and as counted, and how far above the bound recording
    takes.
    """
    contrast = ls.load_contrast("organism/refusal").fit
    prompts = [*contrast.positive, *contrast.negative]
    rows = []
    for name in ORGANISMS:
        model = ls.load_model(name)
        shape = Shape.of(read_config(name, locate(name)))
        tokens = round(sum(len(encode(info_of(model).tokenizer, p)) for p in prompts) / len(prompts))
        begin = time.perf_counter()
        acts = ls.record(model, contrast, engine="hf", progress=False)
        seconds = time.perf_counter() - begin
        counted = sum(t.numel() * t.element_size() for t in (acts.positive, acts.negative))
        e = estimate(
            shape, n_prompts=len(prompts), prompt_tokens=tokens, n_sites=len(acts.sites), flops=measured_flops()
        )
        parameters = sum(p.numel() for p in ls.hf_twin(model).parameters())
        above = f"{seconds / (e.record_seconds or 1):.1f}"
        rows.append((name, f"{e.parameters:,}", f"{parameters:,}", f"{e.recorded:,} B", f"{counted:,} B", above))
    head = (
        "model",
        "parameters, reckoned",
        "counted",
        "activations, reckoned",
        "counted",
        "recording over its lower bound",
    )
    return markdown(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    tables.add_page(parser)
    args = parser.parse_args()
    found: dict[str, Any] = {"resources_large": large_table(), "resources_measured": measured_table()}
    for name, table in found.items():
        tables.write(name, table, args.out, args.page)


if __name__ == "__main__":
    main()
