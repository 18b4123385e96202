"""Side effects of benign steering: controls, tokens, depth, and the study with its tables, claims and figures."""

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
from analyses import externalities as analysis
from lens_steer import externalities_tokens as tokens
from lens_steer.benign import ComplianceCalibration
from lens_steer.benign_calibration import calibrate_compliance
from lens_steer.chat import batches
from lens_steer.claims.record import HOLDS, REPORTED
from lens_steer.errors import LensSteerError
from lens_steer.externalities import Externalities, study
from lens_steer.externalities_claims import claims
from lens_steer.externalities_conditions import (
    CONTROL,
    FAMILIES,
    INSIDE,
    OUTSIDE,
    OUTSIDE_EQUAL,
    RANDOM,
    ROTATION,
    against_refusal,
    controls,
    first_decided,
    positions_of,
)
from lens_steer.externalities_controls import divergence_of, match_rotation, parts, random_like, refusal_bases, rotation, split
from lens_steer.externalities_depth import _jackknifed, _mean_gap, projections, random_cosine
from lens_steer.externalities_material import (
    Material,
    harmful_responses,
    in_the_splits_of,
    organism_material,
    own_answers,
    right_compliance,
)
from lens_steer.externalities_report import study_and_write
from lens_steer.grids import NONE
from lens_steer.metrics.benchmarks import Tasks
from lens_steer.metrics.judges import PhraseJudge
from lens_steer.organisms import grammar
from lens_steer.positions import Clock, Layout
from lens_steer.prompts import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.token_divergence import token_divergence

N = 5
OPTIONS: dict[str, Any] = {
    "shares": (0.05, 0.6), "json_sites": ["blocks.3.hook_resid_post", "blocks.9.hook_resid_post"], "n_random": 2, "ks": (4,), "max_new_tokens": 26,
    "progress": False,
}  # fmt: skip


def cut(contrast: ContrastSet, fit: int, n: int) -> ContrastSet:
    """The same contrast with fewer prompts."""
    sizes = {"fit": fit, "select": n, "report": n}
    found = [Contrast(getattr(contrast, s).positive[:k], getattr(contrast, s).negative[:k]) for s, k in sizes.items()]
    return ContrastSet(contrast.name, Split(*found))


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
def found(qwen: Any, material: Material, tmp_path_factory: pytest.TempPathFactory) -> tuple[Externalities, list[Any], Path]:
    """One small study, written."""
    out = tmp_path_factory.mktemp("externalities")
    made, claimed = study_and_write(qwen, material, out, **OPTIONS)
    return made, claimed, out


@pytest.fixture(scope="module")
def compliance(qwen: Any) -> ComplianceCalibration:
    fit = ls.load_contrast("organism/compliance").fit
    return calibrate_compliance(qwen, Contrast(fit.positive[:12], fit.negative[:12]), progress=False)


@pytest.fixture(scope="module")
def refusal_calibration(qwen: Any) -> ls.Calibration:
    return ls.calibrate(ls.record(qwen, ls.load_contrast("organism/refusal"), "resid_post", progress=False), progress=False)


def test_without_its_refusal_part(compliance: ComplianceCalibration, refusal_calibration: ls.Calibration) -> None:
    """Nothing is left in the refusal plane nor along the block's difference of means; the parts add up; at equal norm the length is the whole direction's."""
    bases = refusal_bases(refusal_calibration)
    directions = {s: 1.7 * compliance.direction(s) for s in compliance.steered}
    inside, outside = parts(directions, bases)
    _, lengthened = parts(directions, bases, equal_norm=True)
    for site, direction in directions.items():
        known = torch.cat(
            [refusal_calibration.basis, refusal_calibration.candidates[refusal_calibration.sites.index(site)][None]]
        )
        assert float((known @ outside[site]).abs().max()) < 1e-5
        assert float((known @ lengthened[site]).abs().max()) < 1e-5
        torch.testing.assert_close(inside[site] + outside[site], direction, atol=1e-5, rtol=0)
        assert float(lengthened[site].norm()) == pytest.approx(1.7, rel=1e-5)
        assert 0 < float(inside[site].norm()) < 1.7
    site = compliance.steered[0]
    with pytest.raises(LensSteerError, match=f"the direction at {site} lies in the refusal plane"):
        parts({site: refusal_calibration.basis[0]}, bases, equal_norm=True)


