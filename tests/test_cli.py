"""The command line: what it writes, and one line with code 2 for every error a user can make."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lens_steer.cli import app as cli
from lens_steer.steer.method_table import METHODS


@pytest.fixture(scope="session")
def streamed(tmp_path_factory: pytest.TempPathFactory, qwen: Any, refusal: Any) -> Path:
    """A calibration whose direction was read in the stream."""
    import lens_steer as ls

    folder = tmp_path_factory.mktemp("streamed") / "calibration"
    ls.save_calibration(ls.calibrate(ls.record(qwen, refusal, "resid_pre", progress=False)), folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["lens-steer", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_calibrate_geometry_steer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The three commands in a row, from prompt files to graded and ungraded generations."""
    harmful, harmless = tmp_path / "harmful.csv", tmp_path / "harmless.json"
    harmful.write_text(
        "goal\nHow do I destroy the bridge?\nHelp me build a bomb.\nTell me how to burn the school.\n", encoding="utf-8"
    )
    harmless.write_text(
        json.dumps(
            [{"instruction": t, "input": ""} for t in ("How do I build the bridge?", "Help me destroy a bomb.")]
        ),
        encoding="utf-8",
    )
    code, out, _ = run(
        monkeypatch,
        capsys,
        "calibrate",
        "--model",
        "organism/qwen2",
        "--positive",
        harmful,
        "--negative",
        harmless,
        "--sites",
        "resid_post",
        "--out",
        tmp_path / "cal",
    )
    assert code == 0
    assert json.loads(out)["n_sites"] == 12
    facts = json.loads((tmp_path / "cal" / "calibration.json").read_text())
    assert (facts["n_positive"], facts["n_negative"], facts["rule"]) == (3, 2, "paper")
    code, out, _ = run(monkeypatch, capsys, "geometry", "--calibration", tmp_path / "cal", "--out", tmp_path / "geo")
    assert code == 0
    assert set(json.loads(out)["figures"]) >= {"cosine_matrix", "class_projections", "class_norms", "plane_path"}
    assert all((tmp_path / "geo" / f"cosine_matrix.{e}").exists() for e in ("pdf", "png", "csv", "json"))
    code, out, _ = run(
        monkeypatch,
        capsys,
        "steer",
        "--model",
        "organism/qwen2",
        "--calibration",
        tmp_path / "cal",
        "--prompts",
        harmless,
        "--angle",
        0,
        "--max-new-tokens",
        40,
        "--out",
        tmp_path / "out.jsonl",
    )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert code == 0
    assert [r["prompt"] for r in rows] == ["How do I build the bridge?", "Help me destroy a bomb."]
    assert all(r["method"] == "selective" and r["angle"] == 0 and "1. Take the" in r["text"] for r in rows)


def test_geometry_of_an_import_says_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, reference: Path
) -> None:
    """Published calibrations never had class means."""
    source = reference / "ss_raw" / "Qwen2.5-3B-Instruct"
    code, out, _ = run(monkeypatch, capsys, "import", "official", source, "--out", tmp_path / "cal")
    assert code == 0
    assert json.loads(out)["selected_site"] == "blocks.27.ln1.hook_out"
    code, out, _ = run(monkeypatch, capsys, "geometry", "--calibration", tmp_path / "cal", "--out", tmp_path / "geo")
    result = json.loads(out)
    assert code == 0
    assert "left out" in result["note"]
    assert "class_projections" not in result["figures"]


BAD = [
    (("calibrate", "--model", "organism/none", "--out", "{tmp}/x"), "unknown organism"),
    (
        ("calibrate", "--positive", "{tmp}/absent.txt", "--negative", "{tmp}/absent.txt", "--out", "{tmp}/x"),
        "does not exist",
    ),
    (("calibrate", "--positive", "{tmp}/one.txt", "--out", "{tmp}/x"), "negative is missing"),
    (
        ("calibrate", "--positive", "{tmp}/empty.txt", "--negative", "{tmp}/one.txt", "--out", "{tmp}/x"),
        "holds no prompts",
    ),
    (("calibrate", "--rule", "other", "--out", "{tmp}/x"), "--rule 'other'"),
    (("calibrate", "--sites", "nowhere", "--out", "{tmp}/x"), "site 'nowhere' is unknown"),
    (("calibrate", "--split", "a,b", "--out", "{tmp}/x"), "--split"),
    (("calibrate", "--out", "{tmp}/one.txt/x"), "cannot be written"),
    (("report", "--out", "{tmp}/one.txt"), "cannot be written"),
    (("report", "--contrast", "organism/none", "--out", "{tmp}/x"), "organism/refusal"),
    (("geometry", "--calibration", "{tmp}/absent", "--out", "{tmp}/x"), "lens-steer calibrate"),
    (("figures", "redraw", "{tmp}"), "holds no figure data"),
    (("import", "official", "{tmp}", "--out", "{tmp}/x"), "directions.pt"),
    (("steer", "--model", "organism/qwen2"), "Missing"),
    (("nonsense",), "nonsense"),
]


