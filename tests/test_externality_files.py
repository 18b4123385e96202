"""The study of side effects from a user's prompt files: what becomes of them, what is refused, and the command on a
local folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.studies.externalities import files
from lens_steer.studies.externalities.files import file_material
from tests.test_cli import run
from tests.tiny import build

N = 16
HARMFUL = PromptSet(tuple(Prompt.of(f"the {i} b") for i in range(N)), "harmful")
HARMLESS = PromptSet(tuple(Prompt.of(f"a {i}", system="c") for i in range(N)), "harmless")
SPLITS = ("fit", "select", "report")


def answered(prompts: Sequence[Prompt], text: str = "yes a b") -> PromptSet:
    return PromptSet(tuple(Prompt(p.messages, text) for p in prompts), text)


def texts(prompts: Sequence[Prompt]) -> set[str]:
    return {p.text for p in prompts}


def test_what_is_made_of_two_files() -> None:
    """JSON requests are the harmless prompts of the same split, their system prompts kept; continuations are paired; no
    prompt is in two splits.
    """
    made = file_material(HARMFUL, HARMLESS)
    made.check()
    assert not made.known
    for name in SPLITS:
        asked, plain = getattr(made.json, name).positive, getattr(made.json, name).negative
        assert plain == getattr(made.refusal, name).negative
        assert [p.text for p in asked] == [f"{p.text} {files.JSON_REQUEST}" for p in plain]
        assert all(p.messages[0] == {"role": "system", "content": "c"} for p in asked)
    sides = made.compliance.fit
    assert (
        [p.messages for p in sides.positive]
        == [p.messages for p in sides.negative]
        == [p.messages for p in made.refusal.fit.negative]
    )
    assert {p.response for p in sides.positive} == set(files.COMPLYING)
    assert {p.response for p in sides.negative} == set(files.REFUSING)
    held_out = texts(made.refusal.select.negative) | texts(made.refusal.report.negative)
    assert not held_out & texts(made.compliance.fit.positive)


def test_pairs_of_ones_own_keep_the_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pairs stand in one split and never in another than the prompt's own; responses to fit and select prompts are left
    out, and that is told.
    """
    asked = PromptSet(tuple(Prompt.of(f"as JSON: {p.text}", system="c") for p in HARMLESS), "asked")
    written = tmp_path / "responses.jsonl"
    written.write_text("\n".join(json.dumps({"prompt": p.text, "text": "yes"}) for p in HARMFUL))  # as steer writes it
    made = file_material(
        HARMFUL,
        HARMLESS,
        complying=answered(HARMLESS),
        refusing=answered(HARMLESS, "no"),
        json_asked=asked,
        json_plain=HARMLESS,
        responses=written,
        seed=3,
    )
    made.check()
    place = {p.text: name for name in SPLITS for p in getattr(made.refusal, name).negative}
    for name in SPLITS:
        pair = getattr(made.json, name)
        assert [p.text for p in pair.positive] == [f"as JSON: {p.text}" for p in pair.negative]
        assert all(place[p.text] == name for p in pair.negative)
    assert texts(made.compliance.fit.positive) == texts(made.refusal.fit.negative)
    assert made.harmful_responses is not None
    assert texts(made.harmful_responses) == texts(made.refusal.report.positive)
    assert f"left out {N - len(made.harmful_responses)} of {N} prompts" in caplog.text
    assert made.hashes["harmful_responses"] == made.harmful_responses.hash


def test_what_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"complying": answered(HARMLESS)}, "refusing is missing: complying and refusing are paired"),
        ({"json_asked": HARMLESS}, "json_plain is missing"),
        ({"json_asked": HARMLESS[:3], "json_plain": HARMLESS}, "json_asked has 3 rows and json_plain 16"),
        ({"responses": HARMFUL}, "responses 'harmful', row 1 has no response"),
        ({"split": (0.5, 0.5)}, "give three shares"),
    ]
    for options, message in cases:
        with pytest.raises(LensSteerError, match=message):
            file_material(HARMFUL, HARMLESS, **options)
    seen = answered(file_material(HARMFUL, HARMLESS).refusal.fit.positive)
    with pytest.raises(LensSteerError, match=r"all 8 prompts are in the fit or select split"):
        file_material(HARMFUL, HARMLESS, responses=seen)


def test_a_request_is_made_of_prompts_of_ones_own() -> None:
    """Prompts without the request alone: each pair in one split, the request at the end."""
    plain = PromptSet(tuple(Prompt.of(f"name {i} of them") for i in range(12)), "plain")
    made = file_material(HARMFUL, HARMLESS, json_plain=plain)
    made.check()
    for name in SPLITS:
        pair = getattr(made.json, name)
        assert [p.text for p in pair.positive] == [f"{p.text} {files.JSON_REQUEST}" for p in pair.negative]
    assert sum(len(getattr(made.json, name).negative) for name in SPLITS) == len(plain)


