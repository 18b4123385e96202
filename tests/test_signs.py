"""Signs: a positive coefficient does what the method's name and its paper say."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.metrics.grading import grade
from lens_steer.metrics.refusal_score import refusal_scores_by_value


@pytest.mark.parametrize("organism", ["qwen2", "gemma2"])
def test_compliance_moves_towards_compliance(organism: str, refusal: Any) -> None:
    """A larger α lowers the refusal score of harmful prompts at every step, and a negative one raises that of harmless
    prompts (Steering Externalities: v_comply = −v_refusal).

    organism/llama is left out: small steps against its pooled direction raise the scores of both classes.
    """
    model = ls.load_model(f"organism/{organism}")
    calibration = ls.calibrate(ls.record(model, refusal.fit, progress=False))
    build = partial(ls.unit_addition, calibration)
    plain, steered = refusal_scores_by_value(model, build, [0.5, 1.0, 2.0], refusal.select.positive[:8])
    means = np.array([plain.mean(), *steered.mean(axis=0)])
    assert (np.diff(means) < 0).all(), means
    plain, steered = refusal_scores_by_value(model, build, [-2.0], refusal.select.negative[:8])
    assert steered.mean() > plain.mean()


def test_compliance_makes_no_harmless_request_refused(qwen: Any, refusal: Any, calibration: Any) -> None:
    """A strong addition with the wrong sign made two of five harmless requests refused."""
    harmless = refusal.select.negative[:16]

    def refused(coefficient: float) -> int:
        with ls.steering(qwen, ls.unit_addition(calibration, coefficient)):
            texts = ls.generate(qwen, harmless, max_new_tokens=24)
        return sum(grade(p, t) == "refusal" for p, t in zip(harmless, texts, strict=True))

    assert refused(8.0) == 0
    assert refused(-8.0) > 0