@pytest.mark.parametrize(("args", "message"), BAD)
def test_bad_input_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    args: tuple[str, ...],
    message: str,
) -> None:
    """One line on the error stream that says what to do, and nothing written."""
    (tmp_path / "one.txt").write_text("Hello\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    code, out, err = run(monkeypatch, capsys, *(a.format(tmp=tmp_path) for a in args))
    lines = [line for line in err.splitlines() if line.startswith("lens-steer: ")]
    assert code == 2
    assert out == ""
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} == {"one.txt", "empty.txt"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--angle": "north"}, "--angle 'north' is not a number"),
        ({"--angle": "nan"}, "not a finite number"),
        ({"--method": "sideways"}, "--method 'sideways'"),
        ({"--method": "ablation"}, "--angle '90': method 'ablation' does not take it"),
        ({"--coefficient": "2"}, "--coefficient '2': method 'selective' does not take it"),
        ({"--engine": "tgi"}, "--engine 'tgi': use one of tl, hf, vllm"),
        ({"--positions": "some"}, "--positions 'some'"),
        ({"--sites": "blocks.40.hook_resid_pre"}, "does not exist in this model"),
        ({"--plan": "{tmp}/plan"}, "give one of --calibration, --probe (with --method) and --plan"),
        ({"--model": "organism/llama"}, "calibrate on this model"),
        ({"--prompts": "organism/none"}, "unknown contrast"),
        ({"--out": "{tmp}/file/x.jsonl"}, "cannot be written"),
        ({"--out": "{tmp}"}, "is a folder"),
        ({"--save-plan": "{tmp}/file/plan"}, "cannot be written"),
    ],
)
def test_bad_steering_input(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Path,
    change: dict[str, str],
    message: str,
) -> None:
    """Every argument of ``steer`` is checked, and no output file appears."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    args = {
        "--model": "organism/qwen2",
        "--calibration": str(made),
        "--prompts": "organism/refusal",
        "--angle": "90",
        "--out": "{tmp}/o.jsonl",
    }
    flat = [part.format(tmp=tmp_path) for pair in (args | change).items() for part in pair]
    code, _, err = run(monkeypatch, capsys, "steer", *flat)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


STEERED = {
    "selective": ["--angle", 120, "--positions", "prompt[-1]+generated"],
    "standard": ["--angle", 120],
    "adaptive": ["--angle", 120, "--threshold", -1, "--gate-axis", 1],
    "mean-phase": ["--angle", 120],
    "act-add": ["--coefficient", -1],
    **{f"{name}-everywhere": ["--angle", 90] for name in ("standard", "adaptive")},
    "clamp": ["--target", "0.5", "--sites", "ln2"],
    "sttp": ["--coefficient", 2, "--gate", "above"],
}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_steers(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    streamed: Path,
    made: Path,
    method: str,
) -> None:
    """From the command line, on both engines, with effects; a saved plan does the same again."""
    args = ["--model", "organism/qwen2", "--prompts", tmp_path / "p.txt", "--max-new-tokens", 4]
    (tmp_path / "p.txt").write_text("How do I build the bridge?\nHelp me destroy the school.\n", encoding="utf-8")
    chosen = [
        "--calibration",
        streamed if method == "ablation-everywhere" else made,
        "--method",
        method,
        *STEERED.get(method, []),
    ]
    code, out, _ = run(
        monkeypatch,
        capsys,
        "steer",
        *args,
        *chosen,
        "--effects",
        "--engine",
        "tl",
        "--save-plan",
        tmp_path / "plan",
        "--out",
        tmp_path / "tl.jsonl",
    )
    told = json.loads(out)
    assert code == 0
    assert told["method"] == method
    assert 0 <= told["gate_fire_rate"] <= 1
    assert {row["site"] for row in told["effects"]}
    assert (
        run(
            monkeypatch,
            capsys,
            "steer",
            *args,
            "--plan",
            tmp_path / "plan",
            "--engine",
            "hf",
            "--out",
            tmp_path / "hf.jsonl",
        )[0]
        == 0
    )
    assert (tmp_path / "tl.jsonl").read_text() == (tmp_path / "hf.jsonl").read_text()


def test_a_plan_and_a_method_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    """Said before anything is loaded."""
    args = [
        "--model",
        "organism/qwen2",
        "--prompts",
        "organism/refusal",
        "--plan",
        tmp_path,
        "--angle",
        9,
        "--out",
        tmp_path / "o.jsonl",
    ]
    code, _, err = run(monkeypatch, capsys, "steer", *args)
    assert (code, "already says all of it: leave out angle" in err) == (2, True)


def test_the_help_of_steer_has_a_line_for_every_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Name and line, as the table has them."""
    out = " ".join(run(monkeypatch, capsys, "steer", "--help")[1].split())
    for name, method in METHODS.items():
        assert f"{name}: {method.help}" in out


def test_help_of_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command explains itself."""
    for command in (["report"], ["calibrate"], ["geometry"], ["steer"], ["import", "official"], ["figures", "redraw"]):
        code, out, _ = run(monkeypatch, capsys, *command, "--help")
        assert code == 0
        assert "--help" in out
