"""What loading half a billion parameters takes, beside Hugging Face's own loading of the same folder: each in a process
of its own, in turn.

The bound on time is against model *and* tokenizer, which ``load_model`` reads too. That is *post hoc*: against the
weights alone it was missed, because Transformers maps bfloat16 weights in a third of a second, less than the
tokenizer's vocabulary takes. The benchmark table has both. What ``plan-resources`` tells beforehand is held against the
same peaks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lens_steer.models.footprint import Shape, estimate, stored_dtype
from lens_steer.models.location import read_config
from tests.benchmarks.real_cases import measured
from tests.real.conftest import CODER

TURNS, TIME, MEMORY = 3, 1.5, 1.2
TOLD = 1.2  # by which the peak that was told beforehand may miss the measured one, either way


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_costs_about_what_it_costs_hugging_face(models: Path, dtype: str) -> None:
    """Loaded and run once: time at most 1.5 times and peak resident memory at most 1.2 times, best of three of each."""
    wanted = ("ours", "theirs", "with tokenizer")
    turns = [{variant: measured(models / CODER, dtype, variant) for variant in wanted} for _ in range(TURNS)]
    for quantity, most, against in (("seconds", TIME, "with tokenizer"), ("peak_mib", MEMORY, "theirs")):
        ours, theirs = (min(turn[v][quantity] for turn in turns) for v in ("ours", against))
        assert ours <= most * theirs, (quantity, turns)
    folder = models / CODER
    config = read_config(str(folder), str(folder))
    told = estimate(
        Shape.of(config),
        n_prompts=1,
        prompt_tokens=5,
        n_sites=1,
        max_new_tokens=1,
        dtype=dtype,
        stored=stored_dtype(config, dtype),
    )
    measured_peak = min(turn["ours"]["peak_mib"] for turn in turns)
    assert 1 / TOLD <= measured_peak / (told.weights_while_loading / 2**20) <= TOLD
