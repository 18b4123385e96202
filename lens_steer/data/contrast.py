"""Contrast sets: two classes of prompts with their fit, select and report splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lens_steer._display import Shown
from lens_steer.data.prompts import PromptSet, Reading
from lens_steer.errors import LensSteerError


@dataclass(frozen=True)
class Contrast(Shown, view="prompts"):
    """Two prompt sets of one split.

    Attributes:
        positive: The prompts with the feature (harmful).
        negative: The prompts without the feature (harmless).
    """

    positive: PromptSet
    negative: PromptSet

    def __repr__(self) -> str:
        return f"Contrast({len(self.positive)} positive, {len(self.negative)} negative)"

    def first(self, n: int) -> Contrast:
        """Return the first ``n`` prompts of each class, or all prompts of a class with fewer.

        Raises:
            LensSteerError: If ``n`` is below 1.

        >>> import lens_steer as ls
        >>> ls.load_contrast("organism/refusal").report.first(8)
        Contrast(8 positive, 8 negative)
        """
        if n < 1:
            raise LensSteerError(f"n={n}: give how many prompts of each class to keep, at least 1")
        return Contrast(self.positive[:n], self.negative[:n])

    @property
    def hash(self) -> str:
        return hashlib.sha256((self.positive.hash + self.negative.hash).encode()).hexdigest()


@dataclass(frozen=True)
class Split(Shown, view="prompts"):
    """The three parts of a contrast.

    Attributes:
        fit: The prompts from which directions, planes, probes and sites are computed.
        select: The prompts on which angles, coefficients and layers are chosen.
        report: The prompts on which every reported number is measured.
    """

    fit: Contrast
    select: Contrast
    report: Contrast

    @property
    def parts(self) -> dict[str, Contrast]:
        """The three parts by name, in order."""
        return {"fit": self.fit, "select": self.select, "report": self.report}

    @property
    def sizes(self) -> str:
        """The numbers of positive and negative prompts in each split: ``fit 64+64, select 32+32, report 32+32``."""
        return ", ".join(f"{name} {len(c.positive)}+{len(c.negative)}" for name, c in self.parts.items())

    def __repr__(self) -> str:
        return f"Split({self.sizes})"


@dataclass(frozen=True)
class ContrastSet(Shown, view="prompts"):
    """A named contrast with its three splits.

    ``record`` takes it (and then reads ``fit``) or one of its splits.

    Attributes:
        name: The name of the contrast.
        split: The prompts, by split.
        readings: The record of how each file was read, by the argument that named the file (``positive``,
            ``select_negative``, …).
        cautions: The warnings about its prompts from when it was made, one per line.
    """

    name: str
    split: Split
    readings: Mapping[str, Reading] = field(default_factory=dict, compare=False)
    cautions: tuple[str, ...] = field(default=(), compare=False)

    @property
    def fit(self) -> Contrast:
        return self.split.fit

    @property
    def select(self) -> Contrast:
        return self.split.select

    @property
    def report(self) -> Contrast:
        return self.split.report

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of each split's prompts, by the name of the split.

        >>> from lens_steer import load_contrast
        >>> list(load_contrast("organism/refusal").hashes)
        ['fit', 'select', 'report']
        """
        return {name: part.hash for name, part in self.split.parts.items()}

    def first(self, *, fit: int | None = None, select: int | None = None, report: int | None = None) -> ContrastSet:
        """Return a smaller set for a quick look, with the first prompts of each class of a split.

        A split without a number stays whole.

        Raises:
            LensSteerError: If a number is below 1.

        >>> import lens_steer as ls
        >>> ls.load_contrast("organism/refusal").first(select=16, report=32)
        ContrastSet('organism/refusal': fit 128+128, select 16+16, report 32+32)
        """
        wanted = zip(self.split.parts.values(), (fit, select, report), strict=True)
        return replace(self, split=Split(*(part if n is None else part.first(n) for part, n in wanted)))

    @property
    def told(self) -> str:
        """One line that says what was read, and how many prompts of each class each split has.

        >>> import lens_steer as ls
        >>> ls.load_contrast("organism/refusal").told
        'read organism/refusal: fit 128+128, select 64+64, report 64+64'
        """
        files = [
            str(reading) if role in ("positive", "negative") else f"{role} {reading}"
            for role, reading in self.readings.items()
        ]
        return f"read {'; '.join([*files, self.split.sizes])}" if files else f"read {self.name}: {self.split.sizes}"

    def record(self) -> dict[str, Any]:
        """Return a record of what was read, as plain values that are stored beside results.

        It holds the reading of each file by its role, the numbers of prompts of each class by split, and the cautions.

        >>> import lens_steer as ls
        >>> ls.load_contrast("organism/refusal").record()["n"]["select"]
        [64, 64]
        """
        return {
            "contrast": self.name,
            "readings": {role: asdict(reading) for role, reading in self.readings.items()},
            "n": {name: [len(part.positive), len(part.negative)] for name, part in self.split.parts.items()},
            "cautions": list(self.cautions),
        }

    def __repr__(self) -> str:
        return f"ContrastSet({self.name!r}: {self.split.sizes})"
