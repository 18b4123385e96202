"""Prompts from ``datasets``: a folder that ``save_to_disk`` wrote, or a data set by its Hugging Face name, with the
split named after an ``@``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lens_steer.data.files import EXTRA, Table
from lens_steer.errors import LensSteerError, first_line

HUB, DEFAULT = "hf:", "train"


def saved_table(folder: Path, split: str | None) -> Table:
    """Of a saved data set, one of its splits: the one that is named, or ``train``.

    Raises:
        LensSteerError: no data set, no such split (with those there are and their columns), a split named of a data set
            that has none, ``datasets`` missing.
    """
    name = f"data set {str(folder)!r}"
    datasets = _datasets(name)
    try:
        with _quietly(datasets):
            loaded: Any = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds; the user needs one line
        raise LensSteerError(f"{name} could not be loaded: {first_line(error)}") from None
    if isinstance(loaded, dict):
        if (split or DEFAULT) not in loaded:
            raise _lacks(
                name,
                split,
                list(loaded),
                loaded[next(iter(loaded))].column_names if loaded else [],
                f"{folder.name}@SPLIT",
            )
        loaded = loaded[split or DEFAULT]
    elif split is not None:
        raise LensSteerError(f"{name} has no splits: leave out @{split}")
    return Table.of(name, (dict(row) for row in loaded), loaded.column_names)


def parse_hub(source: str) -> tuple[str, str | None, str | None]:
    """Name, configuration and split of ``hf:NAME[:CONFIG][@SPLIT]``.

    Raises:
        LensSteerError: no name, or nothing after a ``:`` or ``@``.

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
    """Of ``hf:NAME[:CONFIG][@SPLIT]``; the split is ``train`` where none is named.

    Raises:
        LensSteerError: as :func:`saved_table`; a configuration that must be named, with those there are.
    """
    name, config, split = parse_hub(source)
    called = f"data set {source!r}"
    datasets = _datasets(called)
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
    """Splits and columns as far as the data set tells them without being loaded."""
    try:
        with _quietly(datasets):
            builder = datasets.load_dataset_builder(name, config)
            splits = list(builder.info.splits or builder.config.data_files or ())
    except Exception:  # whatever keeps it from being looked at has been told by the error that led here
        return [], []
    return [str(s) for s in splits], list(builder.info.features or ())


def _lacks(name: str, split: str | None, splits: list[str], columns: list[str], how: str) -> LensSteerError:
    said = f"no split {split!r}" if split else f"no split {DEFAULT!r}, which is read where none is named"
    known = f", its columns {', '.join(map(repr, columns))}" if columns else ""
    return LensSteerError(f"{name} has {said}: its splits are {', '.join(map(repr, splits))}{known}; name one as {how}")


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise LensSteerError(f"{name} needs the package datasets, which is not installed here: {EXTRA}") from None
    return datasets


@contextmanager
def _quietly(datasets: Any) -> Iterator[None]:
    """Without the library's bars, which stand before what a command says first."""
    shown = datasets.is_progress_bar_enabled() if hasattr(datasets, "is_progress_bar_enabled") else True
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
