# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""The harness on a steered model: against its own Hugging Face class on the same folder, plain forwards, and teacher
forcing.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import random_plane
from lens_steer.inference import batching
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.interop.harness.lm_eval import SteeredLM, _with_harness
from lens_steer.interop.harness.lm_eval_generation import Wanted, cut
from tests.test_choices import plain_hooks
from tests.test_parity import PROMPTS

HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None
harness = pytest.mark.skipif(
    not HAS_HARNESS, reason="lm-evaluation-harness is not installed: pip install 'lens-steer[evals]'"
)
PAIRS = [
    ("What is red?", " The flag is red."),
    ("What is red?", " No"),
    ("What is red?", " Yes"),
    ("A context that ends in a space ", "and goes on"),
    ("", "without any context"),
    ("one two three four five six seven " * 30, "cut on the left"),
    ("User: hello\n", "Assistant"),
]
TEXTS = ["a text to be scored whole", "one two three four " * 60, ""]
GREEDY = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}


def requests(kind: str, arguments: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def theirs(tiny_folder: Path) -> Any:
    """The harness's own class on the tiny model's folder."""
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    return HFLM(pretrained=str(tiny_folder), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def plan(tiny: Any) -> Any:
    """A plan in a random plane of the tiny model's stream."""
    calibration = ls.calibrate(ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), "resid_post", progress=False))
    return ls.selective_steering(calibration, 130, at="resid_post", basis=random_plane(48, seed=3))


def scored(found: list[Any], wanted: list[Any], tolerance: float = 1e-4) -> bool:
    return all(a[1] == b[1] and a[0] == pytest.approx(b[0], abs=tolerance) for a, b in zip(found, wanted, strict=True))


@harness
@pytest.mark.parametrize("engine", ["tl", "hf"])
@pytest.mark.parametrize("steered", ["no plan", "identity"])
def test_equals_the_harness_without_steering(tiny: Any, theirs: Any, plan: Any, engine: str, steered: str) -> None:
    """Log-likelihoods, whole texts and answers of the harness's own class, with no plan and under an angle that changes
    nothing.
    """
    identity = ls.act_add(
        ls.calibrate(ls.record(tiny, Contrast(PROMPTS[:2], PROMPTS[2:]), "resid_post", progress=False)), 0.0
    )
    lm = SteeredLM(tiny, identity if steered == "identity" else None, engine=engine, batch_size=3)
    asked = requests("loglikelihood", PAIRS)
    assert scored(lm.loglikelihood(asked), theirs.loglikelihood(asked))
    whole = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    assert lm.loglikelihood_rolling(whole) == pytest.approx(theirs.loglikelihood_rolling(whole), abs=2e-3, rel=1e-5)
    kinds = [GREEDY, {"until": "a", "max_gen_toks": 20}, {"max_gen_toks": 5, "until": [" ", "e"], "temperature": 0.0}]
    contexts = ["What is red?", "one two three four five six seven " * 30, "b", "User: hello\n"]
    wanted = requests("generate_until", [(context, dict(kind)) for kind in kinds for context in contexts])
    assert lm.generate_until(wanted) == theirs.generate_until(wanted)


@harness
@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_equals_plain_hooks_under_a_plan(tiny: Any, theirs: Any, plan: Any, engine: str) -> None:
    """A plan on every token: as the harness's own class with the plan's pure operators hooked to its blocks; without
    it, something else.
    """
    lm = SteeredLM(tiny, plan, engine=engine, batch_size=3)
    asked, wanted = (
        requests("loglikelihood", PAIRS),
        requests("generate_until", [(c, dict(GREEDY)) for c, _ in PAIRS if c]),
    )
    plain = theirs.loglikelihood(asked)
    with plain_hooks(theirs.model, plan):
        assert scored(lm.loglikelihood(asked), theirs.loglikelihood(asked), 1e-3)
        assert lm.generate_until(wanted) == theirs.generate_until(wanted)
    assert all(abs(a[0] - b[0]) > 1e-2 for a, b in zip(lm.loglikelihood(asked), plain, strict=True))
    with ls.steering(tiny, plan):
        active = SteeredLM(tiny, engine=engine).loglikelihood(asked)
    assert scored(active, lm.loglikelihood(asked))


