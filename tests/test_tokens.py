"""Token ids are exactly the chat template's, for every tokenizer and on every path; template, arguments and date are recorded; tokenizers that lack something are right or refused."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sysconfig
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import lens_steer as ls
from lens_steer import chat
from lens_steer.cli.app import app
from lens_steer.cli.wording import as_options
from lens_steer.conversation import turn_ids
from lens_steer.errors import LensSteerError
from lens_steer.folders import ORGANISM_FOLDER, ORGANISMS
from lens_steer.interop.certificate import prompts_for
from lens_steer.prompts import Prompt
from lens_steer.templates import DATE, ChatTemplate, fix_template, template_of
from lens_steer.tokenization import PLAIN_TEMPLATE, pad_id, plain_ids, read_tokenizer
from tests.conftest import HAS_HOOKED

FIELD = Path(os.environ.get("LENS_STEER_FIELD", Path(__file__).parents[2] / "shared" / "field"))
REAL = Path(os.environ.get("LENS_STEER_REAL_MODELS", Path.home() / ".cache" / "real-models"))
REAL_FOLDERS = sorted(path.parent for path in REAL.glob("*/tokenizer.json")) if REAL.is_dir() else []
CHATS = [
    Prompt.of("What is 4 plus 3?"),
    Prompt.of("  Grüße, 世界! <|im_start|> \n", system="Be brief."),
    Prompt(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})),
]
TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
RAISES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DATED = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}Today: {{ date_string }}\n"
    + TURNS
)
OWN_DATE = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}Today: {{ date_string }}\n" + TURNS


@pytest.fixture(scope="session")
def field_inputs() -> Path:
    """Folder of small inputs as they come in the field; tests that need it are skipped where it is not."""
    if not (FIELD / "date.jinja").exists():
        pytest.skip(f"no field inputs at {FIELD} (a clone does not carry them; set LENS_STEER_FIELD)")
    return FIELD


def organism(name: str = "organism/qwen2", **how: Any) -> Any:
    """An organism's tokenizer."""
    return read_tokenizer(str(ORGANISM_FOLDER / name.removeprefix("organism/")), **how)


def theirs(tokenizer: Any, prompt: Prompt, **args: Any) -> list[int]:
    """The ids that Transformers gives the messages, with the date that stands still."""
    from transformers.utils import chat_template_utils

    class Still(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(DATE)

    messages = [dict(m) for m in prompt.messages]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Still)
        found = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True, **args)
    return list(found["input_ids"])


def adding(tokenizer: Any, begin: str) -> Any:
    """A tokenizer that puts a beginning token before every text, as Llama's and Gemma's do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.bos_token = begin
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.convert_tokens_to_ids(begin))]
    )
    return tokenizer


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


def edited(folder: Path, family: str, file: str = "tokenizer_config.json", **changes: Any) -> Path:
    """A copy of an organism's folder with one file edited; None takes a key out."""
    shutil.copytree(ORGANISM_FOLDER / family, folder)
    facts = json.loads((folder / file).read_text(encoding="utf-8")) | changes
    (folder / file).write_text(json.dumps({k: v for k, v in facts.items() if v is not None}), encoding="utf-8")
    return folder


# --- ids ---


@pytest.mark.parametrize("name", ORGANISMS)
def test_ids_of_the_organisms(name: str) -> None:
    """Transformers' own; and with one beginning token where training had one."""
    tokenizer = organism(name)
    for prompt in CHATS:
        ids = chat.encode(tokenizer, prompt)
        assert ids == theirs(tokenizer, prompt)
        bos = tokenizer.bos_token_id
        assert ids.count(bos) == 1 and ids[0] == bos if bos is not None else True


@pytest.mark.parametrize("folder", REAL_FOLDERS or [None], ids=lambda f: f.name if f else "none")
def test_ids_of_real_models(folder: Path | None) -> None:
    """A conversion may give a tokenizer a ``bos_token`` that the template does not write: it is not written."""
    if folder is None:
        pytest.skip(f"no real models at {REAL} (set LENS_STEER_REAL_MODELS)")
    tokenizer = read_tokenizer(str(folder))
    for prompt in CHATS:
        assert chat.encode(tokenizer, prompt) == theirs(tokenizer, prompt)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(
    "template",
    [TURNS, "{{ bos_token }}" + TURNS, DATED, OWN_DATE, "{{ bos_token }}" + TURNS.replace("m.content", "m.content | trim")],
)
def test_ids_of_templates(template: str, adds: bool) -> None:
    """With and without a beginning token in the template, and in what the tokenizer adds to plain texts."""
    tokenizer = adding(organism("organism/llama"), "<|begin_of_text|>") if adds else organism("organism/llama")
    tokenizer.chat_template = template
    for prompt in CHATS:
        assert chat.encode(tokenizer, prompt) == theirs(tokenizer, prompt)


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
                    chat.encode(tokenizer, prompt)
            else:
                assert chat.encode(tokenizer, prompt) == wanted


