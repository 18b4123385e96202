"""Watching a boundary token by token: against plain Hugging Face forwards, on every engine, in and around steering;
nothing is changed or left behind.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lens_steer as ls
from lens_steer.data import Contrast, Prompt
from lens_steer.errors import LensSteerError
from lens_steer.geometry.boundary import Boundary
from lens_steer.inference import batching, clock
from lens_steer.inference.teacher_forcing import response_logits, with_responses
from lens_steer.models import sites
from lens_steer.models.fits import reference
from lens_steer.models.loading import hf_twin
from lens_steer.operators.projection import past_threshold
from lens_steer.steer import monitor
from tests.test_hooks import hook_count
from tests.test_parity import PROMPTS, hf_sites

NEW = 6
KINDS = ("resid_pre", "ln1", "attn_out", "resid_mid", "ln2", "mlp_out", "resid_post")


def boundary_at(model: Any, site: str, threshold: float = 0.0) -> Boundary:
    """Along a random direction that is not of unit length."""
    info = model.lens_info
    direction = 3 * torch.randn(info.d_model, generator=torch.Generator().manual_seed(7))
    return Boundary(site, direction, threshold, 1.0, 1.0, -1.0, 1.0, **reference(info))


def plain(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """All but the numbers."""
    return [tuple(v for k, v in row.items() if k not in ("projection", "fired")) for row in rows]


def values(rows: list[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([row["projection"] for row in rows])


def same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    return plain(a) == plain(b) and torch.allclose(values(a), values(b), atol=1e-4)


@pytest.mark.parametrize("engine", ["tl", "hf"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_hugging_face(tiny: Any, twin: Any, kind: str, engine: str) -> None:
    """Every kind of site, in a padded batch that generates: each token's projection is that of one plain forward over
    prompt and answer.
    """
    info, site = tiny.lens_info, sites.Site(2, kind).name
    found = boundary_at(tiny, site, 0.2)
    with ls.monitor(tiny, found) as seen:
        ls.generate(tiny, PROMPTS, max_new_tokens=NEW, engine=engine)
    assert hook_count(tiny) == 0
    for row, prompt in enumerate(PROMPTS):
        tokens = seen.of(row)
        ids = [token["token_id"] for token in tokens]
        head = batching.encode(info.tokenizer, prompt)
        assert ids[: len(head)] == head
        assert [token["position"] for token in tokens] == list(range(len(head) + NEW - 1))
        assert [token["region"] for token in tokens] == ["prompt"] * len(head) + ["generated"] * (NEW - 1)
        h = hf_sites(twin, torch.tensor([ids]), (site,), info.layout)[site][0]
        assert torch.allclose(values(tokens), h @ found.direction / found.direction.norm(), atol=1e-4)
        assert [t["fired"] for t in tokens] == past_threshold(h, found.direction, threshold=0.2).tolist()
        assert all(token["token"] == info.tokenizer.decode([token["token_id"]]) for token in tokens)


def test_the_same_without_a_cache_and_one_by_one(tiny: Any) -> None:
    """A token that is computed again is recorded once; another batch, another engine, the twin by itself: the same
    rows.
    """
    found = boundary_at(tiny, "blocks.2.ln2.hook_out")
    with ls.monitor(tiny, found) as seen:
        ls.generate(tiny, PROMPTS, max_new_tokens=NEW, engine="tl")
    wanted = seen.rows()
    tl, hf = {"engine": "tl"}, {"engine": "hf"}
    for options in (
        {"kv_cache": False, **tl},
        {"kv_cache": False, **hf},
        {"batch_size": 2, **tl},
        {"batch_size": 2, **hf},
    ):
        with ls.monitor(tiny, found) as seen:
            ls.generate(tiny, PROMPTS, max_new_tokens=NEW, **options)  # type: ignore[arg-type]
        assert same(seen.rows(), wanted)
    with ls.monitor(tiny, found) as seen:
        for prompt in PROMPTS:
            ls.generate(tiny, prompt, max_new_tokens=NEW)
    assert [row["call"] for row in seen.rows()] == [row["row"] for row in wanted]
    assert same([{**row, "call": 0} for row in seen.rows()], wanted)
    twin = hf_twin(tiny)
    with ls.monitor(twin, found) as seen:
        ls.generate(twin, PROMPTS, max_new_tokens=NEW)
    assert same(seen.rows(), wanted)


@pytest.mark.parametrize("engine", ["tl", "hf"])
@pytest.mark.parametrize("kind", ["resid_pre", "ln2", "attn_out", "resid_post"])
def test_order_of_entering_decides(tiny: Any, kind: str, engine: str) -> None:
    """Inside the steering block it sees what the plan wrote, outside what was there before; both at once too. On
    Gemma-2 and 3 under the site's other name as well.
    """
    found = boundary_at(tiny, sites.Site(2, kind).name)
    found = replace(found, direction=found.direction / found.direction.norm())
    plan = ls.fixed_coefficient(found, 7.0)
    if kind == "attn_out" and tiny.lens_info.architecture.startswith("gemma"):
        found = replace(found, site="blocks.2.ln1_post.hook_out")

    def run() -> None:
        list(response_logits(tiny, with_responses(PROMPTS, ["Sure. Take the hammer."] * len(PROMPTS)), engine=engine))

    with ls.monitor(tiny, found) as alone:
        run()
    with ls.monitor(tiny, found) as outside, ls.steering(tiny, plan), ls.monitor(tiny, found) as inside:
        run()
    assert same(outside.rows(), alone.rows())
    assert plain(inside.rows()) == plain(alone.rows())
    assert torch.allclose(values(inside.rows()), values(alone.rows()) + 7 * found.separation, atol=1e-4)


def test_watching_changes_nothing(tiny: Any) -> None:
    """To the bit; hooks are gone afterwards, also after an error, from model and twin."""
    ids, twin = torch.tensor([[5, 6, 7, 8]]), hf_twin(tiny)
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (*twin.modules(), *tiny.modules()))
    with torch.inference_mode():
        before = tiny(ids)
        with pytest.raises(RuntimeError, match="stop"), ls.monitor(tiny, boundary_at(tiny, "blocks.1.hook_resid_mid")):
            assert torch.equal(tiny(ids), before)
            ls.generate(tiny, "Hi", max_new_tokens=2, engine="hf")
            raise RuntimeError("stop")
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (*twin.modules(), *tiny.modules())) == count


def test_a_users_hook_is_still_refused(tiny: Any) -> None:
    """The monitor's hooks are known to engine='hf', others are not."""
    with ls.monitor(tiny, boundary_at(tiny, "blocks.1.hook_resid_post")):
        tiny.add_hook("blocks.0.hook_resid_post", lambda a, hook: a)
        with pytest.raises(LensSteerError, match="added to the model by hand"):
            ls.generate(tiny, ["Hi"], engine="hf")
        tiny.reset_hooks()
        with pytest.raises(LensSteerError, match="were removed"):
            ls.generate(tiny, ["Hi"], engine="hf")


