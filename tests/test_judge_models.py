"""Judges that are Hugging Face models: classifiers and generative ones, against plain forwards, and published ones by
name.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.metrics import judges as j

PROMPTS = [Prompt.of("a short one"), Prompt.of("a rather longer one, with words"), Prompt.of("b")]
RESPONSES = ["yes", "no, and not for a long while", "and so on"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with three labels, whose tokenizer knows pairs."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"a short one rather longer with words b yes no and not for long while so on , .".split(),
    ]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
        initializer_range=0.5,
        id2label={0: "fine", 1: "bad", 2: "worse"},
        label2id={"fine": 0, "bad": 1, "worse": 2},
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def causal_classifier(folder: Path, *, padding: bool = True, **config: Any) -> Path:
    """A tiny random Qwen2 with a classification head; ``padding=False`` leaves the padding token out of its
    configuration.
    """
    from transformers import Qwen2ForSequenceClassification

    from tests.tiny import build, config_of

    build("qwen2", folder)
    from transformers import AutoTokenizer

    shape = config_of("qwen2", AutoTokenizer.from_pretrained(folder))
    for name, value in config.items():
        setattr(shape, name, value)
    if not padding:
        shape.pad_token_id = None
    torch.manual_seed(1)
    Qwen2ForSequenceClassification(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen_judge() -> j.GenerativeJudge:
    """The organism as a judge that adds."""
    return j.GenerativeJudge("organism/qwen2", "{response}", harmful_pattern="7", safe_pattern="8")


def by_hand(folder: Path, *texts: str) -> list[float]:
    """Softmax of one unpadded input's logits."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**tokenizer(*texts, return_tensors="pt")).logits[0].double()
    weights = (logits - logits.max()).exp()
    return (weights / weights.sum()).tolist()


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_classifier_sums_the_harmful_mass(bert: Path, batch_size: int) -> None:
    """Batched pairs and lone texts equal the softmax by hand of each alone; raw names every label."""
    pairs = j.ClassifierJudge(bert, ["bad", "worse"], batch_size=batch_size)(PROMPTS, RESPONSES)
    lone = j.ClassifierJudge(bert, "bad", template="{response}", batch_size=batch_size, threshold=0.2)(
        PROMPTS, RESPONSES
    )
    for prompt, response, pair, alone in zip(PROMPTS, RESPONSES, pairs, lone, strict=True):
        wanted = by_hand(bert, prompt.text, response)
        assert pair.score == pytest.approx(wanted[1] + wanted[2], abs=1e-5)
        assert pair.harmful is (wanted[1] + wanted[2] >= 0.5)
        assert pair.raw == f"fine {wanted[0]:.4f}, bad {wanted[1]:.4f}, worse {wanted[2]:.4f}"
        assert alone.score == pytest.approx(by_hand(bert, response)[1], abs=1e-5)
        assert alone.harmful is (by_hand(bert, response)[1] >= 0.2)


@pytest.mark.parametrize("padding", [True, False])
def test_a_causal_classifier_reads_its_last_token(tmp_path: Path, padding: bool) -> None:
    """Padding on the right moves nothing, also where the configuration names no padding token; a loaded model works as
    a folder does.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = causal_classifier(tmp_path, padding=padding)
    template = "{prompt} | {response}"
    judge = j.ClassifierJudge(folder, "LABEL_1", template=template)
    got = [v.score for v in judge(PROMPTS, RESPONSES)]
    assert got == pytest.approx(
        [by_hand(folder, f"{p.text} | {r}")[1] for p, r in zip(PROMPTS, RESPONSES, strict=True)], abs=1e-5
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    again = j.ClassifierJudge(loaded, "LABEL_1", template=template, tokenizer=AutoTokenizer.from_pretrained(folder))
    assert [v.score for v in again(PROMPTS, RESPONSES)] == pytest.approx(got, abs=1e-6)


def test_a_classifier_says_what_it_cut(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is too long is cut and counted in a warning."""
    judge = j.ClassifierJudge(bert, "bad", template="{response}")
    with caplog.at_level(logging.WARNING):
        long, _ = judge(PROMPTS[:2], ["yes " * 60, "no"])
    assert f"{bert.name}: cut 1 of 2 inputs to 24 tokens" in caplog.text
    assert long.score == pytest.approx(by_hand(bert, "yes " * 22)[1], abs=1e-5)


