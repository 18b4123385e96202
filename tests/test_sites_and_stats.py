"""Names of sites; intervals."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

from lens_steer.errors import LensSteerError
from lens_steer.metrics.refusal import PHRASES, is_refusal
from lens_steer.models import sites
from lens_steer.models.layout import KNOWN, known_layout
from lens_steer.stats.differences import paired_difference
from lens_steer.stats.means import bootstrap, bootstrap_mean, bootstrap_means
from lens_steer.stats.rates import wilson
from lens_steer.stats.ties import middle_of_best


@pytest.mark.parametrize("architecture", list(KNOWN))
def test_names_parse_back_and_modules_too(architecture: str) -> None:
    """Every site of every family: name → site → name, and norm modules → site."""
    layout = known_layout(architecture, 3)
    names = sites.resolve(["resid_pre", "resid_mid", "resid_post", "norm_out"], layout)
    assert len(names) == len(set(names)) == 3 * (3 + len(layout.norms))
    orders = [sites.parse(n).order for n in names]
    assert orders == sorted(orders)
    for name in names:
        site = sites.parse(name)
        assert site.name == name
        if site.is_norm:
            assert sites.parse_module(site.module(layout), layout) == site


def test_groups() -> None:
    """What each stands for."""
    assert len(sites.resolve("norm_out", known_layout("gemma2", 2))) == 8
    assert len(sites.resolve("norm_out", known_layout("llama", 2))) == 4
    resid = sites.resolve("resid", known_layout("llama", 2))
    assert resid[0] == "blocks.0.hook_resid_pre"
    assert len(resid) == 5
    assert sites.resolve("resid_post, ln1", known_layout("llama", 1)) == (
        "blocks.0.ln1.hook_out",
        "blocks.0.hook_resid_post",
    )
    assert sites.blocks_of(["blocks.7.ln1.hook_out", "blocks.2.ln2.hook_out", "blocks.7.ln2.hook_out"]) == (2, 7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("attention", "'attention' is unknown"),
        ("blocks.9.ln1.hook_out", "does not exist in this model"),
        ("blocks.0.ln1_post.hook_out", "does not exist in this model"),
        ("ln2_post", "do not exist in this model, which has 4 blocks with resid_pre, ln1, attn_out, resid_mid, ln2"),
        ("blocks.0.ln1.hook_normalized", "is unknown"),
        ([], "names no site"),
        ("", "is unknown"),
    ],
)
def test_unknown_sites(spec: str | list[str], message: str) -> None:
    """Each named."""
    with pytest.raises(LensSteerError, match=message):
        sites.resolve(spec, known_layout("qwen2", 4))


def test_sites_without_a_module() -> None:
    """A norm that the family has not, a family that is not known, a module that is no norm."""
    qwen, gemma = known_layout("qwen2", 4), known_layout("gemma2", 1)
    assert sites.Site(0, "resid_mid").described(qwen) == "input of model.layers.0.post_attention_layernorm"
    assert sites.Site(0, "attn_out").described(gemma) == "output of model.layers.0.post_attention_layernorm"
    with pytest.raises(LensSteerError, match="block 0 has resid_pre, ln1, attn_out, resid_mid, ln2, mlp_out"):
        sites.Site(0, "ln1_post").module(qwen)
    with pytest.raises(LensSteerError, match="architecture 'mamba' is not known by name"):
        known_layout("mamba", 4)
    for module in ("model.layers.0.self_attn", "model.layers.4.input_layernorm"):
        with pytest.raises(LensSteerError, match="is not a norm of the model, whose blocks are model.layers.0 to 3"):
            sites.parse_module(module, qwen)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 7), (64, 64), (500, 1000)])
def test_wilson_solves_the_score_equation(successes: int, n: int) -> None:
    """At both ends of the interval |p̂ − p| is 1.96 standard errors of p, unless the end is 0 or 1."""
    found = wilson(successes, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert abs(found.value - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
def test_a_tie_is_broken_in_the_middle(n: int) -> None:
    """As many equals stand before the choice as after it, or one more; what is worse does not matter, wherever it
    stands.
    """
    scores = [*[0.0] * 3, *[2.0] * n, *[1.0] * 5]
    chosen, n_equal = middle_of_best(range(len(scores)), scores)
    before, after = chosen - 3, 3 + n - 1 - chosen
    assert n_equal == n
    assert before - after in (0, 1)


@pytest.mark.parametrize(("items", "scores"), [([], []), ([1, 2], [0.5])])
def test_a_choice_needs_one_score_an_item(items: list[int], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="one score an item is needed, at least one"):
        middle_of_best(items, scores)


def test_bootstrap_covers() -> None:
    """The interval holds the true mean in about 95 % of samples, and is the same for the same seed."""
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(200):
        found = bootstrap_mean(rng.normal(3.0, 1.0, 50), resamples=400, seed=i)
        inside += found.low <= 3.0 <= found.high
    assert 175 <= inside <= 200
    values = rng.normal(size=(30, 4, 2))
    first, second = bootstrap_means(values, seed=1), bootstrap_means(values, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (4, 2)
    assert not np.array_equal(first[1], bootstrap_means(values, seed=2)[1])


def test_bootstrap_of_a_statistic_agrees_with_that_of_the_mean() -> None:
    """Two ways to one interval."""
    values = np.random.default_rng(1).normal(size=80)
    a = bootstrap(lambda rows: float(values[rows].mean()), 80, resamples=3000)
    b = bootstrap_mean(values, resamples=3000)
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=0.03)


def test_an_estimate_in_a_format() -> None:
    """Each number in the format; without one, and in ``print``, three decimals with n; what floats do not take is
    refused as floats do.
    """
    e = wilson(9, 10)
    assert (f"{e:.1f}", f"{e:+.0%}", f"{e}") == ("0.9 [0.6, 1.0]", "+90% [+60%, +98%]", "0.900 [0.596, 0.982] (n = 10)")
    with pytest.raises(ValueError, match="Invalid format specifier|Unknown format code"):
        format(e, "d")


def test_bad_statistics_input() -> None:
    """No rows, no trials, values that are not finite."""
    with pytest.raises(ValueError, match="n=0"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="successes=5, n=3"):
        wilson(5, 3)
    with pytest.raises(ValueError, match="no rows"):
        bootstrap_means(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_means(np.array([[1.0], [np.nan]]))
    with pytest.raises(ValueError, match="n=0"):
        bootstrap(lambda rows: 0.0, 0)


def test_refusal_phrases() -> None:
    """Anywhere, in any case; the typographic apostrophe only when asked for; the published lists' lengths."""
    assert {name: len(phrases) for name, phrases in PHRASES.items()} == {
        "refusal_12": 12,
        "refusal_15": 15,
        "refusal_qi": 26,
    }
    assert is_refusal("Well. I CANNOT do that.")
    assert not is_refusal("Sure. 1. Take the hammer.")
    assert not is_refusal("I don't think so.")
    assert is_refusal("I don't think so.", "refusal_15")
    assert is_refusal("I\u2019m sorry", normalize=True)
    with pytest.raises(LensSteerError, match="phrases='mine'"):
        is_refusal("", "mine")


