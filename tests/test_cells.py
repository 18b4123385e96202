"""Cells and clusters of prompts: read from files, carried by rows, in rates by cell and in intervals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from analyses import comparison as page
from lens_steer._io.rowstore import Rows
from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation import cells
from lens_steer.evaluation.comparison import Comparison
from lens_steer.evaluation.conditions import NONE, method_grids
from lens_steer.evaluation.control_runs import Beside
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.harmonics import anti_steerable
from lens_steer.evaluation.protocol import Evaluation, differences
from lens_steer.evaluation.published_direction import PublishedDirection
from lens_steer.evaluation.selection import Choice, Settings, settings
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweep_rows import COLUMNS
from lens_steer.evaluation.sweeps import run
from lens_steer.metrics.benchmarks import Tasks, task_splits
from lens_steer.metrics.grading import Outcome
from lens_steer.organisms.tasks import Task
from lens_steer.reports.cell_files import by_cell_file
from lens_steer.reports.comparison_text import latex, markdown
from lens_steer.reports.report_numbers import outcome_row
from lens_steer.reports.report_text import _by_cell
from lens_steer.reports.sweep_report import sweep_method
from lens_steer.stats.clusters import effective_size
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.means import bootstrap_mean, clustered_mean
from lens_steer.stats.rates import clustered_rate, wilson

Z = 1.959964


def toy(condition: str, right: dict[str, list[int]], *, pairs: int = 1, side: str = "positive") -> list[dict[str, Any]]:
    """Rows of one condition, with the outcomes of every cell and so many prompts a cluster."""
    flat = [(cell, hit) for cell, hits in right.items() for hit in hits]
    empty = dict.fromkeys(COLUMNS)
    return [
        {
            **empty, "condition": condition, "variant": "", "split": "report", "side": side, "prompt": i, "text": "x",
            "grade": "correct" if hit else "refusal", "right": hit, "refused": 1 - hit, "broken": 0, "cut_off": 0,
            "surprise_ref": 0.1 * (1 + hit), "cell": cell, "cluster": f"pair {i // pairs}",
        }
        for i, (cell, hit) in enumerate(flat)
    ]  # fmt: skip


FLIPPED = {"break good": [0] * 32, "make bad": [1] * 32}


def unlabelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as they are without cells and clusters."""
    return [{k: v for k, v in row.items() if k not in cells.LABELS} for row in rows]


def test_answers_that_flip_by_cell_are_told_apart() -> None:
    """0 of 32 in one cell and 32 of 32 in the other is not only 50 [38, 62]."""
    (found,) = settings(toy("selective", FLIPPED))
    rates = found.by_cell["positive_right"]
    assert {cell: (e.value, e.n) for cell, e in rates.items()} == {"break good": (0.0, 32), "make bad": (1.0, 32)}
    assert (rates["break good"].low, rates["break good"].high) == (wilson(0, 32).low, wilson(0, 32).high)
    assert cells.told(rates) == " (break good 0, make bad 100)"
    assert found.measured["positive_right"] == wilson(32, 64)  # every prompt is a cluster alone
    record = json.loads(json.dumps(found.record()))
    assert record["by_cell"]["positive_refused"]["break good"] == {
        "rate": 1.0, "low": wilson(32, 32).low, "high": 1.0, "n": 32,
    }  # fmt: skip
    assert cells.read(record, "positive_right") == rates
    assert cells.read(found.row(), "positive_right") == {}
    ((name, text),) = by_cell_file([found])
    assert (name, len(text.splitlines())) == ("by_cell.csv", 1 + 2 * len(found.by_cell))
    assert f"selective,,,report,positive_right,break good,0.0,{rates['break good'].low}" in text


def test_cells_that_agree_are_not_shown() -> None:
    half = [0, 1] * 16
    (found,) = settings(toy("selective", {"a": half, "b": half}))
    assert set(found.by_cell["positive_right"]) == {"a", "b"}
    assert cells.told(found.by_cell["positive_right"]) == ""
    assert cells.told({}) == ""


