"""Results of a long run's steps, kept until the run is done, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lens_steer._io.atomic import whole_file
from lens_steer._io.shards import IDENTITY, PARTS
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.files import load_calibration, save_calibration
from lens_steer.inference.record import Activations


def kept_calibration(
    folder: str | Path, source: Activations | Calibration, make: Callable[[], Calibration], *, seed: int | None = None
) -> Calibration:
    """Return the calibration with which a run began, or make one and save it for a resumed run.

    On another processor a new calibration would be rounded differently. One of another model, other prompts or other
    sites is replaced.

    Args:
        folder: The folder of this calibration.
        source: Where the calibration comes from: activations, or the calibration that is made again.
        make: The function that makes it.
        seed: Its seed; one with another seed is replaced too. None keeps any.

    Raises:
        LensSteerError: If the folder cannot be read or written.
    """
    if Path(folder).exists():
        kept = load_calibration(folder)
        same = all(getattr(kept, name) == getattr(source, name) for name in ("model", "prompt_hash", "sites"))
        if same and seed in (None, kept.seed):
            return kept
    save_calibration(make(), folder)
    return load_calibration(folder)


def check_beginning(folder: str | Path, name: str, identity: Mapping[str, Any], *, whole: bool = True) -> None:
    """Refuse a folder that holds the beginning of another run; nothing is written.

    Args:
        folder, name, identity: See :class:`Pieces`.
        whole: Whether this is the whole identity. False compares only the values that are given here, also within a
            mapping among them, so that a folder can be refused before the rest is known.

    Raises:
        LensSteerError: If the folder holds another run; the message names the values that differ.

    >>> check_beginning("figures", "report", {"seed": 0})
    """
    marked = Path(folder) / PARTS / name / IDENTITY
    if not marked.exists() or (there := marked.read_text(encoding="utf-8")) == _written(identity):
        return
    theirs, ours = json.loads(there), json.loads(_written(identity))
    other = sorted(k for k in {*(theirs if whole else ()), *ours} if not _agree(theirs.get(k), ours.get(k), whole))
    if other:
        raise LensSteerError(
            f"folder {str(folder)!r} holds the beginning of another run ({', '.join(other)} differ): give another "
            "folder, or empty it"
        )


def _agree(theirs: Any, ours: Any, whole: bool) -> bool:
    if whole or not isinstance(theirs, dict) or not isinstance(ours, dict):
        return theirs == ours
    return all(_agree(theirs.get(key), value, whole) for key, value in ours.items())


def _written(identity: Mapping[str, Any]) -> str:
    return json.dumps(dict(identity), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


class Pieces:
    """The steps of one run, in ``folder/.parts/NAME``; without a folder nothing is kept.

    Args:
        folder: The folder of the run; None keeps nothing.
        name: The name of the steps.
        identity: The plain values on which the steps depend. A folder that holds another run is refused.

    Raises:
        LensSteerError: If the folder cannot be written, or holds another run.
    """

    def __init__(self, folder: str | Path | None, name: str, identity: Mapping[str, Any]) -> None:
        self.folder: Path | None = None if folder is None else Path(folder) / PARTS / name
        if folder is None or self.folder is None:
            return
        check_beginning(folder, name, identity)
        with whole_file(self.folder / IDENTITY) as work:
            work.write_text(_written(identity), encoding="utf-8")

    def keep(self, key: str, make: Callable[[], Any]) -> Any:
        """Return the result of a step as plain JSON values, and compute it if it is not kept yet."""
        if self.folder is None:
            return make()
        path = self.folder / f"{key}.json"
        if not path.exists():
            with whole_file(path) as work:
                work.write_text(json.dumps(make(), ensure_ascii=False), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def calibration(self, make: Callable[[], Calibration]) -> Calibration:
        """Return the calibration with which the run began, and make it if there is none yet.

        On another processor a new calibration would be rounded differently.
        """
        if self.folder is None:
            return make()
        path = self.folder / "calibration"
        if not path.exists():
            save_calibration(make(), path)
        return load_calibration(path)

    def tensor(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor that a step computed, to the bit, and compute it if it is not kept yet."""
        if self.folder is None:
            return make()
        path = self.folder / f"{key}.safetensors"
        if not path.exists():
            with whole_file(path) as work:
                save_file({key: make().contiguous()}, work)
        return load_file(path)[key]

    def drop(self) -> None:
        """Delete the steps, once the results of the run are written."""
        if self.folder is not None:
            drop(self.folder.parent.parent, self.folder.name)


def drop(folder: str | Path, name: str) -> None:
    """Delete the steps of a run that is written, if any were kept.

    Args:
        folder: The folder of the run.
        name: The name of the steps.
    """
    steps = Path(folder) / PARTS / name
    shutil.rmtree(steps, ignore_errors=True)
    if steps.parent.exists() and not any(steps.parent.iterdir()):
        steps.parent.rmdir()
