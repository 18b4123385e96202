"""Sweeps: every prompt under every setting of a steering method, as rows from which everything else is computed.

All values of a part of a grid run in one batch, each row at its own value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lens_steer._defaults import ENGINE, REMOTE
from lens_steer._io.rowstore import Row, Rows, RowStore
from lens_steer.data import Contrast, Prompt, PromptSet, with_system
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.cells import labelled
from lens_steer.evaluation.grids import Grid, plan_hash
from lens_steer.inference import batching
from lens_steer.inference.decoding import begins_in_thought
from lens_steer.inference.engines import check_idle
from lens_steer.inference.generation import answers, tell_cut_off
from lens_steer.inference.prompt_cache import PromptCache
from lens_steer.inference.remote import records_of
from lens_steer.inference.scored import scored_answers
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.interop.serving.adapters import check_served, engine_for
from lens_steer.interop.serving.certificate import keep_records
from lens_steer.metrics import grading
from lens_steer.metrics.choices import likeliest_options
from lens_steer.metrics.degenerate import PerplexityBound
from lens_steer.metrics.judges import Judge
from lens_steer.metrics.likelihood import mean_surprise, surprise_of
from lens_steer.metrics.refusal_score import refusal_score, refusal_tokens
from lens_steer.metrics.rows import text_metrics
from lens_steer.metrics.thinking import split_thought
from lens_steer.models.info import UNLOADED
from lens_steer.models.loading import info_of
from lens_steer.models.templates import ChatTemplate
from lens_steer.steer.hooks import steering

SIDES = POSITIVE, NEGATIVE, CAPABILITY = "positive", "negative", "capability"
READERS = ("ref", "self")
TEXT_COLUMNS = ("condition", "variant", "split", "side", "text", "grade")
METRICS = (
    "ngram_repetition", "language_consistency", "language_consistency_script", "compression_ratio",
    "compression_ratio_200", "distinct_2", "n_words",
)  # fmt: skip
COLUMNS = (
    "condition", "variant", "value", "split", "side", "prompt", "text", "grade", "right", "refused", "broken", *METRICS,
    "surprise_ref", "surprise_self", "refusal_score", "cut_off",
)  # fmt: skip
ENGINE_COLUMN = "engine"  # Only where a serving engine runs: the engine that wrote the answer.
VALUES_A_PART = 6  # the most values in one part
JUDGED: dict[bool | None, str] = {True: "harmful", False: "safe", None: "incoherent"}  # a judge's verdict as a grade
BROKEN = ("incoherent", grading.DEGENERATE)


@dataclass(frozen=True)
class Protocol:
    """The prompts on which every setting is measured, and how it is measured.

    Attributes:
        model: A model from :func:`lens_steer.load_model`.
        contrast: The prompts of one split.
        split: The name of the split.
        tasks: The capability tasks with a ground truth; may be empty.
        engine, max_new_tokens: See :func:`lens_steer.generate`.
        openings: The openings of refusals; see :func:`lens_steer.metrics.refusal_score.refusal_tokens`.
        judge: The judge that grades answers in place of ground truth or phrases; None for no judge. An answer without a
            verdict is incoherent. Without a ground truth, only answers that are not degenerate are judged, without
            their thoughts.
        judged: The verdict (harmful or not) that counts as right, by side; by default a harmful answer counts as right
            for harmful prompts.
        reference: The prompts under which the unsteered model's surprise at an answer is measured instead of the side's
            own prompts, by side, one for each of its prompts.
        asked: The sides that are measured; those without prompts are left out.
        read_by: The models that read each answer again: ``ref``, the unsteered one, for ``surprise_ref``; ``self``, the
            steered one, for ``surprise_self`` and ``refusal_score``. Columns of a model that reads nothing are empty.
        cached: Whether the unsteered model reads each prompt once and keeps its keys and values for all answers to it.
            This is faster, and changes ``surprise_ref`` by rounding; it has no effect on engines other than ``hf``.
        mixed: Whether settings that a serving engine cannot carry out run on ``hf``; otherwise they are refused.
        bound: The perplexity under the unsteered model above which an answer without a ground truth is degenerate, from
            :func:`lens_steer.evaluation.bounds.measured_bound`. None decides from the text alone.
    """

    model: Any
    contrast: Contrast
    split: str
    tasks: PromptSet
    engine: str = ENGINE
    max_new_tokens: int = 48
    openings: tuple[str, ...] | None = None
    judge: Judge | None = None
    judged: Mapping[str, bool] = field(default_factory=lambda: {POSITIVE: True})
    reference: Mapping[str, PromptSet] = field(default_factory=dict)
    asked: tuple[str, ...] = SIDES
    read_by: tuple[str, ...] = READERS
    cached: bool = False
    mixed: bool = False
    bound: PerplexityBound | None = None

    @property
    def sides(self) -> dict[str, PromptSet]:
        """Return the prompts of the sides that are asked; a side without prompts is left out."""
        found = dict(zip(SIDES, (self.contrast.positive, self.contrast.negative, self.tasks), strict=True))
        return {name: prompts for name, prompts in found.items() if name in self.asked and len(prompts)}

    @cached_property
    def prompt_cache(self) -> PromptCache | None:
        """Return the prompts that the unsteered model has read; None where they are not kept."""
        return PromptCache(self.model) if self.cached and self.engine == "hf" else None

    def engine_of(self, grid: Grid) -> str:
        """Return the engine that answers under a grid.

        Raises:
            LensSteerError: If the engine is a serving engine that cannot carry out the grid's plan, and engines are not
                mixed; the message names the method, the reason and the engine that can.
        """
        if self.engine not in REMOTE:
            return self.engine
        own = None if grid.build is None else grid.build(grid.values[0])
        plans = [plan for plan in (own, grid.beside) if plan is not None]
        if self.mixed:
            return ENGINE if any(engine_for(plan, self.engine) == ENGINE for plan in plans) else self.engine
        for plan in plans:
            check_served(plan, self.engine)
        return self.engine

    @property
    def identity(self) -> dict[str, Any]:
        """Return everything on which the rows depend, except the grids.

        For the description of a model, which has no weights, what only the loaded model tells is left out.
        """
        info = info_of(self.model)
        loaded = (
            {}
            if info.backend == UNLOADED
            else {"weights": _weights_hash(self.model), "backend": info.backend, "dtype": str(info.dtype)}
        )
        return {
            "model": info.name,
            **loaded,
            "chat_template": _hash(info.tokenizer.chat_template),
            **_applied(info.template),
            "split": self.split,
            "engine": self.engine,
            "max_new_tokens": self.max_new_tokens,
            "openings": self.openings,
            "prompts": {name: p.hash for name, p in self.sides.items()},
            "truth": {name: _hash([p.truth for p in prompts]) for name, prompts in self.sides.items()},
            **({} if self.judge is None else {"judge": [self.judge.name, dict(self.judged)]}),
            **({} if not self.reference else {"reference": {name: p.hash for name, p in self.reference.items()}}),
            **({} if self.read_by == READERS else {"read_by": self.read_by}),
            **({"cached": True} if self.cached else {}),
            **({} if self.bound is None else {"degenerate_above": self.bound.value}),
        }


def run(
    protocol: Protocol,
    grids: Sequence[Grid],
    folder: str | Path,
    name: str,
    *,
    identity: dict[str, Any] | None = None,
    progress: bool = True,
) -> Rows:
    """Run every grid under the protocol and return the rows, which are kept in ``folder/NAME.csv``.

    An interrupted run continues where it stopped. Where prompts have cells or clusters, the rows that are returned tell
    them (:func:`lens_steer.evaluation.cells.labelled`).

    Args:
        protocol: The model, the prompts, and how they are measured.
        grids: The grids, with different names.
        folder, name: The folder and the name of the file.
        identity: Further values on which the grids depend, such as the calibration's hash.
        progress: Whether to show a bar.

    With a serving engine, rows also name the engine that wrote the answer, and its certificates are kept in
    the folder ``folder/NAME.engine``.

    Raises:
        LensSteerError: If two grids have one name, a plan is in force on the model, the folder holds another run, or a
            serving engine cannot carry out a grid's plan.
    """
    names = [g.name for g in grids]
    if len(set(names)) < len(names):
        raise LensSteerError(f"conditions {names} repeat a name: give each grid its own")
    check_idle(protocol.model)
    described = {g.name: {"values": list(g.values), "system": g.system, "plan": plan_hash(g)} for g in grids}
    columns, texts = COLUMNS, TEXT_COLUMNS
    if protocol.engine in REMOTE:
        for grid in grids:
            protocol.engine_of(grid)  # refuses what cannot run before anything is written
        columns, texts = (*COLUMNS, ENGINE_COLUMN), (*TEXT_COLUMNS, ENGINE_COLUMN)
    store = RowStore(folder, name, columns, texts, {**protocol.identity, **(identity or {}), "grids": described})
    parts = parts_of(protocol, grids)
    computed = {key: partial(_certified, part, Path(folder) / f"{name}.engine") for key, part in parts.items()}
    rows = store.run(computed, work={key: part.n_prompts for key, part in parts.items()}, progress=progress)
    return labelled(rows, protocol.sides)


def parts_of(protocol: Protocol, grids: Sequence[Grid]) -> dict[str, Part]:
    """Return the parts of a run, by name.

    Each part is measured and kept as one, so an interrupt loses at most one part. A part is one value where the prompts
    of a side fill a batch of the engine. Otherwise it has as many values as fill a batch (at most 6), so that nothing
    runs slower than it could.
    """
    room = batching.rows_a_batch(
        info_of(protocol.model).tokenizer, max(protocol.sides.values(), key=len), protocol.max_new_tokens
    )
    step = min(VALUES_A_PART, max(1, room // max(map(len, protocol.sides.values()))))
    return {
        f"{g:03}-{start:03}-{min(step, len(grid.values) - start)}": Part(
            protocol, grid, grid.values[start : start + step]
        )
        for g, grid in enumerate(grids)
        for start in range(0, len(grid.values), step)
    }


@dataclass(frozen=True)
class Part:
    """Some values of one grid, which are measured when the part is called."""

    protocol: Protocol
    grid: Grid
    values: tuple[float | None, ...]

    @property
    def n_prompts(self) -> int:
        """Return the number of prompts that the part runs."""
        return len(self.values) * sum(map(len, self.protocol.sides.values()))

    def __call__(self) -> list[Row]:
        rows = [
            row
            for side, prompts in self.protocol.sides.items()
            for row in _measure(self.protocol, self.grid, self.values, side, prompts)
        ]
        order = {v: i for i, v in enumerate(self.values)}
        return sorted(rows, key=lambda row: order[row["value"]])  # stable: keeps the order of sides and prompts


def _certified(part: Part, folder: Path) -> list[Row]:
    """Measure a part, and keep the certificates of a serving engine beside its rows."""
    rows = part()
    keep_records(folder, records_of(part.protocol.model, part.protocol.engine))
    return rows


def _measure(
    protocol: Protocol, grid: Grid, values: tuple[float | None, ...], side: str, prompts: PromptSet
) -> list[Row]:
    """Measure one side: all values at once, each prompt at each value."""
    model, engine = protocol.model, protocol.engine
    asked = [p if grid.system is None else with_system(p, grid.system) for p in prompts] * len(values)
    plain, reference = list(prompts) * len(values), protocol.reference.get(side, prompts)
    by_row = [v for v in values for _ in prompts]
    plan = None if grid.build is None else grid.build(None if by_row[0] is None else by_row)
    n = len(asked)
    own, under_plain, scores = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    with ExitStack() as stack:
        for each in (grid.beside, plan):
            if each is not None:
                stack.enter_context(steering(model, each, tell=False))  # no warning for an identity value
        by = protocol.engine_of(grid)
        if side == CAPABILITY and prompts[0].question is not None:
            # Options are read and not written, which a serving engine does not do under a plan.
            by = ENGINE if engine in REMOTE else engine
            texts, cut = _options(model, asked, by), [False] * n
        elif side != CAPABILITY and "self" in protocol.read_by and by == "hf":
            tokens = refusal_tokens(info_of(model), protocol.openings)
            scored = scored_answers(
                model, asked, partial(refusal_score, tokens=tokens), max_new_tokens=protocol.max_new_tokens
            )
            texts, cut, own, scores = scored.texts, scored.cut, scored.surprise, scored.first
        else:
            texts, cut = answers(model, asked, max_new_tokens=protocol.max_new_tokens, engine=by)
            if side != CAPABILITY and "self" in protocol.read_by:  # tasks are only graded
                own, scores = _forced(protocol, asked, texts)
        tell_cut_off(model, cut, protocol.max_new_tokens)
    if side != CAPABILITY and "ref" in protocol.read_by:
        # The surprise under the unsteered model does not depend on the value or the plan, so the same text of the same
        # prompt is scored once.
        distinct = list(dict.fromkeys((i % len(prompts), text) for i, text in enumerate(texts)))
        read, said = [reference[i] for i, _ in distinct], [text for _, text in distinct]
        found = mean_surprise(model, read, said, engine=engine, read=protocol.prompt_cache)
        of = dict(zip(distinct, found.tolist(), strict=True))
        under_plain = np.array([of[i % len(prompts), text] for i, text in enumerate(texts)])
    grades, best = _grades(protocol, side, plain, texts, under_plain)
    begun = begins_in_thought(info_of(model).tokenizer, asked[0])
    rows = []
    for i, (prompt, text, grade) in enumerate(zip(plain, texts, grades, strict=True)):
        measured = text_metrics(text, begun=begun)
        rows.append(
            {
                "condition": grid.condition,
                "variant": grid.variant,
                "value": by_row[i],
                "split": protocol.split,
                "side": side,
                "prompt": i % len(prompts),
                "text": text,
                "grade": grade,
                "right": grade == best,
                "refused": grading.refuses(prompt, text, grade, begun=begun),
                "broken": grade in BROKEN,
                **{name: measured[name] for name in METRICS},
                "surprise_ref": _finite(float(under_plain[i])),
                "surprise_self": _finite(float(own[i])),
                "refusal_score": _finite(float(scores[i])),
                "cut_off": cut[i],
                **({ENGINE_COLUMN: by} if engine in REMOTE else {}),
            }
        )
    return rows


def _options(model: Any, prompts: Sequence[Prompt], engine: str) -> list[str]:
    """Return the likeliest option of each prompt's question, under the plans that are in force."""
    best = likeliest_options(model, prompts, engine=engine)
    return [p.question.choices[i] for p, i in zip(prompts, best, strict=True) if p.question is not None]


