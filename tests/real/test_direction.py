"""Arditi et al.'s selection on a pretrained model, by the command line, with few prompts; no answer is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from tests.real.command import Ended, lens
from tests.real.conftest import CODER

N_FIT, N_SELECT = 16, 6  # the model refuses few of them by its first token


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is written."""
    return tmp_path_factory.mktemp("direction") / "direction"


@pytest.fixture(scope="module")
def ended(models: Path, prompts: Path, folder: Path) -> Ended:
    """The command, in bfloat16, with the splits that were published."""
    files = {
        f"--{split}{side}": prompts / f"{'harmful' if side == 'positive' else 'harmless'}_{part}.json"
        for split, part in (("", "train"), ("select-", "val"))
        for side in ("positive", "negative")
    }
    given = [word for pair in files.items() for word in pair]
    bounds = ["--n-fit", N_FIT, "--n-select", N_SELECT, "--max-kl", "inf", "--min-induce=-inf"]
    return lens("direction", "--model", models / CODER, "--dtype", "bfloat16", *given, *bounds, "--out", folder)


@pytest.mark.slow
def test_a_direction_of_a_pretrained_model(ended: Ended, folder: Path) -> None:
    """Five tokens of ChatML, every block; the refusals begin with "I"; without a bound the choice lowers the score."""
    said: Any = ended.printed
    found = ls.load_direction(folder)
    assert (said["candidates"], len({s.position for s in found.scores})) == (5 * 24, 5)
    assert found.openings[0]["text"] == "I"
    assert found.openings[0]["share"] > 0.8
    assert found.n_given == {"fit": [N_FIT, N_FIT], "select": [N_SELECT, N_SELECT]}
    assert 0 < found.n_positive <= N_FIT and 0 < found.n_select_negative <= N_SELECT
    assert found.baseline_refusal_score > 0 > found.baseline_induce_score
    assert found.refusal_score < found.baseline_refusal_score - 2
    kept = json.loads((folder / "direction.json").read_text(encoding="utf-8"))["bounds"]
    assert kept == {"min_induce": None, "max_kl": None, "max_depth": 0.8}
    assert found.block < 19.2
