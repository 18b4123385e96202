"""Whether a direction depends on the format of the prompts: planted formats, plain recordings, files, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.models.templates import PLAIN_TEMPLATE, another_template, template_of
from lens_steer.stats.areas import auroc
from lens_steer.studies.formats.claims import claims
from lens_steer.studies.formats.report import cells
from lens_steer.studies.formats.study import Formats, formats
from lens_steer.studies.formats.wording import Format
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED
from tests.test_cli import run as command

CUT = "{{ messages[-1]['content'] }}"  # the instruction alone
N = 24


@pytest.fixture(scope="module")
def few() -> Any:
    return ls.load_contrast("organism/refusal", limit=N).fit


@pytest.fixture(scope="module")
def found(qwen: Any, few: Any) -> Formats:
    others = [
        Format("same", template=template_of(qwen.lens_info.tokenizer).text),
        Format("plain", template=PLAIN_TEMPLATE),
        Format("brief", system="Be brief."),
    ]
    return formats(qwen, few, others, draws=9, seed=3, progress=False)


def test_a_format_with_the_same_tokens_is_the_same(found: Formats) -> None:
    """The known null: nothing turns, moves or is lost; the own format beside itself is the same."""
    for of in (found.own, found.others[0]):
        assert of.same_ids == 1
        assert of.cosine == pytest.approx(1, abs=1e-6) and (of.jaccard == 1).all()
        assert np.array_equal(of.area, of.area_there) and np.array_equal(of.area, found.own.area)
    decided = {c.id: c for c in claims(found)}
    assert decided["direction-same"].verdict == HOLDS
    assert decided["separates-same"].value == 0
    assert found.others[1].same_ids == 0 == found.others[2].same_ids
    assert (found.others[1].cosine < 0.999).all()


def test_a_draw_by_hand(qwen: Any, few: Any, found: Formats) -> None:
    """One draw in the plain template, from a model that was loaded with it, calibrated plainly."""
    plain = ls.load_model("organism/qwen2", chat_template="plain")
    here, there = (ls.record(m, few, progress=False) for m in (qwen, plain))
    assert found.others[1].site == ls.calibrate(there, progress=False).selected_site
    rng = np.random.default_rng([3, 0])
    orders = [np.stack([rng.permutation(N) for _ in range(9)]) for _ in range(2)]
    start, rest = ([order[4][at] for order in orders] for at in (slice(None, N // 2), slice(N // 2, None)))

    def part(recorded: Any, rows: Any) -> Any:
        return replace(recorded, positive=recorded.positive[rows[0]], negative=recorded.negative[rows[1]], stream=None)

    own, other = (ls.calibrate(part(r, start), progress=False) for r in (here, there))
    second = ls.calibrate(part(here, rest), progress=False)
    at, direction = own.selected_index, own.basis[0].double()

    def turned(recorded: Any) -> float:
        difference = (recorded.positive.double().mean(0) - recorded.negative.double().mean(0))[at]
        return float(direction @ difference / difference.norm())

    of = found.others[1]
    assert of.cosine[4] == pytest.approx(turned(part(there, start)), abs=1e-5)
    assert found.prompts_cosine[4] == pytest.approx(turned(part(here, rest)), abs=1e-5)
    one, *two = ({*c.discriminative_sites} for c in (own, other, second))
    for values, sites in zip((of.jaccard, found.prompts_jaccard), two, strict=True):
        assert values[4] == pytest.approx(len(one & sites) / len(one | sites))
    held = part(there, rest)
    areas = []
    for c in (own, other):
        positive, negative = (
            side[:, c.selected_index].double() @ c.basis[0].double() for side in (held.positive, held.negative)
        )
        areas.append(auroc(positive.numpy(), negative.numpy()))
    assert (of.area[4], of.area_there[4]) == tuple(pytest.approx(a.value, abs=1e-6) for a in areas)
    assert 0.5 <= of.random[4] <= 1


def test_the_template_is_put_back(qwen: Any, few: Any) -> None:
    """After the study, and after a template that refuses the prompts, the model has its own template and arguments."""
    tokenizer = qwen.lens_info.tokenizer
    own, ids = template_of(tokenizer), ls.tokens(qwen, "Hello")[0].ids
    with another_template(tokenizer, CUT):
        assert ls.tokens(qwen, "Hello")[0].text == "Hello"
    with pytest.raises(LensSteerError, match="the chat template refuses the messages"):
        formats(qwen, few, [Format("bad", template="{{ raise_exception('no') }}")], draws=1, progress=False)
    assert template_of(tokenizer) == own and ls.tokens(qwen, "Hello")[0].ids == ids


@pytest.mark.parametrize(
    ("cosine", "jaccard", "area", "there", "wanted"),
    [
        (0.95, 0.7, 0.98, 0.98, (HOLDS, HOLDS, HOLDS)),
        (0.4, 0.1, 0.8, 0.98, (REFUTED, REFUTED, REFUTED)),
        (0.4, 0.1, 0.6, 0.6, (INSENSITIVE, REFUTED, REFUTED)),  # nothing separates beyond random directions
        (0.95, 0.7, 0.69, 0.72, (NOT_SHOWN, HOLDS, HOLDS)),  # the direction does no more than random ones
    ],
)
def test_planted_formats(
    found: Formats, cosine: float, jaccard: float, area: float, there: float, wanted: tuple[str, ...]
) -> None:
    """Beside other prompts that agree at 0.9 and 0.6: verdicts on the area, the direction and the sites."""
    ones = np.ones(20)
    of = replace(
        found.others[1], cosine=cosine * ones, jaccard=jaccard * ones, chance=0.1 * ones, area=area * ones,
        area_there=there * ones, random=0.7 * ones,
    )  # fmt: skip
    planted = replace(
        found, others=(of,), prompts_cosine=0.9 * ones, prompts_jaccard=0.6 * ones, prompts_chance=0.2 * ones
    )
    decided = {c.id: c for c in claims(planted)}
    assert tuple(decided[f"{what}-plain"].verdict for what in ("separates", "direction", "sites")) == wanted
    many = replace(planted, prompts_chance=0.5 * ones)
    assert next(c for c in claims(many) if c.id == "sites-plain").verdict == INSENSITIVE
    split = replace(of, cosine=np.where(np.arange(20) < 10, 0.4, 0.95))
    unsure = next(c for c in claims(replace(planted, others=(split,))) if c.id == "direction-plain")
    assert unsure.verdict == NOT_SHOWN and unsure.witness["middle_90"] == pytest.approx([-0.5, 0.05])


def test_what_cannot_be_compared(qwen: Any, few: Any) -> None:
    """Messages name the format or the argument, and the mend."""
    brief = Format("brief", system="Be brief.")
    for others, message in (
        ([], "give at least one system prompt or chat template"),
        ([brief, brief], "format 'brief': the name stands for another format"),
        ([Format("own", system="x")], "format 'own': the name stands for another format"),
        ([Format("both", system="x", template="y")], "format 'both': give it a system prompt or a template"),
        ([Format("neither")], "format 'neither': give it a system prompt or a template"),
    ):
        with pytest.raises(LensSteerError, match=message):
            formats(qwen, few, others)
    with pytest.raises(LensSteerError, match="positive has 7 prompts: they are dealt into halves, give at least 8"):
        formats(qwen, few.first(7), [brief])
    with pytest.raises(LensSteerError, match="draws=0: give at least 1"):
        formats(qwen, few, [brief], draws=0)


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It writes numbers, page, claims and figure, and tells a format that has the model's own tokens."""
    file = tmp_path / "cut.jinja"
    file.write_text(CUT, "utf-8")
    given = ["formats", "--limit", "12", "--draws", "5", "--out", str(tmp_path / "found")]
    how = [
        "--system",
        "empty=",
        "--system",
        "brief=Be brief. a=b",
        "--template",
        f"cut={file}",
        "--template",
        "p=plain",
    ]
    code, told, error = command(monkeypatch, capsys, *given, *how)
    assert code == 0, error
    verdicts = json.loads(told)["verdicts"]
    names = ("empty", "brief", "cut", "p")
    assert set(verdicts) == {f"{what}-{name}" for name in names for what in ("separates", "direction", "sites")}
    record = json.loads((tmp_path / "found" / "formats.json").read_text("utf-8"))
    assert [f["system"] for f in record["formats"]] == ["", "Be brief. a=b", None, None]
    assert record["formats"][2]["template"] == CUT and record["draws"] == 5 and record["n"] == 6
    page = (tmp_path / "found" / "formats.md").read_text("utf-8")
    for row in record["rows"]:
        assert f"| {' | '.join(cells(row))} |" in page
    assert (tmp_path / "found" / "format_agreement.png").exists()
    assert (tmp_path / "found" / "claims.tex").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no format beside the model's own: give --system NAME=TEXT or --template NAME=TEMPLATE"),
        (["--system", "brief"], "--system brief: give NAME=TEXT"),
        (["--template", "=plain"], "--template =plain: give NAME=TEMPLATE"),
        (["--template", "x=nofile"], "--template x=nofile: 'nofile' is no template"),
        (["--template", "x=plain", "--system", "x=y"], "format 'x': the name stands for another format"),
        (["--system", "x=y", "--draws", "0"], "--draws 0: give at least 1"),
        (["--template", "x={{ raise_exception('no') }}"], "the chat template refuses the messages"),
    ],
)
def test_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    """It ends with 2 and one line before a weight is read, and leaves nothing behind."""
    code, _, error = command(monkeypatch, capsys, "formats", *words, "--limit", "12", "--out", tmp_path / "found")
    assert code == 2 and message in error, error
    assert "loaded" not in error and not (tmp_path / "found").exists()
