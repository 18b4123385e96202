"""Recordings on disk: a folder with ``recording.safetensors`` and ``recording.json``, whole or one shard of several.

A shard holds every N-th prompt of each class. Joined, the shards are the recording of all prompts: the same rows in the
same order, or the means of all prompts, up to the rounding that other batches bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer._io.shards import Shard
from lens_steer._io.tensors import TensorFolder, all_finite
from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.class_means import Moments, StreamMeans
from lens_steer.inference.record import Activations
from lens_steer.models import sites
from lens_steer.models.layout import layout_row, read_layout_row
from lens_steer.models.templates import ChatTemplate

FOLDER = TensorFolder(
    name="recording", missing="write one with 'lens-steer record'", again="record again", facts_first=True
)
_ALL = ("positive", "negative")
_MEANS = ("mean_positive", "mean_negative", "unit_mean_positive", "unit_mean_negative")
_FACTS = ("model", "architecture", "n_layers", "backend", "weight_processing", "pooling", "prompt_hash")
_NAMES = ("sites", "hashes_positive", "hashes_negative")
_GROUPS = ("groups_positive", "groups_negative")
_COUNTS = ("n_positive", "n_negative")


def part_of(contrast: Contrast, shard: Shard | None) -> Contrast:
    """Return the prompts of a shard: every N-th of each class; all of them without a shard.

    Raises:
        LensSteerError: If a class has fewer prompts than there are shards.
    """
    if shard is None:
        return contrast
    fewest = min(len(contrast.positive), len(contrast.negative))
    if fewest < shard.count:
        raise LensSteerError(
            f"shard={str(shard)!r}: a class has {fewest} prompts, so that a shard would have none: use at most {fewest}"
        )

    def own(side: PromptSet) -> PromptSet:
        return PromptSet(side.prompts[shard.index - 1 :: shard.count], side.name)

    return Contrast(own(contrast.positive), own(contrast.negative))


def save_recording(
    recorded: Activations | Moments,
    folder: str | Path,
    *,
    shard: Shard | None = None,
    prompt_hash: str | None = None,
) -> None:
    """Write a recording to a folder, completely or not at all.

    Args:
        recorded: The recording, from :func:`lens_steer.record`.
        folder: The folder.
        shard: The shard of which it is the recording; None for all prompts.
        prompt_hash: The hash of the contrast of all shards; None for that of the recording.

    Raises:
        LensSteerError: If the folder cannot be written.
    """
    kept = isinstance(recorded, Activations)
    names = _ALL if kept else _MEANS
    tensors = {name: getattr(recorded, name) for name in names}
    if recorded.stream is not None:
        tensors |= {
            "stream_mean_positive": recorded.stream.mean_positive,
            "stream_mean_negative": recorded.stream.mean_negative,
        }
    facts: dict[str, Any] = {
        "keep": "all" if kept else "moments",
        **{name: getattr(recorded, name) for name in (*_FACTS, *_COUNTS)},
        **{name: list(getattr(recorded, name)) for name in (*_NAMES, *(_GROUPS if kept else ()))},
        "stream_sites": [] if recorded.stream is None else list(recorded.stream.sites),
        "template": None if recorded.template is None else recorded.template.row(),
        **layout_row(recorded),
        "proof": dict(recorded.proof),
        "shard": None if shard is None else str(shard),
    }
    FOLDER.write(folder, tensors, facts | ({} if prompt_hash is None else {"prompt_hash": prompt_hash}))


def load_recording(folder: str | Path) -> Activations | Moments:
    """Read the recording of all prompts, whole or joined.

    Raises:
        LensSteerError: If a file is missing, truncated or corrupt, if shapes and sites do not fit together, if a value
            is not finite, or if the folder holds one shard of several.
    """
    recorded, shard = _read(folder)
    if shard is not None and shard.count > 1:
        raise LensSteerError(
            f"recording {str(folder)!r} is shard {shard}: join it with the others (lens-steer join), and give their "
            "folder"
        )
    return recorded


def holds_recording(folder: str | Path) -> bool:
    """Return whether a folder holds a recording, or a shard of one."""
    return (Path(folder) / FOLDER.facts_file).exists()


def join_recordings(folders: Sequence[str | Path], out: str | Path) -> Activations | Moments:
    """Join the recordings of all shards, and write the recording of all prompts.

    Args:
        folders: The folders of the shards, in any order.
        out: The folder to write.

    Raises:
        LensSteerError: If a folder holds no shard, if a shard is missing or is there twice, or if the shards are not of
            one recording.
    """
    shards: dict[int, Activations | Moments] = {}
    first: tuple[str, dict[str, Any]] | None = None
    count = 0
    for folder in dict.fromkeys(map(str, folders)):
        recorded, shard = _read(folder)
        if shard is None:
            raise LensSteerError(f"recording {folder!r} is of all prompts and not of a shard: there is nothing to join")
        about = _about(recorded) | {"number of shards": shard.count}
        first = first or (folder, about)
        other = [name for name, value in about.items() if first[1][name] != value]
        if other:
            raise LensSteerError(
                f"recording {folder!r} is not of the run of {first[0]!r} ({', '.join(other)} differ): join shards of "
                "one command with the same inputs and options"
            )
        if shard.index in shards:
            raise LensSteerError(f"recording {folder!r} is shard {shard}, which another folder holds too: give it once")
        shards[shard.index], count = recorded, shard.count
    missing = [f"{i}/{count}" for i in range(1, count + 1) if i not in shards]
    if missing or not shards:
        raise LensSteerError(f"recording: shard {', '.join(missing)} is missing: record it too, or give its folder")
    whole = _joined([shards[i] for i in range(1, count + 1)])
    save_recording(whole, out)
    return whole


def _about(recorded: Activations | Moments) -> dict[str, Any]:
    """Return what all shards of one recording have in common."""
    return {
        "keep": type(recorded).__name__,
        **{name: getattr(recorded, name) for name in (*_FACTS, "template", "own_layout", "sites")},
        "stream": None if recorded.stream is None else recorded.stream.sites,
    }


def _joined(shards: Sequence[Activations | Moments]) -> Activations | Moments:
    n = {side: [getattr(s, f"n_{side}") for s in shards] for side in _ALL}

    def mean(tensors: Sequence[Tensor], side: str) -> Tensor:
        total = sum(k * x.double() for k, x in zip(n[side], tensors, strict=True))
        return torch.as_tensor(total) / sum(n[side])

    streams = [s.stream for s in shards if s.stream is not None]
    stream = None
    if streams:
        ends = (mean([getattr(s, f"mean_{side}") for s in streams], side) for side in _ALL)
        stream = StreamMeans(streams[0].sites, *ends)
    named = {name: tuple(_dealt([getattr(s, name) for s in shards])) for name in ("hashes_positive", "hashes_negative")}
    if isinstance(shards[0], Moments):
        means = {name: mean([getattr(s, name) for s in shards], name.rsplit("_", 1)[1]) for name in _MEANS}
        return replace(
            shards[0], **means, **named, n_positive=sum(n["positive"]), n_negative=sum(n["negative"]), stream=stream
        )
    rows = {side: torch.stack(_dealt([list(getattr(s, side)) for s in shards])) for side in _ALL}
    groups = {name: tuple(_dealt([getattr(s, name) for s in shards])) for name in _GROUPS}
    return replace(shards[0], **rows, **groups, **named, stream=stream)


def _dealt(shards: Sequence[Sequence[Any]]) -> list[Any]:
    """Put back in order what was dealt to shards in turn.

    >>> _dealt([[0, 3, 6], [1, 4], [2, 5]])
    [0, 1, 2, 3, 4, 5, 6]
    """
    count = len(shards)
    return [shards[i % count][i // count] for i in range(sum(map(len, shards)))]


def _read(folder: str | Path) -> tuple[Activations | Moments, Shard | None]:
    tensors, facts = FOLDER.read(folder)
    with FOLDER.decoding(folder):
        kept = facts["keep"] == "all"
        shared: dict[str, Any] = {
            **{name: facts[name] for name in _FACTS},
            **{name: tuple(map(str, facts[name])) for name in _NAMES},
            "template": ChatTemplate.read(facts["template"]),
            "own_layout": read_layout_row(facts),
            "proof": {str(check): float(error) for check, error in facts.get("proof", {}).items()},
            "stream": StreamMeans(
                tuple(facts["stream_sites"]), tensors["stream_mean_positive"], tensors["stream_mean_negative"]
            )
            if facts["stream_sites"]
            else None,
        }
        if kept:
            groups = {name: tuple(map(str, facts[name])) for name in _GROUPS}
            recorded: Activations | Moments = Activations(**{name: tensors[name] for name in _ALL}, **groups, **shared)
        else:
            counts = {name: int(facts[name]) for name in _COUNTS}
            recorded = Moments(**{name: tensors[name] for name in _MEANS}, **counts, **shared)
        shard = None if facts["shard"] is None else Shard.of(facts["shard"])
        widths = {x.shape[-1] for x in tensors.values()}
        rows = {x.shape[-2] for name, x in tensors.items() if not name.startswith("stream_")}
        ahead = [len(tensors[name]) == facts[f"n_{name}"] for name in (_ALL if kept else ())]
    for name in recorded.sites:
        sites.parse(name)
    if len(widths) != 1 or rows != {len(recorded.sites)} or not all(ahead):
        raise FOLDER.refusal(folder, "does not fit together: tensors, sites and numbers of prompts differ")
    if not all_finite(tensors.values()):
        raise FOLDER.refusal(folder, "holds values that are not finite")
    return recorded, shard
