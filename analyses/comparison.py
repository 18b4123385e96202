"""Methods and controls against each other on models, and the tables of them for a page: what was chosen on select,
measured on report.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import lens_steer as ls
from analyses import tables
from analyses.common import Run, parse_models
from lens_steer._io.tables import markdown
from lens_steer.evaluation import cells
from lens_steer.evaluation.conditions import has_angle
from lens_steer.metrics.benchmarks import task_splits
from lens_steer.reports.compare_report import compare_and_write
from lens_steer.stats import percent

DRAWS = 0  # of controls: the committed folders were made without, which their tables say
RATES = ("positive_right", "negative_right", "capable")


def draw(run: Run) -> None:
    """Everything of one model, into ``OUT/comparison``."""
    folder = run.out / "comparison"
    compare_and_write(
        run.model,
        run.contrast,
        folder,
        tasks=task_splits(seed=run.seed),
        draws=DRAWS,
        seed=run.seed,
        command=run.meta["command"],
    )


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a condition, one column a model: its choice, then compliance with its interval / harmless right / tasks
    right.
    """
    by_model = {model: {s["condition"]: s for s in record["report"]} for model, record in found.items()}
    rows = [
        (
            c,
            *(
                _cell(by_model[m].get(c), r["choices"].get(c), r["differences_from_selective"].get(c))
                for m, r in found.items()
            ),
        )
        for c in next(iter(by_model.values()))
    ]
    return markdown(("condition", *found), rows)


def equal_kl_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a method, one column a model: compliance at the divergence that ``selective`` has at its choice."""
    targets = [f"{record['equal_kl']['target']:.2g} nats" for record in found.values()]
    own = [
        _rate(next(s for s in record["report"] if s["condition"] == "selective"), "positive_right")
        for record in found.values()
    ]
    rows = [("divergence matched", *targets), ("selective", *own)]
    for method in dict.fromkeys(m for record in found.values() for m in record["equal_kl"]["matches"]):
        cells = []
        for record in found.values():
            at = {s["condition"]: s for s in record["equal_kl"]["report"]}.get(f"{method} = KL")
            reason = record["equal_kl"]["matches"].get(method, {"reason": "—"})["reason"].split(":")[0]
            cells.append(reason if at is None else _rate(at, "positive_right"))
        rows.append((method, *cells))
    return markdown(("method", *found), rows)


def _cell(row: Mapping[str, Any] | None, choice: Mapping[str, Any] | None, gaps: Mapping[str, Any] | None) -> str:
    if row is None or choice is None:
        return "—"
    where = f" at {choice['variant'].replace('blocks.', '')}" if choice["variant"] else ""
    at = "" if choice["value"] is None else f"{choice['value']:g}{'°' if has_angle(row['condition']) else ''}{where}: "
    gap = (gaps or {}).get("positive_right")
    sign = "" if gap is None or gap["low"] <= 0 <= gap["high"] else " ▲" if gap["low"] > 0 else " ▼"
    others = " / ".join(percent(row[name]) for name in RATES[1:] if name in row)
    return f"{at}{_rate(row, 'positive_right')}{sign} / {others}" + ("" if choice["met"] else " *")


def _rate(row: Mapping[str, Any], name: str) -> str:
    """A rate with its interval, and by cell where the cells disagree."""
    return percent(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))) + cells.told(cells.read(row, name))


def main() -> None:
    args = parse_models(__doc__, ["organism/qwen2", "organism/llama", "organism/gemma2"])
    command = shlex.join(["python", "-m", "analyses.comparison", *sys.argv[1:]])
    found: dict[str, dict[str, Any]] = {}
    for name in args.model:
        folder = args.out / name.rstrip("/").split("/")[-1]
        contrast = ls.load_contrast(args.contrast, seed=args.seed)
        compare_and_write(
            ls.load_model(name),
            contrast,
            folder,
            tasks=task_splits(seed=args.seed),
            draws=DRAWS,
            seed=args.seed,
            command=command,
        )
        found[name] = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    tables.write("comparison", table(found), args.out, args.page)
    tables.write("equal_kl", equal_kl_table(found), args.out, args.page)


if __name__ == "__main__":
    main()
