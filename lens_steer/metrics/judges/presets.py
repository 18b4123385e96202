"""Published judges by name: the form of their input and the patterns of their output.

The templates belong to the judges' authors and are not part of this package; the user gives them.
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
    """Settings to run a published judge and to read its output.

    Attributes:
        model: The name of the model on the Hugging Face hub.
        harmful_pattern, safe_pattern: The patterns of its output; see
            :class:`~lens_steer.metrics.judges.VerdictPatterns`.
        max_new_tokens: The number of tokens that suffices for its verdict.
        chat_turns: True if the filled template is sent as a chat turn.
        needs: The arguments that the user has to give: ``template``, ``system``.
        template_from: The source of the official wording.
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
        """Return both patterns, compiled.

        >>> PRESETS["llama_guard"].patterns.read("\\n\\nunsafe\\nS9")
        True
        """
        return VerdictPatterns(self.harmful_pattern, self.safe_pattern)


PRESETS: dict[str, Preset] = {
    # Mazeika et al., arXiv 2402.04249. The first word is yes (the response shows the behaviour) or no.
    "harmbench": Preset(
        "cais/HarmBench-Llama-2-13b-cls",
        r"\A\W*yes\b",
        r"\A\W*no\b",
        4,
        False,
        ("template",),
        "HarmBench's repository and the model's card",
    ),
    # Kumar et al., arXiv 2504.04377. The output has one line per question. The line on the response may also say n/a,
    # which is no verdict.
    "polyguard": Preset(
        "ToxicityPrompts/PolyGuard-Qwen",
        r"^\W*harmful response\W+yes\b",
        r"^\W*harmful response\W+no\b",
        100,
        True,
        ("template", "system"),
        "the model's card",
    ),
    # Inan et al., arXiv 2312.06674, and later versions. The first line is safe or unsafe; the next names the
    # categories.
    "llama_guard": Preset(
        "meta-llama/Llama-Guard-3-8B", r"\A\s*unsafe\b", r"\A\s*safe\b", 32, True, (), "the model's tokenizer"
    ),
}


def preset_judge(
    preset: str, model: Any = None, *, template: str | Path | None = None, system: str | None = None, **options: Any
) -> GenerativeJudge:
    """Return a published judge, set up as its authors describe its input and output.

    Args:
        preset: ``"harmbench"``, ``"polyguard"`` or ``"llama_guard"``.
        model: Another size of the judge or a local copy of it. None stands for the preset's own name on the hub.
        template: The official template as a file or a text, with ``{prompt}`` and ``{response}`` (or HarmBench's
            ``{behavior}`` and ``{generation}``). HarmBench and PolyGuard need it; the template of Llama Guard is in its
            tokenizer.
        system: The official system message; PolyGuard needs it.
        options: Further arguments of :class:`GenerativeJudge`; they replace the preset's own.

    Raises:
        LensSteerError: If the preset is unknown, if a required template or system message is missing, or if the
            template has no place for the response. Also for the reasons of :class:`GenerativeJudge`.

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
