"""What a command's user reads on the error stream: ours, and errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOISE = """
from lens_steer.cli.quiet import quiet
quiet()
import logging, warnings
import transformers, huggingface_hub
logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load a kernel")
logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
transformers.utils.logging.get_logger("transformers.models.mamba").warning("The fast path is not available")
logging.warning("a library without a logger")
warnings.warn("something is deprecated", FutureWarning)
warnings.warn("something is slow", UserWarning)
logging.getLogger("lens_steer.steer.hooks").warning("ours")
logging.getLogger("somebody").error("broken")
"""


def shown(code: str, **environment: str) -> list[str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "PYTHONWARNINGS")
    }
    ran = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stderr.splitlines()


def test_only_what_concerns_the_user() -> None:
    """Whatever a library writes with, and whoever asks for more gets it."""
    assert shown(NOISE) == ["ours", "broken"]
    more = "\n".join(shown(NOISE, TRANSFORMERS_VERBOSITY="warning", PYTHONWARNINGS="default"))
    for text in ("The fast path is not available", "something is slow", "ours", "broken"):
        assert text in more
    assert "Failed to load a kernel" not in more


def test_a_command_on_an_organism_says_nothing_of_others(tmp_path: Path) -> None:
    """From the imports to the last line: what was read, that it is little, what was loaded, and progress."""
    sides = []
    for side in ("positive", "negative"):
        (tmp_path / side).with_suffix(".txt").write_text(f"A {side} request\nAnother {side} one\n", encoding="utf-8")
        sides += [f"--{side}", str((tmp_path / side).with_suffix(".txt"))]
    options = ["calibrate", *sides, "--out", str(tmp_path / "out")]
    said = shown(f"import sys; from lens_steer.cli import main; sys.argv = ['lens-steer', *{options!r}]; main()")
    words = {part.strip().split(" ")[0].rstrip(":") for line in said for part in line.split("\r") if part.strip()}
    assert words <= {"read", "positive", "negative", "loaded", "record"}, (
        said
    )  # two prompts a class are few, which is told
    assert "loaded" in words
