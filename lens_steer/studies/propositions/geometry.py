"""Claims of the paper about layers and about one global plane, tested on a calibration without a model.

Blocks and sites of one model are not drawn from anything, so their shares have no interval.
"""

from __future__ import annotations

import math

import torch

from lens_steer.geometry.calibration import Calibration
from lens_steer.studies.claim import Claim, verdict

FEW = 0.1  # |L_disc| ≪ L is read as |L_disc| ≤ 0.1 L
IN_PLANE = 0.9  # share of a candidate's squared length from which it counts as lying in the plane
SPREAD = 10.0  # degrees; a circular standard deviation up to this counts as the same direction in the plane


def geometry_claims(name: str, calibration: Calibration) -> list[Claim]:
    """Test the claims about few layers, middle layers and one plane.

    A calibration without a discriminative site gets only the claim about few layers.
    """
    claims = [few_layers(name, calibration)]
    if calibration.discriminative_sites:
        claims += [middle_layers(name, calibration), *one_plane(name, calibration)]
    return claims


def few_layers(name: str, calibration: Calibration) -> Claim:
    """Test whether far fewer blocks are discriminative than the model has, ``|L_disc| ≪ L``."""
    kept, blocks = len(calibration.discriminative_blocks), calibration.n_layers
    return Claim(
        id=f"few-layers-{name}",
        statement=f"far fewer layers are steered than {name} has (|L_disc| ≪ L, Selective Steering, section 3)",
        formula="blocks in L_disc / blocks",
        level="geometry",
        domain=f"one calibration, rule {calibration.rule}",
        quantity="share of the blocks",
        criterion=f"at most {FEW:g}",
        value=kept / blocks,
        n=blocks,
        verdict=verdict(kept / blocks <= FEW),
        witness={"kept": kept, "blocks": blocks},
    )


def middle_layers(name: str, calibration: Calibration) -> Claim:
    """Test whether the discriminative blocks lie in the middle of the model.

    The claim is read as: no block of the first quarter is discriminative, and at least one block of the middle half is.
    """
    blocks, found = calibration.n_layers, calibration.discriminative_blocks
    early = [b for b in found if b < blocks / 4]
    middle = [b for b in found if blocks / 4 <= b < 3 * blocks / 4]
    return Claim(
        id=f"middle-layers-{name}",
        statement=f"the classes become separable by sign in the middle layers of {name} (Selective Steering, "
        f"section 3)",
        formula="blocks in L_disc",
        level="geometry",
        domain=f"one calibration, rule {calibration.rule}",
        quantity="first discriminative block over the number of blocks",
        criterion="none in the first quarter, one in the middle half",
        value=min(found) / blocks,
        n=blocks,
        verdict=verdict(not early and bool(middle)),
        witness={"blocks": list(found), "of": blocks},
    )


def one_plane(name: str, calibration: Calibration) -> list[Claim]:
    """Test whether the candidates of the discriminative sites lie in the global plane, and at the same angle in it."""
    rows = [calibration.sites.index(s) for s in calibration.discriminative_sites]
    c = calibration.candidates[rows].double() @ calibration.basis.double().mT
    share = c.square().sum(dim=-1)
    phase = torch.rad2deg(torch.atan2(c[:, 1], c[:, 0]))
    # Phases are circular, so their spread is the circular standard deviation √(−2 ln R), where R is the length of the
    # mean of the unit phasors: R = 1 where all phases agree, R → 0 where they cancel.
    resultant = torch.polar(torch.ones_like(phase), torch.deg2rad(phase)).mean().abs().clamp(1e-12, 1)
    spread = math.degrees(math.sqrt(max(0.0, -2 * math.log(float(resultant)))))
    inside = int((share >= IN_PLANE).sum())
    worst = int(share.argmin())
    return [
        Claim(
            id=f"one-plane-{name}",
            statement=f"one global plane holds the directions of all discriminative layers of {name}",
            formula="‖c‖² of the unit candidates",
            level="geometry",
            domain=f"{len(rows)} discriminative sites",
            quantity=f"share of the sites whose candidate has at least {IN_PLANE:g} of its squared length in the plane",
            criterion="every site",
            value=inside / len(rows),
            n=len(rows),
            verdict=verdict(inside == len(rows)),
            witness={
                "worst_site": calibration.discriminative_sites[worst],
                "in_plane": float(share[worst]),
                "median_in_plane": float(share.median()),
            },
        ),
        Claim(
            id=f"one-angle-{name}",
            statement=f"one global angle is the same rotation against each layer's own direction on {name}",
            formula="phases of the unit candidates in the plane",
            level="geometry",
            domain=f"{len(rows)} discriminative sites",
            quantity="circular standard deviation in degrees",
            criterion=f"at most {SPREAD:g}",
            value=spread,
            n=len(rows),
            verdict=verdict(spread <= SPREAD),
            witness={"lowest_phase": float(phase.min()), "highest_phase": float(phase.max())},
        ),
    ]
