"""What a norm computes, tried out on the module itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lens_steer.models.norms import epsilon_of, norm_formula, normed


@pytest.mark.parametrize(
    ("module", "formula"),
    [
        (nn.LayerNorm(12, eps=1e-3), "LayerNorm + b"),
        (nn.LayerNorm(12, bias=False), "LayerNorm"),
        (nn.LayerNorm(12, elementwise_affine=False), "LayerNorm without gain"),
        (nn.RMSNorm(12, eps=1e-6), "RMSNorm"),
        (nn.Linear(12, 12), None),
        (nn.SiLU(), None),
        (nn.Identity(), None),
        (nn.Dropout(), None),
        (nn.Embedding(12, 12), None),
        (nn.Sequential(nn.LayerNorm(12)), None),
        (nn.PReLU(12), None),
    ],
)
def test_formulas_of_norms(module: nn.Module, formula: str | None) -> None:
    """Tried out on the module, which is left as it was; ε is found; float64 gives what the module gives."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert norm_formula(module) == formula
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    if formula is not None:
        h = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(normed(module, formula, h).float(), module(h), atol=1e-5)
        eps = getattr(module, "eps", 0)
        assert epsilon_of(module) == pytest.approx(eps, rel=1e-2)
