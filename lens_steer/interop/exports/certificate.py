"""The certificate of an export: what was written, loaded back and run beside the hooked model under the plan.

The hooked model answers the prompts greedily; its answers are then forced on both, and at every position that decides a
token, and the one after the last, the logits are compared. Both also answer freely, token by token. Rounding grows with
the logits, so the tolerance is relative: the largest absolute difference over the largest absolute logit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer._display import Shown
from lens_steer.data import ORGANISM_PREFIX, Prompt, PromptSet, load_contrast
from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import versions
from lens_steer.inference import batching
from lens_steer.inference.engines import check_idle, on_engine
from lens_steer.inference.forward import batches_of, check_room, last_logits, logits_on
from lens_steer.inference.generation import answer_ids
from lens_steer.interop.exports.folding import Folded
from lens_steer.models import sites
from lens_steer.models.loading import device_of, hf_twin, info_of
from lens_steer.models.tokenization import pad_id
from lens_steer.steer.hooks import steering

FILE = "certificate.json"
# Largest relative logit difference by the model's dtype. Hugging Face's norms compute in float32 for float64 models
# too.
TOLERANCES = {"float64": 1e-5, "float32": 1e-5, "float16": 0.02, "bfloat16": 0.15}
EXACT = (
    "float64",
    "float32",
)  # in which every greedy token must be equal; in half precision two ways of rounding part at near ties
NEW_TOKENS, ORGANISM_PROMPTS, ROWS, LOGITS = 16, 16, 16, 2**24  # rows and logits a batch at most
QUESTIONS = (
    "What is the capital of France?",
    "Explain why the sky is blue.",
    "Write a short poem about the sea.",
    "List three ways to save water at home.",
    "How do I pick a lock?",
    "Translate 'good morning' into German.",
    "What is 17 times 4?",
    "Give me a recipe for pancakes.",
)


@dataclass(frozen=True)
class Certificate(Shown, view="files"):
    """How an export compares with the hooked model.

    Attributes:
        kind: of the export.
        model: that the plan steers.
        plan: method and parameters of the part that folded.
        folded_sites: where the export steers.
        refused: site, operator and reason of each step that was left out.
        prompts, n_prompts: what was answered.
        new_tokens: of each answer at most.
        n_positions: how many positions' logits were compared.
        largest_logit_difference: absolute, exported against hooked.
        largest_logit: absolute, of the hooked model.
        relative_logit_difference: the one over the other.
        largest_change_by_plan: what the plan does to those logits at most, for comparison.
        equal_greedy_tokens: share of the freely generated tokens that are equal, position by position.
        gram_error: max|BBᵀ − I| of the planes; None without a plane.
        dtype: of the model.
        engine: that the hooked model ran on.
        tolerance: of the relative difference.
        versions: of what it was made with.
        quantization: of the model's weights; what they stand for was folded, and steered weights are written
            unquantised.
        chat_template: that the prompts were rendered with, its arguments and its date.
    """

    kind: str
    model: str
    plan: dict[str, Any]
    folded_sites: tuple[str, ...]
    refused: tuple[dict[str, str], ...]
    prompts: str
    n_prompts: int
    new_tokens: int
    n_positions: int
    largest_logit_difference: float
    largest_logit: float
    relative_logit_difference: float
    largest_change_by_plan: float
    equal_greedy_tokens: float
    gram_error: float | None
    dtype: str
    engine: str
    tolerance: float
    versions: dict[str, str]
    quantization: str = ""
    chat_template: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return (
            f"Certificate({self.verdict}: {self.kind} of {self.model}, logits differ by "
            f"{self.relative_logit_difference:.1e} of the largest)"
        )

    @property
    def verdict(self) -> str:
        """``pass`` or ``fail``."""
        close = self.relative_logit_difference <= self.tolerance
        same = self.equal_greedy_tokens == 1.0 or self.dtype not in EXACT
        return "pass" if close and same else "fail"

    def row(self) -> dict[str, Any]:
        """Everything, as it is written."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Trial:
    """What the exported and the hooked model are asked.

    Attributes:
        prompts: what both answer; left out, see :func:`prompts_for`.
        new_tokens: of each answer at most.
        tolerance: of the relative logit difference; by the model's dtype (:data:`TOLERANCES`) unless given.
    """

    prompts: PromptSet | Sequence[Prompt] | None = None
    new_tokens: int = NEW_TOKENS
    tolerance: float | None = None


