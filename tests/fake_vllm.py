"""A stand-in for vLLM with the few names that the engine uses: Transformers computes, PEFT applies the adapters.

It gets exactly what vLLM would get (a folder, token ids, adapters on disk), so the engine is tested up to that border
without vLLM. What lies behind it is tested by ``tests/test_vllm.py``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class SamplingParams:
    def __init__(self, **given: Any) -> None:
        assert given["temperature"] == 0.0 and given["ignore_eos"] and not given["detokenize"]
        self.max_tokens: int = given["max_tokens"]
        self.stop: list[int] = given.get("stop_token_ids", [])
        self.scored: bool = "prompt_logprobs" in given


class LLM:
    """The stand-in for ``vllm.LLM``.

    Attributes:
        fault: What is wrong with the engine: ``ignored`` (no adapter is applied), ``swapped`` (another one is),
            ``prompt only`` (adapters act on prompts, but not on what is written), or ``last`` (a request without an
            adapter gets the last one, as by vLLM 0.32 on a CPU); empty: nothing.
        started: The arguments of each start.
        batches: For each call the names of the adapters, and None for sequences without one.
    """

    fault: ClassVar[str] = ""
    started: ClassVar[list[dict[str, Any]]] = []
    batches: ClassVar[list[list[str | None]]] = []

    def __init__(self, model: str, **given: Any) -> None:
        from transformers import AutoModelForCausalLM

        assert given["enable_prefix_caching"] is False and given["skip_tokenizer_init"] is True
        type(self).started.append({"model": model, **given})
        self._folder = model
        self._base = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, given["dtype"]), attn_implementation="eager"
        ).eval()
        self._steered: dict[str, Any] = {}
        self.stopped = False
        core = SimpleNamespace(shutdown=lambda: setattr(self, "stopped", True))
        self.llm_engine = SimpleNamespace(engine_core=core)

    def _model(self, request: LoRARequest | None) -> Any:
        if request is None and self.fault == "last" and self._steered:
            return list(self._steered.values())[-1]
        if request is None or self.fault == "ignored":
            return self._base
        if request.lora_path not in self._steered:
            from peft import PeftModel
            from transformers import AutoModelForCausalLM

            base = AutoModelForCausalLM.from_pretrained(self._folder, attn_implementation="eager").float()
            self._steered[request.lora_path] = PeftModel.from_pretrained(base, request.lora_path).eval()
        if self.fault == "swapped" and len(self._steered) > 1:
            return next(m for path, m in self._steered.items() if path != request.lora_path)
        return self._steered[request.lora_path]

    @torch.inference_mode()
    def generate(
        self, prompts: list[Any], params: SamplingParams, *, lora_request: list[Any], use_tqdm: bool
    ) -> list[Any]:
        assert len(prompts) == len(lora_request) and not use_tqdm
        type(self).batches.append([None if r is None else r.lora_name for r in lora_request])
        return [self._one(p["prompt_token_ids"], params, r) for p, r in zip(prompts, lora_request, strict=True)]

    def _one(self, ids: list[int], params: SamplingParams, request: LoRARequest | None) -> Any:
        model = self._model(request)
        scored = None
        if params.scored:
            logs = model(torch.tensor([ids])).logits[0].float().log_softmax(dim=-1)
            scored = [None, *({t: SimpleNamespace(logprob=float(logs[i, t]))} for i, t in enumerate(ids[1:]))]
        written: list[int] = []
        if not params.scored:
            writes = self._base if self.fault == "prompt only" else model
            while len(written) < params.max_tokens and not (written and written[-1] in params.stop):
                written.append(int(writes(torch.tensor([ids + written])).logits[0, -1].argmax()))
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=written)], prompt_logprobs=scored)


def install(monkeypatch: pytest.MonkeyPatch, fault: str = "") -> type[LLM]:
    """Put the stand-in in the place of vLLM for one test, and return its class."""
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.__spec__ = ModuleSpec("vllm", None)
    vars(vllm).update(LLM=LLM, SamplingParams=SamplingParams)
    vars(request).update(LoRARequest=LoRARequest)
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(LLM, "fault", fault)
    monkeypatch.setattr(LLM, "started", [])
    monkeypatch.setattr(LLM, "batches", [])
    return LLM
