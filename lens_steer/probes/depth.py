"""Probes across depth, on held-out prompts: their accuracy, the part of it that is memory, and their directions.

Performance is measured on the report split. The probe, the directions with which it is compared and their intervals
come from the fit split. So does the accuracy of remembering scenarios, which needs other prompts of the same scenarios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError
from lens_steer.geometry import logistic
from lens_steer.geometry.estimators import fisher
from lens_steer.inference.record import Activations
from lens_steer.probes.probe import NUMBERS, Probe, fit_probe, groups_of, stacked
from lens_steer.stats.areas import auroc
from lens_steer.stats.estimates import Estimate, columns
from lens_steer.stats.means import grouped_mean
from lens_steer.stats.rates import Z_95, grouped_rate
from lens_steer.stats.ties import middle_of_best

DRAWS = 20  # draws of control labels
BLOCKS = 20  # blocks of scenarios, left out one at a time for the cosines' intervals
FEWEST = 4  # the fewest scenarios of a class in the fit split
BINS = 10  # bins of the calibration curve
COSINES = ("cosine_to_difference", "cosine_to_fisher")
MEASURED = ("accuracy", "auroc", "selectivity", "selectivity_scenario", "brier", *COSINES)


@dataclass(frozen=True)
class Bin:
    """The prompts whose predicted probability lies in ``low … high``.

    Attributes:
        low, high: The limits of the bin.
        predicted: The mean predicted probability of these prompts.
        observed: The share of them that is of the positive class.
    """

    low: float
    high: float
    predicted: float
    observed: Estimate


@dataclass(frozen=True, eq=False)
class ProbeResult(Shown, view="probes"):
    """One site's probe and its performance on held-out prompts.

    ``measured`` holds these estimates by name:

    - ``accuracy``: The share of prompts on their class's side of the boundary (Wilson's interval, n the number of
      scenarios).
    - ``auroc``: The area under the ROC curve, with Newcombe's interval.
    - ``brier``: The mean squared error of the probability.
    - ``selectivity``: The accuracy minus that of probes of shuffled labels, which is chance level; this serves as a
      check.
    - ``selectivity_scenario``: The accuracy minus that of probes that learn one random label for each scenario and are
      tested on the scenario's other prompts. These show the accuracy that comes from remembering scenarios. It exists
      only where scenarios have several prompts.
    - ``cosine_to_difference``, ``cosine_to_fisher``: The cosine of the normal with the difference of means and with
      Fisher's direction (jackknife over scenarios of the fit split).

    Attributes:
        probe: The probe, fitted on the fit split.
        measured: The estimates by name.
        reliability: The calibration curve.
    """

    probe: Probe
    measured: Mapping[str, Estimate]
    reliability: tuple[Bin, ...]

    def __repr__(self) -> str:
        return f"ProbeResult({self.probe.site}: accuracy {self.measured['accuracy']})"

    def row(self) -> dict[str, Any]:
        """Return plain values: ``name``, ``name_low``, ``name_high``, and the boundary with the class means."""
        p = self.probe
        found: dict[str, Any] = {"site": p.site}
        for name in MEASURED:
            found |= columns(name, self.measured.get(name))
        return found | {
            **{name: getattr(p, attribute) for name, attribute in NUMBERS.items()},
            "between": p.between,
            "cohens_d": p.cohens_d,
            "C": p.C,
            "n_fit": p.n_positive + p.n_negative,
            "n_scenarios": self.measured["accuracy"].n,
        }


@dataclass(frozen=True, eq=False)
class ProbeScan(Shown, view="probes"):
    """Probes at many sites.

    Attributes:
        results: The results, in network order.
        without: The reason why a site has no probe (the classes do not differ there), by site.
    """

    results: tuple[ProbeResult, ...]
    without: Mapping[str, str]

    def at(self, site: str) -> ProbeResult:
        """Return one site's result.

        Raises:
            LensSteerError: If the site has no probe.
        """
        for result in self.results:
            if result.probe.site == site:
                return result
        raise LensSteerError(f"site={site!r} has no probe: {self.without.get(site, 'it was not recorded')}")

    @property
    def best(self) -> ProbeResult:
        """Return the result with the highest accuracy.

        Of several it is the one with the highest AUROC, and of several such the middle one.
        """
        scores = [(r.measured["accuracy"].value, r.measured["auroc"].value) for r in self.results]
        return middle_of_best(self.results, scores)[0]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each site; a site without a probe has an empty row with a note."""
        found = [r.row() for r in self.results]
        empty = dict.fromkeys(found[0]) if found else {}
        return [row | {"note": None} for row in found] + [
            empty | {"site": s, "note": why} for s, why in self.without.items()
        ]

    def __repr__(self) -> str:
        best = self.best
        return f"ProbeScan({len(self.results)} sites, best {best.probe.site}: accuracy {best.measured['accuracy']})"


