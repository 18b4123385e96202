"""Where made-up activations come from: a model that does not exist."""

from __future__ import annotations

from typing import Any


def origin(n_layers: int = 4, **other: Any) -> dict[str, Any]:
    """The fields of a recording that are not of its vectors.

    >>> origin(3, pooling="response")["pooling"], origin()["n_layers"]
    ('response', 4)
    """
    model = {
        "model": "made",
        "architecture": "qwen2",
        "n_layers": n_layers,
        "backend": "hooked",
        "weight_processing": "none",
    }
    return {**model, "pooling": "last", "prompt_hash": "hash", **other}
