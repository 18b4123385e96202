"""Token ids are exactly the chat template's, for every tokenizer and on every path; ``lens-steer tokens`` shows
them.
"""

from __future__ import annotations

import json
import os
import re
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import lens_steer as ls
from lens_steer.cli.app import app
from lens_steer.cli.wording import as_options
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.inference.dialogue import turn_ids
from lens_steer.interop.exports.certificate import prompts_for
from lens_steer.models.location import ORGANISMS
from lens_steer.models.templates import ChatTemplate, template_of
from lens_steer.models.tokenization import PLAIN_TEMPLATE, plain_ids, read_tokenizer
from tests.chats import CHATS, DATED, OWN_DATE, RAISES, TURNS, adding, edited, organism, theirs

REAL = Path(os.environ.get("LENS_STEER_REAL_MODELS", Path.home() / ".cache" / "real-models"))
REAL_FOLDERS = sorted(path.parent for path in REAL.glob("*/tokenizer.json")) if REAL.is_dir() else []


def packaged_templates() -> list[str]:
    """Chat templates that installed packages bring as files."""
    root = Path(sysconfig.get_paths()["purelib"])
    found = [
        path.read_text(encoding="utf-8", errors="replace")
        for pattern in ("*.jinja", "*.jinja2", "*.j2")
        for path in root.rglob(pattern)
    ]
    for path in root.rglob("tokenizer_config.json"):
        template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        found += [template] if isinstance(template, str) else []
    return [text for text in found if "messages" in text and "role" in text and "add_generation_prompt" in text]


@pytest.mark.parametrize("name", ORGANISMS)
def test_ids_of_the_organisms(name: str) -> None:
    """Transformers' own; and with one beginning token where training had one."""
    tokenizer = organism(name)
    for prompt in CHATS:
        ids = batching.encode(tokenizer, prompt)
        assert ids == theirs(tokenizer, prompt)
        bos = tokenizer.bos_token_id
        assert ids.count(bos) == 1 and ids[0] == bos if bos is not None else True


@pytest.mark.parametrize("folder", REAL_FOLDERS or [None], ids=lambda f: f.name if f else "none")
def test_ids_of_real_models(folder: Path | None) -> None:
    """A conversion may give a tokenizer a ``bos_token`` that the template does not write: it is not written."""
    if folder is None:
        pytest.skip(f"no real models at {REAL} (set LENS_STEER_REAL_MODELS)")
    tokenizer = read_tokenizer(str(folder))
    if not template_of(tokenizer).text:
        pytest.skip("a base model has no chat template")
    for prompt in CHATS:
        assert batching.encode(tokenizer, prompt) == theirs(tokenizer, prompt)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(
    "template",
    [
        TURNS,
        "{{ bos_token }}" + TURNS,
        DATED,
        OWN_DATE,
        "{{ bos_token }}" + TURNS.replace("m.content", "m.content | trim"),
    ],
)
def test_ids_of_templates(template: str, adds: bool) -> None:
    """With and without a beginning token in the template, and in what the tokenizer adds to plain texts."""
    tokenizer = adding(organism("organism/llama"), "<|begin_of_text|>") if adds else organism("organism/llama")
    tokenizer.chat_template = template
    for prompt in CHATS:
        assert batching.encode(tokenizer, prompt) == theirs(tokenizer, prompt)


def test_ids_of_packaged_templates() -> None:
    """Whatever templates the installed packages bring: the same ids, or the same refusal."""
    templates = packaged_templates()
    if not templates:
        pytest.skip("no installed package brings a chat template")
    tokenizer = organism()
    for template in templates:
        tokenizer.chat_template = template
        for prompt in (CHATS[0], CHATS[2]):
            try:
                wanted = theirs(tokenizer, prompt)
            except Exception:
                with pytest.raises(LensSteerError, match="the chat template refuses the messages"):
                    batching.encode(tokenizer, prompt)
            else:
                assert batching.encode(tokenizer, prompt) == wanted


def test_ids_of_the_field_s_templates(field: Path) -> None:
    """``date.jinja`` and ``thinks.jinja``, with and without arguments."""
    for file, args in (("date.jinja", {}), ("thinks.jinja", {}), ("thinks.jinja", {"enable_thinking": False})):
        tokenizer = organism(chat_template=str(field / file), template_args=args)
        for prompt in CHATS:
            assert batching.encode(tokenizer, prompt) == theirs(tokenizer, prompt, **args)
    assert "<think>" in batching.render(tokenizer, CHATS[0])


def test_a_plain_template_has_the_tokenizer_s_own_special_tokens() -> None:
    """What ``tokenizer(text)`` gives: a beginning token where the tokenizer adds one, none where it does not."""
    text = "User: What is 4 plus 3?\nAssistant:"
    for adds in (False, True):
        tokenizer = organism("organism/llama", chat_template="plain")
        tokenizer = adding(tokenizer, "<|begin_of_text|>") if adds else tokenizer
        ids = batching.encode(tokenizer, CHATS[0])
        assert ids == tokenizer(text)["input_ids"] and (ids[0] == tokenizer.bos_token_id) is adds
        assert plain_ids(tokenizer, "<|begin_of_text|>a").count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("template", [TURNS, "{{ bos_token }}" + TURNS])
