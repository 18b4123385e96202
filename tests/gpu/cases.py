"""What is checked and timed on a GPU. A check has a bound that is stated here; a timing is a ratio within one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import lens_steer as ls
from lens_steer.data import Contrast, PromptSet
from lens_steer.inference.record import record_prompts
from lens_steer.models import sites
from lens_steer.models.loading import hf_twin, info_of
from tests.benchmarks.timing import run

# The largest relative difference of a recorded vector from float32's, and the least share of equal greedy tokens
# between the engines, by dtype.
VECTOR_BOUND = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
TOKEN_SHARE = {"float32": 1.0, "float16": 0.9, "bfloat16": 0.8}
NORM_BOUND = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 4e-3}  # of a norm by selective steering in one hook
ANGLES = tuple(float(a) for a in range(0, 360, 30))
BILLION: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4,
}  # fmt: skip
TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was checked or timed.
        value: What came out.
        bound: The bound on it, in words; empty where it is only reported.
        passed: Whether it keeps the bound; None without a bound, or where it was not run.
    """

    what: str
    value: str
    bound: str = ""
    passed: bool | None = None


def half_precision(device: str, *, small: bool) -> Iterator[Row]:
    """Recorded vectors in half precision against float32, and greedy answers of both engines against each other."""
    contrast = ls.load_contrast("organism/refusal")
    n = 4 if small else 32
    asked = [*contrast.report.positive[:n], *contrast.report.negative[:n]]
    exact: torch.Tensor | None = None
    calibration = None
    for dtype, bound in VECTOR_BOUND.items():
        model = ls.load_model("organism/qwen2", dtype=dtype, device=device)
        info = info_of(model)
        names = sites.resolve("norm_out", info.layout)
        vectors = record_prompts(model, PromptSet(tuple(asked)), names)
        exact = vectors if exact is None else exact
        away = float(((vectors - exact).norm(dim=-1) / exact.norm(dim=-1)).max())
        yield Row(f"norm outputs in {dtype}, from float32's", f"{away:.1e}", f"≤ {bound:g}", away <= bound)
        calibration = calibration or ls.calibrate(ls.record(model, contrast, progress=False))
        plan = ls.selective_steering(calibration, 150)
        with ls.steering(model, plan):
            answers, others = (ls.generate(model, asked, max_new_tokens=16, engine=e) for e in ("hf", "tl"))
        equal = sum(a == b for a, b in zip(answers, others, strict=True)) / len(asked)
        share, told = TOKEN_SHARE[dtype], f"{100 * equal:.0f} % equal"
        yield Row(f"steered answers in {dtype}, hf against tl", told, f"≥ {100 * share:.0f} %", equal >= share)
        changed = 0.0
        for i, name in enumerate(names):
            if name in plan.sites:
                h = vectors[:, i].to(device, getattr(torch, dtype))
                ratio = plan.operator(name, h)(h).double().norm(dim=-1) / h.double().norm(dim=-1)
                changed = max(changed, float((ratio - 1).abs().max()))
        kept = NORM_BOUND[dtype]
        yield Row(f"norms under selective steering in {dtype}", f"{changed:.1e}", f"≤ {kept:g}", changed <= kept)


def several_devices(device: str) -> Iterator[Row]:
    """A HookedTransformer split over two devices answers as one on a single device does."""
    count = torch.cuda.device_count() if device.startswith("cuda") else 0
    what = "n_devices=2, answers as on one device"
    if count < 2:
        yield Row(what, f"not run: {count} accelerators" if count != 1 else "not run: 1 accelerator")
        return
    asked = list(ls.load_contrast("organism/refusal").report.positive[:8])
    one, two = (
        ls.generate(ls.load_model("organism/qwen2", device=device, n_devices=n), asked, engine="tl", max_new_tokens=16)
        for n in (1, 2)
    )
    equal = sum(a == b for a, b in zip(one, two, strict=True))
    yield Row(what, f"{equal} of {len(asked)} equal", "all", equal == len(asked))


