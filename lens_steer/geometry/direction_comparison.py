"""Comparison of direction estimators: selection, discriminative sites, plane, and class separation on held-out prompts.

Every estimator of :mod:`lens_steer.geometry.estimators` gets a calibration of its own. Each calibration is compared
with the one by the difference of class means, which is the default everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.directions import check_finite, zero_rows
from lens_steer.geometry.estimators import ESTIMATORS, check_classes
from lens_steer.geometry.planes import principal_angles
from lens_steer.inference.record import Activations
from lens_steer.models import sites as site_names
from lens_steer.stats.areas import auroc
from lens_steer.stats.estimates import Estimate, columns
from lens_steer.stats.means import middle

DEFAULT = "difference"
MAX_SITES = 12  # the most sites with a bootstrap interval; they are spread over depth


@dataclass(frozen=True, eq=False)
class Estimated:
    """The calibration by one estimator and its comparison with the default's.

    Attributes:
        calibration: The calibration with this estimator's candidates.
        angles: The principal angles between its plane and the default's, in degrees, ascending.
        jaccard: The Jaccard index of its discriminative sites and the default's; 1 where neither has any.
        cosine: The cosine of each candidate with the difference of means; NaN where one of the two is zero.
        resampled: The same cosines on resampled prompts, one column for each site of
            ``DirectionComparison.resampled_sites``.
        auroc: The area under the ROC curve of the held-out projections on each candidate; None where the candidate is
            zero. The tuple is empty without held-out prompts.
    """

    calibration: Calibration
    angles: tuple[float, float]
    jaccard: float
    cosine: Float[Tensor, " n_sites"]
    resampled: Float[Tensor, "resamples n_resampled"]
    auroc: tuple[Estimate | None, ...]

    @property
    def nonzero(self) -> list[int]:
        """Return the number of nonzero coordinates of each candidate."""
        return torch.count_nonzero(self.calibration.candidates, dim=1).tolist()


@dataclass(frozen=True, eq=False)
class DirectionComparison(Shown, view="geometry"):
    """The comparison of every estimator with the difference of class means.

    Attributes:
        default: The calibration by the difference of class means.
        estimators: The compared estimators by name; the default is among them if it was asked for.
        resampled_sites: The rows of the sites whose cosine has a bootstrap interval.
        resamples, seed: The number of bootstrap resamples and their seed.
        n_held_out: The numbers of positive and negative prompts behind the AUROC; None without held-out prompts.
    """

    default: Calibration
    estimators: dict[str, Estimated]
    resampled_sites: tuple[int, ...]
    resamples: int
    seed: int
    n_held_out: tuple[int, int] | None

    def __repr__(self) -> str:
        return (
            f"DirectionComparison({self.default.model}: {', '.join(self.estimators)}; {len(self.default.sites)} sites, "
            f"{self.resamples} resamples, held out {self.n_held_out or 'none'})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each estimator and site, in network order; a value that does not exist is None.

        ``cosine_low``, ``cosine_median`` and ``cosine_high`` are bootstrap percentiles (2.5, 50 and 97.5). The cosine
        of all prompts may lie above this interval. A resample has fewer distinct prompts than the whole set, and with
        fewer prompts an estimator that weights by the spread deviates further from the difference of means where the
        classes hardly differ.
        """
        found = []
        for name, one in self.estimators.items():
            nonzero = one.nonzero
            for k, site in enumerate(self.default.sites):
                row: dict[str, Any] = {"estimator": name, "site": site, "block": site_names.parse(site).block}
                row["selected"] = site == one.calibration.selected_site
                row["discriminative"] = site in one.calibration.discriminative_sites
                row |= {"nonzero": nonzero[k], "cosine": _number(one.cosine[k])} | self._interval(one, k)
                found.append(row | columns("auroc", one.auroc[k] if one.auroc else None))
        return found

    def summary(self) -> list[dict[str, Any]]:
        """Return one row for each estimator.

        ``median_cosine``, ``median_nonzero`` and ``mean_auroc`` run over the sites with a candidate. ``auroc`` is that
        of the selected site, which was chosen on the fit prompts. ``first_apart`` is the first site whose AUROC
        interval lies entirely above 0.5.
        """
        found = []
        for name, one in self.estimators.items():
            made, exists = one.calibration, ~zero_rows(one.calibration.candidates)
            cosine = one.cosine[~one.cosine.isnan()]
            areas = [a.value for a in one.auroc if a is not None]
            apart = [s for s, a in zip(made.sites, one.auroc, strict=False) if a is not None and a.low > 0.5]
            row: dict[str, Any] = {
                "estimator": name,
                "selected_site": made.selected_site,
                "selection_margin": made.details["selection_margin"],
                "discriminative_sites": len(made.discriminative_sites),
                "discriminative_blocks": len(made.discriminative_blocks),
                "jaccard": one.jaccard,
                "first_angle": one.angles[0],
                "second_angle": one.angles[1],
                "zero_candidates": int((~exists).sum()),
                "median_cosine": _number(cosine.median()) if len(cosine) else None,
                "median_nonzero": float(np.median(np.array(one.nonzero)[exists.numpy()])),
                "mean_auroc": float(np.mean(areas)) if areas else None,
                "first_apart": apart[0] if apart else None,
            }
            found.append(row | columns("auroc", one.auroc[made.selected_index] if one.auroc else None))
        return found

    def _interval(self, one: Estimated, k: int) -> dict[str, float | None]:
        drawn = one.resampled[:, self.resampled_sites.index(k)] if k in self.resampled_sites else one.resampled[:0, 0]
        low, median, high = middle(drawn.numpy())
        return {"cosine_low": low, "cosine_median": median, "cosine_high": high}


