"""What the tests of imports share: directions, runs and plane configs as other projects publish them, and steering by
hand.
"""

from __future__ import annotations

import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.interop.imports.directions import DirectionSet, direction_set

WIDTH = 48  # of the tiny models


def rows(*blocks: int, kind: str = "hook_resid_post", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        f"blocks.{b}.{kind}": torch.randn(WIDTH, generator=generator, dtype=torch.float64).to(dtype) for b in blocks
    }


def a_set(directions: dict[str, Tensor], **change: Any) -> DirectionSet:
    facts: dict[str, Any] = {"model": "tiny", "architecture": "qwen2", "n_layers": 4, "source_format": "test"}
    return direction_set(directions, **(facts | change))


@cache
def loaded(folder: Path) -> Any:
    return ls.load_model(folder)


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        found = model(tokens)
    return found.logits if hasattr(found, "logits") else found


def by_hand(twin: Any, module: str, vector: Tensor, tokens: Tensor, *, before: bool = False) -> Tensor:
    """Logits with a vector added to a module's output, or its input, by a hook of PyTorch's own."""

    def added(found: Any) -> Any:
        return (found[0] + vector, *found[1:]) if isinstance(found, tuple) else found + vector

    target = twin.get_submodule(module)
    if before:
        handle = target.register_forward_pre_hook(lambda _, args: added(args))
    else:
        handle = target.register_forward_hook(lambda _, args, output: added(output))
    try:
        return logits_of(twin, tokens)
    finally:
        handle.remove()


def publish_run(folder: Path, *, position: int = -1, layer: int = 2, means: Any = None) -> Path:
    """A run in the published layout."""
    if means is None:
        means = torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for name in ("generate_directions", "select_direction"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.save(means, folder / "generate_directions" / "mean_diffs.pt")
    if isinstance(means, Tensor):
        torch.save(means[position, layer].clone(), folder / "direction.pt")
    (folder / "direction_metadata.json").write_text(json.dumps({"pos": position, "layer": layer}), encoding="utf-8")
    return folder


def plane(seed: int = 0, dtype: Any = np.float32) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    first = generator.standard_normal(WIDTH)
    first = (first / np.linalg.norm(first)).astype(dtype)
    return {
        "mode": "rotate_to",
        "first_direction": first,
        "second_direction": (generator.standard_normal(WIDTH) + first).astype(dtype),
    }


def config(entry: dict[str, Any] | None = None, *, first_norm: bool = True, blocks: int = 4) -> dict[str, Any]:
    names = [f"model.layers.{b}.{n}" for b in range(blocks) for n in ("input_layernorm", "post_attention_layernorm")]
    shared = plane() if entry is None else entry
    return dict.fromkeys(names[0 if first_norm else 1 :], shared)


def save_npy(path: Path, content: Any, protocol: int | None = None) -> Path:
    """As ``numpy.save`` does; with a protocol, as NumPy 1 did, which wrote its own arrays under another name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content, allow_pickle=True)
    if protocol is not None:
        whole = np.empty((), dtype=object)
        whole[()] = content
        header = path.read_bytes().split(b"\n", 1)[0] + b"\n"
        stream = pickle.dumps(whole, protocol=protocol)
        path.write_bytes(header + (stream.replace(b"numpy._core.", b"numpy.core.") if protocol < 4 else stream))
    return path
