"""Results in a notebook: tables against the arrays they are of, views against what they must say, and what comes from outside escaped."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import lens_steer as ls
from lens_steer.activations import Activations
from lens_steer.claims.record import Claim
from lens_steer.comparison import Comparison
from lens_steer.errors import LensSteerError
from lens_steer.evaluation import Evaluation, chosen_grids
from lens_steer.figures.core import Drawing
from lens_steer.geometry.calibration import calibrate
from lens_steer.geometry.direction_comparison import compare_directions
from lens_steer.geometry.planes import random_plane
from lens_steer.geometry.stability import stability
from lens_steer.geometry.summary import summarise
from lens_steer.grids import NONE
from lens_steer.interop.certificate import Certificate
from lens_steer.monitoring import Monitor
from lens_steer.organisms.tasks import Task
from lens_steer.outcomes import Outcome
from lens_steer.probing import probe_depth
from lens_steer.prompts import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.rowstore import Rows
from lens_steer.selection import Constraint, choose, settings
from lens_steer.shown import Shown
from lens_steer.stats import Estimate, auroc, bootstrap_mean, grouped_mean, wilson
from lens_steer.sweeps import COLUMNS, Grid
from lens_steer.traits.search import TraitResult
from lens_steer.verify import Verification
from lens_steer.views import html
from lens_steer.views.pieces import Table
from tests.views import EVIL, checked, read

SITES = tuple(f"blocks.{b}.{k}.hook_out" for b in range(4) for k in ("ln1", "ln2"))


def made(n_positive: int = 14, n_negative: int = 12, seed: int = 0, **other: Any) -> Activations:
    """Eight sites of d_model 10; the classes part further with depth."""
    rng = torch.Generator().manual_seed(7)
    direction = torch.randn(10, generator=rng)
    growth = torch.linspace(0.2, 1.5, 8)[:, None] * (direction + 0.3 * torch.randn(8, 10, generator=rng))
    rng = torch.Generator().manual_seed(seed)
    sides = [sign * growth + 0.5 * torch.randn(n, 8, 10, generator=rng) for n, sign in ((n_positive, 1), (n_negative, -1))]
    groups = [tuple(f"{seed} {side} {i}" for i in range(n)) for side, n in (("+", n_positive), ("-", n_negative))]
    plain: dict[str, Any] = {
        "pooling": "last",
        "model": "made",
        "architecture": "qwen2",
        "n_layers": 4,
        "backend": "hooked",
        "weight_processing": "none",
        "prompt_hash": "hash",
    }
    return Activations(SITES, sides[0], sides[1], groups_positive=groups[0], groups_negative=groups[1], **plain | other)  # fmt: skip


def rows_of(values: tuple[float | None, ...] = (0.0, 90.0), condition: str = "selective") -> Rows:
    """Made-up rows of a sweep, without steering too; one prompt more is complied with at each value."""
    numbers: dict[str, Any] = dict.fromkeys(COLUMNS, 0.5)
    return Rows(
        {**numbers, "condition": name, "variant": "", "value": v, "split": "report", "side": "positive", "prompt": i, "text": "<b>It</b> is.", "grade": "correct",
         "right": int(i < n), "refused": 0, "broken": 0}
        for name, own in ((NONE, (None,)), (condition, values)) for n, v in enumerate(own) for i in range(4)
    )  # fmt: skip


def test_a_table_has_its_arrays_numbers() -> None:
    """Activations: one row a prompt and site, the vectors as they are; a token's table names tokens."""
    acts = made()
    text, frame = checked(acts)
    assert frame.shape == (26 * 8, 10)
    assert frame.index.names == ["class", "prompt", "site"]
    assert frame.columns.name == "dimension"
    for side, tensor in (("positive", acts.positive), ("negative", acts.negative)):
        for k in (0, 5):
            found = frame.xs(side).xs(SITES[k], level="site")
            assert np.array_equal(found.to_numpy(), tensor[:, k].numpy())
    assert set(frame.dtypes) == {np.dtype("float32")}
    assert all(site in text for site in SITES)
    assert "24 of 26" not in text
    assert made(pooling="token").to_pandas().index.names == ["class", "token", "site"]


