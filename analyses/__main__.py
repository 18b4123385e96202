"""``python -m analyses --model M --out DIR``: every figure of a model."""

from __future__ import annotations

from analyses import depth, outcomes, plane
from analyses.common import begin, parse

if __name__ == "__main__":
    run = begin(parse("Every figure of a model."))
    for script in (depth, plane, outcomes):
        script.draw(run)
