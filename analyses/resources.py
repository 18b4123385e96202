"""What a study would take: reckoned from configurations alone, for a 70-billion-parameter model, and beside what the
embedded models really take.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, cast

import lens_steer as ls
from analyses import tables
from lens_steer._io.tables import markdown
from lens_steer.inference.batching import encode
from lens_steer.models.footprint import GIB, Shape, estimate, measured_flops
from lens_steer.models.loading import info_of
from lens_steer.models.location import locate, read_config

# Llama 3.3 70B, from its published configuration
LARGE: dict[str, Any] = {
    "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
STUDY = {"n_prompts": 1040, "prompt_tokens": 60, "max_new_tokens": 256, "batch_size": 16}
TFLOPS = 400  # of a current accelerator in bfloat16, at full use
# A sweep by a serving engine: one adapter an angle, all in flight together.
SWEEP = {"angles": 36, "prompts": 400, "prompt_tokens": 60, "max_new_tokens": 256, "in_flight": 256}
ADAPTER_RANK = 2
# Assumptions, none of them measured here: accelerators of 80 GiB, the new tokens a second that all of them together
# write at this batch, and the price of one.
ACCELERATORS, NEW_TOKENS_A_SECOND, DOLLARS_AN_HOUR = 4, 2500, 3.0
ORGANISMS = ("organism/qwen2", "organism/llama", "organism/gemma2")


def large_table() -> str:
    """Memory and lower bounds on time of one study of the large model, by dtype of its weights."""
    from transformers import LlamaConfig

    shape = Shape.of(LlamaConfig(**cast(Any, LARGE)))
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


def served_table() -> str:
    """Memory, time and cost of one sweep of the large model by a serving engine, and of nine models."""
    from transformers import LlamaConfig

    shape = Shape.of(LlamaConfig(**cast(Any, LARGE)))
    answers = SWEEP["angles"] * SWEEP["prompts"]
    e = estimate(
        shape,
        n_prompts=answers,
        prompt_tokens=SWEEP["prompt_tokens"],
        n_sites=1,
        max_new_tokens=SWEEP["max_new_tokens"],
        batch_size=SWEEP["in_flight"],
        dtype="bfloat16",
        flops=ACCELERATORS * TFLOPS * 1e12,
    )
    # A rotation at both norms of every block: query, key and value read one, gate and up the other.
    key_value = shape.n_kv_heads * shape.d_head
    outs = shape.n_heads * shape.d_head + 2 * key_value + 2 * LARGE["intermediate_size"]
    adapter = shape.n_layers * ADAPTER_RANK * (5 * shape.d_model + outs) * 2
    new_tokens = answers * SWEEP["max_new_tokens"]
    hours = new_tokens / NEW_TOKENS_A_SECOND / 3600
    rows = [
        ("answers", f"{answers:,} ({SWEEP['angles']} angles × {SWEEP['prompts']} prompts)", "planned"),
        ("new tokens, at most", f"{new_tokens:,}", "planned"),
        ("accelerators of 80 GiB, `--tensor-parallel`", f"{ACCELERATORS}", "assumed"),
        ("weights on each, bfloat16", f"{e.weights / ACCELERATORS / GIB:.1f} GiB", "reckoned"),
        (
            f"keys and values of {SWEEP['in_flight']} answers, on each",
            f"{e.cache / ACCELERATORS / GIB:.1f} GiB",
            "reckoned",
        ),
        (
            f"{SWEEP['angles']} adapters of rank {ADAPTER_RANK} at every norm",
            f"{SWEEP['angles'] * adapter / GIB:.2f} GiB",
            "reckoned",
        ),
        (f"time at {TFLOPS} TFLOP/s each, at least", f"{(e.generate_seconds or 0) / 60:.0f} min", "reckoned"),
        ("new tokens a second, all together", f"{NEW_TOKENS_A_SECOND:,}", "assumed"),
        ("time", f"{hours:.1f} h", "from that"),
        (
            f"cost at ${DOLLARS_AN_HOUR:g} for an accelerator and hour",
            f"${hours * ACCELERATORS * DOLLARS_AN_HOUR:,.0f}",
            "from that",
        ),
        ("nine such models", f"${9 * hours * ACCELERATORS * DOLLARS_AN_HOUR:,.0f}", "from that"),
    ]
    return markdown(("what", "value", "from where"), rows)


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
    found: dict[str, Any] = {
        "resources_large": large_table(),
        "resources_served": served_table(),
        "resources_measured": measured_table(),
    }
    for name, table in found.items():
        tables.write(name, table, args.out, args.page)


if __name__ == "__main__":
    main()
