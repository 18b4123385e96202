"""What holds where nothing else was asked for, once for the library and the command line; imports nothing, so that help
is quick.
"""

from __future__ import annotations

ENGINES = ("tl", "hf")
ENGINE = "hf"  # who records and generates: the Hugging Face twin, or TransformerLens itself
