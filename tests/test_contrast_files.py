"""Contrasts of files: limits, parts that come as files, what is said about their prompts, and what a calibration knows
of its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lens_steer as ls
from lens_steer.data import Prompt, PromptSet, fitted_overlap, load_contrast, load_prompts, read_contrast
from lens_steer.data.checks import FEW
from lens_steer.data.splits import deal, draw
from lens_steer.errors import LensSteerError

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = ("positive", "negative", "select_positive", "select_negative", "report_positive", "report_negative")


def made(prefix: str, n: int) -> PromptSet:
    return PromptSet(tuple(Prompt.of(f"{prefix} {i}") for i in range(n)), prefix)


def texts(prompts: PromptSet) -> list[str]:
    return [p.text for p in prompts]


@UNHURRIED
@given(n=st.integers(1, 60), k=st.integers(1, 60), more=st.integers(0, 60), seed=st.integers(0, 5))
def test_a_draw(n: int, k: int, more: int, seed: int) -> None:
    """In order, without repeats, as many as there are at most; a larger one holds a smaller one's; the first are the
    first.
    """
    rows = draw(n, k, seed=seed)
    assert rows == sorted(set(rows)) == draw(n, k, seed=seed)
    assert len(rows) == min(n, k)
    assert set(rows) <= set(draw(n, k + more, seed=seed)) <= set(range(n))
    assert draw(n, f"{k},first", seed=seed) == list(range(min(n, k)))


def test_draws_differ_by_seed_and_reach_every_row() -> None:
    """Over seeds each of ten rows is drawn about as often."""
    counts = [0] * 10
    for seed in range(400):
        for row in draw(10, 3, seed=seed):
            counts[row] += 1
    assert sum(counts) == 1200
    assert all(80 <= c <= 160 for c in counts)


@pytest.mark.parametrize("limit", [0, -1, "x", "3,last", ",first", "1.5", "", "²"])
def test_limits_that_are_none(limit: int | str) -> None:
    """Refused by every reader, with what to give."""
    for load in (lambda: load_prompts(["x"], limit=limit), lambda: load_contrast("organism/refusal", limit=limit)):
        with pytest.raises(
            LensSteerError, match="give a number of prompts of at least 1, or 'N,first' for the first N"
        ):
            load()


def test_a_limit_of_files(tmp_path: Path) -> None:
    """Before the split; a side's draw does not depend on the other's prompts; files of one length stay paired; the line
    tells of it.
    """
    for name, n in (("a", 40), ("b", 40), ("c", 37)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"goal": f"{name} {i}"}) + "\n" for i in range(n)), "utf-8"
        )
    a, b, c = (tmp_path / f"{name}.jsonl" for name in "abc")
    one, other = (load_contrast(positive=a, negative=side, limit=16, seed=3, split=(2, 1, 1)) for side in (b, c))
    assert one.told == (
        "read a.jsonl: column 'goal', 16 of 40 prompts (seed 3); b.jsonl: column 'goal', 16 of 40 prompts (seed "
        "3); fit 8+8, select 4+4, report 4+4"
    )
    whole = [load_contrast(positive=a, negative=side, limit=16, seed=3).fit for side in (b, c)]
    assert texts(whole[0].positive) == texts(whole[1].positive)
    assert [t.split()[1] for t in texts(whole[0].positive)] == [t.split()[1] for t in texts(whole[0].negative)]
    assert {p.text for part in (one.fit, one.select, one.report) for p in part.positive} == set(
        texts(whole[0].positive)
    )
    assert one.fit.positive.hash == other.fit.positive.hash
    assert load_contrast(positive=a, negative=c, limit=16, seed=4).fit.hash != whole[1].hash
    assert texts(load_prompts(c, limit="2,first")) == ["c 0", "c 1"]
    assert str(load_prompts(c, limit="2,first").reading) == "c.jsonl: column 'goal', 2 of 37 prompts (the first)"
    assert str(load_prompts(c, limit=99).reading) == "c.jsonl: column 'goal', 37 prompts"


def test_a_limit_of_each_part(tmp_path: Path) -> None:
    """Of fit, select and report, where each has files of its own, or is an organism's."""
    roles = ("positive", "negative", "select_positive", "select_negative", "report_positive", "report_negative")
    files = {}
    for role in roles:
        files[role] = tmp_path / f"{role}.txt"
        files[role].write_text("".join(f"{role} {i}\n" for i in range(12)), "utf-8")
    found = load_contrast(**files, limit="9/3/6,first")
    assert found.told.endswith("fit 9+9, select 3+3, report 6+6")
    assert texts(found.report.negative) == [f"report_negative {i}" for i in range(6)]
    assert found.select.hash == load_contrast(**files, limit=3).select.hash
    assert load_contrast("organism/json", limit="8/2/4").told.endswith("fit 8+8, select 2+2, report 4+4")
    two = {role: files[role] for role in roles[:2]}
    with pytest.raises(LensSteerError, match="a file that is dealt to several parts has one limit"):
        load_contrast(**two, limit="9/3/6", split=(2, 1, 1))
    with pytest.raises(LensSteerError, match="give one number, or three for fit, select and report"):
        load_contrast(**two, limit="9/3")


