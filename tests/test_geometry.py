"""Directions, planes, discriminative sites and the calibration, on data made for the purpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from lens_steer.errors import LensSteerError
from lens_steer.geometry import directions, discriminative, planes
from lens_steer.geometry.calibration import calibrate
from lens_steer.geometry.summary import summarise
from lens_steer.inference.record import Activations
from tests.made import origin

SITES = tuple(f"blocks.{b}.{k}.hook_out" for b in range(4) for k in ("ln1", "ln2"))
GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def activations(positive: torch.Tensor, negative: torch.Tensor, sites: tuple[str, ...] = SITES) -> Activations:
    return Activations(sites, positive.float(), negative.float(), **origin())


def planted(n: int = 200, d_model: int = 32) -> tuple[Activations, torch.Tensor]:
    """Noise, and at blocks 2 and 3 a separation of ±3 along one direction; block 0's first norm is the same for every
    prompt.
    """
    direction = randn(d_model)
    direction /= direction.norm()
    signs = torch.tensor([0.0, 0.3, 0.5, 0.5, 3.0, 3.0, 3.0, 3.0], dtype=torch.float64)
    shift = signs[:, None] * direction
    positive, negative = randn(n, 8, d_model) + shift, randn(n, 8, d_model) - shift
    constant = randn(d_model)
    positive[:, 0] = negative[:, 0] = constant
    positive[:, 1:4] += 5 * direction
    negative[:, 1:4] += 5 * direction
    return activations(positive, negative), direction


def test_planted_direction_is_found() -> None:
    """Selected direction within 0.98 of the planted one, at a planted site; discriminative where it changes sign."""
    acts, direction = planted()
    calibration = calibrate(acts)
    assert abs(float(calibration.basis[0].double() @ direction)) > 0.98
    assert calibration.selected_site in SITES[4:]
    assert calibration.discriminative_sites == SITES[4:]
    assert calibration.discriminative_blocks == (2, 3)
    assert calibration.details["zero_candidates"] == 1
    assert torch.equal(calibration.candidates[0], torch.zeros(32))


def test_candidates_are_unit_differences_of_means() -> None:
    """Against numpy."""
    acts, _ = planted()
    difference = acts.positive.numpy().astype(np.float64).mean(0) - acts.negative.numpy().astype(np.float64).mean(0)
    for row, found in zip(difference[1:], calibrate(acts).candidates[1:], strict=True):
        assert np.allclose(found.numpy(), row / np.linalg.norm(row), atol=1e-6)


def test_cosines_and_selection() -> None:
    """A zero row has cosine 0 with everything; the selected row has the largest mean; the first of equals wins."""
    rows = torch.stack(
        [
            torch.zeros(5, dtype=torch.float64),
            *torch.eye(5, dtype=torch.float64)[:2],
            torch.ones(5, dtype=torch.float64),
        ]
    )
    cosine = directions.cosine_matrix(rows)
    assert torch.equal(cosine[0], torch.zeros(4, dtype=torch.float64))
    assert np.allclose(cosine[3, 1], 1 / np.sqrt(5))
    assert directions.select_direction(rows).index == 3
    assert directions.select_direction(torch.eye(3, dtype=torch.float64)).index == 0
    tiny = torch.stack([1e-9 * torch.ones(3, dtype=torch.float64), *torch.eye(3, dtype=torch.float64)[:2]])
    assert directions.zero_rows(tiny).tolist() == [True, False, False]


def test_no_direction_at_all() -> None:
    """Equal classes: an error that says what to do."""
    same = randn(5, 8, 6)
    with pytest.raises(LensSteerError, match="every candidate direction is zero.*prompt sets differ"):
        calibrate(activations(same, same))


@pytest.mark.parametrize("component", [0, 1])
def test_principal_component_against_scikit_learn(component: int) -> None:
    """Axis up to sign, and the variance shares."""
    rows = randn(12, 7)
    axis, shares = planes.principal_component(rows, component=component)
    oracle: Any = PCA().fit(rows.numpy())
    assert abs(float(axis @ torch.tensor(oracle.components_[component]))) == pytest.approx(1, abs=1e-10)
    assert np.allclose(shares[:7].numpy(), oracle.explained_variance_ratio_[:7])
    assert float(axis[axis.abs().argmax()]) > 0
    uncentred, _ = planes.principal_component(rows, center=False)
    top = np.linalg.svd(rows.numpy())[2][0]
    assert abs(float(uncentred @ torch.tensor(top))) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pca_center": False},
        {"candidate_norm": "raw"},
        {"candidate_norm": "sample_unit"},
        {"candidate_norm": "angular"},
        {"component": 1},
    ],
)
def test_plane_is_orthonormal_with_the_written_sign(options: dict[str, Any]) -> None:
    """Under every option: orthonormal to 1e-6, float32, b1 the selected direction, positive mean on b2 not negative."""
    acts, _ = planted()
    calibration = calibrate(acts, **options)
    assert calibration.basis.dtype == torch.float32
    assert planes.gram_error(calibration.basis) < 1e-6
    assert torch.allclose(calibration.basis[0], calibration.candidates[calibration.selected_index], atol=1e-6)
    assert float(acts.positive[:, 4:].mean(dim=(0, 1)) @ calibration.basis[1]) >= 0


def test_the_plane_of_angular_steering() -> None:
    """By hand: samples to unit length, means, means to unit length, differences as they are; their centred principal
    component spans the plane with the one of the highest mean cosine.
    """
    acts, _ = planted()
    means = []
    for x in (acts.positive.double(), acts.negative.double()):
        mean = (x / x.norm(dim=-1, keepdim=True)).mean(dim=0)
        means.append(mean / mean.norm(dim=-1, keepdim=True))
    d = (means[0] - means[1]).numpy()
    d = d[np.linalg.norm(d, axis=1) > 1e-9]  # all prompts are alike at the first sites
    unit = d / np.linalg.norm(d, axis=1, keepdims=True)
    first = unit[(unit @ unit.T).mean(axis=1).argmax()]
    top = np.linalg.svd(d - d.mean(axis=0))[2][0]
    top -= (top @ first) * first
    found = calibrate(acts, candidate_norm="angular").basis.double().numpy()
    assert found[0] == pytest.approx(first, abs=1e-6)
    assert abs(found[1] @ top / np.linalg.norm(top)) == pytest.approx(1, abs=1e-6)


def test_sign_rule_without_class_means() -> None:
    """The first entry of b2 that is not zero is positive."""
    for seed in range(5):
        torch.manual_seed(seed)
        plane = planes.build_plane(directions.unit_rows(torch.randn(6, 9)), 2)
        assert float(plane.basis[1][plane.basis[1] != 0][0]) > 0


def test_degenerate_planes() -> None:
    """b2 parallel to b1, one candidate, candidates all alike: errors with the mend."""
    line = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    with pytest.raises(LensSteerError, match=r"degenerate.*component=1"):
        planes.build_plane(line, 0)
    with pytest.raises(LensSteerError, match="at least two candidate directions.*found 1"):
        planes.build_plane(torch.eye(3, dtype=torch.float64)[:1], 0)
    with pytest.raises(LensSteerError, match="no principal component"):
        planes.build_plane(torch.ones(3, 4, dtype=torch.float64), 0)
    with pytest.raises(LensSteerError, match="finite and not zero"):
        planes.orthonormalise(torch.zeros(3), torch.ones(3))


def test_gram_error_is_reported_as_found() -> None:
    """A skewed pair comes back orthonormal with its own error told."""
    basis, error, remainder = planes.orthonormalise(torch.tensor([2.0, 0, 0]), torch.tensor([0.3, 0.4, 0]))
    assert error == pytest.approx(3.0)
    assert remainder == pytest.approx(0.8)
    assert torch.allclose(basis, torch.eye(3)[:2])


def test_plane_coordinates() -> None:
    """Angles in (−180, 180], radius and share; nothing for a zero vector."""
    found = planes.plane_coordinates(torch.tensor([[0.0, -2.0, 0], [-1.0, 0.0, 1.0], [0, 0, 0]]), torch.eye(3)[:2])
    assert found.angle[:2].tolist() == [-90.0, 180.0]
    assert found.radius.tolist() == [2.0, 1.0, 0.0]
    assert found.fraction[:2].tolist() == [1.0, pytest.approx(0.5)]
    assert bool(found.angle[2].isnan() & found.fraction[2].isnan())


def test_random_planes() -> None:
    """Orthonormal, the same for a seed, different for another."""
    assert planes.gram_error(planes.random_plane(50, 3)) < 1e-6
    assert torch.equal(planes.random_plane(50, 3), planes.random_plane(50, 3))
    assert not torch.equal(planes.random_plane(50, 3), planes.random_plane(50, 4))


def test_the_two_rules_differ() -> None:
    """One long activation turns a raw mean, not a unit one; and a block with one failing norm is dropped by the
    official rule only.
    """
    unit = torch.tensor([1.0, 0.0])
    short, long = torch.tensor([1.0, 0.0]), torch.tensor([-10.0, 0.0])
    good = torch.stack([short, short, short])
    turned = torch.stack([short, short, long])
    positive = torch.stack([good, turned], dim=1)
    negative = -torch.stack([good, good], dim=1)
    names = ("blocks.0.ln1.hook_out", "blocks.0.ln2.hook_out")
    paper = discriminative.discriminative_sites(positive, negative, unit, names)
    official = discriminative.discriminative_sites(positive, negative, unit, names, rule="official")
    assert paper.sites == names[:1]
    assert official.sites == names
    positive[:, 1] = -good
    official = discriminative.discriminative_sites(positive, negative, unit, names, rule="official")
    assert official.sites == ()
    assert official.blocks == ()


def test_exactly_zero_does_not_count_and_empty_is_a_result() -> None:
    """A mean projection of 0 is not the opposite of anything."""
    zero = torch.zeros(3, 1, 2)
    found = discriminative.discriminative_sites(zero, zero - 1, torch.tensor([1.0, 0.0]), SITES[:1])
    assert found.sites == ()


def test_bad_options() -> None:
    """Named with what is allowed."""
    acts, _ = planted(20)
    with pytest.raises(LensSteerError, match="rule='best': use one of paper, official"):
        calibrate(acts, rule="best")
    with pytest.raises(LensSteerError, match="candidate_norm='l1'"):
        calibrate(acts, candidate_norm="l1")
    with pytest.raises(LensSteerError, match="was not recorded"):
        acts.at("blocks.9.ln1.hook_out")


def test_summary_has_intervals_that_hold_the_means() -> None:
    """Projections and norms by class, low ≤ mean ≤ high at every site."""
    acts, _ = planted()
    classes = summarise(calibrate(acts))["classes"]
    for quantity in ("projection_positive", "projection_negative", "norm_positive", "norm_negative"):
        low, mean, high = (np.array(classes[quantity][k]) for k in ("low", "mean", "high"))
        assert len(mean) == 8
        assert (low <= mean + 1e-9).all()
        assert (mean <= high + 1e-9).all()
