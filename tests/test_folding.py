"""Folding: every step either goes into the weights exactly, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.interop.exports.affine import affine_map, not_affine
from lens_steer.interop.exports.folding import Folded, fold
from lens_steer.interop.exports.layers import Layers
from lens_steer.interop.exports.merged import merged_model
from lens_steer.models import sites
from lens_steer.models.loading import hf_twin
from lens_steer.operators.affine import AffineMap
from lens_steer.operators.catalogue import OPERATORS, bind
from lens_steer.steer.plans import SteeringPlan, Step
from tests.test_parity import PROMPTS

D = 48
PLANE, OTHER = random_plane(D, seed=3), random_plane(D, seed=5)
VECTOR = 0.7 * OTHER[1]
AFFINE: dict[str, dict[str, Any]] = {
    "selective": {"basis": PLANE, "angle": 130.0},
    "mean_phase": {"basis": PLANE, "angle": 130.0, "mean_phase": 17.0},
    "ablate": {"direction": VECTOR},
    "clamp": {"direction": VECTOR, "target": 2.0},
    "add": {"direction": VECTOR, "coefficient": -1.5},
}
GEMMAS = ("gemma2", "gemma3_text")  # what attention and MLP write goes through a norm
TURN, ABLATE, ADD = ("selective", AFFINE["selective"]), ("ablate", AFFINE["ablate"]), ("add", AFFINE["add"])


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Any:
    """A tiny random model of each family, on the backend that there is."""
    return ls.load_model(tiny_folder)


def plan_of(model: Any, *steps: tuple[str, str, dict[str, Any]], positions: str = "all") -> SteeringPlan:
    """A plan from operator, sites and parameters of each step."""
    info = model.lens_info
    made = [Step(name, sites.resolve(where, info.layout), parameters) for name, where, parameters in steps]
    return SteeringPlan("made", tuple(made), positions, info.name, info.architecture, info.n_layers, info.d_model)


def difference(model: Any, found: Folded) -> tuple[float, float]:
    """Largest logit difference between the hooked model and the changed weights, over the largest logit; and what the
    plan does, likewise.
    """
    changed, twin, worst, effect, largest = merged_model(found, model), hf_twin(model), 0.0, 0.0, 0.0
    through = model if any(sites.parse(n).kind == "resid_mid" for n in found.plan.sites) else twin
    for batch in batching.batches(model.lens_info.tokenizer, PROMPTS, n_ctx=128, max_rows=2):
        at = {"attention_mask": batch.mask, "position_ids": (batch.mask.cumsum(dim=1) - 1).clamp_min(0)}
        with torch.inference_mode():
            with ls.steering(through, found.plan):
                hooked = (
                    twin(batch.ids, **at).logits if through is twin else model(batch.ids, attention_mask=batch.mask)
                )
            ours, without = changed(batch.ids, **at).logits, twin(batch.ids, **at).logits
        real = batch.mask.bool()
        worst = max(worst, float((hooked - ours)[real].abs().max()))
        effect, largest = (
            max(effect, float((hooked - without)[real].abs().max())),
            max(largest, float(hooked[real].abs().max())),
        )
    return worst / largest, effect / largest


def test_every_operator_is_affine_or_says_why_not() -> None:
    """Nothing in the catalogue is forgotten."""
    assert {name for name, o in OPERATORS.items() if callable(o.affine)} == set(AFFINE)
    reasons = {name: o.affine for name, o in OPERATORS.items() if isinstance(o.affine, str)}
    assert set(AFFINE) | set(reasons) == set(OPERATORS)
    for name in reasons:
        with pytest.raises(LensSteerError, match=f"operator '{name}' .*: it is no affine map"):
            affine_map(name, {})
    by_row = {"basis": PLANE, "angle": torch.tensor([0.0, 90.0])}
    assert "a value of angle for each of 2 prompts" in str(not_affine("selective", by_row))


@given(st.sampled_from(sorted(AFFINE)), st.floats(-720, 720), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_a_map_is_its_operator(name: str, number: float, seed: int) -> None:
    """On random vectors in float64, at any angle, coefficient or target."""
    parameter = OPERATORS[name].by_row
    parameters = {**AFFINE[name], **({parameter: number} if parameter else {})}
    h = torch.randn(5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert (affine_map(name, parameters)(h) - bind(name, parameters, h)(h)).abs().max() < 1e-6 * max(1.0, abs(number))


def test_maps_compose_invert_and_rescale() -> None:
    """As the functions that they are; what is left out by compression is nothing."""
    h = torch.randn(5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turn, clamp = affine_map(*TURN), affine_map("clamp", AFFINE["clamp"])
    both = turn.then(clamp).then(affine_map("selective", {"basis": OTHER, "angle": 40.0}))
    assert (both(h) - affine_map("selective", {"basis": OTHER, "angle": 40.0})(clamp(turn(h)))).abs().max() < 1e-12
    assert (turn.inverse()(turn(h)) - h).abs().max() < 1e-7  # the plane is float32's
    gain = torch.linspace(0.5, 2, D, dtype=torch.float64)
    assert (turn.rescaled(gain)(gain * h) - gain * turn(h)).abs().max() < 1e-12
    assert (both.compressed()(h) - both(h)).abs().max() < 1e-12
    unit = (VECTOR / VECTOR.norm()).double()
    assert affine_map(*ABLATE).annihilates(unit)
    assert not clamp.annihilates(unit)
    assert not AffineMap.identity(D).annihilates(unit)


@pytest.mark.parametrize("name", sorted(AFFINE))
@pytest.mark.parametrize("kind", ["ln1", "ln2", "attn_out", "mlp_out"])
def test_a_layer_with_its_factor_is_the_operator_and_the_layer(plain: Any, kind: str, name: str) -> None:
    """``(W + BA)x + b + bias`` against W of the operator's result (readers), or the operator of W's (writers)."""
    architecture = plain.lens_info.architecture
    site = sites.Site(1, kind)
    plan = plan_of(plain, (name, site.name, AFFINE[name]))
    if architecture in GEMMAS and not site.is_norm:
        with pytest.raises(
            LensSteerError, match=f"operator '{name}' acts on what '{architecture}' writes through a norm"
        ):
            fold(plan, plain)
        return
    found, twin = fold(plan, plain), hf_twin(plain)
    layers = Layers(twin, architecture, "lora")
    assert set(found.factors) == set(layers.readers(site) or [layers.writer(site)])
    for module, factor in found.factors.items():
        weight, bias = layers.weight(module), layers.bias(module)
        x = torch.randn(7, weight.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        function = bind(name, AFFINE[name], torch.zeros(D, dtype=torch.float64))

        def layer(z: torch.Tensor, w: torch.Tensor = weight, b: torch.Tensor | None = bias) -> torch.Tensor:
            return z @ w.T + (0 if b is None else b)

        wanted = layer(function(x)) if site.is_norm else function(layer(x))
        changed = layer(x, weight + factor.b @ factor.a) + (0 if factor.bias is None else factor.bias)
        assert (changed - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("angle", [0.0, 360.0, -720.0])
def test_the_identity_angle_has_zero_factors(plain: Any, angle: float) -> None:
    """Exactly, not to rounding."""
    found = fold(plan_of(plain, ("selective", "norm_out", {"basis": PLANE, "angle": angle})), plain, partial=True)
    assert found.factors
    assert all(not f.b.any() and f.bias is None for f in found.factors.values())


EXACT = {
    "rotation": (("selective", "ln1,ln2", AFFINE["selective"]),),
    "mean phase": (("mean_phase", "ln1", AFFINE["mean_phase"]),),
    "two planes": (
        ("selective", "ln1", AFFINE["selective"]),
        ("selective", "ln1,ln2", {"basis": OTHER, "angle": 300.0}),
    ),
    "ablation": (("ablate", "ln1,ln2", AFFINE["ablate"]),),
    "clamp": (("clamp", "blocks.2.ln1.hook_out", AFFINE["clamp"]),),
}
EXACT_WITHOUT_NORMS_BETWEEN = {
    "branches": (("selective", "attn_out,mlp_out", AFFINE["selective"]),),
    "ablation everywhere": (("ablate", "resid_pre,attn_out,mlp_out", AFFINE["ablate"]),),
    "stream": (("selective", "resid_post", {"basis": PLANE, "angle": 40.0}), ("ablate", "ln2", AFFINE["ablate"])),
    "stream twice": (
        ("selective", "resid_pre,resid_mid", {"basis": PLANE, "angle": 40.0}),
        ("selective", "attn_out", {"basis": OTHER, "angle": 70.0}),
    ),
}
CONSTANTS = {
    "constants": (("add", "resid_pre,resid_mid,resid_post,attn_out,ln2", AFFINE["add"]),),
    "constants in a turned stream": (
        ("selective", "resid_mid", AFFINE["selective"]),
        ("add", "resid_mid,mlp_out", AFFINE["add"]),
    ),
}


@pytest.mark.parametrize("case", [*EXACT, *EXACT_WITHOUT_NORMS_BETWEEN, *CONSTANTS])
def test_weights_do_what_hooks_do(plain: Any, case: str) -> None:
    """Logits to rounding (relative to the largest), where the plan moves them a lot."""
    architecture = plain.lens_info.architecture
    plan = plan_of(plain, *(EXACT | EXACT_WITHOUT_NORMS_BETWEEN | CONSTANTS)[case])
    without_bias = architecture in ("qwen2", "qwen3", "mistral") and case in CONSTANTS
    if (
        (architecture in GEMMAS and case not in EXACT)
        or without_bias
        or (architecture == "mistral" and case == "clamp")
    ):
        with pytest.raises(LensSteerError, match="writes through a norm" if architecture in GEMMAS else "has no bias"):
            fold(plan, plain, into="merged")
        return
    found = fold(plan, plain, into="merged")
    assert not found.refused
    off, effect = difference(plain, found)
    assert off < 5e-6
    assert effect > 0.05


def test_the_first_blocks_input_goes_into_the_embedding(plain: Any) -> None:
    """Of every family, constants too, with the embedding's own scale; the model itself is left as it was."""
    before = [p.clone() for p in hf_twin(plain).parameters()]
    found = fold(plan_of(plain, ("clamp", "blocks.0.hook_resid_pre", AFFINE["clamp"])), plain, into="merged")
    assert list(found.factors) == ["model.embed_tokens"]
    assert difference(plain, found)[0] < 5e-6
    assert all(torch.equal(a, b) for a, b in zip(before, hf_twin(plain).parameters(), strict=True))
    with pytest.raises(LensSteerError, match="folded into='lora': fold it into='merged'"):
        merged_model(fold(plan_of(plain, ("ablate", "ln1", AFFINE["ablate"])), plain), plain)


