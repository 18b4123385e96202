"""The committed tables, byte for byte: what the code writes of the records that are committed beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analyses import changes, comparison, directions, externalities, propositions, traits
from lens_steer._io.tables import from_markdown
from lens_steer.errors import LensSteerError
from lens_steer.steer.method_table import markdown_table
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim
from lens_steer.studies.externalities.report import CLAIMS_NOTE
from lens_steer.studies.headline import headline
from lens_steer.studies.traits import table as trait_table
from tests.benchmarks.__main__ import table as benchmark_table

FIGURES = Path(__file__).parents[1] / "figures"
MODELS = ("qwen2", "llama", "gemma2")


def committed(name: str) -> str:
    """A committed file's text."""
    return (FIGURES / name).read_text(encoding="utf-8")


def records(pattern: str) -> dict[str, Any]:
    """The committed record of each model, by the name that the tables have for it."""
    return {f"organism/{model}": json.loads(committed(pattern.format(model))) for model in MODELS}


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Claims as they were before they were written."""
    return [Claim.of(row) for row in rows]


def of_model(model: str) -> list[Claim]:
    """The claims on the propositions that were tested on a model."""
    name = "propositions.json" if model == "qwen2" else f"{model}/propositions.json"
    return claims(json.loads(committed(name))["claims"])


def test_comparison() -> None:
    found = records("comparison/{}/comparison.json")
    assert comparison.table(found) == committed("comparison/comparison.md")
    assert comparison.equal_kl_table(found) == committed("comparison/equal_kl.md")
    assert comparison.headline_table(found) == committed("comparison/headline.md")
    assert comparison.headline_claims(found) == committed("comparison/headline_claims.md")
    for model in MODELS:
        rows = json.loads(committed(f"comparison/{model}/headline.json"))["claims"]
        assert claims(rows) == headline(found[f"organism/{model}"])


@pytest.mark.parametrize("trait", ["honesty", "compassion"])
def test_traits(trait: str) -> None:
    found = {name: record["rows"] for name, record in records("traits/{}/" + trait + "/traits.json").items()}
    assert traits.table(found) == committed(f"traits/traits_{trait}.md")
    for model in MODELS:
        assert trait_table.latex(found[f"organism/{model}"], trait) == committed(f"traits/{model}/{trait}/traits.tex")


def test_externalities() -> None:
    found = records("externalities/{}/externalities.json")
    assert externalities.table(found) == committed("externalities/externalities.md")
    assert externalities.claims_table(found) == committed("externalities/externalities_claims.md")
    assert externalities.claims_table(found, externalities.DECIDING) == committed(
        "externalities/externalities_verdicts.md"
    )
    for model in MODELS:
        made = claim_tables.markdown(claims(found[f"organism/{model}"]["claims"]))
        assert f"{made}\n{CLAIMS_NOTE}\n" == committed(f"externalities/{model}/claims.md")


@pytest.mark.parametrize("model", MODELS)
def test_propositions(model: str) -> None:
    found, folder = of_model(model), "" if model == "qwen2" else f"{model}/"
    assert claim_tables.markdown(found) == committed(f"{folder}propositions.md")
    assert claim_tables.latex(found) == committed(f"{folder}propositions.tex")


def test_behaviour() -> None:
    found = {f"organism/{model}": of_model(model) for model in MODELS}
    assert propositions.behaviour(found) == committed("behaviour.md")
    assert propositions.short(found["organism/qwen2"], "organism/qwen2") == committed("verdicts.md")


def test_a_mistyped_id_of_a_claim_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be left out of the page without a word."""
    monkeypatch.setattr(propositions, "SHOWN", (*propositions.SHOWN, "proposition-3"))
    with pytest.raises(LensSteerError, match="SHOWN names 'proposition-3', which is no claim on 'organism/qwen2': use"):
        propositions.short(of_model("qwen2"), "organism/qwen2")


def test_methods_directions_and_benchmarks() -> None:
    summary = json.loads(committed("directions.json"))["estimators"]
    assert markdown_table() == committed("methods.md")
    assert directions.table(summary, n_blocks=12, n_sites=24) == committed("directions.md")
    found = json.loads(committed("benchmarks.json"))
    assert benchmark_table(found) == committed("benchmarks.md")


def test_every_latex_beside_a_table_of_the_readme() -> None:
    """Where no writer of LaTeX of its own stands beside it."""
    own = {"propositions", "traits"}
    for path in sorted(FIGURES.rglob("*.tex")):
        per_model = path.stem == "comparison" and path.parent.name in MODELS
        if path.stem not in own and not per_model:
            assert path.read_text(encoding="utf-8") == from_markdown(
                path.with_suffix(".md").read_text(encoding="utf-8")
            ), path


@pytest.mark.parametrize("model", MODELS)
def test_an_interval_is_the_value_s_own(model: str) -> None:
    """A cell does not show one quantity's value beside another's interval."""
    found = [*of_model(model), *claims(records("externalities/{}/externalities.json")[f"organism/{model}"]["claims"])]
    for claim in found:
        assert "interval:" not in claim.quantity, claim.id
        if claim.interval is not None:
            low, high = claim.interval
            assert low - 1e-9 <= float(claim.value or 0) <= high + 1e-9, claim.id


def test_what_changed() -> None:
    found = changes.changes(FIGURES)
    assert changes.counts_table(found) == committed("changes.md")
    assert changes.reversed_table(found) == committed("reversed.md")


def test_every_change_has_a_reason() -> None:
    """No pair of verdicts falls through to the last reason unseen, but for claims that were measured again."""
    again = [c for c in changes.changes(FIGURES) if c.changed and c.why == "measured again under the rules of today"]
    assert [c for c in again if c.before == "HOLDS" and not c.after.startswith(("REFUTED", "EXCLUDED"))] == []
