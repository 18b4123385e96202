"""Work counted beforehand against what runs, and its time against the clock."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.cli.precheck import describe
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.evaluation import sweeps
from lens_steer.evaluation.comparison import compare
from lens_steer.evaluation.conditions import NONE, method_grids, rule_grids
from lens_steer.evaluation.controls import Controls
from lens_steer.evaluation.cost import Cost, Speed, cost, probe
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweep_work import comparing, comparison_grids, sweeping
from lens_steer.evaluation.work import Work, answering, forcing_answers, forcing_values, measuring, recording
from lens_steer.metrics.benchmarks import Tasks, organism_tasks
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.metrics.likelihood import mean_surprise
from lens_steer.models.loading import hf_twin
from lens_steer.reports.report import make_report
from lens_steer.reports.report_work import reporting
from lens_steer.reports.sweep_report import sweep_method
from tests.test_cli import run

NEW = 5


@contextmanager
def counted(model: Any) -> Iterator[Counter[str]]:
    """Forwards of the twin and the tokens in them, by what its embedding is given."""
    seen: Counter[str] = Counter()

    def look(_: Any, args: tuple[Any, ...]) -> None:
        rows, width = args[0].shape
        kind = "steps" if width == 1 else "wide"
        seen[kind] += 1
        seen[f"{kind} tokens"] += rows * width

    handle = hf_twin(model).get_input_embeddings().register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.fixture
def endless(qwen: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The organism with answers that never end, so that each has all the tokens it may have."""
    for model in (qwen, hf_twin(qwen)):
        monkeypatch.setattr(
            model, "lens_info", replace(model.lens_info, end_tokens=(model.lens_info.tokenizer.vocab_size - 1,))
        )
    return qwen


@pytest.fixture(scope="module")
def prompts(refusal: Any) -> PromptSet:
    return PromptSet(tuple(refusal.fit.positive[:20]) + tuple(refusal.fit.negative[:13]), "some")


def test_answers_are_counted_exactly(endless: Any, prompts: PromptSet) -> None:
    """One forward a batch of prompts, then one a token; with more copies than one batch holds."""
    for times in (1, 5):
        work = answering(endless, prompts, NEW, times=times)
        with counted(endless) as seen:
            ls.generate(endless, list(prompts) * times, max_new_tokens=NEW)
        assert (seen["wide"], seen["wide tokens"]) == (work.prefills, work.prompt_tokens)
        assert (seen["steps"], seen["steps tokens"]) == (work.steps, work.stepped)
        assert (work.answers, work.new_tokens) == (33 * times, 33 * times * NEW)
    assert work.prefills == 2


def test_recording_and_fixed_answers_are_counted_exactly(
    qwen: Any, refusal: Any, prompts: PromptSet, calibration: Any
) -> None:
    cut = Contrast(refusal.fit.positive[:9], refusal.fit.negative[:7])
    with counted(qwen) as seen:
        acts = ls.record(qwen, cut, "resid_post", progress=False)
    work = recording(qwen, cut, len(acts.sites))
    assert (seen["wide"], seen["wide tokens"]) == (work.prefills, work.prompt_tokens)
    assert work.recorded == acts.positive.numel() + acts.negative.numel()
    said = [Prompt(p.messages, "Yes, that is so.") for p in prompts]
    work = forcing_answers(qwen, said, 0, times=3)
    with counted(qwen) as seen:
        mean_surprise(qwen, said * 3, ["Yes, that is so."] * 99)
    assert (seen["wide"], seen["wide tokens"]) == (work.forced, work.forced_tokens)
    build = method_grids(calibration, "selective")[0].build
    assert build is not None
    angles = [float(a) for a in range(0, 360, 45)]
    with counted(qwen) as seen:
        mean_kl_by_value(qwen, build, angles, said, ["Yes, that is so."] * 33)
    work = forcing_values(qwen, said, 0, len(angles))
    assert seen["wide"] == work.forced
    assert seen["wide tokens"] == work.forced_tokens


def test_a_sweep_is_counted(endless: Any, refusal: Any, calibration: Any, tmp_path: Path) -> None:
    """Its generation to the token, its passes over answers at most: texts that several values share are scored once."""
    cut = Contrast(refusal.select.positive[:6], refusal.select.negative[:5])
    protocol = Protocol(endless, cut, "select", organism_tasks(4), max_new_tokens=NEW)
    grids = [Grid(NONE), *method_grids(calibration, "selective", values=tuple(float(a) for a in range(0, 360, 45)))]
    work = measuring(protocol, grids)
    with counted(endless) as seen:
        sweeps.run(protocol, grids, tmp_path, "select", progress=False)
    assert (seen["steps"], seen["steps tokens"]) == (work.steps, work.stepped)
    assert work.answers == 9 * 15
    forced, tokens = seen["wide"] - work.prefills, seen["wide tokens"] - work.prompt_tokens
    assert 0.4 * work.forced <= forced <= work.forced
    assert 0.4 * work.forced_tokens <= tokens <= 1.05 * work.forced_tokens
    # the description alone says the same
    assert measuring(replace(protocol, model=describe("organism/qwen2")), grids) == work


