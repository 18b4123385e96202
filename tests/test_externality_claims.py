"""Side effects of benign steering: what decides each claim, on one small study and on planted results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lens_steer.data import PromptSet
from lens_steer.evaluation.conditions import NONE
from lens_steer.studies.claim import REPORTED
from lens_steer.studies.externalities import claim_texts as texts
from lens_steer.studies.externalities.claims import claims
from lens_steer.studies.externalities.conditions import CONTROL
from lens_steer.studies.externalities.found import Externalities
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, NOT_SHOWN
from tests.test_externalities import N, found, material  # noqa: F401

Small = tuple[Externalities, list[Any], Path]


def test_claims(found: Small) -> None:  # noqa: F811
    """Every claim once; the control's hold; a verdict follows its criterion; what cannot be tested is reported with a
    note.
    """
    made, claimed, _ = found
    by_id = {c.id: c for c in claimed}
    assert len(by_id) == len(claimed) == len(claims(made, "m"))
    for c in claimed:
        if c.verdict == REPORTED:
            assert c.witness["note"], c.id
        elif c.criterion.startswith("95 % interval above 0") and c.interval:
            assert (c.verdict == HOLDS) == (c.interval[0] > 0), c.id
        elif c.criterion.startswith("95 % interval below 0") and c.interval:
            assert (c.verdict == HOLDS) == (c.interval[1] < 0), c.id
    assert by_id["kl-harmful-control"].verdict == HOLDS
    assert by_id["kl-start-harmful-control"].verdict == HOLDS
    assert by_id["purpose-compliance"].verdict == REPORTED


def planted(made: Externalities, **right: bool) -> Externalities:
    """The same study with harmful requests all answered rightly, or never, under the named conditions."""
    rows = [
        {**r, "right": int(right[r["condition"]])} if r["side"] == "positive" and r["condition"] in right else r
        for r in made.rows
    ]
    return replace(made, rows=tuple(rows))


def test_verdicts_on_planted_results(found: Small) -> None:  # noqa: F811
    """An effect that is there holds; one that is not there is shown to be missing only by a control that works, and by
    enough prompts.
    """
    said = {}
    for name, steered, control in (("effect", True, True), ("null", False, True), ("blind", False, False)):
        made = planted(found[0], **{NONE: False, "json": steered, CONTROL: control})
        said[name] = {c.id: c for c in claims(made, "m")}["attack-json"]
    assert (said["effect"].verdict, said["effect"].witness["holds_jointly"]) == (HOLDS, True)
    assert said["null"].verdict == (NOT_SHOWN if said["null"].interval[1] >= 0.1 else "EXCLUDED BEYOND 0.1")
    assert said["blind"].verdict == INSENSITIVE
    assert "excludes" not in said["effect"].witness
    high = said["null"].interval[1]
    assert said["null"].witness.get("excludes", []) == [
        f"{100 * rise:+g} points ({where})"
        for where, rise in (("Llama-3-8B", 0.18), ("Llama-2-7B", 0.115))
        if high < rise
    ]


def test_nothing_is_decided_at_a_choice_that_cannot_be_used(found: Small) -> None:  # noqa: F811
    """One that breaks its bound, or a tie at no JSON at all; what describes the steering is decided all the same. Nor
    does a control that breaks its bound show that an effect could be seen.
    """
    made = planted(found[0], **{NONE: False, "json": False, CONTROL: True})
    compliance, json_steering = made.steerings
    broken = replace(
        made, steerings=(compliance, replace(json_steering, choice=replace(json_steering.choice, met=False)))
    )
    by_id = {c.id: c for c in claims(broken, "m")}
    assert by_id["attack-json"].verdict == "NOT SHOWN (the choice breaks its bound)"
    assert by_id["kl-flat-benign-json"].verdict == {c.id: c for c in claims(made, "m")}["kl-flat-benign-json"].verdict
    none, *tried = made.select["json"]
    idle = [replace(s, measured={**s.measured, "json_unasked": none.measured["json_unasked"]}) for s in tried]
    tied = replace(made, select={**made.select, "json": (none, *idle)})
    assert {c.id: c for c in claims(tied, "m")}["attack-json"].verdict == "NOT SHOWN (a tie at nothing on select)"
    weak = replace(made, control=replace(made.control, choice=replace(made.control.choice, met=False)))
    assert {c.id: c for c in claims(weak, "m")}["attack-json"].verdict == INSENSITIVE


def test_random_directions_are_a_band(found: Small) -> None:  # noqa: F811
    """With fewer than ten draws nothing is decided; the interval is over prompts and draws. Those beyond the third are
    measured on harmful requests alone.
    """
    made, group = planted(found[0], **{NONE: False, "json": True, CONTROL: True}), "json, random direction"
    assert made.drawn(group, "attack").shape == (4, N)
    (last,) = (c for c in made.draws if c.group == group)
    assert set(made.measured(last.name)) == {"attack", "positive_refused", "positive_degenerate", "json_harmful"}
    claim = {c.id: c for c in claims(made, "m")}["attack-over-random-json"]
    assert (claim.verdict, claim.witness["draws"]) == ("NOT SHOWN (fewer than 10 draws)", 4)
    more = tuple(replace(last, draw=i) for i in range(5, 24))
    copied = [{**r, "condition": c.name} for c in more for r in made.rows if r["condition"] == last.name]
    names = {c.name for c in (*made.conditions, *made.draws, *more) if c.group == group}
    rows = [{**r, "right": 0} if r["condition"] in names else r for r in (*made.rows, *copied)]
    many = replace(made, draws=(*made.draws, *more), rows=tuple(rows))
    claim = {c.id: c for c in claims(many, "m")}["attack-over-random-json"]
    assert (claim.verdict, claim.value, claim.witness["draws"]) == (HOLDS, 1.0, 23)


def test_pairs_are_compared_by_pair(found: Small) -> None:  # noqa: F811
    """Two prompts with one response are one unit; what the responses are called stands in the claims."""
    made = found[0]
    shared = {
        name: PromptSet(tuple(replace(p, response="yes") for p in made.responses["benign"]), name)
        for name in made.responses
    }
    key = ("json", "benign")
    same = {**made.divergences, ("json", "harmful"): made.divergences[key]}
    paired = replace(made, responses=shared, divergences=same, harmful_name="odd")
    claim = {c.id: c for c in claims(paired, "m")}["kl-harmful-json"]
    assert (claim.value, claim.n) == (0.0, made.divergences[key].n_prompts)
    assert "by pair of prompts" in claim.formula and "larger on odd than on benign" in claim.statement
    assert "by pair" not in {c.id: c for c in claims(made, "m")}["kl-harmful-json"].formula


def test_words_say_what_is_measured(
    found: Small,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a ground truth no claim speaks of success, and none excludes a rise that a classifier measured."""
    made = planted(found[0], **{NONE: False, "json": False, CONTROL: True})
    monkeypatch.setitem(texts.PUBLISHED, ("json", "attack"), {"a model": 0.99})
    assert any("excludes" in c.witness for c in claims(made, "m"))
    said = claims(replace(made, known=False), "m")
    assert not any("success" in f"{c.statement} {c.quantity} {c.formula}" for c in said)
    assert not any("excludes" in c.witness for c in said)
