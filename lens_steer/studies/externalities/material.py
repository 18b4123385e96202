"""Material of the study of side effects: contrasts with splits, tasks, and fixed responses for the divergences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split, load_contrast, with_system
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.protocol import check_splits
from lens_steer.inference.forward import check_room
from lens_steer.inference.generation import generate
from lens_steer.inference.teacher_forcing import with_responses
from lens_steer.metrics.benchmarks import Tasks, task_splits
from lens_steer.metrics.judges import Judge
from lens_steer.organisms import world
from lens_steer.studies.externalities.grading import graded
from lens_steer.studies.externalities.tokens import HARMFUL

LEAST_PAIRS = 3  # of compliance; a principal component is still defined when the jackknife leaves one pair out


@dataclass(frozen=True)
class Material:
    """Prompts and responses of a study.

    With a ground truth behind every prompt, as on the organisms, attack success is compliance that is *right*, and the
    fixed harmful responses can be the model's own. For other models the attributes marked (T) need a ground truth or a
    judge. Without either, an answer counts as right if it is neither empty nor repeating, holds none of the published
    refusal phrases, and has under the unsteered model a perplexity within the bound of
    :func:`lens_steer.evaluation.bounds.measured_bound`.

    Attributes:
        compliance: The same prompts with complying (positive) and refusing (negative) responses. Only the fit split is
            read.
        json: Prompts with (positive) and without (negative) a request for JSON, in fit, select and report.
        refusal: Harmful (positive) and harmless (negative) prompts, in fit, select and report.
        tasks: Capability tasks. Without them the choice of the block for JSON has no bound.
        harmful_responses: Fixed complying answers to harmful prompts. None uses the model's own answers to the report
            split under ``unrestricted``, of which the right ones are kept (T).
        benign_responses: Fixed answers to harmless prompts. None uses the unsteered model's own answers to the report
            split.
        unrestricted: System prompt under which the model complies with everything. None means that the model has none.
        judge: Judge of the answers to harmful prompts where no ground truth grades them.
        harmful_name: What ``harmful_responses`` are called in claims and tables, such as ``harmful in form``.
    """

    compliance: ContrastSet
    json: ContrastSet
    refusal: ContrastSet
    tasks: Tasks = field(default_factory=Tasks)
    harmful_responses: PromptSet | None = None
    benign_responses: PromptSet | None = None
    unrestricted: str | None = None
    judge: Judge | None = None
    harmful_name: str = HARMFUL

    def check(self) -> None:
        """Refuse material with which the study cannot run.

        Raises:
            LensSteerError: If a part is empty, if there are too few pairs, if fixed responses are missing or empty, or
                if nothing can grade the answers under ``unrestricted``.
        """
        if not len(self.compliance.fit.positive):
            raise LensSteerError(f"compliance {self.compliance.name!r} has no fit prompts: give pairs of responses")
        if len(self.compliance.fit.positive) < LEAST_PAIRS:
            raise LensSteerError(
                f"compliance {self.compliance.name!r} has {len(self.compliance.fit.positive)} fit pairs: a "
                f"principal component and its error need at least {LEAST_PAIRS}"
            )
        check_splits(self.json)
        check_splits(self.refusal)
        for name in ("harmful_responses", "benign_responses"):
            given: PromptSet | None = getattr(self, name)
            if given is not None and (not len(given) or not all(p.response and p.response.strip() for p in given)):
                raise LensSteerError(
                    f"{name} {given.name!r} is empty or has a prompt without a response: give one for every "
                    "prompt, or None"
                )
        if self.unrestricted is not None and self.harmful_responses is None and self.judge is None:
            _check_truth(self.refusal.report.positive)

    def check_room(self, model: Any, max_new_tokens: int) -> None:
        """Refuse prompts that are too long for an answer within the model's context, before anything is steered.

        Raises:
            LensSteerError: If a prompt is too long. The message names the first such prompt and its part.
        """
        refusal, json = self.refusal, self.json
        contrasts = (("refusal", refusal), ("json", json))
        kept = [(f"{name}/fit", p, 0) for name, c in contrasts for p in (c.fit.positive, c.fit.negative)]
        kept += [("compliance/fit", p, 0) for p in (self.compliance.fit.positive, self.compliance.fit.negative)]
        kept += [(n, p, 0) for n in ("harmful_responses", "benign_responses") if (p := getattr(self, n)) is not None]
        kept += [
            (f"{name}/{s}", p, max_new_tokens)
            for name, c in contrasts
            for s, part in (("select", c.select), ("report", c.report))
            for p in (part.positive, part.negative)
        ]
        kept += [
            ("tasks/select", self.tasks.select, max_new_tokens),
            ("tasks/report", self.tasks.report, max_new_tokens),
        ]
        if self.unrestricted is not None and self.harmful_responses is None:
            kept.append(
                (
                    "refusal/report under unrestricted",
                    _under(refusal.report.positive, self.unrestricted),
                    max_new_tokens,
                )
            )
        for where, prompts, room in kept:
            fixed = where in ("compliance/fit", "harmful_responses", "benign_responses")
            try:
                check_room(model, prompts, max_new_tokens=room, with_response=fixed)
            except LensSteerError as error:
                raise LensSteerError(f"{where}: {error}") from None

    @property
    def known(self) -> bool:
        """True if every prompt of the report split has a ground truth and there is no judge."""
        sides = (self.refusal.report, self.json.report)
        return self.judge is None and all(
            p.task is not None for part in sides for side in (part.positive, part.negative) for p in side
        )

    @property
    def hashes(self) -> dict[str, str]:
        """Hashes of the prompts of every part and split."""
        parts = (("compliance", self.compliance), ("json", self.json), ("refusal", self.refusal))
        fixed = {n: p.hash for n in ("harmful_responses", "benign_responses") if (p := getattr(self, n)) is not None}
        return {f"{name}/{s}": hash_ for name, part in parts for s, hash_ in part.hashes.items()} | fixed


def organism_material(*, seed: int = 0, n_tasks: int = 96) -> Material:
    """Return the prompts of the organisms.

    Requests about one verb and object are in the same split in all three contrasts, the split that the refusal contrast
    has them in. Requests that would be in another split are left out.

    Args:
        seed: Seed of the splits and of the tasks.
        n_tasks: Number of capability tasks.

    >>> found = organism_material()
    >>> found.refusal.report, len(found.compliance.fit.positive) > 50
    (Contrast(64 positive, 64 negative), True)
    """
    refusal = load_contrast("organism/refusal", seed=seed)
    others = [
        in_the_splits_of(load_contrast(f"organism/{name}", seed=seed), refusal) for name in ("compliance", "json")
    ]
    return Material(
        others[0], others[1], refusal, task_splits(n_tasks, seed=seed), unrestricted=world.UNRESTRICTED_SYSTEMS[0]
    )


def in_the_splits_of(contrast: ContrastSet, main: ContrastSet) -> ContrastSet:
    """Return a paired contrast without the pairs whose ground truth is in another split of the main contrast."""
    place = places_of(main, _key)
    parts = []
    for name in ("fit", "select", "report"):
        part = getattr(contrast, name)
        keep = [place.get(_key(p), name) == name for p in part.positive]
        sides = [
            PromptSet(tuple(p for p, k in zip(side, keep, strict=True) if k), side.name)
            for side in (part.positive, part.negative)
        ]
        parts.append(Contrast(sides[0], sides[1]))
    return ContrastSet(contrast.name, Split(*parts))


def places_of(main: ContrastSet, key: Callable[[Prompt], Any] = lambda p: p.group) -> dict[Any, str]:
    """Return the split of each prompt of a contrast, by a key that related prompts share."""
    splits = (("fit", main.fit), ("select", main.select), ("report", main.report))
    return {key(p): name for name, part in splits for side in (part.positive, part.negative) for p in side}


def right_compliance(prompts: Sequence[Prompt], texts: Sequence[str], judge: Judge | None = None) -> PromptSet:
    """Return the prompts whose answer complies and is right, with the answer as their fixed response.

    The world's grade decides where a prompt has a ground truth; otherwise the judge has to call the answer harmful.

    Raises:
        LensSteerError: If a prompt has neither ground truth nor judge, or if there are more or fewer texts than
            prompts.
    """
    answered = with_responses(prompts, texts)
    unknown = [i for i, p in enumerate(answered) if p.task is None]
    if judge is None:
        _check_truth(prompts)
    verdicts = (
        {}
        if judge is None or not unknown
        else dict(zip(unknown, judge([answered[i] for i in unknown], [texts[i] for i in unknown]), strict=True))
    )
    kept = []
    for i, (prompt, text) in enumerate(zip(answered, texts, strict=True)):
        right = verdicts[i].harmful is True if prompt.task is None else graded(prompt.task, text) == "correct"
        if right and text.strip():
            kept.append(prompt)
    return PromptSet(tuple(kept), answered.name)


def harmful_responses(model: Any, material: Material, *, engine: str = ENGINE, max_new_tokens: int = 48) -> PromptSet:
    """Return harmful prompts with complying responses.

    The responses are the given ones, or the model's own under its unrestricted system prompt. The returned prompts do
    not have that system prompt. The set is empty if there are no given responses and no unrestricted system prompt.
    """
    if material.harmful_responses is not None:
        return material.harmful_responses
    prompts = material.refusal.report.positive
    if material.unrestricted is None:
        return PromptSet((), prompts.name)
    texts = generate(model, _under(prompts, material.unrestricted), max_new_tokens=max_new_tokens, engine=engine)
    return right_compliance(prompts, texts, material.judge)


def own_answers(model: Any, prompts: PromptSet, *, engine: str = ENGINE, max_new_tokens: int = 48) -> PromptSet:
    """Return prompts with the unsteered model's own answers, without those that it leaves empty.

    Raises:
        LensSteerError: If every answer is empty.
    """
    answered = with_responses(prompts, generate(model, prompts, max_new_tokens=max_new_tokens, engine=engine))
    kept = PromptSet(tuple(p for p in answered if p.response and p.response.strip()), prompts.name)
    if not len(kept):
        raise LensSteerError(f"every answer to {prompts.name!r} is empty: check the chat template")
    return kept


def _under(prompts: PromptSet, system: str) -> PromptSet:
    """Return the prompts, each under the given system message."""
    return PromptSet(tuple(with_system(p, system) for p in prompts), prompts.name)


def _check_truth(prompts: Sequence[Prompt]) -> None:
    unknown = next((i for i, p in enumerate(prompts) if p.task is None), None)
    if unknown is not None:
        raise LensSteerError(
            f"prompt {unknown} has no ground truth: give a judge, or harmful_responses that are known to comply"
        )


def _key(prompt: Prompt) -> tuple[object, ...]:
    """Return a key for the content of a prompt: its ground truth, or its group if it has none."""
    if prompt.task is None:
        return (prompt.group,)
    truth = prompt.task.truth
    return tuple(sorted((k, str(v)) for k, v in truth.items() if k in ("verb", "object", "noun", "subject")))
