"""Which rule chooses the sites best: the sets that are compared, and their effect and side effect over the angles."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.published_direction import PublishedDirection
from lens_steer.inference.generation import answers
from lens_steer.inference.teacher_forcing import first_logits, response_logits, with_responses
from lens_steer.metrics.kl import kl
from lens_steer.metrics.refusal_score import refusal_score, refusal_tokens
from lens_steer.models.sites import parse
from lens_steer.steer.hooks import steering
from lens_steer.studies.site_choice.claims import claims
from lens_steer.studies.site_choice.curves import SetCurve, curves
from lens_steer.studies.site_choice.drawings import drawings
from lens_steer.studies.site_choice.sets import SiteSet, site_sets
from lens_steer.studies.site_choice.study import ROUNDS, SiteChoice, study
from lens_steer.studies.site_choice.work import choosing_sites
from lens_steer.studies.verdicts import TIED
from tests.test_cli import run as command

ANGLES = (60.0, 180.0)


def test_sets(calibration: Any) -> None:
    """Counts are equal where rules are compared; measures rank; the middle is the middle; draws differ."""
    sets = site_sets(calibration, counts=[2, 6], draws=4, seed=1)
    by_rule = Counter(s.rule for s in sets)
    assert (by_rule["effect"], by_rule["auroc"], by_rule["random"]) == (3, 3, 12)  # and as many as the published rule
    assert sets[0] == SiteSet("paper", calibration.discriminative_sites)
    for s in sets:
        assert list(s.sites) == sorted(s.sites, key=lambda n: parse(n).order) and len(set(s.sites)) == len(s.sites)
    d = dict(zip(calibration.sites, calibration.cohens_d.tolist(), strict=True))
    (best,) = (s.sites for s in sets if s.rule == "effect" and len(s.sites) == 2)
    assert min(d[n] for n in best) >= max(v for n, v in d.items() if n not in best)
    (middle,) = (s.sites for s in sets if s.rule == "middle half")
    assert {parse(n).block for n in middle} == set(range(3, 9))
    drawn = [s.sites for s in sets if s.rule == "random" and len(s.sites) == 6]
    assert len(set(drawn)) > 1 and all(len(x) == 6 for x in drawn)
    assert len({s.name for s in sets}) == len(sets)
    assert sets == site_sets(calibration, counts=[2, 6], draws=4, seed=1)
    assert sets != site_sets(calibration, counts=[2, 6], draws=4, seed=2)
    default = {len(s.sites) for s in site_sets(calibration, draws=0) if s.rule == "effect"}
    assert default == {len(calibration.discriminative_sites), 6, 12}


def test_sets_that_cannot_be(calibration: Any) -> None:
    with pytest.raises(LensSteerError, match=r"counts=0: give numbers of sites from 1 to 24"):
        site_sets(calibration, counts=[0])
    with pytest.raises(LensSteerError, match="draws=-1: give a number of at least 0"):
        site_sets(calibration, draws=-1)
    same_side = replace(calibration, mean_negative=calibration.mean_positive, rule="centred")
    with pytest.raises(LensSteerError, match="no site of .* is discriminative by the published rule"):
        site_sets(same_side)


def test_curves_equal_one_plan_at_a_time(qwen: Any, refusal: Any, calibration: Any, tmp_path: Path) -> None:
    """Scores and divergences are those of plain steered forwards; equal sets are measured once; a run goes on."""
    part = refusal.first(select=4).select
    responses = answers(qwen, list(part.negative), max_new_tokens=6).texts
    one = SiteSet("paper", calibration.discriminative_sites)
    sets = [one, SiteSet("effect", calibration.sites[8:10]), SiteSet("random", one.sites, 1)]
    found = curves(qwen, calibration, sets, part, responses, tmp_path, "curves", values=[ANGLES] * 3, progress=False)
    assert [c.set for c in found] == sets
    assert np.array_equal(found[0].harmful, found[2].harmful)
    tokens = refusal_tokens(qwen.lens_info)
    forced = with_responses(part.negative, responses)
    plain = {row: logits for row, logits, _ in response_logits(qwen, forced)}
    for c in found[:2]:
        assert c.plain == pytest.approx(refusal_score(first_logits(qwen, part.positive), tokens).numpy(), abs=1e-3)
        for j, angle in enumerate(ANGLES):
            with steering(qwen, ls.selective_steering(calibration, angle, at=c.set.sites)):
                wanted = refusal_score(first_logits(qwen, part.positive), tokens).numpy()
                assert c.harmful[:, j] == pytest.approx(wanted, abs=1e-3)
                wanted = {row: float(kl(plain[row], logits).mean()) for row, logits, _ in response_logits(qwen, forced)}
            assert c.kl[:, j] == pytest.approx([wanted[i] for i in range(len(part.negative))], abs=1e-4)
        assert c.effect == pytest.approx(c.plain.mean() - c.harmful.mean(axis=0))
        assert c.cost == pytest.approx(c.kl.mean(axis=0))
    before = (tmp_path / "curves.csv").read_bytes()
    again = curves(qwen, calibration, sets, part, responses, tmp_path, "curves", values=[ANGLES] * 3, progress=False)
    assert (tmp_path / "curves.csv").read_bytes() == before
    assert all(np.array_equal(a.harmful, b.harmful) for a, b in zip(found, again, strict=True))
    # two distinct sets, four prompts of a side, two angles, and for harmful prompts no steering
    assert len(before.splitlines()) == 1 + 2 * 4 * (3 + 2)
    with pytest.raises(LensSteerError):
        curves(qwen, calibration, sets[:1], part, responses, tmp_path, "curves", values=[ANGLES], progress=False)


def test_a_larger_budget_never_gives_less() -> None:
    """The chosen angle keeps to the budget, and no other angle within it has a larger effect."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, values = 5, tuple(float(v) for v in range(8))
        curve = SetCurve(
            SiteSet("random", (), 1),
            values,
            rng.normal(size=n),
            rng.normal(size=(n, 8)),
            rng.exponential(size=(n, 8)),
        )
        reached = []
        for budget in (0.2, 0.5, 1.0, 2.0):
            at = curve.within(budget)
            allowed = [i for i in range(8) if curve.cost[i] <= budget and curve.effect[i] > 0]
            if at is None:
                assert not allowed
                reached.append(0.0)
            else:
                assert at in allowed and curve.effect[at] == max(curve.effect[i] for i in allowed)
                reached.append(float(curve.effect[at]))
        assert reached == sorted(reached)
    empty = SetCurve(SiteSet("all", ()), (1.0,), np.zeros(1), np.zeros((1, 1)), np.array([[1.0], [np.nan]]))
    assert empty.cost.tolist() == [1.0]  # an empty answer has no divergence


