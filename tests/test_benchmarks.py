"""The benchmarks run through, and say what they measured; no time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyses import tables
from lens_steer.errors import LensSteerError
from lens_steer.steer.method_table import markdown_table
from tests.benchmarks import cases, real_cases
from tests.benchmarks.__main__ import measure, table
from tests.benchmarks.timing import run
from tests.pages import pages_of, shown


@pytest.mark.slow
def test_every_case_runs() -> None:
    """Two models, three widths' worth of code, memory and import; each ratio is a positive number with its range."""
    found = measure(1, small=True)
    here = found["embedded"]
    assert len(here["ratios"]) == 2 * (4 + 5 + 4 + 3 + 2) + 1
    assert all(0 < r["low"] <= r["median"] <= r["high"] for r in here["ratios"])
    assert here["memory"]["returned_mib"] == pytest.approx(256 * 24 * 128 * 4 / 2**20)
    text = table(found)
    assert text.count("\n") == 2 + len(here["ratios"]) + 3
    assert "| 0.5 B parameters | skipped: a quick run |" in text


def test_the_real_part_is_skipped_where_no_model_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, or a folder without the model; with it, the model's."""
    monkeypatch.delenv("LENS_STEER_REAL_MODELS", raising=False)
    assert real_cases.folder() is None
    monkeypatch.setenv("LENS_STEER_REAL_MODELS", str(tmp_path))
    assert real_cases.folder() is None
    (tmp_path / real_cases.NAME).mkdir()
    (tmp_path / real_cases.NAME / "config.json").write_text("{}", encoding="utf-8")
    assert real_cases.folder() == tmp_path / real_cases.NAME


def test_loading_and_dtypes_are_measured(tiny_folder: Path) -> None:
    """On a tiny model, through the same code: seconds and memory are positive; one dtype against itself would differ by
    nothing, two differ.
    """
    for variant in ("ours", "both", "theirs", "with tokenizer"):
        found = real_cases.load_once(str(tiny_folder), "float32", variant)
        assert found["seconds"] > 0
        assert found["peak_mib"] >= 0
    d = real_cases.dtypes(tiny_folder, cases.prompts_of_refusal()[:8])
    assert 0 < d["kl_mean"] <= d["kl_max"] < 1
    assert d["prompts"] == 8


def test_turns_are_interleaved() -> None:
    """Every variant once a turn, in rotating order, after one turn that does not count."""
    order: list[str] = []
    seconds = run({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]


def test_tables_go_between_their_markers(tmp_path: Path) -> None:
    """The rest of every page stays, as does a page without the markers; where none has them, or one has half of them,
    it is told, and all are left alone.
    """
    pages = [tmp_path / "README.md", tmp_path / "guide.md"]
    for page in pages:
        page.write_text("head\n<!-- x -->\nold\n<!-- /x -->\ntail\n", encoding="utf-8")
    table = "| new |\n|---|\n| 1 |\n"
    tables.write("x", table, tmp_path, pages)
    for page in pages:
        assert page.read_text(encoding="utf-8") == f"head\n<!-- x -->\n{table}<!-- /x -->\ntail\n"
    assert (tmp_path / "x.md").read_text(encoding="utf-8") == table
    assert r"new \\" in (tmp_path / "x.tex").read_text(encoding="utf-8")
    other = table.replace("1", "2")
    pages[1].write_text("head\n", encoding="utf-8")
    tables.write("x", other, tmp_path, pages)
    assert other in pages[0].read_text(encoding="utf-8")
    assert pages[1].read_text(encoding="utf-8") == "head\n"
    with pytest.raises(LensSteerError, match=r"guide\.md needs the markers <!-- x --> and <!-- /x -->"):
        tables.write("x", table, tmp_path, pages[1:])
    pages[1].write_text("<!-- x -->\n", encoding="utf-8")
    with pytest.raises(LensSteerError, match=r"guide\.md needs the markers <!-- x --> and <!-- /x -->, once each"):
        tables.write("x", table, tmp_path, pages)
    assert other in pages[0].read_text(encoding="utf-8")


def test_the_pages_show_every_method() -> None:
    """No row of the table was typed by hand, in the README or in the guide."""
    found = pages_of("methods")
    assert [page.name for page in found] == ["README.md", "choose-a-method.md"]
    assert all(shown("methods", page) == markdown_table() for page in found)
