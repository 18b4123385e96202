"""Recording class means alone: the same calibration as from all activations, and the same boundaries by a second
pass.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.data import Contrast
from lens_steer.errors import LensSteerError
from lens_steer.geometry.streamed import boundaries

NUMBERS = (
    "mean_projection_positive",
    "mean_projection_negative",
    "mean_positive",
    "mean_negative",
    "candidates",
    "basis",
)


@pytest.mark.parametrize("engine", ["tl", "hf"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rule": "official"},
        {"candidate_norm": "raw"},
        {"candidate_norm": "sample_unit"},
        {"candidate_norm": "angular"},
    ],
)
def test_the_calibration_is_the_same(qwen: Any, refusal: Any, options: dict[str, Any], engine: str) -> None:
    """Directions, plane, discriminative sites and every mean, to 1e-6 of the means' own size."""
    full = ls.calibrate(ls.record(qwen, refusal, engine="tl", progress=False), **options)
    lean = ls.calibrate(ls.record(qwen, refusal, engine=engine, keep="moments", progress=False), **options)
    for name in (
        "sites",
        "selected_site",
        "discriminative_sites",
        "discriminative_blocks",
        "n_positive",
        "n_negative",
        "prompt_hash",
    ):
        assert getattr(full, name) == getattr(lean, name), name
    for name in NUMBERS:
        a, b = getattr(full, name), getattr(lean, name)
        scale = float(a.abs().max())
        assert torch.allclose(a, b, atol=(1e-6 if engine == "tl" else 2e-5) * scale, rtol=0), name
    assert lean.statistics is None


def test_responses_are_pooled_alike(qwen: Any) -> None:
    contrast = ls.load_contrast("organism/honesty")
    full = ls.record(qwen, contrast, "resid_post", pooling="response", progress=False)
    lean = ls.record(qwen, contrast, "resid_post", pooling="response", keep="moments", progress=False)
    assert torch.allclose(
        lean.mean_positive, full.positive.double().mean(dim=0), atol=1e-6 * float(full.positive.abs().max())
    )
    assert (lean.n_positive, lean.pooling) == (full.n_positive, "response")


def test_boundaries_by_a_second_pass(qwen: Any, refusal: Any, calibration: Any) -> None:
    """What the stored projections give, at every site."""
    found = boundaries(qwen, refusal, calibration)
    assert tuple(found) == calibration.sites
    for name in calibration.sites[1:]:
        expected = ls.boundary(calibration, name)
        for number in ("threshold", "mean_positive", "std_positive", "mean_negative", "std_negative"):
            scale = abs(expected.mean_positive) + abs(expected.mean_negative) + expected.std_positive
            assert getattr(found[name], number) == pytest.approx(getattr(expected, number), abs=1e-5 * scale), (
                name,
                number,
            )


def test_nothing_grows_with_the_prompts(qwen: Any, refusal: Any) -> None:
    """After recording no tensor that is alive has a row a prompt."""
    few = Contrast(refusal.fit.positive[:37], refusal.fit.negative[:37])
    kept = ls.record(qwen, few, keep="moments", progress=False)
    alive = [t for t in gc.get_objects() if type(t) is Tensor and t.ndim == 3 and t.shape[0] == 37]
    assert not alive
    assert repr(kept) == "Moments(37 positive, 37 negative, 24 sites of organism/qwen2, d_model 128)"


def test_what_moments_cannot_give(qwen: Any, refusal: Any) -> None:
    lean = ls.record(qwen, refusal, keep="moments", progress=False)
    with pytest.raises(
        LensSteerError, match="direction='fisher' needs the activations themselves: record them with keep='all'"
    ):
        ls.calibrate(lean, direction="fisher")
    made = ls.calibrate(lean)
    with pytest.raises(LensSteerError, match="has no projections of its prompts"):
        ls.boundary(made)
    with pytest.raises(LensSteerError, match="keep='means': use 'all' or 'moments'"):
        ls.record(qwen, refusal, keep="means", progress=False)  # type: ignore[call-overload]
    with pytest.raises(LensSteerError, match="needs at least two prompts of each class"):
        boundaries(qwen, Contrast(refusal.fit.positive[:1], refusal.fit.negative), made)


def test_the_command_keeps_moments(
    tmp_path: Path, qwen: Any, refusal: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same calibration on disk but for the statistics, and steering with it; what cannot be had is refused before
    the model is loaded.
    """
    from tests.test_cli import run

    code, _, err = run(monkeypatch, capsys, "calibrate", "--keep", "moments", "--out", tmp_path / "cal")
    assert code == 0, err
    made = ls.load_calibration(tmp_path / "cal")
    full = ls.calibrate(ls.record(qwen, refusal, progress=False))
    assert made.discriminative_sites == full.discriminative_sites
    assert made.statistics is None
    assert ls.selective_steering(made, 90).sites == full.discriminative_sites
    for options, message in (
        (("--keep", "means"), "--keep 'means': use all or moments"),
        (("--keep", "moments", "--direction", "sparse"), "--direction sparse needs the activations themselves"),
    ):
        code, _, err = run(monkeypatch, capsys, "calibrate", *options, "--out", tmp_path / "other")
        assert (code, message in err) == (2, True)
        assert not (tmp_path / "other").exists()