REFUSED = [
    (
        ("standard", "ln1", AFFINE["selective"]),
        "lora",
        "operator 'standard' puts every token on one ray.*: steer with hooks",
    ),
    (("adaptive", "ln1", AFFINE["selective"]), "lora", "'adaptive' acts behind a gate"),
    (
        ("phase_collapse", "ln1", {"basis": PLANE, "mean_phase": 3.0}),
        "lora",
        "'phase_collapse' puts every token on one ray",
    ),
    (("add_keep_norm", "ln1", AFFINE["add"]), "lora", "'add_keep_norm' scales each token back"),
    (("target", "ln2", {"direction": VECTOR, "threshold": 0.0, "target": 1.0}), "lora", "'target' acts behind a gate"),
    (("mirror", "ln2", {"direction": VECTOR, "threshold": 0.0}), "lora", "'mirror' acts behind a gate"),
    (
        ("selective", "ln1", {"basis": PLANE, "angle": torch.tensor([1.0, 2.0])}),
        "lora",
        "a value of angle for each of 2 prompts",
    ),
    (
        ("ablate", "resid_post", AFFINE["ablate"]),
        "merged",
        "the stream, which holds the direction|writes through a norm",
    ),
    (("clamp", "resid_post", AFFINE["clamp"]), "lora", "changes the length of the stream|writes through a norm"),
    (("ablate", "blocks.0.hook_resid_pre", AFFINE["ablate"]), "lora", "an adapter leaves as it is: export merged"),
    (
        ("selective", "resid_post", {"basis": 2 * PLANE, "angle": 9.0}),
        "lora",
        "changes the length of the stream|writes through a norm",
    ),
]


