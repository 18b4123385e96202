"""The study: the same prompts in several formats, calibrated in each, beside calibrations from other prompts.

How far a direction and its sites move with the format is told by how far they move with the prompts. In every draw the
prompts are dealt into two halves. A calibration of the first half in the model's own format is compared with one of
the same half in another format, and with one of the second half in the own format.

Nothing is steered and nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import calibrate
from lens_steer.geometry.halves import Dealt, chance, cosine, deal_halves, jaccard
from lens_steer.geometry.resampling import Recalibrated
from lens_steer.inference.batching import encode
from lens_steer.inference.record import Activations
from lens_steer.inference.record_sides import record_sides
from lens_steer.models.loading import info_of
from lens_steer.stats.areas import auroc
from lens_steer.studies.formats.wording import OWN, Format, check_formats

DRAWS = 100
RANDOM = 19  # random directions beside each area
FEWEST = 8  # prompts of a class, so that a half has four
PerDraw = Float[np.ndarray, " draws"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One format beside the model's own, draw by draw.

    Attributes:
        format: The format.
        same_ids: The share of the prompts whose token ids are those of the own format.
        site: The site that a calibration of all prompts in this format selects.
        n_sites: The number of its discriminative sites.
        cosine: The cosine of the direction of the first half in the own format with the difference of the class means
            of the same half in this format, at the site of the first.
        jaccard: The Jaccard index of the discriminative sites of the first half in the two formats.
        chance: The Jaccard index that random sets of the same sizes have on average.
        area: The area under the ROC curve of the second half in this format, on the direction of the own format.
        area_there: The same on the direction of this format, at the site that it selects.
        random: The greatest area of random directions at the site of the own direction, each counted from the side on
            which it separates.
    """

    format: Format
    same_ids: float
    site: str
    n_sites: int
    cosine: PerDraw
    jaccard: PerDraw
    chance: PerDraw
    area: PerDraw
    area_there: PerDraw
    random: PerDraw


