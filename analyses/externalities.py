"""Side effects of benign steering (Steering Externalities, arXiv 2602.04896) on organisms, and the tables of them for a
page.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import lens_steer as ls
from analyses import tables
from analyses.common import Run, parse_models
from lens_steer._io.tables import markdown
from lens_steer.data import ORGANISM_PREFIX
from lens_steer.models.loading import info_of
from lens_steer.stats.estimates import percent
from lens_steer.studies.claim import Claim, criterion_of, marked, measured
from lens_steer.studies.externalities.conditions import FIRST, REST
from lens_steer.studies.externalities.material import Material, organism_material
from lens_steer.studies.externalities.report import study_and_write

MAX_NEW_TOKENS = 32  # the longest right answer has 25
RATES = ("positive_refused", "negative_right", "json_unasked", "capable")
UNGRADED = (
    "positive_refused",
    "positive_degenerate",
    "negative_right",
    "negative_degenerate",
    "json_unasked",
    "capable",
)
DECIDING = (
    "attack-control", "purpose-compliance", "purpose-json", "attack-compliance", "refusal-compliance",
    "attack-over-random-compliance", "attack-json", "refusal-json", "attack-over-random-json",
    "against-refusal-compliance", "against-refusal-json", "prefix-first-control", "prefix-rest-control",
    "kl-harmful-compliance", "kl-harmful-json", "kl-harmful-control", "kl-start-harmful-compliance",
    "kl-start-harmful-random-compliance", "kl-start-harmful-json", "kl-start-harmful-random-json",
    "kl-flat-harmful-compliance", "kl-flat-harmful-json", "crossing-compliance", "crossing-json",
)  # fmt: skip


def draw(run: Run) -> None:
    """An organism's study, into ``OUT/externalities``; other models need prompt files
    (``lens-steer externalities``).
    """
    if info_of(run.model).name.startswith(ORGANISM_PREFIX):
        one(
            run.model,
            organism_material(seed=run.seed),
            run.out / "externalities",
            seed=run.seed,
            command=run.meta["command"],
        )


def one(model: Any, material: Material, folder: Path, *, seed: int, command: str) -> dict[str, Any]:
    """One model's study in a folder, and what was written of it."""
    study_and_write(model, material, folder, seed=seed, command=command, max_new_tokens=MAX_NEW_TOKENS)
    return json.loads((folder / "externalities.json").read_text(encoding="utf-8"))


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a condition, one column a model: attack success with its interval, then the shares of :data:`RATES` (of
    :data:`UNGRADED` without a ground truth); ▲ ▼: less no steering's, the interval excludes 0.
    """
    by_model = {model: {c["condition"]: c for c in record["conditions"]} for model, record in found.items()}
    steerings = next(iter(found.values()))["choices"]
    rows = [(f"*{s}: chosen on select*", *(_choice(record, s) for record in found.values())) for s in steerings]
    for condition, first in next(iter(by_model.values())).items():
        if first["k"] is None or (first["k"] in (1, 4) and first["kind"] in (FIRST, REST)):
            rows.append((condition, *(_cell(by_model[m].get(condition), found[m]["known"]) for m in found)))
    return markdown(("condition", *found), rows)


def claims_table(found: Mapping[str, Mapping[str, Any]], only: Collection[str] | None = None) -> str:
    """One row a claim (all, or those whose ids are given), one column a model: verdict, and what was measured."""
    rows = []
    by_model = {model: {c["id"]: Claim.of(c) for c in record["claims"]} for model, record in found.items()}
    for key, first in next(iter(by_model.values())).items():
        if only is not None and key not in only:
            continue
        cells = (_verdict(by_model[m][key]) if key in by_model[m] else "—" for m in found)
        rows.append((first.statement, criterion_of(key, first.criterion), *cells))
    return markdown(("claim", "criterion", *found), rows)


def _choice(record: Mapping[str, Any], name: str) -> str:
    choice = record["choices"][name]
    star = "" if choice["met"] else " \\*"
    if choice["variant"]:
        return f"block {choice['variant'].split('.')[1]}{star}"
    share = sum(record["alpha_relative"].values()) / len(record["alpha_relative"])
    return f"α = {choice['value']:.3g}, {percent(share)} % of a vector's length{star}"


def _cell(row: Mapping[str, Any] | None, known: bool) -> str:
    if row is None or "attack" not in row:
        return "—" if row is None else row["reason"].split(":")[0]
    gap = row.get("attack_less_none")
    sign = "" if gap is None or gap["low"] <= 0 <= gap["high"] else " ▲" if gap["low"] > 0 else " ▼"
    e = row["attack"]
    rest = " / ".join(percent(row[k]["value"]) if k in row else "—" for k in (RATES if known else UNGRADED))
    return f"{percent(e['value'], e['low'], e['high'])}{sign} / {rest}"


def _verdict(claim: Claim) -> str:
    if claim.value is None:
        return f"{claim.verdict.lower()}: {claim.witness.get('note', '').split(':')[0]}"
    beside = claim.witness.get("excludes", ())
    excluded = f"; excludes the paper's {', '.join(beside)}" if beside else ""
    note = f" ({claim.witness['note']})" if "note" in claim.witness else ""
    return f"{marked(claim, claim.verdict.lower())}: {measured(claim)}{excluded}{note}"


def main() -> None:
    args = parse_models(__doc__, ["organism/qwen2", "organism/llama", "organism/gemma2"])
    command = shlex.join(["python", "-m", "analyses.externalities", *sys.argv[1:]])
    if others := [name for name in args.model if not name.startswith(ORGANISM_PREFIX)]:
        sys.exit(f"--model {others[0]} is no organism: use lens-steer externalities --positive FILE --negative FILE")
    found: dict[str, dict[str, Any]] = {}
    for name in args.model:
        folder, material = args.out / name.rstrip("/").split("/")[-1], organism_material(seed=args.seed)
        found[name] = one(ls.load_model(name), material, folder, seed=args.seed, command=command)
    tables.write("externalities", table(found), args.out, args.page)
    tables.write("externalities_verdicts", claims_table(found, DECIDING), args.out, args.page)
    tables.write("externalities_claims", claims_table(found), args.out)


if __name__ == "__main__":
    main()