def probe_depth(
    fit: Activations,
    report: Activations,
    *,
    C: float | int | None = 1.0,
    standardize: bool = False,
    draws: int = DRAWS,
    blocks: int = BLOCKS,
    seed: int = 0,
    progress: bool = True,
) -> ProbeScan:
    """Fit a probe at every site and evaluate it on held-out prompts.

    Args:
        fit, report: The activations of both splits, recorded at the same sites of the same model, with no scenario in
            both.
        C, standardize: See :func:`lens_steer.probes.probe.fit_probe`.
        draws: The number of draws of control labels.
        blocks: The number of blocks of scenarios, for the cosines' intervals.
        seed: The seed of controls and intervals.
        progress: Whether to show a bar.

    Raises:
        LensSteerError: If a scenario is in both splits, the splits differ in sites, pooling or model, a class has fewer
            than :data:`FEWEST` scenarios to fit on, or the classes differ at no site.
    """
    _check(fit, report)
    results, without = [], {}
    for site in tqdm(fit.sites, desc="probes", unit="site", disable=not progress, leave=False):
        if _without_difference(fit, site):
            without[site] = "every sample is the same here"
            continue
        probe = fit_probe(fit, site, C=C, standardize=standardize, seed=seed)
        results.append(evaluate(probe, fit, report, draws=draws, blocks=blocks, seed=seed))
    if not results:
        raise LensSteerError(
            f"the classes do not differ at any of the sites {', '.join(fit.sites[:3])}, …: record other sites or "
            "other prompts"
        )
    return ProbeScan(tuple(results), without)


