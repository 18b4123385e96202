"""Files and folders that are written completely or not at all: under a temporary name first, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lens_steer.errors import LensSteerError


@contextmanager
def whole_folder(out: str | Path) -> Iterator[Path]:
    """Yield a temporary folder inside ``out`` whose files are moved into ``out`` at the end.

    After an error in the block the files of ``out`` are as they were before. If moving fails half-way, the files that
    were moved by then stay.

    Raises:
        LensSteerError: If the folder cannot be written. The error is raised before the block runs, and so before any
            long computation.
    """
    target = Path(out)
    existed = target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".partial-", dir=target))
    except OSError as error:
        raise LensSteerError(f"output folder {str(out)!r} cannot be written: {error.strerror or error}") from None
    try:
        yield work
        for path in sorted(work.rglob("*")):
            if path.is_file():
                destination = target / path.relative_to(work)
                destination.parent.mkdir(parents=True, exist_ok=True)
                path.replace(destination)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        if not existed and not any(target.iterdir()):
            target.rmdir()
        raise
    shutil.rmtree(work, ignore_errors=True)


def check_writable(out: str | Path) -> None:
    """Refuse a folder that cannot be written, before any long computation, and leave nothing behind.

    Raises:
        LensSteerError: If the folder cannot be written.
    """
    existed = Path(out).exists()
    with whole_folder(out):
        pass
    if not existed:
        Path(out).rmdir()


@contextmanager
def whole_file(out: str | Path) -> Iterator[Path]:
    """Yield a temporary file that is renamed to ``out`` at the end; after an error in the block ``out`` is as it was.

    Parent folders that had to be created stay.

    Raises:
        LensSteerError: If ``out`` is a folder, or if the file cannot be written.
    """
    target = Path(out)
    if target.is_dir():
        raise LensSteerError(f"output file {str(out)!r} is a folder: name a file in it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise LensSteerError(f"output file {str(out)!r} cannot be written: {error.strerror or error}") from None
    try:
        yield Path(name)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)