def test_a_limit_of_an_organism() -> None:
    """Of each class of each part."""
    whole, some = load_contrast("organism/json"), load_contrast("organism/json", limit=8)
    assert some.told == "read organism/json: fit 8+8, select 8+8, report 8+8"
    assert set(some.report.positive.hashes) <= set(whole.report.positive.hashes)
    assert load_contrast("organism/json", limit="8,first").fit.hash == whole.fit.first(8).hash


@UNHURRIED
@given(
    sizes=st.lists(st.integers(1, 12), min_size=6, max_size=6),
    own=st.sets(st.sampled_from(["select", "report"])),
    shares=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    limit=st.none() | st.integers(1, 14),
    seed=st.integers(0, 3),
)
def test_parts_with_files_of_their_own(
    sizes: list[int], own: set[str], shares: tuple[int, int, int], limit: int | None, seed: int
) -> None:
    """They are read whole but for the limit; what is dealt is all of the rest, each prompt once; a part with share 0
    gets none.
    """
    given_files: dict[str, Any] = {
        name: made(name, n)
        for name, n in zip(NAMES, sizes, strict=True)
        if name.count("_") == 0 or name.split("_")[0] in own
    }
    shares = tuple(0 if part in own else s for part, s in zip(("fit", "select", "report"), shares, strict=True))  # type: ignore[assignment]
    if not any(shares):
        shares = (1, 0, 0)
    try:
        found = read_contrast(**given_files, split=shares, limit=limit, seed=seed)
    except LensSteerError as error:
        assert "leaves no prompt of" in str(error)
        assert min(sizes[:2]) < 3 or limit is not None
        return
    dealt: dict[str, list[str]] = {"positive": [], "negative": []}
    for part, share in zip(("fit", "select", "report"), shares, strict=True):
        for side in dealt:
            prompts = getattr(getattr(found, part), side)
            if part in own:
                assert prompts.prompts == given_files[f"{part}_{side}"].limited(limit, seed=seed).prompts
            else:
                dealt[side] += texts(prompts)
                assert share > 0 or not len(prompts)
    for side, held in dealt.items():
        assert sorted(held) == sorted(texts(given_files[side].limited(limit, seed=seed)))


@given(
    groups=st.lists(st.sampled_from("abcdefgh"), min_size=1),
    shares=st.tuples(*[st.integers(0, 3)] * 2),
    seed=st.integers(0, 3),
)
def test_a_share_of_nothing_for_fit(groups: Sequence[str], shares: tuple[int, int], seed: int) -> None:
    """No row goes to fit, and every other split with a share gets a group where there are enough."""
    if not any(shares):
        return
    of = deal(groups, (0, *shares), seed=seed)
    assert 0 not in of
    if len(set(groups)) >= 2:
        assert set(of) == {i for i, share in enumerate(shares, start=1) if share}


def test_files_for_select_and_report_alone() -> None:
    """Where nothing is fitted, and then there is nothing to split."""
    held_out: dict[str, Any] = {name: made(name, 3) for name in NAMES[2:]}
    found = load_contrast(**held_out)
    assert found.split.sizes == "fit 0+0, select 3+3, report 3+3"
    assert load_contrast(**held_out, positive=["a"], negative=["b"]).split.sizes == "fit 1+1, select 3+3, report 3+3"
    with pytest.raises(LensSteerError, match="recording needs prompts with and without the feature"):
        ls.record(ls.load_model("organism/qwen2"), found, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select_positive": ["x"]}, "select_negative is missing"),
        ({"report_negative": ["x"]}, "report_positive is missing"),
        ({"positive": None, "select_positive": ["x"], "select_negative": ["y"]}, "positive is missing"),
        (
            {"select_positive": ["x"], "select_negative": ["y"], "split": (1, 1, 0)},
            "gives select a share and select_positive its prompts",
        ),
        (
            {"positive": None, "negative": None, **{name: ["x"] for name in NAMES[2:]}, "split": (1, 0, 0)},
            "has nothing to split",
        ),
        ({"column": ["a", "b", "c"]}, "give one name, or two"),
        (
            {"name": "organism/json", "positive": None, "negative": None, "column": "a"},
            "an organism's contrast: leave it out",
        ),
        (
            {"name": "organism/json", "positive": None, "negative": None, "report_negative": ["x"]},
            "were given together",
        ),
    ],
)
def test_arguments_that_contradict_each_other(arguments: dict[str, Any], message: str) -> None:
    """Each says which and what to do."""
    everything: dict[str, Any] = {"positive": ["p"], "negative": ["n"]} | arguments
    with pytest.raises(LensSteerError, match=message):
        load_contrast(**everything)


