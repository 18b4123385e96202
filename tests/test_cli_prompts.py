"""The options that say which prompts: what was read is the first line, and what is wrong is told before a model is
loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from tests.test_cli import run


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Forty prompts a side, under unlike columns."""
    held = ls.load_contrast("organism/refusal").fit
    paths = {}
    for name, column, prompts in (("p", "Goal", held.positive), ("n", "query", held.negative)):
        paths[name] = tmp_path / f"{name}.jsonl"
        rows = [{column: p.text, "text": f"something else {i}"} for i, p in enumerate(prompts[:40])]
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


@pytest.fixture
def lens_steer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command: its code, the JSON that it wrote, the lines of the error stream."""

    def command(*args: object) -> tuple[int, dict[str, Any], list[str]]:
        code, out, err = run(monkeypatch, capsys, *args)
        return code, json.loads(out) if out else {}, [line for line in err.splitlines() if line.strip()]

    return command


def test_what_was_read_is_the_first_line(lens_steer: Any, files: dict[str, Path], tmp_path: Path) -> None:
    """Of calibrate, and of a sweep, a steering and a divergence with its calibration: which count what is not held
    out.
    """
    sides = ["--positive", files["p"], "--negative", files["n"], "--limit", 24, "--seed", 2]
    code, _, err = lens_steer(
        "calibrate", *sides, "--split", "2,1,1", "--sites", "resid_post", "--out", tmp_path / "cal"
    )
    read = (
        "read p.jsonl: column 'Goal', 24 of 40 prompts (seed 2); n.jsonl: column 'query', 24 of 40 prompts (seed 2); "
    )
    assert (code, err[0]) == (0, read + "fit 12+12, select 6+6, report 6+6")
    assert json.loads((tmp_path / "cal" / "calibration.json").read_text())["n_positive"] == 12

    more = [
        "--calibration",
        tmp_path / "cal",
        "--angles",
        "0,90",
        "--max-new-tokens",
        4,
        "--constraint",
        "violation<=1",
    ]
    code, _, err = lens_steer("sweep", *sides, "--split", "2,1,1", *more, "--out", tmp_path / "held_out")
    assert (code, err[0]) == (0, read + "fit 12+12, select 6+6, report 6+6")
    assert not [line for line in err if line.startswith("warning:")]
    code, _, err = lens_steer("sweep", *sides, "--split", "0,1,1", *more, "--out", tmp_path / "seen")
    assert (code, err[0]) == (0, read + "fit 0+0, select 12+12, report 12+12")
    (told,) = [line for line in err if line.startswith("warning:")]
    assert (
        "24 of 24 select prompts are among those that the calibration was made from" in told
    )  # the deal is the same, fit comes first in it

    steered = ["--calibration", tmp_path / "cal", "--angle", 90]
    code, _, err = lens_steer(
        "steer",
        "--model",
        "organism/qwen2",
        *steered,
        "--prompts",
        files["n"],
        "--column",
        "QUERY",
        "--limit",
        "3,first",
        "--max-new-tokens",
        4,
        "--out",
        tmp_path / "o.jsonl",
    )
    assert (code, err[0]) == (0, "read n.jsonl: column 'query', 3 of 40 prompts (the first)")
    code, told, err = lens_steer(
        "divergence", *steered, "--responses", tmp_path / "o.jsonl", "--limit", 2, "--seed", 1, "--out", tmp_path / "kl"
    )
    assert (code, err[0], told["n"]) == (0, "read o.jsonl: column 'prompt', 2 of 3 prompts (seed 1)", 2)


def test_a_fit_split_that_nothing_is_fitted_on_is_told(
    lens_steer: Any, files: dict[str, Path], made: Path, tmp_path: Path
) -> None:
    """With a calibration from elsewhere a sweep leaves half of the prompts aside: it says so, and that they are few
    concerns nobody.
    """
    sides = [
        "--positive",
        files["p"],
        "--negative",
        files["n"],
        "--column",
        "text",
        "--limit",
        8,
        "--calibration",
        made,
    ]
    more = ["--angles", "0,90", "--max-new-tokens", 2, "--controls", 0, "--dry-run"]
    code, _, err = lens_steer("sweep", *sides, *more, "--out", tmp_path / "s")
    assert code == 0
    assert err[0].endswith("fit 4+4, select 2+2, report 2+2")
    (told,) = [line for line in err if "whose 4+4 prompts are not run; --split 0,0.5,0.5 leaves none to it" in line]
    assert told.endswith("none of them is among those of select or report")
    assert not [line for line in err if "are few" in line]
    code, _, err = lens_steer("sweep", *sides, *more, "--split", "0,0.5,0.5", "--out", tmp_path / "s")
    assert (code, err[0].endswith("fit 0+0, select 4+4, report 4+4")) == (0, True)
    assert not [line for line in err if "are not run" in line]


@pytest.mark.slow
def test_an_old_calibration_is_told_as_before(lens_steer: Any, made: Path, tmp_path: Path) -> None:
    """One that does not know its prompts one by one, against another draw of the organism's contrast."""
    old = tmp_path / "old"
    old.mkdir()
    facts = json.loads((made / "calibration.json").read_text())
    del facts["prompt_hashes_positive"], facts["prompt_hashes_negative"]
    (old / "calibration.json").write_text(json.dumps(facts))
    (old / "calibration.safetensors").write_bytes((made / "calibration.safetensors").read_bytes())
    code, _, err = lens_steer(
        "sweep",
        "--limit",
        "2",
        "--calibration",
        old,
        "--angles",
        "0,90",
        "--max-new-tokens",
        2,
        "--out",
        tmp_path / "s",
    )
    assert (code, err[0]) == (0, "read organism/refusal: fit 2+2, select 2+2, report 2+2")
    assert [line for line in err if "was made from other prompts" in line]