def compare_directions(
    activations: Activations,
    names: Sequence[str] = tuple(ESTIMATORS),
    *,
    held_out: Activations | None = None,
    rule: str = "paper",
    resamples: int = 50,
    max_sites: int = MAX_SITES,
    seed: int = 0,
    progress: bool = True,
) -> DirectionComparison:
    """Calibrate by every named estimator and compare each calibration with the one by the difference of class means.

    The bootstrap draws prompts with replacement within each class (for ``paired_pca`` it draws pairs). It takes the
    cosine of the estimate with the difference of means of the same draw. It runs at sites spread over depth, among them
    the first and the last site with a difference of means.

    Args:
        activations: The activations of the fit split.
        names: The names of estimators, from :data:`lens_steer.geometry.estimators.ESTIMATORS`.
        held_out: The activations of the report split at the same sites, for the AUROC of their projections on the
            directions of the fit split; None gives no AUROC.
        rule: The rule of L_disc, see :func:`lens_steer.geometry.calibration.calibrate`.
        resamples: The number of bootstrap resamples.
        max_sites: The largest number of sites with an interval.
        seed: The seed of the draws; the same seed gives the same result.
        progress: Whether to show a bar after the first second.

    Raises:
        LensSteerError: If a name is unknown or none is given, if the classes have different sizes for ``paired_pca``,
            if the held-out activations are of other sites or not finite, or if a count or the seed is invalid. Also if
            ``calibrate`` refuses; the message then begins with the estimator's name.
    """
    _check(activations, names, held_out, resamples, max_sites, seed)
    default = calibrate(activations, rule=rule, seed=seed)
    made = {name: _calibrated(activations, name, default, progress) for name in names}
    chosen = _spread((~zero_rows(default.candidates)).nonzero().flatten().tolist(), max_sites)
    total = len(names) * resamples * len(chosen)
    with tqdm(total=total, desc="directions", unit="fit", delay=1, disable=not progress, leave=False) as bar:
        resampled = {name: _resample(activations, name, chosen, resamples, seed, bar) for name in names}
    return DirectionComparison(
        default,
        {name: _compared(default, made[name], resampled[name], held_out) for name in names},
        tuple(chosen),
        resamples,
        seed,
        None if held_out is None else (len(held_out.positive), len(held_out.negative)),
    )


