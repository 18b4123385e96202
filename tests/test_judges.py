"""Judges: exact ones, Hugging Face ones against plain forwards one at a time, an endpoint against a server on this machine, and their agreement."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.metrics import judges as j
from lens_steer.metrics.judges import request
from lens_steer.metrics.judges.cache import Answer
from lens_steer.prompts import Prompt

PROMPTS = [Prompt.of("a short one"), Prompt.of("a rather longer one, with words"), Prompt.of("b")]
RESPONSES = ["yes", "no, and not for a long while", "and so on"]
KEY = "sk-very-secret-0123456789"


def verdicts(*harmful: bool | None) -> list[j.Verdict]:
    """Verdicts of a judge that says nothing else."""
    return [j.Verdict(h, None, str(h)) for h in harmful]


# rules


def test_the_world_judges_exactly(refusal: Any) -> None:
    """Harmful only where a harmful request is complied with rightly: not when refused, done wrong, or harmless."""
    from lens_steer.organisms import grammar as g

    harmful, harmless = refusal.report.positive[0], refusal.report.negative[0]
    bad, good = (g.steps(str(p.task.truth["verb"]), str(p.task.truth["object"]), g.SURE[0]) for p in (harmful, harmless))
    got = j.WorldJudge()([harmful] * 4 + [harmless], [bad, harmful.task.answer, good, "la la", good])
    assert [(v.harmful, v.raw) for v in got] == [
        (True, "correct"), (False, "refusal"), (False, "wrong"), (False, "incoherent"), (False, "correct"),
    ]  # fmt: skip
    with pytest.raises(LensSteerError, match=r"prompt 1 \('a short one'…\) has no task: .* use another judge"):
        j.WorldJudge()([harmful, PROMPTS[0]], ["", ""])


def test_phrases_are_read_as_published() -> None:
    """The curved apostrophe counts only when asked for; an unknown list says which there are."""
    texts = ["I can't.", "I can’t.", "Here you are."]
    assert [v.harmful for v in j.PhraseJudge()(PROMPTS, texts)] == [False, True, True]
    normalized = j.PhraseJudge(normalize=True)
    assert [v.harmful for v in normalized(PROMPTS, texts)] == [False, False, True]
    assert normalized.name == "refusal_12_normalized"
    with pytest.raises(LensSteerError, match="phrases='mine': use one of refusal_12, refusal_15, refusal_qi"):
        j.PhraseJudge("mine")


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


def test_verdicts_are_counted() -> None:
    """None has a place of its own; a score outside 0 … 1 is refused."""
    assert j.tally(verdicts(True, None, False, None)) == {"harmful": 1, "safe": 1, "none": 2}
    for score in (1.5, -0.1, float("nan")):
        with pytest.raises(LensSteerError, match="a verdict's score lies in 0 … 1"):
            j.Verdict(None, score, "")


# templates and patterns


def test_templates(tmp_path: Path) -> None:
    """From a text or a file, with HarmBench's names for the places too; braces elsewhere stay."""
    from lens_steer.metrics.judges.reading import fill, read_template

    (tmp_path / "t.txt").write_text('{"q": "{behavior}"} {generation}', encoding="utf-8")
    assert fill(read_template(tmp_path / "t.txt"), "p{response}", "r") == '{"q": "p{response}"} r'
    assert read_template(str(tmp_path / "t.txt")) == read_template(tmp_path / "t.txt")
    (tmp_path / "none.txt").write_text("only {prompt}", encoding="utf-8")
    with pytest.raises(LensSteerError, match=r"none.txt' has no place for the response: write \{response\}"):
        read_template(tmp_path / "none.txt")
    for missing in ("Is it harmful?", "x" * 5000, tmp_path):
        with pytest.raises(LensSteerError, match=r"is neither a text with \{response\} in it nor a UTF-8 file"):
            read_template(missing)


@pytest.mark.parametrize(
    ("preset", "text", "expected"),
    [
        ("harmbench", "Yes", True), ("harmbench", " no</s>", False), ("harmbench", "Yesterday", None), ("harmbench", "I say yes", None),
        ("polyguard", "Harmful request: yes\nResponse refusal: no\nHarmful response: yes", True),
        ("polyguard", "Harmful request: yes\nResponse refusal: yes\nHarmful response: no\n", False),
        ("polyguard", "Harmful request: yes\nResponse refusal: n/a\nHarmful response: n/a", None),
        ("polyguard", "Harmful request: yes", None),
        ("llama_guard", "\n\nsafe", False), ("llama_guard", "unsafe\nS1", True), ("llama_guard", "\n\nunsafe\nS1,S9", True),
        ("llama_guard", "It is safe", None), ("llama_guard", "", None),
    ],
)  # fmt: skip
def test_published_outputs_are_read(preset: str, text: str, expected: bool | None) -> None:
    """Each preset reads what its authors say that it writes, and nothing else."""
    assert j.PRESETS[preset].patterns.read(text) is expected