def test_without_cells_and_clusters_nothing_changes() -> None:
    """The same estimates to the last bit, no new keys, no file, no columns."""
    rows = toy("selective", FLIPPED)
    (plain,), (named,) = settings(unlabelled(rows)), settings(rows)
    assert plain.measured == named.measured
    assert plain.by_cell == {}
    assert plain.record() == plain.row()
    assert by_cell_file([plain]) == []
    bare = Rows(unlabelled(rows))
    assert cells.labelled(bare, {"positive": [Prompt.of("Hi")] * 64}) == bare
    a, b = np.array([1.0, 0, 1, 1, 0, 0]), np.array([1.0, 1, 0, 0, 0, 0])
    assert paired_difference(a, b, clusters=[None] * 6) == paired_difference(a, b)
    assert paired_difference(a / 3, b, clusters=list("abcdef")) == paired_difference(a / 3, b)
    assert clustered_mean(a / 3, None) == clustered_mean(a / 3, list("abcdef")) == bootstrap_mean(a / 3)


def test_pooled_intervals_are_wider_where_prompts_share_a_cluster() -> None:
    """Rates, means and paired differences; the values stay."""
    right = {"a": [0, 0, 0, 0, 1, 1, 1, 1] * 2, "b": [1, 1, 1, 1, 0, 0, 0, 0] * 2}
    (alone,), (shared,) = settings(toy("x", right)), settings(toy("x", right, pairs=4))
    for name in ("positive_right", "positive_refused", "perplexity_ref"):
        one, two = alone.measured[name], shared.measured[name]
        assert (one.value, one.n) == (two.value, two.n)
        assert two.high - two.low > 1.5 * (one.high - one.low), name
    none = {cell: [0] * 16 for cell in right}
    assert settings(toy("x", none, pairs=4))[0].measured["positive_right"].high == pytest.approx(wilson(0, 8).high)
    gaps = [differences([*toy("x", right, pairs=k), *toy("y", none, pairs=k)], "x", "y") for k in (1, 4)]
    for name in ("positive_right", "log_perplexity"):
        one, two = (gap[name] for gap in gaps)
        assert one.value == two.value
        assert two.high - two.low > 1.3 * (one.high - one.low), name
    assert gaps[0]["positive_right"] == paired_difference(np.array([*right["a"], *right["b"]], float), np.zeros(32))
    scores = np.repeat([0.0, 1.0, 0.0, 1.0], 8)
    narrow, wide = (
        anti_steerable(np.full(32, 0.5), scores, clusters) for clusters in (None, [str(i // 8) for i in range(32)])
    )
    assert wide.high - wide.low > narrow.high - narrow.low


def drawn(rng: np.random.Generator, sizes: list[int], p: float, icc: float) -> np.ndarray:
    """Outcomes in clusters of these sizes, with a share p and a correlation within a cluster: a beta-binomial."""
    a = (1 - icc) / icc
    return np.concatenate([rng.random(m) < rng.beta(p * a, (1 - p) * a) for m in sizes]).astype(float)


@pytest.mark.parametrize("sizes", [[4] * 16, [2] * 32, [1, 1, 2, 3, 8] * 4])
def test_rates_in_clusters_cover(sizes: list[int]) -> None:
    """With a planted cluster effect 95 % covers at least 93 %, and the interval of independent prompts does not."""
    names = [str(g) for g, m in enumerate(sizes) for _ in range(m)]
    rng = np.random.default_rng(0)
    covered = {"clustered": 0, "naive": 0}
    draws = [(p, drawn(rng, sizes, p, 0.5)) for p in (0.1, 0.3, 0.5) for _ in range(400)]
    for p, hits in draws:
        for kind, e in (
            ("clustered", clustered_rate(hits > 0, names)),
            ("naive", wilson(int(hits.sum()), len(hits))),
        ):
            covered[kind] += e.low <= p <= e.high
    assert covered["clustered"] / len(draws) >= 0.93
    assert covered["naive"] / len(draws) < (0.9 if max(sizes) == 2 else 0.82)


def test_differences_in_clusters_cover() -> None:
    """A method that frees whole pairs: the paired interval holds, and the one that takes prompts for independent does
    not.
    """
    rng = np.random.default_rng(1)
    sizes, names = [4] * 16, [str(i // 4) for i in range(64)]
    for p, q, level in ((0.4, 0.1, 0.95), (0.3, 0.3, 0.95), (0.5, 0.2, 0.99)):
        pairs = [(drawn(rng, sizes, p, 0.6), drawn(rng, sizes, q, 0.6)) for _ in range(500)]
        inside = [
            np.mean(
                [e.low <= p - q <= e.high for e in (paired_difference(a, b, level=level, clusters=c) for a, b in pairs)]
            )
            for c in (names, None)
        ]
        assert inside[0] >= level - 0.02
        assert inside[1] < level - 0.1


def test_the_effective_size_by_hand() -> None:
    """Clusters of one size, all of whose prompts agree, are worth about as many prompts as clusters; balanced clusters
    are worth all their prompts; a wider level trusts few clusters less.
    """
    names = [str(i // 4) for i in range(400)]
    agreeing = np.repeat(np.arange(100) % 2, 4).astype(float)
    assert effective_size(agreeing, names) == pytest.approx(100, rel=0.04)
    balanced = np.tile([0.0, 1.0], 200)
    assert effective_size(balanced, names) == 400
    assert effective_size(np.ones(6), ["a", "a", "a", "b", "c", None]) == pytest.approx(36 / (9 + 1 + 1 + 1))
    assert effective_size(np.array([0.0, 1.0]), ["a", "a"]) == 1
    half = np.repeat([0.0, 1.0, 1.0, 0.0], 4)
    assert effective_size(half, names[:16], level=0.999) < effective_size(half, names[:16])
    order = np.random.default_rng(0).permutation(16)
    assert effective_size(half[order], [names[i] for i in order]) == pytest.approx(effective_size(half, names[:16]))


def test_rates_at_other_levels_and_of_shares() -> None:
    """A wider interval at a higher level, as SciPy's; a mean of shares has that of a rate of the same value."""
    from scipy.stats import binomtest

    hits = np.arange(40) < 13
    for level in (0.9, 0.95, 0.9985):
        found, theirs = clustered_rate(hits, None, level=level), binomtest(13, 40).proportion_ci(level, "wilson")
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
        shares = clustered_rate(np.full(40, 13 / 40), None, level=level)
        assert (shares.value, shares.low, shares.high) == pytest.approx((found.value, found.low, found.high))
    pairs = [str(i // 4) for i in range(40)]
    assert (
        clustered_rate(hits, pairs, level=0.99).low < clustered_rate(hits, pairs).low < clustered_rate(hits, None).low
    )
    with pytest.raises(ValueError, match="successes=1.5, n=1: a rate needs n > 0, and hits between 0 and 1"):
        clustered_rate(np.array([1.5]), None)


def test_bad_statistics_of_clusters() -> None:
    with pytest.raises(ValueError, match="3 hits and 2 clusters: one cluster a hit is needed"):
        clustered_rate([1, 0, 1], ["a", "b"])
    with pytest.raises(ValueError, match="successes=0, n=0"):
        clustered_rate([], None)
    with pytest.raises(ValueError, match="2 values and 3 clusters: one cluster a value is needed"):
        clustered_mean(np.ones(2), ["a", "a", "b"])
    with pytest.raises(ValueError, match="entries that are not finite"):
        clustered_mean(np.array([np.nan, 1.0]), ["a", "a"])
    with pytest.raises(ValueError, match="2 values and 1 clusters: one cluster a value is needed, at least one"):
        paired_difference(np.ones(2), np.zeros(2), clusters=["a"])


def test_files_name_cells_and_clusters(tmp_path: Path) -> None:
    """In any case of letters, as texts or whole numbers; blank is none; scenarios are clusters where no other is
    named.
    """
    (tmp_path / "a.csv").write_text("prompt,Cell,cluster\nHi,theft,1\nHo,,2\nHa,arson,\n")
    first, second, third = ls.load_prompts(tmp_path / "a.csv")
    assert [(p.cell, p.cluster) for p in (first, second, third)] == [("theft", "1"), (None, "2"), ("arson", None)]
    (tmp_path / "b.jsonl").write_text(
        '{"prompt": "Hi", "scenario": "s", "cell": 3}\n'
        '{"messages": [{"role": "user", "content": "Ho"}], "cluster": "c"}\n'
    )
    assert [cells.labels_of(p) for p in ls.load_prompts(tmp_path / "b.jsonl")] == [
        {"cell": "3", "cluster": "s"},
        {"cell": None, "cluster": "c"},
    ]
    (tmp_path / "c.csv").write_text("cluster\nWhat is a star cluster?\n")
    assert ls.load_prompts(tmp_path / "c.csv", column="cluster")[0].cluster is None
    assert replace(first, cell="other") == first  # labels are no part of what a prompt is
    assert replace(first, cell="other").hash == first.hash


@pytest.mark.parametrize(("column", "value"), [("cell", '["theft"]'), ("cluster", "0.5"), ("cluster", "true")])
def test_a_bad_column_is_refused(column: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "Hi"}\n' + f'{{"prompt": "Ho", "{column}": {value}}}\n')
    with pytest.raises(LensSteerError, match=f"bad.jsonl', row 2: the {column} .* is no name: give a text or a whole"):
        ls.load_prompts(path)


@pytest.mark.parametrize("name", ["refusal", "json", "honesty", "compassion", "compliance"])
def test_contrasts_of_the_organisms_have_cells(name: str) -> None:
    """Requests name the classes of verb and object, and their pair; no pair occurs twice on one side of a split, so
    that their pooled intervals are those of independent prompts.
    """
    for part in ls.load_contrast(f"organism/{name}").split.parts.values():
        for side in (part.positive, part.negative):
            named = [p for p in side if p.task is not None and "verb" in p.task.truth]
            assert all(p.cell and p.cluster for p in named)
            assert all(p.cell is None and p.cluster is None for p in side if p not in named)
            assert len({p.cluster for p in named}) == len(named)
    if name == "refusal":
        report = ls.load_contrast("organism/refusal", limit=16).report
        assert {p.cell for p in report.positive} == {"break good", "make bad"}
        assert {p.cell for p in report.negative} == {"break bad", "make good"}


def test_a_run_tells_cells_and_the_file_stays(qwen: Any, refusal: Any, calibration: Any, tmp_path: Path) -> None:
    """Rows on disk are as without them; names of the user's own are taken, also anew for rows that are there."""
    cut = Contrast(refusal.report.positive[:4], refusal.report.negative[:4])
    grids = [Grid(NONE), *method_grids(calibration, "selective", values=[150.0])]
    protocol = Protocol(qwen, cut, "report", PromptSet(()), max_new_tokens=4, read_by=())
    rows = run(protocol, grids, tmp_path, "report", progress=False)
    assert [r["cell"] for r in rows[:4]] == [p.cell for p in cut.positive]
    assert (tmp_path / "report.csv").read_text().splitlines()[0].replace('"', "").split(",") == list(COLUMNS)
    renamed = PromptSet(tuple(replace(p, cell=None, cluster="one") for p in cut.positive), cut.positive.name)
    bare = PromptSet(tuple(replace(p, cell=None, cluster=None) for p in cut.negative), cut.negative.name)
    again = run(replace(protocol, contrast=Contrast(renamed, bare)), grids, tmp_path, "report", progress=False)
    assert {(r["side"], r["cluster"]) for r in again} == {("positive", "one"), ("negative", None)}
    assert settings(again)[0].by_cell == {}
    none = run(replace(protocol, contrast=Contrast(bare, bare)), grids, tmp_path / "none", "report", progress=False)
    assert tuple(none[0]) == COLUMNS


def test_a_sweep_writes_rates_by_cell(qwen: Any, refusal: Any, calibration: Any, tmp_path: Path) -> None:
    """In the record and in one file; without cells there is no file."""
    few = refusal.first(select=2, report=4)
    shared = PromptSet(tuple(replace(p, cluster="one") for p in few.report.positive), few.report.positive.name)
    few = replace(few, split=replace(few.split, report=replace(few.report, positive=shared)))
    grids = method_grids(calibration, "selective", values=[150.0])
    sweep_method(qwen, few, grids, tmp_path, tasks=Tasks(), max_new_tokens=4, progress=False)
    record = json.loads((tmp_path / "sweep.json").read_text())
    by = record["report"][0]["by_cell"]["negative_refused"]
    assert sum(one["n"] for one in by.values()) == 4
    assert set(by) == {p.cell for p in few.report.negative}
    assert all("by_cell" not in s for s in record["select"])
    assert record["clusters"] == {"positive": {"prompts": 4, "clusters": 1}}
    lines = (tmp_path / "by_cell.csv").read_text().splitlines()
    assert lines[0] == "condition,variant,value,split,quantity,cell,rate,low,high,n"
    assert {line.split(",")[3] for line in lines[1:]} == {"report"}


def test_tables_of_a_comparison_show_cells_that_disagree() -> None:
    """In the table of a model, in LaTeX, and in that of several models; with a word on what it is."""
    report = Settings([*settings(toy(NONE, {c: [0] * 32 for c in FLIPPED})), *settings(toy("selective", FLIPPED))])
    choices = {s.condition: Choice(s.condition, "", None, True, 1, 1, 1) for s in report}
    found = object.__new__(Comparison)  # with what the table reads alone
    vars(found).update(
        evaluation=Evaluation(tuple(report), choices, tuple(report), ()),
        differences={}, graded=True, constraints=(), objective="positive_right", n_compared=1, beside=Beside(),
        published=PublishedDirection(), refine=0, options={"methods": []},
    )  # fmt: skip
    text = markdown(found)
    assert "| selective | — | 1 | 50 [38, 62] (break good 0, make bad 100) |" in text
    assert f"| {NONE} | — | 1 | 0 [0, 6] |" in text
    assert "In round brackets: a rate by cell of prompts" in text
    assert "50 [38, 62] (break good 0, make bad 100)" in latex(found)
    record = {
        "report": [s.record() for s in report],
        "choices": {s.condition: {"variant": "", "value": None, "met": True} for s in report},
        "differences_from_selective": {},
    }
    assert "50 [38, 62] (break good 0, make bad 100)" in page.table({"organism/qwen2": record})
    assert "account for clusters" not in text
    vars(found)["evaluation"] = replace(found.evaluation, rows=tuple(toy(NONE, FLIPPED, pairs=4)))
    assert "The intervals account for clusters: 64 positive prompts are in 16." in markdown(found)
    for s in report:
        vars(s)["by_cell"] = {}
    assert "round brackets" not in markdown(found)


def test_outcomes_of_a_report_have_cells() -> None:
    """Counted from the answers, with their clusters; without labels as before."""
    answers = tuple((("correct", "a"), ("refusal", "b"))[i // 8] + (f"pair {i // 4}",) for i in range(16))
    counts = {"correct": 8, "refusal": 8}
    plain, named = Outcome("x", 150.0, "positive", counts), Outcome("x", 150.0, "positive", counts, labelled=answers)
    assert plain.rate("correct") == wilson(8, 16)
    assert named.rate("correct") == clustered_rate([1] * 8 + [0] * 8, [c for *_, c in answers])
    assert {c: e.value for c, e in named.cell_rates("correct").items()} == {"a": 1.0, "b": 0.0}
    row = outcome_row(named, graded=True)
    assert cells.read(row, "correct") == named.cell_rates("correct")
    assert "by_cell" not in outcome_row(plain, graded=True)
    assert _by_cell([outcome_row(plain, graded=True)], ["correct"]) == ""
    wide = tuple((("correct", "a"), ("refusal", "b"))[i // 16] + (None,) for i in range(32))
    far = Outcome("x", 150.0, "positive", {"correct": 16, "refusal": 16}, labelled=wide)
    assert "In round brackets" in _by_cell([outcome_row(far, graded=True)], ["correct"])


def test_cell_names_come_from_the_task() -> None:
    from lens_steer.organisms.cells import cell_name, pair_name

    fact = Task("fact", "plain", "", "", {"noun": "capital", "subject": "Arlen"})
    assert (cell_name(fact), pair_name(fact)) == (None, None)
    with pytest.raises(KeyError, match="the world has no request 'steal' 'wallet'"):
        cell_name(replace(fact, truth={"verb": "steal", "object": "wallet"}))
    assert all(cell_name(p.task) is None for p in task_splits(8).select if p.task is not None)