def _grades(
    protocol: Protocol, side: str, prompts: Sequence[Prompt], texts: Sequence[str], surprise: np.ndarray
) -> tuple[list[str], str]:
    """Return every answer's grade, and the grade that counts as right.

    Grades are the judge's where one decides on this side, else those of the ground truth or of the phrases. The judge
    does not see an answer that is cut off in a thought. Without a ground truth it does not see a degenerate answer
    either, unless that answer refuses.
    """
    begun = begins_in_thought(info_of(protocol.model).tokenizer, prompts[0])
    bound = None if protocol.bound is None else protocol.bound.value
    found = [
        grading.grade(prompt, text, perplexity=_finite(float(p)), bound=bound, begun=begun)
        for prompt, text, p in zip(prompts, texts, np.exp(surprise), strict=True)
    ]
    if protocol.judge is None or side not in protocol.judged:
        return found, grading.grades_of(prompts)[0]
    asked = [i for i, grade in enumerate(found) if grade not in (grading.DEGENERATE, grading.CUT_OFF)]
    said = [split_thought(texts[i], begun=begun)[1] or "" for i in asked]
    for i, verdict in zip(asked, protocol.judge([prompts[i] for i in asked], said) if asked else [], strict=True):
        found[i] = JUDGED[verdict.harmful]
    return found, JUDGED[protocol.judged[side]]


