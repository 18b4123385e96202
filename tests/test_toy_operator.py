"""CONTRIBUTING's recipe for an operator, tried: one whose vector has a name that no other operator has, registered for a test alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.affine import NOT_AFFINE, affine_map
from lens_steer.interop.exports.merged import export_merged
from lens_steer.models.loading import info_of
from lens_steer.operators.addition import prepared, values
from lens_steer.operators.catalogue import OPERATORS, Operator, bind, effect
from lens_steer.steer.plans import Step

SITE = "blocks.4.hook_resid_post"
PROMPTS = ls.PromptSet(tuple(ls.Prompt.of(t) for t in ("What is 4 plus 3?", "Hello there")))


def pull(h: Tensor, anchor: Tensor, *, strength: Any, mode: str = "all", limit: float | None = None) -> Tensor:
    """``h' = h + s (a − h)``: a token's way to a point, or with ``mode="far"`` only that of tokens farther from it than the limit."""
    return _pulled(h, prepared(anchor, h), values(strength, prepared(anchor, h)), mode, limit)


def _pulled(h: Tensor, anchor: Tensor, strength: Tensor, mode: str, limit: float | None) -> Tensor:
    x = h.to(anchor.dtype)
    step = strength.reshape(*strength.shape, *[1] * (x.ndim - strength.ndim)) * (anchor - x)
    return torch.where(_far(h, anchor, mode, limit)[..., None], (x + step).to(h.dtype), h)


def _far(h: Tensor, anchor: Tensor, mode: str, limit: float | None) -> Tensor:
    return (mode == "all") | ((anchor - h.to(anchor.dtype)).norm(dim=-1) > (limit or 0.0))


def _bind(p: Any, like: Tensor) -> Any:
    anchor = prepared(p["anchor"], like)
    return partial(
        _pulled, anchor=anchor, strength=values(p["strength"], anchor), mode=p.get("mode", "all"), limit=p.get("limit")
    )


def _gate(p: Any, like: Tensor) -> Any:
    return partial(_far, anchor=prepared(p["anchor"], like), mode=p.get("mode", "all"), limit=p.get("limit"))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Operator(
        "pull", pull, _bind, ("anchor", "strength"), ("mode", "limit"), by_row="strength", gate=_gate,
        vectors=("anchor",), choices=("mode",), optional=("limit",),
    )  # fmt: skip
    monkeypatch.setitem(OPERATORS, "pull", toy)


@pytest.fixture
def anchor(qwen: Any) -> Tensor:
    return torch.randn(qwen.cfg.d_model, generator=torch.Generator().manual_seed(3))


def plan_of(model: Any, **parameters: Any) -> ls.SteeringPlan:
    info = info_of(model)
    return ls.SteeringPlan(
        "pull", (Step("pull", (SITE,), parameters),), "all", info.name, info.architecture, info.n_layers, info.d_model
    )


def recorded(model: Any, engine: str) -> Tensor:
    return ls.record(model, ls.Contrast(PROMPTS, PROMPTS), [SITE], engine=engine, progress=False).positive[:, 0]


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_it_steers(qwen: Any, anchor: Tensor, engine: str) -> None:
    """Half way to the anchor, on both engines, and each row as far as it is told; effects are counted."""
    before, log = recorded(qwen, engine), ls.EffectLog()
    with ls.steering(qwen, plan_of(qwen, anchor=anchor, strength=0.5), effects=log):
        assert torch.allclose(recorded(qwen, engine), (before + anchor) / 2, atol=1e-5)
    assert log.gate_fire_rate == 1
    with ls.steering(qwen, plan_of(qwen, anchor=anchor, strength=[1.0, 0.0])):
        after = recorded(qwen, engine)
    assert torch.allclose(after, torch.stack([anchor, before[1]]), atol=1e-5)


def test_its_gate(anchor: Tensor, qwen: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked like any other's, and told where it never fires."""
    h = torch.stack([anchor, anchor + 9])
    moved, did = effect("pull", h, {"anchor": anchor, "strength": 1.0, "mode": "far", "limit": 1.0})
    assert did.fired.tolist() == [False, True]
    assert torch.allclose(moved, anchor.expand(2, -1), atol=1e-5)
    with ls.steering(qwen, plan_of(qwen, anchor=anchor, strength=1.0, mode="far", limit=1e9)):
        ls.generate(qwen, "Hi", max_new_tokens=1)
    assert "the plan 'pull' changed no activation: no gate fired" in caplog.text


def test_a_plan_keeps_it(qwen: Any, anchor: Tensor, tmp_path: Path) -> None:
    """Saved and loaded it is equal; a vector as long as the rows is no value a row; it is described without its vectors."""
    plan = plan_of(qwen, anchor=anchor, strength=[0.25, 0.5], mode="all", limit=None)
    ls.save_plan(plan, tmp_path / "plan")
    again = ls.load_plan(tmp_path / "plan")
    assert again == plan != plan_of(qwen, anchor=-anchor, strength=[0.25, 0.5], mode="all", limit=None)
    assert again.n_rows == 2
    assert again.parameters == {"strength": [0.25, 0.5], "mode": "all", "limit": None}
    assert again.row(1)["strength"] == 0.5
    assert "strength" in repr(again)
    h = torch.randn(2, 3, len(anchor), generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.operator(SITE, h)(h), pull(h, anchor, strength=torch.tensor([0.25, 0.5], dtype=torch.float64)))
    assert torch.equal(bind("pull", again.steps[0].at_rows(torch.tensor([1])), h)(h[1:]), pull(h[1:], anchor, strength=0.5))


def test_exports_say_what_is_missing(qwen: Any, anchor: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an affine map nor a reason: where to write it. With a reason: that."""
    plan = plan_of(qwen, anchor=anchor, strength=0.5)
    with pytest.raises(LensSteerError, match="operator 'pull' has no affine map here: write it in affine_map"):
        affine_map("pull", plan.steps[0].parameters)
    monkeypatch.setitem(NOT_AFFINE, "pull", "shrinks the whole space, which has no low rank")
    with pytest.raises(LensSteerError, match="shrinks the whole space"):
        export_merged(plan, qwen, tmp_path / "merged")


def test_what_is_no_number_is_refused(qwen: Any, anchor: Tensor) -> None:
    """By the parameter's own name; None only where the operator takes it."""
    for parameters, message in (
        ({"anchor": anchor, "strength": "far"}, "strength='far' is not a number"),
        ({"anchor": anchor, "strength": None}, "strength=None is not a number"),
        ({"anchor": anchor, "strength": 1.0, "limit": [1.0, 2.0]}, "operator 'pull' takes one number here"),
    ):
        with pytest.raises(LensSteerError, match=message):
            plan_of(qwen, **parameters)
    with pytest.raises(LensSteerError, match="operator='spin': use one of"):
        Step("spin", (SITE,), {"direction": anchor})