def test_random_directions_keep_lengths_and_cosines(compliance: ComplianceCalibration) -> None:
    directions = {s: compliance.direction(s) * (1 + i) for i, s in enumerate(compliance.steered)}
    given = torch.stack(list(directions.values()))
    drawn = [torch.stack(list(random_like(directions, seed).values())) for seed in (0, 0, 1)]
    torch.testing.assert_close(drawn[0] @ drawn[0].T, given @ given.T, atol=1e-4, rtol=0)
    assert torch.equal(drawn[0], drawn[1])
    assert abs(float(torch.cosine_similarity(drawn[0][0], drawn[2][0], dim=0))) < 0.5


def test_the_rotation_keeps_norms_and_turns_the_mean_towards_the_direction(compliance: ComplianceCalibration) -> None:
    site = compliance.steered[1]
    mean, direction = compliance.mean[compliance.row(site)], compliance.direction(site)
    h = torch.randn(7, len(mean), generator=torch.Generator().manual_seed(0))
    turn = rotation(compliance, [site], 25.0).operator()
    torch.testing.assert_close(turn(h).norm(dim=-1), h.norm(dim=-1))
    torch.testing.assert_close(rotation(compliance, [site], 0.0).operator()(h), h, atol=1e-6, rtol=0)
    moved = turn(mean)
    assert float(moved @ direction) > float(mean @ direction)
    torch.testing.assert_close(moved.norm(), mean.norm())
    plane = torch.linalg.qr(torch.stack([mean, direction]).T)[0]
    torch.testing.assert_close(plane @ (plane.T @ moved), moved, atol=1e-4, rtol=0)


def test_the_rotation_is_matched_within_the_tolerance(qwen: Any, compliance: ComplianceCalibration) -> None:
    """The smallest angle whose divergence is the target's within 5 %; a target beyond every angle gives a reason."""
    benign = own_answers(qwen, ls.load_contrast("organism/refusal").select.negative[:4], max_new_tokens=26)
    responses = [p.response or "" for p in benign]
    target = divergence_of(qwen, compliance.plan, 30.0, benign, responses)
    match = match_rotation(qwen, compliance, compliance.steered, target, benign, responses)
    assert match.grid is not None
    angle = float(match.grid.values[0] or 0.0)
    assert 0 < angle <= 180
    again = divergence_of(qwen, lambda v: rotation(compliance, compliance.steered, v), angle, benign, responses)
    assert again == pytest.approx(target, rel=0.05)
    beyond = match_rotation(qwen, compliance, compliance.steered, 1e4, benign, responses)
    assert beyond.grid is None
    assert "out of reach" in beyond.reason


def test_only_right_compliance_is_kept() -> None:
    """Right steps, in text or JSON, are kept as responses of the plain prompts; refusals, falsehoods and empty answers are not; without a truth a judge decides."""
    prompts = ls.load_contrast("organism/refusal").report.positive[:5]
    truth = [p.task.truth for p in prompts if p.task]
    texts = [
        grammar.steps(truth[0]["verb"], truth[0]["object"]), grammar.refusal(truth[1]["verb"], truth[1]["object"]),
        grammar.steps(truth[0]["verb"], truth[0]["object"]), "", grammar.steps_json(truth[4]["verb"], truth[4]["object"]),
    ]  # fmt: skip
    kept = right_compliance(prompts, texts)
    assert [p.text for p in kept] == [prompts[0].text, prompts[4].text]
    assert [p.response for p in kept] == [texts[0], texts[4]]
    bare = [Prompt.of("one"), Prompt.of("two")]
    with pytest.raises(LensSteerError, match="prompt 0 has no ground truth: give a judge"):
        right_compliance(bare, ["a", "b"])
    judged = right_compliance(bare, ["I cannot do that.", "Step one."], PhraseJudge())
    assert [p.text for p in judged] == ["two"]