def evaluate(
    probe: Probe, fit: Activations, report: Activations, *, draws: int = DRAWS, blocks: int = BLOCKS, seed: int = 0
) -> ProbeResult:
    """Evaluate one probe on held-out prompts; see :class:`ProbeResult`."""
    x, labels = stacked(*report.at(probe.site))
    groups = groups_of(report)
    weight, bias = probe.weight.double().numpy(), probe.bias
    p = logistic.probabilities(x, weight, bias)
    hits = (p > 0.5) == labels
    fitted = _Fitted.of(probe, fit)
    shuffled = fitted.shuffled(x, labels, draws, seed)
    measured = {
        "accuracy": grouped_rate(hits, groups),
        "auroc": auroc(p[labels], p[~labels]),
        "brier": grouped_mean((p - labels) ** 2, groups, seed=seed),
        "selectivity": grouped_mean(hits - shuffled.mean(axis=0), groups, seed=seed),
        **fitted.cosines(blocks, seed),
    }
    memory = fitted.remembered(draws, seed)
    if memory is not None:
        measured["selectivity_scenario"] = _difference(measured["accuracy"], memory)
    return ProbeResult(probe, measured, reliability(p, labels, groups))


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The samples of the fit split at one site, for fits with other labels and weights."""

    probe: Probe
    x: Float[np.ndarray, "n d_model"]
    labels: Bool[np.ndarray, " n"]
    groups: np.ndarray
    samples: logistic.Samples

    @staticmethod
    def of(probe: Probe, fit: Activations) -> _Fitted:
        x, labels = stacked(*fit.at(probe.site))
        samples = logistic.prepare(x, standardize=probe.standardized)
        return _Fitted(probe, x, labels, np.asarray(groups_of(fit)), samples)

    def shuffled(self, x: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Bool[np.ndarray, "draws n"]:
        """Return the hits, on held-out prompts with shuffled labels, of probes that were fitted to shuffled labels."""
        rng = np.random.default_rng([seed, 0])
        hits = np.empty((draws, len(x)), dtype=bool)
        for i in range(draws):
            weight, bias = logistic.fit(self.samples, rng.permutation(self.labels), C=self.probe.C)
            hits[i] = (x @ weight + bias > 0) == rng.permutation(labels)
        return hits

    def remembered(self, draws: int, seed: int) -> Estimate | None:
        """Return the accuracy of probes of one random label for each scenario, on the scenarios' other prompts.

        None where fewer than 8 prompts belong to a scenario with several prompts.
        """
        names, of, counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        several = counts[of] > 1
        if several.sum() < 8:
            return None
        # Every scenario gets a random label. The probe learns it from every second prompt of the scenario and is tested
        # on the other ones. Labels carry no information about the class, so its accuracy above one half shows how well
        # scenarios themselves can be recognised.
        rank = np.zeros(len(of), dtype=int)  # 0, 1, … within the scenario
        for g in range(len(names)):
            rank[of == g] = np.arange(counts[g])
        learnt, asked = several & (rank % 2 == 0), several & (rank % 2 == 1)
        samples = logistic.prepare(self.x[learnt], standardize=self.probe.standardized)
        rng = np.random.default_rng([seed, 1])
        hits = np.zeros(int(asked.sum()))
        for _ in range(draws):
            label = rng.permutation(np.arange(len(names)) % 2 == 0)[of]
            weight, bias = logistic.fit(samples, label[learnt], C=self.probe.C)
            hits += (self.x[asked] @ weight + bias > 0) == label[asked]
        return grouped_mean(hits / draws, self.groups[asked].tolist(), seed=seed)

    def cosines(self, blocks: int, seed: int) -> dict[str, Estimate]:
        """Return the cosines of the normal with the difference of means and with Fisher's direction.

        The 95 % interval is that of a jackknife that leaves out one block of scenarios at a time. A bootstrap is not
        used: a resample holds fewer different prompts, and the cosine of two estimates falls with their number.
        """
        names, first, of = np.unique(self.groups, return_index=True, return_inverse=True)
        value = np.array(self._cosines(np.ones(len(of), dtype=bool)))
        k = min(blocks, len(names))
        # Sorted by class, so that the scenarios of each class are spread evenly over the blocks.
        order = np.lexsort((np.random.default_rng([seed, 2]).random(len(names)), self.labels[first]))
        block = np.empty(len(names), dtype=int)
        block[order] = np.arange(len(names)) % k
        block = block[of]
        left = np.array([self._cosines(block != i) for i in range(k)])
        # The variance of the jackknife with k blocks is (k − 1)/k Σᵢ (θ₋ᵢ − mean)², θ₋ᵢ the value without block i.
        half = Z_95 * np.sqrt((k - 1) / k * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
        low, high = np.maximum(value - half, -1.0), np.minimum(value + half, 1.0)
        both = zip(COSINES, value.tolist(), low.tolist(), high.tolist(), strict=True)
        return {name: Estimate(v, a, b, len(names)) for name, v, a, b in both}

    def _cosines(self, kept: Bool[np.ndarray, " n"]) -> tuple[float, float]:
        x, labels = self.x[kept], self.labels[kept]
        weight, _ = logistic.fit(self.samples, self.labels, C=self.probe.C, weights=kept.astype(np.float64))
        difference = x[labels].mean(axis=0) - x[~labels].mean(axis=0)
        lda = fisher(torch.from_numpy(x[labels]), torch.from_numpy(x[~labels])).numpy()
        return _cosine(weight, difference), _cosine(weight, lda)


def reliability(
    p: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], groups: Sequence[str], bins: int = BINS
) -> tuple[Bin, ...]:
    """Return the calibration curve: mean predicted probability and share of the positive class, in bins of equal width.

    Empty bins are left out.

    >>> curve = reliability(np.array([0.1, 0.2, 0.9]), np.array([False, False, True]), ["a", "b", "c"], bins=2)
    >>> [round(b.predicted, 2) for b in curve]
    [0.15, 0.9]
    """
    index = np.minimum((p * bins).astype(int), bins - 1)
    found = []
    for i in range(bins):
        inside = index == i
        if inside.any():
            observed = grouped_rate(labels[inside], [g for g, own in zip(groups, inside, strict=True) if own])
            found.append(Bin(i / bins, (i + 1) / bins, float(p[inside].mean()), observed))
    return tuple(found)


def _difference(a: Estimate, b: Estimate) -> Estimate:
    """Return the difference of two independent estimates.

    For each bound of the interval, the distances of both estimates to their bounds are added as squares.
    """
    value = a.value - b.value
    below, above = np.hypot(a.value - a.low, b.high - b.value), np.hypot(a.high - a.value, b.value - b.low)
    return Estimate(value, value - float(below), value + float(above), min(a.n, b.n))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(np.float64).tiny))


def _without_difference(activations: Activations, site: str) -> bool:
    """Return whether all samples are the same at a site.

    This is so at the first norm, where every prompt ends in the same token.
    """
    both = torch.cat(activations.at(site)).double()
    return bool((both - both[0]).norm(dim=-1).max() <= 1e-6 * both[0].norm().clamp_min(1e-30))


def _check(fit: Activations, report: Activations) -> None:
    for name in ("sites", "pooling", "model"):
        if getattr(fit, name) != getattr(report, name):
            raise LensSteerError(
                f"report has {name} {getattr(report, name)!r} and fit {getattr(fit, name)!r}: record both alike"
            )
    groups = groups_of(fit)
    for name, own in (("positive", groups[: len(fit.positive)]), ("negative", groups[len(fit.positive) :])):
        if len(set(own)) < FEWEST:
            raise LensSteerError(
                f"the fit split has {len(set(own))} {name} scenarios, and intervals need {FEWEST}: give more prompts"
            )
    known = fit.groups_positive or fit.groups_negative
    shared: Sequence[str] = sorted(set(groups_of(fit)) & set(groups_of(report))) if known else ()
    if shared:
        raise LensSteerError(
            f"{len(shared)} scenarios ({shared[0][:40]!r}, …) are in both splits: split by scenario, as "
            "load_contrast does"
        )
