"""The report and its figures: what is written, from which split, and what an interruption leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.data import Contrast, ContrastSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.evaluation import sweeps
from lens_steer.evaluation.pieces import Pieces
from lens_steer.figures import core, saving
from lens_steer.reports import report as report_module
from lens_steer.reports.report import make_report
from lens_steer.reports.report_text import write_markdown


@pytest.fixture(scope="session")
def small(refusal: Any) -> ContrastSet:
    """The refusal contrast, cut to a few prompts a split."""
    cut = [
        Contrast(c.positive[:n], c.negative[:n])
        for c, n in ((refusal.fit, 32), (refusal.select, 3), (refusal.report, 6))
    ]
    return ContrastSet("organism/refusal", Split(*cut))


@pytest.fixture(scope="session")
def written(qwen: Any, small: ContrastSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report folder."""
    out = tmp_path_factory.mktemp("report") / "figures"
    make_report(qwen, small, out, max_new_tokens=32, draws=2, progress=False)
    return out


def test_what_is_written(written: Path) -> None:
    """Figures with their numbers, calibration, geometry and text; no temporary file is left."""
    figures = (
        "cosine_matrix",
        "mean_cosine",
        "class_projections",
        "class_norms",
        "plane_path",
        "plane_share",
        "outcomes_by_angle",
    )
    for name in figures:
        for ending in ("pdf", "png", "csv", "json"):
            assert (written / f"{name}.{ending}").stat().st_size > 100, (name, ending)
    assert ls.load_calibration(written / "calibration").n_positive == 32
    assert not [p for p in written.rglob("*") if p.name.startswith(".")]
    text = (written / "report.md").read_text(encoding="utf-8")
    assert all(f"({name}.png)" in text for name in figures)
    assert "nan" not in text.lower().split()


def test_numbers_come_from_the_report_split(written: Path, small: ContrastSet) -> None:
    """Counts add up to the report split's prompts, at the twelve angles and the second identity; random planes run
    twice at the choice, and at angles beside it.
    """
    numbers = json.loads((written / "report.json").read_text(encoding="utf-8"))["numbers"]
    rows = numbers["outcomes"]
    assert all(sum(r["counts"].values()) == 6 for r in rows)
    angles = [r["angle"] for r in rows if r["condition"] == "steering plane" and r["class"] == "positive"]
    assert angles == [*range(0, 361, 30)]
    drawn = [(r["angle"], r["draw"]) for r in rows if r["condition"] == "random plane" and r["class"] == "positive"]
    elsewhere = [a for a in (180,) if a != numbers["best_angle"]]
    assert sorted(drawn) == sorted((a, d) for a in (numbers["best_angle"], *elsewhere) for d in (1, 2))
    assert numbers["n"] == {"fit": [32, 32], "select": [3, 3], "report": [6, 6]}
    assert numbers["best_angle"] in range(30, 360, 30)


def test_the_choice_stands_beside_its_controls(written: Path) -> None:
    """Bands are those of the draws' own counts; the identity setting says what no steering says; without draws the
    report says that there are none.
    """
    numbers = json.loads((written / "report.json").read_text(encoding="utf-8"))["numbers"]
    rows, best = numbers["outcomes"], numbers["best_angle"]
    own = next(r for r in rows if (r["condition"], r["angle"], r["class"]) == ("steering plane", best, "positive"))
    assert set(numbers["controls"]["bands"]) == {"random plane", "random sites", "shuffled labels"}
    for control, by_side in numbers["controls"]["bands"].items():
        drawn = [
            r["counts"]["correct"] / 6
            for r in rows
            if (r["condition"], r["angle"], r["class"]) == (control, best, "positive")
        ]
        told = by_side["positive"]["correct"]
        assert (told["n"], told["minimum"], told["maximum"]) == (2, min(drawn), max(drawn))
        assert told["p_at_least"] == (1 + sum(d >= own["counts"]["correct"] / 6 for d in drawn)) / 3
    base = {r["class"]: r["counts"] for r in rows if r["condition"] == "no steering"}
    assert all(r["counts"] == base[r["class"]] for r in rows if r["condition"] == "identity setting")
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "| random plane | positive | 2 |" in text and "the smallest rank that 2 draws can give is 0.33" in text
    summary = json.loads((written / "geometry.json").read_text(encoding="utf-8"))
    assert "how far chance alone comes is not known" in write_markdown(
        numbers | {"controls": {"bands": {}}}, [], summary
    )


