"""Graded outcomes against the rotation angle on held-out prompts, with a random plane and no steering (after Selective
Steering, Fig. 4).
"""

from __future__ import annotations

from functools import partial
from tempfile import TemporaryDirectory

import lens_steer as ls
from analyses.common import Run, begin, parse
from lens_steer.evaluation import sweeps
from lens_steer.evaluation.conditions import NONE, RANDOM_PLANE
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.figures import outcomes as figure
from lens_steer.figures import saving
from lens_steer.geometry.planes import random_plane
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.reports.report_sweep import STEERED, outcomes

ANGLES = tuple(float(angle) for angle in range(0, 361, 30))


def draw(run: Run) -> None:
    """Measure every angle on the report split and write the figure."""
    steered = partial(ls.selective_steering, run.calibration)
    drawn = partial(steered, basis=random_plane(run.calibration.d_model, run.seed))
    grids = [Grid(NONE), Grid(STEERED, steered, ANGLES), Grid(RANDOM_PLANE, drawn, ANGLES)]
    protocol = Protocol(run.model, run.contrast.report, "report", NO_TASKS, read_by=())
    with TemporaryDirectory() as folder:
        rows = sweeps.run(protocol, grids, folder, "report")
    drawing = figure.drawing(outcomes(protocol, grids, rows), model=run.model.lens_info.name)
    saving.save(drawing, "outcomes_by_angle", run.out, run.meta)


if __name__ == "__main__":
    draw(begin(parse(__doc__)))
