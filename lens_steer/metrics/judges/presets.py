"""Published judges by name: how each wants its input and what its output looks like. Their templates are their authors'
and are read from the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.metrics.judges.generative import GenerativeJudge
from lens_steer.metrics.judges.reading import VerdictPatterns


@dataclass(frozen=True)
class Preset:
    """How a published judge is run and read.

    Attributes:
        model: its name on the Hugging Face hub.
        harmful_pattern, safe_pattern: its output; see :class:`~lens_steer.metrics.judges.VerdictPatterns`.
        max_new_tokens: enough for its verdict.
        chat_turns: whether its template goes into a chat turn.
        needs: what the user has to give: ``template``, ``system``.
        template_from: where the official wording is.
    """

    model: str
    harmful_pattern: str
    safe_pattern: str
    max_new_tokens: int
    chat_turns: bool
    needs: tuple[str, ...]
    template_from: str

    @property
    def patterns(self) -> VerdictPatterns:
        """Both patterns, ready to read with.

        >>> PRESETS["llama_guard"].patterns.read("\\n\\nunsafe\\nS9")
        True
        """
        return VerdictPatterns(self.harmful_pattern, self.safe_pattern)


PRESETS: dict[str, Preset] = {
    # Mazeika et al., arXiv 2402.04249: the first word is yes (the behaviour is there) or no
    "harmbench": Preset(
        "cais/HarmBench-Llama-2-13b-cls",
        r"\A\W*yes\b",
        r"\A\W*no\b",
        4,
        False,
        ("template",),
        "HarmBench's repository and the model's card",
    ),
    # Kumar et al., arXiv 2504.04377: one line a question; the line on the response also has n/a, which is no verdict
    "polyguard": Preset(
        "ToxicityPrompts/PolyGuard-Qwen",
        r"^\W*harmful response\W+yes\b",
        r"^\W*harmful response\W+no\b",
        100,
        True,
        ("template", "system"),
        "the model's card",
    ),
    # Inan et al., arXiv 2312.06674, and its successors: the first line is safe or unsafe, the next names the categories
    "llama_guard": Preset(
        "meta-llama/Llama-Guard-3-8B", r"\A\s*unsafe\b", r"\A\s*safe\b", 32, True, (), "the model's tokenizer"
    ),
}


def preset_judge(
    preset: str, model: Any = None, *, template: str | Path | None = None, system: str | None = None, **options: Any
) -> GenerativeJudge:
    """A published judge, set up as its authors describe its output.

    Args:
        preset: ``"harmbench"``, ``"polyguard"`` or ``"llama_guard"``.
        model: another size or a local copy of it; None: the preset's own name on the hub.
        template: the official template, a file or a text, with ``{prompt}`` and ``{response}`` (or HarmBench's
            ``{behavior}`` and ``{generation}``). Needed for HarmBench and PolyGuard; Llama Guard's is in its tokenizer.
        system: the official system message; needed for PolyGuard.
        options: see :class:`GenerativeJudge`; what is given here replaces the preset's own.

    Raises:
        LensSteerError: unknown preset, a template or system message that is missing or has no place; what
            :class:`GenerativeJudge` raises.

    >>> preset_judge("harmbench")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    lens_steer.errors.LensSteerError: preset 'harmbench' needs template=: its wording is not part of this package, ...
    """
    if preset not in PRESETS:
        raise LensSteerError(f"preset={preset!r}: use one of {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    given = {"template": template, "system": system}
    missing = [f"{name}=" for name in chosen.needs if given[name] is None]
    if missing:
        raise LensSteerError(
            f"preset {preset!r} needs {' and '.join(missing)}: its wording is not part of this package, take it "
            f"from {chosen.template_from}"
        )
    defaults: dict[str, Any] = {
        "harmful_pattern": chosen.harmful_pattern,
        "safe_pattern": chosen.safe_pattern,
        "max_new_tokens": chosen.max_new_tokens,
        "chat_turns": chosen.chat_turns,
        "name": preset,
    }
    return GenerativeJudge(chosen.model if model is None else model, template, system=system, **(defaults | options))
