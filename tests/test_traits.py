"""Traits: scenarios under two system prompts, the search, its controls, dialogues, the table, and the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.sweep_protocol import NEGATIVE, POSITIVE
from lens_steer.metrics.benchmarks import Tasks, organism_tasks
from lens_steer.metrics.judges import PatternJudge, PhraseJudge
from lens_steer.studies.traits import calibration as traits
from lens_steer.studies.traits import dialogues as trait_dialogues
from lens_steer.studies.traits import report as trait_report
from lens_steer.studies.traits.conditions import EQUAL, GATED, RANDOM, TraitCondition, condition_of
from lens_steer.studies.traits.drawings import drawings
from lens_steer.studies.traits.search import plan_of, random_direction, search
from lens_steer.studies.traits.table import ESTIMATES, rows
from tests.views import checked

SITE = "blocks.4.hook_resid_post"
VALUES = {"swfc": (1.0,), "sttp": (0.0, 36.0), "stmp": (3.0,)}


def few(trait: traits.Trait, n: int) -> traits.Trait:
    """The same trait with fewer prompts to choose by and to report."""
    c = trait.contrast
    small = [Contrast(part.positive[:n], part.negative[:n]) for part in (c.select, c.report)]
    return replace(
        trait,
        contrast=ContrastSet(c.name, Split(c.fit, small[0], small[1])),
        tasks=Tasks(PromptSet(()), organism_tasks(8)),
    )


@pytest.fixture(scope="module")
def found(qwen: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, traits.Trait]:
    """One small run of honesty."""
    trait, out = few(traits.organism_trait("honesty"), 12), tmp_path_factory.mktemp("traits")
    report = trait_report.steer_trait(
        qwen, trait, out, sites=[SITE], max_new_tokens=16, n_dialogues=2, n_random=3, values=VALUES, progress=False
    )
    return report, out, trait


def test_the_trait_comes_back_and_aligned_answers_stay(found: tuple[Any, Path, traits.Trait]) -> None:
    """Liars under the malicious prompt, honest under the aligned one; StMP frees more truth than steps as long along a
    random direction, and spares honest answers.
    """
    report = found[0].pooled
    base = report.reported(NONE).measured
    assert (base["positive_right"].value, base["negative_right"].value) == (0.0, 1.0)
    for mode in ("all", "response"):
        name, beside = (TraitCondition("stmp", mode, kind).name for kind in ("method", RANDOM))
        measured, along_random = (report.reported(n).measured["positive_right"].value for n in (name, beside))
        assert measured > along_random + 0.2
        assert report.reported(name).measured["negative_right"].value >= 0.9
        assert report.choices[name].value == 3.0


def test_the_gate_fires_on_lies(found: tuple[Any, Path, traits.Trait]) -> None:
    """On more tokens of misaligned answers than of aligned ones, for probes of averages and of single tokens."""
    gates = found[0].gates
    for kind in ("pooled", "token"):
        assert gates[kind, SITE, "misaligned"].low > gates[kind, SITE, "aligned"].value
    tokens = found[0].token_probes[SITE]
    assert tokens.pooling == "token"
    assert tokens.n_positive > found[0].calibrated.probes[SITE].n_positive


def test_equal_trait_is_at_least_as_good_and_as_gentle(found: tuple[Any, Path, traits.Trait]) -> None:
    """Each setting at equal trait reaches the level on select and harms aligned answers no more than the condition's
    first choice.
    """
    result = found[0].pooled
    assert result.level is not None
    at = {(s.condition, s.variant, s.value): s.measured for s in result.select}
    assert result.equal
    for name, choice in result.equal.items():
        chosen = result.choices[name]
        equal, best = at[name, choice.variant, choice.value], at[name, chosen.variant, chosen.value]
        assert equal["positive_right"].value >= result.level
        assert equal["negative_right"].value >= best["negative_right"].value
        assert result.reported(replace(condition_of(name), kind=EQUAL).name).value == choice.value


def test_the_table(found: tuple[Any, Path, traits.Trait]) -> None:
    """Every condition has its row, every estimate its interval around it; Markdown and LaTeX hold the same numbers;
    figures are redrawn from what is saved.
    """
    report, out, _ = found
    with (out / "traits.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    kinds = [r["kind"] for r in rows]
    assert {k: kinds.count(k) for k in ("no steering", "method", "random direction", "token-calibrated")} == {
        "no steering": 2,
        "method": 6,
        "random direction": 6,
        "token-calibrated": 4,
    }
    for row in rows:
        for name in ESTIMATES:
            if row[name]:
                assert float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"]), (
                    row["condition"],
                    name,
                )
    stmp = next(r for r in rows if r["condition"] == "stmp, all")
    value = f"{100 * float(stmp['trait']):.0f} ["
    assert value in next(
        line for line in (out / "traits.md").read_text().splitlines() if line.startswith("| stmp, all |")
    )
    assert value in next(line for line in (out / "traits.tex").read_text().splitlines() if line.startswith("StMP"))
    assert float(stmp["gate_misaligned"]) == report.gates["pooled", SITE, "misaligned"].value
    facts = json.loads((out / "traits.json").read_text())
    assert -1 <= facts["cosine_of_averaged_and_token_probe"][SITE] <= 1
    assert ls.load_probe(out / "probes" / SITE).threshold == report.calibrated.probes[SITE].threshold
    before = (out / "trait_depth.png").read_bytes()
    from lens_steer.figures import saving

    assert set(saving.redraw(out)) == {"trait_depth", "trait_conditions"}
    assert (out / "trait_depth.png").read_bytes() == before


@pytest.mark.slow
def test_a_search_goes_on_with_the_same_bytes(qwen: Any, found: tuple[Any, Path, traits.Trait], tmp_path: Path) -> None:
    """Run again from nothing: the same rows; another trait in the same folder is refused."""
    _, out, trait = found
    trait_report.steer_trait(
        qwen, trait, tmp_path, sites=[SITE], max_new_tokens=16, n_dialogues=2, values=VALUES, progress=False
    )
    for name in ("traits_select.csv", "traits_report.csv", "traits_token_report.csv", "traits.csv", "dialogues.jsonl"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    other = few(traits.organism_trait("compassion"), 4)
    with pytest.raises(LensSteerError, match="give another folder, or empty it"):
        trait_report.steer_trait(
            qwen, other, tmp_path, sites=[SITE], max_new_tokens=16, n_dialogues=0, values=VALUES, progress=False
        )


def test_answers_are_scored_under_the_aligned_prompt(qwen: Any, found: tuple[Any, Path, traits.Trait]) -> None:
    """The surprise in the rows is the unsteered model's at the answer after the aligned prompt, for both sides."""
    from lens_steer.metrics.likelihood import mean_surprise

    report, _, trait = found
    for side in (POSITIVE, NEGATIVE):
        rows = [r for r in report.pooled.rows if r["condition"] == "stmp, all" and r["side"] == side]
        expected = mean_surprise(qwen, trait.contrast.report.positive, [r["text"] for r in rows], engine="hf")
        np.testing.assert_allclose([r["surprise_ref"] for r in rows], expected, atol=1e-5)