def test_a_column_for_each_class(tmp_path: Path) -> None:
    """One name for all files, or one for the positive and one for the negative ones."""
    (tmp_path / "p.csv").write_text("goal,prompt,ask\nby goal,by prompt,by ask\n", "utf-8")
    (tmp_path / "n.csv").write_text("query,ask,prompt\nby query,by ask,by prompt\n", "utf-8")
    files: dict[str, Any] = {name: tmp_path / f"{name.rpartition('_')[2][0]}.csv" for name in NAMES}
    both = load_contrast(**files, column="ask").report
    assert (texts(both.positive), texts(both.negative)) == (["by ask"], ["by ask"])
    each = load_contrast(**files, column=("goal", "query"))
    assert [(texts(c.positive), texts(c.negative)) for c in (each.fit, each.select)] == [
        (["by goal"], ["by query"])
    ] * 2
    assert each.readings["select_negative"].column == "query"


def said(caplog: pytest.LogCaptureFixture, **arguments: Any) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = load_contrast(**arguments)
    assert [r.getMessage() for r in caplog.records] == list(found.cautions)
    assert all("\n" not in line for line in found.cautions)
    return " | ".join(found.cautions)


def test_what_is_said_about_the_prompts(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of enough different prompts; else what is wrong with how many."""
    p, n = made("p", 40), made("n", 40)
    assert said(caplog, positive=p, negative=n, split=(2, 1, 1)) == ""
    assert (
        said(caplog, positive=PromptSet((*p, n[0], n[1])), negative=n)
        == "2 prompts stand in both classes: leave them out of one"
    )
    assert said(caplog, positive=PromptSet((*p, p[0], p[0], p[1])), negative=n) == (
        "positive: 2 prompts stand more than once (3 rows too many); every row counts"
    )
    assert said(caplog, positive=p[: FEW - 1], negative=n[:FEW]).startswith("positive: 15 prompts in fit are few")
    assert said(caplog, positive=p, negative=n[:1]).startswith(
        "negative: one prompt in fit: its class mean is that one prompt's"
    )
    assert said(caplog, positive=p, negative=n, select_positive=p[:3], select_negative=made("s", 2)) == (
        "fit and select share 3 positive and 0 negative prompts: numbers of select are not held out for these"
    )
    held_out = {
        "select_positive": p[:3],
        "select_negative": n[:2],
        "report_positive": p[2:4],
        "report_negative": made("r", 2),
    }
    assert said(caplog, **held_out).startswith("select and report share 1 positive and 0 negative prompts")


def test_the_same_prompt_with_other_answers_is_another_row(caplog: pytest.LogCaptureFixture) -> None:
    """Complying and refusing answers to the same prompts are a contrast; so are two system prompts."""
    sides = [PromptSet(tuple(Prompt.of(f"{i}", response=r) for i in range(20))) for r in ("Gladly.", "No.")]
    assert said(caplog, positive=sides[0], negative=sides[1]) == ""
    sides = [PromptSet(tuple(Prompt.of(f"{i}", system=s) for i in range(20))) for s in ("Be kind.", "Be rude.")]
    assert said(caplog, positive=sides[0], negative=sides[1]) == ""


def test_overlap_with_what_was_fitted() -> None:
    """Counted by part, in words."""
    p = made("p", 10)
    seen = p[:4].hashes
    parts = {"select": [p[2:8], made("n", 4)], "report": [p[8:], made("n", 4)]}
    assert fitted_overlap(seen, parts) == (
        "2 of 10 select prompts are among those that the calibration was made from: results on them are not held out"
    )
    assert fitted_overlap((), parts) is None
    assert "3 of 10 select prompts and 2 of 6 report prompts are" in str(fitted_overlap((*seen, *p[7:].hashes), parts))


def test_a_calibration_knows_its_prompts(tmp_path: Path, qwen: Any) -> None:
    """By their hashes, on disk too, from activations and from moments; a folder of before then loads without."""
    contrast = load_contrast("organism/refusal", limit=4).fit
    for keep in ("all", "moments"):
        calibration = ls.calibrate(ls.record(qwen, contrast, "resid_post", keep=keep, progress=False))
        assert calibration.prompt_hashes_positive == contrast.positive.hashes
        assert calibration.prompt_hashes_negative == contrast.negative.hashes
    ls.save_calibration(calibration, tmp_path)
    assert ls.load_calibration(tmp_path).prompt_hashes_negative == contrast.negative.hashes
    facts = json.loads((tmp_path / "calibration.json").read_text("utf-8"))
    assert all(len(facts.pop(f"prompt_hashes_{side}")) == 4 for side in ("positive", "negative"))
    (tmp_path / "calibration.json").write_text(json.dumps(facts), "utf-8")
    assert ls.load_calibration(tmp_path).prompt_hashes_positive == ()