@pytest.mark.parametrize(("step", "into", "message"), REFUSED)
def test_what_does_not_fold_is_refused(plain: Any, step: Any, into: str, message: str) -> None:
    """With the operator, the first site, how many more, and the reason."""
    with pytest.raises(
        LensSteerError, match=f"does not fold at {step[1] if '.' in step[1] else 'blocks.0'}.*({message})"
    ):
        fold(plan_of(plain, step), plain, into=into)


def test_refusals_by_family(plain: Any) -> None:
    """Norms after attention and MLP (Gemma-2 and 3), biases that a family lacks."""
    architecture = plain.lens_info.architecture
    constant = plan_of(plain, ("add", "ln2", AFFINE["add"]))
    assert all(f.bias is not None for f in fold(constant, plain).factors.values())
    if architecture != "llama":
        with pytest.raises(LensSteerError, match=r"layers\.0\.mlp\.gate_proj of '\w+' has no bias: export an adapter"):
            fold(constant, plain, into="merged")
    if architecture in GEMMAS:
        with pytest.raises(LensSteerError, match="acts on a norm's output that goes into the stream: a sum"):
            fold(plan_of(plain, ("selective", "ln1_post,ln2_post", AFFINE["selective"])), plain)
        with pytest.raises(LensSteerError, match=r"resid_pre and 2 more.*writes through a norm.*exports the other"):
            fold(plan_of(plain, ("selective", "resid_pre,ln1", AFFINE["selective"])), plain, into="merged")


