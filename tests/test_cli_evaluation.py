"""``lens-steer metrics``, ``sweep`` and ``compare``: what they write, that they go on where they stopped, and what they
refuse.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lens_steer.figures import saving
from tests.test_cli import run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, refusal: Any) -> tuple[Path, Path]:
    """Sixteen harmful and sixteen harmless prompts as plain text, so that nothing knows the truth about them."""
    folder = tmp_path_factory.mktemp("prompts")
    for name, side in (("positive", refusal.fit.positive), ("negative", refusal.fit.negative)):
        (folder / f"{name}.txt").write_text("\n".join(p.text for p in side[:16]) + "\n", encoding="utf-8")
    return folder / "positive.txt", folder / "negative.txt"


def test_metrics_of_every_reference_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, reference: Path
) -> None:
    """The command on the published generations: every expected text metric, every row kept as it was."""
    rows = [
        json.loads(line)
        for path in sorted((reference / "text").rglob("*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]
    rows = [row for row in rows if row["text"] is not None]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, printed, _ = run(monkeypatch, capsys, "metrics", "--in", source, "--out", out)
    assert (code, json.loads(printed)["n"]) == (0, len(rows))
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for row, given in zip(found, rows, strict=True):
        expected = given["expected"]
        assert given.items() <= row.items()
        assert row["ngram_repetition"] == pytest.approx(expected["ngram_repetition_n4"], abs=1e-12)
        assert row["language_consistency"] == pytest.approx(expected["language_consistency"], abs=1e-12)
        assert row["compression_ratio"] == pytest.approx(expected["compression_ratio_zlib9"], abs=1e-12)
        assert row["n_words"] == expected["n_words"]
        assert row["refusal_12"] is (expected["jailbreak_substring12"] == 0)
        assert row["refusal_15"] is (expected["refusal_substring15"] == 1)
        assert row["refusal_12_normalized"] is (expected["jailbreak_substring12_after_u2019_to_apostrophe"] == 0)
        assert {"language_consistency_script", "refusal_15_normalized"} <= row.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no generations"),
        ('{"text": "a"}\nnot json\n', "line 2: not valid JSON"),
        ('{"prompt": "a"}\n', "line 1: an object with a text (or response) is needed"),
        ('{"text": null}\n', "line 1: text is None, not a string"),
    ],
)
def test_generations_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, message: str
) -> None:
    """One line that names the file and the line; nothing is written."""
    source = tmp_path / "in.jsonl"
    source.write_text(content, encoding="utf-8")
    code, _, error = run(monkeypatch, capsys, "metrics", "--in", source, "--out", tmp_path / "out.jsonl")
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path) -> None:
    """Rows by prompt and angle, the choice from select, its numbers from report, figures that come back from their
    data.
    """
    args = (
        "sweep",
        "--model",
        "organism/qwen2",
        "--calibration",
        made,
        "--angles",
        "0,120,200",
        "--out",
        tmp_path,
        "--max-new-tokens",
        32,
        "--controls",
        0,
    )
    code, printed, _ = run(monkeypatch, capsys, *args)
    assert code == 0
    assert json.loads(printed)["value"] == 120.0
    with (tmp_path / "select.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * (64 + 64 + 96)
    record = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert record["constraints"] == ["capable ≥ 95 % of base", "violation ≤ 0"]
    assert {(s["condition"], s["value"]) for s in record["report"]} == {("no steering", None), ("selective", 120.0)}
    assert sorted(saving.redraw(tmp_path)) == ["class_swap", "coherence_by_angle", "polar"]
    before = (tmp_path / "select.csv").read_bytes()
    assert run(monkeypatch, capsys, *args)[0] == 0
    assert (tmp_path / "select.csv").read_bytes() == before
    assert record["calibrated_on_this_fit_split"] is True
    assert record["controls"]["told"].startswith("No controls were run")
    code, _, error = run(monkeypatch, capsys, *args[:6], "0,90", *args[7:])
    assert code == 2
    assert "another run (grids differ)" in error


def test_a_sweep_on_other_prompts_says_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    files: tuple[Path, Path],
    made: Path,
) -> None:
    """What the calibration was fitted on may be among what is reported: a warning, and a word in the record."""
    code, printed, error = run(
        monkeypatch,
        capsys,
        "sweep",
        "--calibration",
        made,
        "--positive",
        files[0],
        "--negative",
        files[1],
        "--angles",
        "0,120",
        "--out",
        tmp_path,
        "--max-new-tokens",
        8,
        "--controls",
        1,
        "--control-values",
        1,
        "--positions",
        "prompt[1:]+generated",
    )
    assert code == 0
    assert "8 of 8 select prompts and 8 of 8 report prompts are among those that the calibration was made from" in error
    record = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert record["calibrated_on_this_fit_split"] is False
    told = json.loads(printed)
    assert told["constraints"] == record["constraints"] == ["positive_degenerate ≤ 0.1", "negative_degenerate ≤ 0.1"]
    assert told["degenerate_above"] == record["degenerate_above"]
    assert set(told["outcomes"]) == {
        f"{side}_{o}" for o in ("refused", "answered", "degenerate", "cut_off") for side in ("positive", "negative")
    }
    assert (tmp_path / "unsteered.csv").exists()
    assert set(told["band"]["positive_right"]) == {"random plane", "random sites"}
    assert told["band"]["positive_right"]["random plane"]["n"] == 1
    assert told["interval"]["positive_right"][0] <= told["positive_right"] <= told["interval"]["positive_right"][1]
    assert (told["controls"]["draws"], told["controls"]["smallest_p"]) == (1, 0.5)
    assert set(told["controls"]["left_out"]) == {"shuffled labels"}  # there are no activations of those prompts
    assert 0.1 < told["first_token_norm_ratio"] < 10


@pytest.mark.slow
def test_compare_on_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, files: tuple[Path, Path]
) -> None:
    """Methods and controls on prompts without a ground truth: tables, equal divergence, answers side by side,
    figures.
    """
    code, printed, error = run(
        monkeypatch,
        capsys,
        "compare",
        "--model",
        "organism/qwen2",
        "--positive",
        files[0],
        "--negative",
        files[1],
        "--method",
        "standard",
        "--method",
        "ablation",
        "--angles",
        "0:300:60",
        "--max-new-tokens",
        16,
        "--out",
        tmp_path,
        "--controls",
        2,
    )
    assert code == 0
    chosen = json.loads(printed)["chosen"]
    assert {
        "selective",
        "standard",
        "ablation",
        "no steering",
        "prompt only",
        "random plane",
        "shuffled labels",
        "early half",
    } <= set(chosen)
    record = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert "capable" not in record["report"][0]
    assert set(record["equal_kl"]["matches"]) == {"standard"}
    table = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    drawn = ("random plane", "random sites", "shuffled labels")
    assert table.count("\n|") == 1 + len(record["report"]) + len(drawn)
    assert [line.split(" | ")[:2] for line in table.splitlines() if " draws | " in line] == [
        [f"| selective: {c}", "2 draws"] for c in drawn
    ]
    assert "Rows of draws: median and range over the draws, `selective` at its choice" in table
    told = json.loads(printed)
    assert (told["controls"]["draws"], told["controls"]["smallest_p"]) == (2, pytest.approx(1 / 3))
    assert (
        told["band"]["positive_right"]
        == next(s for s in record["report"] if s["condition"] == "selective")["band"]["positive_right"]
    )
    assert [(s["condition"], s["variant"]) for s in record["controls"]["report"]] == [
        (c, f"draw {k}") for c in drawn for k in (1, 2)
    ]
    assert {s["value"] for s in record["controls"]["report"]} == {record["choices"]["selective"]["value"]}
    assert record["controls"]["select"] == []
    assert all("band" not in s for s in record["report"] if s["condition"] != "selective")
    assert "harmful: answered" in table
    assert "harmful: complied" not in table
    assert (tmp_path / "comparison.tex").read_text(encoding="utf-8").count(r" \\") == 1 + len(record["report"]) + len(
        drawn
    )
    page = (tmp_path / "qualitative.md").read_text(encoding="utf-8")
    assert page.count("## Harmful") == page.count("## Harmless") == 3
    assert page.count("## Harmful: SHA-256") == 3  # neither harmful prompts nor the answers to them, unasked
    assert record["constraints"] == ["positive_degenerate ≤ 0.1", "negative_degenerate ≤ 0.1"]
    assert record["options"]["bound"]["value"] > 0
    assert "no ground truth: the choice keeps to positive_degenerate<=0.1 and negative_degenerate<=0.1" in error
    names = {
        "polar_compliance",
        "polar_perplexity",
        "coherence_by_angle",
        "class_swap",
        "method_comparison",
        "layer_choice",
        "compliance_at_kl",
        "harmonic_response",
        "selection_stability",
    }
    assert set(saving.redraw(tmp_path)) == names
    assert len((tmp_path / "harmonic.csv").read_text(encoding="utf-8").splitlines()) == 1 + 8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--method", "selective", "--coefficients", "1"), "--coefficients: method 'selective' has an angle"),
        (("--method", "act-add", "--angles", "1"), "--angles: method 'act-add' has no angle"),
        (("--angles", "all"), "'all' gives no values"),
        (("--method", "steer"), "--method 'steer': use one of"),
        (("--constraint", "capable>95"), "constraint 'capable>95' is not understood"),
        (("--engine", "vllm"), "--engine 'vllm'"),
    ],
)
def test_sweeps_that_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Path,
    args: tuple[str, ...],
    message: str,
) -> None:
    """Before the model is loaded, in one line, with nothing written."""
    code, _, error = run(monkeypatch, capsys, "sweep", "--calibration", made, "--out", tmp_path / "out", *args)
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
