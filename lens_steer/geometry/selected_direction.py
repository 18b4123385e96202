"""One direction of the residual stream, chosen among the differences of class means by what it does when it is used.

:class:`StreamDirection` is what steering needs of it. :class:`SelectedDirection` is the whole record of the selection
(:func:`lens_steer.evaluation.direction_selection.select_direction`), with the scores of every candidate. Source: Arditi
et al. (arXiv 2406.11717), sections 2.3 and C.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.errors import LensSteerError
from lens_steer.models.fits import ModelRef
from lens_steer.models.sites import Site


@dataclass(frozen=True)
class CandidateScore:
    """What one candidate direction does on the select prompts, in nats; NaN where the difference of the means is zero.

    Attributes:
        position: The token of the prompt at which it was read, counted from the end; −1 is the last token.
        block: The block at whose input it was read, from 0.
        refusal_score: The mean refusal score of the positive (harmful) prompts while the direction is ablated.
        induce_score: The mean refusal score of the negative (harmless) prompts while the raw difference of means is
            added at the input of the block.
        kl: The mean ``KL(unsteered ‖ ablated)`` of the first token of the answer, over the negative prompts.
    """

    position: int
    block: int
    refusal_score: float
    induce_score: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class DirectionBounds:
    """The bounds that a candidate has to keep.

    Attributes:
        min_induce: The smallest induce score, in nats; −∞ sets no bound.
        max_kl: The largest divergence, in nats; ∞ sets no bound.
        max_depth: The share of the blocks, from the first one on, in which the direction may have been read: a
            candidate of block ℓ is kept if ``ℓ < max_depth · n_layers``. The released code rounds the product down,
            which leaves out one block more where it is not a whole number.

    Raises:
        LensSteerError: If a bound is not a number, or if the depth is not above 0 and at most 1.
    """

    min_induce: float | int = 0.0
    max_kl: float | int = 0.1
    max_depth: float | int = 0.8

    def __post_init__(self) -> None:
        for name in ("min_induce", "max_kl", "max_depth"):
            value = getattr(self, name)
            if math.isnan(value):
                raise LensSteerError(f"{name}={value!r} is not a number: give one, or leave the bound at its default")
        if self.max_kl < 0:
            raise LensSteerError(f"max_kl={self.max_kl!r}: no divergence is below 0, give at least 0")
        if not 0 < self.max_depth <= 1:
            raise LensSteerError(f"max_depth={self.max_depth!r}: give a share of the blocks, above 0 and at most 1")

    def kept_by(self, score: CandidateScore, n_layers: int) -> dict[str, bool]:
        """Return which of the bounds a candidate keeps, by their names; a score that is NaN keeps none.

        >>> DirectionBounds().kept_by(CandidateScore(-1, 8, -3.0, 1.0, 0.2), n_layers=10)
        {'min_induce': True, 'max_kl': False, 'max_depth': False}
        """
        return {
            "min_induce": score.induce_score >= self.min_induce,
            "max_kl": score.kl <= self.max_kl,
            "max_depth": score.block < round(self.max_depth * n_layers, 9),
        }

    def keep(self, score: CandidateScore, n_layers: int) -> bool:
        """Return whether a candidate keeps every bound and all of its scores are numbers.

        >>> DirectionBounds().keep(CandidateScore(-1, 7, -3.0, 0.0, 0.1), n_layers=10)
        True
        """
        return not math.isnan(score.refusal_score) and all(self.kept_by(score, n_layers).values())


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamDirection(ModelRef):
    """A direction of the residual stream that was read before one block, at one token of the chat template.

    Attributes:
        direction: The raw difference of the class means (positive minus negative), float32, not of unit length.
        block: The block at whose input it was read.
        position: The token of the prompt at which it was read, counted from the end; −1 is the last token.
    """

    direction: Float[Tensor, " d_model"]
    block: int
    position: int

    @property
    def d_model(self) -> int:
        return len(self.direction)

    @property
    def site(self) -> str:
        """The name of the site at which the direction was read, and at which it is added."""
        return Site(self.block, "resid_pre").name

    @property
    def origin(self) -> str:
        """The place at which the direction was read, as plans and rows tell it: ``prompt[-1] at blocks.3.…``."""
        return f"prompt[{self.position}] at {self.site}"


@dataclass(frozen=True, eq=False, kw_only=True)
class SelectedDirection(StreamDirection, Shown, view="geometry"):
    """The direction that a selection chose, with the scores of all candidates and how it was made.

    Attributes:
        refusal_score, induce_score, kl: The scores of the chosen candidate; see :class:`CandidateScore`.
        baseline_refusal_score: The mean refusal score of the positive select prompts without steering.
        baseline_induce_score: The mean refusal score of the negative select prompts without steering.
        refusal_tokens: The ids of the tokens that count as the beginning of a refusal, sorted.
        openings: One row for each token that was considered: ``token``, ``text``, ``refusals`` (how many of the model's
            refusals begin with it), ``answers`` (how many of its answers do), ``share`` (of all refusals) and ``used``.
            Empty where the openings were given.
        bounds: The bounds that the choice kept.
        scores: The scores of all candidates, by position and block.
        backend, weight_processing: The backend and the weight processing of the model.
        n_positive, n_negative: The numbers of fit prompts that passed the filter.
        n_select_positive, n_select_negative: The numbers of select prompts that passed the filter.
        n_given: The numbers of prompts before the filter, positive and negative, by split.
        prompt_hash: The hash of the fit prompts that passed the filter.
        prompt_hashes_positive, prompt_hashes_negative: The hashes (:attr:`~lens_steer.data.Prompt.hash`) of the
            prompts that it was computed from or chosen on.
        seed: The seed with which the prompts were drawn.
        versions: The versions of the packages.
        details: Options that are reported but not needed to steer.
    """

    refusal_score: float
    induce_score: float
    kl: float
    baseline_refusal_score: float
    baseline_induce_score: float
    refusal_tokens: tuple[int, ...]
    openings: tuple[Mapping[str, Any], ...] = ()
    bounds: DirectionBounds
    scores: tuple[CandidateScore, ...]
    backend: str
    weight_processing: str
    n_positive: int
    n_negative: int
    n_select_positive: int
    n_select_negative: int
    n_given: Mapping[str, list[int]] = field(default_factory=dict)
    prompt_hash: str
    prompt_hashes_positive: tuple[str, ...] = ()
    prompt_hashes_negative: tuple[str, ...] = ()
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str | float | int | bool | None] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"SelectedDirection({self.model}: {self.origin}, refusal score {self.baseline_refusal_score:.3g} → "
            f"{self.refusal_score:.3g}, induce {self.induce_score:.3g}, KL {self.kl:.3g}; {self.n_kept} of "
            f"{len(self.scores)} candidates kept)"
        )

    @property
    def n_kept(self) -> int:
        """The number of candidates that keep every bound."""
        return sum(self.bounds.keep(score, self.n_layers) for score in self.scores)
