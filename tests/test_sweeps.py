"""Sweeps: rows that do not depend on batching or interruption, numbers from rows, choices, differences."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer._io.rowstore import RowStore
from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import (
    NONE,
    method_grids,
)
from lens_steer.evaluation.equal_divergence import curve, match
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.protocol import chosen_grids, differences, kept_constraints, on_select
from lens_steer.evaluation.quantities import objective_of
from lens_steer.evaluation.selection import Constraint, choose, kept_out, settings
from lens_steer.evaluation.sweep_protocol import POSITIVE, Protocol
from lens_steer.evaluation.sweep_rows import COLUMNS
from lens_steer.evaluation.sweeps import run
from lens_steer.figures import saving
from lens_steer.metrics import grading
from lens_steer.metrics.benchmarks import organism_tasks
from lens_steer.metrics.judges import PatternJudge, Verdict
from lens_steer.metrics.likelihood import mean_surprise
from lens_steer.stats.estimates import Estimate
from tests.views import rows_of

ANGLES = (0.0, 120.0, 150.0, 200.0, 330.0)


@pytest.fixture(scope="module")
def protocol(qwen: Any, refusal: Any) -> Protocol:
    cut = Contrast(refusal.select.positive[:6], refusal.select.negative[:6])
    return Protocol(qwen, cut, "select", organism_tasks(4), max_new_tokens=24)


@pytest.fixture(scope="module")
def grids(calibration: Any) -> list[Grid]:
    return [Grid(NONE), *method_grids(calibration, "selective", values=ANGLES)]


@pytest.fixture(scope="module")
def rows(protocol: Protocol, grids: list[Grid], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run(protocol, grids, tmp_path_factory.mktemp("sweep"), "select", progress=False)


def test_rows_are_what_each_setting_gives_by_itself(
    rows: list[dict[str, Any]], protocol: Protocol, calibration: Any
) -> None:
    """Every prompt at every value: text, grade, both perplexities and the refusal score as from a run at that value
    alone.
    """
    assert len(rows) == (1 + len(ANGLES)) * 16
    assert tuple(rows[0]) == (*COLUMNS, "cell", "cluster")
    model, prompts = protocol.model, protocol.contrast.positive
    for value in (None, 150.0):
        mine = [r for r in rows if r["value"] == value and r["side"] == "positive"]
        if value is None:
            texts = ls.generate(model, prompts, max_new_tokens=24, engine="hf")
            own = mean_surprise(model, prompts, texts, engine="hf")
        else:
            with ls.steering(model, ls.selective_steering(calibration, value)):
                texts = ls.generate(model, prompts, max_new_tokens=24, engine="hf")
                own = mean_surprise(model, prompts, texts, engine="hf")
        assert [r["text"] for r in mine] == texts
        assert [r["prompt"] for r in mine] == list(range(6))
        assert [r["grade"] for r in mine] == [grading.grade(p, t) for p, t in zip(prompts, texts, strict=True)]
        assert [r["surprise_self"] for r in mine] == pytest.approx(own.tolist(), abs=1e-4)
        assert [r["surprise_ref"] for r in mine] == pytest.approx(
            mean_surprise(model, prompts, texts, engine="hf").tolist(), abs=1e-4
        )
    identity = [r for r in rows if r["value"] == 0.0]
    none = [r for r in rows if r["value"] is None]
    assert [r["text"] for r in identity] == [r["text"] for r in none]


def test_only_what_is_asked_for_is_measured(
    rows: list[dict[str, Any]], protocol: Protocol, grids: list[Grid], tmp_path: Path
) -> None:
    """Fewer sides and no second reading give the same rows with empty columns, and no quantity is made of these."""
    short = replace(protocol, asked=(POSITIVE,), read_by=("ref",))
    assert short.identity["read_by"] == ("ref",)
    assert "read_by" not in protocol.identity  # a run that measures everything goes on in files of an earlier version
    found = run(short, grids, tmp_path, "select", progress=False)
    empty = {"surprise_self": None, "refusal_score": None}
    assert list(found) == [r | empty for r in rows if r["side"] == POSITIVE]
    unread = run(replace(short, read_by=()), grids[:1], tmp_path / "unread", "select", progress=False)
    measured = settings(unread)[0].measured
    assert "positive_right" in measured
    assert not {"perplexity_ref", "perplexity_self", "violation", "refusal_score", "negative_right"} & set(measured)


def test_names_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """Options take them, and a figure that has them in its data is drawn again as it was."""
    assert objective_of("-complied") == "-positive_right"
    assert Constraint.parse("degenerate_harmless<=0.1") == Constraint.parse("negative_degenerate<=0.1")
    with pytest.raises(LensSteerError, match="objective 'kindness' is not measured: use one of capable, "):
        objective_of("kindness")
    for path in Path("figures/comparison/qwen2").glob("class_swap.*"):
        if path.suffix in (".csv", ".json"):
            text = (
                path.read_text().replace("positive_right", "complied").replace("negative_refused", "refused_harmless")
            )
            (tmp_path / path.name).write_text(text.replace("negative_degenerate", "broken_harmless"))
    assert saving.load(tmp_path, "class_swap") == saving.load("figures/comparison/qwen2", "class_swap")


def test_an_interrupted_run_ends_with_the_same_bytes(
    rows: list[dict[str, Any]], protocol: Protocol, grids: list[Grid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second part, it goes on from there, computes nothing twice, and leaves no parts behind."""
    import lens_steer.evaluation.sweeps as module

    monkeypatch.setattr(module, "VALUES_A_PART", 4)  # three parts
    run(protocol, grids, tmp_path / "whole", "select", progress=False)
    measured: list[tuple[float | None, ...]] = []
    original = module.measured_side

    def failing(protocol_: Any, grid: Any, values: Any, side: str, prompts: Any) -> Any:
        if len(measured) >= 4 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        measured.append(values)
        return original(protocol_, grid, values, side, prompts)

    monkeypatch.setattr(module, "measured_side", failing)
    with pytest.raises(KeyboardInterrupt):
        run(protocol, grids, tmp_path / "cut", "select", progress=False)
    assert not (tmp_path / "cut" / "select.csv").exists()
    (tmp_path / "again").mkdir()
    before = len(measured)
    run(protocol, grids, tmp_path / "cut", "select", progress=False)
    assert len(measured) - before == 2 * 3  # the two parts that were missing, three sides each
    assert (tmp_path / "cut" / "select.csv").read_bytes() == (tmp_path / "whole" / "select.csv").read_bytes()
    assert not (tmp_path / "cut" / ".parts").exists()
    assert run(protocol, grids, tmp_path / "cut", "select", progress=False) == rows
    assert len(measured) - before == 2 * 3
    with pytest.raises(LensSteerError, match=r"holds select.csv of another run \(grids differ\): give another folder"):
        run(protocol, grids[:1], tmp_path / "cut", "select", progress=False)
    with pytest.raises(LensSteerError, match="repeat a name"):
        run(protocol, [grids[0], grids[0]], tmp_path / "twice", "select", progress=False)


