"""Methods and controls against each other on models, and the tables of them for a page: what was chosen on select,
measured on report.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lens_steer as ls
from analyses import tables
from analyses.common import Run, parse_models
from lens_steer._io.atomic import whole_file
from lens_steer._io.tables import markdown
from lens_steer.evaluation import cells
from lens_steer.evaluation.conditions import has_angle
from lens_steer.metrics.benchmarks import task_splits
from lens_steer.reports.compare_report import compare_and_write
from lens_steer.stats.estimates import percent
from lens_steer.studies.claim import Claim, marked, measured
from lens_steer.studies.headline import RIVALS, at_choice, headline

DRAWS = 10  # of each control that is drawn
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
    conditions = dict.fromkeys(
        c for model, record in found.items() for c in (*by_model[model], *record.get("left_out", ()))
    )
    rows = [
        (
            f"{c}: {RIVALS[c]}" if c in RIVALS else c,
            *(
                f"none: {r['left_out'][c].split(':')[0]}"
                if c in r.get("left_out", ())
                else _cell(by_model[m].get(c), r["choices"].get(c), r["differences_from_selective"].get(c))
                for m, r in found.items()
            ),
        )
        for c in conditions
    ]
    return markdown(("condition", *found), rows)


def headline_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a rival of Selective Steering, one column a model: the difference of compliance in points."""
    by_model = {model: headline(record) for model, record in found.items()}
    rows = [
        (label, *("—" if c is None else _points(c) for c in claims))
        for rival, label in RIVALS.items()
        if any(claims := [at_choice(by_model[model], rival) for model in found])
    ]
    return markdown(("SS less", *found), rows)


def headline_claims(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a claim, one column a model: what was measured and the verdict."""
    by_id = {model: {c.id: c for c in headline(record)} for model, record in found.items()}
    statements = {key: c.statement for claims in by_id.values() for key, c in claims.items()}
    rows = [(text, *(_verdict(by_id[model].get(key)) for model in found)) for key, text in statements.items()]
    return markdown(("claim", *found), rows)


def _points(claim: Claim) -> str:
    value, (low, high) = float(claim.value or 0.0), claim.interval or (0.0, 0.0)
    return marked(claim, f"{100 * value:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}] ({claim.verdict})")


def _verdict(claim: Claim | None) -> str:
    return "—" if claim is None else f"{measured(claim)}: {marked(claim, claim.verdict)}"


def equal_kl_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a method, one column a model: compliance at the divergence that ``selective`` has at its choice.

    Where it has no choice, there is nothing to match.
    """
    targets = [f"{record['equal_kl']['target']:.2g} nats" for record in found.values()]
    own = [
        _rate(next(s for s in record["report"] if s["condition"] == "selective"), "positive_right")
        if record["equal_kl"]["target"] > 0
        else "none †"
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
    if choice.get("at_nothing"):
        return "nothing †"
    where = f" at {choice['variant'].replace('blocks.', '')}" if choice["variant"] else ""
    at = "" if choice["value"] is None else f"{choice['value']:g}{'°' if has_angle(row['condition']) else ''}{where}: "
    gap = (gaps or {}).get("positive_right")
    sign = "" if gap is None or gap["low"] <= 0 <= gap["high"] else " ▲" if gap["low"] > 0 else " ▼"
    others = " / ".join(percent(row[name]) for name in RATES[1:] if name in row)
    return f"{at}{_rate(row, 'positive_right')}{sign} / {others}" + ("" if choice["met"] else " *")


def _rate(row: Mapping[str, Any], name: str) -> str:
    """A rate with its interval, and by cell where the cells disagree."""
    return percent(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))) + cells.told(cells.read(row, name))


def add_headline(folder: Path) -> None:
    """Write the claims that a comparison decides (``headline.json``) beside its record."""
    record = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    claims = {"claims": [c.row() for c in headline(record)], "meta": record["meta"]}
    with whole_file(folder / "headline.json") as work:
        work.write_text(json.dumps(claims, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
        add_headline(folder)
    tables.write("comparison", table(found), args.out, args.page)
    tables.write("headline", headline_table(found), args.out, args.page)
    tables.write("headline_claims", headline_claims(found), args.out, args.page)
    tables.write("equal_kl", equal_kl_table(found), args.out, args.page)


if __name__ == "__main__":
    main()
