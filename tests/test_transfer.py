"""Whether a direction holds on other sources, and how many prompts it needs: planted sources, files, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.geometry.halves import chance
from lens_steer.stats.areas import auroc
from lens_steer.stats.estimates import Estimate
from lens_steer.studies.transfer.claims import claims, less
from lens_steer.studies.transfer.drawings import drawings
from lens_steer.studies.transfer.few import Draws, draw_few
from lens_steer.studies.transfer.study import Pair, Transfer, transfer
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED
from tests.test_cli import run as command

SIDES = ("positive", "negative")
FILES = {"tools": "saw hammer drill chisel", "fruit": "apple pear plum cherry", "rest": "river cloud stone field"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prompt files: two sources and what neither is about; twelve prompts are in both sources."""
    folder, made = tmp_path_factory.mktemp("sources"), {}
    for name, words in FILES.items():
        own = [
            f"Tell me about the {w} that {v} has, number {i}." for w in words.split() for v in "ab" for i in range(3)
        ]
        shared = [f"A shared prompt, number {i}." for i in range(12)] if name != "rest" else []
        made[name] = folder / f"{name}.txt"
        texts = (*shared, *own) if name == "tools" else (*own, *shared)
        made[name].write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return made


def contrast(files: dict[str, Path], name: str) -> Any:
    return ls.load_contrast(positive=files[name], negative=files["rest"], split=(1, 0, 1))


@pytest.fixture(scope="module")
def found(qwen: Any, files: dict[str, Path]) -> Transfer:
    sources = {name: contrast(files, name) for name in ("tools", "fruit")}
    return transfer(qwen, sources, sizes=(3, 8, 99), draws=7, progress=False)


def test_scores_are_projections_on_the_direction(qwen: Any, files: dict[str, Path], found: Transfer) -> None:
    """Each pair's area is that of plain recordings; prompts that the direction was made from are left out."""
    assert [(p.fitted, p.on) for p in found.pairs] == [(a, b) for a in ("tools", "fruit") for b in ("tools", "fruit")]
    fitted, other = contrast(files, "tools"), contrast(files, "fruit")
    calibration = ls.calibrate(ls.record(qwen, fitted.fit, progress=False))
    pair = found.pairs[1]
    seen = set(fitted.fit.positive.hashes) | set(fitted.fit.negative.hashes)
    assert pair.left_out == sum(h in seen for h in (*other.report.positive.hashes, *other.report.negative.hashes)) > 0
    held_out = ls.record(qwen, other.report, progress=False).at(calibration.selected_site)
    hashes = (other.report.positive.hashes, other.report.negative.hashes)
    for scores, side, names in zip(pair.scores, held_out, hashes, strict=True):
        wanted = [float(h @ calibration.basis[0]) for h, name in zip(side, names, strict=True) if name not in seen]
        assert scores == pytest.approx(wanted, abs=1e-3)
    texts = [[p.text for p in side] for side in (other.report.positive, other.report.negative)]
    words = [[len(t.split()) for t in side] for side in texts]
    above = np.mean([(a > b) + (a == b) / 2 for a in words[0] for b in words[1]])
    assert pair.surface["number of words"] == pytest.approx(max(above, 1 - above))
    assert pair.surface["a mark at the end"] == 0.5 and pair.shared  # every prompt of the files ends with a mark
    alone = found.pairs[0]
    assert (alone.cosine, alone.jaccard) == (pytest.approx(1), 1.0)
    assert np.array_equal(alone.scores[0], alone.own_scores[0])
    assert 0.5 <= pair.random[0] <= pair.random[1] <= 1


def test_few_prompts(qwen: Any, found: Transfer) -> None:
    """Numbers above a half are left out and the half is added; more prompts agree better with others."""
    assert {(d.source, d.n) for d in found.draws} == {(s, n) for s in ("tools", "fruit") for n in (3, 8, 12)}
    refusal = {"refusal": ls.load_contrast("organism/refusal", limit=32)}
    few, more, half = transfer(qwen, refusal, sizes=(2, 16), draws=9, progress=False).draws
    assert np.median(more.cosine) > np.median(few.cosine) + 0.1
    assert np.median(more.area) > 0.9
    assert (half.n, half.half, half.held_out) == (32, 32, 64) and not half.lost.any()


