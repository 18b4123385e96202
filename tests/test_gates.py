"""The organisms' gates, measured on the committed weights, and the table that the README shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analyses.gates import table
from lens_steer.models import ORGANISM_FOLDER
from lens_steer.organisms import gates

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
def test_gates_on_the_committed_weights(family: str) -> None:
    """Every gate passes, and the committed measurement is what the weights give (to a few answers of rounding)."""
    folder = ORGANISM_FOLDER / family
    measured = gates.measure(*gates.load_folder(folder))
    missed = [f"{g.name}: {g.value:.3f}" for g in measured if not g.passed]
    assert not missed
    committed = {g["name"]: g["value"] for g in json.loads((folder / "gates.json").read_text(encoding="utf-8"))}
    for gate in measured:
        assert gate.value == pytest.approx(committed[gate.name], abs=0.02), gate.name


def test_the_readme_shows_the_measured_table() -> None:
    """No number of the table was typed by hand."""
    assert table() in README.read_text(encoding="utf-8")


def test_a_missed_gate_shows() -> None:
    """A gate below its bound does not pass; one without a bound always does; an upper bound is one."""
    assert not gates.Gate("x", 0.97, True, 0.96, 0.9, 1.0, 100).passed
    assert gates.Gate("x", None, True, 0.2, 0.1, 0.3, 100).passed
    assert not gates.Gate("x", 0.65, False, 0.7, 0.6, 0.8, 100).passed
