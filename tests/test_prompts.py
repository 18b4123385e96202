"""Prompt files, contrasts and splits."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from lens_steer.data import Prompt, PromptSet, load_contrast, load_prompts
from lens_steer.errors import LensSteerError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def texts(path: Path) -> list[str]:
    return [p.text for p in load_prompts(path)]


def test_every_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same prompts from .txt, .csv (both columns), .json (three kinds) and .jsonl."""
    two = ["Héllo, “you”", "Second"]
    assert texts(write(tmp_path / "a.txt", "\n".join([*two, "", " "]))) == two
    assert texts(write(tmp_path / "a.csv", 'id,prompt\n1,"Héllo, “you”"\n2,Second\n')) == two
    assert texts(write(tmp_path / "b.csv", 'goal,target\n"Héllo, “you”",x\nSecond,y\n')) == two
    assert texts(write(tmp_path / "a.json", json.dumps(two))) == two
    assert texts(write(tmp_path / "b.json", json.dumps([{"prompt": t} for t in two]))) == two
    rows = [{"instruction": t, "input": ""} for t in two] + [{"instruction": "with input", "input": "data"}]
    with caplog.at_level(logging.WARNING):
        assert texts(write(tmp_path / "c.json", json.dumps(rows))) == two
    assert "left out 1 row " in caplog.text
    assert texts(write(tmp_path / "a.jsonl", "".join(json.dumps({"prompt": t}) + "\n" for t in two))) == two


def test_jsonl_with_system_messages_and_response(tmp_path: Path) -> None:
    """Optional fields are kept."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"prompt": "x", "system": "s", "response": "r"}, {"messages": turns}]
    first, second = load_prompts(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert [m["role"] for m in first.messages] == ["system", "user"]
    assert first.response == "r"
    assert second.text == "c"
    assert len(second.messages) == 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "holds no prompts"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"prompt": "x"}', "a list of prompts is expected"),
        ("a.json", "[1]", "row 1: int is neither"),
        ("a.jsonl", '{"reply": "x"}', "no column of a known name .* its columns are 'reply'"),
        ("a.jsonl", '{"prompt": ', "not valid JSON"),
        ("a.jsonl", '{"prompt": "x"}\n{"other": "x"}', "row 2: no prompt found in the column 'prompt'"),
        ("a.csv", "reply\nx\n", "its columns are 'reply'"),
        ("a.xml", "<x/>", "unknown ending '.xml'"),
        ("a.jsonl", '{"messages": "no"}', "messages need roles"),
        ("a.jsonl", '{"messages": [1]}', "messages need roles"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "with a text content each"),
        ("a.jsonl", '{"messages": [{"role": "robot", "content": "x"}]}', "messages need roles"),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "x"}]}', "must end with a user's"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    """Each error names the file."""
    with pytest.raises(LensSteerError, match=message) as error:
        load_prompts(write(tmp_path / name, text))
    assert name in str(error.value)
    with pytest.raises(LensSteerError, match="does not exist"):
        load_prompts(tmp_path / "absent.txt")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8."""
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(LensSteerError, match="cannot be read as UTF-8"):
        load_prompts(tmp_path / "a.txt")


def test_a_saved_data_set_folder(tmp_path: Path) -> None:
    """As ``datasets.save_to_disk`` writes it."""
    import datasets

    datasets.Dataset.from_dict({"instruction": ["a", "b"], "input": ["", "x"]}).save_to_disk(tmp_path / "d")
    assert texts(tmp_path / "d") == ["a"]
    (tmp_path / "e").mkdir()
    with pytest.raises(LensSteerError, match="data set .* could not be loaded"):
        load_prompts(tmp_path / "e")


def test_contrast_of_two_files(tmp_path: Path) -> None:
    """Every row to fit, unless a split is asked for; then disjoint, complete and the same for a seed."""
    positive = write(tmp_path / "p.txt", "\n".join(f"p{i}" for i in range(40)))
    negative = write(tmp_path / "n.txt", "\n".join(f"n{i}" for i in range(20)))
    whole = load_contrast(positive=positive, negative=negative)
    assert (len(whole.fit.positive), len(whole.fit.negative), len(whole.report.positive)) == (40, 20, 0)
    split = load_contrast(positive=positive, negative=negative, split=(0.5, 0.25, 0.25), seed=1)
    parts = [{p.text for p in part.positive} for part in (split.fit, split.select, split.report)]
    assert [len(p) for p in parts] == [20, 10, 10]
    assert len(set.union(*parts)) == 40
    assert load_contrast(positive=positive, negative=negative, split=(2, 1, 1), seed=1).fit.hash == split.fit.hash
    assert load_contrast(positive=positive, negative=negative, split=(2, 1, 1), seed=2).fit.hash != split.fit.hash


def test_bad_contrasts(tmp_path: Path) -> None:
    """One side missing or empty, both kinds of source, unknown names, shares that are none."""
    some, none = PromptSet((Prompt.of("x"),)), PromptSet(())
    with pytest.raises(LensSteerError, match="negative is missing"):
        load_contrast(positive=some)
    with pytest.raises(LensSteerError, match="negative holds no prompts"):
        load_contrast(positive=some, negative=none)
    with pytest.raises(LensSteerError, match="given together"):
        load_contrast("organism/refusal", positive=some)
    with pytest.raises(LensSteerError, match=r"unknown contrast 'organism/x': known are organism/refusal"):
        load_contrast("organism/x")
    for split in ((1, 2), (0, 0, 0), (-1, 1, 1), (float("nan"), 1, 1)):
        with pytest.raises(LensSteerError, match="three shares"):
            load_contrast(positive=some, negative=some, split=split)


def test_hash_depends_on_content_and_order() -> None:
    """Two sets with the same prompts in the same order have one hash, no others."""
    a, b = Prompt.of("a"), Prompt.of("b")
    assert PromptSet((a, b), "x").hash == PromptSet((Prompt.of("a"), b), "y").hash
    assert len({PromptSet(p).hash for p in ((a, b), (b, a), (a,), (Prompt.of("a", response="r"), b))}) == 4


def test_variants_of_a_scenario_stay_in_one_split(tmp_path: Path) -> None:
    """The same text or the same scenario, on either side or twice on one, is never on both sides of a split."""
    rows = [{"prompt": f"question {i}", "system": s} for i in range(20) for s in ("calmly", "gladly")]
    named = [{"prompt": f"said otherwise {i}", "scenario": f"question {i}"} for i in range(20)]
    for name, table in (("a", rows), ("b", list(reversed(named)))):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in table), encoding="utf-8")
    made = load_contrast(positive=tmp_path / "a.jsonl", negative=tmp_path / "b.jsonl", split=(0.5, 0.25, 0.25))
    groups = [
        {p.group for side in (c.positive, c.negative) for p in side} for c in (made.fit, made.select, made.report)
    ]
    assert [len(g) for g in groups] == [10, 5, 5]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert [len(c.positive) for c in (made.fit, made.select, made.report)] == [20, 10, 10]


def test_a_smaller_set(tmp_path: Path) -> None:
    """The first prompts of each class of the parts that are named, the others whole; a number below 1 is refused."""
    whole = load_contrast("organism/honesty")
    small = whole.first(select=5, report=10_000)
    assert (small.name, small.fit, small.report) == (whole.name, whole.fit, whole.report)
    assert list(small.select.negative) == list(whole.select.negative)[:5]
    assert len(small.select.positive) == 5
    for n in (0, -1):
        with pytest.raises(LensSteerError, match=rf"n={n}: give how many prompts of each class to keep, at least 1"):
            whole.first(fit=n)
