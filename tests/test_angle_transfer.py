"""Whether an angle holds on another source: planted falls, plain forwards, resumed runs, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.data import Contrast, ContrastSet, PromptSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.metrics.kl import mean_kl_by_value
from lens_steer.metrics.refusal_score import refusal_scores_by_value
from lens_steer.studies.angle_transfer import asked
from lens_steer.studies.angle_transfer.claims import claims
from lens_steer.studies.angle_transfer.report import angle_transfer_and_write, page
from lens_steer.studies.angle_transfer.study import AngleTransfer, Turned, angle_transfer, check
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED, TIED
from tests.test_cli import run as command

NAMES = ("one", "other")
HOW: dict[str, Any] = {"values": (90.0, 180.0, 270.0), "budget": 0.5, "draws": 2, "max_new_tokens": 8}


def with_parts(name: str, fit: Contrast, select: Contrast, report: Contrast) -> ContrastSet:
    return ContrastSet(name, Split(fit, select, report))


@pytest.fixture(scope="module")
def sources(refusal: Any) -> dict[str, ContrastSet]:
    """Every other prompt of the organism, from the first or the second on, with the same ones without the feature."""

    def part(of: Contrast, n: int, *, last: bool) -> Contrast:
        return Contrast(of.positive[int(last) : 2 * n : 2], of.negative[:n])

    return {
        name: with_parts(
            name,
            part(refusal.fit, 24, last=name == "other"),
            part(refusal.select, 5, last=name == "other"),
            part(refusal.report, 6, last=name == "other"),
        )
        for name in NAMES
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("angles")


@pytest.fixture(scope="module")
def found(qwen: Any, sources: Any, out: Path) -> AngleTransfer:
    return angle_transfer_and_write(qwen, sources, out, progress=False, **HOW)[0]


def test_angles_and_falls_are_those_of_plain_sweeps(qwen: Any, sources: Any, found: AngleTransfer) -> None:
    """By hand, from each source's own calibration: the largest fall within the budget, and its fall on report."""
    built = {}
    for name, of in sources.items():
        calibration = ls.calibrate(ls.record(qwen, of.fit, progress=False))
        built[name] = lambda value, c=calibration: ls.selective_steering(c, value)
        assert found.sites[name] == len(calibration.discriminative_sites) > 0
    texts = ls.generate(qwen, sources["one"].select.negative, max_new_tokens=8)
    chosen = {}
    for fitted, build in built.items():
        for on, of in sources.items():
            kl = mean_kl_by_value(qwen, build, HOW["values"], of.select.negative, texts).mean(axis=0)
            plain, steered = refusal_scores_by_value(qwen, build, HOW["values"], of.select.positive)
            falls = np.where(kl <= HOW["budget"], (plain[:, None] - steered).mean(axis=0), -np.inf)
            chosen[fitted, on] = HOW["values"][int(falls.argmax())]
    for t in found.turned:
        assert (t.angle, t.again) == (chosen[t.fitted, t.fitted], chosen[t.fitted, t.on])
        prompts = sources[t.on].report.positive
        settings = ((t.falls, t.fitted, t.angle), (t.falls_again, t.fitted, t.again), (t.falls_own, t.on, None))
        for falls, source, angle in settings:
            at = [chosen[t.on, t.on] if angle is None else angle]
            plain, steered = refusal_scores_by_value(qwen, built[source], at, prompts)
            assert falls == pytest.approx(plain - steered[:, 0], abs=1e-3)
    own = found.pair("one", "one")
    assert np.array_equal(own.falls, own.falls_own) and own.falls.mean() > 1 and own.left_out == 0
    assert found.random["one"].shape == (2, 6) and np.abs(found.random["one"]).mean() < own.falls.mean() / 3
    texts = ls.generate(qwen, sources["one"].report.negative, max_new_tokens=8)
    kl = mean_kl_by_value(qwen, built["one"], [chosen["one", "one"]], sources["one"].report.negative, texts)
    assert found.costs["one"] == pytest.approx(float(kl.mean()), abs=1e-4)