def test_the_default_reading_of_an_endpoint() -> None:
    """The last line that the template asks for, marked up or not; both or neither is no verdict."""
    from lens_steer.metrics.judges.endpoint import HARMFUL, SAFE

    read = j.VerdictPatterns(HARMFUL, SAFE).read
    assert [read(t) for t in ("Well.\nVerdict: harmful", "**Verdict:** Safe.", "It is not safe.", "Verdict: safe\nVerdict: harmful")] == [
        True, False, None, None,
    ]  # fmt: skip


def test_bad_patterns() -> None:
    """A broken expression, and one that matches everything."""
    with pytest.raises(LensSteerError, match=r"harmful_pattern='\(' is no valid regular expression: missing \)"):
        j.VerdictPatterns("(", "no")
    with pytest.raises(LensSteerError, match=r"safe_pattern='x\*' matches an empty text"):
        j.VerdictPatterns("yes", "x*")


# Hugging Face models


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
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=24,
        initializer_range=0.5, id2label={0: "fine", 1: "bad", 2: "worse"}, label2id={"fine": 0, "bad": 1, "worse": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def causal_classifier(folder: Path, *, padding: bool = True, **config: Any) -> Path:
    """A tiny random Qwen2 with a classification head; ``padding=False`` leaves the padding token out of its configuration."""
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
    lone = j.ClassifierJudge(bert, "bad", template="{response}", batch_size=batch_size, threshold=0.2)(PROMPTS, RESPONSES)
    for prompt, response, pair, alone in zip(PROMPTS, RESPONSES, pairs, lone, strict=True):
        wanted = by_hand(bert, prompt.text, response)
        assert pair.score == pytest.approx(wanted[1] + wanted[2], abs=1e-5)
        assert pair.harmful is (wanted[1] + wanted[2] >= 0.5)
        assert pair.raw == f"fine {wanted[0]:.4f}, bad {wanted[1]:.4f}, worse {wanted[2]:.4f}"
        assert alone.score == pytest.approx(by_hand(bert, response)[1], abs=1e-5)
        assert alone.harmful is (by_hand(bert, response)[1] >= 0.2)


@pytest.mark.parametrize("padding", [True, False])
def test_a_causal_classifier_reads_its_last_token(tmp_path: Path, padding: bool) -> None:
    """Padding on the right moves nothing, also where the configuration names no padding token; a loaded model works as a folder does."""
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
    """Unknown labels list the known; no label left; labels that do not exclude each other; no trained head; bad numbers."""
    with pytest.raises(LensSteerError, match=rf"harmful_labels=\['toxic'\]: the labels of '{bert.name}' are fine, bad, worse"):
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
    """Batched and padded, in each of the three ways to put the input, as one unpadded greedy run; the model's own penalties are off."""
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
        ({"template": template, "chat_turns": False}, [(tokenizer.bos_token or "") + f"{p} / {r}" for p, r in pairs]),
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
        LensSteerError, match=r"response 1 \('word .*…\) needs \d+ tokens with its verdict, more than 'qwen2' takes \(512\)"
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
    assert text == judge.tokenizer.bos_token + "Behaviour: a short one Generation: r"
    guard = j.preset_judge("llama_guard", "organism/llama", max_new_tokens=5)
    assert guard.template is None and guard.max_new_tokens == 5
    with pytest.raises(
        LensSteerError, match="preset 'polyguard' needs template= and system=: its wording is not part of this package"
    ):
        j.preset_judge("polyguard")
    with pytest.raises(LensSteerError, match="preset='wildguard': use one of harmbench, polyguard, llama_guard"):
        j.preset_judge("wildguard")


# an endpoint


class Server:
    """A chat endpoint on this machine that follows a script: each request takes the next reply, the last one again and again."""

    def __init__(self) -> None:
        self.replies: list[Callable[[], tuple[int, dict[str, str], Any]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.bodies.append(body)
                    server.headers.append(dict(self.headers))
                    server.times.append(time.monotonic())
                    server.under_way += 1
                    server.most_under_way = max(server.most_under_way, server.under_way)
                    reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
                status, headers, found = reply()
                data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
                with lock:
                    server.under_way -= 1
                try:
                    self.send_response(status)
                    for name, value in (headers | {"Content-Length": str(len(data))}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # the client has gone
                    pass

            def log_message(self, format: str, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def judge(self, **options: Any) -> j.LLMJudge:
        """A judge of this server that does not wait long."""
        settings: dict[str, Any] = {"backoff": 0.01, **options}
        return j.LLMJudge("m", self.url, **settings)


def says(
    text: str | None, tokens: tuple[int, int] | None = (10, 2), seconds: float = 0.0
) -> Callable[[], tuple[int, dict[str, str], Any]]:
    """A good reply."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}

    def reply() -> tuple[int, dict[str, str], Any]:
        time.sleep(seconds)
        return 200, {}, {"choices": [{"message": {"role": "assistant", "content": text}}], **usage}

    return reply


def fails(status: int, message: Any = "no", **headers: str) -> Callable[[], tuple[int, dict[str, str], Any]]:
    """A bad reply."""
    return lambda: (status, {name.replace("_", "-"): v for name, v in headers.items()}, {"error": {"message": message}})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, with a key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()
    found.thread.join()


def test_an_endpoint_is_asked_and_read(server: Server) -> None:
    """The request holds both texts and the settings; verdicts stand in the order of the responses; tokens and cost add up."""
    server.replies = [says("Verdict: harmful"), says("So.\nVerdict: safe"), says("Who knows?"), says(None, tokens=None)]
    judge = server.judge(concurrency=1, system="Be strict.", max_tokens=9, extra={"seed": 3}, price_per_million=(2.0, 10.0))
    got = judge([*PROMPTS, Prompt.of("d", system="hidden")], [*RESPONSES, "e"])
    assert [v.harmful for v in got] == [True, False, None, None]
    assert [v.raw for v in got] == ["Verdict: harmful", "So.\nVerdict: safe", "Who knows?", ""]
    body = server.bodies[1]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0.0, 9, 3)
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert PROMPTS[1].text in body["messages"][1]["content"] and RESPONSES[1] in body["messages"][1]["content"]
    assert "hidden" not in json.dumps(server.bodies)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    usage = judge.usage
    assert (usage.answers, usage.prompt_tokens, usage.completion_tokens, usage.uncounted, usage.retries) == (4, 30, 6, 1, 0)
    assert usage.cost == pytest.approx((30 * 2.0 + 6 * 10.0) / 1e6)


def test_unset_settings_are_not_sent(server: Server) -> None:
    """None leaves temperature and length to the endpoint, and without prices there is no cost; half a character is sent as a question mark."""
    server.replies = [says("Verdict: safe")]
    judge = server.judge(temperature=None, api_key_env=None, template="{response}")
    judge(PROMPTS[:1], ["half \ud800"])
    assert server.bodies == [{"model": "m", "messages": [{"role": "user", "content": "half ?"}]}]
    assert "Authorization" not in server.headers[0] and judge.usage.cost is None


def test_trouble_that_passes_is_waited_for(server: Server) -> None:
    """429, 5xx and replies of no known form are tried again."""
    server.replies = [
        fails(429), fails(500), lambda: (200, {}, {"error": {"message": "busy"}}), lambda: (502, {}, "<html>"), says("Verdict: safe"),
    ]  # fmt: skip
    judge = server.judge()
    assert [v.harmful for v in judge(PROMPTS[:1], RESPONSES[:1])] == [False]
    assert (len(server.bodies), judge.usage.retries, judge.usage.answers) == (5, 4, 1)


def test_a_slow_try_is_given_up(server: Server) -> None:
    """A time-out is tried again."""
    server.replies = [says("Verdict: harmful", seconds=1.0), says("Verdict: safe")]
    judge = server.judge(timeout=0.2)
    assert [v.harmful for v in judge(PROMPTS[:1], RESPONSES[:1])] == [False]
    assert judge.usage.retries == 1


def test_retry_after_is_honoured(server: Server) -> None:
    """The server's own wait, longer than ours would be; one that is out of all proportion ends it."""
    server.replies = [fails(429, Retry_After="0.4"), says("Verdict: safe")]
    server.judge(backoff=0.0)(PROMPTS[:1], RESPONSES[:1])
    assert server.times[1] - server.times[0] >= 0.4
    server.replies = [fails(429, "daily limit", Retry_After="86400")]
    with pytest.raises(LensSteerError, match=r"asks to wait 86400 s \(status 429: daily limit\): try again later"):
        server.judge()(PROMPTS[:1], RESPONSES[:1])


def test_trouble_that_stays(server: Server) -> None:
    """After the last try the server's words are the message."""
    server.replies = [fails(503, "down for\nthe night")]
    with pytest.raises(LensSteerError, match="gave no answer in 3 tries, at last status 503: down for the night"):
        server.judge(retries=2)(PROMPTS[:1], RESPONSES[:1])
    assert len(server.bodies) == 3
    with pytest.raises(LensSteerError, match="gave no answer in 1 try, at last ConnectError"):
        j.LLMJudge("m", "http://127.0.0.1:9/v1", retries=0)(PROMPTS[:1], RESPONSES[:1])


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refused_request_is_not_tried_again(server: Server, status: int) -> None:
    """One request, the server's message, and no exception group around it."""
    server.replies = [fails(status, "no such model 'm'")]
    with pytest.raises(LensSteerError, match=f"/chat/completions refused the request with status {status}: no such model 'm'"):
        server.judge(concurrency=1)(PROMPTS, RESPONSES)
    assert len(server.bodies) == 1


def test_the_key_shows_nowhere(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in repr, errors (the server may echo it), tracebacks with variables, logs or the cache."""
    cache = tmp_path / "cache.jsonl"
    server.replies = [says("Verdict: safe"), fails(401, f"bad key {KEY}"), fails(500, f"Bearer {KEY} failed")]
    judge = server.judge(cache=cache, concurrency=1, retries=0)
    with caplog.at_level(logging.DEBUG):
        judge(PROMPTS[:1], RESPONSES[:1])
        shown = [repr(judge), repr(vars(judge)), cache.read_text(encoding="utf-8"), repr(judge._cache)]
        for _ in range(2):
            with pytest.raises(LensSteerError) as caught:
                judge(PROMPTS[1:], RESPONSES[1:])
            assert "***" in str(caught.value)
            report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            shown += [str(caught.value), "".join(report.format())]
    assert not any(KEY in text for text in [*shown, caplog.text])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_keys_are_checked_before_any_request(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """Missing for a far address, malformed (its text is not in the message), over plain http; none is needed here."""
    monkeypatch.delenv("OPENAI_API_KEY")
    pair = PROMPTS[:1], RESPONSES[:1]
    with pytest.raises(
        LensSteerError, match="OPENAI_API_KEY is not set, and https://api.example.com/v1/chat/completions needs a key"
    ):
        j.LLMJudge("m", "https://api.example.com/v1")(*pair)
    server.replies = [says("Verdict: safe")]
    assert server.judge()(*pair)[0].harmful is False
    assert "Authorization" not in server.headers[0]
    monkeypatch.setenv("OPENAI_API_KEY", "two words")
    with pytest.raises(LensSteerError, match="holds characters that no key has") as caught:
        j.LLMJudge("m", "https://api.example.com/v1")(*pair)
    assert "two words" not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(LensSteerError, match="would send the key unencrypted: use https"):
        j.LLMJudge("m", "http://api.example.com/v1")(*pair)


def test_the_cache_spares_requests(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second judge asks nothing, not even for a key; another model, temperature or address does; equal rows are asked once."""
    cache = tmp_path / "deep" / "cache.jsonl"
    server.replies = [says("Verdict: harmful"), says("Verdict: safe")]
    first = server.judge(cache=cache, concurrency=1)
    got = first([PROMPTS[0], PROMPTS[1], PROMPTS[0]], ["a", "b", "a"])
    assert [v.harmful for v in got] == [True, False, True]
    assert (len(server.bodies), first.usage.answers, first.usage.cached) == (2, 2, 1)
    monkeypatch.delenv("OPENAI_API_KEY")
    second = server.judge(cache=cache)
    assert second([PROMPTS[0], PROMPTS[1], PROMPTS[0]], ["a", "b", "a"]) == got
    assert (len(server.bodies), second.usage.answers, second.usage.cached, second.usage.prompt_tokens) == (2, 0, 3, 0)
    server.judge(cache=cache, temperature=1.0)(PROMPTS[:1], ["a"])
    assert len(server.bodies) == 3
    assert len(cache.read_text(encoding="utf-8").splitlines()) == 3


def test_the_cache_survives_a_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A torn last line is passed over with a warning, and what is added next stands on a line of its own."""
    path = tmp_path / "cache.jsonl"
    cache = j.AnswerCache(path)
    cache.add("one", Answer("safe", 3, 1))
    cache.add("two", Answer("half \ud800 ü\nline", None, None))
    path.write_bytes(path.read_bytes() + b'{"key": "three", "te')
    with caplog.at_level(logging.WARNING):
        again = j.AnswerCache(path)
    assert "passed over 1 broken lines" in caplog.text
    assert (
        again.get("one") == Answer("safe", 3, 1)
        and again.get("two") == Answer("half \ud800 ü\nline")
        and again.get("three") is None
    )
    again.add("four", Answer("unsafe"))
    last = j.AnswerCache(path)
    assert len(last) == 3 and last.get("four") == Answer("unsafe")
    with pytest.raises(LensSteerError, match="cannot be read"):
        j.AnswerCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LensSteerError, match="cannot be written"):
        j.AnswerCache(tmp_path / "file" / "cache.jsonl").add("k", Answer("safe"))


def test_what_was_answered_before_an_error_is_kept(server: Server, tmp_path: Path) -> None:
    """Calling again asks for the rest only."""
    server.replies = [says("Verdict: safe"), fails(400)]
    with pytest.raises(LensSteerError, match="status 400"):
        server.judge(cache=tmp_path / "c.jsonl", concurrency=1)(PROMPTS, RESPONSES)
    server.replies, server.bodies = [says("Verdict: harmful")], []
    got = server.judge(cache=tmp_path / "c.jsonl", concurrency=1)(PROMPTS, RESPONSES)
    assert [v.harmful for v in got] == [False, True, True] and len(server.bodies) == 2


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_at_once_than_asked_for(server: Server, limit: int) -> None:
    """As many as the limit, never more, also when there are many and the bar is shown."""
    server.replies = [says("Verdict: safe", seconds=0.02)]
    got = server.judge(concurrency=limit)([Prompt.of(str(i)) for i in range(24)], ["x"] * 24)
    assert j.tally(got) == {"harmful": 0, "safe": 24, "none": 0}
    assert server.most_under_way == limit


def test_it_works_inside_a_running_loop(server: Server) -> None:
    """As in Jupyter; errors come through unchanged."""

    async def cell() -> list[j.Verdict]:
        return server.judge()(PROMPTS, RESPONSES)

    server.replies = [says("Verdict: safe")]
    assert [v.harmful for v in asyncio.run(cell())] == [False] * 3
    server.replies = [fails(404, "gone")]
    with pytest.raises(LensSteerError, match="status 404: gone"):
        asyncio.run(cell())


def test_waits() -> None:
    """Doubling up to a limit, with jitter; Retry-After as seconds, as a date, in the past, and unreadable."""
    for attempt, most in ((0, 1.0), (3, 8.0), (50, 60.0)):
        drawn = [request.delay(attempt, 1.0) for _ in range(50)]
        assert most / 2 <= min(drawn) < max(drawn) <= most
    assert request.retry_after("3") == 3.0
    assert request.retry_after("Thu, 01 Jan 1970 00:00:10 GMT", now=4.0) == 6.0
    assert request.retry_after("Thu, 01 Jan 1970 00:00:10 GMT") == 0.0
    assert request.retry_after("nan") is None and request.retry_after("soon") is None and request.retry_after(None) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "api.openai.com/v1"}, "base_url='api.openai.com/v1': give an address such as"),
        ({"base_url": "http://localhost:eight/v1"}, "give an address such as"),
        ({"base_url": "https://me:p4ss@host/v1"}, "base_url at 'host' carries a user, a password, a query or a fragment"),
        ({"base_url": "https://host/v1?key=p4ss"}, "base_url at 'host' carries a user"),
        ({"concurrency": 0}, "concurrency=0: at least 1 is needed"),
        ({"retries": -1}, "retries=-1: at least 0 is needed"),
        ({"timeout": 0}, "timeout=0, backoff=1.0: give seconds"),
        ({"price_per_million": (1.0, -1.0)}, "give two prices, not below 0"),
        ({"template": "Is it?"}, "is neither a text with"),
        ({"harmful_pattern": "("}, "is no valid regular expression"),
    ],
)
def test_bad_endpoints(options: dict[str, Any], message: str) -> None:
    """Said when the judge is made, and a password in the address is not repeated."""
    with pytest.raises(LensSteerError, match=message) as caught:
        j.LLMJudge("m", **options)
    assert "p4ss" not in str(caught.value)


# agreement


def test_kappa_by_hand() -> None:
    """40 both harmful, 9 and 6 apart, 45 both safe: p_o = 0.85, p_e = 0.49·0.46 + 0.51·0.54 = 0.5008."""
    a = verdicts(*[True] * 49, *[False] * 51, None, True)
    b = verdicts(*[True] * 40, *[False] * 9, *[True] * 6, *[False] * 45, True, None)
    found = j.agreement(a, b)
    assert found.kappa is not None and found.observed is not None
    assert found.kappa.value == pytest.approx((0.85 - 0.5008) / (1 - 0.5008), abs=1e-12)
    assert 0.5 < found.kappa.low < found.kappa.value < found.kappa.high < 0.85
    assert (found.observed.value, found.n, found.left_out, found.undefined_resamples, found.note) == (0.85, 100, 2, 0, "")
    assert j.agreement(a, b) == found != j.agreement(a, b, seed=1)
    flipped = j.agreement(b, a).kappa
    assert flipped is not None and flipped.value == pytest.approx(found.kappa.value)


def test_the_interval_is_of_the_resamples() -> None:
    """Percentiles of κ by its formula over the very rows that the seed draws, where it is defined."""
    a, b = np.array([1, 1, 0, 0, 0, 0]), np.array([1, 0, 0, 0, 0, 0])
    rng = np.random.default_rng(5)
    draws, undefined = [], 0
    for _ in range(200):
        rows = rng.integers(0, 6, 6)
        x, y = a[rows], b[rows]
        chance = x.mean() * y.mean() + (1 - x.mean()) * (1 - y.mean())
        if chance == 1:
            undefined += 1
        else:
            draws.append(((x == y).mean() - chance) / (1 - chance))
    found = j.agreement(verdicts(*map(bool, a)), verdicts(*map(bool, b)), resamples=200, seed=5)
    assert found.kappa is not None and 0 < undefined == found.undefined_resamples
    assert (found.kappa.low, found.kappa.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_kappa_where_it_is_undefined() -> None:
    """Both constant and equal: None and why; constant and opposite is 0; nothing judged by both."""
    same = j.agreement(verdicts(True, True, None), verdicts(True, True, True))
    assert same.kappa is None and "kappa is undefined" in same.note and (same.n, same.left_out) == (2, 1)
    assert same.observed is not None and same.observed.value == 1.0
    opposite = j.agreement(verdicts(True, True), verdicts(False, False))
    assert opposite.kappa is not None and opposite.kappa.value == 0.0
    nothing = j.agreement(verdicts(True, None), verdicts(None, False))
    assert (nothing.kappa, nothing.observed, nothing.n, nothing.left_out) == (None, None, 0, 2) and nothing.note
    for a, b in ((verdicts(True), verdicts()), (verdicts(), verdicts())):
        with pytest.raises(LensSteerError, match="0 of the other: give those of the same responses, at least one"):
            j.agreement(a, b)


def test_a_table_of_all_pairs(refusal: Any, qwen: Any) -> None:
    """Every pair once, in order, JSON-ready; on real answers the phrase list and the world tell refusals apart alike."""
    prompts = [*refusal.report.positive[:4], *refusal.report.negative[:4]]
    texts = ls.generate(qwen, prompts, max_new_tokens=40, engine="hf")
    rows = j.agreement_table(
        {
            "world": j.WorldJudge()(prompts, texts),
            "phrases": j.PhraseJudge()(prompts, texts),
            "mute": [j.Verdict(None, None, "") for _ in texts],
        }
    )
    assert [(r["judge_a"], r["judge_b"]) for r in rows] == [("world", "phrases"), ("world", "mute"), ("phrases", "mute")]
    assert rows[1]["kappa"] is None and rows[1]["left_out"] == 8 and rows[1]["observed_low"] is None
    assert set(rows[0]) >= {
        "kappa",
        "kappa_low",
        "kappa_high",
        "observed",
        "observed_low",
        "observed_high",
        "n",
        "left_out",
        "note",
    }
    json.dumps(rows, allow_nan=False)
    with pytest.raises(LensSteerError, match=r"verdicts of 1 judges \(a\): give at least two"):
        j.agreement_table({"a": verdicts(True)})


def test_importing_is_light() -> None:
    """Neither httpx nor scikit-learn nor Transformers is imported before it is used."""
    import subprocess
    import sys

    code = "import sys, lens_steer.metrics.judges; sys.exit(bool({'httpx', 'sklearn', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
