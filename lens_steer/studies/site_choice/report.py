"""The files of the study: numbers, claims, tables and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import markdown
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import saving
from lens_steer.stats.estimates import percent
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim
from lens_steer.studies.site_choice.claims import claims
from lens_steer.studies.site_choice.drawings import drawings
from lens_steer.studies.site_choice.sets import SiteSet
from lens_steer.studies.site_choice.study import SiteChoice, study

HEADS = (
    "sites", "angle", "KL", "harmful answered", "refused", "degenerate", "harmless refused", "tasks right",
    "perplexity",
)  # fmt: skip
RATES = ("positive_answered", "positive_refused", "positive_degenerate", "negative_refused", "capable")


def study_and_write(
    model: Any, contrast: Any, out: str | Path, *, command: str = "", seed: int = 0, **options: Any
) -> tuple[SiteChoice, list[Claim]]:
    """Run :func:`lens_steer.studies.site_choice.study.study` and write all results to a folder.

    The files are ``site_choice.json`` (every number), ``site_choice.md`` (settings and claims), ``claims.tex`` and
    the figures. Beside them are the rows (``curves_select.csv``, ``curves_report.csv``, ``report.csv``) and the
    calibration.

    Args:
        model, contrast, out, seed, options: See :func:`lens_steer.studies.site_choice.study.study`.
        command: The command line, stored with the numbers.

    Returns:
        The results, and the claims.
    """
    found = study(model, contrast, out, seed=seed, **options)
    decided = claims(found, seed=seed)
    meta = provenance(model, command=command, seed=seed, prompt_hashes=contrast.hashes)
    with whole_folder(out) as work:
        record = {
            "meta": meta,
            "budgets": list(found.budgets),
            "budget": found.budget,
            "sets": [_told(found, c.set) for c in found.select],
            "settings": [s.record() for s in found.settings],
            "positive_control": found.published.record(),
            "claims": [c.row() for c in decided],
        }
        (work / "site_choice.json").write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (work / "site_choice.md").write_text(text(found, decided), encoding="utf-8")
        (work / "claims.tex").write_text(claim_tables.latex(decided), encoding="utf-8")
        for name, drawing in drawings(found, seed=seed).items():
            saving.save(drawing, name, work, meta)
    return found, decided


def text(found: SiteChoice, decided: list[Claim]) -> str:
    """Return the page of a study: what was compared, the settings at the budget, and the claims."""
    costs = {(c.set.condition, c.set.variant): found.cost(c.set) for c in found.select}
    rows = []
    for s in found.settings:
        rates = [percent(s.measured[q].value) if q in s.measured else "—" for q in RATES]
        perplexity = f"{s.measured['perplexity_ref'].value:.1f}" if "perplexity_ref" in s.measured else "—"
        cost = costs.get((s.condition, s.variant))
        name = f"{s.condition}, {s.variant}" if s.variant else s.condition
        at = ("" if s.value is None else f"{s.value:g}°", "—" if cost is None else f"{cost:.3f}")
        rows.append((name, *at, *rates, perplexity))
    return (
        f"# Which rule chooses the sites best? `{found.calibration.model}`\n\n"
        "Selective Steering at the sites of each rule, with one direction and one plane. The angle of each set is the "
        "one of the largest fall of the refusal score on *select* among those whose KL along the model's own answers "
        f"to harmless prompts is at most {found.budget:g} nats a token there. KL (nats a token) "
        "and rates (percent) are of *report*; the positive control, directional ablation, keeps to no budget.\n\n"
        f"{markdown(HEADS, rows)}\n"
        "![Effect against side effect](site_frontier.png)\n\n![Answers](site_outcomes.png)\n\n"
        f"## Claims\n\n{claim_tables.markdown(decided)}"
    )


def _told(found: SiteChoice, of: SiteSet) -> dict[str, Any]:
    angles = {f"{budget:g}": found.chosen(of, budget) for budget in found.budgets}
    return {
        "rule": of.rule,
        "draw": of.draw,
        "condition": of.condition,
        "variant": of.variant,
        "sites": list(of.sites),
        "angles": angles,
        "kl_on_report": found.cost(of),
    }