def certify(model: Any, exported: Any, folded: Folded, kind: str, trial: Trial | None = None) -> Certificate:
    """Run an export that was loaded back beside the hooked model.

    Args:
        model: from :func:`lens_steer.load_model`; no plan may be in force on it.
        exported: the Hugging Face model that came back.
        folded: what was exported.
        kind: of the export, for the record.
        trial: what both are asked.

    Raises:
        LensSteerError: prompts that are empty or too long, a plan in force on the model.
    """
    trial = trial or Trial()
    check_trial(model, trial)
    new_tokens = trial.new_tokens
    info, asked = info_of(model), prompts_for(model, trial.prompts)
    exported.lens_info = replace(info, backend="hf")
    # no module of Hugging Face's gives out the stream after attention, so there the HookedTransformer is run
    engine = (
        "tl" if any(sites.parse(n).kind == "resid_mid" for n in folded.plan.sites) and info.backend != "hf" else "hf"
    )
    found = _Comparison()
    rows_a_batch = max(1, min(ROWS, LOGITS // (int(exported.config.vocab_size) * (new_tokens + 1))))
    for batch in batches_of(model, asked, max_new_tokens=new_tokens + 1, max_rows=rows_a_batch):
        with steering(model, folded.plan, tell=False), on_engine(model, engine) as runner:
            answers = answer_ids(runner, batch, new_tokens)
        found.compare_tokens(answers, answer_ids(exported, batch, new_tokens))
        prompt_ids = [ids[mask.bool()].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]
        rows = [(i, p + a, len(a)) for i, (p, a) in enumerate(zip(prompt_ids, answers, strict=True))]
        for forced in batching.padded(rows, pad_id(info.tokenizer), max_tokens=10**9, device=device_of(model)):
            keep = max(forced.response_lengths) + 1
            with steering(model, folded.plan, tell=False):
                hooked = logits_on(model, forced, keep, engine)
            plain = last_logits(hf_twin(model), forced, keep)
            found.compare_logits(hooked, last_logits(exported, forced, keep), plain, forced)
    largest = max(found.largest, 1e-30)
    return Certificate(
        kind,
        info.name,
        folded.plan.row(),
        folded.plan.sites,
        tuple(asdict(r) for r in folded.refused),
        getattr(asked, "name", "given"),
        len(asked),
        new_tokens,
        found.positions,
        found.difference,
        found.largest,
        found.difference / largest,
        found.change,
        found.equal / max(found.tokens, 1),
        folded.gram_error,
        info.dtype,
        engine,
        TOLERANCES[info.dtype] if trial.tolerance is None else trial.tolerance,
        _versions(),
        info.quantization,
        chat_template=info.template.row(),
    )


def check_trial(model: Any, trial: Trial | None) -> None:
    """Refuse what :func:`certify` would, before any work.

    Raises:
        LensSteerError: no prompts, too few tokens, a tolerance that is no positive number, a plan in force, prompts
            that are too long for the context.
    """
    asked = trial or Trial()
    if asked.new_tokens < 1:
        raise LensSteerError(f"new_tokens={asked.new_tokens}: at least 1 is needed")
    if asked.tolerance is not None and not asked.tolerance > 0:
        raise LensSteerError(f"tolerance={asked.tolerance!r}: a positive number is needed")
    if asked.prompts is not None and not len(asked.prompts):
        raise LensSteerError("prompts is empty: give at least one")
    check_idle(model)
    check_room(model, prompts_for(model, asked.prompts), max_new_tokens=asked.new_tokens + 1)


def prompts_for(model: Any, prompts: PromptSet | Sequence[Prompt] | None = None) -> PromptSet | Sequence[Prompt]:
    """The prompts given; else of an organism the first of its refusal contrast's report split, of another model eight
    questions.

    >>> import lens_steer as ls
    >>> len(prompts_for(ls.load_model("organism/qwen2")))
    16
    """
    if prompts is not None:
        return prompts
    if not info_of(model).name.startswith(ORGANISM_PREFIX):
        return PromptSet(tuple(Prompt.of(q) for q in QUESTIONS), "eight questions")
    report, half = load_contrast("organism/refusal").report, ORGANISM_PROMPTS // 2
    return PromptSet(
        (*report.positive[:half], *report.negative[:half]), f"organism/refusal, report split, {half} and {half}"
    )


def require(certificate: Certificate) -> Certificate:
    """The certificate, if it passes.

    Raises:
        LensSteerError: with what differs.
    """
    if certificate.verdict != "pass":
        raise LensSteerError(
            f"the {certificate.kind} export does not do what the hooks do: logits differ by "
            f"{certificate.largest_logit_difference:.2e} "
            f"({certificate.relative_logit_difference:.1e} of the largest, tolerance {certificate.tolerance:g}), "
            f"{100 * certificate.equal_greedy_tokens:.1f} % of the greedy tokens are equal; nothing was kept: "
            "load the model in float32, or give a tolerance that suits its dtype"
        )
    return certificate


def write_certificate(folder: Path, certificate: Certificate, **more: Any) -> None:
    """Write ``certificate.json`` into a folder."""
    (folder / FILE).write_text(
        json.dumps(certificate.row() | more, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


@dataclass
class _Comparison:
    """The largest differences so far."""

    difference: float = 0.0
    largest: float = 0.0
    change: float = 0.0
    positions: int = 0
    equal: int = 0
    tokens: int = 0

    def compare_tokens(self, hooked: list[list[int]], exported: list[list[int]]) -> None:
        for a, b in zip(hooked, exported, strict=True):
            self.tokens += max(len(a), len(b)) + 1  # the end counts as one: an answer that goes on is not equal
            self.equal += sum(x == y for x, y in zip(a, b, strict=False)) + (len(a) == len(b))

    def compare_logits(self, hooked: Tensor, exported: Tensor, plain: Tensor, batch: batching.Batch) -> None:
        for i, length in enumerate(batch.response_lengths):
            a, b, c = (t[i, -length - 1 :].double() for t in (hooked, exported, plain))
            gap = (a - b).abs().max()
            self.difference = max(self.difference, float(gap) if bool(torch.isfinite(gap)) else float("inf"))
            self.largest = max(self.largest, float(a.abs().max()))
            self.change = max(self.change, float((a - c).abs().max()))
            self.positions += length + 1


def _versions() -> dict[str, str]:
    try:
        return versions() | {"peft": metadata.version("peft")}
    except metadata.PackageNotFoundError:
        return versions()
