"""Criteria: each claim keeps the one that stood when its first result was committed, or is marked *post hoc*."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lens_steer.studies.claim import POST_HOC, criterion_of

RECORD = Path("tests/criteria.csv")  # every claim's criterion at its first committed result, never to be edited
STUDIES = (
    "propositions",
    "externalities",
    "headline",
    "site_choice",
    "transfer",
    "angle_transfer",
    "formats",
    "conversation",
)  # traits are added with their first committed result on a real model: those of organisms are older than the claims
COMMITTED = sorted(
    [p for name in STUDIES for p in Path("figures").rglob(f"{name}.json")],
    key=str,
)


def recorded() -> dict[tuple[str, str], str]:
    with RECORD.open(newline="", encoding="utf-8") as stream:
        return {(row["study"], row["id"]): row["criterion"] for row in csv.DictReader(stream)}


@pytest.mark.parametrize("path", COMMITTED, ids=str)
def test_a_criterion_is_the_first_one_or_marked(path: Path) -> None:
    """A new claim gets a row in the record, with the commit of its first result; a row is never changed."""
    first, record = recorded(), json.loads(path.read_text(encoding="utf-8"))
    claims = {_kept(c["id"], record["meta"].get("model")): c for c in record["claims"]}
    missing = [key for key in claims if (path.stem, key) not in first]
    assert not missing, f"add to {RECORD}: {missing}"
    for key, claim in claims.items():
        if claim["criterion"] != first[path.stem, key]:
            assert "post hoc" in criterion_of(claim["id"], claim["criterion"]), claim["id"]


def _kept(key: str, model: str | None) -> str:
    """The id under which a criterion is recorded: a claim on any real model has that of the first embedded one."""
    real = model is not None and not model.startswith("organism/")
    return key.replace(f"-{model}", "-organism/qwen2") if real else key


def test_a_mark_stays() -> None:
    """Each mark has claims in the record that it is about: it is not taken away with a new wording."""
    ids = {key for _, key in recorded()}
    assert all(any(key.startswith(start) for key in ids) for start in POST_HOC)
    assert POST_HOC["kl-flat-"] == "ca4d03e"


def test_tables_show_the_mark() -> None:
    """The committed table of externalities says it for each of the claims on flatness."""
    table = Path("figures/externalities/externalities_claims.md").read_text(encoding="utf-8")
    flat = [line for line in table.splitlines() if "is flat after the start" in line]
    assert flat
    assert all("(post hoc, ca4d03e)" in line for line in flat)
