"""L_disc as it is: the rules, the bootstrap probability of membership, AUROC and Cohen's d, against oracles; what is
stored, shown and steered of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import RULE_BOUNDS, has_angle, method_grids, rule_grids
from lens_steer.figures import geometry as drawn
from lens_steer.geometry.directions import zero_rows
from lens_steer.geometry.discriminative import RULES, check_rule, discriminative_sites, mean_rule
from lens_steer.geometry.membership import _counts, membership
from lens_steer.geometry.rules import cautions, sureness, with_separations
from lens_steer.geometry.separation import areas, cohens_d
from lens_steer.geometry.stability import stability
from lens_steer.inference.record import Activations
from tests.made import origin
from tests.test_cli import run

NAMES = tuple(f"blocks.{b}.{k}.hook_out" for b in range(3) for k in ("ln1", "ln2"))
D = 12


def activations(seed: int = 0, n: int = 17, m: int = 11, shift: float = 1.0) -> Activations:
    """Two noisy classes whose gap grows over depth, about a common point that moves away from zero."""
    g = torch.Generator().manual_seed(seed)
    axis, far = torch.zeros(D), torch.ones(D) * 0.05
    axis[0] = 1.0
    depth = torch.arange(6).float()[:, None]
    sides = [
        torch.randn(size, 6, D, generator=g) * 0.8 + sign * shift * 0.4 * depth * axis + far * depth
        for size, sign in ((n, 1), (m, -0.2))
    ]
    return Activations(NAMES, sides[0], sides[1], **origin(3))


@pytest.fixture(scope="module")
def acts() -> Activations:
    return activations()


@pytest.fixture(scope="module")
def cal(acts: Activations) -> Any:
    return ls.calibrate(acts)


def hand_made_d(x: np.ndarray, y: np.ndarray) -> float:
    """By NumPy's own variances."""
    pooled = ((len(x) - 1) * np.var(x, ddof=1) + (len(y) - 1) * np.var(y, ddof=1)) / (len(x) + len(y) - 2)
    return float((np.mean(x) - np.mean(y)) / np.sqrt(pooled))


def sk_area(x: np.ndarray, y: np.ndarray) -> float:
    return float(roc_auc_score(np.r_[np.ones(len(x)), np.zeros(len(y))], np.r_[x, y]))


@pytest.mark.parametrize("ties", [False, True])
def test_measures_against_numpy_and_sklearn(ties: bool) -> None:
    """Of all prompts, and of resamples that are copied out; with and without ties."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(0.4, 1, (9, 4)), rng.normal(0, 2, (14, 4))
    if ties:
        x, y = np.round(x), np.round(y)
    counts = next(iter(_counts(9, 14, 20, seed=1)))
    p, n = torch.tensor(x), torch.tensor(y)
    for k in range(4):
        assert float(areas(p, n)[k]) == pytest.approx(sk_area(x[:, k], y[:, k]), abs=1e-12)
        assert float(cohens_d(p, n)[k]) == pytest.approx(hand_made_d(x[:, k], y[:, k]), rel=1e-12)
    found = areas(p, n, counts), cohens_d(p, n, counts)
    for r in range(20):
        a, b = (np.repeat(v, c[r].numpy().astype(int), axis=0) for v, c in zip((x, y), counts, strict=True))
        assert len(a) == 9 and len(b) == 14
        for k in range(4):
            assert float(found[0][r, k]) == pytest.approx(sk_area(a[:, k], b[:, k]), abs=1e-12)
            assert float(found[1][r, k]) == pytest.approx(hand_made_d(a[:, k], b[:, k]), rel=1e-9)


def test_measures_where_the_mean_is_far_away() -> None:
    """A common shift changes neither; no spread at all is NaN, not an infinite effect."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 2, generator=g).double() + 1, torch.randn(20, 2, generator=g).double()
    assert torch.allclose(cohens_d(x + 1e4, y + 1e4), cohens_d(x, y), rtol=1e-6)
    assert torch.equal(areas(x + 1024, y + 1024), areas(x, y))
    assert torch.allclose(cohens_d(y, x), -cohens_d(x, y))
    assert torch.allclose(areas(y, x), 1 - areas(x, y))
    assert bool(cohens_d(torch.ones(4, 1) * 3 + 1e-9 * x[:4, :1], torch.ones(4, 1) * 2).isnan().all())
    assert bool(cohens_d(x[:1], y[:1]).isnan().all())


