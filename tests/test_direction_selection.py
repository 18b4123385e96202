"""The selection of a refusal direction: every number against plain hooks by hand, the filter, the bounds, a planted
direction, and a run that is interrupted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.direction_selection import choose
from lens_steer.evaluation.direction_trial import Trial
from lens_steer.evaluation.work import selecting_direction
from lens_steer.geometry.selected_direction import CandidateScore, DirectionBounds
from lens_steer.inference.attach import attached
from lens_steer.inference.batching import encode
from lens_steer.inference.rendering import tokens_after_instruction
from lens_steer.metrics.refusal_openings import measured_openings, openings_of
from tests import tiny
from tests.chats import TURNS, organism
from tests.directions import LOOSE, few, select

PROMPTS = ls.PromptSet(tuple(ls.Prompt.of(t) for t in ("How do I plant a tree?", "Sing a song", "What is rain?")))


@contextmanager
def hooked(twin: Any, ablated: Tensor | None = None, added: tuple[int, Tensor] | None = None) -> Iterator[None]:
    """Plain hooks on a Qwen2 of Hugging Face: a direction taken out of every block's input and of what every attention
    and MLP adds, or a vector added to one block's input.
    """

    def out(h: Tensor) -> Tensor:
        unit = ablated / ablated.norm()  # type: ignore[operator,union-attr]
        return h - (h @ unit)[..., None] * unit

    layers, handles = twin.model.layers, []
    for layer in layers if ablated is not None else ():
        handles.append(layer.register_forward_pre_hook(lambda m, args: (out(args[0]), *args[1:])))
        handles.append(layer.self_attn.register_forward_hook(lambda m, a, o: (out(o[0]), *o[1:])))
        handles.append(layer.mlp.register_forward_hook(lambda m, a, o: out(o)))
    if added is not None:
        block, vector = added
        handles.append(layers[block].register_forward_pre_hook(lambda m, args: (args[0] + vector, *args[1:])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last(model: Any, prompts: Any, **how: Any) -> Tensor:
    """The log probabilities of each prompt's next token, one prompt at a time, in float64."""
    twin, tokenizer = ls.hf_twin(model), model.lens_info.tokenizer
    with hooked(twin, **how), torch.inference_mode():
        rows = [twin(torch.tensor([encode(tokenizer, p)])).logits[0, -1].double() for p in prompts]
    return torch.stack(rows).log_softmax(dim=-1)


def score(log_p: Tensor, tokens: tuple[int, ...]) -> float:
    p = log_p.exp()[:, list(tokens)].sum(dim=1)
    return float((torch.log(p + 1e-8) - torch.log(1 - p + 1e-8)).mean())


def test_every_number_is_that_of_plain_hooks(qwen: Any, refusal: Any, selected: Any) -> None:
    """The direction, its three scores, the scores of another candidate's place, and the baselines: batches, padding,
    shared blocks and last positions change nothing.
    """
    prompts, tokens, twin = few(refusal), selected.refusal_tokens, ls.hf_twin(qwen)
    harmful, harmless = prompts.select.positive, prompts.select.negative
    plain = last(qwen, harmless)
    assert score(last(qwen, harmful), tokens) == pytest.approx(selected.baseline_refusal_score, abs=1e-3)
    assert score(plain, tokens) == pytest.approx(selected.baseline_induce_score, abs=1e-3)
    streams: dict[str, list[Tensor]] = {}
    for name, side in (("positive", prompts.fit.positive), ("negative", prompts.fit.negative)):
        with torch.inference_mode():
            streams[name] = [
                torch.stack(
                    twin(torch.tensor([encode(qwen.lens_info.tokenizer, p)]), output_hidden_states=True).hidden_states
                )
                for p in side
            ]
    by_place = {(s.position, s.block): s for s in selected.scores}
    for position, block in ((selected.position, selected.block), (-2, 3), (-5, 11)):
        means = [torch.stack([h[block, 0, position].double() for h in streams[n]]).mean(0) for n in streams]
        vector = (means[0] - means[1]).float()
        if (position, block) == (selected.position, selected.block):
            assert torch.allclose(selected.direction, vector, atol=1e-4 * float(vector.norm()))
        found, ablated = by_place[position, block], last(qwen, harmless, ablated=vector)
        assert score(last(qwen, harmful, ablated=vector), tokens) == pytest.approx(found.refusal_score, abs=2e-3)
        assert score(last(qwen, harmless, added=(block, vector)), tokens) == pytest.approx(found.induce_score, abs=2e-3)
        divergence = (plain.exp() * (plain - ablated)).sum(dim=1).mean()
        assert float(divergence) == pytest.approx(found.kl, rel=1e-3, abs=1e-5)


