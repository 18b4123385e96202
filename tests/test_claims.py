"""The instrument: what it finds about the true operators, and that it can fail: broken operators are caught."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lens_steer.interop.imports.official import import_official
from lens_steer.operators import rotation
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions import differences, dose, formula, precision, recorded
from lens_steer.studies.propositions.formula import PLANE_OPERATORS, SAS, SS
from lens_steer.studies.propositions.geometry import geometry_claims
from lens_steer.studies.propositions.norms import PlaneOperator
from lens_steer.studies.propositions.verify import Verification, verify, write
from lens_steer.studies.verdicts import HOLDS, REFUTED


def radius_of_the_whole(h: Tensor, basis: Tensor, angle: float) -> Tensor:
    """SAS with r taken as ‖h‖ instead of ‖Ph‖."""
    right = rotation.standard_angular(h, basis, angle)
    ray = right @ basis.T
    unit = ray / ray.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    return right + (h.norm(dim=-1, keepdim=True) * unit - ray) @ basis


def nothing_taken_away(h: Tensor, basis: Tensor, angle: float) -> Tensor:
    """SAS without − Ph."""
    return rotation.standard_angular(h, basis, angle) + (h @ basis.T) @ basis


def skewed(operator: PlaneOperator) -> PlaneOperator:
    """An operator whose second basis vector leans towards the first."""
    return lambda h, basis, angle: operator(h, torch.stack([basis[0], basis[1] + 0.01 * basis[0]]), angle)


def verdicts(claims: list[Claim]) -> dict[str, str]:
    return {c.id: c.verdict for c in claims}


@pytest.fixture(scope="module")
def found() -> Verification:
    """Everything that needs no model."""
    return verify(progress=False)


def test_both_propositions(found: Verification) -> None:
    """Both rotations keep the norm to rounding; the step of the printed proof does not hold; additions and ablation
    change norms.
    """
    assert (found.claim("proposition-1").verdict, found.claim("proposition-2").verdict) == (REFUTED, HOLDS)
    for id_ in ("proposition-1", "proposition-2"):
        assert float(found.claim(id_).value or 0) < 1e-14
        assert found.claim(id_).witness["share_changed"][0] == 0.0
        assert found.claim(id_).interval is None
    step = found.claim("proposition-1-proof")
    assert (step.verdict, step.value) == (REFUTED, 0.0)
    assert step.witness["norm_before"] == pytest.approx(step.witness["norm_after"], rel=1e-14)
    assert verdicts(list(found.claims)) | {
        "norm-formula-ActAdd": REFUTED,
        "norm-formula-directional ablation": REFUTED,
    } == verdicts(list(found.claims))


def test_what_separates_the_rotations(found: Verification) -> None:
    """Identity, composition, isometry, linearity and class separation tell SS from SAS; norms, bases and rounding do
    not.
    """
    got = verdicts(list(found.claims))
    for kind in ("identity", "composition-adds", "isometry", "linear"):
        assert (got[f"{kind}-{SS}"], got[f"{kind}-{SAS}"]) == (HOLDS, REFUTED), kind
    assert (got[f"composition-idempotent-{SS}"], got[f"composition-idempotent-{SAS}"]) == (REFUTED, HOLDS)
    assert (got[f"classes-apart-{SS}-formula"], got[f"classes-apart-{SAS}-formula"]) == (HOLDS, REFUTED)
    for id_ in ("gram-error-separates", "rounding-separates", "continuous-AAS", "monotone-alignment"):
        assert got[id_] == REFUTED
    for id_ in (
        "closed-form-SAS",
        "closed-form-SS",
        "bound-SS",
        "displacement-SS",
        "displacement-SAS",
        "isometry-closed-form-SAS",
    ):
        assert got[id_] == HOLDS


@pytest.mark.parametrize("broken", [radius_of_the_whole, nothing_taken_away, skewed(rotation.standard_angular)])
def test_a_broken_sas_is_caught(broken: PlaneOperator) -> None:
    """Proposition 1 would hold for it, with a witness that shows the change; and it leaves its closed form."""
    operators = PLANE_OPERATORS | {SAS: broken}
    first = formula.proposition_claims(operators, vectors=200)[0]
    assert (first.id, first.verdict) == ("proposition-1", HOLDS)
    assert abs(first.witness["norm_after"] / first.witness["norm_before"] - 1) == pytest.approx(
        float(first.value or 0), rel=1e-6
    )
    assert float(first.value or 0) > 1e-4
    assert verdicts(formula.basis_claims(operators, vectors=50))["closed-form-SAS"] == REFUTED


def test_a_broken_ss_is_caught() -> None:
    """Proposition 2, isometry, composition and the displacement fail with it."""
    operators = PLANE_OPERATORS | {SS: skewed(rotation.selective_rotation)}
    assert verdicts(formula.proposition_claims(operators, vectors=200))["proposition-2"] == REFUTED
    got = verdicts(differences.difference_claims(operators))
    assert {got[f"{kind}-{SS}"] for kind in ("isometry", "displacement")} == {REFUTED}
    swapped = verdicts(differences.difference_claims(PLANE_OPERATORS | {SS: rotation.standard_angular}))
    assert {swapped[f"{kind}-{SS}"] for kind in ("identity", "composition-adds", "isometry", "linear")} == {REFUTED}


def test_a_basis_gets_the_gram_error_that_is_asked_for() -> None:
    """Its plane stays, its Gram matrix is off by exactly so much."""
    basis = formula.orthonormal(16, 3)
    for error in (1e-6, 0.3):
        skew = formula.with_gram_error(basis, error, seed=5)
        off = torch.linalg.matrix_norm(skew @ skew.T - torch.eye(2, dtype=torch.float64), ord=2)
        assert float(off) == pytest.approx(error, rel=1e-6)
        assert torch.allclose(skew @ basis.T @ basis, skew, atol=1e-12)


def test_printed_formulas_equal_the_operators() -> None:
    """In float64 the literal forms are the project's own; in half precision they round as they go."""
    basis = formula.orthonormal(32, 0)
    h = formula.drawn_vectors(basis, 40, 1)
    for name, literal in precision.LITERAL.items():
        assert torch.allclose(
            literal(h, basis, 123.0), PLANE_OPERATORS[name](h, basis, 123.0), rtol=1e-12, atol=1e-9
        ), name
        assert literal(h.bfloat16(), basis.bfloat16(), 123.0).dtype == torch.bfloat16
    cells = precision.grid(basis, h, angles=(90.0,))
    exact = max(c.largest for c in cells if (c.basis_dtype, c.arithmetic, c.operator) == ("float32", "float32", SS))
    rough = max(c.largest for c in cells if (c.basis_dtype, c.arithmetic, c.operator) == ("bfloat16", "bfloat16", SS))
    assert exact < 1e-5 < rough