def _forced(protocol: Protocol, prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean surprise of each text, and the refusal score of its first token's logits, in one pass.

    Both are measured under the plans that are in force. They are NaN for an empty text.
    """
    tokens = refusal_tokens(info_of(protocol.model), protocol.openings)
    surprise, score = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
    for row, logits, ids in response_logits(protocol.model, with_responses(prompts, texts), engine=protocol.engine):
        surprise[row] = surprise_of(logits, ids)
        score[row] = float(refusal_score(logits[0], tokens))
    return surprise, score


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _applied(template: ChatTemplate) -> dict[str, Any]:
    """Return the arguments and the date with which a chat template is applied, if there are any.

    The entries are left out otherwise, so that a sweep without them can resume the files of an earlier release.
    """
    return (
        {"template_args": dict(template.args), "template_date": template.date} if template.args or template.date else {}
    )


def _weights_hash(model: Any) -> str:
    """Return a hash of the beginning of every parameter.

    It is enough to tell apart two checkpoints of one name.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        # Entries are read by index: flattening a parameter that is a transposed view would copy all of it.
        first = torch.unravel_index(torch.arange(min(16, parameter.numel())), parameter.shape)
        digest.update(name.encode() + parameter.detach()[first].double().cpu().numpy().tobytes())
    return digest.hexdigest()