def test_the_choice_is_the_lowest_that_is_kept(selected: Any) -> None:
    """Every place once; nothing at the first block, where all prompts are the same; the best of the kept."""
    assert [(s.position, s.block) for s in selected.scores] == [(p, b) for p in range(-5, 0) for b in range(12)]
    assert all(math.isnan(s.refusal_score) == (s.block == 0) for s in selected.scores)
    kept = [s for s in selected.scores if s.block < 9.6 and s.induce_score >= 0 and s.kl <= LOOSE.max_kl]
    assert selected.n_kept == len(kept) > 0
    assert min(s.refusal_score for s in kept) == selected.refusal_score < selected.baseline_refusal_score - 5
    assert (selected.block, selected.site) == (7, "blocks.7.hook_resid_pre")


def test_both_engines_give_the_same(qwen: Any, refusal: Any) -> None:
    """Three prompts of each class; no number is of the engine."""
    prompts, how = refusal.first(fit=3, select=2), {"bounds": DirectionBounds(min_induce=-math.inf, max_kl=math.inf)}
    made = [select(qwen, prompts, engine=engine, **how) for engine in ("hf", "tl")]
    for a, b in zip(made[0].scores, made[1].scores, strict=True):
        for name in ("refusal_score", "induce_score", "kl"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=2e-3, nan_ok=True)
    assert made[0].prompt_hash == made[1].prompt_hash


def test_prompts_that_are_not_treated_as_their_class_are_left_out(qwen: Any, refusal: Any) -> None:
    """Two of the other class in each side: they are not in the means nor in the scores, and it is told."""

    def mixed(part: Any, n: int) -> Any:
        positive = ls.PromptSet((*part.positive[:n], *part.negative[:2]), "mixed")
        return ls.Contrast(positive, ls.PromptSet((*part.negative[:n], *part.positive[:2]), "mixed"))

    clean = refusal.first(fit=4, select=2)
    split = replace(refusal.split, fit=mixed(refusal.fit, 4), select=mixed(refusal.select, 2))
    given = replace(refusal, split=split)
    made = {name: select(qwen, prompts) for name, prompts in (("mixed", given), ("clean", clean))}
    found = made["mixed"]
    assert found.n_given == {"fit": [6, 6], "select": [4, 4]}
    assert (found.n_positive, found.n_negative, found.n_select_positive, found.n_select_negative) == (4, 4, 2, 2)
    assert found.prompt_hash == made["clean"].prompt_hash == clean.fit.hash
    assert torch.equal(found.direction, made["clean"].direction)
    assert found.prompt_hashes_positive == (*clean.fit.positive.hashes, *clean.select.positive.hashes)
    swapped = replace(refusal.split, select=ls.Contrast(refusal.select.negative[:3], refusal.select.negative[:3]))
    with pytest.raises(
        LensSteerError, match="none of the 3 positive select prompts is left by the filter: by the first token of"
    ):
        select(qwen, replace(refusal.first(fit=3), split=replace(swapped, fit=refusal.fit.first(3))))


