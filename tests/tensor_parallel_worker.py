"""One of several processes that share a model by tensor parallelism: does it record and steer as one process does?

Run by ``tests/test_tensor_parallel.py`` with ``python -m torch.distributed.run``; each process writes one line.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoModelForCausalLM

import lens_steer as ls
from lens_steer.inference import batching
from lens_steer.inference.attach import attached
from lens_steer.models import sites
from lens_steer.models.loading import info_of


def seen(model: Any, ids: Tensor, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The outputs of all norms before attention and MLP, and the logits."""
    found: dict[str, Tensor] = {}

    def keep(h: Tensor, hook: Any, name: str) -> None:
        found[name] = h.detach().clone()

    functions = [(name, lambda h, hook, name=name: keep(h, hook, name)) for name in names]
    with attached(model, functions, reads=True), torch.inference_mode():
        logits = model(ids).logits
    return torch.stack([found[name] for name in names]), logits


def main(out: str) -> None:
    model = ls.load_model("organism/qwen2")
    info = replace(info_of(model), backend="hf")
    names = sites.resolve("norm_out", info.layout)
    ids = torch.tensor([batching.encode(info.tokenizer, ls.Prompt.of("How do I burn a bridge?"))])
    shared: Any = AutoModelForCausalLM.from_pretrained(
        info.folder, dtype=torch.float32, tp_plan="auto", attn_implementation="eager"
    ).eval()
    shared.lens_info = info
    plan = ls.selective_steering(ls.load_calibration("figures/calibration"), 150)
    whole, rows = ls.hf_twin(model), []
    plain = seen(whole, ids, names)[1]
    for each in (None, plan):
        found = []
        for one in (whole, shared):
            if each is None:
                found.append(seen(one, ids, names))
            else:
                with ls.steering(one, each):
                    found.append(seen(one, ids, names))
        rows += [float((found[0][i] - found[1][i]).abs().max()) for i in (0, 1)]
    moved = float((found[1][1] - plain).abs().max())
    part = shared.model.layers[0].self_attn.q_proj.weight.to_local().shape[0]
    line = " ".join(map(str, (dist.get_rank(), part, *rows, moved)))
    Path(f"{out}.{dist.get_rank()}").write_text(line + "\n", encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
