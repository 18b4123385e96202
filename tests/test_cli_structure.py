"""The commands that show where a model can be steered, and prove it; the tables that are made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from analyses import families
from lens_steer.cli.structure import spans
from lens_steer.errors import LensSteerError
from lens_steer.models.layout import Layout, known_layout
from lens_steer.models.location import read_config
from lens_steer.models.proof import ProofError, ProofRow, prove
from lens_steer.models.proved import proof_of
from lens_steer.models.structure import find_layout, layout_of
from tests.further import FURTHER, build_further
from tests.test_cli import run

RECORD = Path(__file__).parents[1] / "figures" / "families"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_further("jamba", tmp_path_factory.mktemp("jamba"))


def test_sites(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Found without weights: they are not even there. Hybrids have a paragraph a kind of block."""
    weights = folder / "model.safetensors"
    aside = weights.rename(folder / "aside")
    try:
        code, out, err = run(monkeypatch, capsys, "sites", "--model", str(folder))
    finally:
        aside.rename(weights)
    assert code == 0
    told = json.loads(out)
    layout = Layout.from_json({k: v for k, v in told.items() if k not in ("model", "architecture", "n_layers")})
    assert (told["architecture"], told["n_layers"]) == ("jamba", 3) == (told["architecture"], len(layout.blocks))
    assert [block.attends for block in layout.blocks] == [False, True, False]
    assert "blocks 0, 2, no attention\n" in err
    assert "blocks 1\n" in err
    assert "  blocks.{l}.hook_attn_out       output of model.layers.{l}.mamba\n" in err
    assert "  blocks.{l}.ln2.hook_out        output of model.layers.{l}.pre_ff_layernorm  RMSNorm\n" in err
    assert "then model.final_layernorm (RMSNorm), lm_head\n" in err


