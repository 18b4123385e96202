"""Probes across depth, on held-out prompts: how well they tell the classes apart, how much of that is memory, and along
what direction.

Everything about performance is of the report split; the probe, the directions it is compared with and their intervals
are of the fit split.
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
from lens_steer.probes.probe import Probe, fit_probe, groups_of, stacked
from lens_steer.stats import Z_95, Estimate, auroc, grouped_mean, grouped_rate, middle_of_best

DRAWS = 20  # of control labels
BLOCKS = 20  # of scenarios, left out one at a time for the cosines' intervals
FEWEST = 4  # scenarios of a class to fit on
BINS = 10  # of the calibration curve
MEASURED = (
    "accuracy",
    "auroc",
    "selectivity",
    "selectivity_scenario",
    "brier",
    "cosine_to_difference",
    "cosine_to_fisher",
)


@dataclass(frozen=True)
class Bin:
    """Prompts whose predicted probability lies in ``low … high``.

    Attributes:
        predicted: their mean probability.
        observed: share of them that is of the positive class.
    """

    low: float
    high: float
    predicted: float
    observed: Estimate


@dataclass(frozen=True, eq=False)
class ProbeResult(Shown, view="probes"):
    """One site's probe and what it does on held-out prompts.

    Attributes:
        probe: fitted on the fit split.
        measured: name → estimate. ``accuracy``: share of prompts on their class's side (Wilson's interval, n the number
            of scenarios). ``auroc``: Newcombe's interval. ``brier``: mean squared error of the probability.
            ``selectivity``: accuracy less that of probes of shuffled labels, which is chance: a check.
            ``selectivity_scenario``: accuracy less that of probes that learn one random label a scenario and are asked
            about the scenario's other prompts, so what can be had by remembering scenarios; only where scenarios have
            several prompts. ``cosine_to_difference``, ``cosine_to_fisher``: of the normal with the difference of means
            and with Fisher's direction (jackknife over scenarios of the fit split).
        reliability: the calibration curve.
    """

    probe: Probe
    measured: Mapping[str, Estimate]
    reliability: tuple[Bin, ...]

    def __repr__(self) -> str:
        return f"ProbeResult({self.probe.site}: accuracy {self.measured['accuracy']})"

    def row(self) -> dict[str, Any]:
        """Plain values: ``name``, ``name_low``, ``name_high``, and the boundary beside the class means."""
        p = self.probe
        found: dict[str, Any] = {"site": p.site}
        for name in MEASURED:
            e = self.measured.get(name)
            found |= {name: e and e.value, f"{name}_low": e and e.low, f"{name}_high": e and e.high}
        return found | {
            "threshold": p.threshold,
            "mu_positive": p.mean_positive,
            "mu_negative": p.mean_negative,
            "sigma_positive": p.std_positive,
            "sigma_negative": p.std_negative,
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
        results: in network order.
        without: site → why there is no probe (the classes do not differ there).
    """

    results: tuple[ProbeResult, ...]
    without: Mapping[str, str]

    def at(self, site: str) -> ProbeResult:
        """One site's result; refuses a site without."""
        for result in self.results:
            if result.probe.site == site:
                return result
        raise LensSteerError(f"site={site!r} has no probe: {self.without.get(site, 'it was not recorded')}")

    @property
    def best(self) -> ProbeResult:
        """The one with the highest accuracy, of several the highest AUROC, then the one in the middle of those that
        tie.
        """

        def score(r: ProbeResult) -> tuple[float, float]:
            return r.measured["accuracy"].value, r.measured["auroc"].value

        return middle_of_best(self.results, [score(r) for r in self.results])[0]

    def rows(self) -> list[dict[str, Any]]:
        """One row a site, those without a probe with an empty one."""
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
    """A probe at every site, evaluated on held-out prompts.

    Args:
        fit, report: recorded at the same sites of the same model; no scenario in both.
        C, standardize: see :func:`lens_steer.probes.probe.fit_probe`.
        draws: of control labels.
        blocks: of scenarios, for the cosines' intervals.
        seed: of controls and intervals.
        progress: show a bar.

    Raises:
        LensSteerError: a scenario in both splits, other sites or another pooling, fewer than :data:`FEWEST` scenarios
            of a class to fit on, no site at which the classes differ.
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
    """One probe on held-out prompts; see :class:`ProbeResult`."""
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
    """The fit split at one site, for fits to other labels and weights."""

    probe: Probe
    x: Float[np.ndarray, "n d_model"]
    labels: Bool[np.ndarray, " n"]
    groups: np.ndarray
    samples: logistic.Samples

    @staticmethod
    def of(probe: Probe, fit: Activations) -> _Fitted:
        x, labels = stacked(*fit.at(probe.site))
        return _Fitted(
            probe, x, labels, np.asarray(groups_of(fit)), logistic.prepare(x, standardize=probe.standardized)
        )

    def shuffled(self, x: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Bool[np.ndarray, "draws n"]:
        """Hits on held-out prompts of probes of shuffled labels, theirs shuffled too."""
        rng = np.random.default_rng([seed, 0])
        hits = np.empty((draws, len(x)), dtype=bool)
        for i in range(draws):
            weight, bias = logistic.fit(self.samples, rng.permutation(self.labels), C=self.probe.C)
            hits[i] = (x @ weight + bias > 0) == rng.permutation(labels)
        return hits

    def remembered(self, draws: int, seed: int) -> Estimate | None:
        """Accuracy of probes of one random label a scenario on the scenarios' other prompts; None where too few
        scenarios have several.
        """
        names, of, counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        several = counts[of] > 1
        if several.sum() < 8:
            return None
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
        """Of the normal with the difference of means and with Fisher's direction; 95 % interval by the jackknife that
        leaves out a block of scenarios at a time.

        Not by a bootstrap: a resample holds fewer different prompts, and the cosine of two estimates falls with their
        number.
        """
        names, first, of = np.unique(self.groups, return_index=True, return_inverse=True)
        value = np.array(self._cosines(np.ones(len(of), dtype=bool)))
        k = min(blocks, len(names))
        order = np.lexsort(
            (np.random.default_rng([seed, 2]).random(len(names)), self.labels[first])
        )  # class by class, so that no block takes most of one
        block = np.empty(len(names), dtype=int)
        block[order] = np.arange(len(names)) % k
        block = block[of]
        left = np.array([self._cosines(block != i) for i in range(k)])
        half = Z_95 * np.sqrt((k - 1) / k * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
        low, high = np.maximum(value - half, -1.0), np.minimum(value + half, 1.0)
        return {
            name: Estimate(float(value[i]), float(low[i]), float(high[i]), len(names))
            for i, name in enumerate(("cosine_to_difference", "cosine_to_fisher"))
        }

    def _cosines(self, kept: Bool[np.ndarray, " n"]) -> tuple[float, float]:
        x, labels = self.x[kept], self.labels[kept]
        weight, _ = logistic.fit(self.samples, self.labels, C=self.probe.C, weights=kept.astype(np.float64))
        difference = x[labels].mean(axis=0) - x[~labels].mean(axis=0)
        lda = fisher(torch.from_numpy(x[labels]), torch.from_numpy(x[~labels])).numpy()
        return _cosine(weight, difference), _cosine(weight, lda)


def reliability(
    p: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], groups: Sequence[str], bins: int = BINS
) -> tuple[Bin, ...]:
    """The calibration curve: in bins of equal width, mean predicted probability and share of the positive class; empty
    bins are left out.

    >>> [
    ...     round(b.predicted, 2)
    ...     for b in reliability(np.array([0.1, 0.15, 0.9]), np.array([False, False, True]), ["a", "b", "c"], bins=2)
    ... ]
    [0.12, 0.9]
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
    """Of two independent estimates: the distances to their bounds added as squares."""
    below, above = np.hypot(a.value - a.low, b.high - b.value), np.hypot(a.high - a.value, b.value - b.low)
    return Estimate(
        a.value - b.value, a.value - b.value - float(below), a.value - b.value + float(above), min(a.n, b.n)
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(np.float64).tiny))


def _without_difference(activations: Activations, site: str) -> bool:
    """Whether all samples are the same at a site, as at the first norm, where every prompt ends in the same token."""
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