def made_up(
    rates: dict[str, float], calibration: Any, *, n: int = 64, draws: int = 19, control: float = 0.9
) -> SiteChoice:
    """A study in which each rule's sites free this share of the prompts at 90°, without generation."""
    sets = site_sets(calibration, counts=[], draws=draws)
    effect = np.full((n, 1), 1.0)
    select = tuple(
        SetCurve(s, (90.0,), np.full(n, 5.0), 5.0 - effect * (rates[s.rule] > 0), np.full((n, 1), 0.1)) for s in sets
    )

    def rows(condition: str, variant: str, share: float) -> list[dict[str, Any]]:
        return [
            {
                "condition": condition, "variant": variant, "side": "positive", "prompt": i, "grade": "answered",
                "refused": i >= round(share * n), "broken": False,
            }
            for i in range(n)
        ]  # fmt: skip

    table = rows("no steering", "", 0.1) + rows("ablation-everywhere", "", control)
    for s in sets:
        if rates[s.rule] > 0:
            table += rows(s.condition, s.variant, rates[s.rule])
    return SiteChoice(calibration, select, select, (0.1,), 0.1, (), tuple(table), PublishedDirection())


RULES_ = ("paper", "official", "centred", "effect", "auroc", "middle half", "all", "random")


def test_planted_effects_and_nulls(calibration: Any) -> None:
    """Far above every other set: holds; no different: excluded or not shown; below: refuted."""

    def freed(found: SiteChoice) -> list[Any]:
        return [c for c in claims(found) if c.id.startswith("sign-above-")]

    best = freed(made_up(dict.fromkeys(RULES_, 0.2) | {"paper": 0.9}, calibration))
    assert {c.verdict for c in best} == {"HOLDS"} and all(c.witness["holds_jointly"] for c in best)
    assert best[-1].id == "sign-above-random" and best[-1].witness["rank_p"] == 1 / 20
    assert [c.value for c in best] == pytest.approx([(58 - 13) / 64] * len(best))
    same = {c.id: c.verdict for c in freed(made_up(dict.fromkeys(RULES_, 0.5), calibration, n=400))}
    assert set(same.values()) == {"EXCLUDED BEYOND 0.1"}
    worse = freed(made_up(dict.fromkeys(RULES_, 0.9) | {"paper": 0.2}, calibration))
    assert {c.verdict for c in worse[:-1]} == {"REFUTED"}