@harness
@pytest.mark.parametrize("positions", ["all", "prompt", "prompt[-1]", "generated[:2]", "prompt[-1]+generated"])
@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_equals_teacher_forcing(tiny_folder: Path, engine: str, positions: str) -> None:
    """Chats rendered by the harness, whatever positions are steered: the sums of forced responses'
    log-probabilities.
    """
    model = ls.load_model(tiny_folder, chat_template="plain")
    calibration = ls.calibrate(ls.record(model, Contrast(PROMPTS[:2], PROMPTS[2:]), "resid_post", progress=False))
    plan = ls.selective_steering(calibration, 130, at="resid_post", basis=random_plane(48, seed=3), positions=positions)
    lm = SteeredLM(model, plan, engine=engine)
    prompts = [
        Prompt.of("a short one"),
        Prompt.of("a rather longer one, with words", system="Be brief."),
        Prompt.of("b"),
    ]
    responses = [" yes", " no, and not for a long while", " and so on"]
    contexts = [lm.apply_chat_template([dict(m) for m in p.messages]) for p in prompts]
    found = lm.loglikelihood(requests("loglikelihood", list(zip(contexts, responses, strict=True))))
    wanted = [0.0] * 3
    with ls.steering(model, plan):
        for row, logits, ids in response_logits(model, with_responses(prompts, responses), engine=engine):
            wanted[row] = float(logits.log_softmax(dim=-1).gather(-1, ids[:, None]).double().sum())
        answers = ls.generate(model, prompts, max_new_tokens=10, engine=engine)
    assert [value for value, _ in found] == pytest.approx(wanted, abs=1e-4)
    assert lm.generate_until(requests("generate_until", [(c, {"max_gen_toks": 10}) for c in contexts])) == answers


@harness
def test_batches_do_not_matter(tiny: Any, plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request at a time, or few logits at a time, as all at once; options of one question share a row."""
    asked = requests("loglikelihood", PAIRS)
    together = SteeredLM(tiny, plan).loglikelihood(asked)
    assert scored(SteeredLM(tiny, plan, batch_size=1).loglikelihood(asked), together)
    monkeypatch.setattr("lens_steer.inference.teacher_forcing.MAX_LOGITS", 4 * 1536)
    assert scored(SteeredLM(tiny, plan).loglikelihood(asked), together)
    lm, seen = SteeredLM(tiny, plan), []
    monkeypatch.setattr("lens_steer.interop.harness.lm_eval.last_logits", _counting(seen))
    lm.loglikelihood(requests("loglikelihood", [("Is it?", option) for option in (" A", " B", " C")]))
    assert seen == [1]


def _counting(seen: list[int]) -> Any:
    from lens_steer.inference.forward import last_logits

    def counted(model: Any, batch: Any, keep: int) -> Any:
        seen.append(len(batch.rows))
        return last_logits(model, batch, keep)

    return counted


@harness
def test_beginning_of_sequence_once(tiny: Any, theirs: Any) -> None:
    """Rendered chats and plain texts are tokenised as the harness does it; a chat has one beginning token, never
    two.
    """
    lm, batching = SteeredLM(tiny), [{"role": "user", "content": "Hello"}]
    rendered = lm.apply_chat_template(batching)
    assert rendered == theirs.apply_chat_template(batching)
    open_ended = [*batching, {"role": "assistant", "content": "The answer is"}]
    assert lm.apply_chat_template(open_ended, add_generation_prompt=False) == theirs.apply_chat_template(
        open_ended, add_generation_prompt=False
    )
    for text in (rendered, "plain", "", " spaced "):
        assert lm.tok_encode(text) == theirs.tok_encode(text)
    bos = tiny.lens_info.tokenizer.bos_token_id
    assert bos is None or lm.tok_encode(rendered).count(bos) == 1
    assert (lm.tokenizer_name, lm.max_length, lm.eot_token_id, lm.prefix_token_id) == (
        theirs.tokenizer_name,
        theirs.max_length,
        theirs.eot_token_id,
        theirs.prefix_token_id,
    )
    with_system = lm.apply_chat_template([{"role": "system", "content": "Be brief."}, *batching])
    assert "Be brief." in with_system and "Hello" in with_system


@harness
def test_a_tokenizer_that_adds_its_beginning(tiny: Any, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Llama's and Gemma's do: plain texts get the beginning token, rendered chats that have it already get no second
    one.
    """
    from tokenizers.processors import TemplateProcessing

    adding = copy.deepcopy(tiny.lens_info.tokenizer)
    bos = adding.bos_token
    if bos is None:
        pytest.skip("Qwen2 has no beginning token")
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, adding.bos_token_id)]
    )
    lm = SteeredLM(tiny)
    for owner in (lm, theirs):
        monkeypatch.setattr(owner, "tokenizer", adding)
    rendered = lm.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert lm.tok_encode("plain").count(adding.bos_token_id) == lm.tok_encode(rendered).count(adding.bos_token_id) == 1
    assert lm.tok_encode("plain") == theirs.tok_encode("plain") and lm.tok_encode(rendered) == theirs.tok_encode(
        rendered
    )
    asked = requests("loglikelihood", [*PAIRS, (rendered, "Hi")])
    assert scored(lm.loglikelihood(asked), theirs.loglikelihood(asked))
    wanted = requests("generate_until", [(rendered, dict(GREEDY)), ("b", {"until": "a", "max_gen_toks": 9})])
    assert lm.generate_until(wanted) == theirs.generate_until(wanted)


