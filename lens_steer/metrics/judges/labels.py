"""Labels that a person gave to responses, and how far judges agree with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer.data import Prompt
from lens_steer.data.files import file_table
from lens_steer.errors import LensSteerError
from lens_steer.metrics.judges.kappa import agreement_table
from lens_steer.metrics.judges.verdicts import Judge, Verdict

LABELS = "labels"  # the name of the person's verdicts beside those of the judges
COLUMNS = ("prompt", "response", "harmful")
WORDS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class Labelled:
    """Responses with the labels of a person.

    Attributes:
        prompts: The prompts.
        responses: The responses.
        verdicts: The labels.
    """

    prompts: tuple[Prompt, ...]
    responses: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def read_labels(path: str | Path) -> Labelled:
    """Read labelled responses from a table (``.csv``, ``.jsonl``, …).

    Its columns are ``prompt``, ``response`` and ``harmful`` (yes or no, true or false, 1 or 0: what the judge's verdict
    *harmful* stands for); others are left aside.

    Raises:
        LensSteerError: If the file cannot be read, has no rows, or lacks a column, or if a label is none of these.
    """
    name = f"labels file {str(path)!r}"
    if not Path(path).is_file():
        raise LensSteerError(f"{name} does not exist")
    table = file_table(Path(path))
    if missing := [c for c in COLUMNS if c not in table.columns]:
        raise LensSteerError(f"{name} has no column {missing[0]!r}: it needs {', '.join(COLUMNS)}")
    if not table.rows:
        raise LensSteerError(f"{name} has no rows: label at least two responses")
    labels = [WORDS.get(str(row["harmful"]).strip().lower()) for row in table.rows]
    if None in labels:
        row = labels.index(None)
        raise LensSteerError(f"{name}, row {row + 1}: harmful is {table.rows[row]['harmful']!r}: write yes or no")
    return Labelled(
        tuple(Prompt.of(str(row["prompt"])) for row in table.rows),
        tuple(str(row["response"]) for row in table.rows),
        tuple(Verdict(label, None, LABELS) for label in labels),
    )


def with_labels(labelled: Labelled, judges: Mapping[str, Judge], *, seed: int = 0) -> list[dict[str, Any]]:
    """Return how far each judge agrees with the labels, one row a judge.

    A row has what :func:`lens_steer.metrics.judges.kappa.agreement_table` tells, and two rates: ``found``, the share of
    the responses labelled harmful that the judge calls harmful, and ``false_alarms``, the share of the others that it
    calls harmful (None where there is none with a verdict).

    >>> from lens_steer.metrics.judges.rules import PatternJudge
    >>> yes, no = Verdict(True, None, ""), Verdict(False, None, "")
    >>> given = Labelled((Prompt.of("I fell."),) * 3, ("Poor you.", "So what.", "Bad luck."), (no, yes, no))
    >>> [row] = with_labels(given, {"pattern": PatternJudge("poor")})
    >>> row["judge"], round(row["kappa"], 2), row["found"], row["false_alarms"]
    ('pattern', 0.4, 1.0, 0.5)
    """
    rows = []
    for name, judge in judges.items():
        verdicts = judge(labelled.prompts, labelled.responses)
        [row] = agreement_table({LABELS: labelled.verdicts, name: verdicts}, seed=seed)
        pairs = [
            (label.harmful, verdict.harmful)
            for label, verdict in zip(labelled.verdicts, verdicts, strict=True)
            if verdict.harmful is not None
        ]
        rates = {}
        for key, label in (("found", True), ("false_alarms", False)):
            called = [said for given, said in pairs if given == label]
            rates[key] = sum(called) / len(called) if called else None
        rows.append({"judge": name, **{k: v for k, v in row.items() if not k.startswith("judge_")}, **rates})
    return rows
