"""``lens-steer divergence``: what it writes, that it equals the function, and what it refuses; the figure."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.figures import saving
from lens_steer.figures.divergence import drawing
from lens_steer.inference.unembedding import MEASURES
from lens_steer.metrics.token_divergence import token_divergence
from tests.test_cli import run

RESPONSES = ["Sure, here is how.", "I cannot do that.", "", "1. Take the wood. 2. Take it away."]


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory, refusal: Any) -> Path:
    """Four prompts, one as messages with a system prompt, one with an empty response."""
    prompts = refusal.report.positive[:4]
    rows: list[dict[str, Any]] = [{"prompt": p.text, "response": r} for p, r in zip(prompts, RESPONSES, strict=True)]
    rows[1] = {"messages": [{"role": "system", "content": "Be kind."}, *prompts[1].messages], "response": RESPONSES[1]}
    path = tmp_path_factory.mktemp("responses") / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_divergence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Path,
    responses: Path,
    qwen: Any,
) -> None:
    """The contract's columns, every number as the function gives it, the same bytes again, and a figure that comes back
    from its data.
    """
    args = (
        "divergence",
        "--model",
        "organism/qwen2",
        "--calibration",
        made,
        "--method",
        "selective",
        "--angle",
        150,
        "--responses",
        responses,
    )
    code, printed, _ = run(monkeypatch, capsys, *args, "--out", tmp_path / "a", "--max-position", 3)
    told = json.loads(printed)
    assert (code, told["n"], told["empty"], told["angle"]) == (0, 4, 1, 150.0)
    with (tmp_path / "a" / "divergence.csv").open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    assert reader.fieldnames == [
        "row",
        "position",
        "token",
        "kl",
        "kl_reverse",
        "entropy",
        "total_variation",
        "entropy_steered",
        "surprise",
        "surprise_steered",
    ]
    plan = ls.selective_steering(ls.load_calibration(made), 150.0)
    found = token_divergence(qwen, plan, ls.load_prompts(responses), RESPONSES)
    assert len(rows) == len(found) == told["tokens"]
    assert [(int(r["row"]), int(r["position"]), r["token"]) for r in rows] == list(
        zip(found.row.tolist(), found.position.tolist(), found.token, strict=True)
    )
    for m in MEASURES:
        assert np.array([float(r[m]) for r in rows]) == pytest.approx(getattr(found, m), abs=1e-12)
    record = json.loads((tmp_path / "a" / "divergence.json").read_text(encoding="utf-8"))
    wanted = found.by_position("kl", max_position=3)
    assert [(r["position"], r["value"], r["n"]) for r in record["by_position"]["kl"]] == [
        (t, e.value, e.n) for t, e in enumerate(wanted)
    ]
    assert set(record["by_position"]) == set(MEASURES)
    assert record["mean_by_prompt"]["kl"]["value"] == pytest.approx(np.nanmean(found.per_prompt())) == told["kl"]
    assert record["plan"]["parameters"] == {"angle": 150.0}
    assert record["meta"]["prompt_hash"] == ls.load_prompts(responses).hash
    assert {"command", "seed", "versions", "model"} <= record["meta"].keys()
    assert saving.redraw(tmp_path / "a") == ["kl_by_position"]
    assert run(monkeypatch, capsys, *args, "--out", tmp_path / "b", "--max-position", 3)[0] == 0
    assert (tmp_path / "a" / "divergence.csv").read_bytes() == (tmp_path / "b" / "divergence.csv").read_bytes()


def test_saved_plan_and_positions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path, responses: Path
) -> None:
    """A saved plan says what its options say; a plan that steers answers alone leaves every first token; the other
    engine agrees.
    """
    options = {"sites": "blocks.9.hook_resid_post", "positions": "generated"}
    plan = ls.selective_steering(ls.load_calibration(made), 90.0, at=options["sites"], positions=options["positions"])
    ls.save_plan(plan, tmp_path / "plan")
    for name, args in (
        ("options", ("--calibration", made, "--angle", 90, *(v for k, w in options.items() for v in (f"--{k}", w)))),
        ("plan", ("--plan", tmp_path / "plan", "--engine", "tl")),
    ):
        assert run(monkeypatch, capsys, "divergence", *args, "--responses", responses, "--out", tmp_path / name)[0] == 0
    tables = []
    for name in ("options", "plan"):
        with (tmp_path / name / "divergence.csv").open(newline="", encoding="utf-8") as stream:
            tables.append([(r["position"], float(r["kl"])) for r in csv.DictReader(stream)])
    assert np.array([kl for _, kl in tables[0]]) == pytest.approx([kl for _, kl in tables[1]], abs=1e-5)
    assert all(kl == 0 for position, kl in tables[0] if position == "0")
    assert any(kl > 1e-4 for position, kl in tables[0] if position != "0")


def test_a_probe(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    responses: Path,
    qwen: Any,
    refusal: Any,
) -> None:
    """In place of a calibration, with its own method."""
    folder = tmp_path / "probe"
    ls.save_probe(
        ls.fit_probe(ls.record(qwen, refusal, "blocks.7.hook_resid_post", progress=False), "blocks.7.hook_resid_post"),
        folder,
    )
    code, printed, _ = run(
        monkeypatch,
        capsys,
        "divergence",
        "--probe",
        folder,
        "--coefficient",
        2,
        "--responses",
        responses,
        "--out",
        tmp_path / "out",
    )
    assert (code, json.loads(printed)["method"]) == (0, "sttp")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ['{"prompt": "a", "response": "b"}', '{"prompt": "c"}'],
            "row 2 ('c'…) has no response: give every row a prompt and a response",
        ),
        (['{"response": "b"}'], "no column of a known name"),
        (['{"prompt": "a", "response": ""}'], "all 1 responses are empty"),
        (["{"], "row 1: not valid JSON"),
        ([], "holds no prompts"),
    ],
)
def test_responses_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Path,
    rows: list[str],
    message: str,
) -> None:
    """One line that names the file's row; nothing is written."""
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(rows), encoding="utf-8")
    code, _, error = run(
        monkeypatch,
        capsys,
        "divergence",
        "--calibration",
        made,
        "--angle",
        90,
        "--responses",
        source,
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--angle", "90", "--max-position", "-1"), "max_position=-1: the first position is 0"),
        (("--angle", "90", "--engine", "vllm"), "--engine 'vllm'"),
        (("--angle", "90", "--plan", "there"), "give one of --calibration, --probe (with --method) and --plan"),
        (("--angle", "90", "--positions", "reply"), "'reply' is not understood"),
        (("--method", "rotate"), "--method 'rotate'"),
        (("--angle", "90", "--responses", "nowhere.jsonl"), "prompts file 'nowhere.jsonl' does not exist"),
    ],
)
def test_what_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Path,
    responses: Path,
    args: tuple[str, ...],
    message: str,
) -> None:
    """Before the model is loaded, with code 2 and one line."""
    monkeypatch.setattr(ls, "load_model", None)
    code, _, error = run(
        monkeypatch,
        capsys,
        "divergence",
        "--calibration",
        made,
        "--responses",
        responses,
        "--out",
        tmp_path / "out",
        *args,
    )
    assert code == 2
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("lens-steer: ")]) == 1
    assert not (tmp_path / "out").exists()


