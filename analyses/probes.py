"""Linear probes across depth: how well they part the classes, along what direction, and what their gate sees token by
token (arXiv 2604.08169).
"""

from __future__ import annotations

import lens_steer as ls
from analyses.common import Run, begin, parse
from lens_steer.data import ORGANISM_PREFIX
from lens_steer.inference.pooling import Pooling
from lens_steer.reports.probe_report import probe_and_write

SITES = "resid_post"  # where the paper reads
CONTRASTS: dict[str, Pooling] = {"refusal": "last", "honesty": "response", "compassion": "response"}  # of the organisms


def draw(run: Run) -> None:
    """Write a folder a contrast into ``probes``: all three on an organism, else the run's own."""
    chosen: list[tuple[ls.ContrastSet, Pooling]] = [(run.contrast, "last")]
    if run.model.lens_info.name.startswith(ORGANISM_PREFIX):
        chosen = [
            (ls.load_contrast(ORGANISM_PREFIX + name, seed=run.seed), pooling) for name, pooling in CONTRASTS.items()
        ]
    for contrast, pooling in chosen:
        out = run.out / "probes" / contrast.name.rsplit("/", 1)[-1]
        probe_and_write(
            run.model, contrast, out, sites=SITES, pooling=pooling, seed=run.seed, command=str(run.meta["command"])
        )


if __name__ == "__main__":
    draw(begin(parse(__doc__)))