def test_select_and_report_as_files(lens_steer: Any, files: dict[str, Path], made: Path, tmp_path: Path) -> None:
    """The default split leaves their parts out; a sweep needs no others; each is limited."""
    held = ls.load_contrast("organism/refusal")
    own = []
    for part in ("select", "report"):
        for side in ("positive", "negative"):
            path = tmp_path / f"{part}_{side}.json"
            path.write_text(json.dumps([p.text for p in getattr(getattr(held, part), side)][:9]), encoding="utf-8")
            own += [f"--{part}-{side}", path]
    code, _, err = lens_steer(
        "sweep",
        *own,
        "--limit",
        2,
        "--calibration",
        made,
        "--angles",
        "0,90",
        "--max-new-tokens",
        2,
        "--out",
        tmp_path / "s",
    )
    assert code == 0
    assert err[0].startswith("read select_positive select_positive.json: 2 of 9 prompts (seed 0); ")
    assert err[0].endswith("; fit 0+0, select 2+2, report 2+2")
    assert [line for line in err if line.endswith("fit split; none of them is among those of select or report")]
    from lens_steer.cli.prompting import Prompts

    sides: dict[str, Any] = {"positive": str(files["p"]), "negative": str(files["n"])}
    paths = dict(
        zip(
            ("select_positive", "select_negative", "report_positive", "report_negative"),
            map(str, own[1::2]),
            strict=True,
        )
    )
    report: dict[str, Any] = {k: v for k, v in paths.items() if k.startswith("report")}
    assert Prompts(**sides).read().split.sizes == "fit 20+20, select 10+10, report 10+10"
    assert Prompts(**sides, **report).read().split.sizes == "fit 27+27, select 13+13, report 9+9"
    assert Prompts(**sides, **paths).read().split.sizes == "fit 40+40, select 9+9, report 9+9"
    assert Prompts(**sides, **paths).read(split=None).split.sizes == "fit 40+40, select 9+9, report 9+9"


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        (
            "calibrate",
            ["--positive", "{p}", "--negative", "{n}", "--column", "Goal"],
            "n.jsonl' has no column 'Goal': its columns are 'query', 'text'",
        ),
        ("calibrate", ["--positive", "{p}", "--negative", "{n}", "--limit", "few"], "--limit 'few': give a number"),
        (
            "calibrate",
            ["--positive", "{p}", "--negative", "{n}", "--split", "0,0.5,0.5"],
            "there is no prompt to fit on: --split 0,0.5,0.5",
        ),
        ("report", ["--select-positive", "{p}", "--select-negative", "{n}"], "positive is missing"),
        (
            "compare",
            [
                "--select-positive",
                "{p}",
                "--select-negative",
                "{n}",
                "--report-positive",
                "{p}",
                "--report-negative",
                "{n}",
            ],
            "give --positive and --negative",
        ),
        ("probe", ["--split", "1,1,1"], "--split 1,1,1: an organism's contrast comes with its split; leave it out"),
        ("steer", ["--prompts", "{p}", "--column", "x", "--calibration", "{cal}"], "has no column 'x'"),
        ("plan-resources", ["--prompts", "{p}", "--limit", "0"], "--limit '0'"),
        ("sweep", ["--positive", "{p}", "--negative", "hf:x@", "--calibration", "{cal}"], "write hf:NAME"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    lens_steer: Any, files: dict[str, Path], made: Path, tmp_path: Path, command: str, args: list[str], message: str
) -> None:
    """With code 2 and one line; the model named does not exist."""
    flat = [a.format(**files, cal=made) for a in args]
    out = [] if command == "plan-resources" else ["--out", tmp_path / ("o.jsonl" if command == "steer" else "o")]
    model = "organism/qwen2" if command == "plan-resources" else "organism/none"
    code, _, err = lens_steer(command, "--model", model, *flat, *out)
    assert (code, len([line for line in err if line.startswith("lens-steer: ")])) == (2, 1)
    assert message in err[-1]


def test_a_column_for_each_class(lens_steer: Any, files: dict[str, Path], tmp_path: Path) -> None:
    """``--column`` twice."""
    sides = ["--positive", files["p"], "--negative", files["n"], "--column", "text", "--column", "query", "--limit", 4]
    code, _, err = lens_steer("calibrate", *sides, "--sites", "resid_post", "--out", tmp_path / "cal")
    assert (code, "column 'text', 4 of 40" in err[0], "column 'query', 4 of 40" in err[0]) == (0, True, True)
