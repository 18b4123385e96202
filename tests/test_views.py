"""Results in a notebook: tables against the arrays they are of, and views against what they must say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.geometry.calibration import calibrate
from lens_steer.geometry.direction_comparison import compare_directions
from lens_steer.geometry.planes import random_plane
from lens_steer.geometry.stability import stability
from lens_steer.geometry.summary import summarise
from lens_steer.organisms.tasks import Task
from lens_steer.probes.depth import probe_depth
from tests.made import origin
from tests.views import SITES, checked, made, read


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
    from lens_steer.inference.class_means import Moments

    rng = torch.Generator().manual_seed(0)
    means = [torch.randn(3, 5, generator=rng, dtype=torch.float64) for _ in range(4)]
    moments = Moments(SITES[:3], means[0], means[1], means[2], means[3], 9, 8, **origin())
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
        ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 4 plus 3?"}),
        "7.",
        task,
        "sums",
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
    """Boundary, probe, its result, a scan over sites, estimators, stability, resamples: rows where they say they
    are.
    """
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
    assert frame.loc["auroc", ["value", "n"]].tolist() == [
        scan.best.measured["auroc"].value,
        scan.best.measured["auroc"].n,
    ]
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
    """Divergence, monitor and effect log: rows are the objects' own, with units, and the text can be read off the
    view.
    """
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


def test_a_random_plane_is_shown_as_steered(calibration: Any) -> None:
    """A plan with a basis of its own shows no vectors."""
    plan = ls.selective_steering(calibration, 9, basis=random_plane(calibration.d_model, seed=0))
    text, frame = checked(plan)
    assert "tensor" not in text
    assert "basis" not in frame
