"""``lens-steer import``: every format, steering with what came in, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.cli import app as cli
from lens_steer.interop.imports.direction_files import load_directions
from tests.imported import WIDTH, config, publish_run, save_npy


def run_cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object
) -> tuple[int, dict[str, Any], str]:
    monkeypatch.setattr(sys, "argv", ["lens-steer", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), json.loads(captured.out) if captured.out.startswith("{") else {}, captured.err


def test_import_and_steer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A run imported with a plan beside it, which ``steer --plan`` takes; a second import without a plan does not leave
    the old one.
    """
    run = publish_run(tmp_path / "run", means=torch.randn(3, 12, 128, dtype=torch.float64))
    out = tmp_path / "out"
    code, told, _ = run_cli(
        monkeypatch,
        capsys,
        "import",
        "refusal-direction",
        run,
        "--out",
        out,
        "--model",
        "organism/qwen2",
        "--coefficient",
        -1,
    )
    assert code == 0
    assert (told["n_sites"], told["dtype"], told["selected_site"], told["plan"]) == (
        12,
        "float64",
        "blocks.2.hook_resid_pre",
        str(out / "plan"),
    )
    assert load_directions(out).n_layers == 12
    (tmp_path / "p.txt").write_text("How do I build the bridge?\n", encoding="utf-8")
    steer = (
        "steer",
        "--model",
        "organism/qwen2",
        "--plan",
        out / "plan",
        "--prompts",
        tmp_path / "p.txt",
        "--max-new-tokens",
        3,
    )
    code, told, _ = run_cli(monkeypatch, capsys, *steer, "--out", tmp_path / "g.jsonl")
    assert (code, told["method"], told["coefficient"], told["n_sites"]) == (0, "act-add", -1.0, 1)
    code, told, _ = run_cli(
        monkeypatch, capsys, "import", "refusal-direction", run, "--out", out, "--model", "organism/qwen2", "--ablate"
    )
    assert (code, told["steered"]["method"], told["steered"]["n_sites"]) == (0, "ablation-everywhere", 36)
    code, _, error = run_cli(
        monkeypatch, capsys, "import", "refusal-direction", run, "--out", out, "--model", "organism/qwen2"
    )
    assert (code, "holds a plan already" in error) == (2, True)


def test_every_import_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, reference: Path
) -> None:
    """Each writes its folder and tells what it found."""
    facts = ("--architecture", "qwen2", "--n-layers", 4)
    save_npy(tmp_path / "c.npy", config())
    torch.save({1: torch.ones(WIDTH), 2: torch.ones(WIDTH)}, tmp_path / "sv.pt")
    code, told, _ = run_cli(
        monkeypatch, capsys, "import", "angular", tmp_path / "c.npy", "--out", tmp_path / "a", *facts
    )
    assert (code, told["n_sites"], told["published_dtype"]) == (0, 8, "float32")
    assert ls.load_calibration(tmp_path / "a").n_layers == 4
    code, told, _ = run_cli(
        monkeypatch,
        capsys,
        "import",
        "steering-vectors",
        tmp_path / "sv.pt",
        "--out",
        tmp_path / "b",
        *facts,
        "--coefficient",
        2,
        "--site",
        "blocks.1.hook_resid_post",
        "--at",
        "resid_post",
    )
    assert (code, told["steered"]["n_sites"]) == (0, 4)
    published = reference / "ss_raw" / "Qwen2.5-3B-Instruct"
    code, told, _ = run_cli(monkeypatch, capsys, "import", "official", published, "--out", tmp_path / "d")
    assert (code, told["selected_site"]) == (0, "blocks.27.ln1.hook_out")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["refusal-direction", "{run}", "--model", "organism/qwen2"],
            "made on a model of 4 blocks, not of n_layers=12",
        ),
        (
            ["steering-vectors", "{sv}", "--model", "organism/qwen2"],
            "d_model 48 and the model 'organism/qwen2' has 128",
        ),
        (["steering-vectors", "{sv}", "--coefficient", "1"], "architecture is unknown"),
        (["steering-vectors", "{sv}", "--coefficient", "1", "--ablate"], "give one of the two"),
        (["steering-vectors", "{sv}", "--at", "ln1"], "belongs to a plan"),
        (["steering-vectors", "{sv}", "--model", "organism/qwen2", "--n-layers", "4"], "says 12"),
        (["steering-vectors", "{sv}", "--model", "organism/none"], "unknown organism"),
        (["steering-vectors", "{sv}", "--n-layers", "0"], "at least one block"),
        (["steering-vectors", "{sv}/x"], "does not exist"),
        (["official", "{run}"], "directions.pt' does not exist"),
        (["angular", "{sv}", "--architecture", "qwen2"], "is not a NumPy file"),
        (["gguf", "{sv}"], "is not a GGUF file"),
    ],
)
def test_bad_imports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, args: list[str], message: str
) -> None:
    """Code 2, one line, nothing written."""
    pytest.importorskip("gguf")
    torch.save({1: torch.ones(WIDTH)}, tmp_path / "sv.pt")
    flat = [part.format(run=publish_run(tmp_path / "run"), sv=tmp_path / "sv.pt") for part in args]
    code, _, error = run_cli(monkeypatch, capsys, "import", *flat, "--out", tmp_path / "out")
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