def test_published_planes(reference: Path) -> None:
    """As shipped in bfloat16 they change the norm under both rotations alike; re-orthonormalised under neither."""
    name = "Llama-3.2-3B-Instruct"
    claims = {c.id: c for c in precision.published_claims({name: import_official(reference / "ss_raw" / name)})}
    for op in (SAS, SS):
        claim = claims[f"published-plane-{op}-{name}"]
        assert claim.verdict == "HOLDS UNDER re-orthonormalising"
        assert 1e-3 < claim.witness["as shipped"] < 0.1
        assert claim.witness["re-orthonormalised"] < 1e-6
    at = claims[f"published-identity-{name}"]
    assert at.verdict == HOLDS
    assert at.value == at.witness["0°, bfloat16"][SAS] / at.witness["0°, bfloat16"][SS] > 2
    assert at.witness["0°, float64"][SS] < 1e-12 < at.witness["0°, float64"][SAS]  # the identity, and a projection
    assert (
        0.5 < at.witness["180°, bfloat16"][SAS] / at.witness["180°, bfloat16"][SS] < 2
    )  # no difference at a half turn


def test_layers_and_plane_of_a_published_calibration(reference: Path) -> None:
    """Counted from the released mask; candidates' phases and shares against numbers computed here with numpy."""
    name = "Llama-3.2-3B-Instruct"
    calibration = import_official(reference / "ss_raw" / name)
    claims = {c.id: c for c in geometry_claims(name, calibration)}
    assert (claims[f"few-layers-{name}"].verdict, claims[f"few-layers-{name}"].witness["kept"]) == (REFUTED, 21)
    rows = [calibration.sites.index(s) for s in calibration.discriminative_sites]
    c = calibration.candidates.double().numpy()[rows] @ calibration.basis.double().numpy().T
    assert claims[f"one-plane-{name}"].value == pytest.approx(float(np.mean((c**2).sum(axis=1) >= 0.9)))
    resultant = abs(np.exp(1j * np.arctan2(c[:, 1], c[:, 0])).mean())
    assert claims[f"one-angle-{name}"].value == pytest.approx(float(np.degrees(np.sqrt(-2 * np.log(resultant)))))
    assert (
        geometry_claims(name, replace(calibration, discriminative_sites=(), discriminative_blocks=()))[0].value == 0.0
    )