def test_a_planted_direction_is_found(tmp_path: Path) -> None:
    """In a random model that writes "refuse" at the last token only, after block 2, where the prompt has a marked word:
    found there, and taken out again.
    """
    model: Any = ls.load_model(tiny.build("qwen2", tmp_path / "tiny"), dtype="float32")
    tokenizer = model.lens_info.tokenizer
    (marked,) = tokenizer(" burn", add_special_tokens=False)["input_ids"]
    token = tokenizer("I", add_special_tokens=False)["input_ids"][0]
    model.unembed.W_U.data *= 8  # so that a token can be certain
    written = model.ln_final.w * model.W_U[:, token]
    written = written / written.norm()
    has: list[Tensor] = [torch.zeros(1, dtype=torch.bool)]

    def look(h: Tensor, hook: Any) -> None:
        has[0] = ((h - model.W_E[marked]).abs().amax(dim=-1) < 1e-6).any(dim=1)

    def plant(h: Tensor, hook: Any) -> Tensor:
        new = h.clone()
        if len(has[0]) == len(h):  # a forward of harmless prompts alone that begins at a later block looks at no word
            new[:, -1] += 60 * has[0][:, None] * written
        return new

    objects = ("bridge", "boat", "house", "school", "book", "tree")
    sides = [ls.PromptSet(tuple(ls.Prompt.of(f"How do I {v} the {o}?") for o in objects)) for v in ("burn", "build")]
    part = ls.Contrast(*sides)
    prompts = ls.ContrastSet("planted", type(ls.load_contrast("organism/refusal").split)(part, part, part))
    with (
        attached(model, [("blocks.0.hook_resid_pre", look)], reads=True),
        attached(model, [("blocks.2.hook_resid_post", plant)]),
    ):
        found = ls.select_direction(
            model, prompts, openings=["I"], engine="tl", progress=False, bounds=DirectionBounds(max_kl=5.0)
        )
    assert (found.position, found.block) == (-1, 3)
    assert found.baseline_refusal_score > 0 > found.baseline_induce_score
    assert found.refusal_score < 0 < found.induce_score
    assert float(found.direction @ written.detach()) / float(found.direction.norm()) > 0.99