def test_draws_are_calibrations_of_their_prompts(found: Transfer) -> None:
    """One draw by hand: two sets that share no prompt, calibrated plainly; the area is that of the second half."""
    source = found.sources[0]
    (small, _) = draw_few("tools", source.fit, source.held_out, [5], draws=1, seed=4)
    sides = [torch.cat([getattr(part, side) for part in (source.fit, source.held_out)]) for side in SIDES]
    rng = np.random.default_rng([4, 0])
    orders = [rng.permutation(len(side)) for side in sides]
    halves = [len(side) // 2 for side in sides]

    def calibrated(start: bool, n: int | None = None) -> ls.Calibration:
        parts = [
            side[order[half * start :][: half if n is None else n]]
            for side, order, half in zip(sides, orders, halves, strict=True)
        ]
        return ls.calibrate(replace(source.fit, positive=parts[0], negative=parts[1], stream=None), progress=False)

    one, other, whole = calibrated(False, 5), calibrated(True, 5), calibrated(False)
    assert small.jaccard[0] == pytest.approx(
        len({*one.discriminative_sites} & {*other.discriminative_sites})
        / len({*one.discriminative_sites} | {*other.discriminative_sites})
    )
    rest = [side[order[half:]] for side, order, half in zip(sides, orders, halves, strict=True)]
    areas = []
    for c in (one, whole):
        positive, negative = ((x[:, c.selected_index].double() @ c.basis[0].double()).numpy() for x in rest)
        areas.append(auroc(positive, negative).value)
    assert small.area[0] == pytest.approx(areas[0], abs=1e-6)
    assert small.lost[0] == pytest.approx(areas[0] - areas[1], abs=1e-6)
    assert bool(small.same_site[0]) == (one.selected_site == other.selected_site)


def test_agreement_by_chance() -> None:
    """Random sets of the sizes agree as far as is said."""
    rng = np.random.default_rng(0)
    for a, b in ((4, 6), (20, 9), (35, 34)):
        drawn = [(set(rng.permutation(48)[:a]), set(rng.permutation(48)[:b])) for _ in range(2000)]
        assert np.mean([len(x & y) / len(x | y) for x, y in drawn]) == pytest.approx(chance(a, b, 48), abs=0.02)


def planted(area: float, own: float, *, random: float = 0.6, n: int = 64) -> Pair:
    """A pair whose scores have these areas: a share of the positive prompts lies below all negative ones."""

    def scores(of: float) -> tuple[Any, Any]:
        return np.where(np.arange(n) < round(of * n), 1.0, -1.0), np.zeros(n)

    return Pair(
        fitted="a", on="b", site="blocks.1.ln1.hook_out", scores=scores(area), own_scores=scores(own),
        random=(0.5, random), cosine=0.5, jaccard=0.2, left_out=0, shared=True, surface={"number of words": 0.7},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("area", "own", "random", "wanted"),
    [
        (1.0, 1.0, 0.6, HOLDS), (0.5, 1.0, 0.6, REFUTED), (0.95, 1.0, 0.6, NOT_SHOWN), (0.55, 0.5, 0.6, INSENSITIVE),
        (1.0, 1.0, 0.99, INSENSITIVE), (0.97, 0.97, 0.96, INSENSITIVE),
    ],
)  # fmt: skip
def test_planted_transfers(found: Transfer, area: float, own: float, random: float, wanted: str) -> None:
    """It holds where nothing is lost and is refuted where all is; beside random directions as good, nothing is said."""
    pair = planted(area, own, random=random)
    decided = claims(replace(found, pairs=(pair, *(p for p in found.pairs if p.fitted == p.on)), draws=()))
    claim = next(c for c in decided if c.id == "transfers-a-on-b")
    assert claim.verdict == wanted
    assert claim.value == pytest.approx(area - own, abs=0.02)
    assert claim.witness["holds_jointly"] == (wanted == HOLDS)


def test_a_direction_no_better_than_random_ones_does_not_transfer(found: Transfer) -> None:
    """Between the lower ends of the two areas: the own direction is beyond random ones, the other is not surely."""
    pair = planted(0.97, 1.0, n=400)
    between = (pair.area().low + pair.own().low) / 2
    pairs = (replace(pair, random=(0.5, between)), *(p for p in found.pairs if p.fitted == p.on))
    (claim,) = (c for c in claims(replace(found, pairs=pairs, draws=())) if c.id == "transfers-a-on-b")
    assert claim.interval is not None and claim.interval[0] > -0.1
    assert claim.verdict == NOT_SHOWN


def draws(n: int, *, lost: Any, jaccard: Any, by_chance: float = 0.1, half: int = 80) -> Draws:
    ones = np.ones(20)
    return Draws("tools", n, half, 160, ones, ones * jaccard, ones * by_chance, ones, ones * lost, ones > 0)


def test_planted_draws(found: Transfer) -> None:
    """33 prompts are enough where the draws lose nothing, are not where they lose much, and else nothing is shown."""
    mixed = np.where(np.arange(20) < 10, 0.0, -0.2)
    for lost, jaccard, wanted in (
        (0.0, 0.9, HOLDS), (-0.2, 0.5, REFUTED), (mixed, 0.9 + mixed, NOT_SHOWN),
    ):  # fmt: skip
        by_id = {c.id: c for c in claims(replace(found, draws=(draws(33, lost=lost, jaccard=jaccard),)))}
        assert by_id["few-direction-tools"].verdict == by_id["few-sites-tools"].verdict == wanted
        assert not by_id["few-direction-tools"].witness["holds_jointly"]
    by_id = {c.id: c for c in claims(replace(found, draws=(draws(33, lost=0, jaccard=0.9, by_chance=0.6),)))}
    assert by_id["few-sites-tools"].verdict == INSENSITIVE
    few = draws(33, lost=0, jaccard=0.9, half=50)
    assert not any(c.id.startswith("few-") for c in claims(replace(found, draws=(few,))))
    halves = claims(replace(found, draws=(draws(80, lost=0, jaccard=0.5),)))
    assert {c.id: c.verdict for c in halves if "sites" in c.id} == {"same-sites-tools": REFUTED}


def test_the_interval_of_a_difference() -> None:
    """It contains the difference, and is as wide as both intervals together at most."""
    one, other = Estimate(0.8, 0.7, 0.9, 40), Estimate(0.9, 0.8, 0.95, 60)
    found = less(one, other)
    assert found.low < found.value == pytest.approx(-0.1)
    assert (found.high - found.low) < (0.2 + 0.15) and found.n == 40


def test_figures(found: Transfer) -> None:
    assert set(drawings(found)) == {"transfer_areas", "prompts_needed"}
    assert set(drawings(replace(found, draws=()))) == {"transfer_areas"}


def test_what_cannot_be_compared(qwen: Any, files: dict[str, Path]) -> None:
    whole = contrast(files, "tools")
    refused: tuple[tuple[Any, dict[str, Any], str], ...] = (
        ({}, {}, "sources is empty"),
        ({"a": ls.load_contrast(positive=files["tools"], negative=files["rest"])}, {}, "source 'a' has fewer than two"),
        ({"a": whole}, {"draws": 0}, "give at least 1 draw"),
        ({"a": whole}, {"sizes": (1,)}, "sizes of at least 2"),
    )
    for sources, how, wanted in refused:
        with pytest.raises(LensSteerError, match=wanted):
            transfer(qwen, sources, progress=False, **how)


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, files: dict[str, Path]
) -> None:
    """It writes numbers, page and figures; a dry run tells the cost; a bad option is told before anything is read."""
    sources = ["--source", f"tools={files['tools']}", "--source", f"fruit={files['fruit']}={files['rest']}"]
    given = ["transfer", "--model", "organism/qwen2", *sources, "--negative", str(files["rest"]), "--sizes", "4"]
    code, out, err = command(monkeypatch, capsys, *given, "--out", str(tmp_path / "dry"), "--dry-run")
    assert code == 0 and json.loads(out)["dry_run"] and not (tmp_path / "dry").exists(), err
    code, out, _ = command(monkeypatch, capsys, *given, "--draws", "3", "--out", str(tmp_path / "out"))
    assert code == 0
    record = json.loads((tmp_path / "out" / "transfer.json").read_text("utf-8"))
    assert [c["id"] for c in record["claims"]] == list(json.loads(out)["verdicts"])
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"transfer_areas.png", "prompts_needed.png"}
    assert "length or mark" in (tmp_path / "out" / "transfer.md").read_text("utf-8")
    for options, wanted in (
        (["--source", "tools"], "give NAME=POSITIVE"),
        (["--source", f"tools={files['tools']}"], "the name 'tools' was given before"),
        (["--sizes", "few"], "--sizes few: give numbers of at least 2"),
        (["--sizes", "1"], "--sizes 1: give numbers of at least 2"),
        (["--draws", "0"], "--draws 0: give at least 1"),
    ):
        code, _, err = command(monkeypatch, capsys, *given, *options, "--out", str(tmp_path / "bad"))
        assert code == 2 and wanted in err and not (tmp_path / "bad").exists()
