"""The study: a calibration from one source of prompts is tested on held-out prompts of every source, and calibrations
from few prompts are compared with others from as many.

Nothing is steered. What transfers here is the separation of the classes by the direction, and the choice of the sites.
Sources differ in more than their meaning, so what length and final punctuation separate, and what random directions do,
stands beside every area.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer.data import ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.halves import cosine, jaccard
from lens_steer.inference.record import Activations
from lens_steer.inference.record_sides import record_sides
from lens_steer.models.loading import info_of
from lens_steer.stats.areas import auroc
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import Z_95
from lens_steer.studies.transfer.few import Draws, draw_few

SIZES = (4, 8, 16, 33, 64, 128)  # 33 is among them: the number of pairs that small calibration sets have
DRAWS = 100
RANDOM = 19  # random directions beside each pair
LOOKS = ("number of words", "a mark at the end")


@dataclass(frozen=True, eq=False)
class Source:
    """One source of prompts.

    Attributes:
        name: Its name.
        fit, held_out: The activations of both splits.
        calibration: The calibration from the fit split.
        surface: What separates the held-out prompts without any meaning: the area under the ROC curve of their numbers
            of words, and of whether they end with a mark (. ? !), each counted from the side on which it separates.
        negatives: The hash of the held-out prompts without the feature.
    """

    name: str
    fit: Activations
    held_out: Activations
    calibration: Calibration
    surface: Mapping[str, float]
    negatives: str


Scores = tuple[Float[np.ndarray, " n_positive"], Float[np.ndarray, " n_negative"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A calibration of one source on held-out prompts of another, or of the same.

    Attributes:
        fitted, on: The names of the two sources.
        site: The site that the calibration selected.
        scores: The projections of the held-out prompts on the direction of ``fitted``, at its site.
        own_scores: Those of the same prompts on the direction of ``on``, at the site that this one selected.
        random: The least and the greatest area of random directions at the site, each counted from the side on which it
            separates.
        cosine: The cosine of the two sources' candidates at the site; NaN where one is zero.
        jaccard: The Jaccard index of the two sources' discriminative sites; 1 where neither has any.
        left_out: Held-out prompts that were left out because the calibration was made from them.
        shared: Whether both sources have the same prompts without the feature.
        surface: See :class:`Source`, of the source ``on``.
    """

    fitted: str
    on: str
    site: str
    scores: Scores
    own_scores: Scores
    random: tuple[float, float]
    cosine: float
    jaccard: float
    left_out: int
    shared: bool
    surface: Mapping[str, float]

    def area(self, z: float = Z_95) -> Estimate:
        """Return the area under the ROC curve of the held-out prompts on the direction of ``fitted``."""
        return auroc(*self.scores, z=z)

    def own(self, z: float = Z_95) -> Estimate:
        """Return the same area on the direction of ``on`` itself."""
        return auroc(*self.own_scores, z=z)


@dataclass(frozen=True, eq=False)
class Transfer:
    """The results of the study."""

    model: str
    sources: tuple[Source, ...]
    pairs: tuple[Pair, ...]
    draws: tuple[Draws, ...]
    seed: int


def transfer(
    model: Any,
    sources: Mapping[str, ContrastSet],
    *,
    sizes: Sequence[int] = SIZES,
    draws: int = DRAWS,
    seed: int = 0,
    engine: str = ENGINE,
    progress: bool = True,
) -> Transfer:
    """Record every source, calibrate on its fit split, and test on the report split of every source.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        sources: The contrasts by name, each with fit and report prompts of both classes. A side that several share is
            recorded once.
        sizes, draws: See :func:`lens_steer.studies.transfer.few.draw_few`.
        seed: The seed of every draw.
        engine: See :func:`lens_steer.record`.
        progress: Whether to show a bar.

    Raises:
        LensSteerError: If there is no source, if one lacks prompts, or if a number is below 1.
    """
    check(sources, sizes, draws)
    kept: dict[str, Tensor] = {}
    bar = tqdm(sources.items(), desc="sources", disable=not progress, leave=False)
    recorded = [_source(model, name, of, engine, kept) for name, of in bar]
    pairs = [_pair(a, b, seed) for a in recorded for b in recorded]
    few = [d for s in recorded for d in draw_few(s.name, s.fit, s.held_out, sizes, draws=draws, seed=seed)]
    return Transfer(info_of(model).name, tuple(recorded), tuple(pairs), tuple(few), seed)