def test_the_error_of_rounding_is_that_of_its_claim(found: Verification) -> None:
    """The figure marks what the record says."""
    known = found.claim("rounding-SAS").witness["bfloat16 basis, bfloat16 arithmetic"]
    assert dose.rounding_error() == pytest.approx(known, rel=1e-6)


def test_norms_over_depth_are_judged() -> None:
    """A stream that doubles at one block only grows, unevenly; one that grows by as much at every block does not."""
    names = recorded.stream_sites(4)
    h = torch.randn(30, 1, 8)
    h = h / h.norm(dim=-1, keepdim=True)
    even = h * torch.tensor([1.0, 9, 2, 9, 3, 9, 4, 9, 5])[:, None]
    sudden = h * torch.tensor([1.0, 9, 1, 9, 1, 9, 2, 9, 2])[:, None]
    assert [c.verdict for c in recorded.growth_claims(even, names, "m")] == [HOLDS, REFUTED]
    assert [c.verdict for c in recorded.growth_claims(sudden, names, "m")] == [HOLDS, HOLDS]
    flat = recorded.growth_claims(h.expand(-1, 9, -1).clone(), names, "m")
    assert [(c.verdict, c.value) for c in flat] == [(REFUTED, 1.0), (REFUTED, 1.0)]


def test_what_is_written(found: Verification, tmp_path: Path) -> None:
    """One record a claim with every field, a table in Markdown and LaTeX, the figure with its numbers."""
    write(found, tmp_path, command="lens-steer verify", seed=0)
    record = json.loads((tmp_path / "propositions.json").read_text(encoding="utf-8"))
    fields = {
        "id",
        "statement",
        "formula",
        "level",
        "domain",
        "quantity",
        "criterion",
        "value",
        "n",
        "interval",
        "verdict",
        "witness",
    }
    assert len(record["claims"]) == len(found.claims) == len({c["id"] for c in record["claims"]})
    assert all(set(c) == fields for c in record["claims"])
    text = (tmp_path / "propositions.md").read_text(encoding="utf-8")
    assert all(c.statement.replace("|", "\\|") in text for c in found.claims)
    levels = len({c.level for c in found.claims})
    assert (tmp_path / "propositions.tex").read_text(encoding="utf-8").count(r" \\") == len(found.claims) + levels + 1
    assert claim_tables.latex(found.claims).isascii()
    assert (tmp_path / "norm_change.png").exists()
    assert "claims: " in repr(found)


def test_same_seed_same_claims() -> None:
    """Byte for byte."""
    assert differences.difference_claims(seed=3) == differences.difference_claims(seed=3)