@pytest.fixture(scope="module")
def watched(qwen: Any, calibration: Any, refusal: Any) -> tuple[Boundary, list[Prompt]]:
    return ls.boundary(calibration), [*refusal.report.positive[:3], *refusal.report.negative[:3]]


@pytest.mark.parametrize("engine", ["tl", "hf"])
def test_ended_answers(qwen: Any, watched: Any, engine: str) -> None:
    """The rows are the answers' own tokens, to their ends: all of one that ended by itself, all but the last of one
    that was cut short.
    """
    found, prompts = watched
    with ls.monitor(qwen, found) as seen:
        texts = ls.generate(qwen, prompts, max_new_tokens=9, engine=engine)
    tokenizer = qwen.lens_info.tokenizer
    lengths = set()
    for row, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        generated = [token["token_id"] for token in seen.of(row) if token["region"] == "generated"]
        assert generated == ids[:8]
        lengths.add(len(ids))
    assert len(lengths) > 1


def test_recording_and_forcing(qwen: Any, watched: Any) -> None:
    """A recording's two sides are two calls; a fixed response counts as generated, and to its last token."""
    found, prompts = watched
    block = sites.parse(found.site).block
    contrast = Contrast(ls.PromptSet(tuple(prompts[:3])), ls.PromptSet(tuple(prompts[3:])))
    names = [f"blocks.{block}.hook_resid_post"]
    with ls.monitor(qwen, found) as seen:
        ls.record(qwen, contrast, names, progress=False)
        list(response_logits(qwen, with_responses(prompts, ["It is red."] * 6)))
        assert [row["row"] for row in seen.rows() if row["position"] == 0] == list(range(12))
    assert [row["call"] for row in seen.rows() if row["position"] == 0] == [0] * 3 + [1] * 3 + [2] * 6
    for row in range(6):
        assert seen.of(row)[-1]["region"] == "prompt"
        assert "".join(t["token"] for t in seen.of(6 + row) if t["region"] == "generated") == "It is red."
    # both sides' projections are those that the calibration has the midpoint of
    assert found.threshold > seen.of(3)[-1]["projection"]
    with ls.monitor(qwen, found) as early:
        ls.record(qwen, contrast, ["blocks.0.hook_resid_post"], progress=False)
    assert early.rows() == []
    assert early.fire_rate() is None
    assert "nothing ran" in repr(early)
    assert "nothing ran" in early._repr_html_()