def test_moments_and_statistics(calibration: Any) -> None:
    """Means by kind, class and site; a calibration's projections by prompt."""
    from lens_steer.moments import Moments

    rng = torch.Generator().manual_seed(0)
    means = [torch.randn(3, 5, generator=rng, dtype=torch.float64) for _ in range(4)]
    moments = Moments(
        SITES[:3], means[0], means[1], means[2], means[3], 9, 8, "last", "made", "qwen2", 4, "hooked", "none", "hash"
    )
    _, frame = checked(moments)
    for key, mean in zip(
        (("raw", "positive"), ("raw", "negative"), ("unit", "positive"), ("unit", "negative")), means, strict=True
    ):
        assert np.array_equal(frame.loc[key].to_numpy(), mean.numpy())
    found = calibration.statistics
    _, frame = checked(found)
    assert frame.loc[("negative", 3, 7), "projection"] == pytest.approx(float(found.projection_negative[3, 7]))
    assert len(frame) == found.norm_positive.numel() + found.norm_negative.numel()


def test_a_calibration(calibration: Any) -> None:
    """One row a site, in network order; the view says which is selected and which part the classes."""
    text, frame = checked(calibration)
    assert frame.index.tolist() == list(calibration.sites)
    assert frame.index[frame["selected"]].tolist() == [calibration.selected_site]
    assert frame.index[frame["discriminative"]].tolist() == list(calibration.discriminative_sites)
    assert np.allclose(frame["mean_projection_positive"], calibration.mean_projection_positive)
    coordinates = calibration.candidates.double() @ calibration.basis.double().mT
    assert np.allclose(frame[["along_b1", "along_b2"]], coordinates, atol=1e-6)
    assert frame.loc[calibration.selected_site, "plane_angle_degrees"] == pytest.approx(0, abs=1e-4)
    assert frame["plane_angle_degrees"].isna().tolist() == frame["zero_candidate"].tolist()
    assert text.index(calibration.selected_site) < text.index("blocks.0.")
    bare = replace(calibration, mean_projection_positive=None, mean_projection_negative=None, statistics=None)
    assert checked(bare)[1]["mean_projection_positive"].isna().all()


def test_a_summary_is_still_plain(calibration: Any) -> None:
    """What ``summarise`` gives is a dict that JSON takes, and a table whose intervals hold the means."""
    summary = summarise(calibration)
    assert json.loads(json.dumps(summary)) == summary
    _, frame = checked(summary)
    assert (
        (frame["projection_positive_low"] <= frame["projection_positive"])
        & (frame["projection_positive"] <= frame["projection_positive_high"])
    ).all()
    assert "projection_positive" not in checked(summarise(replace(calibration, statistics=None)))[1]


def test_prompts() -> None:
    """Prompts by class and split; columns that hold nothing are not shown."""
    task = Task("arithmetic", "plain", "What is 4 plus 3?", "7.", {"result": "7"})
    one = Prompt(
        ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 4 plus 3?"}), "7.", task, "sums"
    )
    several = Prompt((*one.messages, {"role": "assistant", "content": "7."}, {"role": "user", "content": "And 5?"}))
    text, frame = checked(one)
    assert frame["content"].tolist() == ["Be brief.", "What is 4 plus 3?"]
    assert all(part in text for part in ("Be brief.", "7.", "sums", "arithmetic"))
    prompts = PromptSet((one, several, *(Prompt.of(f"number {i}") for i in range(20))), "mine")
    text, frame = checked(prompts)
    assert (len(frame), frame.index.name) == (22, "prompt")
    assert frame.loc[1, ["text", "turns", "system"]].tolist() == ["And 5?", 2, "Be brief."]
    assert "… and 14 more prompts" in text
    assert "number 7" not in text
    plain = PromptSet(tuple(Prompt.of(f"x {i}") for i in range(3)))
    assert "system" not in read(plain)[0]
    contrast = Contrast(prompts, plain)
    text, frame = checked(contrast)
    assert frame.groupby("class").size().to_dict() == {"positive": 22, "negative": 3}
    split = Split(contrast, Contrast(plain, plain), Contrast(plain[:0], plain[:0]))
    for found in (split, ContrastSet("named", split)):
        text, frame = checked(found)
        assert frame.groupby(["split", "class"]).size().to_dict()["fit", "positive"] == 22
        assert frame.index.names == ["split", "class", "prompt"]
    text, frame = checked(ls.Dialogue(("Hello", "Again"), system="Be kind."))
    assert frame["text"].tolist() == ["Hello", "Again"]
    assert "Be kind." in text