def test_ids_of_the_field_s_templates(field_inputs: Path) -> None:
    """``date.jinja`` and ``thinks.jinja``, with and without arguments."""
    for file, args in (("date.jinja", {}), ("thinks.jinja", {}), ("thinks.jinja", {"enable_thinking": False})):
        tokenizer = organism(chat_template=str(field_inputs / file), template_args=args)
        for prompt in CHATS:
            assert chat.encode(tokenizer, prompt) == theirs(tokenizer, prompt, **args)
    assert "<think>" in chat.render(tokenizer, CHATS[0])


def test_a_plain_template_has_the_tokenizer_s_own_special_tokens() -> None:
    """What ``tokenizer(text)`` gives: a beginning token where the tokenizer adds one, none where it does not."""
    text = "User: What is 4 plus 3?\nAssistant:"
    for adds in (False, True):
        tokenizer = organism("organism/llama", chat_template="plain")
        tokenizer = adding(tokenizer, "<|begin_of_text|>") if adds else tokenizer
        ids = chat.encode(tokenizer, CHATS[0])
        assert ids == tokenizer(text)["input_ids"] and (ids[0] == tokenizer.bos_token_id) is adds
        assert plain_ids(tokenizer, "<|begin_of_text|>a").count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("template", [TURNS, "{{ bos_token }}" + TURNS])