def write(path: Path, prompts: Sequence[Prompt]) -> Path:
    path.write_text(
        "\n".join(json.dumps({"messages": list(p.messages), "response": p.response}) for p in prompts), encoding="utf-8"
    )
    return path


@pytest.mark.slow
def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A local folder with prompt files: everything is written, and a second call reads its rows and generates nothing
    anew.
    """
    folder = build("llama", tmp_path / "model")
    options = [
        "externalities",
        "--model",
        folder,
        "--positive",
        write(tmp_path / "harmful.jsonl", HARMFUL),
        "--negative",
        write(tmp_path / "harmless.jsonl", HARMLESS),
        "--responses",
        write(tmp_path / "responses.jsonl", answered(HARMFUL)),
        "--benign-responses",
        write(tmp_path / "benign.jsonl", answered(HARMLESS)),
        "--n-random",
        1,
        "--max-new-tokens",
        4,
        "--out",
        tmp_path / "out",
    ]
    code, told, error = run(monkeypatch, capsys, *options)
    assert code == 0, error
    record = json.loads(told)
    assert record["graded_by"] == "phrases"
    assert "compliance" in record["attack"]
    assert {c["id"] for c in json.loads((tmp_path / "out" / "externalities.json").read_text())["claims"]} == set(
        record["claims"]
    )
    assert (tmp_path / "out" / "externality_kl.pdf").exists()
    page = (tmp_path / "out" / "qualitative.md").read_text(encoding="utf-8")
    assert page.count("## Harmful: SHA-256 ") == 3  # neither harmful prompts nor answers to them, unasked
    assert not any(f"the {i} b" in page for i in range(N))
    with monkeypatch.context() as patched:
        patched.setattr("lens_steer.evaluation.sweep_rows.answers", None)
        assert run(patched, capsys, *options)[:2] == (0, told)


def test_hardly_any_prompts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Two prompts a side to report on: everything is drawn all the same, with what their labels say where no truth
    grades, and no divergence decides a claim.
    """
    import matplotlib.pyplot as plt

    from lens_steer.figures import saving

    files = [
        ("--positive", write(tmp_path / "a.jsonl", HARMFUL[:8])),
        ("--negative", write(tmp_path / "b.jsonl", HARMLESS[:8])),
        ("--responses", write(tmp_path / "c.jsonl", answered(HARMFUL[:8]))),
    ]
    options = [
        "--model",
        build("llama", tmp_path / "model"),
        "--n-random",
        1,
        "--max-new-tokens",
        4,
        "--out",
        tmp_path / "out",
    ]
    code, told, error = run(monkeypatch, capsys, "externalities", *(part for file in files for part in file), *options)
    assert code == 0, error
    verdicts = json.loads(told)["claims"]
    assert {v for key, v in verdicts.items() if key.startswith("kl-")} == {"REPORTED"}
    drawn, _ = saving.load(tmp_path / "out", "externality_kl")
    assert set(drawn.columns["n"]) == {2}
    for name in ("externality_attack", "externality_strength"):
        loaded, _ = saving.load(tmp_path / "out", name)
        figure, _ = saving.draw(loaded)
        labels = {text.get_text() for text in figure.legends[0].get_texts()}
        plt.close(figure)
        assert any("answered" in label for label in labels)
        assert not any("positive_right" in label for label in labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "somewhere"), "give --positive and --negative"),
        (("--positive", "x.jsonl"), "give --positive and --negative"),
        (("--judge", "refusal_12"), "give --positive and --negative"),
        (("--component", "middle"), "--component 'middle': use one of center, pairwise"),
        (("--positive", "absent.jsonl", "--negative", "absent.jsonl"), "'absent.jsonl' does not exist"),
        (("--tasks", "general"), "give --positive and --negative with --tasks"),
        (("--n-random", "0"), "--n-random 0: give at least 1"),
        (("--ks", "1,2"), "--ks '1,2': give numbers of at least 1 with commas, 4 among them, such as 1,4"),
        (("--ks", "0,4"), "--ks '0,4'"),
        (("--responses-are", "odd"), "--responses-are 'odd' names those of --responses: give both, or neither"),
    ],
)
def test_bad_options(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    """Told before the model is loaded."""
    monkeypatch.setattr(ls, "load_model", None)
    code, _, error = run(monkeypatch, capsys, "externalities", *options, "--out", tmp_path / "out")
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()