def test_plans_and_models(qwen: Any, calibration: Any) -> None:
    """A step and site a row, with the tensor as Hugging Face has it; one angle a prompt as a tuple."""
    plan = ls.selective_steering(calibration, [10, 20, 30])
    text, frame = checked(plan)
    assert frame.index.get_level_values("site").tolist() == list(plan.sites)
    assert frame["angle_degrees"].tolist() == [(10.0, 20.0, 30.0)] * len(plan.sites)
    assert frame["module"].iloc[0].startswith("output of model.layers.")
    assert "(R_θ c − c) B" in text
    both = ls.mean_phase_rotation(calibration, 90)
    assert checked(both)[1]["mean_phase_degrees"].nunique() > 1
    assert "coefficient" in checked(ls.act_add(calibration, -1.0))[1]
    text, frame = checked(qwen.lens_info)
    assert frame.loc[0, "d_model"] == qwen.cfg.d_model
    assert "12 blocks" in text


def test_probes_and_directions() -> None:
    """Boundary, probe, its result, a scan over sites, estimators, stability, resamples: rows where they say they are."""
    fit, report = made(), made(seed=1)
    full = calibrate(fit)
    text, frame = checked(ls.boundary(full))
    assert frame.loc[0, "separation"] == pytest.approx(ls.boundary(full).separation)
    probe = ls.fit_probe(fit, SITES[-1])
    text, frame = checked(probe)
    assert frame["between"].tolist() == [True]
    assert "does not lie" not in text
    outside = replace(probe, threshold=probe.mean_positive + 1)
    assert "does not lie between the class means" in read(outside)[0]
    scan = probe_depth(fit, report, draws=2, blocks=4, progress=False)
    text, frame = checked(scan)
    assert frame.index.tolist() == list(SITES)
    assert frame.loc[SITES[3], "accuracy"] == scan.at(SITES[3]).measured["accuracy"].value
    assert text.index(scan.best.probe.site) < text.index(SITES[0])
    _, frame = checked(scan.best)
    assert frame.loc["auroc", ["value", "n"]].tolist() == [scan.best.measured["auroc"].value, scan.best.measured["auroc"].n]
    found = stability(fit, resamples=6, progress=False)
    text, frame = checked(found)
    assert frame["selected_share"].sum() == pytest.approx(1)
    assert "p = " in text
    _, frame = checked(found.bootstrap)
    assert np.allclose(frame[["first_angle_degrees", "second_angle_degrees"]], found.bootstrap.angles)
    none = replace(found.bootstrap, selected=torch.full_like(found.bootstrap.selected, -1))
    assert none.to_pandas()["selected_row"].tolist() == [None] * 6
    text, frame = checked(compare_directions(fit, ("difference", "fisher"), resamples=2, max_sites=2, progress=False))
    assert frame.index.names == ["estimator", "site"]
    assert "fisher" in text


def test_tokens(qwen: Any, calibration: Any, refusal: Any) -> None:
    """Divergence, monitor and effect log: rows are the objects' own, with units, and the text can be read off the view."""
    prompts = refusal.report.positive[:7]
    plan = ls.selective_steering(calibration, 150)
    answers = ls.generate(qwen, prompts, max_new_tokens=6)
    found = ls.token_divergence(qwen, plan, prompts, answers)
    text, frame = checked(found)
    assert np.array_equal(frame["kl_nats"], found.kl)
    assert "total_variation" in frame
    assert frame.index.names == ["row", "position"]
    assert "… and 2 more responses" in text
    assert "".join(t["token"] for t in found.rows() if t["row"] == 0) in text
    log = ls.EffectLog()
    assert checked(log)[1].empty
    with ls.steering(qwen, plan, effects=log):
        ls.generate(qwen, prompts[:2], max_new_tokens=3)
    text, frame = checked(log)
    assert frame.index.tolist() == list(plan.sites)
    assert "gate-fire rate" in text
    with ls.monitor(qwen, ls.boundary(calibration)) as seen:
        said = ls.generate(qwen, prompts[:2], max_new_tokens=6)
    text, frame = checked(seen)
    assert frame["token"].tolist() == [t["token"] for t in seen.rows()]
    assert said[0].split()[0] in text