def test_positions(plain: Any) -> None:
    """A phase-limited plan folds nowhere, and partial does not change that."""
    plan = plan_of(plain, ("selective", "ln1", AFFINE["selective"]), positions="generated[:5]")
    for partial in (False, True):
        with pytest.raises(LensSteerError, match=r"acts at the positions 'generated\[:5\]' only.*: steer with hooks"):
            fold(plan, plain, partial=partial)


def test_partial(plain: Any) -> None:
    """What folds is exactly what the smaller plan is; what was left out is told, one entry a site and step."""
    steps = [("selective", "ln1,ln2", AFFINE["selective"]), ("standard", "ln1", AFFINE["selective"])]
    plan = plan_of(plain, *steps)
    with pytest.raises(
        LensSteerError, match=r"at blocks.0.ln1.hook_out and 3 more sites: .*\(partial=True exports the other 8 sites\)"
    ):
        fold(plan, plain)
    found = fold(plan, plain, partial=True)
    assert found.plan == plan_of(plain, steps[0])
    assert {(r.site, r.operator) for r in found.refused} == {(f"blocks.{b}.ln1.hook_out", "standard") for b in range(4)}
    alone = fold(found.plan, plain)
    assert all(torch.equal(found.factors[m].b, alone.factors[m].b) for m in alone.factors)
    assert found.gram_error == pytest.approx(0, abs=1e-6)


