"""The study: the same prompts in several formats, calibrated in each, beside calibrations from other prompts.

How far a direction and its sites move with the format is told by how far they move with the prompts. In every draw the
prompts are dealt into two halves. A calibration of the first half in the model's own format is compared with one of
the second half in the own format, and with one of the second half in another format: neither shares a prompt with it.

Nothing is steered and nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.pieces import Pieces
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.geometry.halves import Dealt, chance, cosine, deal_halves, jaccard
from lens_steer.geometry.resampling import Options, Recalibrated, Samples, recalibrate
from lens_steer.inference.record import record_prompts
from lens_steer.models.loading import info_of
from lens_steer.models.sites import resolve
from lens_steer.stats.areas import auroc
from lens_steer.studies.formats.wording import OWN, Format, check_formats, same_ids

DRAWS = 100
RANDOM = 19  # random directions beside each area
FEWEST = 8  # prompts of a class, so that a half has four
STEPS = "formats"  # under this name the recordings of an interrupted run are kept
PerDraw = Float[np.ndarray, " draws"]
Side = Float[Tensor, "_ n_sites d_model"]
Sides = tuple[Side, Side]  # the activations of both classes in one format


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One format beside the model's own, draw by draw. The first half of a draw gives the direction and the sites.

    Attributes:
        format: The format.
        same_ids: The share of the prompts whose token ids are those of the own format.
        site: The site that a calibration of all prompts in this format selects; empty where there is no direction.
        n_sites: The number of its discriminative sites.
        cosine: The cosine of the direction of the first half in the own format with the difference of the class means
            of the same half in this format, at the site of the first.
        cosine_other: The same with the second half, other prompts, in this format.
        jaccard: The Jaccard index of the discriminative sites of the first half in both formats.
        jaccard_other: The same with those of the second half in this format.
        chance_other: What random sets of these sizes reach on average.
        area: The area under the ROC curve of the second half in this format, on the direction of the own format.
        area_there: The same on the direction of the first half in this format, at the site that it selects.
        random, random_there: The greatest areas of random directions at the same sites, each counted from the side on
            which it separates.
    """

    format: Format
    same_ids: float
    site: str
    n_sites: int
    cosine: PerDraw
    cosine_other: PerDraw
    jaccard: PerDraw
    jaccard_other: PerDraw
    chance_other: PerDraw
    area: PerDraw
    area_there: PerDraw
    random: PerDraw
    random_there: PerDraw


@dataclass(frozen=True, kw_only=True, eq=False)
class Formats:
    """The results of the study.

    Attributes:
        model: The name of the model.
        own: The model's own format beside itself. With the same prompts it agrees in everything; with other ones it
            agrees as far as prompts decide.
        others: The other formats.
        halves: The numbers of prompts of both classes in a first half.
        held_out: The number of prompts in a second half, of both classes.
        seed: The seed.
    """

    model: str
    own: Compared
    others: tuple[Compared, ...]
    halves: tuple[int, int]
    held_out: int
    seed: int