def test_files_and_a_second_run(
    qwen: Any, sources: Any, found: AngleTransfer, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run is read; an interrupted one goes on and ends with the same bytes; another run is refused."""
    record = json.loads((out / "angle_transfer.json").read_text("utf-8"))
    assert len(record["pairs"]) == 4 and len(record["claims"]) == 2 + 2 + 2
    assert record["pairs"][0]["falls"] == pytest.approx(found.pair("one", "one").falls.mean())
    assert (out / "angle_falls.png").exists() and "Claims" in (out / "angle_transfer.md").read_text("utf-8")
    calls = []
    own = asked.refusal_scores_by_value

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return own(*args, **kwargs)

    monkeypatch.setattr(asked, "refusal_scores_by_value", stopping)
    with pytest.raises(KeyboardInterrupt):
        angle_transfer(qwen, sources, tmp_path, progress=False, **HOW)
    assert (tmp_path / ".parts" / "select" / "one.csv").exists()
    angle_transfer(qwen, sources, tmp_path, progress=False, **HOW)
    for name in ("select.csv", "report.csv"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    before = len(calls)
    again = angle_transfer(qwen, sources, tmp_path, progress=False, **HOW)
    assert len(calls) == before and np.array_equal(again.turned[1].falls, found.turned[1].falls)
    more: dict[str, Any] = {**HOW, "draws": 3}
    with pytest.raises(LensSteerError, match=r"report.csv of another run \(draws differ\)"):
        angle_transfer(qwen, sources, tmp_path, progress=False, **more)


def test_prompts_that_the_steering_was_set_on_are_left_out(qwen: Any, sources: Any, tmp_path: Path) -> None:
    """One of the other source's fit prompts stands among the report prompts."""
    of = sources["other"]
    one = sources["one"]
    both = PromptSet((*of.report.positive, one.fit.positive[0]), "both")
    mixed = {"one": one, "other": with_parts("other", of.fit, of.select, Contrast(both, of.report.negative))}
    found = angle_transfer(qwen, mixed, tmp_path, progress=False, **HOW)
    assert [t.left_out for t in found.turned] == [0, 1, 0, 0]
    assert [len(t.falls) for t in found.turned] == [6, 6, 6, 7]
    every = with_parts("other", of.fit, of.select, Contrast(one.fit.positive[:2], of.report.negative))
    with pytest.raises(LensSteerError, match="source 'one' is set on every report prompt of 'other'"):
        check({"one": one, "other": every}, [90.0], 0.1, 1)


def planted(falls: Any, again: Any, own: Any, *, angle: float | None = 90.0, random: Any = 0.0) -> AngleTransfer:
    """Two sources of which the second sees these falls, 40 prompts with a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.2, 40)

    def turned(fitted: str, on: str) -> Turned:
        three = (own, own, own) if fitted == on else (falls, again, own)
        values = [np.zeros(40) if x == 0 else x + noise for x in three]
        return Turned(
            fitted=fitted, on=on, angle=angle, again=angle, falls=values[0], falls_again=values[1],
            falls_own=values[2], clusters=[None] * 40, left_out=0,
        )  # fmt: skip

    entries = tuple(turned(a, b) for a in NAMES for b in NAMES)
    draws = np.zeros((0, 0)) if angle is None else random + np.zeros((19, 40)) + 0.01 * np.arange(19)[:, None]
    return AngleTransfer(
        "m", 0.1, dict.fromkeys(NAMES, 3), dict.fromkeys(NAMES, 0.05), entries, dict.fromkeys(NAMES, draws)
    )


@pytest.mark.parametrize(
    ("falls", "again", "own", "angle", "steering"),
    [
        (2.0, 2.0, 2.0, HOLDS, HOLDS), (1.0, 2.0, 2.0, REFUTED, REFUTED), (2.0, 2.0, 4.0, HOLDS, REFUTED),
        (1.6, 2.0, 2.0, NOT_SHOWN, NOT_SHOWN), (1.0, -1.0, 0.001, INSENSITIVE, INSENSITIVE),
        (1.0, 0, 0, TIED, TIED), (-1.0, 2.0, 2.0, REFUTED, REFUTED),
    ],
)  # fmt: skip
def test_planted_falls(falls: float, again: float, own: float, angle: str, steering: str) -> None:
    """What falls as far holds, what falls half as far is refuted; where the other does not fall, nothing is said."""
    by_id = {c.id: c for c in claims(planted(falls, again, own, random=-1.0))}
    assert by_id["angle-from-one-on-other"].verdict == angle
    assert by_id["steering-from-one-on-other"].verdict == steering
    if angle == HOLDS:
        claim = by_id["angle-from-one-on-other"]
        assert claim.value == pytest.approx(falls - 0.8 * again, abs=0.1) and claim.witness["holds_jointly"]


def test_beside_random_planes() -> None:
    """Above all of 19 random planes, among them, and without an angle."""
    for own, random, wanted in ((2.0, 0.0, HOLDS), (2.0, 1.95, NOT_SHOWN), (1.0, 2.0, REFUTED)):
        by_id = {c.id: c for c in claims(planted(own, own, own, random=random))}
        assert by_id["beyond-random-one"].verdict == wanted, (own, random)
        shares = {c.verdict for c in claims(planted(2.0, 2.0, 2.0, random=random + 2 - own)) if "-from-" in c.id}
        assert shares == ({HOLDS} if wanted == HOLDS else {INSENSITIVE})
    nothing = planted(0, 0, 0, angle=None)
    assert {c.verdict for c in claims(nothing)} == {TIED}
    assert "none" in page(nothing, claims(nothing))


def test_what_is_refused(qwen: Any, sources: Any, tmp_path: Path) -> None:
    """Before anything is recorded."""
    halves, nobody = (sources["one"].fit, sources["one"].select), Contrast(PromptSet(()), PromptSet(()))
    bad: list[tuple[dict[str, Any], str]] = [
        ({"sources": {"one": sources["one"]}}, "sources holds 1: give at least two"),
        ({"budget": 0.0}, "budget=0: give a divergence above 0"),
        ({"draws": 0}, "draws=0: give at least 1 random plane"),
        ({"values": [0.0, 360.0]}, "give an angle at which something is turned"),
        ({"sources": {**sources, "none": with_parts("none", *halves, nobody)}}, "source 'none': .* no report prompts"),
    ]
    for change, message in bad:
        given = {"sources": sources, **HOW} | change
        with pytest.raises(LensSteerError, match=message):
            angle_transfer(qwen, given.pop("sources"), tmp_path / "out", progress=False, **given)
    assert not (tmp_path / "out").exists()


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, refusal: Any
) -> None:
    """From files, with its cost told first; bad input ends with 2 and one line."""
    sides = {"a": refusal.fit.positive[:16], "b": refusal.fit.positive[16:32], "rest": refusal.fit.negative[:16]}
    for name, prompts in sides.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"{p.text}\n" for p in prompts), "utf-8")
    given = [
        "angle-transfer", "--model", "organism/qwen2", "--source", f"a={tmp_path / 'a.txt'}", "--source",
        f"b={tmp_path / 'b.txt'}", "--negative", str(tmp_path / "rest.txt"), "--angles", "90,180", "--budget", "0.5",
        "--draws", "1", "--max-new-tokens", "4", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    code, out, _ = command(monkeypatch, capsys, *given, "--dry-run")
    assert code == 0 and json.loads(out)["dry_run"] and not (tmp_path / "out").exists()
    code, out, _ = command(monkeypatch, capsys, *given)
    told = json.loads(out)
    assert code == 0 and set(told["angles"]) == {"a", "b"} and len(told["verdicts"]) == 6
    assert (tmp_path / "out" / "claims.tex").exists()
    alone = [*given[:5], *given[7:]]
    code, _, err = command(monkeypatch, capsys, *alone, "--out", str(tmp_path / "bad"))
    assert code == 2 and "one source stands alone; give at least two" in err and not (tmp_path / "bad").exists()
    for change, message in (
        (("--draws", "0"), "--draws 0: give at least 1"),
        (("--budget", "0"), "--budget 0: give a divergence above 0"),
        (("--angles", "0"), "give an angle at which something is turned"),
    ):
        code, _, err = command(monkeypatch, capsys, *given, *change, "--out", str(tmp_path / "bad"))
        assert code == 2 and message in err and not (tmp_path / "bad").exists()
