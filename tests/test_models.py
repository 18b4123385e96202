"""Loading, rendering and recording: what is loaded is told, and bad input gets a message with the mend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.models.loading import info_of, usable_device
from lens_steer.models.location import ORGANISM_FOLDER

SYSTEM = Prompt.of("Hello", system="Be honest.")
TURNS = Prompt(
    (
        {"role": "system", "content": "Be honest."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    )
)


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
def test_organisms_load(family: str) -> None:
    """Each embedded model loads offline, unprocessed, and says what it is."""
    model = ls.load_model(f"organism/{family}")
    info = info_of(model)
    assert (info.architecture, info.weight_processing, info.dtype) == (family, "none", "float32")
    assert model.cfg.n_layers == 12
    assert 2.5e6 < sum(p.numel() for p in model.parameters()) < 4e6
    assert "blocks.11.ln2.hook_out" in model.hook_dict


def test_weights_are_small_and_in_half_precision() -> None:
    """At most 20 MB for all three, float16 on disk."""
    from safetensors import safe_open

    total = sum(p.stat().st_size for p in ORGANISM_FOLDER.rglob("*") if p.is_file())
    assert total <= 20e6
    for path in ORGANISM_FOLDER.glob("*/model.safetensors"):
        with safe_open(path, "pt") as file:
            assert {str(file.get_tensor(k).dtype) for k in file.keys()} == {"torch.float16"}  # noqa: SIM118


@pytest.mark.parametrize("prompt", [Prompt.of("Hi"), SYSTEM, TURNS])
def test_exactly_one_beginning_token(tiny: Any, prompt: Prompt) -> None:
    """One where the tokenizer has one, none where it has not; the text comes back from the ids."""
    tokenizer = tiny.lens_info.tokenizer
    ids = batching.encode(tokenizer, prompt)
    if tokenizer.bos_token_id is not None:
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
    text = tokenizer.decode(ids)
    assert all(message["content"] in text for message in prompt.messages)
    assert text == batching.render(tokenizer, prompt)


def test_a_template_without_system_role_gets_it_in_the_first_user_turn(qwen: Any) -> None:
    """As Gemma's own template, which raises for a system message."""

    class Strict:
        chat_template = "strict"

        def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
            if messages[0]["role"] == "system":
                raise ValueError("System role not supported")
            return "|".join(m["content"] for m in messages)

    assert batching.render(Strict(), TURNS) == "Be honest.\n\nOne|Two|Three"
    with pytest.raises(LensSteerError, match="template refuses"):
        batching.render(Strict(), Prompt(({"role": "system", "content": "alone"},)))