def formats(
    model: Any,
    contrast: Contrast,
    others: Sequence[Format],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    engine: str = ENGINE,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Formats:
    """Record the prompts in the model's own format and in others, and compare calibrations.

    Args:
        model: A model from :func:`lens_steer.load_model`. Its chat template is the own one.
        contrast: The prompts of both classes; a system prompt that they have belongs to the own format.
        others: The other formats.
        draws: The number of times that the prompts are dealt into halves.
        seed: The seed of the draws and of the random directions.
        engine: See :func:`lens_steer.record`.
        folder: The folder that keeps what is recorded, so that an interrupted run goes on; None keeps nothing.
        progress: Whether to show a bar.

    Raises:
        LensSteerError: If a class has fewer than 8 prompts, if ``draws`` is below 1, if the folder holds the beginning
            of another run, or if :func:`lens_steer.studies.formats.wording.check_formats` or
            :func:`lens_steer.studies.formats.wording.same_ids` raises it.
    """
    check(contrast, others, draws)
    info, every = info_of(model), (Format(OWN), *others)
    names = tuple(resolve("norm_out", info.layout))
    same = [same_ids(info.tokenizer, contrast, of) for of in every]  # before the long work
    pieces = Pieces(folder, STEPS, Protocol(model, contrast, "fit", PromptSet(()), engine).identity)

    def recorded(of: Format) -> Sides:
        written = of.prompts(contrast)
        with of.applied(info.tokenizer):
            positive, negative = (
                pieces.tensor(f"{of.key}-{name}", partial(record_prompts, model, side, names, engine=engine))
                for name, side in (("positive", written.positive), ("negative", written.negative))
            )
        return positive.double(), negative.double()

    dealt = deal_halves(len(contrast.positive), len(contrast.negative), draws=draws, seed=seed)
    found: list[Compared] = []
    reference = None
    for of, share in tqdm(list(zip(every, same, strict=True)), desc="formats", disable=not progress, leave=False):
        sides = recorded(of)
        reference = reference or _Reference.of(sides, names, dealt, seed)
        found.append(reference.compare(of, share, sides))
    return Formats(
        model=info.name,
        own=found[0],
        others=tuple(found[1:]),
        halves=dealt.halves,
        held_out=dealt.held_out,
        seed=seed,
    )


def check(contrast: Contrast, others: Sequence[Format], draws: int) -> None:
    """Refuse prompts, formats and numbers with which nothing can be compared.

    Raises:
        LensSteerError: See :func:`formats`.
    """
    check_formats(others)
    for name, side in (("positive", contrast.positive), ("negative", contrast.negative)):
        if len(side) < FEWEST:
            raise LensSteerError(f"{name} has {len(side)} prompts: they are dealt into halves, give at least {FEWEST}")
    if draws < 1:
        raise LensSteerError(f"draws={draws}: give at least 1")


@dataclass(frozen=True, eq=False)
class _Reference:
    """What every format is compared with: the calibrations of the first halves in the own format.

    Attributes:
        names: The names of the sites.
        dealt: How the prompts were dealt.
        first: The calibrations.
        drawn: Random directions.
    """

    names: tuple[str, ...]
    dealt: Dealt
    first: Recalibrated
    drawn: Float[Tensor, "n d_model"]

    @classmethod
    def of(cls, own: Sides, names: tuple[str, ...], dealt: Dealt, seed: int) -> _Reference:
        """Calibrate the first halves of the prompts as they were recorded in the own format."""
        rng = np.random.default_rng([seed, 7])
        drawn = torch.from_numpy(rng.standard_normal((RANDOM, own[0].shape[-1])))
        return cls(names, dealt, dealt.calibrated(*own, names), drawn)

    def compare(self, of: Format, same: float, sides: Sides) -> Compared:
        """Compare the prompts as they were recorded in a format."""
        names = self.names
        there, other = (self.dealt.calibrated(*sides, names, second=second) for second in (False, True))
        whole = _whole(sides, names)
        site, draws = int(whole.selected[0]), range(self.dealt.n_draws)
        return Compared(
            format=of,
            same_ids=same,
            site=names[site] if site >= 0 else "",
            n_sites=int(whole.discriminative.sum()),
            cosine=np.array([self._cosine(sides, i, second=False) for i in draws]),
            cosine_other=np.array([self._cosine(sides, i, second=True) for i in draws]),
            jaccard=_agreements(self.first, there),
            jaccard_other=_agreements(self.first, other),
            chance_other=_by_chance(self.first, other),
            area=np.array([self.dealt.area(*sides, i, self.first) for i in draws]),
            area_there=np.array([self.dealt.area(*sides, i, there) for i in draws]),
            random=np.array([self._random(sides, i, self.first) for i in draws]),
            random_there=np.array([self._random(sides, i, there) for i in draws]),
        )

    def _cosine(self, sides: Sides, draw: int, *, second: bool) -> float:
        """Return the cosine of a draw's direction with a difference of class means at its site; NaN without one."""
        site = int(self.first.selected[draw])
        if site < 0:
            return float("nan")
        return cosine(self.first.direction[draw], self.dealt.difference(*sides, draw, site, second=second))

    def _random(self, sides: Sides, draw: int, found: Recalibrated) -> float:
        """Return the greatest area of the random directions at the site that was selected."""
        held_out = self.dealt.second(*sides, draw, max(0, int(found.selected[draw])))
        positive, negative = ((self.drawn @ side.T).numpy() for side in held_out)
        areas = [auroc(*of).value for of in zip(positive, negative, strict=True)]
        return max(max(a, 1 - a) for a in areas)


def _whole(sides: Sides, names: Sequence[str]) -> Recalibrated:
    """Calibrate on all prompts."""
    counts = tuple(torch.ones(1, len(side), dtype=torch.float64) for side in sides)
    positive, negative = (Samples(side, None) for side in sides)
    return recalibrate(positive, negative, (counts[0], counts[1]), names, Options(), planes=False)


def _agreements(one: Recalibrated, other: Recalibrated) -> PerDraw:
    pairs = zip(one.discriminative.numpy(), other.discriminative.numpy(), strict=True)
    return np.array([jaccard(np.flatnonzero(a), np.flatnonzero(b)) for a, b in pairs])


def _by_chance(one: Recalibrated, other: Recalibrated) -> PerDraw:
    pairs = zip(one.discriminative, other.discriminative, strict=True)
    return np.array([chance(int(a.sum()), int(b.sum()), len(a)) for a, b in pairs])
