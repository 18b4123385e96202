"""Stability of a calibration: its selection, plane and layers with other prompts, and with no real difference at all.

Three distributions are compared with one calibration of the fit split:

- Bootstrap: the prompts of each class are drawn again with replacement. It tells how much the calibration depends on
  the prompts.
- Shuffled: the labels are shuffled over all prompts. It tells what the same procedure finds where there is nothing to
  find.
- Random planes: orthonormal pairs are drawn uniformly in the whole space. They tell how far a plane is from the
  calibrated plane by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.discriminative import BOUNDS
from lens_steer.geometry.planes import principal_angles, random_plane
from lens_steer.geometry.resampling import Options, Recalibrated, bootstrap_counts, label_counts, pooled, recalibrate
from lens_steer.inference.record import Activations
from lens_steer.models import sites as site_names
from lens_steer.stats.estimates import Estimate, columns
from lens_steer.stats.means import middle
from lens_steer.stats.rates import wilson

ROUNDING = 1e-12  # a shuffle whose cosine equals the observed one up to rounding counts as equally extreme


@dataclass(frozen=True, eq=False)
class Resamples(Shown, view="geometry"):
    """The results of one way of drawing prompts, compared with the calibration of all prompts.

    Attributes:
        selected: The row of the selected site; −1 where every candidate is zero.
        cosine: The cosine of the selected direction with that of all prompts; NaN where there is none.
        top_cosine: The mean cosine of the selected candidate with all candidates; NaN where there is none.
        angles: The principal angles between the plane and that of all prompts, in degrees, ascending; NaN where the
            plane is degenerate or there is no direction.
        discriminative: The mask of L_disc.
    """

    selected: Int[Tensor, " resamples"]
    cosine: Float[Tensor, " resamples"]
    top_cosine: Float[Tensor, " resamples"]
    angles: Float[Tensor, "resamples 2"]
    discriminative: Bool[Tensor, "resamples n_sites"]

    def __repr__(self) -> str:
        return f"Resamples({len(self.selected)} of {self.discriminative.shape[1]} sites)"

    @property
    def sizes(self) -> Int[Tensor, " resamples"]:
        """Return ``|L_disc|`` of each resample, as a number of sites."""
        return self.discriminative.sum(dim=1)

    @property
    def no_direction(self) -> int:
        """Return the number of resamples in which every candidate is zero.

        In these no site is selected, and none is discriminative.
        """
        return int((self.selected < 0).sum())

    @property
    def degenerate(self) -> int:
        """Return the number of resamples with a direction but no plane.

        They count everywhere except in the principal angles.
        """
        return int(self.angles[:, 0].isnan().sum()) - self.no_direction

    def selected_share(self, site: int) -> Estimate:
        """Return the share of all resamples in which the site is the selected one."""
        return _share(self.selected == site)

    def discriminative_share(self, rows: Sequence[int]) -> Estimate:
        """Return the share of all resamples in which at least one of the sites is discriminative."""
        return _share(self.discriminative[:, list(rows)].any(dim=1))


@dataclass(frozen=True, eq=False)
class Stability(Shown, view="geometry"):
    """The variation of a calibration with its prompts, and its null distributions.

    The Wilson intervals tell how well ``resamples`` draws determine a share. They hold for the recorded prompts.

    Attributes:
        calibration: The calibration of all prompts.
        top_cosine: The mean cosine of its selected candidate with all candidates.
        bootstrap: The results where each class is resampled separately, with replacement.
        shuffled: The results where labels are shuffled over all prompts.
        random_angles: The principal angles of random planes with the calibration's plane, in degrees, ascending.
        seed: The seed of every draw.
    """

    calibration: Calibration
    top_cosine: float
    bootstrap: Resamples
    shuffled: Resamples
    random_angles: Float[Tensor, "resamples 2"]
    seed: int

    def __repr__(self) -> str:
        chosen = self.bootstrap.selected_share(self.calibration.selected_index)
        return (
            f"Stability({self.calibration.model}: {self.calibration.selected_site} selected in {chosen.value:.0%} of "
            f"{chosen.n} resamples, p {self.p_size:.3g} for |L_disc|, {self.p_top_cosine:.3g} for the top mean cosine)"
        )

    @property
    def p_size(self) -> float:
        """Return the permutation p-value of ``|L_disc|``, ``(1 + #{shuffled ≥ observed}) / (1 + resamples)``.

        Class means of opposite sign require that the mean over all prompts is short along the direction, whatever the
        labels are. On centred activations every labelling has opposite signs, and p is 1 however far apart the classes
        are.
        """
        return _p_value(self.shuffled.sizes >= len(self.calibration.discriminative_sites))

    @property
    def p_top_cosine(self) -> float:
        """Return the permutation p-value of the top mean cosine, by the formula of :attr:`p_size`.

        A shuffle without any direction counts as smaller than the observed value.
        """
        return _p_value(self.shuffled.top_cosine >= self.top_cosine - ROUNDING)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each site, in network order.

        A row tells whether the site is selected and discriminative in the calibration, and the shares with Wilson
        intervals.
        """
        full, found = self.calibration, []
        for k, name in enumerate(full.sites):
            row = {"site": name, "block": site_names.parse(name).block, "selected": name == full.selected_site}
            row["discriminative"] = name in full.discriminative_sites
            for prefix, drawn in (("", self.bootstrap), ("null_", self.shuffled)):
                row |= columns(f"{prefix}selected_share", drawn.selected_share(k))
                row |= columns(f"{prefix}discriminative_share", drawn.discriminative_share([k]))
            found.append(row)
        return found

    def block_rows(self) -> list[dict[str, Any]]:
        """Return one row for each block.

        A block is discriminative if at least one of its sites is (under the rule ``official``: if all of them are).
        """
        found = []
        for block in site_names.blocks_of(self.calibration.sites):
            inside = [k for k, name in enumerate(self.calibration.sites) if site_names.parse(name).block == block]
            row = {"block": block, "discriminative": block in self.calibration.discriminative_blocks}
            row |= columns("discriminative_share", self.bootstrap.discriminative_share(inside))
            found.append(row | columns("null_discriminative_share", self.shuffled.discriminative_share(inside)))
        return found

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values for JSON.

        ``low`` and ``high`` of a share are the limits of its Wilson interval. Those of a distribution are the limits of
        its middle 95 %.
        """
        full, both = self.calibration, {"bootstrap": self.bootstrap, "shuffled": self.shuffled}

        def spread_of(quantity: str) -> dict[str, Any]:
            return {name: _spread(getattr(resamples, quantity)) for name, resamples in both.items()}

        angles = {name: r.angles for name, r in both.items()} | {"random": self.random_angles}
        chosen = self.bootstrap.selected_share(full.selected_index)
        return {
            "model": full.model,
            "prompt_hash": full.prompt_hash,
            "n_positive": full.n_positive,
            "n_negative": full.n_negative,
            "rule": full.rule,
            **{k: full.details[k] for k in ("candidate_norm", "pca_center", "pca_component")},
            "resamples": len(self.bootstrap.selected),
            "seed": self.seed,
            "selected": {
                "site": full.selected_site,
                **columns("share", chosen),
                "distinct_sites": len(self.bootstrap.selected.unique()) - bool(self.bootstrap.no_direction),
            },
            "direction_cosine": spread_of("cosine"),
            "principal_angles": {
                name: {"first": _spread(a[:, 0]), "second": _spread(a[:, 1])} for name, a in angles.items()
            },
            "size": {"value": len(full.discriminative_sites), "p_value": self.p_size} | spread_of("sizes"),
            "top_mean_cosine": {"value": self.top_cosine, "p_value": self.p_top_cosine} | spread_of("top_cosine"),
            "degenerate_planes": {name: r.degenerate for name, r in both.items()},
            "no_direction": {name: r.no_direction for name, r in both.items()},
            "sites": self.rows(),
            "blocks": self.block_rows(),
        }


def stability(
    activations: Activations,
    *,
    rule: str = "paper",
    candidate_norm: str = "unit",
    pca_center: bool = True,
    component: int = 0,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Stability:
    """Measure the stability of a calibration under other prompts, in comparison with shuffled labels and random planes.

    The first four options are those of :func:`lens_steer.geometry.calibration.calibrate`. Every resample is what
    ``calibrate`` gives on its prompts.

    Args:
        activations: The activations of the fit split.
        rule, candidate_norm, pca_center, component: See :func:`lens_steer.geometry.calibration.calibrate`; a rule with
            a bound is refused.
        resamples: The number of bootstrap resamples, and also of shuffles and of random planes.
        seed: The seed of all draws; the same seed gives the same result.
        progress: Whether to show a bar after the first second.

    Raises:
        LensSteerError: If a class has fewer than two prompts, the rule has a bound, a count or the seed is invalid,
            activations are not finite, or ``calibrate`` refuses all prompts. A resample without a direction or with a
            degenerate plane is not refused but counted.
    """
    n_positive, n_negative = len(activations.positive), len(activations.negative)
    for name, n in (("positive", n_positive), ("negative", n_negative)):
        if n < 2:
            raise LensSteerError(
                f"activations hold {n} {name} prompts: resampling needs at least 2 of each class, record more"
            )
    if rule in BOUNDS:
        raise LensSteerError(
            f"rule={rule!r} goes by single prompts' projections, and here class means are resampled: use another "
            "rule; the calibration's membership has this one's probabilities"
        )
    if resamples < 1:
        raise LensSteerError(f"resamples={resamples}: use at least 1; 1000 is usual")
    if seed < 0:
        raise LensSteerError(f"seed={seed}: use 0 or a positive integer")
    options = Options(rule, candidate_norm, pca_center, component)
    both = pooled(activations, options)
    full = calibrate(activations, **vars(options), seed=seed)
    classes = both.rows(0, n_positive), both.rows(n_positive, n_positive + n_negative)
    labels = label_counts(n_positive, n_negative, resamples=resamples, seed=seed)
    counts = bootstrap_counts(n_positive, n_negative, resamples=resamples, seed=seed)
    once = torch.ones(1, n_positive, dtype=torch.float64), torch.ones(1, n_negative, dtype=torch.float64)
    observed = recalibrate(*classes, once, full.sites, options)
    with tqdm(
        total=2 * resamples, desc="stability", unit="resample", delay=1, disable=not progress, leave=False
    ) as bar:
        bootstrap = recalibrate(*classes, counts, full.sites, options, tick=bar.update)
        shuffled = recalibrate(both, both, (labels, 1 - labels), full.sites, options, tick=bar.update)
    seeds = np.random.default_rng([seed, 2]).integers(2**62, size=resamples)
    random = torch.stack([random_plane(full.d_model, int(s)) for s in seeds])
    return Stability(
        full,
        float(observed.top_cosine[0]),
        _against(full, bootstrap),
        _against(full, shuffled),
        principal_angles(full.basis, random),
        seed,
    )


def _against(full: Calibration, found: Recalibrated) -> Resamples:
    return Resamples(
        found.selected,
        found.direction @ full.basis[0].double(),
        found.top_cosine,
        principal_angles(full.basis, found.basis),
        found.discriminative,
    )


def _share(which: Bool[Tensor, " resamples"]) -> Estimate:
    return wilson(int(which.sum()), len(which))


def _p_value(as_extreme: Bool[Tensor, " resamples"]) -> float:
    """Return the p-value by the add-one rule.

    The observed labelling is one of the possible ones, so p is never 0.
    """
    return (1 + int(as_extreme.sum())) / (1 + len(as_extreme))


def _spread(values: Tensor) -> dict[str, float | int | None]:
    """Return the median and the middle 95 % of the values that are not NaN, and their number."""
    low, median, high = middle(values.double().numpy())
    return {"median": median, "low": low, "high": high, "n": int((~values.isnan()).sum())}
