"""``lens-steer probe``, and ``steer`` and ``sweep`` with what it writes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.data import Prompt, read_contrast
from tests.test_cli import run

SITE = "blocks.9.hook_resid_post"
CONTRACT = (
    "site",
    *(f"{m}{e}" for m in ("accuracy", "auroc", "selectivity", "cosine_to_difference") for e in ("", "_low", "_high")),
)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory, refusal: Any) -> tuple[Path, Path]:
    """Harmful and harmless prompts as files."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("positive", "negative"):
        side = getattr(refusal.fit, name)
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"prompt": p.text}) + "\n" for p in side[:48]), encoding="utf-8"
        )
    return folder / "positive.jsonl", folder / "negative.jsonl"


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory, prompts: tuple[Path, Path]) -> tuple[Path, dict[str, Any]]:
    """What the command made of them."""
    with pytest.MonkeyPatch.context() as patch:
        out = tmp_path_factory.mktemp("probes") / "out"
        patch.setattr(
            "sys.argv",
            [
                "lens-steer",
                "probe",
                "--positive",
                str(prompts[0]),
                "--negative",
                str(prompts[1]),
                "--sites",
                f"{SITE},blocks.2.ln2.hook_out",
                "--out",
                str(out),
            ],
        )
        from lens_steer.cli import main

        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
    return out, json.loads((out / "probes.json").read_text(encoding="utf-8"))