def test_work_grows_with_what_is_asked(qwen: Any, refusal: Any, calibration: Any) -> None:
    """In prompts, tokens, values and methods."""

    def at(n: int, new: int, angles: int) -> Work:
        protocol = Protocol(
            qwen, Contrast(refusal.fit.positive[:n], refusal.fit.negative[:n]), "s", PromptSet(()), max_new_tokens=new
        )
        return measuring(protocol, [Grid("selective", None, tuple(float(a) for a in range(angles)))])

    speed = Speed(
        a_prefill=0.1,
        a_prompt_token=0.01,
        a_step=0.1,
        a_row=0.01,
        a_forced_token=0.01,
        answer=3,
        max_new_tokens=8,
        measuring=0.0,
    )
    base, others = at(8, 8, 4), [at(16, 8, 4), at(8, 16, 4), at(8, 8, 9)]
    for more in others:
        assert speed.seconds(more) > speed.seconds(base)
        assert speed.seconds(more, whole=True) > speed.seconds(base, whole=True)
        assert more.new_tokens > base.new_tokens
    assert speed.seconds(base) < speed.seconds(base, whole=True)
    few, many = (
        comparing(qwen, refusal.first(select=8, report=8), m, (0.0, 90.0, 180.0), Tasks(), 8)
        for m in (["ablation"], ["ablation", "swfc"])
    )
    assert many.answers > few.answers
    few = refusal.first(select=8, report=8)
    assert reporting(qwen, few, 8, draws=0).answers == 16 * (1 + 13) + 16 * 11
    # ten draws of random planes, the identity and all sites; for positive prompts ten of sites and labels too, and of
    # planes at one angle more
    assert reporting(qwen, few, 8).answers == 16 * (1 + 13 + 12) + 8 * 30 + 16 * 11
    one = method_grids(calibration, "selective", values=(0.0, 90.0))
    assert sweeping(qwen, refusal.first(select=8, report=4), [Grid(NONE), *one], Tasks(), 8).answers == 3 * 16 + 2 * 8


def without_truth(contrast: ContrastSet, n: int) -> ContrastSet:
    """The first prompts of select and report, which nothing grades."""
    fit, *rest = (
        Contrast(
            *(PromptSet(tuple(Prompt(p.messages) for p in side[:m]), "bare") for side in (part.positive, part.negative))
        )
        for part, m in ((contrast.fit, 128), (contrast.select, n), (contrast.report, n))
    )
    return ContrastSet("bare", Split(fit, *rest))


def held_against(seen: Counter[str], work: Work) -> None:
    """Generation to the token; passes over answers at most, texts that stand twice being scored once."""
    assert (seen["steps"], seen["steps tokens"]) == (work.steps, work.stepped)
    assert 0.4 * (work.prefills + work.forced) <= seen["wide"] <= work.prefills + work.forced
    assert seen["wide tokens"] <= 1.05 * (work.prompt_tokens + work.forced_tokens)


@pytest.mark.parametrize("method", ["selective", "act-add"])
def test_a_sweep_with_everything_is_counted(
    endless: Any, refusal: Any, calibration: Any, tmp_path: Path, method: str
) -> None:
    """The bound's answers, rule grids, controls on report and on select, shuffled labels and the first token: what is
    told before is what runs.
    """
    contrast = without_truth(refusal, 4)
    cal = replace(calibration, prompt_hash=contrast.fit.hash)
    values = (60.0, 180.0, 300.0) if method == "selective" else (-2.0, 1.0)
    grids = method_grids(cal, method, values=values)
    grids += rule_grids(cal, method, ["centred"], values=values)[0] if method == "selective" else []
    told: list[Work] = []
    with counted(endless) as seen:
        sweep_method(
            endless,
            contrast,
            grids,
            tmp_path,
            tasks=Tasks(),
            controls=Controls(cal, draws=2, select_values=1),
            progress=False,
            before=told.append,
            max_new_tokens=NEW,
        )
    held_against(seen, told[0])
    n_select = 1 + sum(len(g.values) for g in grids) + (2 if method == "selective" else 0)
    rules, controls = (1 if method == "selective" else 0), 1 + 3 * 2 + 1  # identity, planes, sites, labels, all sites
    assert told[0].answers == 4 + 8 * n_select + 8 * (2 + rules + controls)
    bare = sweeping(endless, contrast, [Grid(NONE), *grids], Tasks(), NEW)
    assert bare.answers == told[0].answers - 8 * (controls + (2 if method == "selective" else 0))
    # graded, there is no bound to measure; another contrast's calibration has no labels to shuffle
    graded = refusal.first(select=4, report=4)
    other = sweeping(endless, graded, grids, Tasks(), NEW, controls=Controls(replace(cal, prompt_hash="x"), draws=2))
    assert other.recorded == 0
    assert told[0].recorded == 256 * len(cal.sites) * cal.d_model


