"""Reading of other projects' files.

A file that is missing, a Git LFS pointer, truncated or with code in it is refused, with a message that says what to do.
"""

from __future__ import annotations

import json
import pickle
import struct
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from lens_steer.errors import LensSteerError, first_line

POINTER = b"version https://git-lfs"
ARCHIVE_HEADS = (b"PK\x03\x04", b"\x80")  # the first bytes of PyTorch's zip archives, and of its older pickle files

BROKEN = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    ArithmeticError, MemoryError, SyntaxError, struct.error, tokenize.TokenError, SafetensorError,
)  # fmt: skip


@contextmanager
def decoding(path: str | Path) -> Iterator[None]:
    """Turn every error that the contents of a damaged file raise inside the block into one :class:`LensSteerError`.

    A :class:`LensSteerError` from inside the block is not changed.

    >>> with decoding("a.npy"):
    ...     struct.unpack("<I", b"ab")
    Traceback (most recent call last):
    lens_steer.errors.LensSteerError: 'a.npy' is corrupt or truncated (error: unpack requires a buffer of 4 bytes)
    """
    try:
        yield
    except LensSteerError:
        raise
    except BROKEN as error:
        told = f"{type(error).__name__}: {first_line(error)[:160]}"
        raise LensSteerError(f"{str(path)!r} is corrupt or truncated ({told})") from None


def existing(path: Path, what: str) -> Path:
    """Return the path of a real file.

    Raises:
        LensSteerError: If there is no such file, or if it is the pointer that Git LFS puts in the place of a file.
    """
    if not path.is_file():
        raise LensSteerError(f"{str(path)!r} {'is a folder' if path.is_dir() else 'does not exist'}: {what}")
    if head(path, len(POINTER)) == POINTER:
        raise LensSteerError(f"{str(path)!r} is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'")
    return path


def head(path: Path, size: int) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as stream:
        return stream.read(size)


def load_archive(path: Path) -> Any:
    """Return the content of a PyTorch archive of plain tensors, on the CPU.

    Raises:
        LensSteerError: If the file is truncated, or if it holds objects other than tensors and plain containers.
    """
    with decoding(path):
        try:
            return torch.load(path, weights_only=True, map_location="cpu")
        except pickle.UnpicklingError as error:
            reason = first_line(error)[:160]
            raise LensSteerError(
                f"{str(path)!r} holds more than tensors and was not loaded, as that could run code: {reason}"
            ) from None


def read_torch(path: Path, what: str, stand_ins: Iterable[type] = ()) -> Any:
    """Return the content of a file that ``torch.save`` wrote, read with ``weights_only=True`` onto the CPU.

    Args:
        path: The path of the file.
        what: A description of the expected file, for the message if it is missing.
        stand_ins: Empty classes with the module and the name of a class in the file. They receive the attributes of its
            objects; the code of the real class is neither needed nor run.

    Raises:
        LensSteerError: If the file is missing or corrupt, if PyTorch did not write it, or if it holds more than tensors
            in plain containers.
    """
    existing(path, what)
    if not head(path, 4).startswith(ARCHIVE_HEADS):
        raise LensSteerError(f"{str(path)!r} was not written by torch.save: {what}")
    with torch.serialization.safe_globals(list(stand_ins)):
        return load_archive(path)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        LensSteerError: If the file is missing, if it is not JSON, or if it holds something else than an object.
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
    """Return a direction as a tensor of its own, of shape [d_model] and in its dtype; axes of length 1 are removed.

    Raises:
        LensSteerError: If ``value`` is no tensor, has no floating-point numbers, has another shape, or holds values
            that are not finite.

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
