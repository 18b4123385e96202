"""Models that are known by structure alone, through the whole library: recording, steering, answers, artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.compared import held
from lens_steer.evaluation.conditions import COMPARED
from lens_steer.inference import batching
from lens_steer.inference.continuations import continuation_logs
from lens_steer.inference.prompt_cache import PromptCache
from lens_steer.inference.record import record_prompts
from lens_steer.inference.teacher_forcing import first_logits, response_logits, with_responses
from lens_steer.interop.exports.lora import export_lora
from lens_steer.models import sites
from lens_steer.steer.value_sweep import logits_by_value
from tests.further import FURTHER, build_further
from tests.test_parity import PROMPTS, hf_sites, relative

ALWAYS = ("granite", "olmo2", "falcon", "qwen3_5_text")  # scaled, norms after, parallel and in place, a hybrid
EVERY = ["norm_out", "resid_pre", "attn_out", "mlp_out", "resid_post"]


@pytest.fixture(
    scope="module",
    params=[name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in FURTHER],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return ls.load_model(build_further(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def calibration(model: Any) -> Any:
    return ls.calibrate(ls.record(model, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), progress=False))


def ids_of(model: Any, prompt: Any) -> torch.Tensor:
    return torch.tensor([batching.encode(model.lens_info.tokenizer, prompt)])


def test_it_is_a_plain_model_with_a_proof(model: Any) -> None:
    """``auto`` takes a plain Hugging Face model; every check of its proof holds."""
    info = model.lens_info
    assert info.backend == "hf"
    assert info.own_layout == info.layout
    assert all(row.error < 1e-5 for row in model.lens_proof)
    assert type(model).__module__.startswith("transformers.")


def test_every_site_equals_plain_hooks(model: Any) -> None:
    """Recorded last-token activations of a padded batch equal plain hooks on single prompts, at every site."""
    layout = model.lens_info.layout
    names = sites.resolve([*EVERY, *(["resid_mid"] if any(b.middle for b in layout.blocks) else [])], layout)
    assert len(names) == len(set(names)) == sum(len(sites.kinds_of(block)) for block in layout.blocks)
    batched = record_prompts(model, PROMPTS, names)
    for row, prompt in enumerate(PROMPTS):
        wanted = hf_sites(model, ids_of(model, prompt), names, layout)
        for column, name in enumerate(names):
            assert relative(batched[row, column], wanted[name].reshape(1, -1, 48)[0, -1]) < 1e-4, name


@pytest.mark.parametrize("kind", EVERY)
def test_written_sites_equal_plain_hooks(model: Any, calibration: Any, kind: str) -> None:
    """An addition at all sites of a kind under ``steering``, in a padded batch, does what plain hooks do alone."""
    layout = model.lens_info.layout
    names = list(sites.resolve(kind, layout))
    plan = ls.act_add(calibration, 3.0, at=names, direction=calibration.candidates[-1])
    with ls.steering(model, plan):
        steered = first_logits(model, PROMPTS)
    plain = first_logits(model, PROMPTS)
    with written(model, plan), torch.inference_mode():
        by_hand = torch.stack([model(ids_of(model, prompt)).logits[0, -1] for prompt in PROMPTS])
    assert relative(steered, by_hand) < 1e-4
    assert relative(steered, plain) > 1e-3


@contextmanager
def written(model: Any, plan: Any) -> Iterator[None]:
    """Plain hooks with the operators of a plan."""
    with ExitStack() as stack:
        for name in plan.sites:
            site, act = sites.parse(name), plan.operator(name)  # which act on vectors, whatever stands before them
            module = model.get_submodule(site.module(model.lens_info.layout))
            if site.is_input:
                hook = module.register_forward_pre_hook(partial(change_input, act=act), with_kwargs=True)
            else:
                hook = module.register_forward_hook(partial(change_output, act=act))
            stack.callback(hook.remove)
        yield


def change_output(module: Any, args: Any, output: Any, *, act: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return (act(output[0]), *output[1:]) if isinstance(output, tuple) else act(output)


def change_input(module: Any, args: Any, kwargs: Any, *, act: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if args:
        return (act(args[0]), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": act(kwargs["hidden_states"])}


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "prompt[-1]+generated[:2]"])
def test_answers(model: Any, calibration: Any, positions: str) -> None:
    """Under a plan with a cache as without, and in a batch as alone."""
    plan = ls.selective_steering(calibration, 150, at="norm_out", positions=positions)
    with ls.steering(model, plan):
        cached = ls.generate(model, PROMPTS, max_new_tokens=6)
        assert ls.generate(model, PROMPTS, max_new_tokens=6, kv_cache=False) == cached
        assert [ls.generate(model, [prompt], max_new_tokens=6)[0] for prompt in PROMPTS] == cached


@pytest.mark.parametrize("method", ["selective_steering", "standard_angular", "adaptive_angular", "identity"])
def test_operators_reach_the_model(model: Any, calibration: Any, method: str) -> None:
    """Rotations change the logits; at the identity nothing changes, to the last bit."""
    name, value = ("selective_steering", 0) if method == "identity" else (method, 150)
    plain = first_logits(model, PROMPTS)
    with ls.steering(model, getattr(ls, name)(calibration, value, at="norm_out"), tell=False):
        steered = first_logits(model, PROMPTS)
    assert torch.equal(steered, plain) if method == "identity" else relative(steered, plain) > 1e-4


def test_divergence_equals_that_of_whole_logits(model: Any, calibration: Any) -> None:
    """Token by token, from the unembedding in slices, as from the logits that the model itself gives."""
    plan, responses = ls.selective_steering(calibration, 150, at="norm_out"), ["The sky is blue", "Five"]
    found = ls.token_divergence(model, plan, PROMPTS[:2], responses, slice_size=100)
    asked = with_responses(PROMPTS[:2], responses)
    plain = {row: logits.double().log_softmax(-1) for row, logits, _ in response_logits(model, asked)}
    with ls.steering(model, plan):
        steered = {row: logits.double().log_softmax(-1) for row, logits, _ in response_logits(model, asked)}
    wanted = torch.cat([(plain[r].exp() * (plain[r] - steered[r])).sum(-1)[: len(plain[r])] for r in sorted(plain)])
    assert torch.allclose(torch.as_tensor(found.kl).double(), wanted, rtol=1e-3, atol=1e-8)


def test_what_runs_a_cache_or_begins_at_a_block(model: Any, calibration: Any) -> None:
    """Values that are swept from the first steered block on, prompts that are read once, continuations: all equal to
    whole forwards.
    """
    layout = model.lens_info.layout
    name = sites.Site(len(layout.blocks) - 1, layout.blocks[-1].norms[-1]).name
    said = ["The sky is blue", "Five", "No", "It rains often here"]
    asked = with_responses(PROMPTS, said)
    whole = {row: logits for row, logits, _ in response_logits(model, asked)}
    for row, logits, _ in PromptCache(model).response_logits(PROMPTS, said):
        assert relative(logits, whole[row]) < 1e-4
    logs = continuation_logs(model, PROMPTS, [said])[0]
    ids = {row: ids for row, _, ids in response_logits(model, asked)}
    for row, logits in whole.items():
        wanted = logits.double().log_softmax(-1).gather(-1, ids[row][:, None]).sum()
        assert float(wanted) == pytest.approx(logs[row], rel=1e-4)

    def build(angle: Any) -> Any:
        return ls.selective_steering(calibration, angle, at=name)

    for row, value, logits, _ in logits_by_value(model, build, [90.0, 200.0], asked):
        if value is None:
            assert relative(logits, whole[row]) < 1e-4
            continue
        with ls.steering(model, build([90.0, 200.0][value])):
            steered = {r: x for r, x, _ in response_logits(model, asked)}
        assert relative(logits, steered[row]) < 1e-4


def test_dialogues(model: Any, calibration: Any) -> None:
    """The first turn is answered as a prompt by itself, the second one after it."""
    plan = ls.selective_steering(calibration, 150, at="norm_out")
    turns = ("What is 4 plus 3?", "Name a colour.")
    with ls.steering(model, plan):
        answers = ls.converse(model, ls.Dialogue(turns), max_new_tokens=4)[0]
        assert ls.generate(model, [turns[0]], max_new_tokens=4) == answers[:1]
    assert len(answers) == 2


def test_artifacts_keep_the_layout(model: Any, calibration: Any, tmp_path: Path) -> None:
    """Saved and loaded, a calibration, a plan and a recording know the sites of the model they were made on."""
    layout = model.lens_info.layout
    ls.save_calibration(calibration, tmp_path / "calibration")
    loaded = ls.load_calibration(tmp_path / "calibration")
    assert loaded.layout == layout
    plan = ls.selective_steering(loaded, 150, at="norm_out")
    ls.save_plan(plan, tmp_path / "plan")
    again = ls.load_plan(tmp_path / "plan")
    assert again == plan
    assert again.layout == layout
    assert again.describe()["tensors"][0]["module"].startswith(f"output of {layout.layers}.0.")
    recorded = ls.record(model, ls.Contrast(PROMPTS[:2], PROMPTS[2:]), progress=False)
    ls.save_recording(recorded, tmp_path / "recording")
    assert ls.load_recording(tmp_path / "recording").layout == layout
    probe = ls.fit_probe(recorded, recorded.sites[-1])
    ls.save_probe(probe, tmp_path / "probe")
    assert ls.load_probe(tmp_path / "probe", model).layout == layout
    assert len(again.to_pandas()) == len(again.sites)
    with ls.steering(model, again):
        assert len(ls.generate(model, PROMPTS[:1], max_new_tokens=2)) == 1


def test_other_backends_are_refused(model: Any) -> None:
    """In a line that names what is possible."""
    folder = model.lens_info.folder
    for backend in ("hooked", "bridge"):
        with pytest.raises(LensSteerError, match=f"backend='{backend}': .* has architecture .*: use backend='hf'"):
            ls.load_model(folder, backend=backend)


def test_angular_steering_as_published(model: Any, calibration: Any) -> None:
    """It writes at the norms before branches that there are; where there is none, methods that need one are told."""
    layout = model.lens_info.layout
    there = [kind for kind in ("ln1", "ln2") if kind in layout.norms]
    kept, lacking = held(COMPARED, layout)
    assert [*kept, *lacking].count("standard-everywhere") == 1
    assert ("standard-everywhere" in lacking) == (not there)
    assert "selective" in kept
    if there:
        plan = ls.standard_angular(calibration, 150, everywhere=True)
        assert set(plan.sites) == set(sites.resolve(there, layout))
    else:
        with pytest.raises(LensSteerError, match="norms before attention and MLP, and .* has none: name sites with at"):
            ls.standard_angular(calibration, 150, everywhere=True)


def test_adapters_are_refused(model: Any, calibration: Any, tmp_path: Path) -> None:
    """No weights are folded into layers that are not known, experts among them."""
    plan = ls.selective_steering(calibration, 150, at="norm_out")
    with pytest.raises(LensSteerError, match="the layers of architecture .* are not known"):
        export_lora(plan, model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
