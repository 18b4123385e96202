"""The certificate of an export: the export is loaded back and compared with the hooked model under the plan.

The hooked model answers the prompts with greedy decoding. Its answers are then forced on both models, and the logits
are compared at every position that decides a token and at the one after the last token. Both models also answer freely,
token by token. Rounding errors grow with the logits, so the tolerance is relative: the largest absolute difference over
the largest absolute logit.
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
# The largest relative logit difference that passes, by the model's dtype. Hugging Face's norms compute in float32 even
# in float64 models, so both have the same tolerance.
TOLERANCES = {"float64": 1e-5, "float32": 1e-5, "float16": 0.02, "bfloat16": 0.15}
# Dtypes in which every greedy token must be equal. In half precision, different rounding may choose another token where
# two logits are almost equal.
EXACT = ("float64", "float32")
# ROWS and LOGITS are the largest numbers of rows and of logits in a batch.
NEW_TOKENS, ORGANISM_PROMPTS, ROWS, LOGITS = 16, 16, 16, 2**24
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
    """The comparison of an export with the hooked model.

    Attributes:
        kind: The kind of export.
        model: The model that the plan steers.
        plan: The method and the parameters of the part of the plan that folded.
        folded_sites: The sites that the export steers.
        refused: The site, the operator and the reason of each step that was left out.
        prompts, n_prompts: The name of the prompt set and the number of prompts.
        new_tokens: The largest number of tokens of each answer.
        n_positions: The number of positions whose logits were compared.
        largest_logit_difference: The largest absolute difference of a logit, exported against hooked.
        largest_logit: The largest absolute logit of the hooked model.
        relative_logit_difference: ``largest_logit_difference`` over ``largest_logit``.
        largest_change_by_plan: The largest absolute change of these logits by the plan, for comparison.
        equal_greedy_tokens: The share of equal tokens in the freely generated answers, position by position.
        gram_error: max|BBᵀ − I| of the planes; None without a plane.
        dtype: The dtype of the model.
        engine: The engine that the hooked model ran on.
        tolerance: The largest relative logit difference that passes.
        versions: The versions of the software.
        quantization: The quantisation of the model's weights, empty without one. The dequantised weights were folded,
            and steered weights are written unquantised.
        chat_template: The chat template that the prompts were rendered with, its arguments and its date.
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
        """Return ``pass`` or ``fail``."""
        close = self.relative_logit_difference <= self.tolerance
        same = self.equal_greedy_tokens == 1.0 or self.dtype not in EXACT
        return "pass" if close and same else "fail"

    def row(self) -> dict[str, Any]:
        """Return all fields and the verdict, as they are written to the file."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Trial:
    """The prompts and limits of the comparison between the exported and the hooked model.

    Attributes:
        prompts: The prompts that both models answer. None stands for the default of :func:`prompts_for`.
        new_tokens: The largest number of tokens of each answer.
        tolerance: The largest relative logit difference that passes. None stands for that of the model's dtype in
            :data:`TOLERANCES`.
    """

    prompts: PromptSet | Sequence[Prompt] | None = None
    new_tokens: int = NEW_TOKENS
    tolerance: float | None = None


def certify(model: Any, exported: Any, folded: Folded, kind: str, trial: Trial | None = None) -> Certificate:
    """Compare an export that was loaded back with the hooked model.

    Args:
        model: A model of :func:`lens_steer.load_model`, with no plan in force.
        exported: The Hugging Face model that was loaded back.
        folded: The plan that was exported.
        kind: The kind of export, for the record.
        trial: The prompts and limits of the comparison. None stands for the defaults.

    Raises:
        LensSteerError: If there are no prompts, if a prompt is too long, or if a plan is in force on the model.
    """
    trial = trial or Trial()
    check_trial(model, trial)
    new_tokens = trial.new_tokens
    info, asked = info_of(model), prompts_for(model, trial.prompts)
    exported.lens_info = replace(info, backend="hf")
    # No Hugging Face module returns the residual stream after attention (resid_mid). A plan that steers there
    # runs on the HookedTransformer.
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
    """Refuse a trial that :func:`certify` would refuse, before any work is done.

    Raises:
        LensSteerError: If there are no prompts, if there are too few new tokens, if the tolerance is not a positive
            number, if a plan is in force, or if a prompt is too long for the context.
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
    """Return the given prompts or, without any, the default ones for a model.

    The default for an organism is the first prompts of both classes in the report split of its refusal contrast. For
    any other model it is eight questions.

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
    """Return the certificate if it passes.

    Raises:
        LensSteerError: If it fails; the message states the differences.
    """
    if certificate.verdict != "pass":
        raise LensSteerError(
            f"the {certificate.kind} export does not do what the hooks do: logits differ by "
            f"{certificate.largest_logit_difference:.2e} ({certificate.relative_logit_difference:.1e} of the largest, "
            f"tolerance {certificate.tolerance:g}), {100 * certificate.equal_greedy_tokens:.1f} % of the greedy "
            "tokens are equal; nothing was kept: load the model in float32, or give a tolerance that suits its dtype"
        )
    return certificate


def write_certificate(folder: Path, certificate: Certificate, **more: Any) -> None:
    """Write ``certificate.json`` into a folder."""
    (folder / FILE).write_text(
        json.dumps(certificate.row() | more, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def count_equal(answers: Sequence[list[int]], others: Sequence[list[int]]) -> tuple[int, int]:
    """Count the equal tokens of two lists of answers, position by position, and all tokens.

    The end of an answer counts as one token, so that an answer and a longer one that begins with it differ.

    >>> count_equal([[5, 6], [7]], [[5, 9], [7, 8]])
    (3, 6)
    """
    equal = tokens = 0
    for a, b in zip(answers, others, strict=True):
        tokens += max(len(a), len(b)) + 1
        equal += sum(x == y for x, y in zip(a, b, strict=False)) + (len(a) == len(b))
    return equal, tokens


@dataclass
class _Comparison:
    """Running maxima and counts of the comparison.

    Attributes:
        difference: The largest absolute logit difference, exported against hooked.
        largest: The largest absolute logit of the hooked model.
        change: The largest absolute change of a logit by the plan.
        positions: The number of positions compared.
        equal, tokens: The number of equal greedy tokens, and the number of all of them.
    """

    difference: float = 0.0
    largest: float = 0.0
    change: float = 0.0
    positions: int = 0
    equal: int = 0
    tokens: int = 0

    def compare_tokens(self, hooked: list[list[int]], exported: list[list[int]]) -> None:
        equal, tokens = count_equal(hooked, exported)
        self.equal, self.tokens = self.equal + equal, self.tokens + tokens

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