@pytest.mark.parametrize(("more", "wanted"), [(0.5, "HOLDS"), (0.0, "NOT SHOWN"), (-0.5, "REFUTED")])
def test_planted_falls_of_the_score(calibration: Any, more: float, wanted: str) -> None:
    """The published rule's sites lower the score by so much more than all others, with noise."""
    found = made_up(dict.fromkeys(RULES_, 0.5), calibration)
    noise = np.random.default_rng(0).normal(scale=0.5, size=(len(found.report), 64, 1))
    report = tuple(
        replace(c, harmful=c.harmful - noise[i] - (more if c.set.rule == "paper" else 0.0))
        for i, c in enumerate(found.report)
    )
    falls = [c for c in claims(replace(found, report=report)) if c.id.startswith("sign-score-")]
    assert len(falls) == 5 and {c.verdict for c in falls} == {wanted}
    assert falls[0].value == pytest.approx(more, abs=0.25)
    assert falls[-1].id == "sign-score-random" and falls[-1].witness["draws"] == 19


def test_an_assay_that_sees_nothing_says_nothing(calibration: Any) -> None:
    """Where ablation frees nothing, equal rates exclude nothing; where no set has an effect, nothing is asked."""
    every = claims(made_up(dict.fromkeys(RULES_, 0.1), calibration, n=400, control=0.1))
    blind = [c for c in every if c.id.startswith("sign-above-")]
    assert {c.verdict for c in blind} == {"ASSAY INSENSITIVE"}
    still = claims(made_up(dict.fromkeys(RULES_, 0.0), calibration))
    assert {c.verdict for c in still} == {TIED} and {c.value for c in still} == {None}
    few = claims(made_up(dict.fromkeys(RULES_, 0.2) | {"paper": 0.9}, calibration, draws=9))
    drawn = [c.verdict for c in few if c.id.endswith("-random")]
    assert drawn == ["NOT SHOWN (fewer than 10 draws)"] * 2


