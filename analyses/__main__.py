"""``python -m analyses --model M --out DIR``: every figure and table of a model; what is interrupted goes on where it
stopped.
"""

from __future__ import annotations

from analyses import comparison, depth, directions, externalities, outcomes, plane, probes, traits
from analyses.common import begin, parse

if __name__ == "__main__":
    run = begin(parse("Every figure of a model."))
    for script in (depth, plane, directions, probes, outcomes, traits, externalities, comparison):
        script.draw(run)
