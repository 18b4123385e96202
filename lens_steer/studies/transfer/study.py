"""The study: a calibration from one source of prompts is tested on held-out prompts of every source, and calibrations
from few prompts are compared with one from other prompts.

Nothing is steered. What transfers here is the separation of the classes by the direction, and the choice of the sites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.resampling import Options, pooled, recalibrate
from lens_steer.inference.class_means import recording
from lens_steer.inference.record import Activations, record_prompts
from lens_steer.models.loading import info_of
from lens_steer.models.sites import resolve
from lens_steer.stats.areas import auroc
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.rates import Z_95

SIZES = (4, 8, 16, 33, 64, 128)  # 33 is among them: the number of pairs that small calibration sets have
DRAWS = 100
RANDOM = 19  # random directions beside each pair


@dataclass(frozen=True, eq=False)
class Source:
    """One source of prompts.

    Attributes:
        name: Its name.
        fit, held_out: The activations of both splits.
        calibration, other: The calibrations from them.
    """

    name: str
    fit: Activations
    held_out: Activations
    calibration: Calibration
    other: Calibration


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

    def area(self, z: float = Z_95) -> Estimate:
        """Return the area under the ROC curve of the held-out prompts on the direction of ``fitted``."""
        return auroc(*self.scores, z=z)

    def own(self, z: float = Z_95) -> Estimate:
        """Return the same area on the direction of ``on`` itself."""
        return auroc(*self.own_scores, z=z)


@dataclass(frozen=True, eq=False)
class Draws:
    """Calibrations of one source from few of its prompts, each drawn without replacement.

    Attributes:
        source: The name of the source.
        n: The number of prompts of each class.
        cosine: The cosine of each direction with the other prompts' candidate at the site that it selected.
        jaccard: The Jaccard index of each L_disc with that of the other prompts.
        area: The area under the ROC curve of the held-out projections.
        same_site: Whether the selected site is that of all fit prompts.
    """

    source: str
    n: int
    cosine: Float[np.ndarray, " draws"]
    jaccard: Float[np.ndarray, " draws"]
    area: Float[np.ndarray, " draws"]
    same_site: Bool[np.ndarray, " draws"]


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
        sizes: Numbers of prompts of a class for small calibrations; those above a source's own number are left out.
        draws: The calibrations of each number.
        seed: The seed of every draw.
        engine: See :func:`lens_steer.record`.
        progress: Whether to show a bar.

    Raises:
        LensSteerError: If there is no source, if one lacks prompts, or if a number is below 1.
    """
    check(sources, sizes, draws)
    recorded = [_source(model, name, of, engine, kept) for kept in [{}] for name, of in _bar(sources, progress)]
    pairs = [_pair(a, b, seed) for a in recorded for b in recorded]
    few = [_drawn(s, n, draws, seed) for s in recorded for n in sizes if n <= min(s.fit.n_positive, s.fit.n_negative)]
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


def _bar(sources: Mapping[str, ContrastSet], progress: bool) -> Iterator[tuple[str, ContrastSet]]:
    yield from tqdm(sources.items(), desc="sources", disable=not progress, leave=False)


def _source(model: Any, name: str, of: ContrastSet, engine: str, kept: dict[str, Tensor]) -> Source:
    """Record one source; ``kept`` holds the sides that were recorded before, by their hash."""
    fit, held_out = (_recorded(model, part, engine, kept) for part in (of.fit, of.report))
    return Source(name, fit, held_out, calibrate(fit), calibrate(held_out))


def _recorded(model: Any, part: Contrast, engine: str, kept: dict[str, Tensor]) -> Activations:
    info = info_of(model)
    names = tuple(resolve("norm_out", n_layers=info.n_layers, architecture=info.architecture))

    def side(prompts: PromptSet) -> Tensor:
        if prompts.hash not in kept:
            kept[prompts.hash] = record_prompts(model, prompts, names, engine=engine)
        return kept[prompts.hash]

    return Activations(
        names,
        side(part.positive),
        side(part.negative),
        tuple(p.group for p in part.positive),
        tuple(p.group for p in part.negative),
        **recording(info, part, "last"),
        hashes_positive=part.positive.hashes,
        hashes_negative=part.negative.hashes,
    )


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
    areas = [auroc(*_scores(held_out, at, v)).value for v in drawn]
    areas = [max(a, 1 - a) for a in areas]
    return Pair(
        fitted=fitted.name,
        on=on.name,
        site=fitted.calibration.selected_site,
        scores=_scores(held_out, at, fitted.calibration.basis[0]),
        own_scores=_scores(held_out, own.selected_index, own.basis[0]),
        random=(min(areas), max(areas)),
        cosine=_cosine(fitted.calibration.candidates[at], own.candidates[at]),
        jaccard=jaccard(set(fitted.calibration.discriminative_sites), set(own.discriminative_sites)),
        left_out=sum(int((~k).sum()) for k in keep),
    )


def _scores(
    sides: Sequence[Float[Tensor, "_ n_sites d_model"]], site: int, direction: Float[Tensor, " d_model"]
) -> Scores:
    positive, negative = ((side[:, site].double() @ direction.double()).numpy() for side in sides)
    return positive, negative


def _cosine(a: Float[Tensor, " d_model"], b: Float[Tensor, " d_model"]) -> float:
    lengths = float(a.double().norm() * b.double().norm())
    return float(a.double() @ b.double()) / lengths if lengths > 0 else float("nan")


def jaccard(one: set[str], other: set[str]) -> float:
    """Return the size of the intersection over that of the union; 1 for two empty sets.

    >>> jaccard({"a", "b"}, {"b", "c"}), jaccard(set(), set())
    (0.3333333333333333, 1.0)
    """
    return len(one & other) / len(one | other) if one | other else 1.0


def _drawn(source: Source, n: int, draws: int, seed: int) -> Draws:
    """Calibrate on ``n`` prompts of each class, several times, and compare with the prompts that were held out."""
    fit, held_out = source.fit, source.held_out
    rng = np.random.default_rng([seed, n])
    counts = [_subsets(rng, len(side), n, draws) for side in (fit.positive, fit.negative)]
    samples, m = pooled(fit, Options()), len(fit.positive)
    rows = samples.rows(0, m), samples.rows(m, m + len(fit.negative))
    found = recalibrate(*rows, (counts[0], counts[1]), fit.sites, Options())
    theirs = set(source.other.discriminative_sites)
    measured: list[tuple[float, float, float]] = []
    for i in range(draws):
        at, direction = int(found.selected[i]), found.direction[i]
        mine = {name for name, inside in zip(fit.sites, found.discriminative[i].tolist(), strict=True) if inside}
        if at < 0:  # every candidate is zero
            measured.append((float("nan"), jaccard(mine, theirs), 0.5))
            continue
        area = auroc(*_scores((held_out.positive, held_out.negative), at, direction)).value
        measured.append((_cosine(direction, source.other.candidates[at]), jaccard(mine, theirs), area))
    cosine, overlap, area = (np.array(column) for column in zip(*measured, strict=True))
    same = (found.selected == source.calibration.selected_index).numpy()
    return Draws(source.name, n, cosine, overlap, area, same)


def _subsets(rng: np.random.Generator, total: int, n: int, draws: int) -> Float[Tensor, "draws total"]:
    """Draw subsets of ``n`` of ``total`` prompts, as counts of 0 and 1."""
    counts = torch.zeros(draws, total, dtype=torch.float64)
    for row in counts:
        row[torch.from_numpy(rng.permutation(total)[:n])] = 1.0
    return counts
