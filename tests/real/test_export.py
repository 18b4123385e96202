"""A rotation of a pretrained model as an adapter: certified, and loaded back as any user would, it answers as the hooks
do.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lens_steer as ls
from tests.real.command import classes, lens
from tests.real.conftest import SMOL
from tests.real.test_parity import digests, instructions

pytest.importorskip("peft", reason="adapters need the extra 'export'")
ANGLE, NEW = 90, 16


def test_an_adapter_answers_as_the_hooks_do(models: Path, prompts: Path, tmp_path: Path) -> None:
    """Its certificate holds in float32; on prompts that the certificate did not see, its answers are the steered ones
    and no others.
    """
    model = ("--model", models / SMOL, "--dtype", "float32")
    lens("calibrate", *model, *classes(prompts, limit=16), "--out", tmp_path / "calibration")
    said = lens(
        "export",
        "lora",
        *model,
        "--calibration",
        tmp_path / "calibration",
        "--method",
        "selective",
        "--angle",
        ANGLE,
        "--out",
        tmp_path / "adapter",
    ).printed
    assert (said["verdict"], said["equal_greedy_tokens"], said.get("refused")) == ("pass", 1.0, None)
    written = json.loads((tmp_path / "adapter" / "certificate.json").read_text(encoding="utf-8"))
    assert written["relative_logit_difference"] <= written["tolerance"] == 1e-5
    assert written["largest_change_by_plan"] > 100 * written["largest_logit_difference"]
    assert (written["dtype"], written["chat_template"]["args"]) == ("float32", {})
    calibration = ls.load_calibration(tmp_path / "calibration")
    assert tuple(written["folded_sites"]) == calibration.discriminative_sites
    texts = instructions(prompts, "harmless_val.json", 8)
    plain = ls.load_model(models / SMOL, dtype="float32")
    unsteered = ls.generate(plain, texts, max_new_tokens=NEW)
    with ls.steering(plain, ls.selective_steering(calibration, ANGLE)):
        steered = ls.generate(plain, texts, max_new_tokens=NEW)
    del plain
    adapted = ls.load_model(models / SMOL, dtype="float32", adapter=tmp_path / "adapter")
    assert digests(ls.generate(adapted, texts, max_new_tokens=NEW)) == digests(steered)
    assert sum(a != b for a, b in zip(steered, unsteered, strict=True)) >= 4