def test_fire_rates(qwen: Any, watched: Any) -> None:
    """Of everything and of one region, from the rows; the other gate fires on the others."""
    found, prompts = watched
    with ls.monitor(qwen, found) as below, ls.monitor(qwen, found, gate="above") as above:
        ls.generate(qwen, prompts, max_new_tokens=6)
    for region in (None, "prompt", "generated"):
        fired = [row["fired"] for row in below.rows() if region in (None, row["region"])]
        assert below.fire_rate(region) == pytest.approx(sum(fired) / len(fired))
        assert below.fire_rate(region) == pytest.approx(1 - float(above.fire_rate(region) or 0))
    assert 0 < float(below.fire_rate() or 0) < 1
    assert re.fullmatch(
        r"Monitor\(blocks\.8\.ln2\.hook_out: 6 prompts, gate below \S+ fired on \d+\.\d % of \d+ tokens\)", repr(below)
    )
    with pytest.raises(LensSteerError, match="region='answer': use one of prompt, generated"):
        below.fire_rate("answer")
    with pytest.raises(LensSteerError, match="row=6: no such prompt ran inside the block, which saw 6"):
        below.of(6)


def test_the_gate_is_strict(tiny: Any) -> None:
    """A projection that equals the threshold is on neither side."""
    found = boundary_at(tiny, "blocks.1.hook_resid_post")
    ids = torch.tensor([[5, 6, 7]])
    with ls.monitor(tiny, found) as seen:
        tiny(ids)
    exact = replace(found, threshold=seen.rows()[1]["projection"])
    with ls.monitor(tiny, exact) as below, ls.monitor(tiny, exact, gate="above") as above:
        tiny(ids)
    assert [b["fired"] or a["fired"] for b, a in zip(below.rows(), above.rows(), strict=True)] == [True, False, True]


def test_a_conversation_is_seen_once(qwen: Any, watched: Any) -> None:
    """Each token in one row, prompts and answers apart, an answer's last token when the next turn feeds it; on both
    engines, together as one by one.
    """
    found, prompts = watched
    dialogues = [
        ls.Dialogue((prompts[0].text, prompts[3].text)),
        ls.Dialogue((prompts[4].text,)),
        ls.Dialogue(("Hi", "Why?")),
    ]
    wanted: list[list[dict[str, Any]]] = []
    for dialogue in dialogues:
        with ls.monitor(qwen, found) as seen:
            answers = ls.converse(qwen, dialogue, max_new_tokens=5, engine="tl")[0]
        wanted.append(seen.of(0))
        ids = qwen.lens_info.tokenizer(answers[0], add_special_tokens=False)["input_ids"]
        generated = [t["token_id"] for t in seen.of(0) if t["region"] == "generated"]
        assert generated[: len(ids)] == (ids if len(dialogue.turns) > 1 else ids[:4])
        assert [t["position"] for t in seen.of(0)] == list(range(len(seen.of(0))))
    for engine in ("tl", "hf"):
        with ls.monitor(qwen, found) as seen:
            ls.converse(qwen, dialogues, max_new_tokens=5, engine=engine)
        assert {row["call"] for row in seen.rows()} == {0}
        for row, alone in enumerate(wanted):
            assert same([{**token, "row": 0} for token in seen.of(row)], alone)
    assert " … <span" in seen._repr_html_()


