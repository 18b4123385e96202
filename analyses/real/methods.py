"""The tables of answers on real models: at the sites of each rule, by method, under benign steering, and of traits."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from analyses import comparison, externalities
from analyses import traits as trait_tables
from analyses.real.records import NOT_RUN, Published, columns
from lens_steer._io.tables import markdown
from lens_steer.evaluation.conditions import has_angle
from lens_steer.stats.estimates import Estimate, percent, points
from lens_steer.studies.headline import RIVALS
from lens_steer.studies.site_choice.report import HEADS
from lens_steer.studies.site_choice.report import RATES as AT_ONE_BUDGET

RATES = {
    f"{side}_{column}": f"{name}: {word}"
    for side, name in (("positive", "harmful"), ("negative", "harmless"))
    for column, word in (("right", "answered"), ("refused", "refused"), ("degenerate", "degenerate"))
} | {"capable": "tasks right"}


def answers(found: Sequence[Published]) -> str:
    """A table a model: what each set of sites does under the one budget, on the report split."""
    records = columns(found, lambda p: p.record("site_choice", "site_choice"))
    return "\n".join(_answers(head, record) for head, record in records) or NOT_RUN


def _answers(head: str, record: Mapping[str, Any]) -> str:
    costs = {(s["condition"], s["variant"]): s["kl_on_report"] for s in record["sets"]}
    rows = []
    for s in (s for s in record["settings"] if not s["variant"]):
        angle = "" if s["value"] is None else f"{s['value']:g}°"
        cost = costs.get((s["condition"], ""))
        perplexity = f"{s['perplexity_ref']:.1f}" if s.get("perplexity_ref") is not None else "—"
        rates = [_rate(s, q) for q in AT_ONE_BUDGET]
        rows.append((s["condition"], angle, "—" if cost is None else f"{cost:.3f}", *rates, perplexity))
    drawn = [s for s in record["settings"] if s["variant"]]
    if drawn:
        spent = [costs[s["condition"], s["variant"]] for s in drawn]
        over = [(_over([s[q] for s in drawn], 100)) for q in AT_ONE_BUDGET]
        angles_ = _over([s["value"] for s in drawn])
        name = f"{drawn[0]['condition']}, {len(drawn)} draws: mean (lowest to highest)"
        known = [s["perplexity_ref"] for s in drawn if s.get("perplexity_ref") is not None]
        perplexity = _over(known, form=".1f") if known else "—"
        rows.append((name, f"{angles_}°", _over(spent, form=".3f"), *over, perplexity))
    n = record["settings"][0].get("positive_answered_n")
    return f"*{head}, {n} prompts of a class*\n\n{markdown(HEADS, rows)}"


def _over(values: Sequence[float], scale: float = 1, form: str = ".0f") -> str:
    """Return the mean of some values, and the lowest and the highest.

    >>> _over([0.5, 1.0], 100)
    '75 (50 to 100)'
    """
    mean, low, high = (f"{scale * x:{form}}" for x in (sum(values) / len(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def methods(found: Sequence[Published]) -> str:
    """A table a model with a row a condition, at its choice on select; then one with a row a method, at equal KL."""
    by_model = columns(found, compared)
    if not by_model:
        return NOT_RUN
    parts = [f"*{head}, {_n(record)} prompts of a class*\n\n{_chosen(record, kl)}\n" for head, (record, kl) in by_model]
    matched = comparison.equal_kl_table({head: record for head, (record, _) in by_model})
    return f"{''.join(parts)}*Answers to harmful prompts (%), each method at the divergence of SS*\n\n{matched}"


def compared(p: Published) -> tuple[dict[str, Any], dict[tuple[str, str, float], float]] | None:
    """Return the record of a model's comparison of all methods, or else that of the headline alone, with the KL of each
    condition at each of its values.
    """
    for study in ("comparison", "headline"):
        record, path = p.record(study, "comparison"), p.folder / study / "kl.csv"
        if record is not None:
            with path.open(newline="", encoding="utf-8") as file:
                kl = {(r["condition"], r["variant"], float(r["value"])): float(r["kl"]) for r in csv.DictReader(file)}
            return record, kl
    return None


def _n(record: Mapping[str, Any]) -> int:
    return record["report"][0]["positive_right_n"]


def side_effects(found: Sequence[Published]) -> str:
    """One row a condition, one column a model: what each benign steering and each control does to harmful requests."""
    by_model = _benign(found)
    return externalities.table(by_model) if by_model else NOT_RUN


def side_effect_claims(found: Sequence[Published]) -> str:
    """One row a claim that decides, one column a model."""
    by_model = _benign(found)
    return externalities.claims_table(by_model, externalities.DECIDING) if by_model else NOT_RUN


def traits(found: Sequence[Published]) -> str:
    """One row a condition, one column a model: how much of the trait comes back, and what it costs."""
    by_model = dict(columns(found, lambda p: (p.record("traits", "traits") or {"rows": ()})["rows"]))
    return trait_tables.table(by_model) if by_model else NOT_RUN


def _benign(found: Sequence[Published]) -> dict[str, dict[str, Any]]:
    return dict(columns(found, lambda p: p.record("externalities", "externalities")))


def _chosen(record: Mapping[str, Any], kl: Mapping[tuple[str, str, float], float]) -> str:
    """One row a condition: its choice with its KL, every rate on report, the perplexity, and the answers less SS's."""
    rows = []
    for s in record["report"]:
        name, choice = s["condition"], record["choices"][s["condition"]]
        label = f"{name}: {RIVALS[name]}" if name in RIVALS else name
        if choice.get("at_nothing"):
            rows.append((label, "none †", *("—" for _ in (*RATES, "KL", "perplexity", "less"))))
            continue
        at = "—" if s["value"] is None else f"{s['value']:g}{'°' if has_angle(name) else ''}"
        spent = None if s["value"] is None else kl.get((name, s["variant"], float(s["value"])))
        gap = record["differences_from_selective"].get(name, {}).get("positive_right")
        less = "—" if gap is None else points(Estimate(gap["value"], *_ends(gap), gap["n"]))
        cells = (_rate(s, q) for q in RATES)
        perplexity = f"{s['perplexity_ref']:.2f}" if "perplexity_ref" in s else "—"
        star = "" if choice["met"] else " \\*"
        rows.append((label, f"{at}{star}", "—" if spent is None else f"{spent:.3f}", *cells, perplexity, less))
    return markdown(("condition", "chosen", "KL", *RATES.values(), "perplexity", "answered, less SS"), rows)


def _ends(gap: Mapping[str, float]) -> tuple[float, float]:
    """Return the ends of a difference's own interval; records of earlier releases have the joint one alone."""
    return gap.get("low_alone", gap["low"]), gap.get("high_alone", gap["high"])


def _rate(setting: Mapping[str, Any], name: str) -> str:
    if setting.get(name) is None:
        return "—"
    return percent(setting[name], setting[f"{name}_low"], setting[f"{name}_high"])