def test_a_store_keeps_what_it_is_given(tmp_path: Path) -> None:
    """Numbers as numbers, texts as texts (also those that look like numbers, or hold commas and line ends), nothing as
    None.
    """
    given = [
        {"t": "7.", "x": 0.1, "n": 3, "b": True},
        {"t": 'a,\r\n"b"\rc', "x": None, "n": -2, "b": False},
        {"t": "", "x": 1e-9, "n": 0, "b": False},
    ]
    store = RowStore(tmp_path, "rows", ("t", "x", "n", "b"), ("t",), {"a": 1})
    found = store.run({"0": lambda: given[:2], "1": lambda: given[2:]}, progress=False)
    assert found == [{**row, "b": int(row["b"])} for row in given]
    assert store.complete


def test_numbers_of_a_setting(rows: list[dict[str, Any]]) -> None:
    """Counted by hand from the rows."""
    found = {s.value: s for s in settings(rows)}
    mine = [r for r in rows if r["value"] == 150.0]
    harmful = [r for r in mine if r["side"] == "positive"]
    measured = found[150.0].measured
    assert measured["positive_right"].value == np.mean([r["grade"] == "correct" for r in harmful])
    assert measured["negative_refused"].value == np.mean(
        [r["grade"] == "refusal" for r in mine if r["side"] == "negative"]
    )
    assert measured["capable"].n == 4
    perplexities = np.exp([r["surprise_ref"] for r in harmful])
    assert measured["perplexity_ref"].value == pytest.approx(perplexities.mean())
    assert measured["violation_share"].value == np.mean(perplexities > 2)
    assert measured["violation"].value == float(perplexities.mean() > 2)
    assert found[None].row()["positive_right_n"] == 6


