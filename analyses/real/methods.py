"""The tables of methods against each other on real models, of the side effects of benign steering, and of traits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses import comparison, externalities
from analyses import traits as trait_tables
from analyses.real.records import NOT_RUN, Published, columns
from lens_steer._io.tables import markdown
from lens_steer.evaluation.conditions import has_angle
from lens_steer.stats.estimates import percent
from lens_steer.studies.headline import RIVALS

RATES = {
    f"{side}_{column}": f"{name}: {word}"
    for side, name in (("positive", "harmful"), ("negative", "harmless"))
    for column, word in (("right", "answered"), ("refused", "refused"), ("degenerate", "degenerate"))
} | {"capable": "tasks right"}


def methods(found: Sequence[Published]) -> str:
    """A table a model with a row a condition, at its choice on select; then one with a row a method, at equal KL."""
    by_model = dict(columns(found, compared))
    parts = [f"*{head}*\n\n{_chosen(record)}" for head, record in by_model.items()]
    return "\n".join([*parts, comparison.equal_kl_table(by_model)]) if parts else NOT_RUN


def compared(p: Published) -> dict[str, Any] | None:
    """Return the record of a model's comparison of all methods, or else that of the headline alone."""
    return p.record("comparison", "comparison") or p.record("headline", "comparison")


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


def _chosen(record: Mapping[str, Any]) -> str:
    """One row a condition: its choice, then every rate on report with its interval, and the perplexity."""
    rows = []
    for s in record["report"]:
        choice = record["choices"][s["condition"]]
        at = "—" if s["value"] is None else f"{s['value']:g}{'°' if has_angle(s['condition']) else ''}"
        marks = (" †" if choice.get("at_nothing") else "") + ("" if choice["met"] else " \\*")
        name = f"{s['condition']}: {RIVALS[s['condition']]}" if s["condition"] in RIVALS else s["condition"]
        rates = (percent(*(s[f"{q}{end}"] for end in ("", "_low", "_high"))) if q in s else "—" for q in RATES)
        rows.append((name, f"{at}{marks}", *rates, f"{s['perplexity_ref']:.2f}" if "perplexity_ref" in s else "—"))
    return markdown(("condition", "chosen", *RATES.values(), "perplexity"), rows)
