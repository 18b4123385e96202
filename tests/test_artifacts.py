"""Calibrations on disk, and writing whole or not at all."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer._io.atomic import whole_file, whole_folder
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration


@pytest.fixture
def saved(calibration: Calibration, tmp_path: Path) -> Path:
    ls.save_calibration(calibration, tmp_path / "cal")
    return tmp_path / "cal"


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return bool(torch.allclose(a, b, atol=0))
    if hasattr(a, "__dataclass_fields__"):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


def test_saved_equals_loaded(saved: Path, calibration: Calibration) -> None:
    """Every field."""
    loaded = ls.load_calibration(saved)
    for field in fields(calibration):
        assert equal(getattr(loaded, field.name), getattr(calibration, field.name)), field.name


def test_the_documented_contents(saved: Path) -> None:
    """The tensors and keys that other tools may rely on."""
    tensors, facts = load_file(saved / "calibration.safetensors"), json.loads((saved / "calibration.json").read_text())
    assert tensors["candidates"].shape == tensors["mean_positive"].shape == tensors["mean_negative"].shape == (24, 128)
    assert tensors["basis"].shape == (2, 128)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    keys = (
        "format_version model backend sites selected_site discriminative_sites discriminative_blocks "
        "mean_projection_positive "
        "mean_projection_negative rule n_positive n_negative prompt_hash seed versions weight_processing"
    )
    assert set(keys.split()) <= set(facts)
    signs = [
        p * n < 0 for p, n in zip(facts["mean_projection_positive"], facts["mean_projection_negative"], strict=True)
    ]
    assert [s for s, m in zip(facts["sites"], signs, strict=True) if m] == facts["discriminative_sites"]


def damage(folder: Path, name: str) -> None:
    """One way of damaging a saved calibration."""
    tensors, facts = folder / "calibration.safetensors", folder / "calibration.json"
    loaded, read = load_file(tensors), json.loads(facts.read_text())
    if name == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:500])
    elif name == "json":
        facts.write_text("{")
    elif name == "missing":
        facts.unlink()
    elif name == "version":
        facts.write_text(json.dumps(read | {"format_version": 99}))
    elif name == "key":
        del read["sites"]
        facts.write_text(json.dumps(read))
    elif name == "site":
        facts.write_text(json.dumps(read | {"selected_site": "blocks.3.hook_resid_post"}))
    elif name == "rows":
        save_file(loaded | {"candidates": loaded["candidates"][:5].contiguous()}, tensors)
    elif name == "skewed":
        save_file(loaded | {"basis": loaded["basis"] * 1.01}, tensors)
    elif name == "nan":
        loaded["candidates"][3, 3] = float("nan")
        save_file(loaded, tensors)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated", "corrupt or truncated"),
        ("json", "corrupt or truncated"),
        ("missing", "has no calibration.json"),
        ("version", "format version 99"),
        ("key", "lacks sites"),
        ("site", "names sites that it has no row for"),
        ("rows", "does not fit together"),
        ("skewed", "not orthonormal"),
        ("nan", "candidates holds values that are not finite"),
    ],
)
def test_damaged_calibrations(saved: Path, name: str, message: str) -> None:
    """Each is refused with what is wrong and what to do."""
    damage(saved, name)
    with pytest.raises(LensSteerError, match=message) as error:
        ls.load_calibration(saved)
    assert "calibrat" in str(error.value)


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    """What was there stays, nothing new appears, not even the folder."""
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path) as work:
        (work / "old.txt").write_text("new")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "new"):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "out.jsonl"):
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["old.txt"]


def test_a_write_that_succeeds(tmp_path: Path) -> None:
    """Files and folders arrive under their names; others stay."""
    (tmp_path / "old.txt").write_text("old")
    with whole_folder(tmp_path) as work:
        (work / "sub").mkdir()
        (work / "sub" / "a.txt").write_text("a")
    with whole_file(tmp_path / "sub" / "b.txt") as path:
        path.write_text("b")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "old.txt",
        "sub/a.txt",
        "sub/b.txt",
    ]


def test_output_that_cannot_be_written(tmp_path: Path, calibration: Calibration) -> None:
    """Under a file there can be no folder; the error is one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LensSteerError, match="cannot be written"):
        ls.save_calibration(calibration, tmp_path / "file" / "cal")
    with pytest.raises(LensSteerError, match="cannot be written"), whole_file(tmp_path / "file" / "x.jsonl"):
        pass