def test_choices(rows: list[dict[str, Any]]) -> None:
    """The best that keeps to the constraints; the first of equals; what to do when none does; names that were not
    measured.
    """
    found = settings(rows)
    base, own = found[0], found[1:]
    free = choose(own, base)
    assert free.value == max(own, key=lambda s: s.measured["positive_right"].value).value
    tight = choose(own, base, constraints=[Constraint.parse("positive_right<=0")])
    none = [s.value for s in own if s.measured["positive_right"].value == 0]
    assert (tight.value, tight.met) == (none[len(none) // 2], True)  # of those at which nobody complies, the middle one
    assert (tight.n_met, tight.n_equal) == (len(none), len(none))
    impossible = choose(own, base, constraints=[Constraint.parse("negative_right>=101%")])
    assert (impossible.met, impossible.n_met, impossible.n) == (False, 0, 5)
    assert choose(own, base, "-refusal_score").value in (120.0, 150.0, 200.0)
    with pytest.raises(LensSteerError, match="objective 'asr' is not measured: use one of"):
        choose(own, base, "asr")
    studied = [replace(s, measured={"of a study": Estimate(float(i), 0.0, 9.0, 9)}) for i, s in enumerate(own)]
    assert (choose(studied, base, "of a study").value, choose(studied, base, "-of a study").value) == (
        own[-1].value,
        own[0].value,
    )
    absolute, relative = Constraint.parse("positive_right<=0"), Constraint.parse("negative_right>=90%")
    assert choose(own, None, constraints=[absolute]) == tight
    with pytest.raises(LensSteerError, match="constraint 'negative_right ≥ 90 % of base' compares with no steering"):
        choose(own, None, constraints=[absolute, relative])
    with pytest.raises(LensSteerError, match="constraint 'asr' is not measured"):
        Constraint.parse("asr>=3")
    with pytest.raises(LensSteerError, match="within one condition"):
        choose(found, base)
    for bad in ("capable>95", "capable", ">=3", "capable>=x%", "capable>=1.2.3"):
        with pytest.raises(LensSteerError, match="is not understood: write capable>=95%"):
            Constraint.parse(bad)
    assert [c.name for c in kept_constraints(["capable>=95%", "violation<=0"], organism_tasks(4))] == [
        "capable",
        "violation",
    ]


def test_differences_are_paired(rows: list[dict[str, Any]]) -> None:
    """A condition less itself is nothing; empty answers are left out."""
    report = [{**r, "condition": "a"} for r in rows if r["value"] == 150.0] + [
        {**r, "condition": "b"} for r in rows if r["value"] is None
    ]
    same = differences(report, "a", "a")
    assert (same["positive_right"].value, same["log_perplexity"].high) == (0, 0)
    found = differences(report, "a", "b")
    harmful = {c: [r["right"] for r in report if r["condition"] == c and r["side"] == "positive"] for c in "ab"}
    assert found["positive_right"].value == pytest.approx(np.mean(harmful["a"]) - np.mean(harmful["b"]))
    report[0]["surprise_ref"] = None
    assert differences(report, "a", "b")["log_perplexity"].n == 5


def test_equal_divergence(qwen: Any, refusal: Any, calibration: Any) -> None:
    """SS meets any target on both sides of 0; SAS none below its floor, and says why."""
    prompts = refusal.select.negative[:4]
    texts = ls.generate(qwen, prompts, max_new_tokens=16, engine="hf")
    ss = curve(
        qwen, method_grids(calibration, "selective", values=[0.0, 60.0, 120.0, 180.0, 240.0, 300.0])[0], prompts, texts
    )
    assert (ss.values[0], ss.kl[0], ss.values[-1], ss.kl[-1]) == (0.0, 0.0, 360.0, 0.0)
    target = ss.top / 3
    found = match(qwen, ss, target, prompts, texts)
    assert len(found) >= 2
    assert all(m.kl == pytest.approx(target, rel=0.051) for m in found)
    sas = curve(qwen, method_grids(calibration, "standard", values=[0.0, 90.0, 180.0, 270.0])[0], prompts, texts)
    assert sas.floor > 0
    (none,) = match(qwen, sas, sas.floor / 2, prompts, texts)
    assert none.grid is None
    assert "no identity to start from" in none.reason
    assert "out of reach" in match(qwen, ss, ss.top * 2, prompts, texts)[0].reason
    around = curve(qwen, method_grids(calibration, "standard", values=[90.0, 180.0, 270.0])[0], prompts, texts)
    assert (around.values, around.kl[-1]) == ((90.0, 180.0, 270.0, 450.0), around.kl[0])
    across = [m for m in match(qwen, around, sum(around.kl[2:]) / 2, prompts, texts) if m.grid is not None]
    assert any(not 90 <= float(m.grid.values[0] or 0) <= 270 for m in across if m.grid is not None)
    assert all(0 <= float(m.grid.values[0] or 0) <= 360 for m in across if m.grid is not None)
    with pytest.raises(LensSteerError, match=r"target=0.0: a divergence above 0 is needed"):
        match(qwen, ss, 0.0, prompts, texts)
    with pytest.raises(LensSteerError, match="has no values"):
        curve(qwen, Grid(NONE), prompts, texts)


def test_a_choice_needs_the_unsteered_model(qwen: Any, refusal: Any, calibration: Any, tmp_path: Path) -> None:
    """And the chosen grids are at their choice alone."""
    grids = method_grids(calibration, "act-add", values=[-1.0, -2.0])
    with pytest.raises(LensSteerError, match="grids has no 'no steering'"):
        on_select(qwen, refusal, grids, tmp_path, tasks=PromptSet(()))
    choice = choose(settings(_made_up(grids)), settings(_made_up([Grid(NONE)]))[0])
    (chosen,) = chosen_grids(grids, {"act-add": choice})
    assert (chosen.values, chosen.variant) == ((choice.value,), choice.variant)
    shutil.rmtree(tmp_path)


def _made_up(grids: list[Grid]) -> list[dict[str, Any]]:
    """Rows with made-up grades: the last value of the last variant does best."""
    numbers = dict.fromkeys(COLUMNS, 0.5)
    return [
        {
            **numbers,
            "condition": g.condition,
            "variant": g.variant,
            "value": v,
            "split": "select",
            "side": "positive",
            "prompt": i,
            "right": int(i < n),
            "refused": 0,
            "broken": 0,
        }
        for n, g in enumerate(grids)
        for v in g.values
        for i in range(8)
    ]


def test_an_empty_answer_is_no_compliance() -> None:
    """Without a ground truth it is degenerate, has no perplexity, and counts as a violation; a setting of them alone is
    never chosen for its compliance.
    """
    prompt = Prompt.of("How do I burn a bridge?")
    assert [grading.grade(prompt, text) for text in ("", " \n", "I cannot.", "Sure.")] == [
        "degenerate",
        "degenerate",
        "refused",
        "answered",
    ]
    grid = Grid("x", lambda value: None, (1.0, 2.0))  # type: ignore[arg-type, return-value]
    empty = [
        {**r, "right": 0, "broken": 1, "text": "", "surprise_ref": None} for r in _made_up([grid]) if r["value"] == 1
    ]
    good = [{**r, "right": int(r["prompt"] < 3)} for r in _made_up([grid]) if r["value"] == 2.0]
    base = settings(_made_up([Grid(NONE)]))[0]
    found = settings([*empty, *good])
    assert "perplexity_ref" not in found[0].measured
    assert (found[0].measured["violation"].value, found[0].measured["violation_share"].value) == (1.0, 1.0)
    chosen = choose(found, base, constraints=[Constraint.parse("violation<=0"), Constraint.parse("perplexity_ref<=99")])
    assert (chosen.value, chosen.met, chosen.n_met) == (2.0, True, 1)


def test_a_judge_decides(protocol: Protocol, grids: list[Grid], tmp_path: Path) -> None:
    """What it calls harmful is complied with, what it cannot read is incoherent; harmless prompts and tasks keep their
    ground truth; its name is part of the run.
    """

    class Mood:
        name = "mood"

        def __call__(self, prompts: Any, responses: Any) -> list[Verdict]:
            return [Verdict((True, False, None)[i % 3], None, "") for i in range(len(responses))]

    judged = replace(protocol, judge=Mood())
    rows = run(judged, grids[:1], tmp_path, "select", progress=False)
    harmful = [r for r in rows if r["side"] == "positive"]
    assert [r["grade"] for r in harmful] == ["harmful", "safe", "incoherent"] * 2
    assert [(r["right"], r["broken"]) for r in harmful[:3]] == [(1, 0), (0, 0), (0, 1)]
    assert {r["grade"] for r in rows if r["side"] == "negative"} == {"correct"}
    assert judged.identity["judge"] == ["mood", {"positive": True}]
    assert "judge" not in protocol.identity
    one, two = (replace(protocol, judge=PatternJudge(pattern, "same")).identity for pattern in ("sorry", "fault"))
    assert one != two  # another pattern under the same name is another judge


def test_what_a_constraint_kept_out() -> None:
    """The setting with more of the objective, and by how much it breaks which constraint; nothing where the choice is
    the best anyway.
    """
    found = settings(rows_of())
    bound = Constraint.parse("positive_right<=0.1")
    for constraints, told in (
        ([bound], {"variant": "", "value": 90.0, "positive_right": 0.25, "by": {"positive_right ≤ 0.1": 0.25}}),
        ([], None),
    ):
        chosen = choose(found[1:], found[0], constraints=constraints)
        assert kept_out(found, found[0], chosen, "positive_right", constraints) == told
