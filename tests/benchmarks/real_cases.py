"""The part "0.5 B parameters": loading, recording and generation on a real pretrained model, against plain Hugging Face
in the same dtype.

The model is looked for in the folder that the environment variable ``LENS_STEER_REAL_MODELS`` names; without one the
part is skipped, and says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.data import Contrast, PromptSet
from lens_steer.inference import batching
from lens_steer.inference.record import record_prompts
from lens_steer.metrics.kl import kl
from lens_steer.models.loading import hf_twin
from tests.benchmarks import cases, reading_cases, sweep_cases
from tests.benchmarks.timing import Ratio, ratio, run

NAME, DTYPES = "qwen2.5-coder-0.5b-instruct", ("float32", "bfloat16")
VARIANTS = {
    "ours": "load_model and a forward (hf)",
    "both": "load_model and a forward on both engines",
    "theirs": "from_pretrained and a forward",
    "with tokenizer": "from_pretrained with its tokenizer and a forward",
}
SLOWER, LARGER = 1 / 1.5, 1 / 1.2  # what loading may take: time and peak memory of the plain one over ours


def folder() -> Path | None:
    """Where the model lies; None where it is not there."""
    said = os.environ.get("LENS_STEER_REAL_MODELS")
    found = Path(said).expanduser() / NAME if said else None
    return found if found is not None and (found / "config.json").exists() else None


def loading(where: Path, turns: int) -> list[Ratio]:
    """Seconds and peak memory of loading and one short forward, each in a process of its own, imports done before the
    clock starts.
    """
    ratios: list[Ratio] = []
    for dtype in DTYPES:
        seconds: dict[str, list[float]] = {name: [] for name in VARIANTS.values()}
        peaks: dict[str, list[float]] = {name: [] for name in VARIANTS.values()}
        for _ in range(turns):
            for variant, name in VARIANTS.items():
                found = measured(where, dtype, variant)
                seconds[name].append(found["seconds"])
                peaks[name].append(found["peak_mib"])
        ours, both, theirs, reading = VARIANTS.values()
        case = f"loading {NAME}, {dtype}"
        ratios += [ratio(f"{case}, time", seconds, ours, theirs, SLOWER)]
        ratios += [ratio(f"{case}, time", seconds, one, other) for one, other in ((ours, reading), (both, theirs))]
        ratios += [ratio(f"{case}, peak memory (MiB for seconds)", peaks, one, theirs, LARGER) for one in (ours, both)]
    return ratios


def measured(where: Path, dtype: str, variant: str) -> dict[str, float]:
    """What one loading takes, in a fresh process; the last line that it writes."""
    out = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.real_cases", str(where), dtype, variant],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return json.loads(out.stdout.splitlines()[-1])


def load_once(where: str, dtype: str, variant: str) -> dict[str, float]:
    """Load, run one short forward, and tell seconds and peak memory beyond what the imports had taken."""
    import accelerate  # noqa: F401
    import transformer_lens  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids, before, top, done = torch.tensor([[100, 200, 300, 400, 500]]), _resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            top[0] = max(top[0], _resident())

    watching = threading.Thread(target=watch)
    watching.start()
    begin, work = time.perf_counter(), time.process_time()
    with torch.no_grad():
        if variant in ("ours", "both"):
            model: Any = ls.load_model(where, dtype=dtype)
            hf_twin(model)(ids)
            if variant == "both":
                model(ids)
        else:
            if variant == "with tokenizer":
                AutoTokenizer.from_pretrained(where)
            AutoModelForCausalLM.from_pretrained(where, dtype=getattr(torch, dtype)).eval()(ids)
    taken = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - work}
    done.set()
    watching.join()
    return taken | {"peak_mib": max(top[0], _resident()) - before}


def _resident() -> float:
    """Resident memory in MiB: mapped weights count once they are touched."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def recording(name: str, model: Any, prompts: PromptSet, turns: int) -> list[Ratio]:
    """``record`` at every norm output against a bare forward over the same batches, with the unembedding of the last
    position.
    """
    info, twin = model.lens_info, hf_twin(model)
    sites = ls.record(model, Contrast(prompts[:1], prompts[1:2]), cases.NORMS, progress=False).sites

    def bare() -> None:
        for batch in batching.batches(info.tokenizer, prompts, n_ctx=info.n_ctx):
            with torch.inference_mode():
                twin(batch.ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=1)

    seconds = run({"bare batched forward": bare, "record": partial(record_prompts, model, prompts, sites)}, turns)
    return [
        ratio(
            f"recording {len(prompts)} prompts at {len(sites)} norm outputs, engine hf, {name}",
            seconds,
            "record",
            "bare batched forward",
            0.95,
        )
    ]


def last_logits(where: Path, dtype: str, prompts: PromptSet) -> tuple[Tensor, float]:
    """Next-token logits after each prompt in float32, and the seconds of the forwards."""
    model: Any = ls.load_model(where, dtype=dtype)
    info, twin = model.lens_info, hf_twin(model)
    out, begin = torch.empty(len(prompts), twin.config.vocab_size), time.perf_counter()
    for batch in batching.batches(info.tokenizer, prompts, n_ctx=info.n_ctx, max_rows=16):
        with torch.inference_mode():
            logits = twin(batch.ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=1).logits
        out[list(batch.rows)] = logits[:, -1].float()
    return out, time.perf_counter() - begin


def dtypes(where: Path, prompts: PromptSet) -> dict[str, float]:
    """What bfloat16 costs and gains against float32: the next tokens' distributions after each prompt, and time."""
    (exact, slow), (rounded, quick) = (last_logits(where, dtype, prompts) for dtype in DTYPES)
    nats = kl(exact, rounded)
    return {
        "prompts": len(prompts),
        "kl_mean": float(nats.mean()),
        "kl_median": float(nats.median()),
        "kl_max": float(nats.max()),
        "top_1_equal": float((exact.argmax(-1) == rounded.argmax(-1)).double().mean()),
        "seconds_float32": slow,
        "seconds_bfloat16": quick,
    }


def every(where: Path, turns: int) -> dict[str, Any]:
    """All cases: their ratios, and what the dtypes differ by."""
    prompts = cases.prompts_of_refusal()
    ratios = loading(where, turns)
    for dtype in DTYPES:
        model, name = ls.load_model(where, dtype=dtype), f"{NAME}, {dtype}"
        ratios += recording(name, model, prompts[:64], turns)
        calibration = ls.calibrate(ls.record(model, Contrast(prompts[:16], prompts[256:272]), progress=False))
        ratios += cases.generation(name, model, calibration, prompts[:16], 32, turns)
        ratios += sweep_cases.generation_sweep(name, model, calibration, prompts[:8], 3, 24, turns)
        ratios += reading_cases.options(name, model, 24, turns)
        ratios += reading_cases.scores(name, model, calibration, prompts[:16], 24, turns)
        ratios += reading_cases.shared(name, model, calibration, prompts[:16], turns)
        del model
    return {"ratios": ratios, "dtypes": dtypes(where, prompts[:64])}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(load_once(*sys.argv[1:4])) + "\n")
