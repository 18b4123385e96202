"""Defaults that the library and the command line share; nothing is imported, so that the help text appears fast."""

from __future__ import annotations

ENGINES = ("tl", "hf", "vllm")
REMOTE = ("vllm",)  # The engines that hold the weights themselves and only answer; plans go to them as adapters.
ENGINE = "hf"  # The engine that records and generates: the Hugging Face twin (hf), or TransformerLens itself (tl).
VERIFY_DRAWS = 19  # Draws of each random control of the propositions: the fewest whose best rank is p = 0.05.
REFINED = 12  # settings that every condition of a comparison gets beyond the largest grid