def test_every_path_has_those_ids(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record, generate, force, converse, a certificate's prompts, a judge, the harness: the ids that reach a forward are the template's."""
    model: Any = ls.load_model("organism/llama", chat_template=template)
    tokenizer, prompt = model.lens_info.tokenizer, CHATS[0]
    adding(tokenizer, "<|begin_of_text|>")
    wanted, seen = theirs(tokenizer, prompt), []
    cut = chat.padded

    def kept(sequences: Any, *rest: Any, **how: Any) -> Any:
        seen.extend(ids for _, ids, _ in sequences)
        return cut(sequences, *rest, **how)

    monkeypatch.setattr(chat, "padded", kept)
    from lens_steer.forcing import first_logits
    from lens_steer.metrics.judges import GenerativeJudge
    from lens_steer.prompts import Contrast, PromptSet

    one = PromptSet((prompt,), "one")
    ls.record(model, Contrast(one, one), ["blocks.0.hook_resid_post"], progress=False)
    ls.generate(model, one, max_new_tokens=1)
    first_logits(model, one)
    ls.converse(model, prompt.text, max_new_tokens=1)
    assert len(seen) >= 5 and all(ids == wanted for ids in seen)
    assert turn_ids(tokenizer, ls.Dialogue((prompt.text,)))[0] == wanted
    assert prompts_for(model, one) == one  # which certify batches with chat.batches
    judge = GenerativeJudge(ls.hf_twin(model), "{prompt}{response}", harmful_pattern="a", safe_pattern="b", tokenizer=tokenizer)
    assert judge.encode(prompt, "") == wanted
    assert ls.tokens(model, prompt)[0].ids == tuple(wanted)


def test_the_harness_has_those_ids() -> None:
    """A rendered chat gets nothing of the tokenizer's own; any other text what the tokenizer adds."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'lens-steer[evals]'")
    from lens_steer.interop.lm_eval import SteeredLM

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
    assert chat.opening(tokenizer) == ""
    tokenizer.chat_template = RAISES + "<<" + TURNS
    assert chat.opening(tokenizer) == "<<[user] "
    tokenizer.chat_template = None
    assert chat.opening(tokenizer) == ""


# --- system messages ---


def test_a_template_that_drops_the_system_message_is_refused(field_inputs: Path, tmp_path: Path) -> None:
    """From the file and the command line, in one line; without a system message it serves."""
    tokenizer = organism(chat_template=str(field_inputs / "drops_system.jinja"))
    assert chat.encode(tokenizer, CHATS[0]) == theirs(tokenizer, CHATS[0])
    with pytest.raises(LensSteerError, match="leaves out the system message"):
        chat.encode(tokenizer, CHATS[1])


def test_a_system_text_that_also_stands_elsewhere_does_not_hide_that_it_is_dropped() -> None:
    """It is told by a mark of its own, not by looking for its words; one that is written trimmed is no dropped one."""
    tokenizer = organism()
    tokenizer.chat_template = TURNS.replace("in messages", "in messages if m.role != 'system'")
    with pytest.raises(LensSteerError, match="leaves out the system message"):
        chat.render(tokenizer, Prompt.of("Be brief. Hello", system="Be brief."))
    tokenizer.chat_template = TURNS.replace("m.content", "m.content | trim")
    assert "[system] Be brief.\n" in chat.render(tokenizer, Prompt.of("Hello", system="  Be brief. "))


def test_a_template_that_raises_gets_the_system_text_in_the_user_s_message() -> None:
    """As before; where it raises then too, that is one line."""
    tokenizer = organism()
    tokenizer.chat_template = RAISES + TURNS
    assert chat.render(tokenizer, CHATS[1]).startswith("[user] Be brief.\n\n  Gr")
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    for prompt in CHATS[:2]:
        with pytest.raises(LensSteerError, match="the chat template refuses the messages: never"):
            chat.render(tokenizer, prompt)


# --- template, arguments, date ---


def test_the_date_stands_still(field_inputs: Path) -> None:
    """The default date for a template that writes today's, another on request, none for a template that writes none."""
    path = str(field_inputs / "date.jinja")
    assert "Today is 01 January 2025" in chat.render(organism(chat_template=path), CHATS[0])
    assert "Today is 29 February 2024" in chat.render(organism(chat_template=path, template_date="2024-02-29"), CHATS[0])
    assert (template_of(organism(chat_template=path)).date, template_of(organism()).date) == (DATE, None)


@pytest.mark.parametrize("pattern", ["%d %B %Y", "%A, %-d. %b %y (%j) 100%% %m/%d %H:%M:%S", "%Y-%m-%dT%I%p", "%%d", ""])
def test_the_clock_that_stands_still(pattern: str) -> None:
    """Writes what Python's own does, whatever the format, also within a macro of the template's."""
    tokenizer = organism(
        chat_template="{% macro today(f) %}{{ strftime_now(f) }}{% endmacro %}{{ today('" + pattern + "') }}",
        template_date="2024-02-09",
    )
    assert chat.render(tokenizer, CHATS[0]) == datetime(2024, 2, 9).strftime(pattern)


def test_dates_as_llama_asks_for_them() -> None:
    """``date_string`` where it is asked for; a template with a date of its own keeps it unless another is given."""
    tokenizer = organism(chat_template=DATED, template_date="2024-02-29")
    assert "Today: 29 Feb 2024" in chat.render(tokenizer, CHATS[0])
    tokenizer = organism(chat_template=OWN_DATE)
    assert "26 Jul 2024" in chat.render(tokenizer, CHATS[0]) and template_of(tokenizer).date is None
    assert "Today: 29 Feb 2024" in chat.render(organism(chat_template=OWN_DATE, template_date="2024-02-29"), CHATS[0])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"template_args": {"enable_thinkng": False}}, "template_args: the chat template has no use for 'enable_thinkng'"),
        ({"template_args": {"messages": 1}}, "template_args: 'messages' is not the caller's to set"),
        ({"template_args": {"m": object()}}, "template_args=.*: values must be plain"),
        ({"template_date": "2024-02-29"}, "template_date='2024-02-29': the chat template writes no date"),
        ({"chat_template": DATED, "template_date": "tomorrow"}, "template_date='tomorrow' is no date: give it as YYYY-MM-DD"),
    ],
)
def test_bad_arguments(how: dict[str, Any], message: str) -> None:
    """Named, with the value and the mend."""
    with pytest.raises(LensSteerError, match=message):
        organism(**{"chat_template": TURNS} | how)


def test_arguments_for_no_template() -> None:
    """A tokenizer without a template takes none."""
    tokenizer = organism()
    tokenizer.chat_template = None
    with pytest.raises(LensSteerError, match="template_args and template_date are for a chat template, and the model has none"):
        fix_template(tokenizer, {"a": 1})