def test_claims_and_files() -> None:
    """The verdict first; intervals as columns; the witness as JSON."""
    claim = Claim("a", "x keeps y", "f", "formula", "all", "q", "at most 1", 0.5, 9, "FAILS", (0.1, 0.9), {"h": [1, 2]})
    text, frame = checked(claim)
    assert text.startswith("FAILS: a")
    assert frame.loc[0, ["low", "high"]].tolist() == [0.1, 0.9]
    assert json.loads(frame.loc[0, "witness"]) == {"h": [1, 2]}
    many = Verification(
        tuple(replace(claim, id=f"c{i}", verdict="HOLDS" if i else "FAILS", interval=None) for i in range(45)), {}
    )
    text, frame = checked(many)
    assert frame["verdict"].value_counts().to_dict() == {"HOLDS": 44, "FAILS": 1}
    assert "… and 5 more claims" in text
    drawing = Drawing("polar", {"value": [1, 2], "mean": [0.5, None]}, {"n": 3})
    text, frame = checked(drawing)
    assert frame["value"].tolist() == [1, 2]
    plan = {"method": "selective"}
    certificate = Certificate(
        "lora", "made", plan, SITES, ({"site": "s", "operator": "standard", "reason": "not linear"},), "eight questions", 8, 16, 99, 2e-5, 20.0, 1e-6, 3.0, 0.5, 1e-7,
        "float32", "hf", 1e-5, {},
    )  # fmt: skip
    text, frame = checked(certificate)
    assert text.startswith("fail: lora")
    assert "not linear" in text
    assert frame.loc[0, "equal_greedy_tokens"] == 0.5
    assert read(replace(certificate, equal_greedy_tokens=1.0))[0].startswith("pass")


def test_sweeps(calibration: Any) -> None:
    """Rows, settings, a choice, an evaluation, a comparison, a trait's search, outcomes: a setting a row, its numbers the setting's."""
    rows = rows_of()
    text, frame = checked(rows, longest=400)
    assert len(frame) == 12
    assert "surprise_ref_nats" in frame
    assert "<b>It</b> is." in text
    found = settings(rows)
    text, frame = checked(found)
    assert frame.index.names == ["condition", "variant", "value", "split"]
    assert frame["complied"].tolist() == [s.measured["complied"].value for s in found] == [0, 0, 0.25]
    assert "refusal_score_nats_low" in frame
    assert checked(found[2])[1].loc[("selective", "", 90.0, "report"), "complied_n"] == 4
    choice = choose(found[1:], found[0])
    text, _ = checked(choice)
    assert text.startswith("selective at 90")
    assert "no, and none of 2 settings" in read(choose(found[1:], found[0], constraints=[Constraint.parse("complied>=1")]))[0]
    grids = [Grid(NONE), Grid("selective", partial(ls.selective_steering, calibration), (0.0, 90.0))]
    assert chosen_grids(grids, {NONE: choose(found[:1], found[0]), "selective": choice})[1].values == (90.0,)
    evaluation = Evaluation(tuple(found), {"selective": choice}, (found[0], found[2]), tuple(rows))
    text, frame = checked(evaluation)
    assert len(frame) == 2
    compared = Comparison(
        evaluation, {}, (), 0.1, {}, (replace(found[2], condition="selective = KL"),), {}, wilson(1, 4), calibration, made(), 0, (1.0, 2.0), True, "complied", (), {},
    )  # fmt: skip
    assert checked(compared)[1].index.get_level_values("condition").tolist() == [NONE, "selective", "selective = KL"]
    trait = TraitResult(
        tuple(found), {"selective": choice}, {}, Constraint.parse("broken_harmful<=0.1"), None, (found[0], found[2]), tuple(rows)
    )
    assert "broken_harmful ≤ 0.1" in checked(trait)[0]
    _, frame = checked(Outcome("steering plane", 90.0, "positive", {"correct": 3, "refusal": 1}))
    assert frame.xs("correct", level="grade")["rate"].tolist() == [0.75]
    text, frame = checked(wilson(9, 10))
    assert frame.loc[0].tolist() == [0.9, *frame.loc[0, ["low", "high"]], 10]
    assert "0.900 [0.596, 0.982]" in text
    assert checked(type(found)())[1].empty
    assert checked(Rows())[1].empty


def test_what_comes_from_outside_is_escaped(calibration: Any) -> None:
    """Prompts, answers, names and tokens with markup in them: :func:`tests.views.read` refuses any tag that is not a table's, and the text stands there as it was."""
    tag = "<script>alert(1)</script>"
    prompt = Prompt(({"role": "system", "content": EVIL}, {"role": "user", "content": EVIL}), EVIL, None, EVIL)
    prompts = PromptSet((prompt, prompt), EVIL)
    row = {**rows_of()[0], "text": EVIL, "grade": EVIL, "condition": EVIL}
    one = settings([row])
    results: list[Shown] = [
        prompt, prompts, Contrast(prompts, prompts), ContrastSet(EVIL, Split(*[Contrast(prompts, prompts)] * 3)), ls.Dialogue((EVIL, EVIL), system=EVIL),
        made(model=EVIL), replace(calibration, model=EVIL, rule=EVIL), replace(ls.selective_steering(calibration, 9), model=EVIL, positions=EVIL), Rows([row]), one, one[0],
        Claim(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, 1, EVIL, None, {EVIL: EVIL}), Drawing(EVIL, {"text": [EVIL]}, {EVIL: 1}),
        Outcome(EVIL, None, "positive", {EVIL: 1}), Certificate(EVIL, EVIL, {}, (), ({"site": EVIL},), EVIL, 1, 1, 1, 0.0, 1.0, 0.0, 1.0, 1.0, None, "float32", EVIL, 1e-5, {}),
    ]  # fmt: skip
    for result in results:
        text, _ = read(result)
        assert tag in text, type(result).__name__
    seen = Monitor(ls.boundary(calibration), "below", _Tokenizer())
    ids, every = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    seen.add(object(), torch.tensor([0]), torch.arange(2)[None], every, ids, torch.tensor([[0.5, float("nan")]]), every, every)
    assert tag in read(seen)[0]
    assert "1 more character" not in read(seen)[0]


