"""LoRA adapters in PEFT's format: writing one from factors, and loading one back onto its base.

PEFT adds ``(lora_alpha / r) B (A x)`` to a layer's output; here ``lora_alpha = r``, so the scale is 1, and A and B are
those of :mod:`lens_steer.interop.exports.folding`, of one rank in all layers (filled up with zeros), stored in float32.
Constants make an adapter with ``lora_bias``, which PEFT loads; servers may refuse it.
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

from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.folding import Factor
from lens_steer.models.loading import read_again

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(folder: Path, factors: Mapping[str, Factor], base: str) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``: exactly the layers that change, all of one rank,
    in float32.
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
    (folder / ADAPTER).chmod(0o644)  # the library makes it its writer's alone; a server is another user
    plain = {
        k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()
    }  # a set has no order of its own
    (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(model: Any, folder: str | Path) -> Any:
    """The model's base as read from its folder, with an adapter that PEFT loads, as a plain Hugging Face model."""
    with quiet():
        return peft().PeftModel.from_pretrained(fresh(model), str(folder)).get_base_model().eval()


def fresh(model: Any) -> Any:
    """The base model read anew: PEFT changes the one that it is given."""
    return read_again(model)


def peft() -> Any:
    """The library, or how to install it.

    Raises:
        LensSteerError: it is not installed.
    """
    try:
        import peft as library
    except ImportError:
        raise LensSteerError("adapters need PEFT, which is not installed: pip install 'lens-steer[export]'") from None
    return library


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings about what is meant: biases where the base layer has none, an unembedding that is tied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