def test_an_interrupted_report_goes_on(
    qwen: Any, small: ContrastSet, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that were done are not done again, and the end is the same."""
    measure, done = sweeps.Part.__call__, []

    def counting(part: sweeps.Part) -> Any:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(part)
        return measure(part)

    monkeypatch.setattr(sweeps.Part, "__call__", counting)
    with pytest.raises(KeyboardInterrupt):
        make_report(qwen, small, tmp_path, max_new_tokens=32, draws=2, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == [".parts"]
    with pytest.raises(LensSteerError, match=r"beginning of another run \(seed differ"):
        make_report(qwen, small, tmp_path, max_new_tokens=32, draws=2, seed=1, progress=False)
    done[:] = [None] * 10  # counts on from beyond where it stops
    make_report(qwen, small, tmp_path, max_new_tokens=32, draws=2, progress=False)
    ours, theirs = (json.loads((f / "report.json").read_text(encoding="utf-8"))["numbers"] for f in (tmp_path, written))
    assert ours == theirs
    assert not (tmp_path / ".parts").exists()
    settings = len({(r["condition"], r["angle"], r.get("draw")) for r in ours["outcomes"]})
    assert len(done) - 10 == 2 + (settings - 11 + 2) - 5  # eleven angles run in two parts, on select and on report


def test_what_an_earlier_version_began_is_not_continued(qwen: Any, small: ContrastSet, tmp_path: Path) -> None:
    """It kept outcomes in place of rows."""
    Pieces(tmp_path, "report", {"fit": small.fit.hash, "sites": "norm_out", "rule": "paper", "seed": 0, "draws": 2})
    with pytest.raises(
        LensSteerError,
        match=r"beginning of another run \(report, select, what is kept differ\): give another folder, or empty it",
    ):
        make_report(qwen, small, tmp_path, draws=2, progress=False)


def test_identity_angles_equal_the_base_model(written: Path) -> None:
    """Word for word, and so in the counts."""
    numbers = json.loads((written / "report.json").read_text(encoding="utf-8"))["numbers"]
    assert numbers["identity_equals_base"] is True
    base = {r["class"]: r["counts"] for r in numbers["outcomes"] if r["condition"] == "no steering"}
    for row in numbers["outcomes"]:
        if row["angle"] in (0, 360):
            assert row["counts"] == base[row["class"]]


def test_norms_are_kept(written: Path) -> None:
    """To rounding in float32, and to the float32 basis' own error in float64, for all three operators."""
    norms = json.loads((written / "report.json").read_text(encoding="utf-8"))["numbers"]["norms"]
    for name in ("selective", "standard", "adaptive"):
        assert norms[f"{name}_float32"] < 1e-6
        assert norms[f"{name}_float64"] < 1e-7


def test_redraw_gives_the_same_picture(written: Path, tmp_path: Path) -> None:
    """From the saved numbers alone, byte for byte."""
    for path in written.glob("*.*"):
        if path.suffix in (".csv", ".json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    names = saving.redraw(tmp_path)
    assert "class_norms" in names
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes() == (written / f"{name}.png").read_bytes(), name
        assert (tmp_path / f"{name}.csv").read_bytes() == (written / f"{name}.csv").read_bytes(), name


def test_an_interrupted_report_leaves_the_old_one(
    qwen: Any, small: ContrastSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the kept steps changes in the folder before everything is done."""
    (tmp_path / "report.md").write_text("old", encoding="utf-8")

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report_module, "summarise", stop)
    with pytest.raises(KeyboardInterrupt):
        make_report(qwen, small, tmp_path, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".parts", "report.md"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "old"


def test_a_contrast_without_held_out_prompts_is_refused(qwen: Any, small: ContrastSet, tmp_path: Path) -> None:
    """A report needs all three splits."""
    empty = Contrast(small.fit.positive[:0], small.fit.negative[:0])
    with pytest.raises(LensSteerError, match="no report prompts: give a split"):
        make_report(qwen, ContrastSet("mine", Split(small.fit, small.select, empty)), tmp_path)


def test_unknown_figures(tmp_path: Path) -> None:
    """A kind that does not exist, and data that cannot be read."""
    with pytest.raises(LensSteerError, match="figure kind 'pie' is unknown"):
        saving.draw(core.Drawing("pie", {}))
    with pytest.raises(LensSteerError, match="cannot be read"):
        saving.load(tmp_path, "absent")


def test_a_tie_at_nothing_is_no_best_angle(written: Path) -> None:
    """Where no angle frees an answer the text does not say that one gives most."""
    numbers = json.loads((written / "report.json").read_text(encoding="utf-8"))["numbers"]
    summary = json.loads((written / "geometry.json").read_text(encoding="utf-8"))
    for count, said in ((3, f"{numbers['best_angle']}° gives most answers"), (0, "no angle gives any answer graded")):
        text = write_markdown(numbers | {"best_count": count, "best_shared_by": 1}, [], summary)
        assert said in text
        assert ("gives most" in text) == bool(count)
