"""Where prompts come from: every kind of file as it comes in the field, columns, saved data sets, and what is wrong
with a file.
"""

from __future__ import annotations

import json
import logging
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from lens_steer.data import load_contrast, load_prompts
from lens_steer.data.datasets import parse_hub
from lens_steer.data.files import ENDINGS, Table, delimiter_of
from lens_steer.data.loading import KNOWN, find_column, read_table
from lens_steer.errors import LensSteerError

TEXTS = [f"Please help me paint the clinic at harbour {k}." for k in range(1, 9)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def csv_of(path: Path, header: str, row: str, delimiter: str = ",") -> Path:
    """Eight rows, of the pattern with its text for ``{}``."""
    lines = [header, *(row.format(t) for t in TEXTS)]
    return write(path, "\n".join(line.replace("|", delimiter) for line in lines) + "\n")


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kinds of file, of our own."""
    import datasets
    import pandas

    folder = tmp_path_factory.mktemp("field")
    csv_of(folder / "goal_target.csv", "|Goal|Target|Behavior", 'x|{}|"Sure, here"|Paint')
    csv_of(folder / "behavior.csv", "Behavior|FunctionalCategory", "{}|standard")
    csv_of(folder / "forbidden_prompt.csv", "category|forbidden_prompt", "own|{}")
    csv_of(folder / "question.tsv", "id|question|answer", "7|{}|", "\t")
    csv_of(folder / "semicolon.csv", "id|prompt", "7|{}", ";")
    write(folder / "text.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    write(folder / "nested.json", json.dumps({"version": "1", "data": [{"prompt": t} for t in TEXTS]}))
    write(
        folder / "broken_row.jsonl", "".join(json.dumps({"prompt": t}) + "\n" for t in TEXTS[:5]) + '{"prompt": "cut\n'
    )
    pandas.DataFrame({"prompt": TEXTS, "n": range(8)}).to_parquet(folder / "prompts.parquet")
    saved = datasets.DatasetDict({"test": datasets.Dataset.from_dict({"question": TEXTS})})
    saved.save_to_disk(str(folder / "saved_test_split"))
    return folder


COLUMNS = {
    "goal_target.csv": "Goal",
    "behavior.csv": "Behavior",
    "forbidden_prompt.csv": "forbidden_prompt",
    "question.tsv": "question",
    "text.jsonl": "text",
    "semicolon.csv": "prompt",
    "prompts.parquet": "prompt",
    "nested.json": "prompt",
    "saved_test_split@test": "question",
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("where", ["field", "copies"])
def test_field_inputs_load(request: pytest.FixtureRequest, where: str, name: str) -> None:
    """Eight prompts by the known name in any case, and by naming the column; the column is told."""
    source, column = request.getfixturevalue(where) / name, COLUMNS[name]
    found = load_prompts(source)
    assert [p.text[-len("harbour 1.") :] for p in found] == [f"harbour {k}." for k in range(1, 9)]
    assert found.reading is not None
    assert (found.reading.column, found.reading.n_rows, found.reading.n_left_out) == (column, 8, 0)
    assert str(found.reading) == f"{name}: column {column!r}, 8 prompts"
    assert load_prompts(source, column=column.upper()).prompts == found.prompts


@pytest.mark.parametrize("where", ["field", "copies"])
def test_field_inputs_that_are_refused(request: pytest.FixtureRequest, where: str) -> None:
    """A broken row is named, and so are the splits and columns of a data set without ``train``."""
    folder = request.getfixturevalue(where)
    with pytest.raises(LensSteerError, match=r"broken_row\.jsonl', row 6: not valid JSON") as error:
        load_prompts(folder / "broken_row.jsonl")
    assert "\n" not in str(error.value)
    for name in ("saved_test_split", "saved_test_split@dev"):
        with pytest.raises(
            LensSteerError, match="its splits are 'test', its columns 'question'; name one as saved_test_split@SPLIT"
        ):
            load_prompts(folder / name)


def test_a_prompt_in_both_classes(field: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the field has it."""
    with caplog.at_level(logging.WARNING):
        load_contrast(positive=field / "both.jsonl", negative=field / "text.jsonl")
    assert "1 prompt stands in both classes" in caplog.text


def test_the_known_names_stand_in_their_order(tmp_path: Path) -> None:
    """Of any two the earlier is read, however the file orders and writes them; an empty one gives way."""
    for first, second in pairwise(KNOWN):
        table = Table.of("x", [{second.upper(): "b", first.title(): "a"}])
        assert find_column(table) == first.title()
    assert find_column(Table.of("x", [{"prompt": " ", "text": None}, {"prompt": None, "text": "t"}])) == "text"
    steered = write(tmp_path / "out.jsonl", json.dumps({"prompt": "asked", "text": "answered"}))
    (found,) = load_prompts(steered, response=("response", "text"))
    assert (found.text, found.response) == ("asked", "answered")
    (found,) = load_prompts(write(tmp_path / "t.jsonl", json.dumps({"text": "asked"})), response=("response", "text"))
    assert (found.text, found.response) == ("asked", None)


def test_a_named_column(tmp_path: Path) -> None:
    """Its own case goes before another's; texts have none; messages may stand under any name; it goes before
    ``messages`` and ``input``.
    """
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"Ask": "upper", "ask": "lower", "chat": turns, "messages": turns, "input": "given"}]
    path = write(tmp_path / "a.json", json.dumps(rows))
    with pytest.raises(LensSteerError, match="of its 1 rows 1 with a non-empty 'input'"):
        load_prompts(path)
    del rows[0]["input"]
    path = write(tmp_path / "a.json", json.dumps(rows))
    assert [p.text for c in ("ask", "Ask", "ASK", "chat") for p in load_prompts(path, column=c)] == [
        "lower",
        "upper",
        "upper",
        "c",
    ]
    assert load_prompts(path).reading.column == "messages"  # type: ignore[union-attr]
    assert load_prompts(write(tmp_path / "i.csv", "input\nx\n"), column="input")[0].text == "x"
    assert load_prompts(["x"], column="any").reading.column is None  # type: ignore[union-attr]
    with pytest.raises(LensSteerError, match="no column 'goal': its columns are 'Ask', 'ask', 'chat', 'messages'"):
        load_prompts(path, column="goal")