def test_no_number_no_verdict(bert: Path) -> None:
    """Logits that are not finite give None, in their own place."""
    judge = j.ClassifierJudge(bert, "bad")
    with torch.no_grad():
        judge.model.classifier.bias[0] = float("nan")
    assert [(v.harmful, v.score) for v in judge(PROMPTS, RESPONSES)] == [(None, None)] * 3


def test_bad_classifiers(bert: Path, tmp_path: Path) -> None:
    """Unknown labels list the known; no label left; labels that do not exclude each other; no trained head; bad
    numbers.
    """
    with pytest.raises(
        LensSteerError, match=rf"harmful_labels=\['toxic'\]: the labels of '{bert.name}' are fine, bad, worse"
    ):
        j.ClassifierJudge(bert, "toxic")
    with pytest.raises(LensSteerError, match="are all of .* labels: leave those out that are safe"):
        j.ClassifierJudge(bert, ["fine", "bad", "worse"])
    with pytest.raises(LensSteerError, match=r"harmful_labels=\[\]: the labels of"):
        j.ClassifierJudge(bert, [])
    with pytest.raises(LensSteerError, match="do not exclude each other, so their softmax is no probability"):
        j.ClassifierJudge(causal_classifier(tmp_path / "multi", problem_type="multi_label_classification"), "LABEL_1")
    with pytest.raises(
        LensSteerError, match="'organism/qwen2' has no weights for score.weight: it was not trained as AutoModelForSeq"
    ):
        j.ClassifierJudge("organism/qwen2", "LABEL_1")
    with pytest.raises(LensSteerError, match="does not exist"):
        j.ClassifierJudge(tmp_path / "nowhere", "bad")
    with pytest.raises(LensSteerError, match="batch_size=0: at least 1 is needed"):
        j.ClassifierJudge(bert, "bad", batch_size=0)
    with pytest.raises(LensSteerError, match="threshold=2.0: give a share above 0"):
        j.ClassifierJudge(bert, "bad", threshold=2.0)
    with pytest.raises(LensSteerError, match="dtype='int8': use one of auto, float32"):
        j.ClassifierJudge(bert, "bad", dtype="int8")


