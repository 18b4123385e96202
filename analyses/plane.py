"""The steering plane: the candidates' path in it, and how much of each candidate it holds (Selective Steering, section
3.2).
"""

from __future__ import annotations

from analyses.common import Run, begin, parse
from lens_steer.figures import geometry, saving
from lens_steer.geometry.summary import summarise

FIGURES = ("plane_path", "plane_share")


def draw(run: Run) -> None:
    """Write the two figures."""
    drawings = geometry.drawings(summarise(run.calibration))
    for name in FIGURES:
        saving.save(drawings[name], name, run.out, run.meta)


if __name__ == "__main__":
    draw(begin(parse(__doc__)))
