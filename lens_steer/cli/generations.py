"""The command that measures the texts of generations."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer.cli.common import check_rows_file, emit
from lens_steer.errors import LensSteerError


def metrics(
    source: Annotated[Path, typer.Option("--in", help="Generations (.jsonl) with a text or a response a row.")],
    out: Annotated[Path, typer.Option(help="File (.jsonl) to write.")],
) -> None:
    """Text metrics of generations: every row again, with repetition, language, compression, length, refusals and the
    outcome added.

    All of it of the answer alone: a reasoning model's thoughts are split off. The outcome is refused, degenerate (empty
    or repeating), answered, or cut off (inside a thought). A row with a thought also has its words and whether it
    refuses: in the thought, in the answer, in both or in neither.
    """
    from lens_steer._io.atomic import whole_file
    from lens_steer._io.jsonl import read_lines
    from lens_steer.metrics.grading import outcome_of
    from lens_steer.metrics.rows import text_metrics, thought_metrics

    check_rows_file(out)
    rows = read_lines(source, "generations", _generation)
    outcomes: Counter[str] = Counter()
    thoughts: list[dict[str, Any]] = []
    with whole_file(out) as work, work.open("w", encoding="utf-8") as stream:
        for row, text in rows:
            begun = row.get("thought_begun") is True
            outcome = outcome_of(text, begun=begun)
            outcomes[outcome] += 1
            thought = thought_metrics(text, begun=begun)
            thoughts += [thought] if thought else []
            measured = {**row, **text_metrics(text, begun=begun), **thought, "outcome": outcome}
            stream.write(json.dumps(measured, ensure_ascii=False) + "\n")
    cut = sum(row.get("cut_off") is True for row, _ in rows)
    emit(
        {
            "metrics": str(out),
            "n": len(rows),
            "outcomes": dict(outcomes),
            "degenerate_by": "text alone",
            "cut_off": cut or None,
            "thoughts": len(thoughts) or None,
            "refuses_in": dict(Counter(str(t["refuses_in"] or "cut off") for t in thoughts)) if thoughts else None,
        }
    )


def _generation(row: Any) -> tuple[dict[str, Any], str]:
    """Check a row of a generations file and return it with its text."""
    if not isinstance(row, dict) or not ("text" in row or "response" in row):
        raise LensSteerError("an object with a text (or response) is needed")
    text = row["text"] if "text" in row else row["response"]
    if not isinstance(text, str):
        raise LensSteerError(f"text is {text!r}, not a string")
    return row, text