def check(sources: Mapping[str, ContrastSet], sizes: Sequence[int], draws: int) -> None:
    """Refuse sources and numbers with which nothing can be compared.

    Raises:
        LensSteerError: See :func:`transfer`.
    """
    if not sources:
        raise LensSteerError("sources is empty: give at least one contrast, such as {'refusal': ls.load_contrast(…)}")
    for name, of in sources.items():
        sides = {
            f"{split} {side}": getattr(getattr(of, split), side)
            for split in ("fit", "report")
            for side in ("positive", "negative")
        }
        if missing := [side for side, prompts in sides.items() if len(prompts) < 2]:
            raise LensSteerError(
                f"source {name!r} has fewer than two prompts in {missing[0]}: load it with split=(1, 0, 1)"
            )
    if draws < 1 or any(n < 2 for n in sizes):
        raise LensSteerError(f"draws={draws}, sizes={list(sizes)}: give at least 1 draw, and sizes of at least 2")


def _source(model: Any, name: str, of: ContrastSet, engine: str, kept: dict[str, Tensor]) -> Source:
    """Record one source; ``kept`` holds the sides that were recorded before, by their hash."""
    fit, held_out = (record_sides(model, part, kept, engine=engine) for part in (of.fit, of.report))
    surface = {
        look: _either(*(_looks(side)[look] for side in (of.report.positive, of.report.negative))) for look in LOOKS
    }
    return Source(name, fit, held_out, calibrate(fit), surface, of.report.negative.hash)


def _looks(prompts: PromptSet) -> dict[str, Float[np.ndarray, " n"]]:
    """Return what a prompt looks like, whatever it means."""
    texts = [p.text.strip() for p in prompts]
    words, marked = [float(len(t.split())) for t in texts], [float(t.endswith((".", "?", "!"))) for t in texts]
    return dict(zip(LOOKS, (np.array(words), np.array(marked)), strict=True))


def _either(positive: Float[np.ndarray, " m"], negative: Float[np.ndarray, " n"]) -> float:
    """Return the area under the ROC curve, counted from the side on which the scores separate."""
    area = auroc(positive, negative).value
    return max(area, 1 - area)


def _pair(fitted: Source, on: Source, seed: int) -> Pair:
    """Compare two sources; both directions are read on the same held-out prompts."""
    seen = {*fitted.fit.hashes_positive, *fitted.fit.hashes_negative}
    hashes = (on.held_out.hashes_positive, on.held_out.hashes_negative)
    keep = [torch.tensor([h not in seen for h in side], dtype=torch.bool) for side in hashes]
    if not all(bool(k.any()) for k in keep):
        raise LensSteerError(f"every held-out prompt of {on.name!r} is in the fit split of {fitted.name!r}: drop one")
    held_out = [side[k] for side, k in zip((on.held_out.positive, on.held_out.negative), keep, strict=True)]
    at, own = fitted.calibration.selected_index, on.calibration
    rng = np.random.default_rng([seed, 7])
    drawn = [torch.from_numpy(rng.standard_normal(own.d_model)) for _ in range(RANDOM)]
    areas = [_either(*_scores(held_out, at, v)) for v in drawn]
    return Pair(
        fitted=fitted.name,
        on=on.name,
        site=fitted.calibration.selected_site,
        scores=_scores(held_out, at, fitted.calibration.basis[0]),
        own_scores=_scores(held_out, own.selected_index, own.basis[0]),
        random=(min(areas), max(areas)),
        cosine=cosine(fitted.calibration.candidates[at], own.candidates[at]),
        jaccard=jaccard(fitted.calibration.discriminative_sites, own.discriminative_sites),
        left_out=sum(int((~k).sum()) for k in keep),
        shared=fitted.name != on.name and fitted.negatives == on.negatives,
        surface=on.surface,
    )


def _scores(
    sides: Sequence[Float[Tensor, "_ n_sites d_model"]], site: int, direction: Float[Tensor, " d_model"]
) -> Scores:
    positive, negative = ((side[:, site].double() @ direction.double()).numpy() for side in sides)
    return positive, negative
