"""Graded outcomes against the rotation angle on held-out prompts, with a random plane and no steering (after Selective
Steering, Fig. 4).
"""

from __future__ import annotations

from tqdm.auto import tqdm

import lens_steer as ls
from analyses.common import Run, begin, parse
from lens_steer.figures import outcomes as figure
from lens_steer.figures import saving
from lens_steer.geometry.planes import random_plane
from lens_steer.metrics import grading

ANGLES = range(0, 361, 30)


def draw(run: Run) -> None:
    """Measure every angle on the report split and write the figure."""
    report = run.contrast.report
    measured = grading.measure(run.model, report, None, "no steering")[0]
    planes = {"steering plane": None, "random plane": random_plane(run.calibration.d_model, run.seed)}
    for angle in tqdm(ANGLES, desc="angles"):
        for condition, basis in planes.items():
            plan = ls.selective_steering(run.calibration, angle, basis=basis)
            measured += grading.measure(run.model, report, plan, condition)[0]
    drawing = figure.drawing(measured, model=run.model.lens_info.name)
    saving.save(drawing, "outcomes_by_angle", run.out, run.meta)


if __name__ == "__main__":
    draw(begin(parse(__doc__)))
