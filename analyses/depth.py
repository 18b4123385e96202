"""The direction across depth (Selective Steering, Fig. 2 and 5–12): cosines, mean cosines, projections and norms of
both classes.

Projections and norms are those of the held-out report split, on the direction of the fit split.
"""

from __future__ import annotations

import lens_steer as ls
from analyses.common import Run, begin, parse
from lens_steer.figures import geometry, saving
from lens_steer.geometry.calibration import prompt_statistics
from lens_steer.geometry.summary import classes, summarise

FIGURES = ("cosine_matrix", "mean_cosine", "class_projections", "class_norms")


def draw(run: Run) -> None:
    """Write the four figures."""
    summary = summarise(run.calibration)
    held_out = ls.record(run.model, run.contrast.report, run.calibration.sites)
    summary["classes"] = classes(prompt_statistics(held_out, run.calibration.basis), split="report", seed=run.seed)
    drawings = geometry.drawings(summary)
    for name in FIGURES:
        saving.save(drawings[name], name, run.out, run.meta)


if __name__ == "__main__":
    draw(begin(parse(__doc__)))
