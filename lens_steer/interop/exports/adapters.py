"""LoRA adapters in PEFT's format: writing them from factors, and loading them onto their base model.

PEFT adds ``(lora_alpha / r) B (A x)`` to the output of a layer. Here ``lora_alpha = r``, so the scale is 1. A and B are
the factors of :mod:`lens_steer.interop.exports.folding`, padded with zeros to the same rank in all layers and stored in
float32. Constants are stored as biases with ``lora_bias``; PEFT loads them, but servers may refuse them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lens_steer.errors import installed
from lens_steer.interop.exports.folding import Factor
from lens_steer.models.loading import read_again

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(folder: Path, factors: Mapping[str, Factor], base: str) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json`` into a folder.

    The adapter holds exactly the layers that change, all with the same rank, in float32.
    """
    rank = max([1, *(len(f.a) for f in factors.values())])
    biased = any(f.bias is not None for f in factors.values())
    tensors: dict[str, Tensor] = {}
    for module, factor in factors.items():
        missing = rank - len(factor.a)
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(factor.a, (0, 0, 0, missing)).float().contiguous()
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(factor.b, (0, missing)).float().contiguous()
        if biased:
            bias = torch.zeros(len(factor.b)) if factor.bias is None else factor.bias.float()
            tensors[f"{name}.lora_B.bias"] = bias.contiguous()
    config = peft().LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(factors),
        lora_dropout=0.0,
        bias="none",
        lora_bias=biased,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})
    # safetensors lets only the owner read the file, but a server may run as another user.
    (folder / ADAPTER).chmod(0o644)
    # Sets have no defined order, so they are sorted for equal files in every run.
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(model: Any, folder: str | Path, name: str = "default") -> Any:
    """Return PEFT's model with an adapter on the model's base, which is read again, because PEFT changes it."""
    with quiet():
        return peft().PeftModel.from_pretrained(read_again(model), str(folder), adapter_name=name).eval()


def peft() -> Any:
    """Return the PEFT library.

    Raises:
        LensSteerError: If the library is not installed; the message says how to install it.
    """
    return installed("peft", "adapters need PEFT, which is not installed: pip install 'lens-steer[export]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings about intended effects: biases where the base layer has none, and a tied unembedding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
