"""Judges of responses behind one interface, and the agreement between judges.

A judge takes prompts and responses and returns one :class:`Verdict` per response. :class:`WorldJudge` is exact on the
organisms. :class:`PhraseJudge` looks for refusal phrases, :class:`PatternJudge` for a pattern of
one's own. :class:`ClassifierJudge` and :class:`GenerativeJudge` run
Hugging Face models; :func:`preset_judge` sets up published ones. :class:`LLMJudge` asks an endpoint. :func:`agreement`
compares two judges on the same responses.
"""

from lens_steer.metrics.judges.cache import AnswerCache
from lens_steer.metrics.judges.classifier import ClassifierJudge
from lens_steer.metrics.judges.endpoint import LLMJudge, Usage
from lens_steer.metrics.judges.generative import GenerativeJudge
from lens_steer.metrics.judges.kappa import Agreement, agreement, agreement_table
from lens_steer.metrics.judges.presets import PRESETS, Preset, preset_judge
from lens_steer.metrics.judges.reading import VerdictPatterns
from lens_steer.metrics.judges.rules import PatternJudge, PhraseJudge, WorldJudge
from lens_steer.metrics.judges.verdicts import Judge, Verdict, tally

__all__ = [
    "PRESETS",
    "Agreement",
    "AnswerCache",
    "ClassifierJudge",
    "GenerativeJudge",
    "Judge",
    "LLMJudge",
    "PatternJudge",
    "PhraseJudge",
    "Preset",
    "Usage",
    "Verdict",
    "VerdictPatterns",
    "WorldJudge",
    "agreement",
    "agreement_table",
    "preset_judge",
    "tally",
]
