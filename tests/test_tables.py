"""Tables as text: what is written is what is read back, and what other writers write."""

from __future__ import annotations

import csv
import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_steer._io.tables import csv_records, csv_text, longtable, markdown, tabular
from lens_steer.errors import LensSteerError
from lens_steer.stats.estimates import Estimate, percent, points

SHARES = st.floats(0, 1)
TEXT = st.text(alphabet=st.sampled_from("ab |\n\r,\"'é"), max_size=8)


@given(st.lists(st.lists(st.text(alphabet=st.sampled_from("ab|\n%")), min_size=2, max_size=2), max_size=4))
def test_markdown_keeps_its_cells(rows: list[list[str]]) -> None:
    """Split at its bars, each line gives the cells back, a line end in one as a space."""
    lines = markdown(["x", "y"], rows).splitlines()
    assert lines[:2] == ["| x | y |", "|---|---|"]
    read = [[cell.replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    assert read == [[f" {cell} ".replace("\n", " ") for cell in row] for row in rows]


def test_rows_of_another_width() -> None:
    with pytest.raises(LensSteerError, match="table has 1 cells in row 2, and 2 in its head: give every row as many"):
        markdown(["a", "b"], [["1", "2"], ["3"]])


@given(st.lists(st.tuples(TEXT, st.one_of(st.none(), st.integers(-9, 9))), max_size=5))
def test_csv_is_read_back(rows: list[tuple[str, int | None]]) -> None:
    """Whatever a text holds, a carriage return too; nothing for None."""
    records = [{"text": text, "n": n, "besides": 1} for text, n in rows]
    written = csv_records(records, ["text", "n"])
    assert written == csv_text([["text", "n"], *rows])
    read = list(csv.DictReader(io.StringIO(written, newline="")))
    assert [(row["text"], row["n"]) for row in read] == [(text, "" if n is None else str(n)) for text, n in rows]
    assert csv_records([]) == ""


def test_latex_of_one_page_is_that_of_pandas() -> None:
    rows = [["a", "1"], ["b", "2"]]
    expected = pd.DataFrame(rows, columns=["x", "n"]).to_latex(index=False, column_format="lr")
    assert tabular("lr", ["x", "n"], rows, gap="\n") == expected
    assert (
        tabular("lr", ["x", "n"], rows).split()
        == expected.replace("}\n\\top", "}\\top").replace("rule\n\\end", "rule\\end").split()
    )


def test_rows_that_begin_like_an_option_or_span_all_columns() -> None:
    text = longtable("lr", ["x", "n"], [[r"\multicolumn{2}{l}{both}"], ["[0, 1]", "1"], ["*", ""]])
    assert text.splitlines()[3:6] == [r"\multicolumn{2}{l}{both} \\", r"{}[0, 1] & 1 \\", r"{}* & \\"]


@given(SHARES, SHARES, SHARES)
def test_percent_is_an_estimate_in_percent(value: float, low: float, high: float) -> None:
    """The same digits as the estimate of percent in its own format."""
    share, scaled = Estimate(value, low, high, 9), Estimate(100 * value, 100 * low, 100 * high, 9)
    for form in (".0f", ".1f", "+.0f"):
        assert percent(share, form=form) == format(scaled, form) == percent(value, low, high, form=form)
    assert percent(value, unit=" %") == f"{scaled.value:.0f} %"
    assert percent(None, low, high) == "—"


@pytest.mark.parametrize(
    ("low", "high", "bold"), [(0.1, 0.3, True), (-0.3, -0.1, True), (0.0, 0.3, False), (-0.1, 0.1, False)]
)
def test_points_are_bold_beyond_zero(low: float, high: float, bold: bool) -> None:
    assert points(Estimate((low + high) / 2, low, high, 9)).startswith("**") == bold