def test_figure_of_several_series(tmp_path: Path, qwen: Any, calibration: Any, refusal: Any) -> None:
    """Every series in both panels, two lines each that go through the means; the legend tells them apart and says how
    many prompts there are.
    """
    import matplotlib.pyplot as plt

    plt.close("all")  # of other tests
    series = {
        name: token_divergence(
            qwen, ls.selective_steering(calibration, 150.0), side[:3], ["Sure, here is how.", "No.", "I am sorry."]
        )
        for name, side in (("harmful", refusal.report.positive), ("harmless", refusal.report.negative))
    }
    data = drawing(series, seed=1)
    assert list(data.columns) == ["series", "position", "measure", "value", "low", "high", "n"]
    saving.save(data, "kl_by_position", tmp_path, {})
    again, _ = saving.load(tmp_path, "kl_by_position")
    fig, axes = saving.draw(again)
    try:
        for ax, measures in zip(axes, (("kl", "kl_reverse"), ("entropy", "entropy_steered")), strict=True):
            drawn = {tuple(np.round(line.get_ydata(), 9)): line for line in ax.lines}  # type: ignore[arg-type]
            wanted = [
                tuple(round(e.value, 9) for e in found.by_position(m, seed=1))
                for found in series.values()
                for m in measures
            ]
            assert set(drawn) == set(wanted)
            looks = [(drawn[w].get_color(), drawn[w].get_marker(), drawn[w].get_linestyle()) for w in wanted]
            assert len(set(looks)) == len({(marker, dash) for _, marker, dash in looks}) == 4
        last = len(series["harmful"].by_position()) - 1
        assert [t.get_text() for t in fig.legends[0].get_texts()] == [
            f"{name}: n = 3 prompts, 1 at position {last}" for name in series
        ]
    finally:
        plt.close(fig)
    assert not plt.get_fignums()
    plt.close(saving.draw(drawing(series, max_position=0))[0])


def test_a_response_that_is_no_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    """A number is named with its row."""
    source = tmp_path / "x.jsonl"
    source.write_text('{"prompt": "a", "response": 3}\n')
    code, _, error = run(
        monkeypatch,
        capsys,
        "divergence",
        "--calibration",
        made,
        "--angle",
        90,
        "--responses",
        source,
        "--out",
        tmp_path / "o",
    )
    assert code == 2
    assert "row 1: the response 3 is no text: give a string" in error


def test_what_steer_wrote_is_a_responses_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    """Its answers are the responses, its system prompts are kept: a plan's own answers diverge as by hand."""
    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "steered.jsonl"
    rows = [{"prompt": "What is 4 plus 3?", "system": "Be brief."}, {"prompt": "What is 2 plus 3?"}]
    prompts.write_text("\n".join(json.dumps(r) for r in rows))
    steering = ("--calibration", made, "--angle", 150)
    assert (
        run(
            monkeypatch, capsys, "steer", "--model", "organism/qwen2", *steering, "--prompts", prompts, "--out", answers
        )[0]
        == 0
    )
    read = ls.load_prompts(answers, response=("response", "text"))
    assert [p.messages for p in read] == [p.messages for p in ls.load_prompts(prompts)]
    code, told, _ = run(monkeypatch, capsys, "divergence", *steering, "--responses", answers, "--out", tmp_path / "out")
    assert code == 0
    plan, model = ls.selective_steering(ls.load_calibration(made), 150), ls.load_model("organism/qwen2")
    assert json.loads(told)["kl"] == pytest.approx(
        float(token_divergence(model, plan, read, [p.response or "" for p in read]).per_prompt().mean()), rel=1e-6
    )