def _check(
    activations: Activations,
    names: Sequence[str],
    held_out: Activations | None,
    resamples: int,
    max_sites: int,
    seed: int,
) -> None:
    if not names:
        raise LensSteerError(f"names is empty: name at least one of {', '.join(ESTIMATORS)}")
    for name in names:
        check_classes(name, len(activations.positive), len(activations.negative))
    for name, value in (("resamples", resamples), ("max_sites", max_sites)):
        if value < 1:
            raise LensSteerError(f"{name}={value}: use at least 1")
    if seed < 0:
        raise LensSteerError(f"seed={seed}: use 0 or a positive integer")
    if held_out is None:
        return
    if held_out.sites != activations.sites or held_out.d_model != activations.d_model:
        raise LensSteerError(
            f"held_out was recorded at {len(held_out.sites)} sites of width {held_out.d_model}, the fit split at "
            f"{len(activations.sites)} of width {activations.d_model}: record both at the same sites of the same model"
        )
    check_finite("held_out", held_out.positive, held_out.negative)


def _calibrated(activations: Activations, name: str, default: Calibration, progress: bool) -> Calibration:
    if name == DEFAULT:
        return default
    try:
        return calibrate(activations, rule=default.rule, direction=name, seed=default.seed, progress=progress)
    except LensSteerError as error:
        raise LensSteerError(f"direction={name!r}: {error}") from None


def _compared(default: Calibration, made: Calibration, resampled: Tensor, held_out: Activations | None) -> Estimated:
    first, second = principal_angles(default.basis, made.basis[None])[0].tolist()
    ours, theirs = set(made.discriminative_sites), set(default.discriminative_sites)
    return Estimated(
        made,
        (first, second),
        len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0,
        _cosines(made.candidates, default.candidates),
        resampled,
        () if held_out is None else _areas(made, held_out),
    )


def _areas(made: Calibration, held_out: Activations) -> tuple[Estimate | None, ...]:
    zero, found = zero_rows(made.candidates), []
    for site, none, direction in zip(made.sites, zero, made.candidates.double(), strict=True):
        positive, negative = ((side.double() @ direction).numpy() for side in held_out.at(site))
        found.append(None if none else auroc(positive, negative))
    return tuple(found)


def _resample(
    activations: Activations, name: str, chosen: Sequence[int], resamples: int, seed: int, bar: Any
) -> Float[Tensor, "resamples n_resampled"]:
    """Return the cosines of estimate and difference of means, both of the same resample, at the chosen sites."""
    found = torch.full((resamples, len(chosen)), torch.nan, dtype=torch.float64)
    draws = list(_draws(len(activations.positive), len(activations.negative), resamples, seed))
    for column, k in enumerate(chosen):
        positive, negative = activations.positive[:, k].double(), activations.negative[:, k].double()
        for row, (first, second) in enumerate(draws):
            classes = positive[first], negative[first if name == "paired_pca" else second]
            found[row, column] = _cosines(ESTIMATORS[name](*classes)[None], ESTIMATORS[DEFAULT](*classes)[None])[0]
            bar.update()
    return found


def _draws(n_positive: int, n_negative: int, resamples: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of the prompts in each resample, drawn separately for each class."""
    rng = np.random.default_rng([seed, 0])
    for _ in range(resamples):
        first, second = (torch.from_numpy(rng.integers(n, size=n)) for n in (n_positive, n_negative))
        yield first, second


def _cosines(first: Float[Tensor, "n d_model"], second: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    """Return the cosines row by row, in float64; NaN where a row is zero."""
    x, y = first.double(), second.double()
    lengths = x.norm(dim=1) * y.norm(dim=1)
    return torch.where(lengths > 0, (x * y).sum(dim=1) / lengths, torch.nan)


def _spread(rows: Sequence[int], n: int) -> list[int]:
    """Return at most n of the rows, evenly spaced, with the first and the last among them."""
    if len(rows) <= n:
        return list(rows)
    return [rows[round(float(k))] for k in np.linspace(0, len(rows) - 1, n)]


def _number(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)
