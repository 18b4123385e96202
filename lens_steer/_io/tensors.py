"""Folders of tensors: ``NAME.safetensors`` beside plain facts in ``NAME.json``, written and refused in one way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens_steer._io.atomic import whole_folder
from lens_steer.errors import LensSteerError

VERSION = "format_version"  # The key of the format version among the facts.


@dataclass(frozen=True, kw_only=True)
class TensorFolder:
    """One kind of tensor folder: its name, and the advice to the user about a bad folder.

    The contents of the facts and the tensors are known only to the module that reads and writes the kind.

    Attributes:
        name: The name of the kind. Every message begins with it, and both files are named after it. A plural ends in s.
        missing: The advice for a folder in which a file is missing.
        again: The advice for a folder that is damaged or was written by another release.
        version: The version of the format that is written, and the only one that is read.
        facts_first: If True, the message about a folder with neither file names the missing facts instead of the
            missing tensors.
    """

    name: str
    missing: str
    again: str
    version: int = 1
    facts_first: bool = False

    @property
    def tensors_file(self) -> str:
        """The name of the file with the tensors."""
        return f"{self.name}.safetensors"

    @property
    def facts_file(self) -> str:
        """The name of the file with the facts."""
        return f"{self.name}.json"

    def write(self, folder: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write both files, completely or not at all; the format version is the first of the facts.

        Raises:
            LensSteerError: If the folder cannot be written.
        """
        held = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({VERSION: self.version, **facts}, indent=1) + "\n"
        with whole_folder(folder) as work:
            save_file(held, work / self.tensors_file)
            (work / self.facts_file).write_text(text, encoding="utf-8")

    def read(self, folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read both files.

        Returns:
            The tensors by name, and the facts.

        Raises:
            LensSteerError: If a file is missing, truncated or corrupt, or if another release wrote it.
        """
        files = (self.tensors_file, self.facts_file)
        for file in reversed(files) if self.facts_first else files:
            if not (Path(folder) / file).exists():
                raise LensSteerError(f"{self._subject(folder)} {self._verb('has')} no {file}: {self.missing}")
        with self.decoding(folder):
            tensors = load_file(Path(folder) / self.tensors_file)
            facts = json.loads((Path(folder) / self.facts_file).read_text(encoding="utf-8"))
            version = facts.get(VERSION)
        if version != self.version:
            raise self.refusal(
                folder, f"{self._verb('has')} format version {version}, this release reads {self.version}"
            )
        return tensors, facts

    @contextmanager
    def decoding(self, folder: str | Path) -> Iterator[None]:
        """Turn every error that damaged contents raise inside the ``with`` block into one :class:`LensSteerError`.

        A :class:`LensSteerError` from inside the block is not changed.
        """
        try:
            yield
        except LensSteerError:
            raise
        except (SafetensorError, ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
            told = f"{self._verb('is')} corrupt or truncated ({type(error).__name__}: {error})"
            raise self.refusal(folder, told) from None

    def refusal(self, folder: str | Path, why: str) -> LensSteerError:
        """Return the error that refuses a folder, with the folder, the reason and the advice.

        >>> str(TensorFolder(name="plan", missing="make one", again="save it again").refusal("out", "is empty"))
        "plan 'out' is empty: save it again"
        """
        return LensSteerError(f"{self._subject(folder)}{why if why.startswith(':') else ' ' + why}: {self.again}")

    def _subject(self, folder: str | Path) -> str:
        return f"{self.name} {str(folder)!r}"

    def _verb(self, singular: str) -> str:
        return {"has": "have", "is": "are"}[singular] if self.name.endswith("s") else singular


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return True if no tensor holds an infinity or a NaN.

    >>> all_finite([torch.ones(2), torch.tensor([1.0, float("nan")])])
    False
    """
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
