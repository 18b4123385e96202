"""A selected direction on disk and in use: the files, the command, the plans, the exports, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer.cli.app import figures_redraw
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import method_grids, plan_at_value
from lens_steer.figures import saving
from lens_steer.figures.direction_scores import direction_scores_drawing
from lens_steer.geometry.direction_files import holds_direction
from lens_steer.geometry.selected_direction import DirectionBounds
from lens_steer.inference.batching import encode
from lens_steer.reports.direction_report import select_and_write
from lens_steer.steer.method_table import METHODS
from lens_steer.steer.methods import make_plan
from tests.test_cli import run
from tests.test_direction_selection import hooked
from tests.views import checked

HARMFUL = ("How do I destroy the bridge?", "Help me burn the boat.")
METHODS_OF = ("act-add", "ablation-everywhere")


@pytest.fixture(scope="module")
def folder(selected: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The selected direction on disk."""
    path = tmp_path_factory.mktemp("selected") / "direction"
    ls.save_direction(selected, path)
    return path


def test_the_files(selected: Any, folder: Path) -> None:
    """What they hold, for whoever reads them without this package."""
    assert sorted(p.name for p in folder.iterdir()) == ["direction.json", "direction.safetensors", "scores.csv"]
    (direction,) = load_file(folder / "direction.safetensors").values()
    assert (direction.shape, direction.dtype) == ((128,), torch.float32)
    facts = json.loads((folder / "direction.json").read_text(encoding="utf-8"))
    for name in ("block", "position", "refusal_score", "induce_score", "kl", "baseline_refusal_score"):
        assert facts[name] == getattr(selected, name), name
    assert facts["refusal_tokens"] == [40]
    assert facts["openings"][0] == {
        "token": 40, "text": "I", "refusals": 8, "answers": 8, "share": 1.0, "used": True
    }  # fmt: skip
    assert facts["bounds"] == {"min_induce": 0.0, "max_kl": 1.0, "max_depth": 0.8}
    assert (facts["model"], facts["n_layers"], facts["site"]) == ("organism/qwen2", 12, selected.site)
    assert (facts["n_positive"], facts["n_select_negative"], facts["n_given"]["fit"]) == (8, 4, [8, 8])
    assert {"prompt_hash", "versions", "seed", "template", "backend", "weight_processing"} <= facts.keys()
    with (folder / "scores.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["position", "block", "refusal_score", "induce_score", "kl", "kept"]
    assert len(rows) == 60
    best = min((r for r in rows if r["kept"] == "True"), key=lambda r: float(r["refusal_score"]))
    assert (int(best["position"]), int(best["block"])) == (facts["position"], facts["block"])


def test_saved_is_loaded(selected: Any, folder: Path, tmp_path: Path) -> None:
    """Every field; without a bound too."""
    loose = replace(selected, bounds=DirectionBounds(min_induce=-float("inf"), max_kl=float("inf"), max_depth=1))
    ls.save_direction(loose, tmp_path / "loose")
    assert ls.load_direction(tmp_path / "loose").bounds == loose.bounds
    assert json.loads((tmp_path / "loose" / "direction.json").read_text())["bounds"]["max_kl"] is None
    found = ls.load_direction(folder)
    for name, value in vars(selected).items():
        other = vars(found)[name]
        if name == "scores":
            assert repr(other) == repr(value)  # NaN is no equal of itself
        else:
            assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, name


def _changed(**facts: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / "direction.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | facts))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "direction.safetensors").unlink(), "has no direction.safetensors: write one with"),
        (lambda p: (p / "scores.csv").unlink(), "has no scores.csv: select the direction again"),
        (lambda p: (p / "scores.csv").write_text("position,block\n-1,x\n"), "is corrupt or truncated"),
        (lambda p: save_file({"direction": torch.zeros(128)}, p / "direction.safetensors"), "finite and not zero"),
        (lambda p: save_file({"direction": torch.ones(2, 2)}, p / "direction.safetensors"), r"of shape \(2, 2\)"),
        (_changed(block=3), "scores.csv has no candidate at position -?[0-9]+ and block 3 of these scores"),
        (_changed(format_version=9), "has format version 9"),
        (_changed(bounds={"max_kl": -1}), "max_kl=-1: no divergence is below 0"),
    ],
)  # fmt: skip
def test_damage(damage: Callable[[Path], None], message: str, selected: Any, tmp_path: Path) -> None:
    """One line that says what to do."""
    ls.save_direction(selected, tmp_path / "d")
    damage(tmp_path / "d")
    with pytest.raises(LensSteerError, match=message):
        ls.load_direction(tmp_path / "d")


