"""SteeringVectors in every layout that there is, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lens_steer.errors import LensSteerError
from lens_steer.interop.imports.steering_vectors import import_steering_vectors
from tests.imported import WIDTH


def test_every_layout_of_a_steering_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's object, its two fields, a bare dict, safetensors: one and the same; layers from the end; half
    precision kept.
    """
    before = set(torch.serialization.get_safe_globals())
    layers = {1: torch.randn(WIDTH, dtype=torch.bfloat16), 3: torch.randn(WIDTH, dtype=torch.bfloat16)}
    module = ModuleType("steering_vectors.steering_vector")
    kind = make_dataclass("SteeringVector", [("layer_activations", dict), ("layer_type", str, "decoder_block")])
    kind.__module__ = module.__name__
    vars(module)["SteeringVector"] = kind
    monkeypatch.setitem(sys.modules, "steering_vectors", ModuleType("steering_vectors"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save(kind(layers), tmp_path / "object.pt")
    torch.save(kind(layers), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    monkeypatch.delitem(sys.modules, module.__name__)
    torch.save({"layer_activations": layers, "layer_type": "decoder_block"}, tmp_path / "fields.pt")
    torch.save({1: layers[1][None], -1: layers[3]}, tmp_path / "bare.pt")
    save_file(
        {f"layer_{n}": v for n, v in layers.items()}, tmp_path / "plain.safetensors", {"layer_type": "decoder_block"}
    )
    for name in ("object.pt", "old.pt", "fields.pt", "bare.pt", "plain.safetensors"):
        found = import_steering_vectors(tmp_path / name, n_layers=4)
        assert found.sites == ("blocks.1.hook_resid_post", "blocks.3.hook_resid_post")
        assert torch.equal(found.directions, torch.stack([layers[1], layers[3]]))
        assert (found.dtype, found.details["layer_type"]) == ("bfloat16", "decoder_block")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({}, {}, "without vectors by layer"),
        ([1, 2], {}, "holds a list"),
        (torch.ones(3), {}, "holds a Tensor"),
        ({"twelve": torch.ones(3)}, {}, "no layer number"),
        ({"layer_activations": {1: torch.ones(3)}, "layer_type": 7}, {}, "without vectors by layer"),
        ({1: torch.ones(3)}, {"layer_type": "block"}, "use one of decoder_block"),
        ({1: torch.ones(3)}, {"layer_type": "mlp"}, "needs the model's architecture"),
        ({1: torch.ones(3)}, {"layer_type": "mlp", "architecture": "gemma2"}, "no site between"),
        ({-1: torch.ones(3)}, {}, "counts from the end"),
        ({-9: torch.ones(3)}, {"n_layers": 4}, "does not exist"),
        ({4: torch.ones(3)}, {"n_layers": 4}, "does not exist in a model of 4 blocks"),
        ({1: torch.ones(3), "1": torch.ones(3)}, {}, "two vectors for"),
        ({1: torch.ones(2, 3)}, {}, "has shape"),
        ({1: torch.tensor([1.0, float("inf")])}, {}, "not finite"),
    ],
)
def test_bad_steering_vectors(tmp_path: Path, content: Any, options: dict[str, Any], message: str) -> None:
    """Each refused with what is accepted."""
    torch.save(content, tmp_path / "sv.pt")
    with pytest.raises(LensSteerError, match=message):
        import_steering_vectors(tmp_path / "sv.pt", **options)