def by_copying(
    acts: Activations, direction: torch.Tensor, rule: str, bound: Any, resamples: int, seed: int
) -> np.ndarray:
    """Membership by copying every resample out and asking the rule of its activations."""
    counts = [torch.cat(c) for c in zip(*_counts(len(acts.positive), len(acts.negative), resamples, seed), strict=True)]
    hits = np.zeros(len(acts.sites))
    for drawn_positive, drawn_negative in zip(*counts, strict=True):
        sides = [
            np.repeat(s.double().numpy(), c.numpy().astype(int), axis=0)
            for s, c in ((acts.positive, drawn_positive), (acts.negative, drawn_negative))
        ]
        if rule == "official":
            sides = [s / (np.linalg.norm(s, axis=-1, keepdims=True) + 1e-8) for s in sides]
        x, y = (s @ direction.double().numpy() for s in sides)
        a, b = x.mean(axis=0), y.mean(axis=0)
        if rule == "effect":
            inside = np.array([hand_made_d(x[:, k], y[:, k]) > bound for k in range(len(a))])
        elif rule == "auroc":
            inside = np.array([sk_area(x[:, k], y[:, k]) > bound for k in range(len(a))])
        else:
            middle = (a + b).mean() / 2 if rule == "centred" else 0.0
            inside = (a - middle) * (b - middle) < 0
            if rule == "official":
                inside = np.repeat(inside.reshape(-1, 2).all(axis=1), 2)
        hits += inside
    return hits / resamples