def test_an_ablation_of_the_stream_needs_it_to_be_clean(plain: Any) -> None:
    """It has nothing to do after one everywhere before, unless something else at the site, or before, puts the
    direction back.
    """
    if plain.lens_info.architecture != "llama":
        with pytest.raises(LensSteerError, match="writes through a norm|has no bias|holds the direction"):
            fold(plan_of(plain, ("add", "resid_mid", ADD[1]), ("ablate", "resid_mid", ABLATE[1])), plain, into="merged")
        return
    everywhere = ("ablate", "resid_pre,attn_out,mlp_out", ABLATE[1])
    for further in (
        [("add", "resid_mid", {"direction": VECTOR, "coefficient": 2.0}), ("ablate", "resid_mid", ABLATE[1])],
        [("selective", "resid_mid", TURN[1]), ("ablate", "resid_mid", ABLATE[1])],
        [("add", "mlp_out", {"direction": VECTOR, "coefficient": 2.0})],
    ):
        with pytest.raises(LensSteerError, match="the stream, which holds the direction"):
            fold(plan_of(plain, everywhere, *further), plain, into="merged")
    orthogonal = PLANE[0] - (PLANE[0] @ VECTOR) / (VECTOR @ VECTOR) * VECTOR
    clean = plan_of(
        plain,
        everywhere,
        ("add", "resid_mid", {"direction": orthogonal, "coefficient": 2.0}),
        ("ablate", "resid_mid", ABLATE[1]),
    )
    assert difference(plain, fold(clean, plain, into="merged"))[0] < 5e-6


def test_a_gain_is_what_the_norm_multiplies_by(plain: Any) -> None:
    """On Gemma-2 and 3 one more than the weight: from the norm's own output on a vector of length √d."""
    twin = hf_twin(plain)
    unit = torch.ones(1, 1, D)
    for name in ("model.layers.1.input_layernorm", "model.norm"):
        with torch.inference_mode():
            wanted = twin.get_submodule(name)(unit)[0, 0].double()
        assert (Layers(twin, plain.lens_info.architecture, "lora").gain(name) - wanted).abs().max() < 1e-5


def test_a_dead_gain_is_refused(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream cannot be turned after a norm that multiplies a coordinate by zero."""
    plan = plan_of(plain, ("selective", "resid_mid", AFFINE["selective"]))
    monkeypatch.setattr(Layers, "gain", lambda self, norm: torch.zeros(D, dtype=torch.float64))
    with pytest.raises(LensSteerError, match=r"model\.norm multiplies a coordinate by zero|writes through a norm"):
        fold(plan, plain)


def test_bad_input(plain: Any, qwen: Any, calibration: Any) -> None:
    """Another model's plan, a site that is not there, an unknown target, no sites, layers of another kind."""
    plan = plan_of(plain, ("selective", "ln1", AFFINE["selective"]))
    with pytest.raises(LensSteerError, match="was made on"):
        fold(ls.selective_steering(calibration, 30), plain)
    with pytest.raises(LensSteerError, match="into='gguf': use one of lora, merged"):
        fold(plan, plain, into="gguf")
    outside = SteeringPlan(
        "made",
        (Step("selective", ("blocks.9.ln1.hook_out",), AFFINE["selective"]),),
        "all",
        "m",
        plan.architecture,
        4,
        D,
    )
    with pytest.raises(LensSteerError, match=r"blocks\.9\.ln1.* does not exist in this model"):
        fold(outside, plain)
    empty = SteeringPlan("made", (), "all", "m", plan.architecture, 4, D)
    with pytest.raises(LensSteerError, match="matches no site"):
        fold(empty, plain)
    layers = Layers(hf_twin(plain), plan.architecture, "lora")
    with pytest.raises(LensSteerError, match="no layer 'model.layers.7.mlp.up_proj'"):
        layers.weight("model.layers.7.mlp.up_proj")
    with pytest.raises(LensSteerError, match=r"whose weight cannot be read here: load the unquantised checkpoint"):
        layers.weight("model.norm")
    with pytest.raises(LensSteerError, match="architecture 'gpt2' are not known"):
        Layers(None, "gpt2", "lora")