def large_folder(folder: Path, *, small: bool) -> str:
    """Write a random Llama of about a billion parameters, with an organism's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = info_of(ls.load_model("organism/llama")).folder
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    torch.manual_seed(0)
    config = LlamaConfig(**(TINY if small else BILLION), vocab_size=len(tokenizer), max_position_embeddings=1024)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def at_size(device: str, folder: str, *, small: bool, turns: int) -> Iterator[Row]:
    """Recording against a bare forward, and steered generation against plain generation of Hugging Face."""
    model = ls.load_model(folder, dtype="bfloat16", device=device, backend="bridge")
    contrast = ls.load_contrast("organism/refusal")
    asked = list(contrast.fit.positive[: 4 if small else 64])
    tokenizer, twin = info_of(model).tokenizer, hf_twin(model)
    texts = [tokenizer.apply_chat_template(list(p.messages), tokenize=False, add_generation_prompt=True) for p in asked]
    given = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    given = {k: v.to(device) for k, v in given.items() if k != "token_type_ids"}
    new = 4 if small else 64
    pair = Contrast(PromptSet(tuple(asked[::2])), PromptSet(tuple(asked[1::2])))
    plan = ls.selective_steering(ls.calibrate(ls.record(model, pair, progress=False)), 150, at="norm_out")
    wait: Callable[[], None] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def bare() -> None:
        with torch.inference_mode():
            twin.model(**given, use_cache=False)
        wait()

    def recorded() -> None:
        ls.record(model, pair, progress=False)
        wait()

    def plain() -> None:
        with torch.inference_mode():
            twin.generate(**given, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        wait()

    def steered() -> None:
        with ls.steering(model, plan):
            ls.generate(model, asked, max_new_tokens=new)
        wait()

    size = sum(p.numel() for p in twin.parameters()) / 1e9
    for what, one, other in (
        ("recording at all norm outputs, against a bare forward", recorded, bare),
        ("generation steered at all norm outputs, against plain generate", steered, plain),
    ):
        seconds = run({"ours": one, "theirs": other}, turns)
        ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
        yield Row(f"{what}, random Llama of {size:.2f} B, bfloat16", f"speed {ratios[len(ratios) // 2]:.2f}")


def bank_in_vllm(device: str, folder: str, *, small: bool) -> Iterator[Row]:
    """A sweep over twelve angles by vLLM, as adapters in one batch, against the hooks."""
    what = "sweep of 12 angles, vLLM against hf"
    if find_spec("vllm") is None:
        yield Row(what, "not run: vLLM is not installed")
        return
    model = ls.load_model(folder, dtype="bfloat16", device=device, backend="bridge")
    contrast = ls.load_contrast("organism/refusal")
    n = 2 if small else 32
    pair = Contrast(contrast.fit.positive[:n], contrast.fit.negative[:n])
    plan = ls.selective_steering(ls.calibrate(ls.record(model, pair, progress=False)), 0, at="norm_out")
    asked = [p for p in contrast.report.positive[:n] for _ in ANGLES]
    turned = plan.at([angle for _ in range(n) for angle in ANGLES])
    with ls.vllm_engine(model, adapters=len(ANGLES), gpu_memory=None if device == "cpu" else 0.5) as engine:
        seconds = {}
        with ls.steering(model, turned):
            ls.generate(model, asked, engine="vllm", max_new_tokens=2)  # certificates, and the first call
            for name in ("hf", "vllm"):
                begun = time.perf_counter()
                ls.generate(model, asked, engine=name, max_new_tokens=4 if small else 64)
                seconds[name] = time.perf_counter() - begun
        verdicts = {c.verdict for c in engine.certificates}
    told = f"{len(engine.certificates)} {', '.join(verdicts)}"
    yield Row(f"{what}, certificates", told, "all pass", verdicts == {"pass"})
    yield Row(f"{what}, {len(asked)} answers", f"speed {seconds['hf'] / seconds['vllm']:.2f}")