def test_model_without_chat_template(tiny_folder: Path, tmp_path: Path) -> None:
    """A clear choice: 'plain', a template, or a file with one."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_folder, bare)
    (bare / "chat_template.jinja").unlink()
    model = ls.load_model(bare)
    with pytest.raises(LensSteerError, match=r"no chat template.*chat_template='plain'"):
        ls.generate(model, ["Hi"])
    plain: Any = ls.load_model(bare, chat_template="plain")
    assert batching.render(plain.lens_info.tokenizer, Prompt.of("Hi")).endswith("User: Hi\nAssistant:")
    own: Any = ls.load_model(bare, chat_template="{{ messages[0]['content'] }} =>")
    assert batching.render(own.lens_info.tokenizer, Prompt.of("Hi")) == "Hi =>"
    with pytest.raises(LensSteerError, match="chat_template='nowhere.jinja'"):
        ls.load_model(bare, chat_template="nowhere.jinja")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("organism/nothing", r"organism/gemma2, organism/llama, organism/qwen2"),
        ("./nowhere", "does not exist"),
        ("no-such-model", "neither an embedded model .* nor a local folder"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    """What exists is listed, in one line."""
    with pytest.raises(LensSteerError, match=message) as error:
        ls.load_model(name)
    assert "\n" not in str(error.value)


def test_bad_folders_and_options(tmp_path: Path, tiny_folder: Path) -> None:
    """No config, a broken config, an unknown architecture, truncated weights, unknown dtype and backend."""
    with pytest.raises(LensSteerError, match="config.json is missing"):
        ls.load_model(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    (broken / "model.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(LensSteerError, match="weights in .* cannot be read"):
        ls.load_model(broken)
    (broken / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(LensSteerError, match=r"config.json cannot be read"):
        ls.load_model(broken)
    (broken / "config.json").write_text(json.dumps({"model_type": "bert", "is_decoder": True}), encoding="utf-8")
    with pytest.raises(LensSteerError, match="'bert': bert.encoder.layer.0 does not give its input plus what it adds"):
        ls.load_model(broken)
    with pytest.raises(LensSteerError, match="dtype='int8'"):
        ls.load_model(tiny_folder, dtype="int8")
    with pytest.raises(LensSteerError, match="device='cuda:99' cannot be used here"):
        ls.load_model(tiny_folder, device="cuda:99")
    with pytest.raises(LensSteerError, match="backend='jax'"):
        ls.load_model(tiny_folder, backend="jax")


def test_bad_recordings(qwen: Any) -> None:
    """One side empty, an unknown site, an unknown pooling, no response to pool, a prompt longer than the context."""
    some, none = PromptSet((Prompt.of("Hi"),), "some"), PromptSet((), "none")
    with pytest.raises(LensSteerError, match="negative side is empty"):
        ls.record(qwen, Contrast(some, none))
    with pytest.raises(LensSteerError, match="does not exist in this model"):
        ls.record(qwen, Contrast(some, some), ["blocks.99.hook_resid_post"])
    with pytest.raises(LensSteerError, match="needs a response for every prompt"):
        ls.record(qwen, Contrast(some, some), pooling="response", progress=False)
    long = PromptSet((Prompt.of("bridge " * 600),), "long")
    with pytest.raises(LensSteerError, match=r"prompt 0 .* context of 512: shorten it"):
        ls.record(qwen, Contrast(some, long), progress=False)


def test_activations_that_are_not_finite() -> None:
    """Named by prompt and site; never averaged over."""
    some = PromptSet((Prompt.of("Hi"),), "some")
    model = ls.load_model("organism/qwen2")  # one of its own: its weights are edited
    with torch.no_grad():
        next(model.blocks[3].ln1.parameters())[0] = float("nan")
    with pytest.raises(LensSteerError, match=r"blocks.3.ln1.hook_out are not finite"):
        ls.record(model, Contrast(some, some), engine="tl", progress=False)


def test_same_seed_same_bytes(qwen: Any, refusal: Any, calibration: Any) -> None:
    """Recording and calibrating again gives the same numbers to the bit."""
    again = ls.calibrate(ls.record(qwen, refusal, progress=False))
    assert torch.equal(again.candidates, calibration.candidates)
    assert torch.equal(again.basis, calibration.basis)
    assert again.prompt_hash == calibration.prompt_hash


def test_every_end_token_ends_an_answer(tiny_folder: Path, tmp_path: Path) -> None:
    """Those of the generation configuration too: the answer is cut where the first of them comes."""
    plain: Any = ls.load_model(tiny_folder)
    tokenizer = plain.lens_info.tokenizer
    prompt = batching.encode(tokenizer, Prompt.of("Hi"))
    free = plain.generate(
        torch.tensor([prompt]),
        max_new_tokens=8,
        do_sample=False,
        stop_at_eos=False,
        prepend_bos=False,
        verbose=False,
        return_type="tokens",
    )
    tokens = free[0, len(prompt) :].tolist()
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    config = json.loads((other / "generation_config.json").read_text(encoding="utf-8"))
    config["eos_token_id"] = [tokenizer.eos_token_id, tokens[3]]
    (other / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    model: Any = ls.load_model(other)
    assert model.lens_info.end_tokens == tuple(sorted(config["eos_token_id"]))
    wanted = tokenizer.decode(tokens[: tokens.index(tokens[3])], skip_special_tokens=True)
    for engine in ("hf", "tl"):
        assert ls.generate(model, ["Hi"], max_new_tokens=8, engine=engine) == [wanted]


@pytest.mark.parametrize("option", ["attention_bias", "mlp_bias"])
def test_biases_that_would_be_left_out_are_refused(option: str) -> None:
    """The library's converters leave them out without a word; a TransformerBridge has them."""
    from transformers import LlamaConfig

    from lens_steer.models.hooked_transformer import check_biases

    config = LlamaConfig()
    check_biases(config, "some/model")
    setattr(config, option, True)
    with pytest.raises(LensSteerError, match=f"has {option}=True.*load it with backend='bridge'"):
        check_biases(config, "some/model")


def test_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's accelerators are taken: nothing is asked of them in float64."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "empty", lambda *_, **given: asked.append(given))
    assert usable_device("mps") == torch.device("mps")
    assert asked == [{"device": "mps"}]
