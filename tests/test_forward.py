"""Functions at sites, and one forward over batches: what they are given, what they leave behind, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.inference.attach import at_input, attached
from lens_steer.inference.engines import on_engine
from lens_steer.inference.forward import batches_of, check_room, forward, last_logits, logits_on, read_sites
from lens_steer.operators.rotation import selective_rotation
from tests.test_hooks import hook_count
from tests.test_parity import PROMPTS, hf_sites, relative

ENGINES = pytest.mark.parametrize("engine", ["tl", "hf"])
SITES = ("blocks.1.hook_resid_pre", "blocks.1.ln1.hook_out", "blocks.2.hook_resid_mid")


def hooks_of(*models: Any) -> int:
    """How many hooks there are of PyTorch's own, after a forward (a TransformerBridge adds some of its own on its
    first).
    """
    with torch.inference_mode():
        for model in models:
            model(torch.arange(4)[None])
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for model in models for m in model.modules())


def ids_of(model: Any, prompt: Prompt) -> torch.Tensor:
    return torch.tensor([batching.encode(model.lens_info.tokenizer, prompt)])


@ENGINES
def test_functions_act_in_order_and_are_taken_away(tiny: Any, engine: str) -> None:
    """The second sees what the first wrote; one that returns None changes nothing; afterwards the model is as it
    was.
    """
    ids, site, seen = ids_of(tiny, PROMPTS[0]), "blocks.1.hook_resid_pre", []
    with on_engine(tiny, engine) as runner, torch.inference_mode():
        count, plain = hooks_of(tiny, runner), runner(ids)
        with attached(runner, [(site, lambda h, hook: seen.append(h.clone()))], reads=True) as handles:
            read = runner(ids)
        doubling = [(site, lambda h, hook: 2 * h), (site, lambda h, hook: seen.append(h.clone()))]
        with attached(runner, doubling) as both:
            runner(ids)
        logits = [x if engine == "tl" else x.logits for x in (plain, read, runner(ids))]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert torch.equal(seen[1], 2 * seen[0])
    assert (len(handles), len(both)) == (1, 2) and hooks_of(tiny, runner) == count


@ENGINES
@pytest.mark.parametrize("site", ["blocks.1.hook_resid_post", "blocks.2.ln1.hook_out", "blocks.2.hook_resid_pre"])
def test_what_a_function_returns_takes_the_place(tiny: Any, twin: Any, engine: str, site: str) -> None:
    """The logits are those of plain Hugging Face hooks that write the same."""
    ids, model = ids_of(tiny, PROMPTS[0]), tiny if engine == "tl" else ls.hf_twin(tiny)
    module = twin.model.layers[2].input_layernorm if "ln1" in site else twin.model.layers[1]
    handle = module.register_forward_hook(lambda m, a, out: (-out[0], *out[1:]) if isinstance(out, tuple) else -out)
    with torch.inference_mode():
        wanted = twin(ids).logits
        handle.remove()
        with attached(model, [(site, lambda h, hook: -h)]):
            found = model(ids)
    assert relative(found if engine == "tl" else found.logits, wanted) < 1e-4


def test_only_its_own_are_taken_away(tiny: Any) -> None:
    """After an exception too, and whatever else was attached before or inside."""
    seen: list[int] = []
    tiny.add_hook(SITES[0], lambda h, hook: seen.append(1))
    with pytest.raises(KeyboardInterrupt), attached(tiny, [(SITES[0], lambda h, hook: None)], reads=True):
        tiny.add_hook(SITES[0], lambda h, hook: seen.append(2))
        raise KeyboardInterrupt
    with torch.inference_mode():
        tiny(ids_of(tiny, PROMPTS[1]))
    assert seen == [1, 2] and hook_count(tiny) == 2
    tiny.reset_hooks()


def test_a_function_that_cannot_be_attached(tiny: Any) -> None:
    """Said with the mend, and those that came before it are taken away."""
    twin = ls.hf_twin(tiny)
    count = hooks_of(tiny, twin)
    zero = (SITES[0], lambda h, hook: 0 * h)
    with pytest.raises(LensSteerError, match=r"the model has no hook point 'blocks.9.hook_resid_pre': load it with"):
        attached(tiny, [zero, ("blocks.9.hook_resid_pre", zero[1])]).__enter__()
    with pytest.raises(
        LensSteerError, match=r"'blocks.2.hook_resid_mid' cannot be written by engine='hf'.*use engine='tl'"
    ):
        attached(twin, [zero, (SITES[2], zero[1])]).__enter__()
    assert hooks_of(tiny, twin) == count and hook_count(tiny) == 0


def test_a_modules_input() -> None:
    """Given by name or by position it is read and replaced, in front of what is there with ``prepend``."""
    seen: list[float] = []
    block = torch.nn.Module()
    block.forward = lambda hidden_states: hidden_states + 1  # type: ignore[method-assign]
    later = at_input(block, lambda h, hook: seen.append(float(h)))
    first = at_input(block, lambda h, hook: 10 * h, prepend=True)
    assert float(block(torch.tensor(2.0))) == float(block(hidden_states=torch.tensor(2.0))) == 21
    assert seen == [20, 20]
    first.remove()
    later.remove()
    assert float(block(torch.tensor(2.0))) == 3


@ENGINES
def test_sites_are_read_batch_by_batch(tiny: Any, twin: Any, engine: str) -> None:
    """Every prompt once, each as Hugging Face has it alone; nothing stays attached, and no gradient is kept."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    runner, told = ls.hf_twin(tiny) if engine == "hf" else tiny, []
    count = hooks_of(tiny, runner)

    class Bar:
        def update(self, n: int) -> None:
            told.append(n)

    def readers(batch: batching.Batch) -> dict[str, Any]:
        def read(h: torch.Tensor, hook: Any, *, name: str) -> None:
            assert not h.requires_grad
            for i, row in enumerate(batch.rows):
                found.setdefault(row, {})[name] = h[i, batch.mask[i].bool()]

        return {name: lambda h, hook, name=name: read(h, hook, name=name) for name in SITES}

    read_sites(tiny, PROMPTS, readers, engine=engine, bar=Bar())
    assert sorted(found) == list(range(len(PROMPTS))) and sum(told) == len(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = hf_sites(twin, ids_of(tiny, prompt), SITES, tiny.lens_info.layout)
        assert all(relative(found[row][name], alone[name][0]) < 1e-4 for name in SITES)
    assert hooks_of(tiny, runner) == count and hook_count(tiny) == 0


@ENGINES
def test_a_reader_that_raises_leaves_nothing(tiny: Any, engine: str) -> None:
    """Neither at the sites nor before the block where the forward would have ended."""
    with on_engine(tiny, engine) as runner:
        count, batch = hooks_of(tiny, runner), next(batches_of(runner, PROMPTS))

        def broken(h: torch.Tensor, hook: Any) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            forward(runner, batch, {SITES[0]: broken})
        assert hooks_of(tiny, runner) == count


@ENGINES
def test_last_logits(tiny: Any, twin: Any, engine: str) -> None:
    """Those of each prompt alone, unpadded, at its last tokens."""
    for batch in batches_of(tiny, PROMPTS, max_rows=3):
        found = logits_on(tiny, batch, 2, engine)
        assert found.shape[1] == 2 and not found.requires_grad
        for i, row in enumerate(batch.rows):
            with torch.inference_mode():
                alone = twin(ids_of(tiny, PROMPTS[row])).logits[0, -2:]
            assert relative(found[i], alone) < 1e-4


@ENGINES
def test_a_forward_knows_its_positions(tiny: Any, tiny_calibration: Any, twin: Any, engine: str) -> None:
    """A plan for each prompt's last token acts there in a padded batch, without anything said by the caller."""
    site, basis = "blocks.1.hook_resid_post", random_plane(48, seed=3)
    plan = ls.selective_steering(tiny_calibration, 130, at=[site], basis=basis, positions="prompt[-1]")

    def rotate(module: Any, args: Any, output: Any) -> Any:
        h = (output[0] if isinstance(output, tuple) else output).clone()
        h[:, -1] = selective_rotation(h[:, -1], basis, 130)
        return (h, *output[1:]) if isinstance(output, tuple) else h

    batch = next(batches_of(tiny, PROMPTS))
    with ls.steering(tiny, plan), on_engine(tiny, engine) as runner:
        found = last_logits(runner, batch, 1)
    handle = twin.model.layers[1].register_forward_hook(rotate)
    with torch.inference_mode():
        alone = [twin(ids_of(tiny, PROMPTS[row])).logits[0, -1] for row in batch.rows]
    handle.remove()
    assert relative(found[:, 0], torch.stack(alone)) < 1e-4


def test_which_tokens_are_a_responses(tiny: Any) -> None:
    """As many as the tokenizer makes of each response, at the right end."""
    tokenizer, responses = tiny.lens_info.tokenizer, ("Sure. Take the hammer.", "", "No.")
    prompts = [Prompt(p.messages, r) for p, r in zip(PROMPTS, responses, strict=False)]
    (batch,) = batches_of(tiny, prompts, with_response=True)
    for i, row in enumerate(batch.rows):
        own = tokenizer(responses[row], add_special_tokens=False)["input_ids"]
        assert batch.ids[i, batch.in_response[i]].tolist() == own


def test_what_makes_no_batch(tiny: Any, tiny_calibration: Any) -> None:
    """Refused before the first batch, with the value and the mend."""
    with pytest.raises(LensSteerError, match=r"prompt 1 .* more than the model's context of 128: shorten it"):
        batches_of(tiny, [Prompt.of("Hi"), Prompt.of("word " * 200)])
    for ask in (batches_of, check_room):
        with pytest.raises(LensSteerError, match=r"prompt 0 .* needs \d+ tokens with its answer"):
            ask(tiny, [Prompt.of("Hi")], max_new_tokens=128)
    plan = ls.selective_steering(tiny_calibration, [10.0, 20.0], at="norm_out")
    with (
        ls.steering(tiny, plan, tell=False),
        pytest.raises(LensSteerError, match="has a value for each of 2 prompts, and 4 are given: give as many"),
    ):
        batches_of(tiny, PROMPTS)
    with pytest.raises(LensSteerError, match="engine='other': use one of tl, hf"):
        read_sites(tiny, PROMPTS, lambda batch: {}, engine="other")
