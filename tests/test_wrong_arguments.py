"""What a newcomer tries: the wrong kind of object, texts where prompts are expected, too short answers; each is done,
or refused in one sentence that says what to give.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.cli import app as cli
from lens_steer.data.splits import deal
from lens_steer.errors import LensSteerError
from lens_steer.steer.plans import parse_numbers

WRONG = {
    "ls.steering(model, cal).__enter__()": "plan is of type Calibration, and SteeringPlan is needed",
    "ls.steering(plan, model).__enter__()": "and SteeringPlan is needed: steering(model, plan) takes one plan",
    "ls.steering(model, [plan]).__enter__()": "plan is of type list, and SteeringPlan is needed",
    "ls.selective_steering(model, 150)": (
        "and Calibration is needed: make it with ls.calibrate(ls.record(model, contrast))"
    ),
    "ls.act_add(plan)": "calibration is of type SteeringPlan, and Calibration or StreamDirection is needed",
    "ls.projection_clamp(plan)": "calibration is of type SteeringPlan, and Calibration is needed",
    "ls.select_direction(model, ['hello'])": "contrast is of type list, and ContrastSet is needed",
    "ls.target_projection(plan)": "source is of type SteeringPlan, and Calibration or Boundary is needed",
    "ls.calibrate(cal)": "activations is of type Calibration, and Activations or Moments is needed",
    "ls.monitor(model, plan).__enter__()": "boundary is of type SteeringPlan, and Boundary is needed",
    "ls.draw(cal)": "drawing is of type Calibration, and Drawing is needed",
    "ls.record(model, ['hello'])": "contrast is of type list, and ContrastSet or Contrast is needed",
    "ls.dial(model, cal, ['a', 'b'])": "prompt is of type list, and Prompt or str is needed",
    "ls.Prompt('hi')": "messages='hi' is a text: Prompt.of(text) makes a prompt of one",
    "ls.PromptSet(('a', 'b'))": "prompts hold 'a', which is no Prompt: load_prompts([…]) makes a prompt set of texts",
    "ls.selective_steering(cal, 150, at=[6, 7])": "6 is no name, give such as 'blocks.3.ln1.hook_out'",
    "ls.load_prompts([3])": "texts, row 1: int is neither a string nor an object with a prompt",
}


def test_the_wrong_kind() -> None:
    """Without the types' checks that the tests switch on: one clear sentence each."""
    code = f"""if True:
        import json, logging
        import lens_steer as ls
        logging.disable()
        model, cal = ls.load_model("organism/qwen2"), ls.load_calibration("figures/calibration")
        plan, told = ls.selective_steering(cal, 150), {{}}
        for call in {list(WRONG)!r}:
            try:
                eval(call)
            except ls.LensSteerError as error:
                told[call] = str(error)
        print(json.dumps(told))
    """
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    told = json.loads(out.splitlines()[-1])
    for call, message in WRONG.items():
        assert message in told.get(call, "no LensSteerError"), call


def test_texts_are_prompts(qwen: Any, calibration: Any) -> None:
    """Wherever prompts are taken, texts are single user turns."""
    texts = ["What is 4 plus 3?", "What is 5 plus 1?"]
    assert [p.text for p in ls.load_prompts(texts)] == texts
    contrast = ls.load_contrast(positive=texts, negative=["Hello"])
    assert (len(contrast.fit.positive), contrast.fit.negative[0].text) == (2, "Hello")
    assert ls.converse(qwen, texts[0]) == ls.converse(qwen, [ls.Dialogue((texts[0],))])
    plan = ls.selective_steering(calibration, 150)
    found = ls.token_divergence(qwen, plan, texts, ["7.", "6."])
    assert found.n_prompts == 2
    with pytest.raises(
        LensSteerError, match=r"select and report prompts where load_contrast was given split=\(0\.5, 0\.25, 0\.25\)"
    ):
        ls.generate(qwen, contrast.report.positive)


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_no_split_of_few_groups_is_left_empty(n: int) -> None:
    """Rounding takes the last prompt from no split that was to have one; a share of 0 stays without."""
    rows = [f"row {i}" for i in range(n)]
    assert set(deal(rows, (0.5, 0.25, 0.25))) == {0, 1, 2}
    assert set(deal(rows, (0.9, 0.05, 0.05))) == {0, 1, 2}
    assert set(deal(rows, (0.7, 0, 0.3))) == {0, 2}


def test_unsteered_answers_that_are_cut_off(
    qwen: Any, calibration: Any, refusal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Warned of with their number; not where all end, nor for steered ones, which may never end."""
    prompts = refusal.report.negative[:4]
    with caplog.at_level(logging.WARNING, logger="lens_steer.inference.generation"):
        ls.generate(qwen, prompts, max_new_tokens=48)
        with ls.steering(qwen, ls.selective_steering(calibration, 150)):
            ls.generate(qwen, prompts, max_new_tokens=2)
        assert not caplog.records
        ls.generate(qwen, prompts, max_new_tokens=2)
    assert caplog.messages == [
        "4 of 4 unsteered answers were cut off at max_new_tokens=2: what is made of them is no whole answer"
    ]


def test_one_angle_a_prompt_in_words(calibration: Any) -> None:
    """What a command line can say."""
    plan = ls.selective_steering(calibration, parse_numbers("angle", "90, 120,150"))
    assert plan.n_rows == 3
    assert plan.row(1)["angle"] == 120.0
    with pytest.raises(LensSteerError, match="angle='90,x' is not a number"):
        parse_numbers("angle", "90,x")


def test_the_bare_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments the help, line by line; ``--version``."""
    for args in ([], ["figures"], ["import"]):
        monkeypatch.setattr(sys, "argv", ["lens-steer", *args])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        said = capsys.readouterr()
        assert len((said.out + said.err).splitlines()) > 5
    monkeypatch.setattr(sys, "argv", ["lens-steer", "--version"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"lens-steer {ls.__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["steer", "--model", "organism/qwen2", "--calibration", "figures/calibration", "--prompts", "organism/refusal"],
        ["metrics", "--in", "x.jsonl"],
    ],
)
def test_rows_in_another_format(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any work."""
    monkeypatch.setattr(sys, "argv", ["lens-steer", *command, "--out", str(tmp_path / "o.csv")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "one JSON object a line is written, give a name that ends in .jsonl" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_cut_off_answers_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``steer`` marks them row by row, and tells their number."""
    (tmp_path / "p.txt").write_text("What is 4 plus 3?\nHello\n", encoding="utf-8")
    args = [
        "--prompts",
        str(tmp_path / "p.txt"),
        "--out",
        str(tmp_path / "o.jsonl"),
        "--max-new-tokens",
        "2",
        "--angle",
        "0",
        "--engine",
        "hf",
    ]
    monkeypatch.setattr(
        sys, "argv", ["lens-steer", "steer", "--model", "organism/qwen2", "--calibration", "figures/calibration", *args]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["text"] == "7."
    assert json.loads(capsys.readouterr().out)["cut_off"] == sum("cut_off" in row for row in rows) >= 1