def test_the_study(qwen: Any, refusal: Any, tmp_path: Path) -> None:
    """Angles from select keep to the budget there; every set with one runs at it on report; a run goes on."""
    few = refusal.first(fit=20, select=5, report=5)
    how: dict[str, Any] = {"counts": [3], "draws": 2, "values": (90.0, 150.0, 210.0), "max_new_tokens": 8}
    found = study(qwen, few, tmp_path, **how, direction=None, progress=False)
    assert [c.set for c in found.select] == [c.set for c in found.report]
    ran = {(r["condition"], r["variant"]): r["value"] for r in found.rows}
    assert ran.pop(("no steering", "")) is None
    for curve in found.select:
        angle = found.chosen(curve.set, found.budget)
        key = (curve.set.condition, curve.set.variant)
        assert ran.get(key) == angle
        if angle is not None:
            assert curve.cost[curve.values.index(angle)] <= found.budget
        gaps = [b - a for a, b in curve.crossings(found.budget)]
        assert set(curve.values) >= set(how["values"]) and list(curve.values) == sorted(curve.values)
        assert all(gap <= 150 / 2**ROUNDS for gap in gaps)  # the widest gap of the grid is from 210 to 360 degrees
    assert len(ran) > 1
    made = claims(found)
    assert len({c.id for c in made}) == len(made) and all(c.id.startswith(("sign-above-", "sign-score-")) for c in made)
    counted = choosing_sites(qwen, few, 8, counts=[3], draws=2, values=how["values"], selects=False)
    assert counted.answers >= len(found.rows) + 2 * 5
    shown = drawings(found)
    columns = shown["site_frontier"].columns
    assert len(columns["budget"]) == len(found.select) * len(found.budgets)
    ends = [columns[name] for name in ("effect_low", "effect", "effect_high")]
    known = [[float(str(v)) for v in row] for row in zip(*ends, strict=True) if None not in row]
    assert known and all(row == sorted(row) for row in known)
    assert len({r["label"] for r in shown["site_outcomes"].rows()}) == len(shown["site_outcomes"].rows())
    files = {p.name: p.read_bytes() for p in tmp_path.glob("*.csv")}
    assert {"curves_select.csv", "curves_report.csv", "report.csv"} <= files.keys()
    study(qwen, few, tmp_path, **how, direction=None, progress=False)
    assert files == {p.name: p.read_bytes() for p in tmp_path.glob("*.csv")}
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"budget": 0.3}, "give budgets above 0, and one of them"),
        ({"counts": [99]}, "from 1 to 24"),
        ({"values": (0.0, 360.0)}, "give an angle at which something is turned"),
    )
    for options, wanted in wrong:
        with pytest.raises(LensSteerError, match=wanted):
            study(qwen, few, tmp_path / "refused", **(how | options), direction=None, progress=False)
        assert not (tmp_path / "refused").exists()


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Bad options in one line before anything is loaded; the cost of a run; its page, numbers and figures."""
    for options, wanted in (
        (["--counts", "six"], "--counts six: give numbers with commas"),
        (["--counts", "3,25"], "--counts 25: give numbers of sites from 1 to 24"),
        (["--draws", "-1"], "--draws -1: give a number of at least 0"),
        (["--budget", "0"], "--budget 0: give a divergence above 0"),
        (["--engine", "vllm"], "--engine vllm: logits under steering are read here"),
        (["--direction", "nowhere"], "--direction 'nowhere': give arditi, none, or a folder"),
        (["--tasks", "general:1"], "--tasks general:1: give a number of questions of at least 2"),
    ):
        code, _, err = command(monkeypatch, capsys, "site-choice", "--out", tmp_path / "refused", *options)
        assert code == 2 and wanted in err and not (tmp_path / "refused").exists()
    given = ["--angles", "90,150", "--draws", "1", "--limit", "5", "--max-new-tokens", "6"]
    code, out, _ = command(monkeypatch, capsys, "site-choice", "--out", tmp_path / "dry", *given, "--dry-run")
    assert code == 0 and json.loads(out)["forwards"] > 0 and not (tmp_path / "dry").exists()
    code, out, err = command(monkeypatch, capsys, "site-choice", "--out", tmp_path / "out", *given)
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "site_choice.json").read_text())
    assert json.loads(out)["verdicts"] == {c["id"]: c["verdict"] for c in record["claims"]}
    assert {s["rule"] for s in record["sets"]} >= {"paper", "effect", "auroc", "middle half", "all", "random"}
    page = (tmp_path / "out" / "site_choice.md").read_text()
    assert all(c["statement"] in page for c in record["claims"])
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"site_frontier.png", "site_outcomes.png"}
    selected = ["direction", "--limit", "5", "--openings", "I", "--min-induce", "-inf", "--max-kl", "inf"]
    code, _, err = command(monkeypatch, capsys, *selected, "--out", tmp_path / "direction")
    assert code == 0, err
    given += ["--direction", tmp_path / "direction", "--counts", "none", "--draws", "0"]
    code, out, err = command(monkeypatch, capsys, "site-choice", "--out", tmp_path / "given", *given)
    assert code == 0, err
    record = json.loads((tmp_path / "given" / "site_choice.json").read_text())
    conditions = {s["condition"] for s in record["settings"]}
    assert "ablation-everywhere (given direction)" in conditions and not (tmp_path / "given" / "direction").exists()
    assert {len(s["sites"]) for s in record["sets"] if s["rule"] in ("effect", "auroc")} == {
        len(record["sets"][0]["sites"])
    }
