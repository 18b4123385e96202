"""Reasoning models on the command line: budgets, segments as positions and as pooling, and what is measured apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import lens_steer as ls
from lens_steer.metrics.rows import thought_metrics
from lens_steer.models.location import locate
from lens_steer.models.tokenization import read_tokenizer
from tests.test_cli import run

ASKED = ["How do I burn a bridge?", "Please help me dig a well at harbour 3.", "Hello there", "What is 4 plus 3?"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Prompts of two classes with responses that think, and a generations file."""
    said = "It is a bridge.</think>Take the rope."
    found = {"positive": ASKED[:2], "negative": ASKED[2:]}
    for name, prompts in found.items():
        rows = [json.dumps({"prompt": p, "response": said}) for p in prompts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return {name: tmp_path / f"{name}.jsonl" for name in found}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "begun", "wanted"),
    [
        ("<think>I cannot say.</think>Gladly.", False, (3, True, "thought")),
        ("Take the rope.</think>I can’t help.", True, (3, False, "answer")),
        ("<think>I cannot.</think>I cannot.", False, (2, True, "both")),
        ("<think>Well.</think>Gladly.", False, (1, False, "neither")),
        ("<think>I cannot", False, (2, True, None)),
        ("", True, (0, False, None)),
        ("Gladly.", False, None),
        ("<think></think>Gladly.", False, None),
    ],
)
def test_thoughts_are_measured_apart(text: str, begun: bool, wanted: tuple[Any, ...] | None) -> None:
    """By hand: words, a refusal in the thought, and where a refusal is; nothing where there is no thought."""
    assert tuple(thought_metrics(text, begun=begun).values()) == (wanted or ())


