"""The headline claims on planted comparisons: an effect, its opposite, none, and an assay that sees nothing."""

from __future__ import annotations

from typing import Any

import pytest

from analyses.comparison import headline_table
from lens_steer.studies.headline import at_choice, headline

SAS = "standard-everywhere"


def rate(condition: str, value: float, n: int = 64) -> dict[str, Any]:
    ends = {"positive_right_low": max(0.0, value - 0.1), "positive_right_high": min(1.0, value + 0.1)}
    return {"condition": condition, "positive_right": value, **ends, "positive_right_n": n}


def gap(value: float, half: float = 0.1) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": 64}


def record(
    less: dict[str, Any],
    equal: dict[str, Any] | None = None,
    *,
    control: float = 0.9,
    controlled_by: str = "sttp (calibrated)",
    tied: bool = False,
    met: bool = True,
) -> dict[str, Any]:
    """A comparison in which SAS differs from SS as given (SAS less SS, as a comparison writes it)."""
    return {
        "report": [
            rate("no steering", 0.0),
            rate(controlled_by, control),
            rate("selective", 0.5),
            rate(SAS, 0.5),
        ],
        "choices": {name: {"at_nothing": tied, "met": met} for name in ("selective", SAS)},
        "differences_from_selective": {SAS: {"positive_right": less}},
        "equal_kl": {"differences_from_selective": {} if equal is None else {SAS: equal}},
    }


@pytest.mark.parametrize(
    ("less", "options", "verdict"),
    [
        (gap(-0.27), {}, "HOLDS"),
        (gap(0.27), {}, "REFUTED"),
        (gap(0.05, 0.1), {}, "EXCLUDED BEYOND 0.1"),
        (gap(-0.05, 0.1), {}, "NOT SHOWN"),
        (gap(0.0, 0.05), {"control": 0.0}, "ASSAY INSENSITIVE"),
        (gap(0.0, 0.05), {"controlled_by": "ablation-everywhere (given direction)"}, "EXCLUDED BEYOND 0.1"),
        (gap(0.0, 0.05), {"controlled_by": "random plane"}, "ASSAY INSENSITIVE"),
        (gap(0.0, 0.0), {"tied": True}, "NOT SHOWN (a tie at nothing on select)"),
        (
            gap(-0.27),
            {"met": False},
            "NOT SHOWN (the choice of selective and standard-everywhere breaks the constraints)",
        ),
    ],
)
def test_planted_differences(less: dict[str, Any], options: dict[str, Any], verdict: str) -> None:
    (claim,) = headline(record(less, **options))
    assert claim.verdict == verdict
    assert claim.value == pytest.approx(-less["value"])
    assert claim.interval == pytest.approx((-less["high"], -less["low"]))
    assert claim.witness["holds_jointly"] == (verdict == "HOLDS")
    assert "its own code's SAS: +1 to +83 points" in claim.statement


def test_side_effects_are_compared_at_equal_divergence() -> None:
    """A lower perplexity is better, more tasks right are."""
    equal = {"positive_right": gap(0.0), "capable": gap(-0.3), "log_perplexity": gap(0.5, 0.2)}
    by_id = {c.id: c for c in headline(record(gap(0.0), equal))}
    assert by_id["ss-keeps-tasks-standard-everywhere-equal-divergence"].verdict == "HOLDS"
    less = by_id["ss-less-perplexing-standard-everywhere-equal-divergence"]
    assert (less.verdict, less.criterion, less.value) == ("HOLDS", "interval below 0", -0.5)
    assert set(by_id) == {
        "ss-above-standard-everywhere",
        "ss-above-standard-everywhere-equal-divergence",
        "ss-keeps-tasks-standard-everywhere-equal-divergence",
        "ss-less-perplexing-standard-everywhere-equal-divergence",
    }


def test_one_side_at_nothing_is_compared_as_no_steering() -> None:
    """The comparison has its difference from no steering; only where both do nothing is there nothing to compare."""
    found = record(gap(-0.27))
    found["choices"][SAS] |= {"at_nothing": True, "met": False}  # no steering breaks nothing
    assert headline(found)[0].verdict == "HOLDS"
    found["choices"]["selective"]["met"] = False
    assert headline(found)[0].verdict == "NOT SHOWN (the choice of selective breaks the constraints)"


def test_a_claim_is_decided_by_its_own_interval() -> None:
    """And holds jointly where the joint one decides it, too."""
    for joint, holds_jointly in ((0.3, False), (0.2, True)):
        less = gap(-0.27, joint) | {"low_alone": -0.4, "high_alone": -0.14}
        (claim,) = headline(record(less))
        assert (claim.verdict, claim.witness["holds_jointly"]) == ("HOLDS", holds_jointly)
        assert claim.interval == (0.14, 0.4)


def test_no_match_is_told() -> None:
    """As a claim without a value, and so is a choice of SS that breaks the constraints."""
    found = record(gap(0.0))
    found["equal_kl"]["matches"] = {SAS: {"kl": None, "value": None, "reason": "divergence is at least 0.3"}}
    _, *equal = headline(found)
    assert [(c.verdict, c.value, c.n) for c in equal] == [("NOT SHOWN (no value has the divergence)", None, 0)] * 3
    assert equal[0].witness["reason"] == "divergence is at least 0.3"
    found["choices"]["selective"]["met"] = False
    assert {c.verdict for c in headline(found)[1:]} == {"NOT SHOWN (the choice of selective breaks the constraints)"}


def test_nothing_is_excluded_without_a_control() -> None:
    """No control shows that a loss of tasks or of perplexity could be seen."""
    claims = headline(record(gap(0.0), {"capable": gap(0.05, 0.05), "log_perplexity": gap(-0.01, 0.02)}))
    assert [c.verdict for c in claims[1:]] == ["NOT SHOWN", "NOT SHOWN"]
    assert [c.witness["smallest"] for c in claims[1:]] == [None, None]


def test_the_table_says_what_the_claims_say() -> None:
    """In points, bold where it holds jointly; a model without the method has a dash."""
    found = {
        "a": record(gap(-0.27)),
        "b": record(gap(0.05)),
        "c": record(gap(0.0)) | {"differences_from_selective": {}},
    }
    assert headline_table(found).splitlines()[2:] == [
        "| SAS as published | **+27 [+17, +37] (HOLDS)** | -5 [-15, +5] (EXCLUDED BEYOND 0.1) | — |"
    ]
    assert at_choice(headline(found["a"]), "adaptive") is None
