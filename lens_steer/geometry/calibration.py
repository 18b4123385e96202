"""Calibrations: everything that recorded activations tell about where to steer and along which directions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError, expect
from lens_steer.geometry.directions import (
    UNIT_SAMPLES,
    candidate_directions,
    candidates_and_span,
    check_finite,
    class_means,
    select_direction,
    zero_rows,
)
from lens_steer.geometry.discriminative import BOUNDS, by_means, by_projections, check_rule, measured
from lens_steer.geometry.estimators import check_estimator, site_directions
from lens_steer.geometry.membership import RESAMPLES, membership
from lens_steer.geometry.planes import build_plane
from lens_steer.inference.class_means import Moments
from lens_steer.inference.record import Activations
from lens_steer.models.fits import ModelRef, reference
from lens_steer.models.layout import ROUTER_LOGITS
from lens_steer.models.sites import parse

CANDIDATE_NORMS = ("unit", "raw", "sample_unit", "angular")


@dataclass(frozen=True)
class PromptStatistics(Shown, view="activations"):
    """Numbers for each prompt of the fit split, enough to compute every interval without the model.

    Attributes:
        projection_positive, projection_negative: The projections of the raw activations on the unit selected direction.
        norm_positive, norm_negative: The lengths of the activations.
    """

    projection_positive: Float[Tensor, "n_positive n_sites"]
    projection_negative: Float[Tensor, "n_negative n_sites"]
    norm_positive: Float[Tensor, "n_positive n_sites"]
    norm_negative: Float[Tensor, "n_negative n_sites"]

    def __repr__(self) -> str:
        return (
            f"PromptStatistics({len(self.norm_positive)} positive, {len(self.norm_negative)} negative, "
            f"{self.norm_positive.shape[1]} sites)"
        )


@dataclass(frozen=True)
class Calibration(ModelRef, Shown, view="geometry"):
    """Candidate directions, the selected direction, the plane and the discriminative sites, with their provenance.

    Attributes:
        candidates: The unit candidate direction at each site, float32. It is the difference of the class means unless
            ``details["direction"]`` names another estimator. A zero candidate stays zero.
        basis: The rows b1 (the selected direction) and b2, float32, orthonormal to 1e-6.
        mean_positive, mean_negative: The raw class means; None for a published calibration that never had them.
        mean_projection_positive, mean_projection_negative: The projections on b1 of the means that decided which sites
            are discriminative.
        statistics: The projections and norms of each prompt; None for an imported calibration, or for one made from
            moments.
        published_candidates, published_basis: The tensors of an imported calibration as they were published, in their
            dtype.
        rule: The rule of the discriminative sites, one of :data:`lens_steer.geometry.discriminative.RULES`, or
            ``imported``.
        prompt_hashes_positive, prompt_hashes_negative: The hashes (:attr:`~lens_steer.data.Prompt.hash`) of the prompts
            from which it was made; empty where they are not known.
        bound: The bound of the rule; None for a rule without one.
        membership: The bootstrap probability of each site to be discriminative under the rule, see
            :func:`lens_steer.geometry.membership.membership`; None without statistics.
        auroc: The area under the ROC curve of the prompts' projections at each site, ½ where the candidate is zero;
            None without statistics.
        cohens_d: The difference of the mean projections in pooled standard deviations, 0 where the candidate is zero;
            None without statistics.
        stream_sites: The sites of the residual stream whose class means were recorded beside the norm outputs.
        stream_mean_positive, stream_mean_negative: The class means at ``stream_sites``; None where there are none.
        details: Options and measurements that are reported but not needed to steer.
    """

    candidates: Float[Tensor, "n_sites d_model"]
    basis: Float[Tensor, "2 d_model"]
    sites: tuple[str, ...]
    selected_site: str
    discriminative_sites: tuple[str, ...]
    discriminative_blocks: tuple[int, ...]
    backend: str
    weight_processing: str
    rule: str
    n_positive: int
    n_negative: int
    prompt_hash: str
    seed: int
    mean_positive: Float[Tensor, "n_sites d_model"] | None = None
    mean_negative: Float[Tensor, "n_sites d_model"] | None = None
    mean_projection_positive: Float[Tensor, " n_sites"] | None = None
    mean_projection_negative: Float[Tensor, " n_sites"] | None = None
    statistics: PromptStatistics | None = None
    published_candidates: Float[Tensor, "n_sites d_model"] | None = None
    published_basis: Float[Tensor, "2 d_model"] | None = None
    prompt_hashes_positive: tuple[str, ...] = ()
    prompt_hashes_negative: tuple[str, ...] = ()
    bound: float | None = None
    membership: Float[Tensor, " n_sites"] | None = None
    auroc: Float[Tensor, " n_sites"] | None = None
    cohens_d: Float[Tensor, " n_sites"] | None = None
    stream_sites: tuple[str, ...] = ()
    stream_mean_positive: Float[Tensor, "n_stream d_model"] | None = None
    stream_mean_negative: Float[Tensor, "n_stream d_model"] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def d_model(self) -> int:
        return self.basis.shape[1]

    @property
    def selected_index(self) -> int:
        return self.sites.index(self.selected_site)

    @property
    def stream_direction(self) -> tuple[str, Float[Tensor, " d_model"]] | None:
        """Return the site and the direction that a calibration of the stream's own sites selects.

        It is the candidate with the highest mean cosine to all candidates of ``stream_sites``. None where the class
        means of these sites were not recorded.
        """
        if self.stream_mean_positive is None or self.stream_mean_negative is None:
            return None
        candidates = candidate_directions(self.stream_mean_positive, self.stream_mean_negative)
        index = select_direction(candidates).index
        return self.stream_sites[index], candidates[index].float()

    def __repr__(self) -> str:
        return (
            f"Calibration({self.model}: selected {self.selected_site}, {len(self.discriminative_sites)} of "
            f"{len(self.sites)} "
            f"sites discriminative in {len(self.discriminative_blocks)} of {self.n_layers} blocks, rule {self.rule!r})"
        )


def calibrate(
    activations: Activations | Moments,
    *,
    rule: str = "paper",
    bound: float | int | None = None,
    candidate_norm: str = "unit",
    pca_center: bool = True,
    component: int = 0,
    direction: str = "difference",
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    """Compute the candidate directions, the selected one, the steering plane and the discriminative sites.

    From activations, every site also gets three measures: the bootstrap probability that it is discriminative under the
    rule (1000 resamples of the prompts within each class; the direction stays the one from all prompts), the AUROC of
    its projections, and their Cohen's d.

    Args:
        activations: The activations of the fit split, or only their moments. Moments give no per-prompt statistics and
            allow no other estimator than the difference of class means.
        rule: The rule for L_disc: ``paper`` (raw class means, per site), ``official`` (unit-scaled samples, whole
            blocks), ``centred``, ``effect`` or ``auroc``; see :mod:`lens_steer.geometry.discriminative`.
        bound: The bound that Cohen's d (``effect``; 1.0 unless given) or the area (``auroc``; 0.9 unless given) must
            exceed.
        candidate_norm: The vectors whose principal component gives the plane: ``unit`` candidates (the released code),
            ``raw`` differences of means (the paper's Eqs. 35 and 36 as printed), ``sample_unit`` or ``angular``. With
            the last two the candidates themselves, and so the selected direction, come from unit-scaled samples; with
            ``angular`` their means are scaled again and the plane is spanned by the differences as they are, as in the
            code of Angular Steering (arXiv 2510.26243).
        pca_center: Whether to centre the candidates first (the released code does; the paper does not say).
        component: The index of the principal component for b2, for cases where the first one (0) is parallel to b1.
        direction: The estimator of the candidates, one of :data:`lens_steer.geometry.estimators.ESTIMATORS`. An
            estimator other than the difference of class means changes the candidates; selection, plane and L_disc
            change only through them.
        seed: The seed of the bootstrap of the membership; nothing else is random.
        progress: Whether to show a bar where an estimator takes longer than a second.

    Raises:
        LensSteerError: If an option is unknown, a bound does not fit the rule, moments cannot decide the rule, the
            estimator does not have this ``candidate_norm``, no site has a direction, the plane is degenerate,
            activations are not finite, or they are logits of routers.

    Source: Selective Steering (arXiv 2601.19375), Eqs. 4, 7–9, 31–36.
    """
    expect("activations", activations, (Activations, Moments), "make them with ls.record(model, contrast)")
    if routers := [name for name in activations.sites if parse(name).kind == ROUTER_LOGITS]:
        raise LensSteerError(
            f"activations holds {routers[0]!r}: logits of routers are no vectors of the stream, and nothing steers "
            "along them; look at them with activations.at(site), or fit a probe"
        )
    check_estimator(direction)
    check_candidate_norm(candidate_norm, direction)
    limit = check_rule(rule, bound)
    full = activations if isinstance(activations, Activations) else None
    if full is None and direction != "difference":
        raise LensSteerError(f"direction={direction!r} needs the activations themselves: record them with keep='all'")
    if full is not None:
        check_finite("activations.positive", full.positive)
        check_finite("activations.negative", full.negative)

    def means(*, unit_samples: bool = False) -> tuple[Tensor, Tensor]:
        if isinstance(activations, Activations):
            return class_means(activations.positive, activations.negative, unit_samples=unit_samples)
        return activations.means(unit_samples=unit_samples)

    mean_positive, mean_negative = means()
    raw = mean_positive, mean_negative
    of_unit = means(unit_samples=True) if candidate_norm in UNIT_SAMPLES else raw
    candidates, span = candidates_and_span(candidate_norm, raw, of_unit)
    if full is not None and direction != "difference":
        candidates = span = site_directions(direction, full.positive, full.negative, progress=progress)
    selection = select_direction(candidates)
    selected = candidates[selection.index]
    zero = zero_rows(candidates)
    if full is not None and rule in BOUNDS:
        unit = selected.double() / selected.double().norm()
        projections = full.positive.double() @ unit, full.negative.double() @ unit
        chosen = by_projections(*projections, activations.sites, rule=rule, bound=limit, zero=zero)
    else:
        deciding = means(unit_samples=True) if rule == "official" else (mean_positive, mean_negative)
        chosen = by_means(*deciding, selected, activations.sites, rule=rule)
    plane = build_plane(
        span,
        selection.index,
        center=pca_center,
        component=component,
        positive_mean=mean_positive[chosen.mask].mean(dim=0) if bool(chosen.mask.any()) else None,
    )
    statistics = None if full is None else prompt_statistics(full, plane.basis)
    by_site: dict[str, Any] = {}
    if statistics is not None:
        by_site = separations(statistics, activations.sites, zero, rule=rule, bound=limit, seed=seed)
    stream = activations.stream if direction == "difference" else None
    beside: dict[str, Any] = {}
    if stream is not None:
        beside = {f"stream_{k}": getattr(stream, k).float() for k in ("mean_positive", "mean_negative")}
        beside["stream_sites"] = stream.sites
    return Calibration(
        candidates=candidates.float(),
        basis=plane.basis,
        sites=activations.sites,
        selected_site=activations.sites[selection.index],
        discriminative_sites=chosen.sites,
        discriminative_blocks=chosen.blocks,
        **reference(activations),
        backend=activations.backend,
        weight_processing=activations.weight_processing,
        rule=rule,
        n_positive=activations.n_positive,
        n_negative=activations.n_negative,
        prompt_hash=activations.prompt_hash,
        seed=seed,
        mean_positive=mean_positive.float(),
        mean_negative=mean_negative.float(),
        mean_projection_positive=chosen.projection_positive.float(),
        mean_projection_negative=chosen.projection_negative.float(),
        statistics=statistics,
        bound=limit,
        **by_site,
        **beside,
        prompt_hashes_positive=activations.hashes_positive,
        prompt_hashes_negative=activations.hashes_negative,
        versions=versions(),
        details={
            "pooling": activations.pooling,
            "direction": direction,
            "candidate_norm": candidate_norm,
            "pca_center": pca_center,
            "pca_component": component,
            "pc_explained_variance": plane.explained,
            "pc_remainder_after_b1": plane.remainder,
            "b2_sign_rule": plane.sign_rule,
            "selection_margin": selection.margin,
            "zero_candidates": int(zero.sum()),
            **({} if statistics is None else {"membership_resamples": RESAMPLES}),
            **({"proof": dict(activations.proof)} if activations.proof else {}),
        },
    )


def check_candidate_norm(candidate_norm: str, direction: str = "difference") -> None:
    """Refuse an unknown scaling of the candidates, or one that the estimator of the direction does not have.

    Raises:
        LensSteerError: If it is unknown, or if the estimator is not the difference of class means.
    """
    if candidate_norm not in CANDIDATE_NORMS:
        raise LensSteerError(f"candidate_norm={candidate_norm!r}: use one of {', '.join(CANDIDATE_NORMS)}")
    if direction != "difference" and candidate_norm != "unit":
        raise LensSteerError(
            f"candidate_norm={candidate_norm!r} is a scaling of differences of means: with "
            f"direction={direction!r} use candidate_norm='unit'"
        )


def separations(
    statistics: PromptStatistics,
    names: Sequence[str],
    zero: Bool[Tensor, " n_sites"],
    *,
    rule: str,
    bound: float | None,
    seed: int,
) -> dict[str, Float[Tensor, " n_sites"]]:
    """Return ``membership``, ``auroc`` and ``cohens_d`` of a calibration, from the statistics of its prompts.

    Args:
        statistics: The projections and lengths of the prompts.
        names: The names of the sites.
        zero: The sites whose candidate is zero.
        rule, bound: The rule of L_disc and its bound.
        seed: The seed of the bootstrap.
    """
    p, n = statistics.projection_positive, statistics.projection_negative
    norms = statistics.norm_positive, statistics.norm_negative
    probability = membership(p, n, names, rule=rule, bound=bound, norms=norms, zero=zero, seed=seed)
    measures = {name: measured(by, p, n, zero).float() for name, by in (("auroc", "auroc"), ("cohens_d", "effect"))}
    return {"membership": probability.float(), **measures}


def prompt_statistics(activations: Activations, basis: Float[Tensor, "2 d_model"]) -> PromptStatistics:
    """Return the projections on b1 and the lengths of all activations.

    A calibration holds those of the fit split; this function takes the activations of any split.
    """
    unit = basis[0].double()
    return PromptStatistics(
        (activations.positive.double() @ unit).float(),
        (activations.negative.double() @ unit).float(),
        activations.positive.norm(dim=-1),
        activations.negative.norm(dim=-1),
    )


def versions() -> dict[str, str]:
    """Return the versions of the software on which the numbers depend."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("lens-steer", "transformer-lens", "transformers", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