def test_interrupted_it_goes_on_to_the_same_numbers(
    qwen: Any, refusal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished is not made again, also with other bounds; another run's folder is refused."""
    prompts, scored = refusal.first(fit=3, select=2), Trial.score
    whole = select(qwen, prompts)
    calls: list[int] = []

    def stops(self: Trial, candidate: Any, streams: Any) -> CandidateScore:
        calls.append(candidate.block)
        if len(calls) == 33:
            raise KeyboardInterrupt
        return scored(self, candidate, streams)

    monkeypatch.setattr(Trial, "score", stops)
    with pytest.raises(KeyboardInterrupt):
        select(qwen, prompts, folder=tmp_path)
    with pytest.raises(LensSteerError, match="none of 60 candidate directions keeps the bounds"):
        select(qwen, prompts, folder=tmp_path, bounds=DirectionBounds(max_kl=0.0))
    assert calls[33:] == [block for block in range(6, 12) for _ in range(5)]
    done = len(calls)
    again = select(qwen, prompts, folder=tmp_path)
    assert len(calls) == done
    ls.save_direction(whole, tmp_path / "whole")
    ls.save_direction(again, tmp_path / "again")
    for name in ("direction.safetensors", "direction.json", "scores.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with pytest.raises(LensSteerError, match="holds the beginning of another run"):
        select(qwen, refusal.first(fit=4, select=2), folder=tmp_path)


def scores(*rows: Any) -> list[CandidateScore]:
    return [CandidateScore(*row) for row in rows]


def test_bounds_and_ties() -> None:
    """Each bound at its value is kept; of equals the gentler, then the earlier; NaN is never kept."""
    nan = math.nan
    rows = scores((-1, 7, -1.0, 0.0, 0.1), (-1, 8, -9.0, 5.0, 0.0), (-2, 3, -9.0, -0.01, 0.0), (-3, 3, -9.0, 1.0, 0.11))
    assert choose([*rows, *scores((-4, 0, nan, nan, nan))], DirectionBounds(), 10) == rows[0]
    assert choose(rows, DirectionBounds(max_depth=0.81), 10) == rows[1]
    assert choose(rows, DirectionBounds(min_induce=-1), 10) == rows[2]
    ties = scores((-1, 5, -1.0, 1.0, 0.05), (-2, 4, -1.0, 1.0, 0.01), (-1, 4, -1.0, 1.0, 0.01))
    assert choose(ties, DirectionBounds(), 10) == ties[2]
    everything = DirectionBounds(min_induce=-math.inf, max_kl=math.inf, max_depth=1.0)
    assert not everything.keep(scores((-1, 0, nan, nan, nan))[0], 4)
    assert DirectionBounds().keep(CandidateScore(-1, 19, 0.0, 0.0, 0.0), 24)  # 19 < 19.2, as the paper prints it
    assert not DirectionBounds().keep(CandidateScore(-1, 28, 0.0, 0.0, 0.0), 35)


def test_none_kept_is_told_with_what_would_keep_one() -> None:
    """The bound that leaves out most first, how near the nearest comes, and what is enough."""
    rows = scores(
        (-1, 3, -1.0, 0.5, 0.163), (-1, 4, -2.0, 0.9, 0.4), (-1, 9, -3.0, 1.0, 0.0), (-1, 2, -4.0, -0.256, 0.05)
    )
    with pytest.raises(LensSteerError) as told:
        choose(rows, DirectionBounds(), 10)
    assert str(told.value) == (
        "none of 4 candidate directions keeps the bounds: max_kl=0.1 leaves out 2 (of those that keep the others the "
        "nearest is at 0.163); min_induce=0 leaves out 1 (of those that keep the others the nearest is at -0.256); "
        "max_depth=0.8 leaves out 1 (of those that keep the others the nearest is at block 9 of 10): one bound is "
        "enough to keep one: max_kl=0.17 or min_induce=-0.26 or max_depth=1"
    )
    for mend in ({"max_kl": 0.17}, {"min_induce": -0.26}, {"max_depth": 1.0}):
        choose(rows, DirectionBounds(**mend), 10)
    with pytest.raises(LensSteerError, match="none is left\\): relax more than one bound$"):
        choose(scores((-1, 9, -1.0, -1.0, 0.5)), DirectionBounds(), 10)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"max_kl": -0.1}, "max_kl=-0.1: no divergence is below 0"),
        ({"max_depth": 0.0}, "max_depth=0.0: give a share of the blocks, above 0 and at most 1"),
        ({"max_depth": 1.5}, "max_depth=1.5"),
        ({"min_induce": math.nan}, "min_induce=nan is not a number"),
    ],
)
def test_bad_bounds(how: Any, message: str) -> None:
    with pytest.raises(LensSteerError, match=message):
        DirectionBounds(**how)


def test_bad_arguments(qwen: Any, refusal: Any, selected: Any) -> None:
    """Said before anything runs."""
    for how, message in (
        ({"n_fit": 0}, "n_fit=0: give how many prompts"),
        ({"n_select": -1}, "n_select=-1: give how many"),
        ({"engine": "jax"}, "engine='jax': use one of"),
        ({"openings": []}, "openings is empty"),
    ):
        with pytest.raises(LensSteerError, match=message):
            select(qwen, refusal, **{"bounds": LOOSE, **how})
    empty = replace(refusal, split=replace(refusal.split, select=ls.Contrast(ls.PromptSet(()), ls.PromptSet(()))))
    with pytest.raises(LensSteerError, match=r"no positive select prompts: give a split with both"):
        select(qwen, empty)
    with (
        ls.steering(qwen, ls.act_add(selected)),
        pytest.raises(LensSteerError, match="the plan 'act-add' is in force on the model"),
    ):
        select(qwen, refusal)


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("qwen2", ["<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"]),
        ("llama", ["<|eot_id|>", "\n", "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"]),
        ("gemma2", ["<end_of_turn>", "\n", "<start_of_turn>", "mod", "el", "\n"]),
    ],
)
def test_tokens_after_the_instruction(family: str, wanted: list[str], refusal: Any) -> None:
    """What the template writes after it, and so the end of every prompt."""
    tokenizer = organism(f"organism/{family}")
    found = tokens_after_instruction(tokenizer)
    assert [tokenizer.decode([token]) for token in found] == wanted
    for prompt in [*refusal.fit.positive[:20], ls.Prompt.of("What?", system="Be brief."), *refusal.fit.negative[:20]]:
        assert tuple(encode(tokenizer, prompt)[-len(found) :]) == found


