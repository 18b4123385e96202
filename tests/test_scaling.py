"""A rotation with a norm error of a known size: its length, its direction, its limit, and bad factors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_steer.errors import LensSteerError
from lens_steer.operators.catalogue import bind
from lens_steer.operators.rotation import selective_rotation
from lens_steer.operators.scaling import scaled_rotation
from tests.test_rotation import ANGLES, DTYPES, LEADING, SEEDS, SIZES, draw


@given(SEEDS, SIZES, ANGLES, LEADING, st.floats(0.1, 10))
@settings(deadline=None, max_examples=60)
def test_the_norm_error_is_what_was_asked(
    seed: int, d_model: int, angle: float, leading: tuple[int, ...], scale: float
) -> None:
    """Every vector is s times as long as it was, and points where SS points it."""
    h, basis = draw(seed, d_model, leading)
    moved, turned = scaled_rotation(h, basis, angle, scale), selective_rotation(h, basis, angle)
    assert torch.allclose(moved.norm(dim=-1) / h.norm(dim=-1) - 1, torch.tensor(scale - 1).double(), atol=1e-9)
    assert torch.allclose(
        torch.nn.functional.normalize(moved, dim=-1), torch.nn.functional.normalize(turned, dim=-1), atol=1e-12
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_one_it_is_the_rotation_to_the_bit(dtype: torch.dtype) -> None:
    """In every dtype, so that the rotation itself is the dose of no error."""
    h, basis = draw(3, 33, (50,))
    given_ = {"basis": basis, "angle": 150.0}
    x = h.to(dtype)
    assert torch.equal(bind("selective_scaled", {**given_, "scale": 1}, x)(x), bind("selective", given_, x)(x))


@given(SEEDS, ANGLES, ANGLES, st.floats(0.5, 2), st.floats(0.5, 2))
@settings(deadline=None, max_examples=30)
def test_errors_multiply_and_angles_add(seed: int, a: float, b: float, s: float, t: float) -> None:
    h, basis = draw(seed, 12)
    twice = scaled_rotation(scaled_rotation(h, basis, a, s), basis, b, t)
    assert torch.allclose(twice, scaled_rotation(h, basis, a + b, s * t), atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_is_none(scale: float) -> None:
    """Refused by the function and when a hook is made."""
    h, basis = draw(0, 8)
    message = rf"scale={scale!r} is not a finite number above zero: give one such as 1.05"
    with pytest.raises(LensSteerError, match=message):
        scaled_rotation(h, basis, 30.0, scale)
    with pytest.raises(LensSteerError, match=message):
        bind("selective_scaled", {"basis": basis, "angle": 30.0, "scale": scale}, h)
