"""The cases: what users would do without this library, beside what it does. Each returns its ratios."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.inference import batching
from lens_steer.inference.record import record_prompts
from lens_steer.models.loading import hf_twin
from lens_steer.operators.rotation import rotation_writer, turn
from tests.benchmarks.timing import Ratio, ratio, run

NORMS = "norm_out"


def calibration_throughput(name: str, model: Any, prompts: PromptSet, turns: int) -> list[Ratio]:
    """Last-token activations at every norm output: one prompt at a time by Hugging Face hooks, a bare batched forward,
    and ``record``.
    """
    info, twin = model.lens_info, hf_twin(model)
    sites = ls.record(model, Contrast(prompts[:1], prompts[1:2]), NORMS, progress=False).sites
    modules = [m for n, m in twin.named_modules() if "layernorm" in n]
    assert len(modules) == len(sites)

    def one_at_a_time() -> list[list[Tensor]]:
        found = []
        for prompt in prompts:
            kept: list[Tensor] = []
            handles = [
                m.register_forward_hook(lambda m, a, o, kept=kept: kept.append(o[0, -1].clone())) for m in modules
            ]
            with torch.inference_mode():
                twin(torch.tensor([batching.encode(info.tokenizer, prompt)]))
            for handle in handles:
                handle.remove()
            found.append(kept)
        return found

    def bare_forward() -> None:
        for batch in batching.batches(info.tokenizer, prompts, n_ctx=info.n_ctx):
            with torch.inference_mode():
                twin(batch.ids, attention_mask=batch.mask, use_cache=False)

    seconds = run(
        {
            "hooks, one prompt at a time": one_at_a_time,
            "bare batched forward": bare_forward,
            "record, engine hf": lambda: record_prompts(model, prompts, sites, engine="hf"),
            "record, engine tl": lambda: record_prompts(model, prompts, sites),
        },
        turns,
    )
    case = f"recording {len(prompts)} prompts at {len(sites)} norm outputs, {name}"
    return [
        ratio(case, seconds, "record, engine hf", "hooks, one prompt at a time", 10),
        ratio(case, seconds, "record, engine hf", "bare batched forward", 0.8),
        ratio(case, seconds, "record, engine tl", "hooks, one prompt at a time"),
        ratio(case, seconds, "record, engine tl", "bare batched forward"),
    ]


def generation(
    name: str, model: Any, calibration: ls.Calibration, prompts: PromptSet, new: int, turns: int
) -> list[Ratio]:
    """Steered against not, on both engines, and against Hugging Face's own ``generate`` without hooks.

    The steered plan turns by 360° at every norm output: the same work as any angle and the very same tokens, so that
    both sides do equal work.
    """
    info, twin = model.lens_info, hf_twin(model)
    plan = ls.selective_steering(calibration, 360, at=NORMS)

    def ours(engine: str, steered: bool) -> None:
        if not steered:
            ls.generate(model, prompts, max_new_tokens=new, engine=engine)
            return
        with ls.steering(model, plan):
            ls.generate(model, prompts, max_new_tokens=new, engine=engine)

    def theirs() -> None:
        batch = next(batching.batches(info.tokenizer, prompts, n_ctx=info.n_ctx, max_new_tokens=new))
        with torch.inference_mode():
            out = twin.generate(
                batch.ids,
                attention_mask=batch.mask,
                max_new_tokens=new,
                do_sample=False,
                eos_token_id=list(info.end_tokens),
                pad_token_id=info.tokenizer.pad_token_id,
            )
        info.tokenizer.batch_decode(out[:, batch.ids.shape[1] :], skip_special_tokens=True)

    seconds = run(
        {
            "Hugging Face generate": theirs,
            **{
                f"{'steered' if steered else 'not steered'}, engine {engine}": partial(ours, engine, steered)
                for engine in ("hf", "tl")
                for steered in (False, True)
            },
        },
        turns,
    )
    case = f"{len(prompts)} prompts, up to {new} new tokens, {len(plan.sites)} sites, {name}"
    return [
        ratio(case, seconds, "steered, engine hf", "not steered, engine hf", 0.95),
        ratio(case, seconds, "steered, engine tl", "not steered, engine tl", 0.95),
        ratio(case, seconds, "not steered, engine hf", "Hugging Face generate", 0.95),
        ratio(case, seconds, "steered, engine hf", "Hugging Face generate"),
        ratio(case, seconds, "not steered, engine tl", "Hugging Face generate"),
    ]


def dense_rotation(d_model: int, tokens: int, turns: int) -> list[Ratio]:
    """A rotation as two inner products and two scaled additions, against the d×d matrix of the released code (made
    beforehand).
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d_model, 2, generator=generator)).Q.T.contiguous()
    h = torch.randn(tokens, d_model, generator=generator)
    t = math.radians(70)
    r = torch.tensor([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
    dense = torch.eye(d_model) - basis.T @ basis + basis.T @ r @ basis
    writer = rotation_writer(basis, 70.0)
    assert torch.allclose(turn(h, basis, writer), h @ dense.T, atol=1e-3)
    seconds = run({"rank 2": lambda: turn(h, basis, writer), "dense": lambda: h @ dense.T}, turns)
    return [ratio(f"rotating {tokens} tokens, d_model {d_model}", seconds, "rank 2", "dense")]


def recording_memory(model: Any, prompts: PromptSet) -> dict[str, float]:
    """Peak memory of one recording beyond what stood before, over the size of what it returns; Linux only.

    Anonymous memory is watched, every few milliseconds: pages of libraries, which the system takes away and gives back
    as it likes, are nothing that a recording needs.
    """
    names = ls.record(model, Contrast(prompts[:64], prompts[64:128]), NORMS, progress=False).sites  # warm
    before, found, done = _status("RssAnon"), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            found[0] = max(found[0], _status("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        out = record_prompts(model, prompts, names)
    finally:
        done.set()
        watching.join()
    peak = max(found[0], _status("RssAnon")) - before
    returned = out.numel() * out.element_size() / 2**20
    return {"returned_mib": returned, "peak_mib": peak, "ratio": peak / returned, "aim": 1.5}


def import_seconds(turns: int) -> list[float]:
    """Seconds of ``import lens_steer`` in fresh processes."""
    program = "import time; t = time.perf_counter(); import lens_steer; print(time.perf_counter() - t)"
    return [
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(turns)
    ]


def repeated(prompts: PromptSet, n: int) -> PromptSet:
    """``n`` prompts, the given ones over and over."""
    return PromptSet(tuple(prompts[i % len(prompts)] for i in range(n)), prompts.name)


def mid_llama(folder: Path) -> Path:
    """A random Llama of 8 blocks and width 512 (25 M parameters), where arithmetic outweighs Python."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from lens_steer.organisms.training.dialogues import stream
    from lens_steer.organisms.training.families import FAMILIES, VOCABULARY, build_tokenizer

    texts = (m["content"] for _, messages in zip(range(300), stream(3), strict=False) for m in messages)
    tokenizer = build_tokenizer(FAMILIES["llama"], texts, folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def prompts_of_refusal() -> PromptSet:
    """256 harmful and 256 harmless prompts of the organisms' refusal contrast."""
    contrast = ls.load_contrast("organism/refusal")
    found: list[Prompt] = []
    for part in (contrast.fit, contrast.select, contrast.report):
        found += [*part.positive, *part.negative]
    return PromptSet(tuple(found), contrast.name)


def _status(key: str) -> float:
    """A line of the process's status, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return math.nan
