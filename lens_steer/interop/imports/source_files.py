"""Reading other projects' files: what is missing, a stand-in of Git LFS, truncated or holds code is refused with what
to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.interop.imports.official import load_archive

POINTER = b"version https://git-lfs"
ARCHIVE_HEADS = (b"PK\x03\x04", b"\x80")  # PyTorch's zip, and its older pickle


def existing(path: Path, what: str) -> Path:
    """The path of a real file.

    Raises:
        LensSteerError: no such file, or the few lines that Git LFS puts in a file's place.
    """
    if not path.is_file():
        raise LensSteerError(f"{str(path)!r} {'is a folder' if path.is_dir() else 'does not exist'}: {what}")
    if head(path, len(POINTER)) == POINTER:
        raise LensSteerError(f"{str(path)!r} is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'")
    return path


def head(path: Path, size: int) -> bytes:
    """A file's first bytes."""
    with path.open("rb") as stream:
        return stream.read(size)


def read_torch(path: Path, what: str, stand_ins: Iterable[type] = ()) -> Any:
    """What ``torch.save`` wrote, read with ``weights_only=True`` onto the CPU.

    Args:
        path: of the file.
        what: which file is expected, for the message where there is none.
        stand_ins: empty classes that carry the module and the name of a class in the file; its attributes land there,
            none of its code is known here.

    Raises:
        LensSteerError: missing, not PyTorch's, corrupt, or more than tensors in plain containers.
    """
    existing(path, what)
    if not head(path, 4).startswith(ARCHIVE_HEADS):
        raise LensSteerError(f"{str(path)!r} was not written by torch.save: {what}")
    with torch.serialization.safe_globals(list(stand_ins)):
        return load_archive(path)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        LensSteerError: missing, not JSON, or something else than an object.
    """
    existing(path, what)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LensSteerError(f"{str(path)!r} is not valid JSON: {str(error)[:120]}") from None
    if not isinstance(found, dict):
        raise LensSteerError(f"{str(path)!r} holds a {type(found).__name__}, not an object: {what}")
    return found


def vector(value: Any, named: str) -> Tensor:
    """A direction as its own tensor [d_model], in the dtype found; axes of length 1 around it are dropped.

    Raises:
        LensSteerError: no tensor, no floating-point numbers, another shape, or values that are not finite.

    >>> vector(torch.ones(1, 3), "the test's")
    tensor([1., 1., 1.])
    """
    if not isinstance(value, Tensor):
        raise LensSteerError(f"{named} is a {type(value).__name__}, not a tensor")
    if not value.is_floating_point() or value.layout is not torch.strided:
        raise LensSteerError(
            f"{named} holds {str(value.dtype).removeprefix('torch.')} values ({value.layout}), not plain "
            "floating-point numbers"
        )
    found = value.detach().reshape([n for n in value.shape if n != 1])
    if found.ndim != 1:
        raise LensSteerError(f"{named} has shape {tuple(value.shape)}: one vector of the model's width is needed")
    if not bool(torch.isfinite(found).all()):
        raise LensSteerError(f"{named} holds values that are not finite")
    return found.clone()
