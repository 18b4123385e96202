"""Inputs as they come in the field through the command line, on a pretrained model's tokenizer and on copies of an
organism's folder with one file edited.

What needs neither is in ``tests/test_tokens.py`` and ``tests/test_prompt_sources.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import lens_steer as ls
from lens_steer.models.location import ORGANISM_FOLDER
from tests.real.conftest import SMOL
from tests.test_cli import run

Told = Callable[..., tuple[Any, str]]


@pytest.fixture
def lens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Told:
    """A command in this process: what it printed, and what it told, warnings first; where code 2 is expected, nothing
    is printed.
    """

    def call(*args: object, code: int = 0) -> tuple[Any, str]:
        caplog.clear()
        found, out, err = run(monkeypatch, capsys, *args)
        err = "\n".join([*caplog.messages, err])
        assert found == code, err
        assert "Traceback" not in err
        if code:
            assert out == ""
        return (json.loads(out) if out else None), err

    return call


@pytest.fixture
def weightless(models: Path, tmp_path: Path) -> Path:
    """The pretrained model's folder without its weights: what is refused is refused before one is read."""
    return Path(shutil.copytree(models / SMOL, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors")))


def edited(folder: Path, **changes: Any) -> Path:
    """A copy of an organism's folder with its configuration changed."""
    shutil.copytree(ORGANISM_FOLDER / "qwen2", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def last(err: str) -> str:
    """The line that tells an error."""
    return err.strip().splitlines()[-1]


def test_thoughts_are_no_answers(field: Path, lens: Told, tmp_path: Path) -> None:
    """``metrics`` calls each row what the file says that it is, of the answer alone; a thought that never ends has no
    numbers.
    """
    said, _ = lens("metrics", "--in", field / "thinking.jsonl", "--out", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    named = {"refused late": "refused", "cut off inside the thought": "cut off"}
    assert [row["outcome"] for row in rows] == [named.get(row["is"], row["is"]) for row in rows]
    assert said["outcomes"] == {"answered": 2, "refused": 2, "cut off": 1}
    for row in rows:
        answered = row["outcome"] != "cut off"
        assert (row["n_words"] is not None) is answered
        assert row["refusal_12_normalized"] == (row["outcome"] == "refused" if answered else None)
    assert len({row["n_words"] for row in rows if row["is"] == "answered"}) == 1  # the same words behind either thought


def test_ids_are_the_same_on_every_day(
    field: Path, lens: Told, weightless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template writes today's date, which Transformers' own ids follow and ours do not; the date is an option."""
    from transformers.utils import chat_template_utils

    tokenizer = AutoTokenizer.from_pretrained(weightless)
    tokenizer.chat_template = (field / "date.jinja").read_text(encoding="utf-8")
    args = (
        "tokens",
        "--model",
        weightless,
        "--chat-template",
        field / "date.jinja",
        "--prompts",
        field / "text.jsonl",
        "--limit",
        1,
    )
    ours, theirs = [], []
    for day in (datetime(2026, 3, 1), datetime(2027, 11, 30)):
        frozen = type("Frozen", (datetime,), {"now": classmethod(lambda cls, tz=None, day=day: day)})
        monkeypatch.setattr(chat_template_utils, "datetime", frozen)
        ours.append(lens(*args)[0])
        chat = [{"role": "user", "content": ours[-1]["prompts"][0]["prompt"]}]
        theirs.append(tokenizer.apply_chat_template(chat, tokenize=False))
    assert theirs[0] != theirs[1]
    assert ours[0] == ours[1]
    assert "Today is 01 January 2025" in ours[0]["prompts"][0]["text"]
    assert ours[0]["template"]["date"] == "2025-01-01"
    other, _ = lens(*args, "--template-date", "2024-02-29")
    assert "Today is 29 February 2024" in other["prompts"][0]["text"]


def test_a_dropped_system_message_is_refused_before_a_weight_is_read(
    field: Path, lens: Told, weightless: Path, tmp_path: Path
) -> None:
    """In a line, and nothing is left of the file that was to be written."""
    (tmp_path / "asked.jsonl").write_text('{"prompt": "Hello", "system": "Be brief."}\n', encoding="utf-8")
    _, err = lens(
        "steer",
        "--model",
        weightless,
        "--method",
        "none",
        "--prompts",
        tmp_path / "asked.jsonl",
        "--chat-template",
        field / "drops_system.jinja",
        "--out",
        tmp_path / "out.jsonl",
        code=2,
    )
    assert "the chat template leaves out the system message" in last(err)
    assert not (tmp_path / "out.jsonl").exists()


def test_template_arguments_are_recorded_and_a_mismatch_is_told(
    field: Path, lens: Told, models: Path, tmp_path: Path
) -> None:
    """Calibration, sweep, generations and certificate carry them; steering without them says so. A prompt that stands
    in both classes is told on the way.
    """
    thinks = ("--model", models / SMOL, "--dtype", "bfloat16", "--chat-template", field / "thinks.jinja")
    off = ("--template-args", '{"enable_thinking": false}')
    _, err = lens(
        "calibrate",
        *thinks,
        *off,
        "--positive",
        field / "both.jsonl",
        "--negative",
        field / "text.jsonl",
        "--rule",
        "effect",
        "--bound",
        0.5,
        "--out",
        tmp_path / "cal",
    )
    assert "1 prompt stands in both classes" in err
    record = json.loads((tmp_path / "cal" / "calibration.json").read_text(encoding="utf-8"))
    assert record["template"]["args"] == {"enable_thinking": False}
    steer = (
        "steer",
        *thinks,
        "--calibration",
        tmp_path / "cal",
        "--method",
        "selective",
        "--angle",
        30,
        "--prompts",
        field / "text.jsonl",
        "--limit",
        2,
        "--max-new-tokens",
        2,
    )
    _, same = lens(*steer, *off, "--out", tmp_path / "same.jsonl")
    _, other = lens(*steer, "--out", tmp_path / "other.jsonl")
    assert "chat template" not in same
    assert "args {'enable_thinking': False} and {}" in other
    shorts = [
        json.loads((tmp_path / f"{n}.jsonl").read_text(encoding="utf-8").splitlines()[0])["chat_template"]
        for n in ("same", "other")
    ]
    assert shorts[0] != shorts[1]
    files = [f"--{part}{side}" for part in ("select-", "report-") for side in ("positive", "negative")]
    lens(
        "sweep",
        *thinks,
        *off,
        "--calibration",
        tmp_path / "cal",
        *(v for f in files for v in (f, field / ("both.jsonl" if "pos" in f else "text.jsonl"))),
        "--limit",
        3,
        "--angles",
        "30",
        "--controls",
        0,
        "--max-new-tokens",
        2,
        "--out",
        tmp_path / "sweep",
    )
    swept = json.loads((tmp_path / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert swept["meta"]["chat_template"]["args"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("broken_row.jsonl", "row 6: not valid JSON"),
        ("saved_test_split", "its splits are 'test', its columns 'question'; name one as saved_test_split@SPLIT"),
    ],
)
def test_files_that_cannot_be_read_are_a_line(
    field: Path, lens: Told, weightless: Path, source: str, message: str
) -> None:
    """Before anything else is."""
    _, err = lens(
        "calibrate",
        "--model",
        weightless,
        "--positive",
        field / source,
        "--negative",
        field / "text.jsonl",
        "--out",
        weightless / "cal",
        code=2,
    )
    assert message in last(err)
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["goal_target.csv", "question.tsv", "prompts.parquet", "nested.json", "saved_test_split@test"]
)
def test_files_are_read_by_the_command(field: Path, lens: Told, weightless: Path, name: str) -> None:
    """The column is told on the first line, and the eight prompts are the ones."""
    said, err = lens("tokens", "--model", weightless, "--prompts", field / name)
    assert err.splitlines()[0].startswith(f"read {name}: column ")
    assert err.splitlines()[0].endswith("8 prompts")
    assert [row["prompt"].rstrip(".")[-1] for row in said["prompts"]] == list("12345678")


def test_folders_that_lack_something_are_a_line(lens: Told, tmp_path: Path) -> None:
    """No tokenizer files; an untied head that is not there; an adapter without its base."""
    bare = edited(tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()
    headless = edited(tmp_path / "headless", tie_word_embeddings=False)
    (tmp_path / "adapter").mkdir()
    facts = {"base_model_name_or_path": "some/base", "peft_type": "LORA"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(facts), encoding="utf-8")
    (tmp_path / "asked.txt").write_text("Hello\n", encoding="utf-8")
    for folder, message in (
        (bare, "has no tokenizer"),
        (headless, "lack 'lm_head.weight'"),
        (tmp_path / "adapter", "holds an adapter and no model: load its base, 'some/base', with --adapter "),
    ):
        _, err = lens(
            "steer",
            "--model",
            folder,
            "--method",
            "none",
            "--prompts",
            tmp_path / "asked.txt",
            "--out",
            tmp_path / "o.jsonl",
            code=2,
        )
        assert message in last(err), err


def test_small_and_blank_classes_are_told(lens: Told, weightless: Path, tmp_path: Path, models: Path) -> None:
    """Blank prompts are left out and counted, a file of them alone is refused; a class with one prompt is calibrated
    from and called few.
    """
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    (tmp_path / "one.jsonl").write_text('{"prompt": "Hello"}\n{"prompt": " "}\n', encoding="utf-8")
    (tmp_path / "two.jsonl").write_text('{"prompt": "How are you?"}\n{"prompt": "Good day"}\n', encoding="utf-8")
    _, err = lens(
        "calibrate",
        "--model",
        weightless,
        "--positive",
        tmp_path / "blank.txt",
        "--negative",
        tmp_path / "two.jsonl",
        "--out",
        tmp_path / "c",
        code=2,
    )
    assert "holds no prompts" in last(err)
    said, err = lens(
        "calibrate",
        "--model",
        models / SMOL,
        "--dtype",
        "bfloat16",
        "--positive",
        tmp_path / "one.jsonl",
        "--negative",
        tmp_path / "two.jsonl",
        "--out",
        tmp_path / "cal",
    )
    assert "one.jsonl: left out 1 row whose prompt is blank" in err
    assert "positive: one prompt in fit" in err
    assert ls.load_calibration(tmp_path / "cal").n_positive == 1
    assert said["n_sites"] == 60
