"""Prompts from the package ``datasets``: a folder written by ``save_to_disk``, or a data set on the Hugging Face hub.

The split is named after an ``@``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lens_steer.data.files import EXTRA, Table
from lens_steer.errors import LensSteerError, first_line, installed

HUB, DEFAULT = "hf:", "train"
_MISSING = f"{{}} needs the package datasets, which is not installed here: {EXTRA}"


def saved_table(folder: Path, split: str | None) -> Table:
    """Read one split of a saved data set: the named one, or ``train``.

    Raises:
        LensSteerError: If the folder holds no data set; if the split does not exist (the message lists the splits and
            their columns); if a split is named and the data set has no splits; or if ``datasets`` is not installed.
    """
    name = f"data set {str(folder)!r}"
    datasets = installed("datasets", _MISSING.format(name))
    try:
        with _quietly(datasets):
            loaded: Any = datasets.load_from_disk(str(folder))
    except Exception as error:  # The library raises many types of exceptions; the user gets one line.
        raise LensSteerError(f"{name} could not be loaded: {first_line(error)}") from None
    if isinstance(loaded, dict):
        if (split or DEFAULT) not in loaded:
            columns = next(iter(loaded.values())).column_names if loaded else []
            raise _lacks(name, split, list(loaded), columns, f"{folder.name}@SPLIT")
        loaded = loaded[split or DEFAULT]
    elif split is not None:
        raise LensSteerError(f"{name} has no splits: leave out @{split}")
    return Table.of(name, (dict(row) for row in loaded), loaded.column_names)


def parse_hub(source: str) -> tuple[str, str | None, str | None]:
    """Parse ``hf:NAME[:CONFIG][@SPLIT]`` into name, configuration and split.

    Raises:
        LensSteerError: If there is no name, or if nothing follows a ``:`` or ``@``.

    >>> parse_hub("hf:walledai/HarmBench:standard@train"), parse_hub("hf:tatsu-lab/alpaca")
    (('walledai/HarmBench', 'standard', 'train'), ('tatsu-lab/alpaca', None, None))
    """
    named, at, split = source.removeprefix(HUB).partition("@")
    name, colon, config = named.partition(":")
    if not name or (colon and not config) or (at and not split):
        raise LensSteerError(
            f"data set {source!r}: write hf:NAME, hf:NAME:CONFIG, hf:NAME@SPLIT or hf:NAME:CONFIG@SPLIT"
        )
    return name, config or None, split or None


def hub_table(source: str) -> Table:
    """Read ``hf:NAME[:CONFIG][@SPLIT]``; the split is ``train`` if none is named.

    Raises:
        LensSteerError: As :func:`saved_table`; also if the data set needs the name of a configuration (the message
            lists the configurations).
    """
    name, config, split = parse_hub(source)
    called = f"data set {source!r}"
    datasets = installed("datasets", _MISSING.format(called))
    try:
        with _quietly(datasets):
            loaded = datasets.load_dataset(name, config, split=split or DEFAULT)
    except Exception as error:
        splits, columns = _offered(datasets, name, config)
        if splits and (split or DEFAULT) not in splits:
            shown = f"{HUB}{name}{f':{config}' if config else ''}@SPLIT"
            raise _lacks(called, split, splits, columns, shown) from None
        raise LensSteerError(f"{called} could not be loaded: {first_line(error)}") from None
    return Table.of(called, (dict(row) for row in loaded), loaded.column_names)


def _offered(datasets: Any, name: str, config: str | None) -> tuple[list[str], list[str]]:
    """Return the splits and columns of a data set, as far as they are known without loading it."""
    try:
        with _quietly(datasets):
            builder = datasets.load_dataset_builder(name, config)
            splits = list(builder.info.splits or builder.config.data_files or ())
    except Exception:  # The caller already reports the error that led here.
        return [], []
    return [str(s) for s in splits], list(builder.info.features or ())


def _lacks(name: str, split: str | None, splits: list[str], columns: list[str], how: str) -> LensSteerError:
    said = f"no split {split!r}" if split else f"no split {DEFAULT!r}, which is read where none is named"
    known = f", its columns {', '.join(map(repr, columns))}" if columns else ""
    return LensSteerError(f"{name} has {said}: its splits are {', '.join(map(repr, splits))}{known}; name one as {how}")


@contextmanager
def _quietly(datasets: Any) -> Iterator[None]:
    """Hide the progress bars of ``datasets``, which would appear before the first message of a command."""
    shown = datasets.is_progress_bar_enabled() if hasattr(datasets, "is_progress_bar_enabled") else True
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