def test_check(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Eleven rows that hold, on a model that is known by structure and on an embedded one."""
    for model, backend in ((str(folder), "hf"), ("organism/llama", None)):
        code, out, err = run(monkeypatch, capsys, "check", "--model", model)
        assert code == 0
        told = json.loads(out)
        assert told["holds"]
        assert len(told["checks"]) == 11
        assert all(row["holds"] and row["error"] <= row["bound"] for row in told["checks"])
        assert err.count("holds ") == 11
        assert backend in (None, told["backend"])


def test_a_model_that_is_not_as_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight that is no number: one line says where. A layout that is not the model's: every row, and the line."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (folder / name).exists():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.input_layernorm.weight"][3] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    code, out, err = run(monkeypatch, capsys, "check", "--model", str(tmp_path))
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("lens-steer: the output of model.layers.1.input_layernorm is not finite in float32: load")
    layout = find_layout(read_config(str(folder), str(folder)))
    wrong = replace(layout, final_formula="LayerNorm")
    monkeypatch.setattr("lens_steer.models.info.find_layout", lambda config: wrong)
    code, out, err = run(monkeypatch, capsys, "check", "--model", str(folder))
    assert (code, out) == (2, "")
    assert "is not built as was found: 'every norm computes its formula' fails at model.final_layernorm" in err
    assert (err.count("holds "), err.count("FAILS ")) == (7, 1)
    with pytest.raises(ProofError, match="'every norm computes its formula' fails"):
        ls.load_model(folder)


@pytest.mark.parametrize(
    ("model", "message"),
    [("nowhere/at/all", "model folder 'nowhere/at/all' does not exist"), ("organism/none", "unknown organism")],
)
def test_bad_models(
    model: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("sites", "check"):
        code, out, err = run(monkeypatch, capsys, command, "--model", model)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.strip().splitlines()) == 1


def test_spans() -> None:
    assert spans([]) == ""
    assert spans([4]) == "4"
    assert spans([0, 1, 3, 5, 6]) == "0-1, 3, 5-6"


def test_tables_are_of_their_record() -> None:
    """The committed tables are what the code makes of the committed record; an architecture stands in one of them."""
    told: dict[str, Any] = json.loads((RECORD / "families.json").read_text(encoding="utf-8"))
    found, refused = families.found_table(told["architectures"]), families.refused_table(told["architectures"])
    assert found == (RECORD / "families_found.md").read_text(encoding="utf-8")
    assert refused == (RECORD / "families_refused.md").read_text(encoding="utf-8")
    assert families.routers_text(told["architectures"]) == (RECORD / "families_routers.md").read_text(encoding="utf-8")
    for name in told["architectures"]:
        assert (f"`{name}`" in found) != (f"| `{name}` |" in refused), name
    for name in ("qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3_text"):
        layout = Layout.from_json(told["architectures"][name]["layout"])
        assert layout == known_layout(name, len(layout.blocks))
    assert families.checks_table(told["checks"]) == (RECORD / "families_checks.md").read_text(encoding="utf-8")


def sides(folder: Path) -> tuple[str | Path, ...]:
    """The options that give prompts of both classes, written to files."""
    part = ls.load_contrast("organism/refusal").first(fit=4).fit
    for name in ("positive", "negative"):
        (folder / f"{name}.txt").write_text("\n".join(p.text for p in getattr(part, name)), encoding="utf-8")
    return ("--positive", folder / "positive.txt", "--negative", folder / "negative.txt")


def test_recordings_and_calibrations_keep_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an architecture that is known by name too, on the command line; through files, shards and moments."""
    model = ls.load_model("organism/llama")
    contrast = ls.load_contrast("organism/refusal").first(fit=4).fit
    assert ls.record(model, contrast, "ln1", progress=False).proof == {}
    errors = {row.check: row.error for row in proof_of(model)}
    assert len(errors) == 8
    for keep in ("all", "moments"):
        recorded = ls.record(model, contrast, "norm_out", keep=keep, progress=False)  # type: ignore[call-overload]
        assert recorded.proof == errors
        ls.save_recording(recorded, tmp_path / keep)
        assert ls.load_recording(tmp_path / keep).proof == errors
        assert ls.calibrate(recorded).details["proof"] == errors
    out = tmp_path / "calibration"
    how = ("--model", "organism/llama", *sides(tmp_path), "--out", out)
    code, _, err = run(monkeypatch, capsys, "calibrate", *how)
    assert (code, "warning" in err) == (0, False), err
    assert list(ls.load_calibration(out).details["proof"]) == list(errors)


def test_a_proof_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is known by name is recorded all the same, with a warning that names the check."""
    row = ProofRow("with a cache = without", 0.5, 1e-4, "block 3")
    monkeypatch.setattr("lens_steer.models.proved.prove", lambda model, layout: (row,))
    how = (*sides(tmp_path), "--sites", "ln1", "--out", tmp_path / "made")
    code, _, err = run(monkeypatch, capsys, "record", *how)
    assert code == 0
    assert "warning: 'with a cache = without' fails at block 3 (0.5, allowed 0.0001): see 'lens-steer check'" in err


def test_a_table_says_what_fails() -> None:
    from tests.further import further_config, random_model

    config = further_config("olmo2")
    rows = prove(random_model(config), layout_of(config))
    one = {
        "model": "m",
        "backend": "hf",
        "checks": [{"check": row.check, "error": row.error, "holds": row.holds} for row in rows],
    }
    table = families.checks_table([one, one | {"checks": [c | {"holds": False} for c in one["checks"]]}])
    assert table.count("**fails**") == len(rows)


def test_a_model_that_cannot_be_checked(tmp_path: Path) -> None:
    """Named, and nothing is lost: the command has said why."""
    (tmp_path / "m").mkdir()
    folder = build_further("phi3", tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(LensSteerError, match="--check m: the command above ended with 2: leave the model out"):
        families.checked(["m"], tmp_path)


def test_the_pages_count_the_families() -> None:
    """The number of families in prose is that of the tests."""
    for page in ("docs/guides/other-families.md", "docs/limitations.md"):
        assert f"{len(FURTHER)} families" in (RECORD.parents[1] / page).read_text(encoding="utf-8")


def test_verify_needs_norms_before_branches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before weights are read (they are not there), with what can be run; ``compare`` leaves methods out."""
    folder = build_further("olmo2", tmp_path)
    (folder / "model.safetensors").unlink()
    given = ("--model", str(folder), "--max-new-tokens", "2", "--out", str(tmp_path / "o"))
    code, out, err = run(monkeypatch, capsys, "verify", *given)
    assert (code, out) == (2, "")
    assert "norms before attention and MLP, and this model has none: use compare" in err
    code, out, err = run(monkeypatch, capsys, "compare", *given)
    assert "left out: standard-everywhere, adaptive-everywhere: the model has no norm before attention or MLP" in err
    assert "the weights in" in err
    assert not (tmp_path / "o").exists()