def test_importing_is_light() -> None:
    """``import lens_steer`` loads neither torch nor TransformerLens nor matplotlib nor scikit-learn."""
    code = (
        "import sys, lens_steer; print([m for m in ('torch','transformer_lens','matplotlib','sklearn') if m in "
        "sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_exists() -> None:
    """``__all__`` is what can be had, and nothing else is."""
    package = importlib.import_module("lens_steer")
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_paired_differences_cover() -> None:
    """Newcombe's interval holds the true difference about as often as it says, also far out and for correlated answers;
    a bootstrap serves what is not 0 or 1.
    """
    rng = np.random.default_rng(0)
    for level, p_both, p_first, p_second in ((0.95, 0.4, 0.2, 0.1), (0.99, 0.05, 0.1, 0.1), (0.95, 0.0, 0.05, 0.05)):
        drawn = rng.multinomial(1, [p_both, p_first, p_second, 1 - p_both - p_first - p_second], size=(1500, 64))
        first, second = (drawn[..., 0] + drawn[..., 1]).astype(float), (drawn[..., 0] + drawn[..., 2]).astype(float)
        found = [paired_difference(a, b, level=level) for a, b in zip(first, second, strict=True)]
        covered = np.mean([e.low <= p_first - p_second <= e.high for e in found])
        assert covered >= level - 0.01
        assert found[0].value == first[0].mean() - second[0].mean()
    alike = paired_difference(np.ones(64), np.ones(64))
    assert alike.low < alike.value == 0 < alike.high < 0.1
    a, b = np.arange(10.0), np.arange(10.0) + 1
    assert paired_difference(a, b).high == -1
    with pytest.raises(ValueError, match="0 and 0 values: the same units are needed in both, at least one"):
        paired_difference(np.ones(0), np.ones(0))