@dataclass(frozen=True, kw_only=True, eq=False)
class Formats:
    """The results of the study.

    Attributes:
        model: The name of the model.
        own: The model's own format beside itself: its cosine is 1, and both areas are the same.
        others: The other formats.
        prompts_cosine: The cosine of the direction of the first half with the difference of the class means of the
            second half, both in the own format.
        prompts_jaccard: The Jaccard index of the discriminative sites of the two halves, both in the own format.
        prompts_chance: The Jaccard index that random sets of the same sizes have on average.
        n: The number of prompts of a class in a half (the smaller one).
        held_out: The number of prompts in a second half, of both classes.
        seed: The seed.
    """

    model: str
    own: Compared
    others: tuple[Compared, ...]
    prompts_cosine: PerDraw
    prompts_jaccard: PerDraw
    prompts_chance: PerDraw
    n: int
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
        progress: Whether to show a bar.

    Raises:
        LensSteerError: If a class has fewer than 8 prompts, if ``draws`` is below 1, if a template is no template or
            refuses the prompts, or if :func:`lens_steer.studies.formats.wording.check_formats` raises it.
    """
    check(contrast, others, draws)
    own = _recorded(model, contrast, Format(OWN), engine)
    dealt = deal_halves(own.n_positive, own.n_negative, draws=draws, seed=seed)
    sides = (own.positive.double(), own.negative.double())
    first, second = (dealt.calibrated(*sides, own.sites, second=of) for of in (False, True))
    rng = np.random.default_rng([seed, 7])
    drawn = torch.from_numpy(rng.standard_normal((RANDOM, own.d_model)))
    reference = _Reference(dealt, first, drawn)
    found = [reference.compare(Format(OWN), 1.0, own)]
    for of in tqdm(others, desc="formats", disable=not progress, leave=False):
        same = same_ids(info_of(model).tokenizer, contrast, of)
        found.append(reference.compare(of, same, _recorded(model, contrast, of, engine)))
    return Formats(
        model=info_of(model).name,
        own=found[0],
        others=tuple(found[1:]),
        prompts_cosine=np.array([_turned(dealt, sides, first, i, second=True) for i in range(draws)]),
        prompts_jaccard=_agreements(first, second),
        prompts_chance=_by_chance(first, second),
        n=min(dealt.halves),
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


def _recorded(model: Any, contrast: Contrast, of: Format, engine: str) -> Activations:
    with of.applied(info_of(model).tokenizer):
        return record_sides(model, of.prompts(contrast), {}, engine=engine)


def same_ids(tokenizer: Any, contrast: Contrast, of: Format) -> float:
    """Return the share of prompts that have the same token ids in a format as in the own one.

    >>> import lens_steer as ls
    >>> few = ls.load_contrast("organism/refusal").fit.first(2)
    >>> same_ids(ls.load_model("organism/qwen2").lens_info.tokenizer, few, Format("brief", system="Be brief."))
    0.0
    """
    other = of.prompts(contrast)
    own = [encode(tokenizer, p) for side in (contrast.positive, contrast.negative) for p in side]
    with of.applied(tokenizer):
        there = [encode(tokenizer, p) for side in (other.positive, other.negative) for p in side]
    return float(np.mean([a == b for a, b in zip(own, there, strict=True)]))


@dataclass(frozen=True, eq=False)
class _Reference:
    """What every format is compared with: the calibrations of the first halves in the own format.

    Attributes:
        dealt: How the prompts were dealt.
        first: The calibrations.
        drawn: Random directions.
    """

    dealt: Dealt
    first: Recalibrated
    drawn: Float[Tensor, "n d_model"]

    def compare(self, of: Format, same_ids: float, recorded: Activations) -> Compared:
        """Compare the prompts as they were recorded in a format."""
        sides = (recorded.positive.double(), recorded.negative.double())
        there, draws = self.dealt.calibrated(*sides, recorded.sites), range(self.dealt.n_draws)
        whole = calibrate(recorded, progress=False)
        return Compared(
            format=of,
            same_ids=same_ids,
            site=whole.selected_site,
            n_sites=len(whole.discriminative_sites),
            cosine=np.array([_turned(self.dealt, sides, self.first, i) for i in draws]),
            jaccard=_agreements(self.first, there),
            chance=_by_chance(self.first, there),
            area=np.array([self.dealt.area(*sides, i, self.first) for i in draws]),
            area_there=np.array([self.dealt.area(*sides, i, there) for i in draws]),
            random=np.array([self._random(sides, i) for i in draws]),
        )

    def _random(self, sides: tuple[Tensor, Tensor], draw: int) -> float:
        site = max(0, int(self.first.selected[draw]))
        areas = [auroc(*self.dealt.scores(*sides, draw, site, v)).value for v in self.drawn]
        return max(max(a, 1 - a) for a in areas)


def _turned(
    dealt: Dealt, sides: tuple[Tensor, Tensor], first: Recalibrated, draw: int, *, second: bool = False
) -> float:
    """Return the cosine of a draw's direction with a difference of class means, at the direction's site."""
    site = int(first.selected[draw])
    return float("nan") if site < 0 else cosine(
        first.direction[draw], dealt.difference(*sides, draw, site, second=second)
    )  # fmt: skip


def _agreements(one: Recalibrated, other: Recalibrated) -> PerDraw:
    pairs = zip(one.discriminative.numpy(), other.discriminative.numpy(), strict=True)
    return np.array([jaccard(np.flatnonzero(a), np.flatnonzero(b)) for a, b in pairs])


def _by_chance(one: Recalibrated, other: Recalibrated) -> PerDraw:
    pairs = zip(one.discriminative, other.discriminative, strict=True)
    return np.array([chance(int(a.sum()), int(b.sum()), len(a)) for a, b in pairs])
