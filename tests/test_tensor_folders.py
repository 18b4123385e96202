"""Folders of tensors: what is written is read back, and each kind of damage is told with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer._io.tensors import TensorFolder, all_finite
from lens_steer.errors import LensSteerError
from lens_steer.figures import saving
from lens_steer.geometry.files import load_calibration, save_calibration
from lens_steer.probes.io import load_probe, save_probe
from lens_steer.steer.plans import load_plan, save_plan

FOLDER = TensorFolder(name="thing", missing="make one", again="make it again", version=2)
PLURAL = TensorFolder(name="things", missing="make some", again="make them again", facts_first=True)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with two tensors that share their storage, one of them transposed."""
    square = torch.arange(4.0).reshape(2, 2)
    FOLDER.write(tmp_path / "a", {"square": square, "transposed": square.T}, {"words": "é"})
    return tmp_path / "a"


def test_written_is_read(saved: Path) -> None:
    """And is what safetensors and json write."""
    tensors, facts = FOLDER.read(saved)
    assert tensors["square"].tolist() == tensors["transposed"].T.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert facts == {"format_version": 2, "words": "é"}
    assert (saved / "thing.json").read_text(encoding="utf-8") == json.dumps(facts, indent=1) + "\n"
    save_file(tensors, saved / "other")
    assert (saved / "other").read_bytes() == (saved / "thing.safetensors").read_bytes()
    assert load_file(saved / "thing.safetensors").keys() == tensors.keys()


def _truncate(folder: Path) -> Any:
    (folder / "thing.safetensors").write_bytes(b"abc")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "thing.safetensors").unlink(), r"^thing '.*a' has no thing\.safetensors: make one$"),
        (lambda f: (f / "thing.json").unlink(), r"has no thing\.json: make one$"),
        (_truncate, r"is corrupt or truncated \(SafetensorError: .*\): make it again$"),
        (
            lambda f: (f / "thing.json").write_text("{"),
            r"is corrupt or truncated \(JSONDecodeError: .*\): make it again$",
        ),
        (
            lambda f: (f / "thing.json").write_text("[]"),
            r"is corrupt or truncated \(AttributeError: .*\): make it again$",
        ),
        (
            lambda f: (f / "thing.json").write_text('{"format_version": 1}'),
            r"has format version 1, this release reads 2: make it again$",
        ),
    ],
)
def test_damage(saved: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(saved)
    with pytest.raises(LensSteerError, match=message):
        FOLDER.read(saved)


def test_words_of_a_plural(tmp_path: Path) -> None:
    """Its verbs, and which file is missed first."""
    with pytest.raises(LensSteerError, match=r"have no things\.json: make some$"):
        PLURAL.read(tmp_path)
    PLURAL.write(tmp_path, {"x": torch.ones(1)}, {})
    (tmp_path / "things.json").write_text("{")
    with pytest.raises(LensSteerError, match=r"are corrupt or truncated \(JSONDecodeError: Expecting property name"):
        PLURAL.read(tmp_path)
    (tmp_path / "things.json").write_text("{}")
    with pytest.raises(LensSteerError, match="have format version None, this release reads 1: make them again"):
        PLURAL.read(tmp_path)


def test_a_refusal_passes_through() -> None:
    """One that is already told is not told again as damage; anything else in the block is damage."""
    with pytest.raises(LensSteerError, match="^mine$"), FOLDER.decoding("a"):
        raise LensSteerError("mine")
    told = r"^thing 'a' is corrupt or truncated \(KeyError: 'x'\): make it again$"
    with pytest.raises(LensSteerError, match=told), FOLDER.decoding("a"):
        raise KeyError("x")
    assert str(FOLDER.refusal("a", ": bad")) == "thing 'a': bad: make it again"


def test_finite() -> None:
    assert all_finite([]) and all_finite([torch.ones(2), torch.zeros(0)])
    assert not all_finite([torch.ones(2), torch.tensor([float("inf")])])


COMMITTED = Path(__file__).parents[1] / "figures"
WRITTEN_BEFORE = Path(__file__).parent / "written_before"  # by version 0.1.0, before the modules lay in rooms
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Any, Path], None]]] = {
    "calibration": (load_calibration, save_calibration),
    "plan": (load_plan, save_plan),
    "probe": (load_probe, save_probe),
}


def kept(old: Any, new: Any) -> bool:
    """Whether what was said before is said still; records may have got further names."""
    if isinstance(old, dict):
        return all(name in new and kept(value, new[name]) for name, value in old.items())
    return old == new


@pytest.mark.parametrize("kind", KINDS)
def test_committed_folders_are_written_again_alike(kind: str, tmp_path: Path) -> None:
    """Written by a release before, they load; written again the tensors are the same bytes, and the facts the same but
    for new ones.
    """
    load, save = KINDS[kind]
    folders = sorted(p.parent for root in (COMMITTED, WRITTEN_BEFORE) for p in root.rglob(f"{kind}.safetensors"))
    assert WRITTEN_BEFORE / kind in folders
    for i, folder in enumerate(folders):
        save(load(folder), tmp_path / str(i))
        old, new = (
            json.loads((where / f"{kind}.json").read_text(encoding="utf-8")) for where in (folder, tmp_path / str(i))
        )
        assert kept(old, new), folder
        tensors = (where / f"{kind}.safetensors" for where in (folder, tmp_path / str(i)))
        assert len({path.read_bytes() for path in tensors}) == 1, folder


def test_what_was_written_before_still_serves(tmp_path: Path) -> None:
    """A calibration and a probe steer, a plan too, a figure is drawn: from files that the version before wrote."""
    calibration, probe = load_calibration(WRITTEN_BEFORE / "calibration"), load_probe(WRITTEN_BEFORE / "probe")
    llama, qwen = ls.load_model("organism/llama"), ls.load_model("organism/qwen2")
    plans = [
        (llama, ls.act_add(calibration, coefficient=8.0)),
        (qwen, ls.target_projection(probe, coefficient=24.0, gate="below")),
        (qwen, load_plan(WRITTEN_BEFORE / "plan")),
    ]
    for model, plan in plans:
        log = ls.EffectLog()
        with ls.steering(model, plan, effects=log):
            ls.generate(model, "Hello there", max_new_tokens=2)
        assert log.gate_fire_rate, plan
    shutil.copytree(WRITTEN_BEFORE / "figure", tmp_path / "figure")
    assert saving.redraw(tmp_path / "figure") == ["plane_share"]
