"""The table of a trait study, one row per condition: as values, as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lens_steer._io import tables
from lens_steer._io.rowstore import Row
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.protocol import differences
from lens_steer.stats.estimates import Estimate, columns, percent
from lens_steer.stats.means import bootstrap_mean
from lens_steer.studies.traits.conditions import (
    ALIGNED_INCOHERENT,
    ALIGNED_SIDE,
    ALIGNED_TRAIT,
    CHOSEN,
    EQUAL,
    GATED,
    INCOHERENT,
    RANDOM,
    TOKEN,
    TRAIT,
    condition_of,
)
from lens_steer.studies.traits.dialogues import ALIGNED, MALICIOUS, over_dialogues
from lens_steer.studies.traits.found import TraitReport
from lens_steer.studies.traits.search import TraitResult

ESTIMATES = (
    "trait", "trait_over_unsteered", "trait_over_random", "aligned_trait", "harm_to_aligned", "coherence", "capability",
    "perplexity", "gate_aligned", "gate_misaligned", "dialogue_trait", "dialogue_coherence", "dialogue_repeated",
    "dialogue_ngram_repetition",
)  # fmt: skip
GATES, DIALOGUES = ("gate_aligned", "gate_misaligned"), ("dialogue_trait", "dialogue_repeated")


def rows(report: TraitReport, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row of values per condition.

    The conditions are the two baselines and, for each method and position mode, the choice, the choice along a random
    direction, the choice at equal trait, and the choice calibrated on single tokens.

    ``trait`` is the share of answers with the trait under the malicious system prompt. ``aligned_trait`` is the same
    share under the aligned prompt, steered too. ``harm_to_aligned`` is the loss of that share against no steering.
    ``perplexity`` is that of the answers under the unsteered model with the aligned prompt. ``gate_…`` is the share of
    the tokens of the unsteered answers for which the gate fires.
    """
    pooled = report.pooled
    found = _baselines(pooled, seed)
    for kind, result, choices in (
        (CHOSEN, pooled, pooled.choices),
        (RANDOM, pooled, pooled.choices),
        (EQUAL, pooled, pooled.equal),
        (TOKEN, report.token, report.token.choices),
    ):
        for name, choice in choices.items():
            c = replace(condition_of(name), kind=kind)
            measured = _measured(result, name if kind == TOKEN else c.name, seed)
            if kind == CHOSEN:
                beside = replace(c, kind=RANDOM).name
                measured["trait_over_random"] = differences(result.rows, name, beside, seed=seed)[TRAIT]
                measured |= over_dialogues(report.dialogues, name, seed=seed) if report.dialogues else {}
            if c.method in GATED:
                calibrated = "token" if kind == TOKEN else "pooled"
                for side in ("aligned", "misaligned"):
                    gate = report.gates.get((calibrated, choice.variant, side))
                    measured |= {} if gate is None else {f"gate_{side}": gate}
            row = {"condition": c.name, "kind": kind, "method": c.method, "positions": c.mode, "site": choice.variant}
            row |= {"coefficient": choice.value, "met": choice.met, "n_equal": choice.n_equal}
            found.append(row | _plain(measured))
    for row, name in zip(found, (ALIGNED, MALICIOUS), strict=False):
        if report.dialogues:
            row |= _plain(over_dialogues(report.dialogues, name, seed=seed), only_given=True)
    return found


def markdown(table: Sequence[Mapping[str, Any]], report: TraitReport, trait: str) -> str:
    """Return the table as Markdown with its legend and a sentence about equal trait."""
    heads = [
        "condition",
        "at",
        f"{trait}, %",
        "aligned prompt, %",
        "coherence, %",
        "capability, %",
        "perplexity",
        "gate fires: aligned / misaligned, %",
        "dialogues: trait / repeated, %",
    ]
    cells = []
    for row in table:
        at = "—" if row["coefficient"] is None else f"{row['coefficient']:g} at {row['site'].removeprefix('blocks.')}"
        gates, talk = (" / ".join(percent(row.get(k)) for k in pair) for pair in (GATES, DIALOGUES))
        cells.append(
            (
                row["condition"],
                at + ("" if row["met"] in (True, None) else " \\*"),
                _interval(row, "trait"),
                _interval(row, "aligned_trait"),
                percent(row.get("coherence")),
                percent(row.get("capability")),
                _number(row, "perplexity"),
                gates,
                talk,
            )
        )
    return f"{tables.markdown(heads, cells)}\n{_legend(report, trait)}\n\n{_equal_text(report.pooled.level)}\n"


