"""Recordings on disk: saved = loaded; shards joined = whole; what does not fit is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer._io.shards import Shard
from lens_steer.data import Contrast
from lens_steer.errors import LensSteerError
from lens_steer.inference.class_means import Moments
from lens_steer.inference.record import Activations
from lens_steer.inference.recordings import join_recordings, load_recording, part_of, save_recording

N = 11


@pytest.fixture(scope="module")
def pair(refusal: Any) -> Contrast:
    return Contrast(refusal.fit.positive[:N], refusal.fit.negative[: N - 1])


@pytest.fixture(scope="module", params=["all", "moments"])
def whole(request: pytest.FixtureRequest, qwen: Any, pair: Contrast) -> Activations | Moments:
    return ls.record(qwen, pair, keep=request.param, progress=False)


Shards = Callable[[int], list[Path]]


@pytest.fixture
def shards(qwen: Any, pair: Contrast, whole: Activations | Moments, tmp_path: Path) -> Shards:
    """Record so many shards, each in a folder of its own."""
    keep = "all" if isinstance(whole, Activations) else "moments"

    def make(count: int) -> list[Path]:
        folders = []
        for i in range(1, count + 1):
            part = part_of(pair, Shard(i, count))
            folders.append(tmp_path / f"{i}-of-{count}")
            recorded = ls.record(qwen, part, keep=keep, progress=False)
            save_recording(recorded, folders[-1], shard=Shard(i, count), prompt_hash=pair.hash)
        return folders

    return make


def assert_same(a: Activations | Moments, b: Activations | Moments, **close: Any) -> None:
    """The same kind and facts; the same tensors, or close ones."""
    assert type(a) is type(b)
    for name, value in vars(a).items():
        other = getattr(b, name)
        if name == "stream":
            assert value.sites == other.sites
            for mean in ("mean_positive", "mean_negative"):
                torch.testing.assert_close(getattr(value, mean), getattr(other, mean), **close)
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other, **close)
        else:
            assert value == other, name


def test_saved_is_loaded(whole: Activations | Moments, tmp_path: Path) -> None:
    save_recording(whole, tmp_path)
    assert_same(load_recording(tmp_path), whole, rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 3])
def test_shards_joined_are_the_whole(whole: Activations | Moments, shards: Shards, tmp_path: Path, count: int) -> None:
    """In any order, with prompts that do not divide evenly: the same rows or means, up to the batches' rounding."""
    joined = join_recordings(shards(count)[::-1], tmp_path / "joined")
    assert_same(joined, whole, rtol=1e-4, atol=1e-4)
    assert_same(load_recording(tmp_path / "joined"), joined, rtol=0, atol=0)
    a, b = ls.calibrate(joined), ls.calibrate(whole)
    assert (a.selected_site, a.discriminative_sites) == (b.selected_site, b.discriminative_sites)
    torch.testing.assert_close(a.basis, b.basis, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_joined(
    whole: Activations | Moments, shards: Shards, qwen: Any, pair: Contrast, tmp_path: Path
) -> None:
    """Missing, doubled and foreign shards are named, and nothing is written."""
    folders, out = shards(3), tmp_path / "out"
    with pytest.raises(LensSteerError, match="recording: shard 2/3 is missing"):
        join_recordings([folders[0], folders[2]], out)
    shutil.copytree(folders[1], tmp_path / "twice")
    with pytest.raises(LensSteerError, match="twice' is shard 2/3, which another folder holds too"):
        join_recordings([*folders, tmp_path / "twice"], out)
    with pytest.raises(LensSteerError, match=r"1-of-2' is not of the run of '.*1-of-3' \(number of shards differ\)"):
        join_recordings([*folders, *shards(2)], out)
    other = ls.record(qwen, part_of(pair, Shard(2, 3)), "resid_post", progress=False)
    save_recording(other, tmp_path / "other", shard=Shard(2, 3), prompt_hash="another")
    with pytest.raises(LensSteerError, match=r"other' is not of the run of .*prompt_hash, sites"):
        join_recordings([folders[0], tmp_path / "other"], out)
    save_recording(whole, tmp_path / "whole")
    with pytest.raises(LensSteerError, match="whole' is of all prompts and not of a shard"):
        join_recordings([tmp_path / "whole"], out)
    with pytest.raises(LensSteerError, match="1-of-3' is shard 1/3: join it with the others"):
        load_recording(folders[0])
    assert not out.exists()


def test_more_shards_than_prompts(pair: Contrast) -> None:
    with pytest.raises(LensSteerError, match=f"shard='1/{N}': a class has {N - 1} prompts, .* use at most {N - 1}"):
        part_of(pair, Shard(1, N))
    assert part_of(pair, None) is pair


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda facts: facts.update(sites=facts["sites"][1:]), "does not fit together"),
        (lambda facts: facts.pop("keep"), "is corrupt or truncated"),
        (lambda facts: facts.update(shard="4/3"), "give I/N"),
    ],
)
def test_damaged_recordings(
    whole: Activations | Moments, tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    save_recording(whole, tmp_path)
    facts = json.loads((tmp_path / "recording.json").read_text(encoding="utf-8"))
    change(facts)
    (tmp_path / "recording.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(LensSteerError, match=told):
        load_recording(tmp_path)
    with pytest.raises(LensSteerError, match=r"has no recording\.json: write one with 'lens-steer record'"):
        load_recording(tmp_path / "nowhere")
