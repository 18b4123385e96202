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
from lens_steer._io.rowstore import IDENTITY, PARTS
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.files import load_calibration, save_calibration


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
        if self.folder is None:
            return
        marked, wanted = (
            self.folder / IDENTITY,
            json.dumps(dict(identity), indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        )
        if marked.exists() and marked.read_text(encoding="utf-8") != wanted:
            theirs, ours = json.loads(marked.read_text(encoding="utf-8")), json.loads(wanted)
            other = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
            raise LensSteerError(
                f"folder {str(folder)!r} holds the beginning of another run ({', '.join(other)} differ): give "
                "another folder, or empty it"
            )
        with whole_file(marked) as work:
            work.write_text(wanted, encoding="utf-8")

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
