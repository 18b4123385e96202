"""The tables of the page on real models, and its sentences, written from what the commands published."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from analyses import tables
from analyses.real import sentences, verdicts
from analyses.real.methods import answers, methods, side_effect_claims, side_effects, traits
from analyses.real.records import MODEL, NOT_RUN, WORK, Published, columns, published, took
from analyses.real.studies import STUDIES
from lens_steer._io.progress import duration
from lens_steer._io.tables import markdown
from lens_steer.reports import agreement_report
from lens_steer.stats.estimates import percent
from lens_steer.studies.conversation import report as conversation
from lens_steer.studies.formats.report import HEADS as FORMAT_HEADS
from lens_steer.studies.formats.report import cells as format_cells

# Parameters in billions, from the models' cards; operations a second of one A100 in bfloat16, from its data sheet.
HUB = {
    "meta-llama/Llama-3.2-1B-Instruct": 1.24, "Qwen/Qwen2.5-1.5B-Instruct": 1.54, "google/gemma-2-2b-it": 2.61,
    "Qwen/Qwen2.5-3B-Instruct": 3.09, "meta-llama/Llama-3.2-3B-Instruct": 3.21, "Qwen/Qwen2.5-7B-Instruct": 7.61,
    "google/gemma-2-9b-it": 9.24,
}  # fmt: skip
PEAK = 312e12


def write(out: Path, pages: Sequence[Path]) -> None:
    """Write all tables and sentences to the folder, and into the pages that have their markers."""
    found = published(out)
    every = {
        "real_models": models,
        "real_weights": weights,
        "real_geometry": geometry,
        "real_directions": directions,
        "real_transfers": transfers,
        "real_formats": formats,
        "real_angles": angles,
        "real_answers": answers,
        "real_conversations": conversations,
        "real_judges": judges,
        "real_practice": sentences.practice,
        "real_costs": costs,
        "real_work": work,
        "real_gpu": on_gpu,
        "real_methods": methods,
        "real_traits": traits,
        "real_side_effects": side_effects,
        "real_claims_side_effects": side_effect_claims,
        "real_verdicts": verdicts.first,
        **{name: partial(verdicts.claims, file=file) for name, file in verdicts.TABLES.items()},
    }
    for name, made in every.items():
        marked_pages = [p for p in pages if f"<!-- {name} -->" in p.read_text(encoding="utf-8")]
        text = made(found)
        tables.write(name, text, out, marked_pages, latex="|---|" in text)


def models(found: Sequence[Published]) -> str:
    """One row a model."""
    rows = []
    for p in found:
        record, done = _model(p), took(p.folder)
        names = ", ".join(s.name.replace("_", " ") for s in STUDIES if s.name in done and "cannot" not in done[s.name])
        rows.append((p.head, record["architecture"] or "—", f"{record['blocks']} × {record['width']}", names))
    return markdown(("model", "family", "blocks × width", "studies that were run"), rows)


def weights(found: Sequence[Published]) -> str:
    """One row a file of a model's weights, with its SHA-256."""
    rows = {(p.name, name, digest): None for p in found for name, digest in _model(p)["files"].items()}
    return markdown(("model", "file", "SHA-256"), list(rows))


def _model(p: Published) -> dict[str, Any]:
    return json.loads((p.folder / MODEL).read_text(encoding="utf-8"))


def geometry(found: Sequence[Published]) -> str:
    """One row a quantity, one column a model."""
    by_model = columns(found, lambda p: p.record("geometry", "geometry"))
    rows = [(label, *(read(record) for _, record in by_model)) for label, read in GEOMETRY.items()]
    return markdown(("", *(head for head, _ in by_model)), rows)