@pytest.mark.parametrize("known", [True, False])
def test_a_report_is_counted(endless: Any, refusal: Any, tmp_path: Path, known: bool) -> None:
    """Recordings, angles, controls, and without a ground truth the bound and one reading of every answer, for which
    each prompt is read once a file of rows; random planes run beside the choice unless the choice is their angle.
    """
    contrast = refusal.first(select=3, report=4) if known else without_truth(refusal, 4)
    with counted(endless) as seen:
        found = make_report(endless, contrast, tmp_path, max_new_tokens=NEW, draws=2, progress=False)
    work = reporting(endless, contrast, NEW, draws=2)
    left_out = [p for _ in range(2 if found.numbers["best_angle"] == 180 else 0) for p in contrast.report.positive]
    less = answering(endless, left_out, NEW)
    assert seen["steps tokens"] == work.stepped - less.stepped
    assert 0.4 * (work.prefills + work.forced) <= seen["wide"] <= work.prefills + work.forced
    assert seen["wide tokens"] <= 1.05 * (work.prompt_tokens + work.forced_tokens)
    assert (work.forced == 0) == known


def test_a_comparison_is_counted(endless: Any, refusal: Any, tmp_path: Path) -> None:
    """Rules, the bound and the draws of controls too; what cannot be matched in divergence makes it less."""
    contrast, angles = without_truth(refusal, 3), (0.0, 90.0, 180.0, 270.0)
    options: dict[str, Any] = {"rules": ["paper", "centred"], "draws": 2, "refine": 2}
    with counted(endless) as seen:
        found = compare(
            endless,
            contrast,
            tmp_path,
            methods=["standard", "ablation"],
            values=angles,
            objective="compression_ratio",  # by which some angle does better than none, unlike by answers to harm
            max_new_tokens=NEW,
            progress=False,
            **options,
        )
    work = comparing(endless, contrast, ["standard", "ablation"], angles, Tasks(), NEW, **options)
    unmatched = sum(m.grid is None for m in found.matches.values()) if found.matches else 2
    assert seen["steps"] == work.steps - 2 * unmatched * (NEW - 1)
    answers = 3 + 6 * (3 + 6 * 3 + 3 * 4 + 1) + 6 * (6 * 3 + 3 * 2) + 6 * (3 + 6 + 4) + 6 * 3 * 2 + 6 * 2
    assert work.answers == answers
    assert len(found.beside.report) == 6
    assert seen["wide"] > 0.4 * (
        work.prefills + work.forced
    )  # with the search for equal divergence, which nobody can count before


def test_a_selected_direction_is_counted_with_its_conditions(endless: Any, refusal: Any) -> None:
    """The selection's own answers, and for the method with it: its grid, what is tried beyond it up to the budget, one
    setting on report, and one at equal divergence.
    """
    contrast, angles = refusal.first(fit=4, select=2, report=3), (0.0, 120.0, 240.0)

    def work(*, selects: bool) -> Work:
        return comparing(endless, contrast, ["act-add"], angles, Tasks(), NEW, selects=selects, refine=1)

    more = work(selects=True).answers - work(selects=False).answers
    assert more == len(contrast.fit.positive) + 4 * (36 + 1) + 6 + 6  # a budget of 36 + 1: act-add's own sites have 36
    assert work(selects=True).forced > work(selects=False).forced


def test_a_comparisons_grids_are_those_that_run(calibration: Any) -> None:
    """As many settings of every method as :func:`lens_steer.evaluation.conditions.method_grids` makes on a calibration
    with enough sites.
    """
    for method in ("selective", "ablation", "act-add", "sttp", "compliance"):
        made = method_grids(calibration, method, values=(0.0, 90.0) if method == "selective" else None)
        told = [g for g in comparison_grids([method], (0.0, 90.0)) if g.condition == method]
        assert sum(len(g.values) for g in told) == sum(len(g.values) for g in made)


