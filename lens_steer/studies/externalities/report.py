"""The files of a study of side effects: rows, tables, claims, figures, plans, and the page of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer._io.rowstore import Row
from lens_steer._io.tables import csv_records
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import saving
from lens_steer.models.loading import info_of
from lens_steer.steer.plans import save_plan
from lens_steer.studies.claim import Claim
from lens_steer.studies.claim_tables import markdown
from lens_steer.studies.externalities import text, tokens
from lens_steer.studies.externalities.claims import claims
from lens_steer.studies.externalities.depth import random_cosine
from lens_steer.studies.externalities.drawings import drawings
from lens_steer.studies.externalities.found import Externalities
from lens_steer.studies.externalities.material import Material
from lens_steer.studies.externalities.study import study

CLAIMS_NOTE = (
    "Verdicts are at 95 % for each claim by itself; **bold**: it also holds at the level that is joint for all of them "
    "(Bonferroni)."
)


def study_and_write(
    model: Any,
    material: Material,
    out: str | Path,
    *,
    command: str = "",
    seed: int = 0,
    show_answers: bool = False,
    progress: bool = True,
    **options: Any,
) -> tuple[Externalities, list[Claim]]:
    """Run :func:`lens_steer.studies.externalities.study.study` and write all results to a folder.

    The files are ``externalities.md`` (tables), ``claims.md``, ``qualitative.md``, ``externalities.json`` (every
    number), ``kl_tokens.csv`` (one row per token), ``kl_by_position.csv``, ``plans/compliance`` and ``plans/json``, and
    the figures. Beside them are the rows of every answer (``unsteered.csv``, ``compliance_select.csv``,
    ``json_select.csv``, ``json_select_harm.csv``, ``control_select.csv``, ``control_select_strength.csv``,
    ``report.csv``, ``report_json.csv``, ``prefixes.csv``, ``draws.csv``) and ``matches.csv``.

    Args:
        model, material, out, seed, progress, options: See :func:`lens_steer.studies.externalities.study.study`.
        command: Command line, stored with the numbers.
        show_answers: Show harmful prompts and the answers to them on the page of answers even where no ground truth
            grades them. If False, hashes take their place there.

    Returns:
        The result of the study, and its claims.
    """
    found = study(model, material, out, seed=seed, progress=progress, **options)
    name = info_of(model).name
    made = claims(found, name)
    meta = provenance(model, command=command, seed=seed, prompt_hashes=material.hashes)
    with whole_folder(out) as work:
        for filename, content in (
            ("externalities.md", f"# Side effects of benign steering: {name}\n\n{text.markdown(found)}"),
            ("claims.md", f"{markdown(made)}\n{CLAIMS_NOTE}\n"),
            ("qualitative.md", text.qualitative(found, model, material.refusal.report, show_answers=show_answers)),
            (
                "externalities.json",
                json.dumps({"meta": meta, **record(found, made)}, indent=1, ensure_ascii=False) + "\n",
            ),
            ("kl_tokens.csv", csv_records(_by_token(found))),
            ("kl_by_position.csv", csv_records(tokens.by_position(found.divergences, seed=seed))),
        ):
            (work / filename).write_text(content, encoding="utf-8")
        for figure, drawing in drawings(found).items():
            saving.save(drawing, figure, work, meta)
        for s in found.steerings:
            save_plan(s.plan(), work / "plans" / s.name)
    return found, made


def record(found: Externalities, made: Sequence[Claim]) -> dict[str, Any]:
    """Return everything but the rows as plain values."""
    compliance, chosen = found.calibrations.compliance, {s.name: s for s in found.steerings}
    return {
        "known": found.known,
        **({} if found.bound is None else {"bound": found.bound.row()}),
        "choices": {
            name: asdict(s.choice) | {"strength": s.strength, "sites": list(s.sites)} for name, s in chosen.items()
        },
        "control": asdict(found.control.choice),
        "alpha_relative": compliance.relative(chosen["compliance"].strength),
        "alpha_relative_last_prompt_token": text.last_token_shares(found),
        "compliance": {
            "method": compliance.method,
            "n_pairs": compliance.n_pairs,
            "explained": compliance.explained.tolist(),
            "agreement": compliance.agreement.tolist(),
            "mean_token_length": compliance.lengths.tolist(),
            "difference_of_means": compliance.difference.tolist(),
        },
        "json": {
            "n_pairs": found.calibrations.json.n_pairs,
            "target": found.calibrations.json.target.tolist(),
            "without_request": found.calibrations.json.without.tolist(),
            "mean_last_token_length": found.calibrations.json.lengths.tolist(),
        },
        "select": [
            {
                "steering": name,
                "condition": s.condition,
                "site": s.variant,
                "value": s.value,
                **{k: asdict(e) for k, e in s.measured.items()},
            }
            for name, settings in found.select.items()
            for s in settings
        ],
        "equal_kl": {
            name: {
                "target": target,
                "angle": None if m.grid is None else m.grid.values[0],
                "kl": m.kl,
                "reason": m.reason,
            }
            for name, (target, m) in found.matches.items()
        },
        "conditions": [
            {
                "condition": c.name,
                "steering": c.steering,
                "kind": c.kind,
                "k": c.k,
                "reason": c.reason,
                "positions": None if c.plan is None else c.plan.positions,
                **{k: asdict(e) for k, e in found.measured(c.name).items()},
                **_less_none(found, c.name if c.runs else NONE),
            }
            for c in (*found.conditions, *found.draws, *found.prefixes)
        ],
        "responses": {
            name: {"n": len(prompts), "hash": prompts.hash, "said": found.said(name)}
            for name, prompts in found.responses.items()
        },
        "divergence": tokens.summary(found.divergences, seed=found.seed),
        "angles": [asdict(a) for a in found.angles],
        "random_cosine": random_cosine(compliance.directions.shape[1], seed=found.seed),
        "projections": [asdict(p) for p in found.projections],
        "claims": [c.row() for c in made],
    }


def _less_none(found: Externalities, condition: str) -> dict[str, Any]:
    """Return the paired differences against no steering, for every quantity that both conditions have."""
    if condition == NONE:
        return {}
    return {
        f"{quantity}_less_none": asdict(found.difference(condition, NONE, quantity))
        for quantity in found.measured(condition)
        if quantity in found.measured(NONE)
    }


def _by_token(found: Externalities) -> list[Row]:
    return [
        {"condition": condition, "responses": name, **row}
        for (condition, name), one in found.divergences.items()
        for row in one.rows()
    ]