@harness
def test_stop_sequences_that_are_special_tokens(tiny: Any, theirs: Any) -> None:
    """A special token among them ends an answer, though a decoded answer does not show it; the folder's repetition
    penalty is out of force.
    """
    tokenizer = tiny.lens_info.tokenizer
    special = next(
        t for t in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(t) not in tiny.lens_info.end_tokens
    )
    twin = ls.hf_twin(tiny)
    kept = twin.lm_head.weight
    asked = requests("generate_until", [("What is red?", {"max_gen_toks": 6, "until": [special]})])
    free = SteeredLM(tiny).generate_until(asked)
    twin.generation_config.repetition_penalty = 1.5
    try:
        assert SteeredLM(tiny).generate_until(asked) == free
        assert twin.generation_config.repetition_penalty == 1.5
    finally:
        twin.generation_config.repetition_penalty = None
    bias = torch.zeros(len(kept))
    bias[tokenizer.convert_tokens_to_ids(special)] = 1e4
    steps = iter([bias])  # the first token is the special one, what follows is the model's own
    handle = twin.lm_head.register_forward_hook(lambda module, args, output: output + next(steps, 0))
    try:
        assert SteeredLM(twin).generate_until(asked) == [""]
    finally:
        handle.remove()


@harness
def test_the_harness_runs_a_task(tiny: Any, plan: Any, tmp_path: Path) -> None:
    """A task of one's own, from files, end to end and offline: options scored and answers generated, with the plan in
    the results.
    """
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    rows = [{"q": f"Question {i}?", "options": ["yes", "no", "red"], "gold": i % 3, "text": "yes"} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    shared = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\ntest_split: test\n"
    )
    (tmp_path / "choose.yaml").write_text(
        f"task: own_choose\n{shared}output_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\ndoc_to_target: gold\n"
        "doc_to_choice: options\nmetric_list:\n  - metric: acc\n"
    )
    (tmp_path / "write.yaml").write_text(
        f"task: own_write\n{shared}output_type: generate_until\ndoc_to_text: '{{{{q}}}}'\ndoc_to_target: text\n"
        "generation_kwargs:\n  until: ['\\n']\n  max_gen_toks: 4\n  do_sample: false\nmetric_list:\n  - metric: "
        "exact_match\n"
    )
    results = {}
    for name, steering in (("plain", None), ("steered", plan)):
        results[name] = lm_eval.simple_evaluate(
            SteeredLM(tiny, steering),
            tasks=["own_choose", "own_write"],
            apply_chat_template=name == "steered",
            bootstrap_iters=0,
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        )
    for name, found in results.items():
        assert found is not None and 0 <= found["results"]["own_choose"]["acc,none"] <= 1
        assert len(found["samples"]["own_choose"]) == len(found["samples"]["own_write"]) == 6
        assert (found["config"]["lens_plan"] is None) == (name == "plain")
    assert results["steered"]["config"]["lens_plan"]["method"] == plan.method
    lls = [[s["resps"] for s in results[n]["samples"]["own_choose"]] for n in ("plain", "steered")]
    assert lls[0] != lls[1]


