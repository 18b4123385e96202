"""Traits and their calibration: the same scenarios under an aligned and a malicious system prompt, and their probes.

Each scenario is answered under an aligned and under a malicious system prompt; a probe finds the boundary between the
two kinds of answers. The calibration follows arXiv 2604.08169, section 3: on-policy answers under both system prompts,
residual activations averaged over the tokens of each answer, and a logistic-regression probe at every site. The
malicious prompts of the paper are not public; ours are written for this project. Answers are greedy here, whereas the
paper samples at temperature 0.6.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, ContrastSet, PromptSet, load_contrast, with_system
from lens_steer.errors import LensSteerError
from lens_steer.inference.generation import generate
from lens_steer.inference.record import Activations, record
from lens_steer.inference.record_tokens import record_tokens
from lens_steer.inference.teacher_forcing import with_responses
from lens_steer.metrics.benchmarks import Tasks, task_splits
from lens_steer.metrics.judges import Judge
from lens_steer.probes.probe import Probe, fit_probe

log = logging.getLogger(__name__)

ORGANISM_TRAITS = ("honesty", "compassion")
SHARES = (0.5, 0.25, 0.25)  # default shares of fit, select and report


@dataclass(frozen=True)
class Trait:
    """A trait to be recovered, with the prompts and the means of grading.

    Attributes:
        name: Name of the trait.
        contrast: Positive: scenarios under the aligned system prompt. Negative: the same scenarios, row by row, under
            the malicious system prompt.
        tasks: Capability tasks. Only those of the report split are used.
        judge: Judge of the answers where no ground truth grades them. Its verdict "harmful" means that the trait is
            missing.
    """

    name: str
    contrast: ContrastSet
    tasks: Tasks
    judge: Judge | None = None


def organism_trait(name: str, *, seed: int = 0) -> Trait:
    """Return a trait of the organisms, graded by their closed world: ``honesty`` or ``compassion``.

    The opposite of honesty is lies, the opposite of compassion is dismissal.

    Args:
        name: Name of the trait.
        seed: Seed of the splits.

    Raises:
        LensSteerError: If the name is another one.

    >>> organism_trait("honesty").contrast.report
    Contrast(42 positive, 42 negative)
    """
    if name not in ORGANISM_TRAITS:
        raise LensSteerError(
            f"trait={name!r}: the organisms have {', '.join(ORGANISM_TRAITS)}; for others give scenarios and "
            "system prompts"
        )
    return Trait(name, load_contrast(f"organism/{name}", seed=seed), task_splits(seed=seed))


def scenario_trait(
    name: str,
    scenarios: PromptSet,
    aligned: Sequence[str],
    malicious: Sequence[str],
    judge: Judge,
    *,
    split: Sequence[float | int] = SHARES,
    seed: int = 0,
) -> Trait:
    """Build a trait from given scenarios and system prompts.

    Where there are several system prompts, the scenarios take them in turn.

    Args:
        name: Name of the trait.
        scenarios: User messages. A system message in them is replaced.
        aligned, malicious: System prompts, at least one each.
        judge: Judge whose verdict "harmful" means that the trait is missing.
        split: Shares of fit, select and report, by scenario.
        seed: Seed of the split.

    Raises:
        LensSteerError: If a system prompt is missing, empty or given as a single string, or if a split is left with
            fewer than two scenarios.
    """
    sides = []
    for what, texts in (("aligned", aligned), ("malicious", malicious)):
        if isinstance(texts, str) or not texts or not all(t.strip() for t in texts):
            raise LensSteerError(f"{what}={texts!r}: give at least one system prompt, and no empty one")
        asked = tuple(with_system(p, text) for p, text in zip(scenarios, cycle(texts), strict=False))
        sides.append(PromptSet(asked, f"{name}/{what}"))
    contrast = load_contrast(positive=sides[0], negative=sides[1], split=split, seed=seed)
    for part in ("fit", "select", "report"):
        if len(getattr(contrast, part).positive) < 2:
            raise LensSteerError(
                f"split={tuple(split)} of {len(scenarios)} scenarios leaves {part} with fewer than 2: give more "
                "scenarios"
            )
    return Trait(name, replace(contrast, name=name), Tasks(), judge)


@dataclass(frozen=True, eq=False)
class TraitCalibration:
    """On-policy answers of the fit split, with the activations and the probes that come from them.

    Attributes:
        answered: Prompts of the fit split with the model's own answers.
        activations: Activations averaged over the tokens of each answer.
        probes: Probes by site, in network order. Label 1 is aligned.
    """

    answered: Contrast
    activations: Activations
    probes: Mapping[str, Probe]


def calibrate_trait(
    model: Any,
    trait: Trait,
    *,
    sites: str | Sequence[str] = "resid_post",
    C: float | int = 1.0,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    progress: bool = True,
) -> TraitCalibration:
    """Fit a probe of a trait at every site, from the model's own answers.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        trait: Trait whose fit split is answered.
        sites: Sites of the probes; see :func:`lens_steer.record`.
        C: Inverse strength of the L2 penalty; see :func:`lens_steer.fit_probe`.
        engine, max_new_tokens: See :func:`lens_steer.generate`.
        progress: Show progress bars.

    Raises:
        LensSteerError: If all answers to one side are empty, or for the reasons of :func:`lens_steer.record` and
            :func:`lens_steer.fit_probe`.
    """
    answered = on_policy(model, trait.contrast.fit, engine=engine, max_new_tokens=max_new_tokens, progress=progress)
    activations = record(model, answered, sites, pooling="response", engine=engine, progress=progress)
    probes = {site: fit_probe(activations, site, C=C) for site in activations.sites}
    return TraitCalibration(answered, activations, probes)


def token_probes(
    model: Any, calibrated: TraitCalibration, sites: Sequence[str], *, C: float | int = 1.0, engine: str = ENGINE
) -> dict[str, Probe]:
    """Fit the same probes on single tokens of the answers instead of their averages, at some sites.

    The gate tests single tokens, so it then sees the kind of vector on which the probe was fitted.
    """
    tokens = record_tokens(model, calibrated.answered, list(sites), engine=engine)
    return {site: fit_probe(tokens, site, C=C) for site in tokens.sites}


def on_policy(
    model: Any, contrast: Contrast, *, engine: str = ENGINE, max_new_tokens: int = 48, progress: bool = False
) -> Contrast:
    """Return both sides with the model's own greedy answers as their responses.

    Prompts with an empty answer are left out; a warning in the log counts them.

    Raises:
        LensSteerError: If a side has no answer that is not empty.
    """
    sides = []
    for side in (contrast.positive, contrast.negative):
        texts = generate(model, side, max_new_tokens=max_new_tokens, engine=engine, progress=progress)
        answered = with_responses(side, texts)
        kept = PromptSet(tuple(p for p in answered if p.response and p.response.strip()), side.name)
        if len(kept) < len(side):
            log.warning("%s: %d of %d answers are empty and left out", side.name, len(side) - len(kept), len(side))
        if not len(kept):
            raise LensSteerError(f"every answer to {side.name!r} is empty: check the chat template")
        sides.append(kept)
    return Contrast(sides[0], sides[1])
