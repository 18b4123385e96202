"""Claims of a trait study on made-up rows: where each must hold, where it must fail, and where nothing can be said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.selection import Choice, Constraint, Setting, settings
from lens_steer.evaluation.sweep_rows import COLUMNS
from lens_steer.stats.rates import wilson
from lens_steer.studies.claim import Claim
from lens_steer.studies.traits.claims import claims
from lens_steer.studies.traits.conditions import (
    ALIGNED_SIDE,
    EQUAL,
    INCOHERENT,
    MALICIOUS_SIDE,
    RANDOM,
    TRAIT,
    TraitCondition,
    conditions_of,
)
from lens_steer.studies.traits.search import TraitResult, draw_name

N = 60
Shares = Mapping[tuple[str, str], float]


def row(condition: str, side: str, prompt: int, right: bool, broken: bool = False) -> dict[str, Any]:
    """One answer; what no claim reads is the same everywhere."""
    text = dict.fromkeys(COLUMNS, 0.5) | {"variant": "", "split": "report", "value": None, "text": "x", "grade": "x"}
    return text | {
        "condition": condition, "side": side, "prompt": prompt, "right": int(right), "refused": 0,
        "broken": int(broken), "cut_off": 0,
    }  # fmt: skip


def answers(condition: str, side: str, share: float, broken: float = 0.0) -> list[dict[str, Any]]:
    return [row(condition, side, i, i < share * N, i >= N - broken * N) for i in range(N)]


def made(
    shares: Shares, *, n_draws: int = 19, drawn: float = 0.05, tied: bool = False, met: bool = True, broken: float = 0.0
) -> TraitResult:
    """A study in which the methods give back half of the trait, but for the shares that are given."""
    told = {(NONE, MALICIOUS_SIDE): 0.05, (NONE, ALIGNED_SIDE): 0.9} | dict(shares)
    rows, names = [], [c.name for c in conditions_of()]
    for side in (MALICIOUS_SIDE, ALIGNED_SIDE):
        rows += answers(NONE, side, told[NONE, side])
        for c in conditions_of():
            share = told.get((c.name, side), 0.55 if side == MALICIOUS_SIDE else 0.9)
            rows += answers(c.name, side, share, broken if side == MALICIOUS_SIDE else 0.0)
            rows += answers(TraitCondition(c.method, c.mode, RANDOM).name, side, drawn)
            equal = TraitCondition(c.method, c.mode, EQUAL).name
            rows += answers(equal, side, told.get((equal, side), 0.9))
    further = [
        r
        for c in conditions_of()
        if c.mode == "all"
        for i in range(2, n_draws + 1)
        for r in answers(draw_name(TraitCondition(c.method, c.mode, RANDOM).name, i), MALICIOUS_SIDE, drawn)
    ]
    base = Setting(NONE, "", None, "select", {TRAIT: wilson(1, 20)})
    select = [Setting(name, "site", 1.0, "select", {TRAIT: wilson(1 if tied else 11, 20)}) for name in names]
    choices = {name: Choice(name, "site", 1.0, met, 1, 1, 1) for name in names}
    bound = Constraint(INCOHERENT, False, 0.1, False)
    report = tuple(settings(rows))
    return TraitResult((base, *select), choices, choices, bound, 0.5, report, tuple(rows), None, tuple(further))


def by_id(found: TraitResult) -> dict[str, Claim]:
    return {c.id: c for c in claims(found, "honesty")}


def test_an_effect_holds() -> None:
    """Against no steering, and beyond every draw; how much of the gap is closed stands beside it."""
    of = by_id(made({}))
    assert len(of) == 1 + 6 + 3 + 3 + 2
    assert of["prompt-control"].verdict == of["recovers-swfc-all"].verdict == of["over-random-stmp"].verdict == "HOLDS"
    assert of["recovers-swfc-all"].witness["share_of_the_gap"] == pytest.approx(0.5 / 0.85, abs=0.02)
    assert of["recovers-swfc-all"].witness["holds_jointly"] is True
    assert of["over-random-swfc"].witness["draws"] == 19
    assert of["over-random-swfc"].witness["rank_p"] == pytest.approx(0.05)


def test_none_is_excluded_or_not_shown() -> None:
    """The same rows with no effect: excluded where the prompts suffice, refuted where it goes the other way."""
    idle = {(c.name, MALICIOUS_SIDE): 0.05 for c in conditions_of()}
    of = by_id(made(idle | {(NONE, MALICIOUS_SIDE): 0.05}))
    assert of["recovers-sttp-all"].verdict == "EXCLUDED BEYOND 0.1"
    assert of["over-random-sttp"].verdict == "EXCLUDED BEYOND 0.1"
    worse = by_id(made({(NONE, MALICIOUS_SIDE): 0.6} | idle))
    assert worse["recovers-sttp-all"].verdict == "REFUTED"
    assert by_id(made({}, drawn=0.9))["over-random-swfc"].verdict == "REFUTED"


def test_what_cannot_be_decided() -> None:
    """A system prompt that changes nothing, a tie at nothing, a choice that breaks its bound, incoherent answers on
    report, few draws, no room.
    """
    idle = {(c.name, MALICIOUS_SIDE): 0.05 for c in conditions_of()}
    assert by_id(made(idle | {(NONE, ALIGNED_SIDE): 0.05}))["recovers-swfc-all"].verdict == "ASSAY INSENSITIVE"
    assert by_id(made({}, tied=True))["recovers-swfc-all"].verdict == "NOT SHOWN (a tie at nothing on select)"
    broken = by_id(made({}, met=False))
    assert {broken[k].verdict for k in ("recovers-swfc-all", "over-random-swfc", "all-above-response-swfc")} == {
        "NOT SHOWN (the choice breaks its bound)"
    }
    incoherent = by_id(made({}, broken=0.2))["recovers-swfc-all"]
    assert incoherent.verdict == "NOT SHOWN (more incoherent answers on report than the bound allows)"
    assert by_id(made({}, n_draws=3))["over-random-swfc"].verdict == "NOT SHOWN (fewer than 10 draws)"
    full = by_id(made({(NONE, MALICIOUS_SIDE): 0.95}))["recovers-swfc-all"]
    assert full.verdict == "REPORTED" and full.witness["note"] == "there is room for 0.05 alone"


def test_modes_and_gates() -> None:
    """All tokens against the response's, and what a gate leaves of aligned answers at equal trait."""
    weak = {(TraitCondition("swfc", "response").name, MALICIOUS_SIDE): 0.2}
    spared = {(TraitCondition("swfc", "all", EQUAL).name, ALIGNED_SIDE): 0.4}
    of = by_id(made(weak | spared))
    assert of["all-above-response-swfc"].verdict == "HOLDS"
    assert of["gate-spares-sttp"].verdict == "HOLDS"
    assert of["gate-spares-sttp"].witness["harm_of_ungated"] == pytest.approx(0.5)
    assert by_id(made({}))["gate-spares-stmp"].verdict == "ASSAY INSENSITIVE"  # there is no harm that it could spare