def test_blank_prompts_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of every format; a file of them alone is refused."""
    rows = [{"prompt": "x"}, {"prompt": " \n"}, {"prompt": None}, {"prompt": ""}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    with caplog.at_level(logging.WARNING):
        found = load_prompts(path)
    assert ([p.text for p in found], "a.jsonl: left out 3 rows whose prompt is blank" in caplog.text) == (["x"], True)
    assert str(found.reading) == "a.jsonl: column 'prompt', 1 of 4 prompts (3 blank left out)"
    assert len(load_prompts(write(tmp_path / "a.csv", "id,goal\n1,x\n2,\n3\n"))) == 1
    assert len(load_prompts(["x", " "])) == 1
    blank = [{"messages": [{"role": "user", "content": " "}]}]
    for name, text in (("b.csv", 'id,goal\n1,""\n'), ("b.json", json.dumps(["", " "])), ("c.json", json.dumps(blank))):
        with pytest.raises(LensSteerError, match=r"holds no prompts: of its [12] rows [12] blank"):
            load_prompts(write(tmp_path / name, text))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.json",
            '{"a": [], "b": ["x"]}',
            r"an object with 'a' \(list\), 'b' \(list\): a list of prompts is expected",
        ),
        ("a.json", '{"a": {"b": 1}}', r"an object with 'a' \(dict\)"),
        ("a.json", '"x"', "holds str"),
        ("a.json", "", "not valid JSON"),
        ("a.json", "[]", "holds no prompts"),
        ("a.jsonl", "", "holds no prompts"),
        ("a.csv", "", "holds no prompts"),
        ("a.csv", "prompt\n", "holds no prompts"),
        ("a.jsonl", '\n{"prompt": "x"}\n\n{"prompt"', r"row 2 \(line 4\): not valid JSON"),
        ("a.jsonl", '{"prompt": 3}', "row 1: prompt is 3, no text"),
        (
            "a.csv",
            "prompt\nfine\nOne, two, three\n",
            "row 2: 3 fields where the header has 1: put quotes around texts with a ','",
        ),
        ("a.xlsx", "x", r"unknown ending '\.xlsx', use \.jsonl, .* or \.parquet"),
        ("a.parquet", "no table", "cannot be read as Parquet"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    """It names the file and what to do."""
    with pytest.raises(LensSteerError, match=message) as error:
        load_prompts(write(tmp_path / name, text))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_tables_as_they_are_written(tmp_path: Path) -> None:
    """Quoted texts with delimiters and line ends, a mark at the start, Windows line ends, endings in capitals; the
    first line says what separates.
    """
    text = 'id;Prompt\r\n1;"One; two,\r\nthree\u2028four"\r\n2;Five, six\r\n'
    (tmp_path / "A.CSV").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [p.text for p in load_prompts(tmp_path / "A.CSV")] == ["One; two,\r\nthree\u2028four", "Five, six"]
    (tmp_path / "a.txt").write_bytes("One\u2028line\r\nAnother\r\n\r\n".encode())
    assert [p.text for p in load_prompts(tmp_path / "a.txt")] == ["One\u2028line", "Another"]
    assert [delimiter_of(h) for h in ("a,b;c,d", "a\tb", "a;b", "a", '"a;b",c')] == [",", "\t", ";", ",", ","]
    assert delimiter_of("prompt", preferred="\t") == "\t"
    assert [p.text for p in load_prompts(write(tmp_path / "a.tsv", "prompt\nOne, two\n"))] == ["One, two"]


def test_parquet_keeps_what_columns_hold(tmp_path: Path) -> None:
    """Messages, and missing values as such."""
    import pandas

    turns = [{"role": "user", "content": "hello"}]
    pandas.DataFrame({"messages": [turns, turns], "response": ["Hi.", None]}).to_parquet(tmp_path / "a.parquet")
    found = load_prompts(tmp_path / "a.parquet")
    assert [(p.text, p.response) for p in found] == [("hello", "Hi."), ("hello", None)]


def test_data_sets_by_split(tmp_path: Path) -> None:
    """A saved one without splits, one with; and by name, of files in a folder."""
    import datasets

    one = datasets.Dataset.from_dict({"goal": ["a", "b"]})
    one.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": one, "dev": one.select([1])}).save_to_disk(str(tmp_path / "both"))
    assert [len(load_prompts(str(tmp_path / n))) for n in ("plain", "both", "both@train", "both@dev")] == [2, 2, 2, 1]
    with pytest.raises(LensSteerError, match="has no splits: leave out @dev"):
        load_prompts(tmp_path / "plain@dev")
    (tmp_path / "hub").mkdir()
    write(tmp_path / "hub" / "test.jsonl", json.dumps({"query": "x"}) + "\n")
    found = load_prompts(f"hf:{tmp_path}/hub:default@test")
    assert ([p.text for p in found], str(found.reading)) == (["x"], "hub:default@test: column 'query', 1 prompt")
    for end in ("", "@dev"):
        with pytest.raises(
            LensSteerError, match=r"its splits are 'test', its columns 'query'; name one as hf:.*/hub@SPLIT"
        ):
            load_prompts(f"hf:{tmp_path}/hub{end}")


def test_names_of_data_sets() -> None:
    """Name, configuration and split, and nothing half said."""
    assert parse_hub("hf:a/b:c@d[:10]") == ("a/b", "c", "d[:10]")
    assert parse_hub("hf:a@d") == ("a", None, "d")
    for source in ("hf:", "hf:a:", "hf:a@", "hf:@x"):
        with pytest.raises(LensSteerError, match=r"write hf:NAME, hf:NAME:CONFIG"):
            parse_hub(source)


@pytest.mark.parametrize("package", ["pyarrow", "datasets"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, copies: Path, package: str) -> None:
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, package, None)
    source = copies / ("prompts.parquet" if package == "pyarrow" else "saved_test_split@test")
    with pytest.raises(LensSteerError, match=rf"needs the package {package}, .*: pip install 'lens-steer\[data\]'"):
        load_prompts(source)


def test_every_ending_is_told() -> None:
    """The text of the module and the help name each."""
    from lens_steer import data
    from lens_steer.cli.options import Positive

    said = Positive.__metadata__[0].help  # type: ignore[attr-defined]
    for ending in ENDINGS:
        assert f"``{ending}``" in str(data.__doc__)
        assert ending in said
    assert all(f"``{name}``" in str(data.__doc__) for name in KNOWN)
    with pytest.raises(LensSteerError, match="does not exist"):
        read_table("nowhere.csv")


def test_a_view_tells_what_was_read(tmp_path: Path) -> None:
    """Of a set and of a contrast, with what was said about it."""
    path = csv_of(tmp_path / "a.csv", "id|Goal", "1|{}")
    assert "a.csv: column &#x27;Goal&#x27;, 3 of 8 prompts (seed 0)" in load_prompts(path, limit=3)._repr_html_()
    page = load_contrast(positive=path, negative=["x", "y"])._repr_html_()
    assert "8 prompts; texts: 2 prompts" in page
    assert "negative: 2 prompts in fit are few" in page
    assert "cautions" not in load_contrast("organism/json")._repr_html_()
