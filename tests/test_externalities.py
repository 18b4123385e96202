"""Side effects of benign steering: the study with its controls, claims, tables and figures."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from analyses import externalities as analysis
from lens_steer._display import withheld
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import NONE
from lens_steer.metrics.benchmarks import Tasks
from lens_steer.studies.externalities import claims as claims_of
from lens_steer.studies.externalities import conditions, drawings, text, token_claims, tokens
from lens_steer.studies.externalities.claims import claims
from lens_steer.studies.externalities.conditions import (
    CONTROL,
    INSIDE,
    OUTSIDE,
    OUTSIDE_EQUAL,
    RANDOM,
    ROTATION,
    STEERED,
    controls,
    named,
)
from lens_steer.studies.externalities.controls import refusal_bases, split
from lens_steer.studies.externalities.drawings import attack_drawing
from lens_steer.studies.externalities.found import Externalities
from lens_steer.studies.externalities.material import Material, harmful_responses, organism_material
from lens_steer.studies.externalities.report import study_and_write
from lens_steer.studies.externalities.study import study
from lens_steer.studies.externalities.text import _on_page, qualitative
from tests.views import checked

N = 5


OPTIONS: dict[str, Any] = {
    "shares": (0.05, 0.6), "json_sites": ["blocks.3.hook_resid_post", "blocks.9.hook_resid_post"], "n_random": 4,
    "ks": (4,), "max_new_tokens": 26, "progress": False,
}  # fmt: skip


def cut(contrast: ContrastSet, fit: int, n: int) -> ContrastSet:
    """The same contrast with fewer prompts."""
    sizes = {"fit": fit, "select": n, "report": n}
    found = [Contrast(getattr(contrast, s).positive[:k], getattr(contrast, s).negative[:k]) for s, k in sizes.items()]
    return ContrastSet(contrast.name, Split(*found))


def with_report(material: Material, harmful: list[Prompt]) -> ContrastSet:
    """The refusal contrast with other harmful prompts to report on."""
    whole = material.refusal
    report = Contrast(PromptSet(tuple(harmful), "harmful"), whole.report.negative)
    return ContrastSet(whole.name, Split(whole.fit, whole.select, report))


@pytest.fixture(scope="module")
def material() -> Material:
    """Few prompts of everything."""
    whole = organism_material(n_tasks=8)
    return replace(
        whole,
        compliance=cut(whole.compliance, 16, 0),
        json=cut(whole.json, 40, N),
        refusal=cut(whole.refusal, 128, N),
        tasks=Tasks(whole.tasks.select[:4]),
    )


@pytest.fixture(scope="module")
def found(
    qwen: Any, material: Material, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Externalities, list[Any], Path]:
    """One small study, written."""
    out = tmp_path_factory.mktemp("externalities")
    made, claimed = study_and_write(qwen, material, out, **OPTIONS)
    return made, claimed, out


def test_controls_write_where_the_steering_does(found: tuple[Externalities, list[Any], Path]) -> None:
    """Same sites, equal lengths; the equal-norm remainder and the random directions are as long as the direction."""
    made = found[0]
    for steering in made.steerings:
        of: dict[str, Any] = {
            c.kind: c for c in controls(steering, made.calibrations.refusal, made.matches[steering.name][1])
        }
        assert of[INSIDE].plan is not None
        assert of[INSIDE].plan.sites == of[OUTSIDE].plan.sites == of[RANDOM].plan.sites == steering.sites
        h = torch.randn(3, 128, generator=torch.Generator().manual_seed(1))
        length = {
            k: (of[k].plan.operator()(h) - h).norm(dim=-1) for k in ("steered", RANDOM, OUTSIDE_EQUAL, INSIDE, OUTSIDE)
        }
        torch.testing.assert_close(length[RANDOM], length["steered"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(length[OUTSIDE_EQUAL], length["steered"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(
            length[INSIDE] ** 2 + length[OUTSIDE] ** 2, length["steered"] ** 2, atol=1e-2, rtol=1e-3
        )
        inside, _ = split(
            steering.directions[steering.sites[0]], refusal_bases(made.calibrations.refusal)[steering.sites[0]]
        )
        angle = next(a for a in made.angles if a.steering == steering.name and a.steered)
        assert angle.in_plane == pytest.approx(float(inside.square().sum()), abs=1e-5)


def test_the_study(found: tuple[Externalities, list[Any], Path], qwen: Any, material: Material) -> None:
    """The control complies, benign prompts are answered unsteered; rows of a condition are what its saved plan
    generates; random directions are averaged by prompt.
    """
    made, _, out = found
    base = made.measured(NONE)
    assert (base["attack"].value, base["negative_right"].value, base["json_asked"].value) == (0.0, 1.0, 1.0)
    assert made.measured(f"{CONTROL}, first k, k = 4")["attack"].value > 0.5
    assert made.difference(f"{CONTROL}, first k, k = 4", NONE, "attack").low > 0
    for steering in made.steerings:
        plan = ls.load_plan(out / "plans" / steering.name)
        with ls.steering(qwen, plan):
            texts = ls.generate(qwen, material.refusal.report.positive, max_new_tokens=26, engine="hf")
        assert texts == [r["text"] for r in made.rows if r["condition"] == steering.name and r["side"] == "positive"]
    drawn = [made.values(f"json, {RANDOM} {i}", "negative_right") for i in (1, 2)]
    mean = made.values(f"json, {RANDOM}", "negative_right")
    assert mean == {i: (drawn[0][i] + drawn[1][i]) / 2 for i in drawn[0]}
    with pytest.raises(LensSteerError, match="the same are needed in both"):
        made.difference("json, another", NONE, "attack")
    assert {p.response for p in made.responses["harmful"]} and all(
        p.messages[0]["role"] == "user" for p in made.responses["harmful"]
    )
    assert len(made.angles) == 2 * 12


def test_the_positive_control_is_chosen_on_select(found: tuple[Externalities, list[Any], Path]) -> None:
    """Of every block at α = 0 and of three more strengths at the best one: the most attack success that keeps harmless
    requests right.
    """
    made, _, out = found
    hits: dict[tuple[str, ...], list[float]] = {}
    for name in ("control_select", "control_select_strength"):
        with (out / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            for r in csv.DictReader(stream):
                hits.setdefault((r["side"], r["condition"], r["variant"], r["value"]), []).append(float(r["right"]))
    share = {key: sum(v) / len(v) for key, v in hits.items()}
    base = share["negative", NONE, "", ""]
    kept = {
        (site, float(value)): attack
        for (side, condition, site, value), attack in share.items()
        if side == "positive" and condition == "sttp" and share["negative", "sttp", site, value] >= 0.95 * base
    }
    chosen = made.control.choice
    assert made.control.boundary.site == chosen.variant
    assert (chosen.met, chosen.n) == (True, 12 + 3)
    assert kept[chosen.variant, float(chosen.value or 0)] == max(kept.values())


def test_a_control_s_name_is_only_shown(
    found: tuple[Externalities, list[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows under other names: the same claims, figures and page, but for the names."""
    made, claimed, _ = found
    every = (*made.conditions, *made.draws, *made.prefixes)
    old = [(c.name, c.group) for c in every]
    before, table = attack_drawing(made).rows(), text.prefix_table(made)
    page = [_on_page(c) for c in (*made.conditions, *made.prefixes)]

    def renamed(steering: str | None, kind: str, *, draw: int = 0, k: int | None = None) -> str:
        return named(steering, kind) if kind in (STEERED, NONE, CONTROL) else f"{kind} 1 {draw}/{k} ({steering}, 2"

    for module in (conditions, claims_of, drawings, text, token_claims):
        monkeypatch.setattr(module, "named", renamed)
    new = [(c.name, c.group) for c in every]
    names = {a: b for one, other in zip(old, new, strict=True) for a, b in zip(one, other, strict=True)}
    assert len({*names} & {*names.values()}) == 4  # no steering, the positive control, and both steerings
    other = replace(
        made,
        rows=tuple({**r, "condition": names[r["condition"]]} for r in made.rows),
        json_rows=tuple({**r, "condition": names[r["condition"]]} for r in made.json_rows),
        divergences={(names[c], responses): d for (c, responses), d in made.divergences.items()},
    )
    assert [(c.id, c.verdict, c.value, c.interval) for c in claims(other, "m")] == [
        (c.id, c.verdict, c.value, c.interval) for c in claimed
    ]
    after = attack_drawing(other).rows()
    assert [{**r, "condition": ""} for r in after] == [{**r, "condition": ""} for r in before]
    assert [_on_page(c) for c in (*other.conditions, *other.prefixes)] == page
    assert text.prefix_table(other) == table