@harness
def test_bad_input(tiny: Any, plan: Any, qwen: Any) -> None:
    """Said when the model is made where it can be, else with the request."""
    with pytest.raises(LensSteerError, match="engine='other': use one of tl, hf"):
        SteeredLM(tiny, engine="other")
    with pytest.raises(LensSteerError, match="batch_size=0: at least 1 is needed"):
        SteeredLM(tiny, batch_size=0)
    with pytest.raises(LensSteerError, match="was made on"):
        SteeredLM(qwen, plan)
    with pytest.raises(LensSteerError, match="a value for each of 2 prompts, and the harness makes its own requests"):
        SteeredLM(tiny, plan.at([10.0, 20.0]))
    lm = SteeredLM(tiny)
    with (
        ls.steering(tiny, plan.at([10.0, 20.0])),
        pytest.raises(LensSteerError, match="the plan in force has a value for each prompt"),
    ):
        lm.loglikelihood(requests("loglikelihood", PAIRS[:2]))
    with pytest.raises(LensSteerError, match="0 continuation tokens: at least 1 of each"):
        lm.loglikelihood(requests("loglikelihood", [("a context", "")]))
    with pytest.raises(LensSteerError, match=r"max_gen_toks=256 leaves no room in the model's context of 128"):
        lm.generate_until(requests("generate_until", [("a context", {"until": []})]))
    with pytest.raises(LensSteerError, match="answers under a plan are greedy"):
        lm.generate_until(requests("generate_until", [("a context", {"do_sample": True, "temperature": 0.7})]))


@pytest.mark.skipif(HAS_HARNESS, reason="the harness is installed")
def test_the_harness_is_missing(qwen: Any) -> None:
    """The module imports; making a model says what to install."""
    with pytest.raises(LensSteerError, match=r"pip install 'lens-steer\[evals\]'"):
        SteeredLM(qwen)


def test_the_message_without_the_harness(qwen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, where it is installed."""
    _with_harness.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(LensSteerError, match=r"needs lm-evaluation-harness: pip install 'lens-steer\[evals\]'"):
        SteeredLM(qwen)
    _with_harness.cache_clear()


def test_generation_arguments() -> None:
    """The harness's names for the length, the first counting; what would change a greedy answer is refused."""
    assert Wanted.of({}, 256) == Wanted(256, ())
    assert Wanted.of({"max_new_tokens": 3, "max_gen_toks": 5, "until": ["a", "b"], "top_p": 0.9}, 256) == Wanted(
        5, ("a", "b")
    )
    assert Wanted.of({"do_sample": False, "temperature": 0.7, "until": None}, 8) == Wanted(8, ())
    for asked in ({"do_sample": True}, {"temperature": 0.7}):
        with pytest.raises(LensSteerError, match="do_sample=False"):
            Wanted.of(asked, 8)
    with pytest.raises(LensSteerError, match="num_beams=4 is not supported"):
        Wanted.of({"num_beams": 4}, 8)
    with pytest.raises(LensSteerError, match="max_gen_toks=0: at least 1"):
        Wanted.of({"max_gen_toks": 0}, 8)
    assert [cut("a b c", until) for until in ([], ["c", "b"], ["", "x"], ["a"])] == ["a b c", "a ", "a b c", ""]


def test_batches_of_tokens() -> None:
    """Left-padded, shortest first, within the rows and the logits allowed; a row that is too much alone runs alone."""
    rows = [(0, [1] * 5, 2), (1, [2] * 3, 0), (2, [3] * 3, 1), (3, [4] * 9, 8)]
    whole = list(batching.padded(rows, 0))
    assert [b.rows for b in whole] == [(1, 2, 0, 3)] and whole[0].response_lengths == (0, 1, 2, 8)
    assert whole[0].ids[0].tolist() == [0] * 6 + [2] * 3 and whole[0].mask[0].tolist() == [0] * 6 + [1] * 3
    assert [b.rows for b in batching.padded(rows, 0, max_rows=2)] == [(1, 2), (0, 3)]
    assert [b.rows for b in batching.padded(rows, 0, max_logits=4)] == [(1, 2), (0,), (3,)]
    assert [b.rows for b in batching.padded(rows, 0, extra=4096)] == [(1,), (2,), (0,), (3,)]
