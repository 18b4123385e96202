"""Tokenizers and folders that lack something: no padding token, no end token, no files, a missing head: each right, or
refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.models.tokenization import pad_id, read_tokenizer
from tests.chats import CHATS, edited, organism, theirs
from tests.conftest import HAS_HOOKED


def answers(folder: Path | str, backend: str, engine: str, **how: Any) -> list[str]:
    model = ls.load_model(folder, backend=backend, **how)
    return ls.generate(
        model,
        [Prompt.of("What is 4 plus 3?"), Prompt.of("Which is more, 8 or 2? Say it in a word."), CHATS[1]],
        max_new_tokens=8,
        engine=engine,
    )


BACKENDS = ("hooked", "bridge") if HAS_HOOKED else ("bridge",)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"pad_token": "<|begin_of_text|>"},
        {"pad_token": None},
        {"pad_token": None, "eos_token": None},
        {"eos_token": None},
    ],
)
def test_padding_is_masked_whatever_fills_it(tmp_path: Path, changes: dict[str, Any], backend: str) -> None:
    """Padding token = beginning token, none, and no end token either: the unedited folder's answers, on both
    engines.
    """
    folder = edited(tmp_path / "edited", "llama", **changes)
    plain = answers("organism/llama", backend, "hf")
    for engine in ("tl", "hf"):
        assert answers(folder, backend, engine) == plain


def test_what_fills_up() -> None:
    """The padding token, else the end's, else the beginning's, else token 0, which stays the plain token that it is."""
    tokenizer = organism("organism/llama")
    assert pad_id(tokenizer) == tokenizer.pad_token_id
    for name in ("pad_token", "eos_token", "bos_token"):
        wanted = {"pad_token": "eos_token_id", "eos_token": "bos_token_id"}.get(name)
        setattr(tokenizer, name, None)
        assert pad_id(tokenizer) == (getattr(tokenizer, wanted) if wanted else 0)
    assert 0 not in tokenizer.all_special_ids or tokenizer.convert_ids_to_tokens(0) in tokenizer.all_special_tokens


def test_a_beginning_token_that_the_template_does_not_write(tmp_path: Path) -> None:
    """As a GGUF conversion leaves Qwen's: ids and answers are the unedited folder's."""
    folder = edited(tmp_path / "edited", "qwen2", bos_token="<|endoftext|>")
    tokenizer = read_tokenizer(str(folder))
    assert tokenizer.bos_token == "<|endoftext|>"
    for prompt in CHATS:
        assert batching.encode(tokenizer, prompt) == theirs(tokenizer, prompt) == batching.encode(organism(), prompt)
    assert answers(folder, BACKENDS[0], "tl") == answers("organism/qwen2", BACKENDS[0], "tl")


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
def test_a_folder_without_tokenizer_files(tmp_path: Path, family: str) -> None:
    """One line, before weights are read, where the library gives an empty tokenizer or a traceback."""
    folder = edited(tmp_path / "edited", family)
    for path in (*folder.glob("tokenizer*"), folder / "model.safetensors"):
        path.unlink()
    with pytest.raises(LensSteerError, match=r"has no tokenizer: put its files \(tokenizer.json") as caught:
        ls.load_model(folder)
    assert "\n" not in str(caught.value)


def test_a_broken_tokenizer_file(tmp_path: Path) -> None:
    """One line too."""
    folder = edited(tmp_path / "edited", "llama")
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(LensSteerError, match="the tokenizer of .* cannot be read"):
        ls.load_model(folder)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
def test_an_untied_head_that_is_not_there(tmp_path: Path, family: str, backend: str) -> None:
    """``tie_word_embeddings: false`` without an ``lm_head``: refused, not newly initialised."""
    from safetensors.torch import load_file, save_file

    folder = edited(tmp_path / "edited", family, "config.json", tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "lm_head.weight"}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(LensSteerError, match=r"lack 'lm_head.weight': fetch or save the whole model again"):
        ls.load_model(folder, backend=backend)


# --- the command ---
