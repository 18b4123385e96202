"""A trait study from calibration to tables and figures, and the files that it writes.

The parts are the probes, the search, the share of tokens for which the gate fires, probes of single tokens against
probes of averages, and dialogues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lens_steer._defaults import ENGINE
from lens_steer._io.atomic import check_writable, whole_file, whole_folder
from lens_steer._io.rowstore import Row
from lens_steer._io.tables import csv_records
from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import saving
from lens_steer.inference.record_tokens import record_tokens
from lens_steer.inference.teacher_forcing import with_responses
from lens_steer.probes.io import save_probe
from lens_steer.probes.probe import Probe
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import grouped_mean
from lens_steer.studies import claim_tables
from lens_steer.studies.traits import dialogues as trait_dialogues
from lens_steer.studies.traits import drawings as drawn
from lens_steer.studies.traits import table as trait_table
from lens_steer.studies.traits.calibration import Trait, calibrate_trait, token_probes
from lens_steer.studies.traits.claims import claims
from lens_steer.studies.traits.conditions import ALIGNED_SIDE, CHOSEN, GATED, MALICIOUS_SIDE, TOKEN, condition_of
from lens_steer.studies.traits.found import TraitReport
from lens_steer.studies.traits.search import RANDOM_DRAWS, plan_of, search

DIALOGUES = 12  # default number of dialogues


def steer_trait(
    model: Any,
    trait: Trait,
    out: str | Path,
    *,
    sites: str | Sequence[str] = "resid_post",
    C: float | int = 1.0,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    n_dialogues: int = DIALOGUES,
    values: Mapping[str, Sequence[float]] | None = None,
    n_random: int = RANDOM_DRAWS,
    seed: int = 0,
    command: str = "",
    progress: bool = True,
) -> TraitReport:
    """Calibrate a trait, search for the best settings, measure them, and write the results.

    The files are ``traits.csv``, ``traits.md``, ``traits.tex``, ``claims.md``, ``claims.tex``, ``dialogues.jsonl``,
    ``traits.json``, the probes and the figures.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        trait: Trait to be recovered.
        out: Output folder. An interrupted run continues from the files that it holds.
        sites, C: Sites of the probes, and inverse strength of their L2 penalty.
        engine, max_new_tokens: See :func:`lens_steer.generate`.
        n_dialogues: Number of dialogues; 0 leaves them out.
        values: Coefficients by method; None uses :data:`lens_steer.evaluation.conditions.TOWARDS_POSITIVE`.
        n_random: Number of random directions of each choice at all tokens.
        seed: Seed of the dialogues, of the random direction and of the intervals.
        command: Command line, stored with the results.
        progress: Show progress bars.

    Raises:
        LensSteerError: If the folder cannot be written or holds another run, if ``n_dialogues`` is negative or
            ``n_random`` below 1, if the context is too short for dialogues or there are too few scenarios for one, or
            for the reasons of :func:`lens_steer.studies.traits.search.search`.
    """
    check_writable(out)
    if n_dialogues < 0 or n_random < 1:
        raise LensSteerError(f"n_dialogues={n_dialogues}, n_random={n_random}: at least 0 and 1 are possible")
    aligned, malicious = trait.contrast.report.positive, trait.contrast.report.negative
    made = (
        trait_dialogues.scripts(model, aligned, malicious, n_dialogues, max_new_tokens=max_new_tokens, seed=seed)
        if n_dialogues
        else []
    )
    how: dict[str, Any] = {"engine": engine, "max_new_tokens": max_new_tokens}
    calibrated = calibrate_trait(model, trait, sites=sites, C=C, progress=progress, **how)
    again: dict[str, Any] = {"seed": seed, "values": values, "progress": progress, **how}
    pooled = search(model, trait, calibrated.probes, out, n_random=n_random, **again)
    gated = list(dict.fromkeys(c.variant for n, c in pooled.choices.items() if condition_of(n).method in GATED))
    by_token = token_probes(model, calibrated, gated, C=C, engine=engine)
    alone: dict[str, Any] = {"name": "traits_token", "methods": GATED, "controls": False}
    token = search(model, trait, by_token, out, **alone, **again)
    gates = {
        (kind, site, side): share
        for kind, probes in (("pooled", {s: calibrated.probes[s] for s in gated}), ("token", by_token))
        for (site, side), share in fire_rates(model, trait, probes, pooled.rows, engine=engine, seed=seed).items()
    }
    plans = {name: plan_of(choice, calibrated.probes) for name, choice in pooled.choices.items()}
    rows = trait_dialogues.talk(model, made, plans, trait.judge, **how) if made else []
    report = TraitReport(calibrated, pooled, token, by_token, gates, tuple(rows))
    more = {"trait": trait.name, "prompt_hashes": trait.contrast.hashes, "judge": trait.judge and trait.judge.name}
    write(report, trait, out, meta=provenance(model, command=command, seed=seed, **more, C=C, **how))
    return report


def fire_rates(
    model: Any, trait: Trait, probes: Mapping[str, Probe], rows: Sequence[Row], *, engine: str = ENGINE, seed: int = 0
) -> dict[tuple[str, str], Estimate]:
    """Measure the share of answer tokens for which the gate of each probe fires.

    The keys are (site, ``aligned`` or ``misaligned``). The gate fires where the projection is below the threshold. The
    tokens are those of the unsteered answers of the report split; the interval resamples prompts. The result is empty
    if a side has only empty answers.
    """
    split = trait.contrast.report
    sides = []
    for prompts, side in ((split.positive, ALIGNED_SIDE), (split.negative, MALICIOUS_SIDE)):
        texts = [str(r["text"]) for r in rows if r["condition"] == NONE and r["side"] == side]
        answered = with_responses(prompts, texts)
        sides.append(PromptSet(tuple(p for p in answered if p.response and p.response.strip()), prompts.name))
    if not all(map(len, sides)):
        return {}
    tokens = record_tokens(model, Contrast(sides[0], sides[1]), list(probes), engine=engine)
    found = {}
    for site, probe in probes.items():
        for name, values, groups in zip(
            ("aligned", "misaligned"), tokens.at(site), (tokens.groups_positive, tokens.groups_negative), strict=True
        ):
            fired = (probe.project(values) < probe.threshold).double().numpy()
            found[site, name] = grouped_mean(fired, groups, seed=seed)
    return found


def write(report: TraitReport, trait: Trait, out: str | Path, *, meta: Mapping[str, Any]) -> None:
    """Write the tables, rows, probes and figures of a report into a folder, whole or not at all.

    If there are dialogues, ``dialogues.jsonl`` is then written as a file of its own.
    """
    rows = trait_table.rows(report, seed=int(meta["seed"]))
    with whole_folder(out) as work:
        (work / "traits.csv").write_text(csv_records(rows), encoding="utf-8", newline="")
        (work / "traits.md").write_text(trait_table.markdown(rows, report, trait.name), encoding="utf-8")
        (work / "traits.tex").write_text(trait_table.latex(rows, trait.name), encoding="utf-8")
        decided = claims(report.pooled, trait.name, seed=int(meta["seed"]))
        (work / "claims.md").write_text(claim_tables.markdown(decided), encoding="utf-8")
        (work / "claims.tex").write_text(claim_tables.latex(decided), encoding="utf-8")
        record = {
            "meta": dict(meta),
            "rows": rows,
            "level": report.pooled.level,
            **({} if (bound := report.pooled.perplexity) is None else {"perplexity_bound": bound.row()}),
            "cosine_of_averaged_and_token_probe": token_cosines(report),
            "claims": [c.row() for c in decided],
            "choices": {
                replace(condition_of(name), kind=kind).name: asdict(choice)
                for kind, result in ((CHOSEN, report.pooled), (TOKEN, report.token))
                for name, choice in result.choices.items()
            },
        }
        (work / "traits.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for site, probe in report.calibrated.probes.items():
            save_probe(probe, work / "probes" / site)
        for name, drawing in drawn.drawings(report, rows).items():
            saving.save(drawing, name, work, dict(meta))
    if report.dialogues:
        with whole_file(Path(out) / "dialogues.jsonl") as work:
            work.write_text(
                "".join(json.dumps(dict(r), ensure_ascii=False) + "\n" for r in report.dialogues), encoding="utf-8"
            )


def token_cosines(report: TraitReport) -> dict[str, float]:
    """Return by site the cosine between the direction fitted on averages and the one fitted on single tokens."""
    return {
        site: float(torch.dot(report.calibrated.probes[site].direction, probe.direction))
        for site, probe in report.token_probes.items()
    }
