"""Hidden states in vLLM's files as a recording: equal to our own, and what the files and layers must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lens_steer as ls
from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.interop.imports.hidden_states import import_hidden_states
from lens_steer.models.loading import hf_twin
from tests.test_cli import run as run_cli

LAYERS = [0, 5, 6, 12]


def written(model: Any, prompts: Any, folder: Path, layers: list[int] = LAYERS, more: str = "") -> Path:
    """Write files as vLLM does, from Hugging Face's hidden states; the last layer is read before the final norm."""
    folder.mkdir(parents=True, exist_ok=True)
    twin, tokenizer = hf_twin(model), model.lens_info.tokenizer
    final: list[torch.Tensor] = []
    handle = twin.model.norm.register_forward_pre_hook(lambda module, args: final.append(args[0]))
    for i, prompt in enumerate(prompts):
        ids = batching.encode(tokenizer, prompt) + batching.encode_response(tokenizer, prompt)
        ids += tokenizer(more, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            states = [*twin(torch.tensor([ids]), output_hidden_states=True).hidden_states[:-1], final[-1]]
        hidden = torch.stack([states[layer][0] for layer in layers], dim=1)
        save_file(
            {"hidden_states": hidden.contiguous().clone(), "token_ids": torch.tensor(ids)},
            folder / f"{i}-{'ab'[i % 2]}.safetensors",
        )
    handle.remove()
    return folder


@pytest.fixture
def pair(refusal: Any) -> Contrast:
    return Contrast(refusal.fit.positive[:3], refusal.fit.negative[:2])


def prompts_of(pair: Contrast) -> PromptSet:
    return PromptSet((*pair.positive, *pair.negative))


@pytest.mark.parametrize("kind", ["resid_pre", "resid_post"])
def test_equal_to_a_recording(kind: str, qwen: Any, pair: Contrast, tmp_path: Path) -> None:
    """Also where the files go on with generated tokens, and among files of other prompts."""
    written(qwen, prompts_of(pair), tmp_path, more="Sure. 1.")
    written(qwen, [ls.Prompt.of("Something else")], tmp_path / "other")
    (tmp_path / "other" / "0-a.safetensors").rename(tmp_path / "9-z.safetensors")
    found = import_hidden_states(tmp_path, qwen, pair, LAYERS, kind=kind)
    own = ls.record(qwen, pair, list(found.sites), progress=False)
    blocks = {"resid_pre": (0, 5, 6), "resid_post": (4, 5, 11)}[kind]
    assert found.sites == tuple(f"blocks.{b}.hook_{kind}" for b in blocks) and found.backend == "vllm"
    for side in ("positive", "negative"):
        torch.testing.assert_close(getattr(found, side), getattr(own, side), atol=1e-4, rtol=1e-4)
    assert (found.prompt_hash, found.hashes_positive) == (own.prompt_hash, own.hashes_positive)


def test_responses_are_averaged(qwen: Any, tmp_path: Path) -> None:
    answered = PromptSet(tuple(ls.Prompt.of(t, response="Take the hammer.") for t in ("Hello", "Hi there")))
    pair = Contrast(answered[:1], answered[1:])
    found = import_hidden_states(written(qwen, answered, tmp_path), qwen, pair, LAYERS, pooling="response")
    own = ls.record(qwen, pair, list(found.sites), pooling="response", progress=False)
    torch.testing.assert_close(found.positive, own.positive, atol=1e-4, rtol=1e-4)
    bare = Contrast(PromptSet((ls.Prompt.of("a"),)), answered)
    with pytest.raises(LensSteerError, match="needs a response for every prompt"):
        import_hidden_states(tmp_path, qwen, bare, LAYERS, pooling="response")


def test_bad_files_are_named(qwen: Any, pair: Contrast, tmp_path: Path) -> None:
    folder = written(qwen, prompts_of(pair), tmp_path / "files")
    first = folder / "0-a.safetensors"
    good = load_file(first)

    def refused(told: str, **changed: torch.Tensor) -> None:
        save_file({**good, **changed}, first)
        with pytest.raises(LensSteerError, match=told):
            import_hidden_states(folder, qwen, pair, LAYERS)

    refused(r"shape \(\d+, 3, 128\)", hidden_states=good["hidden_states"][:, :3].contiguous())
    refused("are no token ids", token_ids=good["token_ids"].float())
    refused("not finite", hidden_states=good["hidden_states"] * float("nan"))
    refused("no file has the token ids of prompt 0", token_ids=good["token_ids"] + 1)
    refused("give the layers that were extracted", hidden_states=good["hidden_states"][1:].contiguous())
    first.write_bytes(b"nothing")
    with pytest.raises(LensSteerError, match=r"0-a.safetensors' cannot be read"):
        import_hidden_states(folder, qwen, pair, LAYERS)
    with pytest.raises(LensSteerError, match=r"holds no \.safetensors"):
        import_hidden_states(tmp_path / "none", qwen, pair, LAYERS)


@pytest.mark.parametrize(
    ("layers", "how", "told"),
    [
        ([0, 13], {}, "after the last one"),
        ([3, 3], {}, "give each once"),
        ([0], {"kind": "resid_post"}, "none of them is resid_post"),
        ([12], {"kind": "resid_pre"}, "none of them is resid_pre"),
        ([3], {"kind": "ln1"}, "resid_pre or resid_post"),
    ],
)
def test_bad_layers(
    layers: list[int], how: dict[str, Any], told: str, qwen: Any, pair: Contrast, tmp_path: Path
) -> None:
    with pytest.raises(LensSteerError, match=told):
        import_hidden_states(tmp_path, qwen, pair, layers, **how)


def test_by_command_to_a_calibration(
    qwen: Any, refusal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's weights are not read: the description of the model is enough."""
    for side in ("positive", "negative"):
        rows = [{"prompt": p.text} for p in getattr(refusal.fit, side)[:4]]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    asked = PromptSet((*refusal.fit.positive[:4], *refusal.fit.negative[:4]))
    written(qwen, asked, tmp_path / "files", list(range(13)))
    files = ["--positive", tmp_path / "positive.jsonl", "--negative", tmp_path / "negative.jsonl"]
    given = [*files, "--model", "organism/qwen2", "--out", tmp_path / "recording"]
    code, out, error = run_cli(
        monkeypatch, capsys, "import", "hidden-states", tmp_path / "files", "--layers", "0:12", *given
    )
    assert code == 0, error
    assert json.loads(out)["n_sites"] == 12 and json.loads(out)["n_positive"] == 4
    made = ["calibrate", "--recorded", tmp_path / "recording", "--out", tmp_path / "calibration"]
    assert run_cli(monkeypatch, capsys, *made)[0] == 0
    code, _, error = run_cli(
        monkeypatch, capsys, "import", "hidden-states", tmp_path / "files", "--layers", "a", *given
    )
    assert code == 2 and "--layers 'a'" in error
