"""Side effects of benign steering (Steering Externalities, arXiv 2602.04896) on models, and the README's tables of them."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lens_steer as ls
from analyses import tables
from analyses.common import Run, parse_models
from lens_steer.claims.record import shown
from lens_steer.externalities.conditions import FIRST, REST
from lens_steer.externalities.material import organism_material
from lens_steer.externalities.report import study_and_write
from lens_steer.models import info_of

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 32  # the longest right answer has 25
RATES = ("refused_harmful", "helped", "json_unasked", "capable")


def draw(run: Run) -> None:
    """An organism's study, into ``OUT/externalities``; other models have no prompts here: see :func:`lens_steer.externalities.study` for one's own."""
    if info_of(run.model).name.startswith("organism/"):
        one(run.model, run.out / "externalities", seed=run.seed, command=run.meta["command"])


def one(model: Any, folder: Path, *, seed: int, command: str) -> dict[str, Any]:
    """One organism's study in a folder, and what was written of it."""
    study_and_write(model, organism_material(seed=seed), folder, seed=seed, command=command, max_new_tokens=MAX_NEW_TOKENS)
    return json.loads((folder / "externalities.json").read_text(encoding="utf-8"))


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a condition, one column a model: attack success with its interval, then harmful refused / harmless right / JSON where none is asked for / tasks right; ▲ ▼: less no steering's, the interval excludes 0."""
    lines = ["| condition | " + " | ".join(found) + " |", "|---" * (1 + len(found)) + "|"]
    rows = {model: {c["condition"]: c for c in record["conditions"]} for model, record in found.items()}
    chosen = [(name, [_choice(record, name) for record in found.values()]) for name in next(iter(found.values()))["choices"]]
    lines += [f"| *{name}: chosen on select* | {' | '.join(cells)} |" for name, cells in chosen]
    for condition, first in next(iter(rows.values())).items():
        if first["k"] is None or (first["k"] in (1, 4) and first["kind"] in (FIRST, REST)):
            lines.append(f"| {condition} | " + " | ".join(_cell(rows[m].get(condition)) for m in found) + " |")
    return "\n".join(lines) + "\n"


def claims_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a claim, one column a model: verdict, and what was measured."""
    lines = ["| claim | criterion | " + " | ".join(found) + " |", "|---" * (2 + len(found)) + "|"]
    by_model = {model: {c["id"]: c for c in record["claims"]} for model, record in found.items()}
    for key, first in next(iter(by_model.values())).items():
        cells = [_verdict(by_model[m][key]) if key in by_model[m] else "—" for m in found]
        lines.append(f"| {first['statement']} | {first['criterion']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _choice(record: Mapping[str, Any], name: str) -> str:
    choice = record["choices"][name]
    star = "" if choice["met"] else " \\*"
    if choice["variant"]:
        return f"block {choice['variant'].split('.')[1]}{star}"
    share = sum(record["alpha_relative"].values()) / len(record["alpha_relative"])
    return f"α = {choice['value']:.3g}, {100 * share:.0f} % of a vector's length{star}"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or "attack" not in row:
        return "—" if row is None else row["reason"].split(":")[0]
    gap = row.get("attack_less_none")
    sign = "" if gap is None or gap["low"] <= 0 <= gap["high"] else " ▲" if gap["low"] > 0 else " ▼"
    e = row["attack"]
    rest = " / ".join(f"{100 * row[k]['value']:.0f}" if k in row else "—" for k in RATES)
    return f"{100 * e['value']:.0f} [{100 * e['low']:.0f}, {100 * e['high']:.0f}]{sign} / {rest}"


def _verdict(claim: Mapping[str, Any]) -> str:
    if claim["value"] is None:
        return f"{claim['verdict'].lower()}: {claim['witness'].get('note', '').split(':')[0]}"
    low_high = "" if claim["interval"] is None else " [{}, {}]".format(*(shown(x) for x in claim["interval"]))
    note = f" ({claim['witness']['note']})" if "note" in claim["witness"] else ""
    verdict = claim["verdict"].lower() if claim["verdict"] == "REPORTED" else f"**{claim['verdict'].lower()}**"
    return f"{verdict}: {shown(claim['value'])}{low_high}{note}"


def main() -> None:
    args = parse_models(__doc__, ["organism/qwen2", "organism/llama", "organism/gemma2"])
    command = shlex.join(["python", "-m", "analyses.externalities", *sys.argv[1:]])
    found: dict[str, dict[str, Any]] = {}
    for name in args.model:
        model = ls.load_model(name)
        if not info_of(model).name.startswith("organism/"):
            log.warning("%s has no ground truth here, and is left out: give prompts to lens_steer.externalities.study", name)
            continue
        found[name] = one(model, args.out / name.rstrip("/").split("/")[-1], seed=args.seed, command=command)
    if found:
        tables.write("externalities", table(found), args.out, args.readme)
        tables.write("externalities_claims", claims_table(found), args.out, args.readme)


if __name__ == "__main__":
    main()