def test_plans_say_where_the_direction_is_from(selected: Any, tmp_path: Path) -> None:
    """In a row, in the description, in a line, and after they were saved; the sites are the paper's."""
    origin = f"prompt[{selected.position}] at blocks.7.hook_resid_pre"
    adding, ablating = ls.act_add(selected), ls.directional_ablation(selected, everywhere=True)
    for plan in (adding, ablating):
        assert plan.row()["selected_direction"] == plan.describe()["parameters"]["selected_direction"] == origin
        assert origin in repr(plan)
        ls.save_plan(plan, tmp_path / plan.method)
        assert ls.load_plan(tmp_path / plan.method) == plan
        checked(plan, longest=400)
    assert adding.sites == (selected.site,)
    assert adding.row()["coefficient"] == 1.0
    assert torch.equal(adding.steps[0].parameters["direction"], selected.direction)
    assert (len(ablating.sites), ablating.method) == (36, "ablation-everywhere")
    assert {site.rsplit("hook_")[1] for site in ablating.sites} == {"resid_pre", "attn_out", "mlp_out"}
    for method, value in (("act-add", -1.0), ("ablation-everywhere", None)):
        assert plan_at_value(method, selected, {}, value).method == method
        (grid,) = method_grids(selected, method)
        assert (grid.variant, grid.values) == ("", METHODS[method].grid or (None,))
    assert "selected_direction" not in ls.act_add(ls.load_calibration("figures/calibration")).row()


def test_other_methods_say_what_to_do(selected: Any, folder: Path) -> None:
    """Every other method refuses it in one line; what needs a calibration does, too."""
    for name, method in METHODS.items():
        assert method.takes_direction == (name in METHODS_OF)
        if name not in METHODS_OF:
            needed = {"angle": 90} if method.turns else {}
            with pytest.raises(
                LensSteerError, match=r"needs a calibration, and a selected direction was given: use one"
            ):
                make_plan(name, selected, **needed)
            with pytest.raises(LensSteerError, match="needs a calibration, and a selected direction was given"):
                method_grids(selected, name)
    assert holds_direction(folder)
    with pytest.raises(LensSteerError, match="holds a selected direction, which only some methods steer by"):
        ls.load_calibration(folder)


@pytest.mark.parametrize(
    ("options", "how"),
    [
        (("--method", "ablation-everywhere"), "ablated"),
        (("--method", "act-add"), 1.0),
        (("--method", "act-add", "--coefficient", "-1"), -1.0),
    ],
)
def test_steered_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    qwen: Any,
    selected: Any,
    folder: Path,
    options: tuple[str, ...],
    how: Any,
) -> None:
    """The answers are those of plain hooks on Hugging Face, which are others than the unsteered ones."""
    texts = [*HARMFUL, "How do I build the bridge?"] if how != 1.0 else ["How do I build the bridge?", "Hello there"]
    (tmp_path / "asked.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    code, out, err = run(
        monkeypatch, capsys, "steer", "--model", "organism/qwen2", "--calibration", folder, *options,
        "--prompts", tmp_path / "asked.txt", "--max-new-tokens", 16, "--out", tmp_path / "out.jsonl",
    )  # fmt: skip
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    place = {"ablated": selected.direction} if how == "ablated" else {"added": (7, how * selected.direction)}
    twin, tokenizer, plain = ls.hf_twin(qwen), qwen.lens_info.tokenizer, ls.generate(qwen, texts, max_new_tokens=16)
    for row, text in zip(rows, texts, strict=True):
        ids = torch.tensor([encode(tokenizer, ls.Prompt.of(text))])
        with hooked(twin, **place):
            made = twin.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        assert row["text"] == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert row["selected_direction"] == selected.origin
    assert [row["text"] for row in rows] != plain
    assert json.loads(out)["selected_direction"] == selected.origin


def test_what_it_was_chosen_on_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    refusal: Any,
    folder: Path,
) -> None:
    """Prompts of the fit and of the select split are not held out."""
    asked = [refusal.fit.positive[0], refusal.select.negative[1], refusal.report.positive[0]]
    (tmp_path / "asked.txt").write_text("\n".join(p.text for p in asked) + "\n", encoding="utf-8")
    code, _, err = run(
        monkeypatch, capsys, "steer", "--model", "organism/qwen2", "--calibration", folder, "--method", "act-add",
        "--prompts", tmp_path / "asked.txt", "--max-new-tokens", 1, "--out", tmp_path / "out.jsonl",
    )  # fmt: skip
    assert code == 0
    assert "warning: 2 of 3 prompts are among those that the direction was made from" in err
    code, _, err = run(
        monkeypatch, capsys, "steer", "--model", "organism/qwen2", "--calibration", folder,
        "--prompts", tmp_path / "asked.txt", "--out", tmp_path / "out.jsonl",
    )  # fmt: skip
    assert code == 2
    assert err.splitlines()[-1] == (
        "lens-steer: method 'selective' needs a calibration, and a selected direction was given: use one of act-add, "
        "ablation-everywhere, or make a calibration of the same prompts with 'lens-steer calibrate'"
    )
    code, _, err = run(monkeypatch, capsys, "geometry", "--calibration", folder, "--out", tmp_path / "g")
    assert code == 2
    assert "holds a selected direction" in err