def test_probe_writes_what_it_promises(probes: tuple[Path, dict[str, Any]]) -> None:
    """The columns of the contract first, a folder a site with direction, weight, bias and their facts."""
    from safetensors.torch import load_file

    out, _ = probes
    with (out / "probes.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0])[: len(CONTRACT)] == CONTRACT
    assert {r["site"] for r in rows} == {SITE, "blocks.2.ln2.hook_out"}
    late = next(r for r in rows if r["site"] == SITE)
    assert float(late["accuracy"]) > 0.9
    assert all(
        float(late[f"{m}_low"]) <= float(late[m]) <= float(late[f"{m}_high"])
        for m in ("accuracy", "auroc", "selectivity", "cosine_to_difference")
    )
    facts = json.loads((out / SITE / "probe.json").read_text(encoding="utf-8"))
    wanted = {
        "site",
        "model",
        "threshold",
        "mu_positive",
        "mu_negative",
        "sigma_positive",
        "sigma_negative",
        "delta_mu",
        "pooling",
        "C",
        "n",
        "split",
    }
    assert wanted <= facts.keys()
    tensors = load_file(out / SITE / "probe.safetensors")
    assert tensors["direction"].shape == (128,)
    assert float(tensors["direction"].norm()) == pytest.approx(1.0, abs=1e-6)
    assert facts["threshold"] == pytest.approx(
        -float(tensors["bias"]) / float(tensors["weight"].double().norm()), rel=1e-6
    )


def test_steer_and_sweep_take_a_probe(
    probes: tuple[Path, dict[str, Any]],
    prompts: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the contract's method names and position modes; the plan stands beside every answer, and a sweep tries the
    coefficients that are given.
    """
    folder, positive = probes[0] / SITE, prompts[0]
    code, printed, err = run(
        monkeypatch,
        capsys,
        "steer",
        "--model",
        "organism/qwen2",
        "--probe",
        folder,
        "--method",
        "mirror_projection",
        "--coefficient",
        "1.5",
        "--positions",
        "response",
        "--prompts",
        positive,
        "--max-new-tokens",
        "4",
        "--out",
        tmp_path / "g.jsonl",
    )
    assert code == 0, err
    assert (json.loads(printed)["method"], json.loads(printed)["positions"]) == ("stmp", "generated")
    row = json.loads((tmp_path / "g.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (row["method"], row["coefficient"], row["n_sites"]) == ("stmp", 1.5, 1)
    assert "24 of 48 prompts are among those that the probe was made from" in err
    code, printed, err = run(
        monkeypatch,
        capsys,
        "sweep",
        "--probe",
        folder,
        "--method",
        "target_projection",
        "--coefficients",
        "0,6",
        "--positive",
        prompts[0],
        "--negative",
        prompts[1],
        "--max-new-tokens",
        "4",
        "--out",
        tmp_path / "sweep",
        "--controls",
        "2",
    )
    assert code == 0, err
    found = json.loads((tmp_path / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert json.loads(printed)["variant"] == SITE
    assert {s["condition"] for s in found["controls"]["report"]} == {"random direction"}
    assert found["prompts_fitted_on"] == {"select": [0, 24], "report": [0, 24]}  # the same split of the same files
    assert "the probe was made from" not in err
    read = found["meta"]["prompts"]
    assert (read["readings"]["positive"]["source"], read["readings"]["negative"]["column"]) == (
        "positive.jsonl",
        "prompt",
    )
    assert read["n"] == {"fit": [24, 24], "select": [12, 12], "report": [12, 12]}


def test_what_a_probe_was_fitted_on_is_told(
    probes: tuple[Path, dict[str, Any]],
    prompts: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its prompts' hashes go with it, so another split of the same files is found out; what was read is written down by
    the probe command.
    """
    out, record = probes
    probe, files = ls.load_probe(out / SITE), [p.read_text(encoding="utf-8").splitlines() for p in prompts]
    of = [{Prompt.of(json.loads(line)["prompt"]).hash for line in lines} for lines in files]
    assert set(probe.prompt_hashes_positive) < of[0]
    assert set(probe.prompt_hashes_negative) < of[1]
    assert record["meta"]["prompts"]["readings"]["positive"] == {
        "source": "positive.jsonl",
        "column": "prompt",
        "n_rows": 48,
        "n_blank": 0,
        "n_with_input": 0,
        "n_prompts": 48,
        "limit": None,
        "seed": 0,
    }
    code, _, err = run(
        monkeypatch,
        capsys,
        "sweep",
        "--probe",
        out / SITE,
        "--method",
        "sttp",
        "--coefficients",
        "6",
        "--positive",
        prompts[0],
        "--negative",
        prompts[1],
        "--seed",
        3,
        "--limit",
        "8",
        "--split",
        "0,0.5,0.5",
        "--max-new-tokens",
        "2",
        "--out",
        tmp_path / "s",
        "--controls",
        "0",
    )
    assert code == 0, err
    found = json.loads((tmp_path / "s" / "sweep.json").read_text(encoding="utf-8"))["prompts_fitted_on"]
    known = {*probe.prompt_hashes_positive, *probe.prompt_hashes_negative}
    contrast = read_contrast(positive=prompts[0], negative=prompts[1], limit="8", seed=3, split=(0, 0.5, 0.5))
    for name in ("select", "report"):
        part = getattr(contrast, name)
        assert found[name] == [sum(p.hash in known for p in (*part.positive, *part.negative)), 8]
    assert sum(n for n, _ in found.values()) > 0
    assert "are among those that the probe was made from" in err
    facts = json.loads((out / SITE / "probe.json").read_text(encoding="utf-8"))
    older = tmp_path / "older"
    shutil.copytree(out / SITE, older)
    (older / "probe.json").write_text(
        json.dumps({k: v for k, v in facts.items() if "prompt_hashes" not in k}), encoding="utf-8"
    )
    assert ls.load_probe(older).prompt_hashes_positive == ()


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        ("probe", ("--C", "strong"), "--C 'strong': give a number above 0, or cv"),
        ("probe", ("--C", "-1"), "--C '-1': give a number above 0, or cv"),
        ("probe", ("--pooling", "mean"), "--pooling 'mean': use one of 'last', 'response'"),
        ("probe", ("--positive", "{positive}"), "--negative is missing"),
        (
            "steer",
            ("--model", "organism/llama", "--probe", "{probe}", "--prompts", "{positive}"),
            "was made on 'organism/qwen2'",
        ),
        (
            "steer",
            ("--model", "organism/qwen2", "--probe", "{probe}", "--method", "selective", "--prompts", "{positive}"),
            "needs a calibration, and a probe was given",
        ),
        (
            "steer",
            ("--model", "organism/qwen2", "--probe", "{probe}", "--plan", "{probe}", "--prompts", "{positive}"),
            "give one of --calibration, --probe",
        ),
        ("sweep", (), "give either --calibration or --probe"),
        ("sweep", ("--probe", "{positive}"), "has no probe.safetensors: give a folder of one site"),
    ],
)
def test_bad_commands(
    probes: tuple[Path, dict[str, Any]],
    prompts: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    args: tuple[str, ...],
    message: str,
) -> None:
    places = {"probe": str(probes[0] / SITE), "positive": str(prompts[0])}
    out = tmp_path / ("o.jsonl" if command == "steer" else "o")
    code, _, err = run(monkeypatch, capsys, command, *(a.format(**places) for a in args), "--out", out)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not out.exists()