def test_forwards_of_ones_own(tiny: Any) -> None:
    """Every row a prompt's; padding is known by the mask; a layout tells prompts and answers apart; what cannot be
    known is said.
    """
    found = boundary_at(tiny, "blocks.1.hook_resid_post")
    ids, mask = torch.tensor([[9, 5, 6], [5, 6, 7]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    with ls.monitor(tiny, found) as seen, torch.inference_mode():
        tiny(ids, attention_mask=mask)
        tiny(ids[1:])
    assert [(t["row"], t["call"], t["position"], t["token_id"]) for t in seen.rows()] == [
        (0, 0, 0, 5),
        (0, 0, 1, 6),
        (1, 0, 0, 5),
        (1, 0, 1, 6),
        (1, 0, 2, 7),
        (2, 1, 0, 5),
        (2, 1, 1, 6),
        (2, 1, 2, 7),
    ]
    assert {t["region"] for t in seen.rows()} == {"prompt"}
    assert torch.allclose(values(seen.of(1)), values(seen.of(2)), atol=1e-5)
    assert torch.allclose(values(seen.of(0)), values(seen.of(2))[:2], atol=1e-5)
    with (
        ls.monitor(tiny, found) as seen,
        torch.inference_mode(),
        clock.running(batching.Batch((4, 2), ids, mask, (1, 2))),
    ):
        tiny(ids, attention_mask=mask)
    assert [t["region"] for t in seen.of(4)] == ["prompt", "generated"]
    assert [t["region"] for t in seen.of(2)] == ["prompt", "generated", "generated"]
    with (
        ls.monitor(tiny, found),
        torch.inference_mode(),
        pytest.raises(LensSteerError, match=r"the monitor does not know .* (run it through|give the model token ids)"),
    ):
        tiny.generate(ids[1:], max_new_tokens=3, do_sample=False, verbose=False, return_type="tokens")
    twin = hf_twin(tiny)
    with ls.monitor(twin, found), torch.inference_mode():
        cache = twin(ids[1:], use_cache=True).past_key_values
        with pytest.raises(
            LensSteerError, match="does not know the prompts that this forward goes on from: run it through"
        ):
            twin(ids[:1, :1], past_key_values=cache)
        with pytest.raises(
            LensSteerError, match="does not know which tokens this forward is fed: give the model token ids"
        ):
            twin(inputs_embeds=torch.zeros(1, 3, 48))


def test_what_does_not_fit_is_refused(tiny: Any) -> None:
    """Another model's boundary, a site that it does not have, no direction, an unknown gate: before a hook is added."""
    found = boundary_at(tiny, "blocks.1.hook_resid_post")
    other = "llama" if tiny.lens_info.architecture != "llama" else "qwen2"
    for wrong, message in (
        (replace(found, n_layers=30), r"Boundary was made on .*n_layers 30.* has n_layers 4"),
        (replace(found, direction=torch.ones(64)), "d_model 64"),
        (replace(found, architecture=other), f"architecture {other}"),
        (replace(found, site="blocks.7.hook_resid_post"), "site 'blocks.7.hook_resid_post' does not exist"),
        (replace(found, direction=torch.zeros(48)), "direction is zero"),
    ):
        with pytest.raises(LensSteerError, match=message):
            ls.monitor(tiny, wrong).__enter__()
    with pytest.raises(LensSteerError, match="gate='left': use one of below, above"):
        ls.monitor(tiny, found, gate="left").__enter__()
    assert hook_count(tiny) == 0


def test_the_notebooks_view(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blue below, white at, vermilion above the threshold, the farthest strongest; text is escaped; fired tokens are
    underlined; matplotlib is not asked.
    """
    info = tiny.lens_info
    bad = next(
        i
        for i in range(len(info.tokenizer))
        if "<" in info.tokenizer.decode([i]) and i not in info.tokenizer.all_special_ids
    )
    found = boundary_at(tiny, "blocks.1.hook_resid_post")
    seen = monitor.Monitor(found, "below", info.tokenizer)
    rho = torch.tensor([[-2.0, 0.0, 1.0, float("nan")]])
    ids, position = torch.tensor([[bad, 7, 8, 9]]), torch.arange(4)[None]
    every = torch.ones(1, 4, dtype=torch.bool)
    seen.add(object(), torch.tensor([0]), position, every, ids, rho, rho < 0, every)
    shown = seen._repr_html_()
    spans = re.findall(
        r"<span style='background:(#\w{6});color:black(;text-decoration:underline)?' title='([^']+)'>([^<]*)</span>",
        shown,
    )
    assert [(c, bool(u), v) for c, u, v, _ in spans] == [
        ("#338ec1", True, "-2"),
        ("#ffffff", False, "0"),
        ("#eebf99", False, "1"),
        ("#bbbbbb", False, "nan"),
    ]
    assert "&lt;" in spans[0][3]
    assert "white at the threshold 0 " in shown
    monkeypatch.setattr(monitor, "MAX_SHOWN", 1)
    seen.add(object(), torch.tensor([0]), position, every, ids, rho, rho < 0, every)
    assert "… and 1 more prompts" in seen._repr_html_()
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(Path(monitor.__file__).read_text(encoding="utf-8")))
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "matplotlib" not in imported
