"""Sweeps over the angle, all angles at once, against one run an angle; the upper half of the blocks is steered."""

from __future__ import annotations

from functools import partial
from typing import Any

import lens_steer as ls
from lens_steer.data import PromptSet
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.models import sites
from lens_steer.steer.value_sweep import logits_by_value
from tests.benchmarks.timing import Ratio, ratio, run


def _upper_half(calibration: ls.Calibration) -> tuple[str, ...]:
    names = sites.resolve("norm_out", calibration.layout)
    return tuple(n for n in names if sites.parse(n).block >= calibration.n_layers // 2)


def forced_sweep(
    name: str, model: Any, calibration: ls.Calibration, prompts: PromptSet, angles: int, turns: int
) -> list[Ratio]:
    """Logits of fixed responses at many angles: the lower blocks once a prompt and every row at its own angle, against
    a forward an angle.
    """
    build = partial(ls.selective_steering, calibration, at=_upper_half(calibration))
    values = [360.0 * i / angles for i in range(angles)]
    forced = with_responses(
        prompts, ["Sure. 1. Take the hammer. 2. Go to the cave. 3. Ruin the windmill."] * len(prompts)
    )

    def at_once(engine: str) -> None:
        for _ in logits_by_value(model, build, values, forced, engine=engine):
            pass

    def one_by_one(engine: str) -> None:
        for value in values:
            with ls.steering(model, build(value)):
                for _ in response_logits(model, forced, engine=engine):
                    pass

    seconds = run(
        {
            "all angles at once, engine hf": partial(at_once, "hf"),
            "one run an angle, engine hf": partial(one_by_one, "hf"),
            "all angles at once, engine tl": partial(at_once, "tl"),
            "one run an angle, engine tl": partial(one_by_one, "tl"),
        },
        turns,
    )
    case = f"teacher-forced sweep, {angles} angles, {len(prompts)} prompts, {name}"
    return [
        ratio(case, seconds, f"all angles at once, engine {e}", f"one run an angle, engine {e}", 2)
        for e in ("hf", "tl")
    ]


def generation_sweep(
    name: str, model: Any, calibration: ls.Calibration, prompts: PromptSet, angles: int, new: int, turns: int
) -> list[Ratio]:
    """Answers at many angles: each row of a batch at its own angle, against a run an angle."""
    build = partial(ls.selective_steering, calibration, at=_upper_half(calibration))
    values = [360.0 * i / angles for i in range(angles)]

    def at_once() -> None:
        with ls.steering(model, build([v for v in values for _ in prompts])):
            ls.generate(model, list(prompts) * angles, max_new_tokens=new, engine="hf")

    def one_by_one() -> None:
        for value in values:
            with ls.steering(model, build(value)):
                ls.generate(model, prompts, max_new_tokens=new, engine="hf")

    seconds = run({"all angles at once": at_once, "one run an angle": one_by_one}, turns)
    case = f"generation sweep, {angles} angles, {len(prompts)} prompts, up to {new} new tokens, engine hf, {name}"
    return [ratio(case, seconds, "all angles at once", "one run an angle", 1)]