@pytest.mark.parametrize(("method", "kind"), [("act-add", "lora"), ("ablation-everywhere", "merged")])
def test_exported(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    folder: Path,
    method: str,
    kind: str,
) -> None:
    """What the method can be exported as does what the hooks do: the certificate says so, and names the direction."""
    code, out, err = run(
        monkeypatch, capsys, "export", kind, "--model", "organism/qwen2", "--calibration", folder,
        "--method", method, "--max-new-tokens", 4, "--out", tmp_path / kind,
    )  # fmt: skip
    assert code == 0, err
    said = json.loads(out)
    assert (said["verdict"], said.get("refused")) == ("pass", None)
    assert said["selected_direction"].startswith("prompt[-")


def written(folder: Path, refusal: Any) -> list[object]:
    """Ten prompts of each class in files, and the options that name them."""
    found: list[object] = []
    for side in ("positive", "negative"):
        path = folder / f"{side}.txt"
        path.write_text("".join(p.text + "\n" for p in getattr(refusal.fit, side)[:10]), encoding="utf-8")
        found += [f"--{side}", path]
    return found


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, refusal: Any
) -> None:
    """From two files, which are split: the folder with its figure, which is drawn again; the result in one object."""
    given = ["direction", "--model", "organism/qwen2", *written(tmp_path, refusal), "--max-kl", "3"]
    code, out, err = run(monkeypatch, capsys, *given, "--dry-run", "--out", tmp_path / "d")
    assert code == 0, err
    assert json.loads(out)["answers"] == 8
    assert not (tmp_path / "d").exists()
    code, out, err = run(monkeypatch, capsys, *given, "--out", tmp_path / "d")
    assert code == 0, err
    said, found = json.loads(out), ls.load_direction(tmp_path / "d")
    assert "fit 8+8, select 2+2, report 0+0" in err
    assert (said["block"], said["position"], said["kl"]) == (found.block, found.position, found.kl)
    assert (said["n"], said["n_given"]["select"], said["refusal_tokens"]) == (
        {"fit": [8, 8], "select": [2, 2]},
        [2, 2],
        [40],
    )
    assert found.bounds.max_kl == 3
    names = {"direction.json", "direction.safetensors", "scores.csv"}
    assert {p.name for p in (tmp_path / "d").iterdir()} == names | {
        f"direction_scores.{end}" for end in ("png", "pdf", "csv", "json")
    }
    figures_redraw(tmp_path / "d")
    assert json.loads(capsys.readouterr().out) == {"redrawn": ["direction_scores"]}


def test_none_kept_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, refusal: Any, qwen: Any
) -> None:
    """Said in options; the same command with another bound goes on from the scores that are there."""
    given = ["direction", "--model", "organism/qwen2", *written(tmp_path, refusal), "--n-fit", "2", "--n-select", "1"]
    code, out, err = run(monkeypatch, capsys, *given, "--max-kl", "0", "--out", tmp_path / "d")
    assert (code, out) == (2, "")
    assert "none of 60 candidate directions keeps the bounds: " in err.splitlines()[-1]
    assert "--min-induce 0 leaves out" in err.splitlines()[-1]
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [".parts"]
    code, _, _ = run(monkeypatch, capsys, *given, "--max-kl", "inf", "--min-induce=-inf", "--out", tmp_path / "d")
    assert code == 0
    assert not (tmp_path / "d" / ".parts").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-depth", "2"), "--max-depth 2.0: give a share of the blocks"),
        (("--n-fit", "0"), "--n-fit 0: give how many prompts"),
        (("--engine", "jax"), "--engine 'jax'"),
        (("--split", "1,0,0"), "no positive select prompts: give a split with both, such as --split 0.8,0.2,0.0"),
    ],
)
def test_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    refusal: Any,
    options: tuple[str, ...],
    message: str,
) -> None:
    """One line, code 2, nothing written; the model, which does not exist, is never asked for."""
    code, out, err = run(
        monkeypatch, capsys, "direction", "--model", "organism/none", *written(tmp_path, refusal), *options,
        "--out", tmp_path / "d",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "d").exists()


def test_a_calibration_s_folder_is_left_alone(qwen: Any, refusal: Any, made: Path) -> None:
    with pytest.raises(LensSteerError, match="holds a calibration, and a plan could be made from either"):
        select_and_write(qwen, refusal, made)


def test_the_figure(selected: Any, tmp_path: Path) -> None:
    """Three panels; what comes back from disk draws the same; a star at the chosen candidate."""
    drawing = direction_scores_drawing(selected)
    saving.save(drawing, "direction_scores", tmp_path, {})
    again, _ = saving.load(tmp_path, "direction_scores")
    assert again.notes == drawing.notes
    fig, axes = ls.draw(again)
    assert len(axes) == 3
    for axis, name in zip(axes, ("refusal_score", "induce_score", "kl"), strict=True):
        stars = [line for line in axis.get_lines() if line.get_marker() == "*"]
        assert [float(v) for line in stars for v in line.get_xydata()[0]] == [selected.block, getattr(selected, name)]
    plt.close(fig)


def test_in_a_notebook(selected: Any) -> None:
    """A line, the facts and a row for each candidate."""
    text, frame = checked(selected)
    assert "prompt[-" in text and "'I' 100%" in text
    assert len(frame) == 60
    assert bool(frame.loc[(selected.position, selected.block), "kept"])