def test_a_probe_takes_seconds_and_sees_where_answers_end(qwen: Any, prompts: PromptSet, calibration: Any) -> None:
    begun = time.perf_counter()
    speed = probe(qwen, prompts, 48, plan=ls.selective_steering(calibration, 180), budget=1.0)
    assert time.perf_counter() - begun < 30
    assert speed.a_prompt_token > 0
    assert speed.a_step + speed.a_row > 0
    assert speed.answer is None or 2 <= speed.answer <= 48
    told = cost(qwen, answering(qwen, prompts, 48), speed)
    assert 0 < told.seconds_low <= told.seconds <= told.seconds_high
    weights = sum(p.numel() * 4 for p in hf_twin(qwen).parameters())
    assert weights <= told.peak_bytes < 3 * weights + 2**28
    with pytest.raises(LensSteerError, match="prompts is empty"):
        probe(qwen, [], 4)
    with pytest.raises(LensSteerError, match="max_new_tokens=0"):
        probe(qwen, prompts, 0)


def test_a_probe_says_nothing_of_a_plan_that_moves_nothing(
    qwen: Any, refusal: Any, calibration: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep times the first of its values, and that is the identity more often than not."""
    probe(qwen, refusal.select.positive[:2], 2, plan=ls.selective_steering(calibration, 0), budget=0.01)
    assert "changed no activation" not in caplog.text


@pytest.mark.slow
def test_a_sweep_takes_about_what_was_told(qwen: Any, refusal: Any, calibration: Any, tmp_path: Path) -> None:
    """Within a factor of three, both in one run."""
    protocol = Protocol(qwen, refusal.select, "select", organism_tasks(32))
    grids = [Grid(NONE), *method_grids(calibration, "selective", values=tuple(float(a) for a in range(0, 360, 60)))]
    build = grids[1].build
    assert build is not None
    told = cost(qwen, measuring(protocol, grids), probe(qwen, refusal.select.positive, 48, plan=build(180.0)))
    begun = time.perf_counter()
    sweeps.run(protocol, grids, tmp_path, "select", progress=False)
    ratio = told.seconds / (time.perf_counter() - begun)
    assert 1 / 3 < ratio < 3


def test_dry_run_tells_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path
) -> None:
    """Of every long command: exit code 0, one JSON object, nothing written."""
    out = tmp_path / "out"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hello\nWhat is 4 plus 3?\n", encoding="utf-8")
    commands: dict[str, tuple[object, ...]] = {
        "sweep": ("--calibration", made, "--angles", "0:350:30", "--out", out),
        "compare": ("--method", "ablation", "--angles", "0:330:60", "--out", out),
        "report": ("--out", out),
        "calibrate": ("--out", out),
        "probe": ("--out", out),
        "traits": ("--sites", "blocks.4.hook_resid_post", "--out", out),
        "externalities": ("--n-random", 1, "--out", out),
        "steer": (
            "--calibration",
            made,
            "--angle",
            90,
            "--prompts",
            prompts,
            "--model",
            "organism/qwen2",
            "--out",
            tmp_path / "o.jsonl",
        ),
    }
    monkeypatch.setattr("lens_steer.evaluation.cost.BUDGET", 0.5)
    for name, args in commands.items():
        code, printed, error = run(monkeypatch, capsys, name, *args, "--dry-run")
        assert code == 0, error
        told = json.loads(printed)
        assert told["dry_run"] is True
        assert told["forwards"] > 0
        assert 0 <= told["seconds_low"] <= told["seconds"] <= told["seconds_high"]
        assert (told["answers"] == 0) == (name in ("calibrate", "probe"))
    assert list(tmp_path.iterdir()) == [prompts]


def test_a_long_run_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On the error stream, before the work, where it takes more than a minute; not otherwise."""
    import lens_steer.evaluation.cost as module

    told = Cost(
        forwards=9,
        prompt_tokens=90,
        new_tokens=0,
        answers=0,
        seconds=70.0,
        seconds_low=50.0,
        seconds_high=80.0,
        peak_bytes=2**30,
    )
    monkeypatch.setattr(module, "probe", lambda *a, **k: None)
    for seconds in (70.0, 20.0):
        monkeypatch.setattr(module, "cost", lambda *a, s=seconds, **k: replace(told, seconds=s))
        monkeypatch.setattr("lens_steer.cli.dryrun.SHORT", 0)
        code, _, error = run(monkeypatch, capsys, "calibrate", "--out", tmp_path / str(seconds))
        assert code == 0
        assert ("this takes about 70 s (50 s to 80 s)" in error) == (seconds > 60)
        assert (tmp_path / str(seconds) / "calibration.json").exists()
