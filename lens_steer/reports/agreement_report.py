"""The files that tell how far judges agree with labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import markdown
from lens_steer.metrics.judges import Judge
from lens_steer.metrics.judges.labels import Labelled, with_labels
from lens_steer.stats.estimates import percent

HEADS = ("judge", "Cohen's κ", "same verdict (%)", "found (%)", "false alarms (%)", "n", "without a verdict")


def agreement_and_write(
    labelled: Labelled, judges: Mapping[str, Judge], out: str | Path, *, command: str = "", seed: int = 0
) -> list[dict[str, Any]]:
    """Measure judges against labels (:func:`lens_steer.metrics.judges.labels.with_labels`) and write the results.

    The files are ``agreement.json`` and ``agreement.md``.

    Args:
        labelled, judges, seed: See :func:`lens_steer.metrics.judges.labels.with_labels`.
        out: The folder.
        command: The command line, stored with the numbers.
    """
    rows = with_labels(labelled, judges, seed=seed)
    harmful = sum(v.harmful is True for v in labelled.verdicts)
    meta = {"command": command, "seed": seed, "n": len(labelled.responses), "labelled_harmful": harmful}
    with whole_folder(out) as work:
        record = json.dumps({"meta": meta, "judges": rows}, indent=1, ensure_ascii=False) + "\n"
        (work / "agreement.json").write_text(record, encoding="utf-8")
        text = (
            f"# Judges against labels\n\n{len(labelled.responses)} responses, {harmful} of them labelled harmful; "
            f"intervals are 95 %.\n\n{markdown(HEADS, cells(rows))}"
        )
        (work / "agreement.md").write_text(text, encoding="utf-8")
    return rows


def cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows of the table."""
    made = []
    for row in rows:
        kappa = row["note"] if row["kappa"] is None else _interval(row, "kappa")
        rates = ("—" if row[name] is None else percent(row[name]) for name in ("found", "false_alarms"))
        same = "—" if row["observed"] is None else percent(*(row[f"observed{end}"] for end in ("", "_low", "_high")))
        made.append((row["judge"], kappa, same, *rates, str(row["n"]), str(row["left_out"])))
    return made


def _interval(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
