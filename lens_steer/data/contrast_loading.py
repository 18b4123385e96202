"""Construction of contrast sets: of an organism by name, or from prompt files with a split or a file for each part."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lens_steer.data.checks import CLASSES, contrast_cautions
from lens_steer.data.contrast import Contrast, ContrastSet, Split
from lens_steer.data.loading import Source, read_prompt_set
from lens_steer.data.prompts import Prompt, PromptSet
from lens_steer.data.splits import check_shares, deal, limits_of_parts
from lens_steer.errors import LensSteerError

log = logging.getLogger(__name__)

ORGANISM_PREFIX = "organism/"
PARTS = ("fit", "select", "report")
HELD_OUT = PARTS[1:]  # The parts that may have their own files.

Columns = str | Sequence[str | None] | None


def load_contrast(
    name: str | None = None,
    *,
    positive: Source | None = None,
    negative: Source | None = None,
    select_positive: Source | None = None,
    select_negative: Source | None = None,
    report_positive: Source | None = None,
    report_negative: Source | None = None,
    split: Sequence[float | int] | None = None,
    column: Columns = None,
    limit: int | str | None = None,
    seed: int = 0,
    response: Sequence[str] = ("response",),
) -> ContrastSet:
    """Load the contrast set of an organism by name, or make one from prompt files.

    Notes about the prompts are logged as warnings, one per line: rows that were left out, prompts that are in both
    classes or more than once, a class with few prompts in fit, and splits that share prompts. The set stores them as
    ``cautions``, and the record of how its files were read as ``readings``.

    Args:
        name: ``"organism/refusal"``, ``"organism/json"``, ``"organism/honesty"``, ``"organism/compassion"`` or
            ``"organism/compliance"``; these have a fixed split. None: the prompts come from files.
        positive, negative: The prompts with and without the feature: files (see :mod:`lens_steer.data`), prompt sets,
            or texts. They may be left out if select and report have their own files and nothing is fitted.
        select_positive, select_negative, report_positive, report_negative: The same for splits with their own files;
            ``split`` must then give these splits the share 0.
        split: The shares of fit, select and report, for instance ``(0.5, 0.25, 0.25)``, or ``(0, 0.5, 0.5)`` if a
            calibration already exists. Rows with the same ``scenario``, or without one with the same text, stay
            together on both sides. None: every row of ``positive`` and ``negative`` goes to fit.
        column: The column with the prompts, in all files; or two names, for the positive and for the negative files.
            See :func:`lens_steer.load_prompts`.
        limit: The number of prompts of each file to keep before the split, drawn with the seed; ``"32,first"`` keeps
            the first 32, and ``"128/32/64"`` gives fit, select and report, each with files of its own, their own
            numbers. For an organism, it is the number of prompts of each class in each split. None: all prompts.
        seed: The seed of the draw, of the shuffle before a split, and of the wording of an organism's prompts.
        response: The columns that may hold a fixed answer; see :func:`lens_steer.load_prompts`.

    Raises:
        LensSteerError: If the name is unknown or is given together with files; if the contrast is empty or has only one
            side; if the shares are not three numbers of at least 0; if a part with files has a share above 0; if fit
            has a share but gets no prompt; or if :func:`lens_steer.load_prompts` refuses a source.

    >>> load_contrast("organism/refusal", limit=32).report
    Contrast(32 positive, 32 negative)
    """
    made = read_contrast(
        name,
        positive=positive,
        negative=negative,
        select_positive=select_positive,
        select_negative=select_negative,
        report_positive=report_positive,
        report_negative=report_negative,
        split=split,
        column=column,
        limit=limit,
        seed=seed,
        response=response,
    )
    for line in made.cautions:
        log.warning("%s", line)
    return made


def read_contrast(
    name: str | None = None,
    *,
    split: Sequence[float | int] | None = None,
    column: Columns = None,
    limit: int | str | None = None,
    seed: int = 0,
    response: Sequence[str] = ("response",),
    **files: Source | None,
) -> ContrastSet:
    """Read a contrast set as :func:`load_contrast` does, without log messages.

    ``files`` are the prompts, by the names of the arguments of :func:`load_contrast`.
    """
    given = {role: source for role, source in files.items() if source is not None}
    limits = limits_of_parts(limit)
    if name is not None and given:
        raise LensSteerError(f"name={name!r} and files were given together: give a contrast's name, or two files")
    if name is not None:
        if column is not None:
            raise LensSteerError(f"column={column!r} is of files, and {name!r} is an organism's contrast: leave it out")
        return _organism_contrast(name, limits, seed)
    _check_roles(given, split)
    if len(set(limits)) > 1 and split is not None and any(split[1:]):
        raise LensSteerError(
            f"limit={limit!r}: a file that is dealt to several parts has one limit; give select and report files of "
            "their own, or one number"
        )
    columns, of_part = _columns(column), dict[str, int | str | None](zip(PARTS, limits, strict=True))
    sets = {
        role: read_prompt_set(
            source,
            column=columns[role.endswith("negative")],
            response=response,
            limit=of_part.get(role.partition("_")[0], limits[0]),
            seed=seed,
        )
        for role, source in given.items()
    }
    for role, prompts in sets.items():
        if not len(prompts):
            raise LensSteerError(f"{role} holds no prompts: a contrast needs at least one on each side")
    placed: dict[str, int] = {}
    none = PromptSet(())
    sides = [list(_dealt(sets.get(role, none), split, seed, placed)) for role in CLASSES]
    for index, part in enumerate(PARTS):
        if f"{part}_positive" in sets:
            for side, role in zip(sides, CLASSES, strict=True):
                side[index] = sets[f"{part}_{role}"]
    contrasts = [Contrast(sides[0][i], sides[1][i]) for i in range(3)]
    readings = {role: s.reading for role, s in sets.items() if s.reading is not None}
    cautions = [line for reading in readings.values() for line in reading.cautions]
    cautions += contrast_cautions({part: (c.positive, c.negative) for part, c in zip(PARTS, contrasts, strict=True)})
    names = [next(s.name for role, s in sets.items() if role.endswith(side)) for side in CLASSES]
    return ContrastSet("/".join(names), Split(*contrasts), readings, tuple(cautions))


def _check_roles(given: Mapping[str, Any], split: Sequence[float | int] | None) -> None:
    """Refuse an incomplete pair of files, parts without prompts, and shares for parts that have their own files."""
    own = [part for part in HELD_OUT if any(f"{part}_{side}" in given for side in CLASSES)]
    pairs = [("positive", "negative"), *((f"{part}_positive", f"{part}_negative") for part in own)]
    if len(own) == len(HELD_OUT) and not any(side in given for side in CLASSES):
        pairs = pairs[1:]
        if split is not None:
            raise LensSteerError(
                f"split={tuple(split)} has nothing to split: give positive and negative too, or leave it out"
            )
    for missing in (role for pair in pairs for role in pair if role not in given):
        raise LensSteerError(f"{missing} is missing: a contrast needs prompts with and without the feature")
    if split is not None:
        check_shares(split)
        for part in own:
            if split[PARTS.index(part)] > 0:
                raise LensSteerError(
                    f"split={tuple(split)} gives {part} a share and {part}_positive its prompts: give it the "
                    "share 0, or leave the files out"
                )


def _columns(column: Columns) -> tuple[str | None, str | None]:
    """Return the column of the positive files and the column of the negative files."""
    if column is None or isinstance(column, str):
        return column, column
    if len(column) not in (1, 2):
        raise LensSteerError(f"column={list(column)}: give one name, or two: of the positive and of the negative file")
    return column[0], column[-1]


def _dealt(
    prompts: PromptSet, split: Sequence[float | int] | None, seed: int, placed: dict[str, int]
) -> tuple[PromptSet, PromptSet, PromptSet]:
    """Return the three splits of one side.

    ``placed`` holds the splits of the groups of the other side, and the new groups are added to it.
    """
    empty = PromptSet((), prompts.name)
    if split is None:
        return prompts, empty, empty
    of = deal([p.group for p in prompts], split, seed=seed, placed=placed)
    fit, select, report = (
        PromptSet(tuple(p for p, o in zip(prompts, of, strict=True) if o == i), prompts.name) for i in range(3)
    )
    if not len(fit) and split[0] > 0:
        raise LensSteerError(f"split={tuple(split)} leaves no prompt of {len(prompts)} for fit: give more prompts")
    return fit, select, report


def _organism_contrast(name: str, limits: Sequence[int | str | None], seed: int) -> ContrastSet:
    from lens_steer.organisms import cells, contrasts

    short = name.removeprefix(ORGANISM_PREFIX)
    if not name.startswith(ORGANISM_PREFIX) or short not in contrasts.CONTRASTS:
        known = ", ".join(ORGANISM_PREFIX + c for c in contrasts.CONTRASTS)
        raise LensSteerError(
            f"unknown contrast {name!r}: known are {known}; for your own prompts give positive= and negative= files"
        )
    built = contrasts.build(short, seed)

    def prompt_set(rows: list[contrasts.Row], side: str, limit: int | str | None) -> PromptSet:
        prompts = tuple(
            Prompt(r.messages, r.response, r.task, cell=cells.cell_name(r.task), cluster=cells.pair_name(r.task))
            for r in rows
        )
        return PromptSet(prompts, f"{name}/{side}").limited(limit, seed=seed)

    parts = [
        Contrast(prompt_set(built[part][0], "positive", limit), prompt_set(built[part][1], "negative", limit))
        for part, limit in zip(contrasts.SPLITS, limits, strict=True)
    ]
    return ContrastSet(name, Split(*parts))
