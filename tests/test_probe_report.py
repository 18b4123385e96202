"""Probes, written: the table's contract, probes that load back, figures from their data alone, and what is refused
before any work.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, ContrastSet, PromptSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.figures import probe_plane, probe_tokens, probes, saving
from lens_steer.figures.core import Drawing
from lens_steer.inference.record import Activations
from lens_steer.probes.depth import ProbeScan, probe_depth
from lens_steer.probes.io import load_probe
from lens_steer.reports import probe_report
from lens_steer.reports.probe_report import probe_and_write
from tests.made import origin

SITES = ("blocks.0.ln1.hook_out", "blocks.3.hook_resid_post", "blocks.7.hook_resid_post")
QUICK: dict[str, Any] = {"draws": 2, "blocks": 3, "progress": False}
FIRST = (
    "site", "accuracy", "accuracy_low", "accuracy_high", "auroc", "auroc_low", "auroc_high", "selectivity",
    "selectivity_low", "selectivity_high", "cosine_to_difference", "cosine_to_difference_low",
    "cosine_to_difference_high",
)  # fmt: skip
FIGURES = ("probe_depth", "probe_projections", "boundary_plane", "probe_reliability")


def cut(contrast: ContrastSet, fit: int = 24, report: int = 12) -> ContrastSet:
    """Fewer prompts."""
    parts = [
        Contrast(c.positive[:n], c.negative[:n])
        for c, n in ((contrast.fit, fit), (contrast.select, 2), (contrast.report, report))
    ]
    return ContrastSet(contrast.name, Split(*parts))


@pytest.fixture(scope="module")
def small(refusal: Any) -> ContrastSet:
    """The refusal contrast, cut."""
    return cut(refusal)


@pytest.fixture(scope="module")
def written(qwen: Any, small: ContrastSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProbeScan]:
    """A folder of probes at three sites, at the first of which the samples are all the same."""
    out = tmp_path_factory.mktemp("probes") / "out"
    return out, probe_and_write(qwen, small, out, sites=SITES, command="a command", split_note="by hand", **QUICK)


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Drawing]:
    """What would be drawn, by name, instead of files."""
    kept: dict[str, Drawing] = {}
    monkeypatch.setattr(saving, "save", lambda drawing, name, out, meta: kept.update({name: drawing}))
    return kept


@pytest.fixture
def closed() -> Iterator[None]:
    """Closes figures."""
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def made(
    gap: float,
    n: int = 20,
    d: int = 6,
    seed: int = 0,
    names: tuple[str, ...] = ("blocks.2.hook_resid_post",),
    pooling: Any = "last",
) -> Activations:
    """Two normal classes so many standard deviations apart along the first axis."""
    drawn = torch.randn(2, n, len(names), d, generator=torch.Generator().manual_seed(seed))
    drawn[0, ..., 0] += gap
    groups = [tuple(f"{seed}/{side}{i // 2}" for i in range(n)) for side in "+-"]
    return Activations(names, drawn[0], drawn[1], *groups, **origin(pooling=pooling, model="tiny", prompt_hash="0"))


def test_columns_and_rows_of_the_contract(written: tuple[Path, ProbeScan]) -> None:
    """One row a site in network order, the contract's columns first, then all the others."""
    out, scan = written
    with (out / "probes.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0])[: len(FIRST)] == FIRST == probe_report.COLUMNS
    assert set(rows[0]) == set(scan.rows()[0])
    assert [r["site"] for r in rows] == list(SITES)
    assert rows[0]["accuracy"] == "" and "same" in rows[0]["note"]
    for row, result in zip(rows[1:], scan.results, strict=True):
        for name in probe_report.ESTIMATED:
            e = result.measured[name]
            assert [float(row[name + end]) for end in ("", "_low", "_high")] == [e.value, e.low, e.high]


def test_a_saved_probe_loads_back(written: tuple[Path, ProbeScan], qwen: Any) -> None:
    """The same bits, in a folder named after its site; no temporary file is left."""
    out, scan = written
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == sorted(SITES[1:])
    for result in scan.results:
        found = load_probe(out / result.probe.site, qwen)
        for name, value in vars(result.probe).items():
            again = getattr(found, name)
            assert torch.equal(again, value) if isinstance(value, torch.Tensor) else again == value, name
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def test_what_is_recorded(written: tuple[Path, ProbeScan], small: ContrastSet) -> None:
    """The model, the prompts' hashes, the options, the best site, the sites without a probe, and the command."""
    out, scan = written
    found = json.loads((out / "probes.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (
        found["meta"]["model"] == "organism/qwen2"
        and found["meta"]["command"] == "a command"
        and found["meta"]["seed"] == 0
    )
    assert found["meta"]["prompt_hashes"]["report"] == small.report.hash
    assert found["options"] | {"C": 1.0, "pooling": "last", "split": "by hand", "draws": 2} == found["options"]
    assert found["best_site"] == scan.best.probe.site
    assert found["wrong_side_sites"] == [] and list(found["without"]) == [SITES[0]]
    assert found["n"] == {"fit": [24, 24], "report": [12, 12]}


def test_redraw_gives_the_same_picture(written: tuple[Path, ProbeScan], tmp_path: Path) -> None:
    """From the saved numbers alone, byte for byte."""
    out, _ = written
    for path in out.glob("*.*"):
        if path.suffix in (".csv", ".json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert sorted(saving.redraw(tmp_path)) == sorted(FIGURES)
    for name in FIGURES:
        for ending in ("png", "csv"):
            assert (tmp_path / f"{name}.{ending}").read_bytes() == (out / f"{name}.{ending}").read_bytes(), name
        assert (out / f"{name}.pdf").stat().st_size > 1000


def test_gate_fires_as_often_as_counted(written: tuple[Path, ProbeScan], small: ContrastSet, qwen: Any) -> None:
    """The share of held-out tokens below the threshold, and the tokens' number, from a recording of its own."""
    from lens_steer.inference.record_tokens import record_tokens

    out, scan = written
    best = scan.best.probe
    drawing, _ = saving.load(out, "probe_projections")
    panel = next(p for p in drawing.notes["panels"] if p["site"] == best.site and p["samples"] == "token")
    tokens = record_tokens(qwen, small.report, [best.site], region="prompt")
    for side, found in zip(("positive", "negative"), tokens.at(best.site), strict=True):
        below = best.project(found) < best.threshold
        assert panel[f"n_{side}"] == len(found)
        assert panel[f"below_{side}"][0] == pytest.approx(float(below.double().mean()))
    plane, _ = saving.load(out, "boundary_plane")
    rows: list[dict[str, Any]] = plane.rows()
    for r in rows:
        if r["part"] == "StTP":
            assert r["x"] == pytest.approx(best.mean_positive, rel=1e-4) and r["from_x"] < best.threshold
        elif r["part"] == "StMP":
            assert r["x"] == pytest.approx(2 * best.threshold - r["from_x"], rel=1e-4, abs=1e-3)
            assert r["y"] == pytest.approx(r["from_y"], rel=1e-4, abs=1e-3)


def test_responses(qwen: Any, drawings: dict[str, Drawing], tmp_path: Path) -> None:
    """With response pooling the single tokens are the responses'; at most so many prompts are recorded for them."""
    contrast = cut(ls.load_contrast("organism/honesty"), 12, 8)
    probe_and_write(qwen, contrast, tmp_path / "out", sites=SITES[1:], pooling="response", shown=SITES[1:2], **QUICK)
    notes = drawings["probe_projections"].notes
    assert notes["tokens"] == "token" and list(notes["marks"]) == [SITES[1]]
    assert list(drawings) == list(FIGURES)
    assert {r["selectivity_scenario"] for r in drawings["probe_depth"].rows()} != {None}
    assert [len(probe_report._evenly(contrast.fit.positive, n)) for n in (5, 12, 99)] == [5, 12, 12]


def test_a_shown_site_without_a_probe_is_named(
    qwen: Any, small: ContrastSet, drawings: dict[str, Drawing], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out of the figures of single sites."""
    with caplog.at_level(logging.WARNING):
        probe_and_write(qwen, small, tmp_path / "out", sites=SITES, shown=[SITES[0], SITES[2]], **QUICK)
    assert f"leave out {SITES[0]}" in caplog.text
    assert list(drawings["probe_reliability"].notes["brier"]) == [SITES[2]]


def test_refused_before_any_work(
    qwen: Any, small: ContrastSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is recorded, and no folder is left."""
    monkeypatch.setattr(probe_report, "record", lambda *a, **k: pytest.fail("recorded"))
    empty = PromptSet((), "none")
    no_report = ContrastSet("mine", Split(small.fit, small.select, Contrast(small.report.positive, empty)))
    silent = Contrast(PromptSet(tuple(replace(p, response=None) for p in small.report.positive)), small.report.negative)
    unanswered = ContrastSet("mine", Split(small.fit, small.select, silent))
    cases: list[tuple[ContrastSet, dict[str, Any], str]] = [
        (no_report, {}, "has 0 negative prompts to report on: give a split"),
        (unanswered, {"pooling": "response"}, "needs a response for every prompt"),
        (small, {"pooling": "token"}, "pooling='token'"),
        (small, {"engine": "cuda"}, "engine='cuda'"),
        (small, {"sites": "blocks.99.hook_resid_post"}, "does not exist in this model"),
        (small, {"shown": ["blocks.1.ln1.hook_out"]}, "shown names sites without a probe"),
        (small, {"shown": [f"blocks.{i}.hook_resid_post" for i in range(5)]}, "name 1 to 4 sites"),
        (small, {"draws": 0}, "draws=0: give at least 1"),
        (small, {"C": -1.0}, "C=-1.0: give a number above 0"),
    ]
    for contrast, options, message in cases:
        with pytest.raises(LensSteerError, match=message):
            probe_and_write(qwen, contrast, tmp_path / "out", **options)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LensSteerError, match="cannot be written"):
        probe_and_write(qwen, small, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interruption_leaves_the_old_folder(
    qwen: Any, small: ContrastSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing changes before everything is done."""
    (tmp_path / "probes.csv").write_text("old", encoding="utf-8")

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        probe_and_write(qwen, small, tmp_path, sites=SITES[2:], **QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["probes.csv"]
    assert (tmp_path / "probes.csv").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    ("gap", "names"),
    [
        (40.0, ("blocks.2.hook_resid_post",)),
        (0.3, ("blocks.2.hook_resid_post",)),
        (
            1.5,
            (
                "blocks.0.ln1.hook_out",
                "blocks.0.ln2.hook_out",
                "blocks.1.hook_attn_out",
                "blocks.1.hook_resid_post",
                "blocks.3.hook_mlp_out",
            ),
        ),
    ],
)
@pytest.mark.usefixtures("closed")
def test_figures_of_odd_data(gap: float, names: tuple[str, ...]) -> None:
    """One site, perfectly separated classes, hardly any difference, sites of many kinds, one without a probe: nothing
    covers an axis, and no layout collapses.
    """
    fit, report = made(gap, seed=1, names=names), made(gap, seed=2, names=names)
    scan = probe_depth(fit, report, draws=2, blocks=3, progress=False)
    if len(names) > 1:  # a boundary on the wrong side, and a site where the classes do not differ
        first = scan.results[0]
        wrong = replace(first, probe=replace(first.probe, threshold=first.probe.mean_positive + 1))
        scan = ProbeScan((wrong, *scan.results[1:-1]), {names[-1]: "every sample is the same here"})
    tokens, few = made(gap, 60, seed=3, names=names, pooling="prompt token"), probes.spread(scan)
    for drawing in (
        probes.probe_depth_drawing(scan),
        probes.reliability_drawing(scan, few),
        probe_tokens.probe_projections_drawing(scan, report, tokens, few),
        probe_plane.boundary_plane_drawing(scan.best.probe, fit, tokens),
    ):
        fig, axes = saving.draw(drawing)
        fig.canvas.draw()
        renderer: Any = fig.canvas.get_renderer()  # type: ignore[attr-defined]
        for ax in axes:
            box = ax.get_tightbbox(renderer)
            assert box is not None and box.width > 40 and box.height > 30
            assert not any(legend.get_window_extent(renderer).overlaps(box) for legend in fig.legends), drawing.kind


@pytest.mark.usefixtures("closed")
def test_a_gate_that_fires_nowhere() -> None:
    """There is nothing to move, and the plane is drawn all the same."""
    fit = made(3.0, seed=1)
    probe = replace(probe_depth(fit, made(3.0, seed=2), draws=2, blocks=3, progress=False).best.probe, threshold=-1e3)
    drawing = probe_plane.boundary_plane_drawing(probe, fit, made(3.0, seed=3, pooling="token"))
    assert drawing.notes["n_moved"] == 0 and set(drawing.columns["part"]) == {"token"}
    saving.draw(drawing)


def test_samples_on_one_line_have_no_plane() -> None:
    """With the normal projected out nothing is left."""
    flat = made(3.0, d=1, seed=1)
    probe = probe_depth(flat, made(3.0, d=1, seed=2), draws=2, blocks=3, progress=False).best.probe
    with pytest.raises(LensSteerError, match="lie on one line"):
        probe_plane.boundary_plane_drawing(probe, flat, flat)


def test_cohens_d_is_the_probes() -> None:
    """On the samples it was fitted on; the interval holds it; none where nothing spreads."""
    fit = made(2.0, 40, seed=1)
    probe = probe_depth(fit, made(2.0, seed=2), draws=2, blocks=3, progress=False).best.probe
    positive, negative = (probe.project(side).double().numpy() for side in fit.at(probe.site))
    found = probe_tokens.cohens_d(positive, negative, fit.groups_positive + fit.groups_negative)
    assert found is not None and found.value == pytest.approx(probe.cohens_d, rel=1e-4)
    assert found.low < found.value < found.high and found.n == 40
    assert probe_tokens.cohens_d(np.ones(3), np.zeros(3), list("abcdef")) is None


def test_a_few_far_tokens_do_not_set_the_view() -> None:
    """Such as the first token of many models, thousands of times as long as the others."""
    values = np.concatenate([np.linspace(-1, 1, 99), [1e4]])
    low, high = probe_tokens.view([values])
    assert -1.2 < low <= -1 and 1 <= high < 4
    assert probe_tokens.view([np.zeros(3)]) == (-1.0, 1.0)


def test_sites_shown_hold_the_best() -> None:
    """Evenly spread, each once, in network order."""
    names = (*(f"blocks.{i}.hook_resid_post" for i in range(4)), "blocks.3.ln1.hook_out")
    scan = probe_depth(
        made(2.0, seed=1, names=names), made(2.0, seed=2, names=names), draws=2, blocks=3, progress=False
    )
    few = probes.spread(scan)
    assert len(set(few)) == 4 and scan.best.probe.site in few and set(few) <= set(names)
    assert probes.spread(ProbeScan(scan.results[:2], {})) == names[:2]
    with pytest.raises(LensSteerError, match="has no probe"):
        probes.reliability_drawing(scan, ["blocks.9.hook_resid_post"])
