"""Prompts files as rows: one string or mapping a prompt, from ``.jsonl``, ``.json``, ``.csv``, ``.txt``, a saved data set folder, or ``hf:NAME``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError


def rows_of(source: str | Path) -> Iterable[Any]:
    """The rows of a prompts file, a data set folder or a Hugging Face data set, in order.

    Raises:
        LensSteerError: no such file, an unknown ending, not UTF-8, malformed JSON, a data set that cannot be loaded.
    """
    path = Path(source)
    if str(source).startswith("hf:"):
        return _dataset_rows(str(source)[3:], folder=False)
    if path.is_dir():
        return _dataset_rows(str(path), folder=True)
    if not path.exists():
        raise LensSteerError(f"prompts file {str(source)!r} does not exist")
    return _file_rows(path)


def _file_rows(path: Path) -> Iterable[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LensSteerError(f"prompts file {str(path)!r} cannot be read as UTF-8 text: {error}") from None
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]  # a text may hold other line ends
        if path.suffix == ".json":
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise LensSteerError(f"prompts file {str(path)!r} holds {type(rows).__name__}: a list of prompts is expected")
            return rows
    except json.JSONDecodeError as error:
        raise LensSteerError(f"prompts file {str(path)!r} is not valid JSON: {error}") from None
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines(keepends=True)))
    if path.suffix == ".txt":
        return [line for line in text.splitlines() if line.strip()]
    raise LensSteerError(f"prompts file {str(path)!r}: unknown ending {path.suffix!r}, use .jsonl, .json, .csv or .txt")


def _dataset_rows(name: str, *, folder: bool) -> Iterable[Any]:
    import datasets

    try:
        loaded: Any = datasets.load_from_disk(name) if folder else datasets.load_dataset(name, split="train")
    except Exception as error:  # the library raises many kinds; the user needs one line
        raise LensSteerError(f"data set {name!r} could not be loaded: {str(error).splitlines()[0]}") from None
    return (dict(row) for row in (loaded["train"] if isinstance(loaded, dict) else loaded))