def test_tokens_after_the_instruction_of_other_templates() -> None:
    """ChatML with an empty thought after it; plain turns, whose line end may merge with the instruction; a template
    that ends with the instruction has none.
    """
    thinks = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n<think>\n\n</think>"
    )
    end = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>"
    for template, text in ((thinks, end), (TURNS, "[assistant]")):
        tokenizer = organism(chat_template=template)
        assert tokenizer.decode(tokens_after_instruction(tokenizer)).endswith(text)
    with pytest.raises(LensSteerError, match="has no token after the instruction that is the same for every prompt"):
        tokens_after_instruction(organism(chat_template="{{ messages[0].content }}"))


class Words:
    """A tokenizer that names its tokens."""

    def decode(self, ids: list[int]) -> str:
        return f"t{ids[0]}"


def test_which_openings_are_used() -> None:
    """Those that begin more refusals than other answers, rare ones too."""
    refusals, answers = Counter({1: 60, 2: 30, 3: 8, 4: 2, 5: 0}), Counter({1: 60, 2: 60, 3: 17, 4: 2, 5: 9})
    found = openings_of(refusals, answers, Words())
    assert [(o.token, o.share, o.used) for o in found] == [
        (1, 0.6, True),
        (2, 0.3, True),
        (3, 0.08, False),  # 8 of 17 answers
        (4, 0.02, True),
    ]
    with pytest.raises(LensSteerError, match=r"refuses none of the 3 positive prompts.*openings=…"):
        openings_of(Counter(), Counter({1: 3}), Words())
    with pytest.raises(LensSteerError, match=r"by first token: 't1' 1 of 3\): say with openings=…"):
        openings_of(Counter({1: 1}), Counter({1: 3}), Words())


def test_openings_are_those_of_the_answers(qwen: Any, refusal: Any) -> None:
    """The first token of what is generated; harmless prompts are not refused."""
    asked = [*refusal.fit.positive[:3], *refusal.fit.negative[:3]]
    (found,) = measured_openings(qwen, asked)
    tokenizer = qwen.lens_info.tokenizer
    firsts = {tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in ls.generate(qwen, asked[:3])}
    assert ({found.token}, found.refusals, found.answers, found.share) == (firsts, 3, 3, 1.0)
    with pytest.raises(LensSteerError, match="the model refuses none of the 3 positive prompts"):
        measured_openings(qwen, asked[3:])
    with pytest.raises(LensSteerError, match="prompts is empty"):
        measured_openings(qwen, [])


def test_openings_can_be_given(qwen: Any, refusal: Any, selected: Any) -> None:
    """Nothing is generated then; the same token gives the same numbers."""
    found = select(qwen, few(refusal), openings=["I cannot", "I'm"])
    assert (found.openings, found.refusal_tokens) == ((), selected.refusal_tokens)
    assert found.scores[1:12] == selected.scores[1:12]


def test_the_work_is_counted(qwen: Any, refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards of a run whose filter leaves out nothing, without those at the first block, where there is nothing to
    try.
    """
    prompts, calls = refusal.first(fit=3, select=2), []
    twin = ls.hf_twin(qwen)
    handle = twin.model.embed_tokens.register_forward_pre_hook(lambda module, args: calls.append(args[0].numel()))
    try:
        select(qwen, prompts, openings=["I"])
    finally:
        handle.remove()
    told = selecting_direction(qwen, prompts.fit, prompts.select, 5, None)
    assert told.prefills == len(calls) + 2 * 5 + 1
    assert told.answers == 0
    assert selecting_direction(qwen, prompts.fit, prompts.select, 5, 48).answers == 3
    assert 0.6 * sum(calls) < told.prompt_tokens < sum(calls)
