"""The structure of real checkpoints, found as if their families were not known by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.inference.record import record_prompts
from lens_steer.models.layout import known_layout
from tests.test_parity import PROMPTS, relative


def test_what_is_found_is_what_is_known(models: Path, name: str, exact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found without weights, proved on them, and recorded from as the model that is known by name is."""
    monkeypatch.setattr("lens_steer.models.info.KNOWN", {})
    found: Any = ls.load_model(models / name)
    info, known = found.lens_info, exact.lens_info
    assert (info.backend, info.own_layout) == ("hf", known_layout(known.architecture, known.n_layers))
    assert all(row.error < 2e-5 for row in found.lens_proof)
    names = [
        f"blocks.{block}.{kind}" for block in (0, known.n_layers - 1) for kind in ("ln2.hook_out", "hook_attn_out")
    ]
    a, b = (record_prompts(model, PROMPTS, names) for model in (found, exact))
    assert relative(a, b) < 1e-5
