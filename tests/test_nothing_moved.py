"""A plan that did nothing says so: no token, no gate, the identity, or a divergence that is rounding."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.steer.effects import MOST_WAITING, Tally

PROMPTS = ["What is 4 plus 3?", "Hi"]


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="lens_steer")


def gated(calibration: Any, threshold: float) -> ls.SteeringPlan:
    return ls.adaptive_angular(calibration, 90, threshold=threshold)


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_each_reason_is_told_once_a_block(
    qwen: Any, calibration: Any, caplog: pytest.LogCaptureFixture, engine: str
) -> None:
    """However many calls ran inside; what one call does not move another may; the answers bear it out."""
    plain = ls.generate(qwen, PROMPTS, max_new_tokens=4, engine=engine)
    for plan, message in (
        (
            ls.selective_steering(calibration, 0),
            "the plan 'selective' changed no activation: angle=0.0 is the identity here",
        ),
        (ls.selective_steering(calibration, 360), "changed no activation: angle=360.0 is the identity"),
        (ls.act_add(calibration, 0.0), "the plan 'act-add' changed no activation: coefficient=0.0 is the identity"),
        (gated(calibration, 1e9), "the plan 'adaptive' changed no activation: no gate fired on any steered token"),
        (
            ls.selective_steering(calibration, 90, positions="all[400]"),
            "steered no token: nothing stood at the positions 'all[400]'",
        ),
    ):
        caplog.clear()
        with ls.steering(qwen, plan):
            assert ls.generate(qwen, PROMPTS, max_new_tokens=4, engine=engine) == plain
            assert ls.generate(qwen, PROMPTS[:1], max_new_tokens=4, engine=engine) == plain[:1]
            assert not caplog.messages
        (told,) = caplog.messages
        assert message in told
    caplog.clear()
    long = "one two three four five six seven eight nine ten " * 3
    with ls.steering(qwen, ls.selective_steering(calibration, 90, positions="all[25]")):
        ls.generate(qwen, ["Hi", long], max_new_tokens=1, batch_size=1, engine=engine)
    with ls.steering(qwen, gated(calibration, -1e9)):
        ls.generate(qwen, PROMPTS, max_new_tokens=1, engine=engine)
    with ls.steering(qwen, ls.selective_steering(calibration, [0.0, 90.0])):
        ls.generate(qwen, PROMPTS, max_new_tokens=1, engine=engine)
    with ls.steering(qwen, ls.selective_steering(calibration, 0), tell=False):
        ls.generate(qwen, PROMPTS, max_new_tokens=1, engine=engine)
    with ls.steering(qwen, ls.selective_steering(calibration, 0)):
        pass
    assert not caplog.messages


def test_a_gate_that_fires_on_tokens_that_are_not_steered(
    qwen: Any, calibration: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Counts only where it is steered; a gate that fires under the identity leaves the identity to blame."""
    site = calibration.discriminative_sites[:1]
    with ls.monitor(qwen, ls.boundary(calibration, site[0]), gate="above") as seen:
        ls.generate(qwen, PROMPTS[:1], max_new_tokens=1)
    rho = [row["projection"] for row in seen.of(0)]
    threshold = (max(rho[:-1]) + rho[-1]) / 2 if rho[-1] < max(rho[:-1]) else rho[-1] + 1
    for positions, message in (("prompt[-1]", "no gate fired on any steered token"), ("all", None)):
        caplog.clear()
        with ls.steering(qwen, ls.adaptive_angular(calibration, 90, threshold=threshold, at=site, positions=positions)):
            ls.generate(qwen, PROMPTS[:1], max_new_tokens=1)
        assert len(caplog.messages) == (message is not None)
        assert message is None or message in caplog.text
    found = ls.boundary(calibration)
    with ls.steering(qwen, ls.mirror_projection(found, 0.0)):
        ls.generate(qwen, PROMPTS, max_new_tokens=1)
    assert "changed no activation" in caplog.text
    assert "is the identity here" in caplog.text


def test_effects_are_counted_beside_it(qwen: Any, calibration: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With a log of effects the same is told, and a recording that stops early is looked at too."""
    log = ls.EffectLog()
    with ls.steering(qwen, gated(calibration, 1e9), effects=log):
        ls.record(
            qwen,
            ls.Contrast(ls.PromptSet((ls.Prompt.of("Hi"),)), ls.PromptSet((ls.Prompt.of("Ho"),))),
            ["blocks.9.hook_resid_post"],
            progress=False,
        )
    assert log.gate_fire_rate == 0
    assert "no gate fired" in caplog.text


def test_divergences_that_are_rounding(qwen: Any, calibration: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A turn by a millionth of a degree changes bits, and nothing of the next tokens."""
    for angle, told in ((0.0, True), (1e-6, True), (150.0, False)):
        caplog.clear()
        ls.token_divergence(qwen, ls.selective_steering(calibration, angle), PROMPTS, ["7.", "Hello."])
        assert (
            caplog.messages
            == ["the plan 'selective' moved nothing: both divergences are below 1e-06 nats at every token"] * told
        )


def test_once_something_changed_nothing_is_looked_at(
    qwen: Any, calibration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison costs one site of one forward, whatever follows."""
    calls, see = [], Tally.see
    monkeypatch.setattr(Tally, "see", lambda self, *args: calls.append(1) or see(self, *args))
    with ls.steering(qwen, ls.selective_steering(calibration, 90)):
        ls.generate(qwen, PROMPTS, max_new_tokens=8)
    assert len(calls) == 1


def test_flags_of_a_device_are_read_later() -> None:
    """Queued until they are settled, or until there are too many; on meta tensors nothing could be read, so a stand-in
    is used.
    """
    tally, h = Tally(), torch.zeros(1, 2, 3)

    class Elsewhere(torch.Tensor):
        @property
        def device(self) -> Any:  # type: ignore[override]
            return torch.device("cuda")

    there = h.as_subclass(Elsewhere)
    tally.see(there, there + 1, None, None)
    assert not tally.changed
    tally.settle()
    assert tally.changed
    tally = Tally()
    for _ in range(MOST_WAITING):
        tally.see(there, there, None, None)
    tally.see(there, there + 1, None, None)
    assert tally.changed