class _Tokenizer:
    def decode(self, ids: list[int]) -> str:
        return EVIL


def test_what_html_cannot_hold() -> None:
    """Control characters and half a surrogate pair stand as a mark; a long text is cut with a count; the notebook gets UTF-8."""
    shown = ls.PromptSet((Prompt.of("a\x00b\ud800c" + "x" * 500),))._repr_html_()
    assert "a�b?c" in shown
    assert "(+305 characters)" in shown
    shown.encode()
    assert html.shown(list(range(30))).endswith(", … (30)")
    assert html.facts({}) == html.facts({"a": None, "b": ""}) == ""
    assert html.shown(float("nan")) == "—"
    assert html.spread(50, 3) == [0, 24, 49]


def test_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table says what to install; a view needs no pandas."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LensSteerError, match=r"to_pandas\(\) needs pandas, which is not installed here: pip install pandas"):
        made().to_pandas()
    assert "Activations(" in made()._repr_html_()


def test_every_result_has_a_table_and_a_view() -> None:
    """Each type that says it is shown is registered where it says, and its module is loaded only then."""
    code = """if True:
        import sys
        import lens_steer.verify, lens_steer.comparison, lens_steer.externalities.study, lens_steer.traits.report, lens_steer.interop.certificate, lens_steer.monitoring
        import lens_steer.geometry.direction_comparison
        print(sorted(m for m in sys.modules if m.startswith("lens_steer.views.") or m == "pandas" and "datasets" not in sys.modules))
        from importlib import import_module
        from lens_steer.shown import Shown
        def every(cls):
            for sub in cls.__subclasses__():
                yield sub
                yield from every(sub)
        found = list(every(Shown))
        for cls in found:
            import_module(f"lens_steer.views.{cls._view}")
        from lens_steer.views.pieces import table_of
        plain = table_of.dispatch(object)
        print(len(found), [cls.__name__ for cls in found if table_of.dispatch(cls) is plain])
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0] == "[]"
    n, missing = out[1].split(" ", 1)
    assert int(n) >= 35
    assert missing == "[]"


def test_tables_by_hand() -> None:
    """Rows that lack a column have nothing there; a table without rows keeps its columns; units go behind names."""
    frame = Table.of([{"a": 1, "kl": 0.5}, {"a": 2, "angle_low": 3.0}], "a").frame()
    assert frame.columns.tolist() == ["kl_nats", "angle_degrees_low"]
    assert frame["kl_nats"].isna().tolist() == [False, True]
    block = Table({"x": ["u", "v"], "y": [1, 2]}, ("x", "y"), np.eye(2)).frame()
    assert isinstance(block.index, pd.MultiIndex)
    assert block.loc[("v", 2)].tolist() == [0, 1]
    assert len(Table({})) == 0


def test_estimates_of_every_kind_are_shown() -> None:
    """Whatever function made an estimate, it has the same table."""
    values = np.array([0.0, 1.0, 2.0, 5.0])
    for e in (
        bootstrap_mean(values, resamples=50),
        auroc(values, values - 1),
        grouped_mean(values, ["a", "a", "b", "b"], resamples=50),
        Estimate(1.0, 0.0, 2.0, 3),
    ):
        assert checked(e)[1].columns.tolist() == ["value", "low", "high", "n"]


def test_a_random_plane_is_shown_as_steered(calibration: Any) -> None:
    """A plan with a basis of its own shows no vectors."""
    plan = ls.selective_steering(calibration, 9, basis=random_plane(calibration.d_model, seed=0))
    text, frame = checked(plan)
    assert "tensor" not in text
    assert "basis" not in frame