def test_every_path_has_those_ids(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record, generate, force, converse, a certificate's prompts, a judge, the harness: the ids that reach a forward
    are the template's.
    """
    model: Any = ls.load_model("organism/llama", chat_template=template)
    tokenizer, prompt = model.lens_info.tokenizer, CHATS[0]
    adding(tokenizer, "<|begin_of_text|>")
    wanted, seen = theirs(tokenizer, prompt), []
    cut = batching.padded

    def kept(sequences: Any, *rest: Any, **how: Any) -> Any:
        seen.extend(ids for _, ids, _ in sequences)
        return cut(sequences, *rest, **how)

    monkeypatch.setattr(batching, "padded", kept)
    from lens_steer.data import Contrast, PromptSet
    from lens_steer.inference.teacher_forcing import first_logits
    from lens_steer.metrics.judges import GenerativeJudge

    one = PromptSet((prompt,), "one")
    ls.record(model, Contrast(one, one), ["blocks.0.hook_resid_post"], progress=False)
    ls.generate(model, one, max_new_tokens=1)
    first_logits(model, one)
    ls.converse(model, prompt.text, max_new_tokens=1)
    assert len(seen) >= 5 and all(ids == wanted for ids in seen)
    assert turn_ids(tokenizer, ls.Dialogue((prompt.text,)))[0] == wanted
    assert prompts_for(model, one) == one  # which certify batches with chat.batches
    judge = GenerativeJudge(
        ls.hf_twin(model), "{prompt}{response}", harmful_pattern="a", safe_pattern="b", tokenizer=tokenizer
    )
    assert judge.encode(prompt, "") == wanted
    assert ls.tokens(model, prompt)[0].ids == tuple(wanted)


def test_the_harness_has_those_ids() -> None:
    """A rendered chat gets nothing of the tokenizer's own; any other text what the tokenizer adds."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'lens-steer[evals]'")
    from lens_steer.interop.harness.lm_eval import SteeredLM

    model: Any = ls.load_model("organism/llama", chat_template=TURNS)
    tokenizer = adding(model.lens_info.tokenizer, "<|begin_of_text|>")
    lm: Any = SteeredLM(model)
    for prompt in CHATS:
        rendered = lm.apply_chat_template([dict(m) for m in prompt.messages])
        assert lm.tok_encode(rendered) == theirs(tokenizer, prompt)
    assert lm.tok_encode("a text") == tokenizer("a text")["input_ids"]


def test_how_a_chat_begins() -> None:
    """Common to chats with and without a system message; nothing where content comes first."""
    tokenizer = organism()
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert batching.opening(tokenizer) == ""
    tokenizer.chat_template = RAISES + "<<" + TURNS
    assert batching.opening(tokenizer) == "<<[user] "
    tokenizer.chat_template = None
    assert batching.opening(tokenizer) == ""


# --- system messages ---


def shown(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["tokens", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_the_command_shows_what_the_model_gets(tmp_path: Path, field: Path) -> None:
    """Text, ids and tokens of each prompt with the template's record; from configuration and tokenizer alone."""
    folder = edited(tmp_path / "model", "qwen2")
    (folder / "model.safetensors").unlink()
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "What is 4 plus 3?"}\n{"prompt": "a", "system": "Be brief."}\n{"prompt": "b"}\n', encoding="utf-8"
    )
    found = shown("--model", str(folder), "--prompts", str(file), "--limit", "2")
    tokenizer = organism()
    assert (found["model"], found["n"], len(found["prompts"])) == (str(folder), 2, 2)
    for row, prompt in zip(found["prompts"], (CHATS[0], Prompt.of("a", system="Be brief.")), strict=True):
        assert row["ids"] == theirs(tokenizer, prompt) and row["prompt"] == prompt.text
        assert "".join(row["tokens"]) == row["text"] == tokenizer.decode(row["ids"])
    known = template_of(tokenizer)
    assert found["template"] == {"hash": known.hash, "args": {}, "date": None, "short": known.short}
    thinks = ("--chat-template", str(field / "thinks.jinja"), "--template-args", '{"enable_thinking": false}')
    found = shown("--model", str(folder), "--prompts", str(file), *thinks)
    assert (
        found["n"] == 3
        and found["template"]["args"] == {"enable_thinking": False}
        and "<think>" in found["prompts"][0]["text"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "0"], "--limit 0: at least 1 is needed"),
        (["--template-args", "{"], "--template-args '{' is no JSON object"),
        (["--template-args", "[1]"], "--template-args '\\[1\\]' is no JSON object: give such as"),
        (["--template-args", '{"nothing": 1}'], "^--template-args: the chat template has no use for 'nothing'"),
        (["--template-date", "2024-02-29"], "^--template-date '2024-02-29': the chat template writes no date"),
    ],
)
def test_bad_options_of_the_command(options: list[str], message: str) -> None:
    """Spoken of as options."""
    with pytest.raises(LensSteerError) as caught:
        shown("--model", "organism/qwen2", "--prompts", "organism/refusal", *options)
    assert re.search(message, as_options(str(caught.value)))


def test_the_plain_template_is_known_by_its_text() -> None:
    """Also where it comes back from a folder that was saved with it."""
    assert ChatTemplate.of(PLAIN_TEMPLATE).plain and not ChatTemplate.of(TURNS).plain
    assert torch.tensor(batching.encode(organism(chat_template="plain"), CHATS[0])).ndim == 1