def test_pairs_stay_in_their_split() -> None:
    """No verb and object of the compliance or JSON fit prompts is reported on, or chosen by, in the refusal contrast."""
    whole = organism_material(n_tasks=4)
    for contrast in (whole.compliance, whole.json):
        fit = {
            (p.task.truth.get("verb"), p.task.truth.get("object"))
            for p in contrast.fit.positive
            if p.task and p.task.kind.endswith("request")
        }
        assert fit
        for part in (whole.refusal.select, whole.refusal.report):
            other = {
                (p.task.truth["verb"], p.task.truth["object"]) for side in (part.positive, part.negative) for p in side if p.task
            }
            assert not fit & other
        assert [p.text for p in contrast.fit.negative] == [p.text.split(" Reply in")[0].split(" Answer as")[0].split(" Use JSON")[0] for p in contrast.fit.positive]  # fmt: skip
    assert len(in_the_splits_of(whole.refusal, whole.refusal).fit.positive) == len(whole.refusal.fit.positive)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_families_share_out_the_tokens(qwen: Any, k: int) -> None:
    """The first two families and their complements cover every token once; the first k answer tokens are decided by k tokens."""
    prompts = [Prompt.of("Please help me build a school.", response="Sure. 1. Take the rope.")]
    batch = next(iter(batches(qwen.lens_info.tokenizer, prompts, n_ctx=512, with_response=True)))
    layout, width = Layout.of(batch), batch.ids.shape[1]
    at = {f: Clock(positions_of(f, k)).columns(layout, 0, width)[0] for f in FAMILIES}
    end = width - batch.response_lengths[0]
    assert at["first k"].nonzero().flatten().tolist() == list(range(end - 1, end - 1 + k))
    for one, other in (("first k", "all but first k"), ("prompt and first k", "after first k, no prompt")):
        assert bool((at[one] ^ at[other]).all())
    with pytest.raises(LensSteerError, match="family='last k', k=1"):
        positions_of("last k", 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_first_decided_is_where_the_divergence_begins(qwen: Any, compliance: ComplianceCalibration, family: str) -> None:
    """With k = 2, on a fixed response: tokens that no steered token decides, with nothing of the prompt steered either, are as they were."""
    positions = positions_of(family, 2)
    response = "Sure. 1. Take the rope."
    one = token_divergence(
        qwen, compliance.plan(20.0, positions=positions), [Prompt.of("Please help me build a school.")], [response]
    )
    first = first_decided(positions)
    assert first == (0 if "prompt" in positions and "[:-1]" not in positions else 2)
    if not positions.startswith("prompt"):
        assert float(one.kl[:first].max()) == 0.0
    assert float(one.kl[first:].max()) > 0


def divergence(rows: list[list[float]]) -> Any:
    """A divergence with these values, prompt by prompt."""
    from lens_steer.token_divergence import TokenDivergence

    row = np.array([i for i, r in enumerate(rows) for _ in r])
    kl = np.array([v for r in rows for v in r])
    same = dict.fromkeys(
        ("kl", "kl_reverse", "entropy", "total_variation", "entropy_steered", "surprise", "surprise_steered"), kl
    )
    return TokenDivergence(
        row=row, position=np.array([t for r in rows for t in range(len(r))]), token=("a",) * len(kl), token_id=row, n_prompts=len(rows), n_empty=0, **same
    )  # fmt: skip


def test_start_excess_and_slope() -> None:
    """By prompt: the first three tokens, those less the later ones, and the later ones' slope; too short responses are left out of each."""
    one = divergence([[3.0, 3.0, 3.0, 1.0, 2.0, 3.0, 4.0], [6.0, 0.0, 0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(tokens.start(one), [3.0, 2.0])
    np.testing.assert_allclose(tokens.excess(one), [0.5, 1.0])
    np.testing.assert_allclose(tokens.slopes(one), [1.0])
    assert len(tokens.start(divergence([[1.0], [2.0]]))) == 0
    rows = tokens.summary({("c", "harmful"): one})
    assert (rows[0]["start"], rows[0]["slope"], rows[0]["n"]) == (2.5, 1.0, 3)
    apart = tokens.gap(np.array([5.0, 5.1, 4.9]), np.array([1.0, 1.2]))
    assert apart.low > 3
    assert apart.n == 5
    with pytest.raises(LensSteerError, match="0 and 1 values"):
        tokens.gap(np.empty(0), np.ones(1))


def test_the_angle_s_interval_covers_the_planted_one() -> None:
    """Two clouds along directions at 60°: the jackknife's interval holds it, and is narrower with less noise."""
    generator = torch.Generator().manual_seed(0)
    axis, other = torch.eye(40)[0], 0.5 * torch.eye(40)[0] + np.sqrt(0.75) * torch.eye(40)[1]

    def interval(noise: float) -> Any:
        drawn = noise * torch.randn(4, 60, 40, generator=generator)
        return _jackknifed(_mean_gap, drawn[0] + axis, drawn[1] - axis, drawn[2] + other, drawn[3] - other, 0)

    wide, narrow = interval(0.5), interval(0.05)
    assert narrow.low < 0.5 < narrow.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low) > 0
    assert random_cosine(4096)[1] < random_cosine(64)[1]


def test_the_positive_control_crosses_the_boundary(qwen: Any, refusal_calibration: ls.Calibration) -> None:
    """Unsteered harmful prompts stand on the harmful side of a probe of other prompts; under StTP against refusal they cross, from the steered block on."""
    contrast = ls.load_contrast("organism/refusal")
    acts = ls.record(qwen, contrast, "resid_post", progress=False)
    probes = {site: ls.fit_probe(acts, site) for site in (acts.sites[4], refusal_calibration.selected_site, acts.sites[11])}
    report = contrast.report
    made = projections(qwen, probes, report.positive[:16], report.negative[:16], {CONTROL: against_refusal(refusal_calibration)})
    crossed = {(p.kind, p.block): p.crossed.value for p in made}
    assert crossed["harmful", 11] < 0.1
    assert crossed["harmless", 11] > 0.9
    assert crossed[CONTROL, 4] == crossed["harmful", 4]
    assert crossed[CONTROL, 11] > 0.9


def test_controls_write_where_the_steering_does(found: tuple[Externalities, list[Any], Path]) -> None:
    """Same sites, equal lengths; the equal-norm remainder and the random directions are as long as the direction."""
    made = found[0]
    for steering in made.steerings:
        of = {c.kind: c for c in controls(steering, made.calibrations.refusal, made.matches[steering.name][1])}
        assert of[INSIDE].plan is not None
        assert of[INSIDE].plan.sites == of[OUTSIDE].plan.sites == of[RANDOM].plan.sites == steering.sites  # type: ignore[union-attr]
        h = torch.randn(3, 128, generator=torch.Generator().manual_seed(1))
        length = {k: (of[k].plan.operator()(h) - h).norm(dim=-1) for k in ("steered", RANDOM, OUTSIDE_EQUAL, INSIDE, OUTSIDE)}  # type: ignore[union-attr]
        torch.testing.assert_close(length[RANDOM], length["steered"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(length[OUTSIDE_EQUAL], length["steered"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(length[INSIDE] ** 2 + length[OUTSIDE] ** 2, length["steered"] ** 2, atol=1e-2, rtol=1e-3)
        inside, _ = split(steering.directions[steering.sites[0]], refusal_bases(made.calibrations.refusal)[steering.sites[0]])
        angle = next(a for a in made.angles if a.steering == steering.name and a.steered)
        assert angle.in_plane == pytest.approx(float(inside.square().sum()), abs=1e-5)


def test_the_study(found: tuple[Externalities, list[Any], Path], qwen: Any, material: Material) -> None:
    """The control complies, benign prompts are answered unsteered; rows of a condition are what its saved plan generates; random directions are averaged by prompt."""
    made, _, out = found
    base = made.measured(NONE)
    assert (base["attack"].value, base["helped"].value, base["json_asked"].value) == (0.0, 1.0, 1.0)
    assert made.measured(f"{CONTROL}, first k, k = 4")["attack"].value > 0.5
    assert made.difference(f"{CONTROL}, first k, k = 4", NONE, "attack").low > 0
    for steering in made.steerings:
        plan = ls.load_plan(out / "plans" / steering.name)
        with ls.steering(qwen, plan):
            texts = ls.generate(qwen, material.refusal.report.positive, max_new_tokens=26, engine="hf")
        assert texts == [r["text"] for r in made.rows if r["condition"] == steering.name and r["side"] == "positive"]
    drawn = [made.values(f"json, {RANDOM} {i}", "helped") for i in (1, 2)]
    mean = made.values(f"json, {RANDOM}", "helped")
    assert mean == {i: (drawn[0][i] + drawn[1][i]) / 2 for i in drawn[0]}
    with pytest.raises(LensSteerError, match="the same are needed in both"):
        made.difference("json, another", NONE, "attack")
    assert {p.response for p in made.responses["harmful"]} and all(
        p.messages[0]["role"] == "user" for p in made.responses["harmful"]
    )
    assert len(made.angles) == 2 * 12


def test_claims(found: tuple[Externalities, list[Any], Path]) -> None:
    """Every claim once; the control's hold; a verdict follows its criterion; what cannot be tested is reported with a note."""
    made, claimed, _ = found
    by_id = {c.id: c for c in claimed}
    assert len(by_id) == len(claimed) == len(claims(made, "m"))
    for c in claimed:
        if c.verdict == REPORTED:
            assert c.witness["note"], c.id
        elif c.criterion.startswith("95 % interval above 0") and c.interval:
            assert (c.verdict == HOLDS) == (c.interval[0] > 0), c.id
        elif c.criterion.startswith("95 % interval below 0") and c.interval:
            assert (c.verdict == HOLDS) == (c.interval[1] < 0), c.id
    assert by_id["kl-harmful-control"].verdict == HOLDS
    assert by_id["kl-start-harmful-control"].verdict == HOLDS
    assert by_id["purpose-compliance"].verdict == REPORTED


def test_what_is_written(found: tuple[Externalities, list[Any], Path]) -> None:
    """Every condition has its row in the table with the numbers of the record; a row a token; figures are redrawn from what is saved; the page marks the first steered token."""
    made, claimed, out = found
    record = json.loads((out / "externalities.json").read_text(encoding="utf-8"))
    table = (out / "externalities.md").read_text(encoding="utf-8")
    by_name = {c["condition"]: c for c in record["conditions"]}
    for c in made.conditions:
        line = next(x for x in table.splitlines() if x.startswith(f"| {c.name} |"))
        if c.runs:
            e = by_name[c.name]["attack"]
            assert f"| {100 * e['value']:.0f} [{100 * e['low']:.0f}, {100 * e['high']:.0f}] |" in line
    assert len(by_name) == len(made.conditions) + len(made.prefixes)
    assert [c["id"] for c in record["claims"]] == [c.id for c in claimed]
    assert claimed[0].statement in (out / "claims.md").read_text(encoding="utf-8")
    with (out / "kl_tokens.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == sum(len(d) for d in made.divergences.values())
    page = (out / "qualitative.md").read_text(encoding="utf-8")
    assert "`prompt[:-1]+generated[3:]`" in page
    answer = next(r["text"] for r in made.rows if r["condition"] == "json" and r["side"] == "positive" and r["prompt"] == 0)
    assert any(f"⟦{answer[:k]}⟧{answer[k:]}" in page for k in range(1, len(answer)))
    before = (out / "externality_kl.png").read_bytes()
    from lens_steer.figures import saving

    assert set(saving.redraw(out)) == {f"externality_{n}" for n in ("angles", "attack", "depth", "kl", "prefix", "strength")}
    assert (out / "externality_kl.png").read_bytes() == before


def test_a_study_goes_on_with_the_same_bytes(
    qwen: Any, found: tuple[Externalities, list[Any], Path], material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off after the first rows and begun again: the same rows, without making the first ones anew; another seed in the same folder is refused."""
    from lens_steer import externalities, sweeps

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(externalities, "json_settings", stop)
        study(qwen, material, tmp_path, **OPTIONS)
    made: list[str] = []
    measure = sweeps._measure
    monkeypatch.setattr(sweeps, "_measure", lambda p, grid, *rest: made.append(grid.condition) or measure(p, grid, *rest))
    monkeypatch.setattr(externalities, "prefixes", lambda *_: [])
    monkeypatch.setattr(externalities, "controls", lambda *_, **__: [])
    study(qwen, material, tmp_path, **OPTIONS)
    assert "compliance" not in made[: made.index("json")]
    for name in ("compliance_select.csv", "json_select.csv", "json_select_harm.csv", "matches.csv"):
        assert (tmp_path / name).read_bytes() == (found[2] / name).read_bytes(), name
    whole = (found[2] / "report.csv").read_text(encoding="utf-8")
    assert whole.startswith((tmp_path / "report.csv").read_text(encoding="utf-8"))  # the baselines come first
    with pytest.raises(LensSteerError, match="give another --out, or empty it"):
        study(qwen, material, tmp_path, seed=1, **OPTIONS)


def test_refused_before_any_work(qwen: Any, material: Material, tmp_path: Path) -> None:
    """Nothing is written where the material or an option does not do."""
    for changed, message in (
        (replace(material, harmful_responses=PromptSet((Prompt.of("a"),), "mine")), "harmful_responses 'mine' is empty or has a prompt without a response"),
        (replace(material, compliance=cut(material.compliance, 0, 0)), "has no fit prompts"),
        (replace(material, json=cut(material.json, 4, 0)), "has no select prompts"),
    ):  # fmt: skip
        with pytest.raises(LensSteerError, match=message):
            study(qwen, changed, tmp_path / "out")
    with pytest.raises(LensSteerError, match=r"n_random=0, ks=\(1,\)"):
        study(qwen, material, tmp_path / "out", n_random=0, ks=(1,))
    (tmp_path / "file").write_text("x")
    with pytest.raises(LensSteerError, match="cannot be written"):
        study(qwen, material, tmp_path / "file")
    assert not (tmp_path / "out").exists()


def test_a_model_without_ground_truth(tmp_path: Path) -> None:
    """A local folder with prompts and responses of one's own: answers are read by the refusal phrases, and the tables say so."""
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
        contrast("compliance", *answered), contrast("json", asked, words[:12]), contrast("refusal", words[12:], words[:12]),
        harmful_responses=PromptSet(tuple(answered[0][:3]), "given"),
    )  # fmt: skip
    made, _ = study_and_write(model, own, tmp_path / "out", shares=(0.1,), n_random=1, ks=(1,), max_new_tokens=4, progress=False)
    assert not made.known
    assert made.responses["harmful"] is own.harmful_responses
    table = (tmp_path / "out" / "externalities.md").read_text(encoding="utf-8")
    assert "harmful: not refused" in table
    assert "No ground truth" in table
    none = harmful_responses(model, replace(own, harmful_responses=None), max_new_tokens=4)
    plan = made.steerings[0].plan()
    measured = tokens.divergences(model, {"c": plan}, {"harmful": none, "benign": made.responses["benign"]})
    assert set(measured) == {("c", "benign")}


def test_tables_over_models(found: tuple[Externalities, list[Any], Path]) -> None:
    """One column a model; the choice, every condition, every claim; a condition that cannot be made gives its reason."""
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
    assert all(row.count(" | ") == 3 for row in (rows[0], *rows[2:]))