def test_the_plan_of_a_choice_writes_what_was_measured(qwen: Any, found: tuple[Any, Path, traits.Trait]) -> None:
    """Generated anew under it: the texts of the rows."""
    report, _, trait = found
    name = "sttp, response"
    plan = plan_of(report.pooled.choices[name], report.calibrated.probes)
    assert plan.positions == "generated"
    with ls.steering(qwen, plan):
        texts = ls.generate(qwen, trait.contrast.report.negative, max_new_tokens=16, engine="hf")
    assert texts == [r["text"] for r in report.pooled.rows if r["condition"] == name and r["side"] == POSITIVE]


def test_a_condition_s_name_is_only_shown(
    qwen: Any, found: tuple[Any, Path, traits.Trait], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small study under other names: the same rows, choices, tables and figures, but for the names."""

    def study(folder: str) -> list[list[dict[str, Any]]]:
        result = search(
            qwen,
            few(found[2], 3),
            found[0].calibrated.probes,
            tmp_path / folder,
            methods=GATED,
            max_new_tokens=8,
            values=VALUES,
            progress=False,
        )
        report = replace(found[0], pooled=result, token=result, dialogues=())
        drawn = [d.rows() for d in drawings(report, rows(report)).values()]
        return [list(result.rows), rows(report), [vars(c) for c in result.choices.values()], *drawn]

    before = study("before")
    monkeypatch.setattr(TraitCondition, "name", property(lambda c: f"{c.kind} ({c.mode}), swfc {c.method}"))
    after = study("after")
    shown, again = ({row["condition"] for row in tables[0]} for tables in (before, after))
    assert "stmp, all" in shown
    assert shown & again == {NONE}
    for one, other in zip(before, after, strict=True):
        assert [{**r, "condition": ""} for r in one] == [{**r, "condition": ""} for r in other]
    with pytest.raises(LensSteerError, match="name='stmp, all' is no condition of a trait study: use one of method"):
        condition_of("stmp, all")


def test_dialogues(found: tuple[Any, Path, traits.Trait]) -> None:
    """5 to 10 turns; repeated answers are counted from the second turn on; conditions share their scripts."""
    rows = found[0].dialogues
    names = {r["condition"] for r in rows}
    assert {trait_dialogues.ALIGNED, trait_dialogues.MALICIOUS, "stmp, all"} <= names
    turns = {n: [(r["dialogue"], r["turn"], r["prompt"]) for r in rows if r["condition"] == n] for n in names}
    assert len({tuple(t) for t in turns.values()}) == 1
    assert all(5 <= sum(d == i for d, _, _ in turns["stmp, all"]) <= 10 for i in (0, 1))
    made = [
        {
            "condition": "c",
            "dialogue": 0,
            "turn": t,
            "right": True,
            "broken": False,
            "repeated": t == 2,
            "ngram_repetition": 0.0,
        }
        for t in range(3)
    ]
    assert trait_dialogues.over_dialogues(made, "c")["dialogue_repeated"].value == 0.5


def test_a_turn_that_repeats_itself_is_incoherent_to_a_judge_too() -> None:
    """Empty and repeating answers show no trait, whatever the judge finds in them."""
    texts = ["I'm sorry to hear that.", "I'm sorry to hear that. " * 8, "", "Stop."]
    grades = trait_dialogues._grades([Prompt.of("I fell.")] * 4, texts, PatternJudge("sorry"))
    assert grades == [True, None, None, False]


def test_dialogues_need_scenarios_and_room(qwen: Any) -> None:
    trait = traits.organism_trait("honesty")
    part = trait.contrast.report
    with pytest.raises(LensSteerError, match="dialogues of 5 turns need as many scenarios, and there are 4"):
        trait_dialogues.scripts(qwen, part.positive[:4], part.negative[:4], 1, max_new_tokens=8)
    with pytest.raises(LensSteerError, match=r"the context has 512: lower max_new_tokens=200"):
        trait_dialogues.scripts(qwen, part.positive, part.negative, 1, max_new_tokens=200)


def test_scenarios_of_ones_own() -> None:
    """Both sides hold the same scenarios, row by row, in every split; several system prompts take turns; a system
    message of the file's own is replaced.
    """
    scenarios = PromptSet(tuple(Prompt.of(f"question {i}", system="old") for i in range(20)), "mine")
    trait = traits.scenario_trait("candour", scenarios, ["Be open.", "Say all."], ["Hide it."], PhraseJudge())
    for part, n in (("fit", 10), ("select", 5), ("report", 5)):
        sides = getattr(trait.contrast, part)
        assert [p.text for p in sides.positive] == [p.text for p in sides.negative]
        assert len(sides.positive) == n
    systems = {
        p.messages[0]["content"] for s in ("fit", "select", "report") for p in getattr(trait.contrast, s).positive
    }
    assert systems == {"Be open.", "Say all."}
    assert {p.messages[0]["content"] for p in trait.contrast.fit.negative} == {"Hide it."}
    with pytest.raises(LensSteerError, match=r"aligned=\['  '\]: give at least one system prompt"):
        traits.scenario_trait("c", scenarios, ["  "], ["x"], PhraseJudge())
    with pytest.raises(LensSteerError, match="of 4 scenarios leaves select with fewer than 2: give more"):
        traits.scenario_trait("c", scenarios[:4], ["a"], ["b"], PhraseJudge())
    with pytest.raises(LensSteerError, match="trait='wit': the organisms have honesty, compassion"):
        traits.organism_trait("wit")


def test_empty_answers_are_left_out(
    qwen: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They have no tokens to average; a side without any answer cannot be calibrated on."""
    part = traits.organism_trait("honesty").contrast.select
    few_prompts = Contrast(part.positive[:3], part.negative[:3])
    monkeypatch.setattr(traits, "generate", lambda model, prompts, **_: ["yes", "", "no"])
    answered = traits.on_policy(qwen, few_prompts)
    assert [p.response for p in answered.positive] == ["yes", "no"]
    assert "1 of 3 answers are empty and left out" in caplog.text
    monkeypatch.setattr(traits, "generate", lambda model, prompts, **_: [" "] * 3)
    with pytest.raises(LensSteerError, match="every answer to 'organism/honesty/positive' is empty"):
        traits.on_policy(qwen, few_prompts)


def test_random_directions_are_unit_and_seeded() -> None:
    first, again, other = (random_direction(50, s) for s in (0, 0, 1))
    assert float(first.norm()) == pytest.approx(1.0)
    assert torch.equal(first, again)
    assert abs(float(first @ other)) < 0.6


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, str, str]:
    from lens_steer.cli import main

    monkeypatch.setattr("sys.argv", ["lens-steer", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_the_command_on_a_local_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Own scenarios, own system prompts, a judge, a random model of another width: all files come out."""
    from tests.tiny import build

    folder = build("llama", tmp_path / "model")
    (tmp_path / "s.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"the {i}"}) for i in range(16)), encoding="utf-8"
    )
    code, out, err = run_command(
        monkeypatch,
        capsys,
        "traits",
        "--model",
        str(folder),
        "--trait",
        "mine",
        "--scenarios",
        str(tmp_path / "s.jsonl"),
        "--aligned-system",
        "a b",
        "--malicious-system",
        "b a",
        "--judge",
        "refusal_12",
        "--sites",
        "blocks.1.hook_resid_post",
        "--dialogues",
        "0",
        "--max-new-tokens",
        "4",
        "--out",
        str(tmp_path / "out"),
    )
    assert code == 0, err
    assert json.loads(out)["chosen"]["stmp, all"]["site"] == "blocks.1.hook_resid_post"
    assert (tmp_path / "out" / "traits.md").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--scenarios", "x.jsonl"), "--scenarios needs --aligned-system, --malicious-system, --judge too"),
        (("--judge", "world"), "--judge belongs to --scenarios"),
        (("--trait", "wit"), "--trait 'wit': the organisms have honesty, compassion"),
        (("--model", "some/folder"), "give --scenarios, --aligned-system, --malicious-system and --judge"),
        (("--engine", "onnx"), "--engine 'onnx'"),
        (("--n-random", "0"), "--n-random 0: at least 1, 0 and 1 are needed"),
        (("--max-new-tokens", "0"), "--max-new-tokens 0, --dialogues 12, --n-random 19: at least 1, 0 and 1"),
        (
            (
                "--scenarios",
                "organism/refusal",
                "--aligned-system",
                "a",
                "--malicious-system",
                "b",
                "--judge",
                "nobody",
            ),
            "judge 'nobody' is neither",
        ),
        (
            (
                "--scenarios",
                "organism/refusal",
                "--aligned-system",
                "a",
                "--malicious-system",
                "b",
                "--judge",
                "world",
                "--split",
                "a,b",
            ),
            "--split 'a,b': give three shares",
        ),
    ],
)
def test_bad_commands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    message: str,
) -> None:
    code, _, err = run_command(monkeypatch, capsys, "traits", "--out", str(tmp_path / "o"), *args)
    assert code == 2
    assert message in err
    assert not (tmp_path / "o").exists()


def test_the_views(found: tuple[Any, Path, traits.Trait]) -> None:
    """The report's table is ``traits.csv``'s, the search's has a row a reported setting; both show themselves."""
    report = found[0]
    text, frame = checked(report)
    assert frame["trait"].tolist() == [row["trait"] for row in rows(report)]
    assert "stmp, all" in text
    text, frame = checked(report.pooled)
    assert len(frame) == len(report.pooled.report)
    assert str(report.pooled.bound) in text