def test_a_record_of_a_template() -> None:
    """Comes back as it was; its short name tells text, arguments and date apart; a broken one is refused."""
    kinds = [ChatTemplate("a"), ChatTemplate("b"), ChatTemplate("a", {"x": 1}), ChatTemplate("a", {}, DATE)]
    assert [ChatTemplate.read(json.loads(json.dumps(k.row()))) for k in kinds] == kinds
    assert len({k.short for k in kinds}) == 4 and kinds[0].hash == kinds[2].hash
    with pytest.raises(LensSteerError, match="the record of a chat template lacks text, args or date"):
        ChatTemplate.read({"hash": "a"})


def test_artifacts_carry_the_template_and_a_difference_is_told_once(
    field_inputs: Path, tmp_path: Path, refusal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Calibration, plan and probe, through their files; another template, arguments or date is told at the first steering, and only then."""
    path = str(field_inputs / "thinks.jinja")
    model: Any = ls.load_model("organism/qwen2", chat_template=path, template_args={"enable_thinking": False})
    few = type(refusal.fit)(refusal.fit.positive[:6], refusal.fit.negative[:6])
    sites = ["blocks.5.hook_resid_post", "blocks.6.hook_resid_post"]
    acts = ls.record(model, few, sites, progress=False)
    calibration = ls.calibrate(acts)
    ls.save_calibration(calibration, tmp_path / "cal")
    ls.save_plan(ls.act_add(calibration, 1.0, at=sites[0]), tmp_path / "plan")
    ls.save_probe(ls.fit_probe(acts, sites[0], C=1.0), tmp_path / "probe")
    back = ls.load_calibration(tmp_path / "cal"), ls.load_plan(tmp_path / "plan"), ls.load_probe(tmp_path / "probe")
    for made in back:
        assert made.template is not None
        assert made.template == model.lens_info.template and made.template.args == {"enable_thinking": False}
    assert ls.boundary(calibration).template == calibration.template
    with ls.steering(model, back[1]):
        pass
    assert not caplog.records
    other: Any = ls.load_model("organism/qwen2", chat_template=path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with ls.steering(other, back[1]):
                pass
    told = [r.getMessage() for r in caplog.records if "chat template" in r.getMessage()]
    assert len(told) == 1 and "args {'enable_thinking': False} and {}" in told[0]
    # what an earlier release wrote says nothing of its template, and nothing is told
    facts = json.loads((tmp_path / "cal" / "calibration.json").read_text(encoding="utf-8"))
    del facts["template"]
    (tmp_path / "cal" / "calibration.json").write_text(json.dumps(facts), encoding="utf-8")
    assert ls.load_calibration(tmp_path / "cal").template is None


# --- tokenizers and folders that lack something ---


def answers(folder: Path | str, backend: str, engine: str, **how: Any) -> list[str]:
    model = ls.load_model(folder, backend=backend, **how)
    return ls.generate(model, [Prompt.of("What is 4 plus 3?"), Prompt.of("Which is more, 8 or 2? Say it in a word."), CHATS[1]], max_new_tokens=8, engine=engine)  # fmt: skip


BACKENDS = ("hooked", "bridge") if HAS_HOOKED else ("bridge",)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "changes",
    [{"pad_token": "<|begin_of_text|>"}, {"pad_token": None}, {"pad_token": None, "eos_token": None}, {"eos_token": None}],
)
def test_padding_is_masked_whatever_fills_it(tmp_path: Path, changes: dict[str, Any], backend: str) -> None:
    """Padding token = beginning token, none, and no end token either: the unedited folder's answers, on both engines."""
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
        assert chat.encode(tokenizer, prompt) == theirs(tokenizer, prompt) == chat.encode(organism(), prompt)
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
    save_file({k: v for k, v in weights.items() if k != "lm_head.weight"}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(LensSteerError, match=r"lack 'lm_head.weight': fetch or save the whole model again"):
        ls.load_model(folder, backend=backend)


# --- the command ---


def shown(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["tokens", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_the_command_shows_what_the_model_gets(tmp_path: Path, field_inputs: Path) -> None:
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
    thinks = ("--chat-template", str(field_inputs / "thinks.jinja"), "--template-args", '{"enable_thinking": false}')
    found = shown("--model", str(folder), "--prompts", str(file), *thinks)
    assert (
        found["n"] == 3 and found["template"]["args"] == {"enable_thinking": False} and "<think>" in found["prompts"][0]["text"]
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
    assert torch.tensor(chat.encode(organism(chat_template="plain"), CHATS[0])).ndim == 1