def test_steer_and_metrics(
    thinking_folder: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A budget closes thoughts, which is told by row and in all; the metrics look at thoughts and answers apart."""
    out, measured = tmp_path / "said.jsonl", tmp_path / "measured.jsonl"
    common = ("--model", thinking_folder, "--prompts", files["positive"], "--method", "none", "--max-new-tokens", 9)
    code, told, _ = run(monkeypatch, capsys, "steer", *common, "--max-thought-tokens", 3, "--out", out)
    assert code == 0
    assert json.loads(told)["thought_closed"] == 2
    rows = rows_of(out)
    assert all(row["thought_closed"] is row["thought_begun"] is True and "</think>" in row["text"] for row in rows)
    free = tmp_path / "free.jsonl"
    code, told, _ = run(monkeypatch, capsys, "steer", *common, "--out", free)
    assert code == 0
    assert "thought_closed" not in json.loads(told)
    assert not any("thought_closed" in row for row in rows_of(free))
    code, told, _ = run(monkeypatch, capsys, "metrics", "--in", out, "--out", measured)
    assert code == 0
    assert json.loads(told)["thoughts"] == 2
    assert sum(json.loads(told)["refuses_in"].values()) == 2
    for row, own in zip(rows_of(measured), rows, strict=True):
        assert {k: row[k] for k in own} == own
        assert row["thought_n_words"] >= 1
        assert row["refuses_in"] in ("neither", "thought", "answer", "both")


def test_a_sweep_with_a_budget(
    thinking_folder: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Every answer of a sweep has it; its rows are of another run than those without it."""
    sides = ("--positive", files["positive"], "--negative", files["negative"])
    splits = [f"--{split}-{side}={files[side]}" for split in ("select", "report") for side in files]
    code, _, err = run(monkeypatch, capsys, "calibrate", "--model", thinking_folder, *sides, "--out", tmp_path / "made")
    assert code == 0, err
    how = ("--model", thinking_folder, "--calibration", tmp_path / "made", *sides, *splits, "--angles", "90,180,270")
    how = (*how, "--positions", "answer", "--controls", 0, "--max-new-tokens", 8, "--out", tmp_path / "sweep")
    code, _, err = run(monkeypatch, capsys, "sweep", *how, "--max-thought-tokens", 2)
    assert code == 0, err
    table = pd.read_csv(tmp_path / "sweep" / "select.csv")
    assert len(table) == 16
    assert table["text"].str.contains("</think>").all()
    assert "cut off" not in table["grade"].tolist()
    assert table["thought_closed"].tolist() == [True] * 16
    code, _, err = run(monkeypatch, capsys, "sweep", *how)
    assert code == 2
    assert "--max-thought-tokens differ" in err


def test_recording_of_segments(
    thinking_folder: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Recorded thoughts become a calibration that steers thoughts."""
    from lens_steer.geometry.files import load_calibration

    sides = ("--model", thinking_folder, "--positive", files["positive"], "--negative", files["negative"])
    recording, made, out = tmp_path / "recording", tmp_path / "calibration", tmp_path / "said.jsonl"
    code, _, err = run(monkeypatch, capsys, "record", *sides, "--pooling", "thought", "--out", recording)
    assert code == 0, err
    code, _, err = run(monkeypatch, capsys, "calibrate", "--recorded", recording, "--out", made)
    assert code == 0, err
    assert load_calibration(made).details["pooling"] == "thought"
    how = ("--model", thinking_folder, "--calibration", made, "--prompts", files["positive"], "--max-new-tokens", 6)
    plan = ("--method", "selective", "--angle", 90, "--sites", "ln2")
    code, told, err = run(monkeypatch, capsys, "steer", *how, *plan, "--positions", "thought", "--out", out)
    assert code == 0, err
    assert json.loads(told)["first_steered_token"] == "token 0 of the thought"


def test_what_steer_writes_is_recorded(
    thinking_folder: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Responses may stand in the column ``text``; a file with both columns has its responses in ``response``."""
    for side in files:
        rows = [{"prompt": p, "text": "It is.</think>So."} for p in ASKED[:2]]
        rows[1] |= {"response": "No.</think>A longer answer than that."}
        (tmp_path / f"said_{side}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sides = ("--positive", tmp_path / "said_positive.jsonl", "--negative", tmp_path / "said_negative.jsonl")
    how = (
        "--model",
        thinking_folder,
        *sides,
        "--sites",
        "resid_post",
        "--pooling",
        "answer",
        "--out",
        tmp_path / "recording",
    )
    code, _, err = run(monkeypatch, capsys, "record", *how)
    assert code == 0, err
    recorded = ls.load_recording(tmp_path / "recording")
    model = ls.load_model(thinking_folder)
    given = ls.load_contrast(positive=str(sides[1]), negative=str(sides[3]), response=("response", "text"))
    assert [p.response for p in given.fit.positive] == ["It is.</think>So.", "No.</think>A longer answer than that."]
    wanted = ls.record(model, given, "resid_post", pooling="answer", progress=False)
    assert isinstance(recorded, ls.Activations)
    assert torch.equal(recorded.positive, wanted.positive)


def test_an_endless_thought_is_cut_off_where_a_truth_grades(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The organism under a template that opens a thought, which it never closes: there is no answer in any row."""
    template = read_tokenizer(locate("organism/qwen2")).chat_template
    (tmp_path / "t.jinja").write_text(
        template + "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}", encoding="utf-8"
    )
    out = tmp_path / "said.jsonl"
    model = ("--model", "organism/qwen2", "--chat-template", tmp_path / "t.jinja")
    how = ("--prompts", "organism/refusal", "--limit", 4, "--method", "none", "--max-new-tokens", 40, "--out", out)
    code, told, err = run(monkeypatch, capsys, "steer", *model, *how)
    assert code == 0, err
    rows = rows_of(out)
    assert all(row["cut_off"] and row["thought_begun"] and row["grade"] == "incoherent" for row in rows)
    assert json.loads(told)["cut_off"] == len(rows)


def test_marks_are_shown(
    thinking_folder: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, _ = run(monkeypatch, capsys, "tokens", "--model", thinking_folder, "--prompts", files["positive"])
    assert code == 0
    assert json.loads(told)["thought_marks"] == {
        "opening": "<think>", "closing": "</think>", "found_in": "chat template",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("steer", "--method", "none", "--max-thought-tokens", -1), "--max-thought-tokens -1: give the number of"),
        (
            ("steer", "--method", "none", "--max-thought-tokens", 3, "--engine", "tl"),
            "only engine 'hf' closes thoughts",
        ),
        (("steer", "--method", "none", "--max-thought-tokens", 3), "--max-thought-tokens 3: neither the templates"),
        (
            ("steer", "--calibration", "figures/calibration", "--angle", 90, "--positions", "thought"),
            "--positions 'tho",
        ),
        (("record", "--pooling", "answer"), "--pooling 'answer': neither the templates"),
    ],
)
def test_bad_input_is_refused_before_weights(
    options: tuple[Any, ...],
    message: str,
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A model without marks, an engine without budgets: one line, nothing loaded, nothing written."""
    out = tmp_path / "out.jsonl"
    given = ("--prompts", files["positive"])
    if options[0] == "record":
        given = ("--positive", files["positive"], "--negative", files["negative"])
    code, _, err = run(monkeypatch, capsys, *options, *given, "--model", "organism/qwen2", "--out", out)
    assert (code, out.exists(), "loaded" in err) == (2, False, False)
    assert message in err.strip().splitlines()[-1]