def _sureness(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda record: str(record["discriminative"]["sureness"][key])


def _by_rule(rule: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda record: str(record["discriminative"]["n_sites_by_rule"][rule])


def _selected(record: Mapping[str, Any]) -> str:
    found = record["discriminative"]["sureness"]["selected"]
    return f"{found['auroc']:.3f}, {found['cohens_d']:.2f}"


def _inside(record: Mapping[str, Any]) -> str:
    chance = record["discriminative"]["sureness"]["selected"]["membership"]
    return f"{'yes' if record['discriminative']['selected_inside'] else 'no'} ({chance:.2f})"


GEOMETRY: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "norm outputs": lambda record: str(record["n_sites"]),
    "selected site": lambda record: f"`{record['selection']['selected_site']}`",
    "its area under the ROC curve and Cohen's d, on the prompts it was selected from": _selected,
    "whether it is discriminative by the published rule (bootstrap p)": _inside,
    **{f"sites by the rule `{rule}`": _by_rule(rule) for rule in ("paper", "official", "centred", "effect", "auroc")},
    "by the published rule surely in (bootstrap p ≥ 0.95)": _sureness("probability_above_0.95"),
    "… neither surely in nor surely out": _sureness("between"),
    "… surely out (p ≤ 0.05)": _sureness("probability_below_0.05"),
    "squared length of the candidates in the plane (%)": lambda r: percent(r["plane"]["share_in_plane_uncentred"]),
}


def directions(found: Sequence[Published]) -> str:
    """One row a model: the direction that Arditi et al.'s selection chooses, and whether its bounds keep one."""
    rows = []
    for head, record in columns(found, lambda p: p.record("direction", "direction")):
        scores = " → ".join(f"{record[name]:.2f}" for name in ("baseline_refusal_score", "refusal_score"))
        added = " → ".join(f"{record[name]:.2f}" for name in ("baseline_induce_score", "induce_score"))
        n = f"{record['n_select_positive']} harmful, {record['n_select_negative']} harmless"
        kept = "all but that on addition, which none keeps" if record["bounds"]["min_induce"] is None else "all"
        where = f"block {record['block']}, token −{-record['position']}"
        rows.append((head, where, scores, added, f"{record['kl']:.3f}", n, kept))
    heads = ("model", "direction", "refusal score, ablated", "added", "KL", "prompts that chose it", "bounds kept")
    return markdown(heads, rows)


def transfers(found: Sequence[Published]) -> str:
    """One row a pair of sources, one column a model: area on held-out prompts, random directions, sites in common."""
    by_model, keys = _pairs(found, "transfer")
    rows = [(f"{a} on {b}", *(_pair(pairs, a, b) for _, pairs in by_model)) for a, b in keys]
    told = "".join(f"- *{head}*: {sentences.of_transfers(pairs)}\n" for head, pairs in by_model)
    return f"{markdown(('direction of … on …', *(head for head, _ in by_model)), rows)}\n{told}"


def _pairs(
    found: Sequence[Published], study: str
) -> tuple[list[tuple[str, Sequence[Mapping[str, Any]]]], list[tuple[str, str]]]:
    """Return the pairs of sources of a study by model, and the names of all pairs."""
    by_model = columns(found, lambda p: (p.record(study, study) or {"pairs": ()})["pairs"])
    return by_model, list(dict.fromkeys((r["fitted"], r["on"]) for _, pairs in by_model for r in pairs))


def _pair(pairs: Sequence[Mapping[str, Any]], fitted: str, on: str) -> str:
    row = next((r for r in pairs if (r["fitted"], r["on"]) == (fitted, on)), None)
    if row is None:
        return "—"
    area = f"{row['area']:.3f} [{row['area_low']:.3f}, {row['area_high']:.3f}]"
    beside = f"random up to {row['random_high']:.2f}, {row['surface_by']} {row['surface']:.2f}"
    return f"{area}; {beside}" + ("" if fitted == on else f"; sites {row['jaccard']:.2f}")


def formats(found: Sequence[Published]) -> str:
    """A table a model, and what its claims say in a sentence: how far direction and sites agree between formats."""
    parts = []
    for head, record in columns(found, lambda p: p.record("formats", "formats")):
        rows, decided = record["rows"], {c["id"]: c["verdict"] for c in record["claims"]}
        table = markdown(FORMAT_HEADS, map(format_cells, rows))
        parts.append(f"*{head}*: {sentences.of_formats(rows, decided)}\n\n{table}")
    return "\n".join(parts) or NOT_RUN


def angles(found: Sequence[Published]) -> str:
    """One row a pair of sources, one column a model: the fall of the refusal score under steering that was set on one
    and tried on the other, and under the other's own.
    """
    by_model, keys = _pairs(found, "angle_transfer")
    spent = dict(columns(found, lambda p: (p.record("angle_transfer", "angle_transfer") or {"costs": {}})["costs"]))
    rows = [(f"{a} on {b}", *(_turned(pairs, spent[head], a, b) for head, pairs in by_model)) for a, b in keys]
    return markdown(("set on … tried on …", *(head for head, _ in by_model)), rows) if rows else NOT_RUN


def _turned(pairs: Sequence[Mapping[str, Any]], spent: Mapping[str, float], fitted: str, on: str) -> str:
    row = next((r for r in pairs if (r["fitted"], r["on"]) == (fitted, on)), None)
    if row is None or row["angle"] is None:
        return "—" if row is None else "no angle within the budget"
    fall = f"{row['falls']:.2f} [{row['falls_low']:.2f}, {row['falls_high']:.2f}] at {row['angle']:g}°"
    if fitted == on:
        planes = f"random planes {row['random_low']:.2f} to {row['random_high']:.2f}"
        return f"{fall}, {row['sites']} sites, KL {spent[fitted]:.3f}; {planes}"
    own = "no angle" if row["own"] is None else f"{row['falls_own']:.2f} at {row['own']:g}°"
    return f"{fall}; set on {on} itself {own}"


def conversations(found: Sequence[Published]) -> str:
    """A table a model: every condition at the turns at which a harmful prompt is asked."""
    records = columns(found, lambda p: p.record("conversation", "conversation"))
    return "\n".join(_conversation(head, record) for head, record in records) or NOT_RUN


def _conversation(head: str, record: Mapping[str, Any]) -> str:
    conditions = dict.fromkeys(str(r["condition"]) for r in record["by_turn"])
    table = conversation.table(record["by_turn"], list(conditions), record["probes"])
    return f"*{head}, {record['dialogues']} dialogues of {record['turns']} turns*\n\n{table}"


def judges(found: Sequence[Published]) -> str:
    """One row a judge, with what it is measured on; judges that several models' studies measured stand once."""
    rows: dict[str, Mapping[str, Any]] = {}
    for p in found:
        for row in (p.record("agreement", "agreement") or {"judges": ()})["judges"]:
            rows.setdefault(row["judge"], row)
    return markdown(agreement_report.HEADS, agreement_report.cells(list(rows.values()))) if rows else NOT_RUN


def costs(found: Sequence[Published]) -> str:
    """One row a study, one column a model: how long it took, or why it could not be done."""
    by_model = [(p.head, took(p.folder)) for p in found]
    studies = [s.name for s in STUDIES]
    rows = [(study.replace("_", " "), *(_time(of.get(study)) for _, of in by_model)) for study in studies]
    return markdown(("study", *(head for head, _ in by_model)), rows)


def _time(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "not run"
    return f"{duration(float(told['seconds']))}" + (f": {told['cannot']}" if "cannot" in told else "")


def work(found: Sequence[Published]) -> str:
    """One row a study: what a dry run of the whole one told of the first model that has it."""
    told = _told(found)
    if told is None:
        return "Not told yet.\n"
    rows = [
        (
            study.replace("_", " "), f"{of['prompt_tokens'] / 1e6:.2f}", f"{of['new_tokens'] / 1e6:.2f}",
            f"{duration(float(of['seconds_low']))} to {duration(float(of['seconds_high']))}",
        )
        for study, of in told.items()
    ]  # fmt: skip
    return markdown(("whole study", "million tokens read", "written, at most", "time on two cores"), rows)


def on_gpu(found: Sequence[Published]) -> str:
    """One row a model of the hub: the least time of all whole studies, 2 N T operations at an accelerator's peak."""
    told = _told(found)
    if told is None:
        return "Not told yet.\n"
    tokens = sum(of["prompt_tokens"] + of["new_tokens"] for of in told.values())
    rows = [(f"`{name}`", f"{n:g}", duration(2 * n * 1e9 * tokens / PEAK)) for name, n in HUB.items()]
    return markdown(("model", "billion parameters", "all whole studies, at least"), rows)


def _told(found: Sequence[Published]) -> dict[str, dict[str, float]] | None:
    """Return what a dry run told of the whole studies, by study."""
    paths = [p.folder / WORK for p in found if not p.quick]
    return next((json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()), None)
