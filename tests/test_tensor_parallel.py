"""Transformers' tensor parallelism on two processes of this machine: hooks at norm outputs are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lens_steer as ls


def test_norm_outputs_and_steering_on_two_processes(tmp_path: Path) -> None:
    """Each process holds half of the heads, sees whole norm outputs, and steers them as one process does."""
    root, out = Path(ls.__file__).parents[1], tmp_path / "line"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"),
        *("--standalone", "-m", "tests.tensor_parallel_worker", str(out)),
    ]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, cwd=root, env=alone, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    d_model = 128
    for rank in (0, 1):
        number, part, *values = (tmp_path / f"line.{rank}").read_text().split()
        norms, logits, steered_norms, steered_logits, moved = map(float, values)
        assert int(number) == rank and int(part) == d_model // 2
        assert max(norms, steered_norms) < 1e-4 and max(logits, steered_logits) < 1e-3
        assert moved > 1.0  # the plan did something