@pytest.mark.parametrize(
    ("rule", "bound"), [("paper", None), ("official", None), ("centred", None), ("effect", 0.7), ("auroc", 0.75)]
)
def test_membership_against_copied_resamples(
    acts: Activations, rule: str, bound: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same draws, copied out one by one and measured by NumPy and scikit-learn; the size of a block of resamples
    changes nothing.
    """
    unit = ls.calibrate(acts).basis[0]
    x, y = acts.positive.double() @ unit.double(), acts.negative.double() @ unit.double()
    norms = acts.positive.norm(dim=-1), acts.negative.norm(dim=-1)
    options: dict[str, Any] = {"rule": rule, "bound": bound, "norms": norms, "resamples": 60, "seed": 5}
    found = membership(x, y, NAMES, **options)
    assert 0 < float(found.mean()) < 1
    assert np.allclose(found.numpy(), by_copying(acts, unit, rule, bound, 60, 5), atol=1e-12)
    monkeypatch.setattr("lens_steer.geometry.membership.CHUNK_ENTRIES", 200)
    assert torch.equal(membership(x, y, NAMES, **options), found)


def test_membership_where_there_is_nothing() -> None:
    """Means drawn about zero: one half on average, whether of one class or both; both away from zero: never; far apart:
    always.
    """
    g = torch.Generator().manual_seed(1)
    names = [f"blocks.{b}.ln1.hook_out" for b in range(400)]
    zero, other = torch.randn(40, 400, generator=g), torch.randn(40, 400, generator=g)
    assert float(membership(zero, other, names, resamples=200).mean()) == pytest.approx(0.5, abs=0.04)
    assert float(membership(zero + 5, other, names, resamples=200).mean()) == pytest.approx(0.5, abs=0.06)
    assert float(membership(zero + 5, other + 5, names, resamples=200).max()) == 0
    assert float(membership(zero + 5, other - 5, names, resamples=200).min()) == 1
    assert float(membership(zero, other, names, rule="auroc", resamples=200).max()) < 0.05
    assert float(areas(zero, other).mean()) == pytest.approx(0.5, abs=0.01)
    assert float(cohens_d(zero, other).std()) == pytest.approx((2 / 40) ** 0.5, rel=0.15)  # the null's standard error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "nearest"}, "rule='nearest': use one of paper, official, centred, effect, auroc"),
        ({"rule": "paper", "bound": 1.0}, "rule 'paper' has no bound"),
        ({"rule": "effect", "bound": -1.0}, "bound=-1.0: rule 'effect' needs a number from 0 up, such as 1.0"),
        ({"rule": "auroc", "bound": 1.0}, "needs a number from 0 up to below 1"),
        ({"rule": "effect", "bound": float("nan")}, "bound=nan"),
    ],
)
def test_rules_that_are_refused(acts: Activations, options: dict[str, Any], message: str) -> None:
    for call in (
        lambda: ls.calibrate(acts, **options),
        lambda: membership(acts.positive[:, :, 0], acts.negative[:, :, 0], NAMES, **options),
    ):
        with pytest.raises(LensSteerError, match=message):
            call()


def test_further_refusals(acts: Activations, cal: Any) -> None:
    x, y = cal.statistics.projection_positive, cal.statistics.projection_negative
    with pytest.raises(LensSteerError, match="give norms="):
        membership(x, y, NAMES, rule="official")
    with pytest.raises(LensSteerError, match="negative holds no prompts"):
        membership(x, y[:0], NAMES)
    with pytest.raises(LensSteerError, match="resamples=0, seed=0"):
        membership(x, y, NAMES, resamples=0)
    with pytest.raises(LensSteerError, match="use another rule; the calibration's membership"):
        stability(acts, rule="effect", resamples=2)
    with pytest.raises(LensSteerError, match="rule='effect' needs projections of single prompts"):
        ls.discriminative_by_rule(replace(cal, statistics=None), ["effect"])
    with pytest.raises(LensSteerError, match="use one of selective"):
        rule_grids(cal, "act-add", ["centred"])


def test_the_rules(acts: Activations, cal: Any) -> None:
    """Each rule's sites are what its words say of the projections; every way to a rule's sites gives the same."""
    assert (check_rule("effect"), check_rule("auroc"), check_rule("centred")) == (1.0, 0.9, None)
    x, y = ((s.double() @ cal.basis[0].double()).numpy() for s in (acts.positive, acts.negative))
    a, b = x.mean(axis=0), y.mean(axis=0)
    middle = float(np.mean([(p + n) / 2 for p, n in zip(a, b, strict=True)]))
    words = {
        "paper": [p * n < 0 for p, n in zip(a, b, strict=True)],
        "centred": [min(p, n) < middle < max(p, n) for p, n in zip(a, b, strict=True)],
        "effect": [hand_made_d(x[:, k], y[:, k]) > 1.0 for k in range(6)],
        "auroc": [sk_area(x[:, k], y[:, k]) > 0.9 for k in range(6)],
    }
    found = ls.discriminative_by_rule(cal)
    assert tuple(found) == RULES
    for rule, inside in words.items():
        expected = tuple(n for n, i in zip(NAMES, inside, strict=True) if i)
        assert found[rule].sites == expected, rule
        assert 0 < len(expected) < 6, rule
        made: Any = ls.calibrate(acts, rule=rule)
        assert (made.discriminative_sites, made.rule) == (expected, rule)
        again: Any = ls.with_rule(cal, rule)
        assert (again.discriminative_sites, again.discriminative_blocks, again.bound) == (
            made.discriminative_sites,
            made.discriminative_blocks,
            made.bound,
        )
        assert torch.equal(again.membership, made.membership)
        assert discriminative_sites(acts.positive, acts.negative, cal.basis[0], NAMES, rule=rule).sites == expected
    assert found["official"].sites == ls.calibrate(acts, rule="official").discriminative_sites
    assert torch.equal(ls.with_rule(cal, "effect", bound=0).basis, cal.basis)


def test_centred_does_not_ask_where_zero_is() -> None:
    """A shift of all sites along the direction changes what ``paper`` says, not what ``centred``, ``effect`` and
    ``auroc`` say.
    """
    plain = activations(n=40, m=40)
    far = replace(
        plain,
        positive=plain.positive + 50 * ls.calibrate(plain).basis[0],
        negative=plain.negative + 50 * ls.calibrate(plain).basis[0],
    )
    before, after = (ls.discriminative_by_rule(ls.calibrate(a)) for a in (plain, far))
    assert before["paper"].sites and not after["paper"].sites
    for rule in ("centred", "effect", "auroc"):
        assert before[rule].sites == after[rule].sites, rule


def test_sites_without_a_direction_are_never_in() -> None:
    """Where every prompt has the same vector up to rounding, nothing is measured: no effect, an area of one half,
    outside under any bound.
    """
    made = activations()
    for side in (made.positive, made.negative):
        side[:, 0] = torch.arange(D) + 1e-6 * torch.rand(
            len(side), D, generator=torch.Generator().manual_seed(len(side))
        )
    calibrated: Any = ls.calibrate(made, rule="auroc", bound=0.0)
    assert bool(zero_rows(calibrated.candidates)[0])
    assert (float(calibrated.auroc[0]), float(calibrated.cohens_d[0]), float(calibrated.membership[0])) == (
        0.5,
        0.0,
        0.0,
    )
    assert NAMES[0] not in calibrated.discriminative_sites
    assert (
        NAMES[0]
        not in discriminative_sites(
            made.positive, made.negative, calibrated.basis[0], NAMES, rule="auroc", bound=0.0
        ).sites
    )


def test_stored_and_read_back(acts: Activations, tmp_path: Path) -> None:
    """Every new field; a folder without them loads, and what its projections give is computed when it is asked for."""
    made: Any = ls.calibrate(acts, rule="effect", bound=0.5, seed=3)
    ls.save_calibration(made, tmp_path / "new")
    loaded = ls.load_calibration(tmp_path / "new")
    for name in ("membership", "auroc", "cohens_d"):
        assert torch.equal(getattr(loaded, name), getattr(made, name)), name
    assert (loaded.rule, loaded.bound, loaded.discriminative_sites) == ("effect", 0.5, made.discriminative_sites)
    path = tmp_path / "new" / "calibration.json"
    facts = json.loads(path.read_text())
    assert all(isinstance(facts[name], list) and len(facts[name]) == 6 for name in ("membership", "auroc", "cohens_d"))
    older = {k: v for k, v in facts.items() if k not in ("membership", "auroc", "cohens_d", "stream_sites")}
    path.write_text(json.dumps(older))
    old = ls.load_calibration(tmp_path / "new")
    assert old.membership is None and old.stream_direction is None and sureness(old) is None
    again: Any = with_separations(old)
    assert torch.equal(again.membership, made.membership) and torch.equal(again.cohens_d, made.cohens_d)


def test_what_is_shown(cal: Any) -> None:
    """The table, the summary and the figure have the numbers; a calibration without per-prompt statistics has none of
    them.
    """
    frame = cal.to_pandas()
    assert np.allclose(frame["membership"], cal.membership) and np.allclose(frame["auroc"], cal.auroc)
    assert "AUROC" in cal._repr_html_()
    summary = ls.summarise(cal)
    part = json.loads(json.dumps(summary))["discriminative"]
    assert part["n_sites_by_rule"]["paper"] == len(cal.discriminative_sites) == part["n_sites"]
    assert sum(v for k, v in part["sureness"].items() if k not in ("n", "selected")) == 6
    assert drawn.drawings(summary)["site_membership"].columns["membership"] == part["membership"]
    bare = replace(cal, statistics=None, membership=None, auroc=None, cohens_d=None)
    assert "site_membership" not in drawn.drawings(ls.summarise(bare))
    assert bare.to_pandas()["auroc"].isna().all()


def test_cautions(cal: Any) -> None:
    """Told where the selected site is outside, and where many sites hang on the prompts; nothing where neither is
    so.
    """
    sure = replace(cal, membership=torch.tensor([0, 0, 1, 1, 1, 1.0]), discriminative_sites=NAMES[2:])
    sure = replace(sure, selected_site=NAMES[5])
    assert cautions(sure) == ()
    assert cautions(replace(sure, selected_site=NAMES[0])) == (
        f"the selected site {NAMES[0]} is outside L_disc (rule 'paper')",
    )
    unsure = cautions(replace(sure, membership=torch.tensor([0, 0.05, 0.5, 0.95, 1, 1.0])))
    assert len(unsure) == 1
    assert "whether 3 of 6 sites are in L_disc hangs on which prompts were drawn" in unsure[0]
    assert "2 of them are among its 4" in unsure[0]


def test_grids_of_rules(cal: Any) -> None:
    """A condition a rule, a variant a bound with its number of sites; what is empty, the same, or the calibration's own
    is told and left out.
    """
    bounds = {"effect": (0.5, 0.51, 1e3), "auroc": (0.8,)}
    grids, left_out = rule_grids(
        cal, "selective", ["paper", "centred", "effect", "auroc"], values=(0.0, 90.0), bounds=bounds
    )
    assert [g.condition for g in grids] == ["selective (centred)", "selective (effect)", "selective (auroc)"]
    n = len(ls.discriminative_by_rule(cal, ["effect"], bounds={"effect": 0.5})["effect"].sites)
    assert grids[1].variant == f"d > 0.5, {n} sites"
    assert left_out == [
        "rule 'paper' is the calibration's own: condition 'selective' has it",
        f"rule 'effect' at a bound of 0.51 has the same {n} sites as at 0.5",
        "rule 'effect' at a bound of 1000 has no site",
    ]
    for grid in grids:
        rule = grid.condition.removeprefix("selective (").removesuffix(")")
        bound = {"effect": 0.5, "auroc": 0.8}.get(rule)
        assert (
            grid.build is not None
            and grid.build(90.0).sites == ls.with_rule(cal, rule, bound=bound).discriminative_sites
        )
        assert has_angle(grid.condition)
    assert not has_angle("compliance (effect)")
    assert len(rule_grids(cal, "selective", ["effect"])[0]) <= len(RULE_BOUNDS["effect"])
    assert [g.values for g in rule_grids(cal, "phase-collapse", ["centred"])[0]] == [(None,)]


@pytest.mark.parametrize("keep", ["all", "moments"])
@pytest.mark.parametrize("engine", ["hf", "tl"])
def test_one_calibration_steers_every_method(qwen: Any, refusal: Any, keep: str, engine: str, tmp_path: Path) -> None:
    """The stream's direction recorded beside the norms' outputs is what a calibration of the stream selects, and what
    the ablation takes out.
    """
    beside = ls.calibrate(ls.record(qwen, refusal, engine=engine, keep=keep, progress=False))  # type: ignore[call-overload]
    own = ls.calibrate(ls.record(qwen, refusal, "resid_pre", engine=engine, progress=False))
    assert beside.stream_direction is not None
    assert beside.stream_sites == own.sites
    assert beside.stream_direction[0] == own.selected_site
    assert torch.allclose(beside.stream_direction[1], own.basis[0], atol=1e-6)
    ls.save_calibration(beside, tmp_path / keep)
    loaded = ls.load_calibration(tmp_path / keep)
    assert torch.equal(loaded.stream_direction[1], beside.stream_direction[1])  # type: ignore[index]
    ablated = method_grids(loaded, "ablation-everywhere")[0]
    assert ablated.build is not None and len(ablated.build(None).sites) == 36


def test_the_stream_is_recorded_only_beside_norms_of_every_block(qwen: Any, refusal: Any) -> None:
    small = replace(refusal.fit, positive=refusal.fit.positive[:4], negative=refusal.fit.negative[:4])
    for sites in ("resid_pre", "resid_post", ["blocks.3.ln1.hook_out"], "ln2"):
        found = ls.record(qwen, small, sites, progress=False)
        assert (found.stream is not None) is (sites == "ln2"), sites


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """``calibrate --rule effect --bound``: what is printed is what is stored; a bound or rule that does not fit ends
    with one line and code 2.
    """
    base = ("calibrate", "--model", "organism/qwen2", "--out", tmp_path / "cal")
    code, printed, error = run(monkeypatch, capsys, *base, "--rule", "effect", "--bound", 2)
    told, stored = json.loads(printed), ls.load_calibration(tmp_path / "cal")
    assert (code, told["rule"], told["bound"]) == (0, "effect", 2.0)
    assert [row["site"] for row in told["sites"] if row["discriminative"]] == list(stored.discriminative_sites)
    assert [row["auroc"] for row in told["sites"]] == pytest.approx([float(v) for v in stored.auroc], abs=1e-4)  # type: ignore[union-attr]
    assert set(told["sites_by_rule"]) == set(RULES)
    assert (
        sum(told["membership"][k] for k in ("probability_above_0.95", "between", "probability_below_0.05"))
        == told["n_sites"]
    )
    assert ("caution:" in error) is bool(cautions(stored))
    for options, message in (
        (("--bound", 2), "has no bound"),
        (("--rule", "effect", "--keep", "moments"), "goes by single prompts' projections"),
    ):
        code, _, error = run(monkeypatch, capsys, *base, *options)
        assert (code, message in error) == (2, True)


def test_a_sweep_over_rules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Path, refusal: Any
) -> None:
    """Each rule is a condition whose bound is chosen on select; what is left out is told on the error stream; an
    unknown rule is refused before anything is read.
    """
    for name, side in (("p", refusal.fit.positive), ("n", refusal.fit.negative)):
        (tmp_path / f"{name}.txt").write_text("\n".join(p.text for p in side[:8]) + "\n", encoding="utf-8")
    base = (
        "sweep", "--model", "organism/qwen2", "--positive", tmp_path / "p.txt", "--negative", tmp_path / "n.txt",
        "--split", "0.5,0.25,0.25", "--calibration", made, "--angles", "0,180", "--max-new-tokens", 4, "--out",
        tmp_path / "out",
    )  # fmt: skip
    code, printed, error = run(monkeypatch, capsys, *base, "--rules", "paper,centred,effect")
    assert code == 0
    told = json.loads(printed)["by_rule"]
    assert list(told) == ["selective (centred)", "selective (effect)"]
    assert told["selective (effect)"]["variant"].startswith("d > ")
    assert "--rules: left out: rule 'paper' is the calibration's own" in error
    choices = json.loads((tmp_path / "out" / "sweep.json").read_text())["choices"]
    assert {"no steering", "selective", *told} <= set(choices)
    code, _, error = run(monkeypatch, capsys, *base, "--rules", "nearest")
    assert (code, "--rules 'nearest': use some of paper,official,centred,effect,auroc" in error) == (2, True)


def test_mean_rules_of_many_draws() -> None:
    """A leading dimension of draws gives each draw's own answer."""
    g = torch.Generator().manual_seed(2)
    a, b = torch.randn(20, 6, generator=g), torch.randn(20, 6, generator=g)
    for rule in ("paper", "official", "centred"):
        many = mean_rule(a, b, NAMES, rule=rule)
        assert torch.equal(many, torch.stack([mean_rule(x, y, NAMES, rule=rule) for x, y in zip(a, b, strict=True)]))