def greedy(folder: Path, text: str, new: int, *, special: bool) -> str:
    """Greedy continuation of one unpadded text, every step a forward of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=special)["input_ids"]
    start = ids.shape[1]
    with torch.inference_mode():
        while ids.shape[1] < start + new:
            following = model(ids).logits[0, -1].argmax()
            if following == tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, following.reshape(1, 1)], dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_generative_judge_writes_what_the_model_writes(tiny_folder: Path, tmp_path: Path, batch_size: int) -> None:
    """Batched and padded, in each of the three ways to put the input, as one unpadded greedy run; the model's own
    penalties are off.
    """
    from transformers import AutoTokenizer, GenerationConfig

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "judge"))
    GenerationConfig(repetition_penalty=5.0, do_sample=True, temperature=2.0).save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    template = "{prompt} / {response}"

    def chat(*turns: tuple[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    pairs = [(p.text, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    ways: list[tuple[dict[str, Any], list[str]]] = [
        ({"template": template, "chat_turns": False}, [f"{p} / {r}" for p, r in pairs]),
        ({"template": template}, [chat(("user", f"{p} / {r}")) for p, r in pairs]),
        ({"template": None}, [chat(("user", p), ("assistant", r)) for p, r in pairs]),
    ]
    for options, texts in ways:
        judge = j.GenerativeJudge(
            folder, harmful_pattern="a", safe_pattern="e", max_new_tokens=6, batch_size=batch_size, **options
        )
        got = judge(PROMPTS, RESPONSES)
        assert [v.raw for v in got] == [greedy(folder, text, 6, special=False) for text in texts]
        for v in got:
            assert v.harmful is (None if ("a" in v.raw.lower()) == ("e" in v.raw.lower()) else "a" in v.raw.lower())


def test_a_generative_judge_is_read_by_patterns(qwen_judge: j.GenerativeJudge) -> None:
    """Harmful, safe and neither, by what the organism answers."""
    got = qwen_judge(PROMPTS, ["What is 4 plus 3?", "What is 4 plus 4?", "What is 4 plus 1?"])
    assert [(v.harmful, v.raw) for v in got] == [(True, "7."), (False, "8."), (None, "5.")]


def test_a_system_message_goes_before_the_turn() -> None:
    """The judge's own system message is rendered; the prompt's is not."""
    judge = j.GenerativeJudge(
        "organism/qwen2", "{prompt}: {response}", harmful_pattern="7", safe_pattern="8", system="Be strict."
    )
    shown = judge.tokenizer.decode(judge.encode(Prompt.of("question", system="Be kind."), "answer"))
    assert "Be strict." in shown and "question: answer" in shown and "Be kind." not in shown


def test_bad_generative_judges(qwen_judge: j.GenerativeJudge) -> None:
    """No room in the context, a system message without a turn, no chat template, a loaded model without tokenizer."""
    patterns: dict[str, Any] = {"harmful_pattern": "yes", "safe_pattern": "no"}
    with pytest.raises(
        LensSteerError,
        match=r"response 1 \('word .*…\) needs \d+ tokens with its verdict, more than 'qwen2' takes \(512\)",
    ):
        qwen_judge(PROMPTS[:2], ["a", "word " * 600])
    with pytest.raises(LensSteerError, match="system is given without a chat turn of ours to stand before"):
        j.GenerativeJudge("organism/qwen2", "{response}", chat_turns=False, system="Be strict.", **patterns)
    with pytest.raises(LensSteerError, match="model is a loaded Qwen2ForCausalLM and tokenizer is missing"):
        j.GenerativeJudge(qwen_judge.model, "{response}", **patterns)
    with pytest.raises(LensSteerError, match="leave tokenizer out"):
        j.GenerativeJudge("organism/qwen2", "{response}", tokenizer=qwen_judge.tokenizer, **patterns)
    with pytest.raises(LensSteerError, match="max_new_tokens=0: at least 1"):
        j.GenerativeJudge("organism/qwen2", "{response}", max_new_tokens=0, **patterns)
    import copy

    bare = copy.deepcopy(qwen_judge.tokenizer)
    bare.chat_template = None
    with pytest.raises(LensSteerError, match="has no chat template: give template= with chat_turns=False"):
        j.GenerativeJudge(qwen_judge.model, tokenizer=bare, **patterns)


def test_presets(tmp_path: Path) -> None:
    """A preset sets patterns and input; what it needs and does not carry, it asks for."""
    (tmp_path / "t.txt").write_text("Behaviour: {behavior} Generation: {generation}", encoding="utf-8")
    judge = j.preset_judge("harmbench", "organism/llama", template=tmp_path / "t.txt")
    assert (judge.name, judge.chat_turns, judge.max_new_tokens) == ("harmbench", False, 4)
    text = judge.tokenizer.decode(judge.encode(PROMPTS[0], "r"))
    assert text == "Behaviour: a short one Generation: r"  # what the tokenizer gives the text: this one adds nothing
    guard = j.preset_judge("llama_guard", "organism/llama", max_new_tokens=5)
    assert guard.template is None and guard.max_new_tokens == 5
    with pytest.raises(
        LensSteerError, match="preset 'polyguard' needs template= and system=: its wording is not part of this package"
    ):
        j.preset_judge("polyguard")
    with pytest.raises(LensSteerError, match="preset='wildguard': use one of harmbench, polyguard, llama_guard"):
        j.preset_judge("wildguard")


def test_every_judge_is_a_judge(qwen_judge: j.GenerativeJudge, bert: Path) -> None:
    """One interface; each refuses another number of responses, and gives nothing for nothing."""
    judges = [
        j.WorldJudge(),
        j.PhraseJudge(),
        qwen_judge,
        j.ClassifierJudge(bert, "bad"),
        j.LLMJudge("m", "http://localhost:9/v1"),
    ]
    for judge in judges:
        assert isinstance(judge, j.Judge)
        assert judge([], []) == []
        with pytest.raises(LensSteerError, match="1 responses for 3 prompts: give one each"):
            judge(PROMPTS, ["a"])