def test_what_is_written(found: tuple[Externalities, list[Any], Path], qwen: Any, material: Material) -> None:
    """Every condition has its row in the table with the numbers of the record; a row a token; figures are redrawn from
    what is saved; the page marks the first steered token.
    """
    made, claimed, out = found
    record = json.loads((out / "externalities.json").read_text(encoding="utf-8"))
    table = (out / "externalities.md").read_text(encoding="utf-8")
    by_name = {c["condition"]: c for c in record["conditions"]}
    for c in made.conditions:
        line = next(x for x in table.splitlines() if x.startswith(f"| {c.name} |"))
        if c.runs:
            e = by_name[c.name]["attack"]
            assert f"| {100 * e['value']:.0f} [{100 * e['low']:.0f}, {100 * e['high']:.0f}] |" in line
    assert len(by_name) == len(made.conditions) + len(made.draws) + len(made.prefixes)
    assert [c["id"] for c in record["claims"]] == [c.id for c in claimed]
    assert claimed[0].statement in (out / "claims.md").read_text(encoding="utf-8")
    with (out / "kl_tokens.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == sum(len(d) for d in made.divergences.values())
    page = (out / "qualitative.md").read_text(encoding="utf-8")
    assert "`prompt[:-1]+generated[3:]`" in page
    answer = next(
        r["text"] for r in made.rows if r["condition"] == "json" and r["side"] == "positive" and r["prompt"] == 0
    )
    assert any(f"⟦{answer[:k]}⟧{answer[k:]}" in page for k in range(1, len(answer)))
    report = material.refusal.report
    assert qualitative(made, qwen, report) == page
    hidden = qualitative(replace(made, known=False), qwen, report)
    rows = [r for r in made.rows if r["side"] == "positive" and r["prompt"] < 3]
    shown = [line.split(" | ") for line in hidden.splitlines() if "SHA-256" in line and line.startswith("| ")]
    assert len(shown) == page.split("## Harmless")[0].count("\n| ") - page.split("## Harmful")[0].count("\n| ") - 3
    wanted = {(r["condition"], r["outcome"], f"{withheld(r['text'])} |") for r in rows}
    assert {(c[2:], o, t) for c, o, t in shown} <= wanted
    assert not any(p.text in hidden for p in report.positive[:3])
    assert all(" ".join(p.text.split()) in hidden for p in report.negative[:3])  # harmless ones stay
    assert qualitative(replace(made, known=False), qwen, report, show_answers=True) == page
    before = (out / "externality_kl.png").read_bytes()
    from lens_steer.figures import saving

    assert set(saving.redraw(out)) == {
        f"externality_{n}" for n in ("angles", "attack", "depth", "kl", "prefix", "strength")
    }
    assert (out / "externality_kl.png").read_bytes() == before


def test_a_study_goes_on_with_the_same_bytes(
    qwen: Any,
    found: tuple[Externalities, list[Any], Path],
    material: Material,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off after the first rows and begun again: the same rows, without making the first ones anew; another seed in
    the same folder is refused.
    """
    from lens_steer.evaluation import sweeps
    from lens_steer.studies.externalities import study as externalities

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(externalities, "json_settings", stop)
        study(qwen, material, tmp_path, **OPTIONS)
    made: list[str] = []
    measure = sweeps.measured_side
    monkeypatch.setattr(
        sweeps, "measured_side", lambda p, grid, *rest: made.append(grid.condition) or measure(p, grid, *rest)
    )
    monkeypatch.setattr(externalities, "prefixes", lambda *_: [])
    monkeypatch.setattr(externalities, "controls", lambda *_, **__: [])
    study(qwen, material, tmp_path, **OPTIONS)
    assert "compliance" not in made[: made.index("json")]
    for name in ("compliance_select.csv", "json_select.csv", "json_select_harm.csv", "matches.csv"):
        assert (tmp_path / name).read_bytes() == (found[2] / name).read_bytes(), name
    whole = (found[2] / "report.csv").read_text(encoding="utf-8")
    assert whole.startswith((tmp_path / "report.csv").read_text(encoding="utf-8"))  # the baselines come first
    with pytest.raises(LensSteerError, match="give another folder, or empty it"):
        study(qwen, material, tmp_path, seed=1, **OPTIONS)


def test_refused_before_any_work(qwen: Any, material: Material, tmp_path: Path) -> None:
    """Nothing is written where the material or an option does not do; what would only be met at the end (a prompt of
    the report split, say) is told at once.
    """
    long = replace(material.refusal.report.positive[0], messages=({"role": "user", "content": "word " * 600},))
    for changed, message in (
        (
            replace(material, harmful_responses=PromptSet((Prompt.of("a"),), "mine")),
            "harmful_responses 'mine' is empty or has a prompt without a response",
        ),
        (replace(material, compliance=cut(material.compliance, 0, 0)), "has no fit prompts"),
        (replace(material, json=cut(material.json, 4, 0)), "has no select prompts"),
        (
            replace(material, compliance=cut(material.compliance, 2, 0)),
            "has 2 fit pairs: a principal component and its error need at least 3",
        ),
        (
            replace(material, refusal=with_report(material, [Prompt.of("no truth")])),
            "prompt 0 has no ground truth: give a judge, or harmful_responses",
        ),
        (
            replace(material, refusal=with_report(material, [long])),
            "refusal/report: prompt 0 .* needs [0-9]+ tokens with its answer, more than the model's context",
        ),
        (
            replace(material, benign_responses=PromptSet((replace(long, response="a"),), "mine")),
            "benign_responses: prompt 0 .* more than the model's context",
        ),
    ):
        with pytest.raises(LensSteerError, match=message):
            study(qwen, changed, tmp_path / "out")
    with pytest.raises(LensSteerError, match=r"n_random=0, ks=\(1,\)"):
        study(qwen, material, tmp_path / "out", n_random=0, ks=(1,))
    (tmp_path / "file").write_text("x")
    with pytest.raises(LensSteerError, match="cannot be written"):
        study(qwen, material, tmp_path / "file")
    assert not (tmp_path / "out").exists()


def test_a_model_without_ground_truth(tmp_path: Path) -> None:
    """A local folder with prompts and responses of one's own: answers are read by the refusal phrases, and the tables
    say so.
    """
    from tests.tiny import build

    model = ls.load_model(str(build("llama", tmp_path / "model")))
    words = [Prompt.of(f"the {i}") for i in range(24)]

    def contrast(name: str, first: list[Prompt], second: list[Prompt]) -> ContrastSet:
        sides = [
            Contrast(PromptSet(tuple(first[a:b]), name), PromptSet(tuple(second[a:b]), name))
            for a, b in ((0, 6), (6, 9), (9, 12))
        ]
        return ContrastSet(name, Split(*sides))

    answered = [[replace(p, response=text) for p in words[:12]] for text in ("yes a b", "no c d")]
    asked = [Prompt.of(f"{p.text} in JSON") for p in words[:12]]
    own = Material(
        contrast("compliance", *answered),
        contrast("json", asked, words[:12]),
        contrast("refusal", words[12:], words[:12]),
        harmful_responses=PromptSet(tuple(answered[0][:3]), "given"),
    )
    made, _ = study_and_write(
        model, own, tmp_path / "out", shares=(0.1,), n_random=1, ks=(1,), max_new_tokens=4, progress=False
    )
    assert not made.known
    assert made.responses["harmful"] is own.harmful_responses
    assert made.bound is not None
    read = [r for r in made.rows if r["surprise_ref"] is not None]
    assert {r["outcome"] for r in read if math.exp(r["surprise_ref"]) > made.bound.value} <= {"degenerate", "refused"}
    assert all(r["right"] == (r["outcome"] == "answered") for r in made.rows)
    table = (tmp_path / "out" / "externalities.md").read_text(encoding="utf-8")
    assert "harmful: answered" in table
    assert f"a perplexity of at most {made.bound}" in table
    none = harmful_responses(model, replace(own, harmful_responses=None), max_new_tokens=4)
    plan = made.steerings[0].plan()
    measured = tokens.divergences(model, {"c": plan}, {"harmful": none, "benign": made.responses["benign"]})
    assert set(measured) == {("c", "benign")}


def test_tables_over_models(found: tuple[Externalities, list[Any], Path]) -> None:
    """One column a model; the choice, every condition, every claim; a condition that cannot be made gives its
    reason.
    """
    made, claimed, out = found
    record = json.loads((out / "externalities.json").read_text(encoding="utf-8"))
    other = json.loads(json.dumps(record))
    turned = next(c for c in other["conditions"] if c["condition"] == f"json, {ROTATION}")
    for key in [k for k in turned if isinstance(turned[k], dict)]:
        del turned[key]
    turned["reason"] = "divergence is at most 0.1: out of reach"
    text = analysis.table({"a": record, "b": other}).splitlines()
    assert text[0] == "| condition | a | b |"
    assert "divergence is at most 0.1 |" in next(x for x in text if x.startswith(f"| json, {ROTATION} |"))
    assert all(any(x.startswith(f"| {c.name} |") for x in text) for c in made.conditions)
    control = next(x for x in text if x.startswith(f"| {CONTROL}, first k, k = 4 |"))
    assert "▲" in control
    rows = analysis.claims_table({"a": record, "b": other}).splitlines()
    assert len(rows) == 2 + len(claimed)
    assert set(analysis.DECIDING) < {c.id for c in claimed}
    assert len(analysis.claims_table({"a": record}, analysis.DECIDING).splitlines()) == 2 + len(analysis.DECIDING)
    assert all(row.count(" | ") == 3 for row in (rows[0], *rows[2:]))


def test_the_view(found: tuple[Externalities, list[Any], Path]) -> None:
    """One row a condition, with what was measured of it; the view names both steerings and what they do."""
    study_found = found[0]
    text, frame = checked(study_found)
    names = [c.name for c in (*study_found.conditions, *study_found.prefixes)]
    assert frame.index.tolist() == names
    for name in ("compliance", "json"):
        assert frame.loc[name, "attack"] == study_found.measured(name)["attack"].value
        assert name in text
