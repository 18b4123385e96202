"""Whether a direction depends on the format of the prompts: planted formats, plain recordings, files, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.data import Contrast, PromptSet, with_system
from lens_steer.errors import LensSteerError
from lens_steer.models.templates import PLAIN_TEMPLATE, another_template, template_of
from lens_steer.stats.areas import auroc
from lens_steer.studies.formats import study
from lens_steer.studies.formats.claims import claims
from lens_steer.studies.formats.report import cells, formats_and_write
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
    """The known null: nothing turns, moves or is lost, so nothing is claimed; another format turns."""
    for of in (found.own, found.others[0]):
        assert of.same_ids == 1
        assert of.cosine == pytest.approx(1, abs=1e-6) and (of.jaccard == 1).all()
        for name in ("area", "area_there", "cosine_other", "jaccard_other", "random", "random_there"):
            assert np.array_equal(getattr(of, name), getattr(found.own, name)), name
        assert np.array_equal(of.area, of.area_there) and np.array_equal(of.random, of.random_there)
    assert not any(c.id.endswith("-same") for c in claims(found))
    assert found.others[1].same_ids == 0 == found.others[2].same_ids
    assert (found.others[1].cosine < 0.999).all()


def test_a_draw_by_hand(qwen: Any, few: Any, found: Formats) -> None:
    """One draw in the plain template, from a model that was loaded with it, calibrated plainly."""
    plain = ls.load_model("organism/qwen2", chat_template="plain")
    here, there = (ls.record(m, few, progress=False) for m in (qwen, plain))
    whole = ls.calibrate(there, progress=False)
    assert (found.others[1].site, found.others[1].n_sites) == (whole.selected_site, len(whole.discriminative_sites))
    rng = np.random.default_rng([3, 0])
    orders = [np.stack([rng.permutation(N) for _ in range(9)]) for _ in range(2)]
    start, rest = ([order[4][at] for order in orders] for at in (slice(None, N // 2), slice(N // 2, None)))

    def part(recorded: Any, rows: Any) -> Any:
        return replace(recorded, positive=recorded.positive[rows[0]], negative=recorded.negative[rows[1]], stream=None)

    own, same = (ls.calibrate(part(r, start), progress=False) for r in (here, there))
    other_here, other_there = (ls.calibrate(part(r, rest), progress=False) for r in (here, there))
    at, direction = own.selected_index, own.basis[0].double()

    def turned(recorded: Any) -> float:
        difference = (recorded.positive.double().mean(0) - recorded.negative.double().mean(0))[at]
        return float(direction @ difference / difference.norm())

    def agreement(calibration: ls.Calibration) -> float:
        one, other = {*own.discriminative_sites}, {*calibration.discriminative_sites}
        return len(one & other) / len(one | other)

    of = found.others[1]
    for values, recorded, rows in (
        (of.cosine, there, start), (of.cosine_other, there, rest), (found.own.cosine_other, here, rest),
    ):  # fmt: skip
        assert values[4] == pytest.approx(turned(part(recorded, rows)), abs=1e-5)
    for values, calibration in (
        (of.jaccard, same), (of.jaccard_other, other_there), (found.own.jaccard_other, other_here),
    ):  # fmt: skip
        assert values[4] == pytest.approx(agreement(calibration))
    held = part(there, rest)
    for values, c in ((of.area, own), (of.area_there, same)):
        positive, negative = (
            (side[:, c.selected_index].double() @ c.basis[0].double()).numpy()
            for side in (held.positive, held.negative)
        )
        assert values[4] == pytest.approx(auroc(positive, negative).value, abs=1e-6)
    assert 0.5 <= of.random[4] <= 1 and 0.5 <= of.random_there[4] <= 1


def test_the_template_is_put_back(qwen: Any, few: Any) -> None:
    """After the study, and after a template that refuses the prompts, the model has its own template and arguments."""
    tokenizer = qwen.lens_info.tokenizer
    own, ids = template_of(tokenizer), ls.tokens(qwen, "Hello")[0].ids
    with another_template(tokenizer, CUT):
        assert ls.tokens(qwen, "Hello")[0].text == "Hello"
    with pytest.raises(LensSteerError, match="format 'bad': the chat template refuses the messages"):
        formats(qwen, few, [Format("bad", template="{{ raise_exception('no') }}")], draws=1, progress=False)
    assert template_of(tokenizer) == own and ls.tokens(qwen, "Hello")[0].ids == ids


ONES = np.ones(20)


DRAWN = ("cosine", "cosine_other", "jaccard", "jaccard_other", "chance_other", "area", "area_there")


def planted(found: Formats, **values: Any) -> dict[str, Any]:
    """The claims of a format with these values in every draw; in the own format halves agree at 0.9 and 0.6."""
    same = dict.fromkeys((*DRAWN, "random", "random_there"), 1.0) | {"cosine_other": 0.9, "jaccard_other": 0.6}
    same |= {"chance_other": 0.2, "random": 0.7, "random_there": 0.7}
    own, of = same | values.pop("own", {}), same | values
    both = [
        replace(c, **{name: v * ONES for name, v in given.items()})
        for c, given in ((found.own, own), (found.others[1], of))
    ]
    return {c.id.removesuffix("-plain"): c for c in claims(replace(found, own=both[0], others=(both[1],)))}


@pytest.mark.parametrize(
    ("key", "values", "wanted"),
    [
        ("separates", {}, HOLDS),
        ("separates", {"area": 0.8}, REFUTED),
        ("separates", {"area": 0.6, "area_there": 0.6}, INSENSITIVE),  # nothing is above random directions
        ("separates", {"area": 0.7, "area_there": 0.72}, NOT_SHOWN),  # as good as the random ones is not above them
        ("separates", {"area": 1, "area_there": 1, "random": 1, "random_there": 1}, INSENSITIVE),
        ("direction", {}, HOLDS),
        ("direction", {"cosine_other": 0.4}, REFUTED),
        ("direction", {"cosine_other": np.where(np.arange(20) < 10, 0.4, 0.95)}, NOT_SHOWN),
        ("direction", {"cosine_other": 0.4, "own": {"cosine_other": 0.4}}, INSENSITIVE),
        ("direction", {"cosine_other": 0.1, "own": {"cosine_other": 0.4}}, REFUTED),
        ("direction", {"cosine_other": np.nan}, NOT_SHOWN),
        ("sites", {}, HOLDS),
        ("sites", {"jaccard_other": 0.1}, REFUTED),
        ("sites", {"own": {"chance_other": 0.6}}, INSENSITIVE),  # halves agree no more than by chance
        ("sites", {"jaccard_other": 0.1, "own": {"chance_other": 0.6}}, REFUTED),
    ],
)
def test_planted_formats(found: Formats, key: str, values: dict[str, Any], wanted: str) -> None:
    """A format that takes nothing holds, one that takes much is refuted; what has nothing to take is insensitive."""
    assert planted(found, **values)[key].verdict == wanted


def test_few_draws_show_nothing(found: Formats) -> None:
    """Nine draws are too few for a share of 95 %."""
    said = {c.verdict.partition(" (")[0] for c in claims(found)}
    assert said <= {NOT_SHOWN, INSENSITIVE}


def test_an_interrupted_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, qwen: Any, few: Any, found: Formats
) -> None:
    """What was recorded is not recorded again, and the numbers are the same; other prompts are refused."""
    others, record, calls = [of.format for of in found.others], study.record_prompts, []

    def stopping(*args: Any, **how: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return record(*args, **how)

    monkeypatch.setattr(study, "record_prompts", stopping)
    how = {"draws": 9, "seed": 3, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        formats_and_write(qwen, few, others, tmp_path, **how)
    with pytest.raises(LensSteerError, match=r"holds the beginning of another run \(prompts, truth differ\)"):
        formats_and_write(qwen, few.first(9), others, tmp_path, **how)
    again, _ = formats_and_write(qwen, few, others, tmp_path, **how)
    assert len(calls) == 4 + 8 - 3 and not (tmp_path / ".parts").exists()
    for mine, theirs in zip(again.others, found.others, strict=True):
        assert np.array_equal(mine.cosine_other, theirs.cosine_other)
        assert np.array_equal(mine.area, theirs.area)


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
    apart = Contrast(few.positive, PromptSet(tuple(with_system(p, "Be brief.") for p in few.negative)))
    with pytest.raises(LensSteerError, match="format 'brief': the two classes have different system prompts"):
        formats(qwen, apart, [brief])
    with pytest.raises(LensSteerError, match="format 'odd': the chat template writes nothing"):
        formats(qwen, few, [Format("odd", template="{{ mesages }}")])
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
    assert record["formats"][2]["template"] == CUT and record["draws"] == 5 and record["halves"] == [6, 6]
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
        (["--template", "x=nofile"], "--template x='nofile': use 'plain', a Jinja template or a file with one"),
        (["--template", "x="], "--template x='': use 'plain', a Jinja template or a file with one"),
        (["--template", "x={{ mesages }}"], "format 'x': the chat template writes nothing: check the names in it"),
        (["--template", "x=plain", "--system", "x=y"], "format 'x': the name stands for another format"),
        (["--system", "x=y", "--draws", "0"], "--draws 0: give at least 1"),
        (["--template", "x={{ raise_exception('no') }}"], "format 'x': the chat template refuses the messages"),
    ],
)
def test_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    """It ends with 2 and one line before a weight is read, and leaves nothing behind."""
    code, _, error = command(monkeypatch, capsys, "formats", *words, "--limit", "12", "--out", tmp_path / "found")
    assert code == 2 and message in error, error
    assert "loaded" not in error and not (tmp_path / "found").exists()