def latex(table: Sequence[Mapping[str, Any]], trait: str) -> str:
    """Return the table in the form of the paper, method × position mode; the document needs the package booktabs."""
    at = {(r["method"], r["positions"]): r for r in table if r["kind"] == CHOSEN}
    names = {"swfc": "SwFC", "sttp": "StTP", "stmp": "StMP"}
    rows = [[r["condition"], "", "", _interval(r, "trait"), ""] for r in table[:2]]
    for method in dict.fromkeys(m for m, _ in at):
        both = [at.get((method, mode)) for mode in ("all", "response")]
        sites = " / ".join("--" if r is None else r["site"].removeprefix("blocks.").split(".")[0] for r in both)
        alphas = " / ".join("--" if r is None else f"{r['coefficient']:g}" for r in both)
        rows.append([names[method], sites, alphas, *("--" if r is None else _interval(r, "trait") for r in both)])
    return tables.tabular("lllrr", (trait, "site", r"$\alpha$", "all", "response"), rows, gap="\n")


def _baselines(result: TraitResult, seed: int) -> list[dict[str, Any]]:
    """Return the rows of no steering under each of the two system prompts."""
    base = result.reported(NONE).measured
    aligned = {
        "trait": base[ALIGNED_TRAIT],
        "aligned_trait": base[ALIGNED_TRAIT],
        "coherence": _complement(base[ALIGNED_INCOHERENT]),
        "capability": base.get("capable"),
        "perplexity": _perplexity(result.rows, seed),
    }
    malicious = _measured(result, NONE, seed)
    del malicious["trait_over_unsteered"], malicious["harm_to_aligned"]
    empty = {"kind": NONE, **dict.fromkeys(("method", "positions", "site", "coefficient", "met", "n_equal"))}
    return [
        {"condition": name, **empty, **_plain(measured)}
        for name, measured in ((ALIGNED, aligned), (MALICIOUS, malicious))
    ]


def _measured(result: TraitResult, condition: str, seed: int) -> dict[str, Estimate | None]:
    measured = result.reported(condition).measured
    gained = differences(result.rows, condition, NONE, seed=seed)
    lost = gained[ALIGNED_TRAIT]
    return {
        "trait": measured[TRAIT],
        "trait_over_unsteered": gained[TRAIT],
        "aligned_trait": measured[ALIGNED_TRAIT],
        "harm_to_aligned": Estimate(-lost.value, -lost.high, -lost.low, lost.n),
        "coherence": _complement(measured[INCOHERENT]),
        "capability": measured.get("capable"),
        "perplexity": measured.get("perplexity_ref"),
    }


def _plain(measured: Mapping[str, Estimate | None], *, only_given: bool = False) -> dict[str, float | None]:
    """Return ``name``, ``name_low`` and ``name_high`` for every column.

    A column without an estimate is None, or is left out with ``only_given``.
    """
    found: dict[str, float | None] = {}
    for name in ESTIMATES:
        e = measured.get(name)
        if e is not None or not only_given:
            found |= columns(name, e)
    return found


def _complement(e: Estimate) -> Estimate:
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.n)


def _perplexity(all_rows: Sequence[Row], seed: int) -> Estimate | None:
    """Return the mean perplexity of the unsteered answers to the aligned prompts; None if all of them are empty."""
    own = [r["surprise_ref"] for r in all_rows if (r["condition"], r["side"]) == (NONE, ALIGNED_SIDE)]
    known = np.array([surprise for surprise in own if surprise is not None], dtype=np.float64)
    return bootstrap_mean(np.exp(known), seed=seed) if len(known) else None


def _legend(report: TraitReport, trait: str) -> str:
    split = report.pooled.reported(NONE).measured
    tokens = f", n = {split['capable'].n}" if "capable" in split else ""
    bound = report.pooled.perplexity
    incoherent = "" if bound is None else f"; incoherent: empty, repeating, or a perplexity above {bound}"
    return (
        f"95 % intervals; n = {split[TRAIT].n} scenarios of the report split under each prompt, "
        f"capability{tokens}. {trait}: share of answers with the trait under the malicious system prompt (without "
        "steering under the aligned one: first row); aligned prompt: the same while steered under the aligned "
        "prompt. Site and coefficient chosen on the select split, coherence at least 90 % of the aligned model's "
        f"there (\\*: no setting keeps to it{incoherent}). Random direction: steps of the same size for the same "
        "tokens. Perplexity: of the answers, under the unsteered model with the aligned prompt. Gate: share of the "
        "tokens of unsteered answers below the threshold. Dialogues: 5 to 10 turns; repeated: answers from the second "
        "turn on that are word for word an earlier one."
    )


def _equal_text(level: float | None) -> str:
    if level is None:
        return "No setting recovers anything on the select split, so there is no equal trait to compare at."
    return (
        f"Equal trait: of the settings that recover at least {percent(level)} % on the select split, the one that "
        "harms aligned answers least."
    )


def _interval(row: Mapping[str, Any], name: str) -> str:
    return percent(*(row.get(f"{name}{end}") for end in ("", "_low", "_high")))


def _number(row: Mapping[str, Any], name: str) -> str:
    return "—" if row.get(name) is None else f"{row[name]:.3g}"
