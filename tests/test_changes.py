"""What changed in a verdict, and the reason that is told: true of the claim as it is, by its interval and its rank."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from analyses.changes import AGAIN, Change, counts_table
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN, TIED


def why(after: str, interval: tuple[float, float] | None, *, id_: str = "nominal-the-plane", **witness: Any) -> str:
    """The reason for a claim that held."""
    return Change("propositions", "m", id_, HOLDS, after, interval, witness).why


def test_what_the_rank_alone_decides_is_told_of_the_rank() -> None:
    """The interval lies above 0 and the rank does not reach 0.05: that 0 is inside would not be true."""
    by_rank = why(NOT_SHOWN, (0.2, 0.6), draws=19, rank_p=0.1, by_interval_alone=HOLDS)
    assert by_rank == "19 draws in place of one: the rank among them does not reach p = 0.05, whatever the interval"
    inside = why(NOT_SHOWN, (-0.2, 0.6), draws=19, rank_p=0.05, by_interval_alone=NOT_SHOWN)
    assert inside.endswith("with an interval over prompts and draws: 0 is inside")
    assert why(INSENSITIVE, (-0.2, 0.6), draws=19).startswith("19 draws in place of one; the positive control")
    assert why(f"{NOT_SHOWN} (fewer than 10 draws)", (0.2, 0.6), draws=3).startswith("3 draws in place of one")
    assert "a tie at nothing" in why(TIED, None)


def test_a_paired_claim_is_told_of_its_interval() -> None:
    """A score interval for rates alone, and only where 0 is inside."""
    assert why(NOT_SHOWN, (-0.1, 0.2), id_="relative-angle").startswith("by a score interval for paired rates")
    assert "score" not in why(NOT_SHOWN, (-0.1, 0.2), id_="surprise-relative-angle")
    assert why(NOT_SHOWN, (0.1, 0.2), id_="relative-angle") == AGAIN


@pytest.mark.parametrize("reason", ["rank", "interval"])
def test_each_reason_has_its_own_row(reason: str) -> None:
    """The same two verdicts for two reasons: two rows of the table."""
    both = [
        Change(
            "propositions", "m", "nominal-the-plane", HOLDS, NOT_SHOWN, ends, {"draws": 19, "by_interval_alone": said}
        )
        for ends, said in (((0.2, 0.6), HOLDS), ((-0.2, 0.6), NOT_SHOWN))
    ]
    rows = [line for line in counts_table(both).splitlines() if line.startswith(f"| {HOLDS} | {NOT_SHOWN}")]
    assert len(rows) == 2
    assert any(reason in row for row in rows)


def test_ids_of_before_are_not_those_of_other_experiments() -> None:
    """The verdicts of before have no claim on an engine's cache, which was not asked then."""
    with Path("figures/verdicts_before.csv").open(newline="", encoding="utf-8") as stream:
        ids = {row["id"] for row in csv.DictReader(stream)}
    assert "fresh-cache-SS" in ids
    assert not any("engine-cache" in key or "whole-prompt" in key for key in ids)
