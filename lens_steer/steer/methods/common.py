"""Parts that the plan constructors share: the types of their arguments, the steered sites, checks of a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lens_steer.errors import LensSteerError, expect
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.selected_direction import StreamDirection
from lens_steer.models import sites
from lens_steer.steer.plans import Detail, SteeringPlan, Step, numbers

Number = float | int
Numbers = Number | Sequence[float] | Sequence[int] | Tensor  # one number, or one for each prompt
Sites = str | Sequence[str] | None
Positions = str | Sequence[int]


def check_calibration(calibration: object) -> None:
    """Refuse an object that is not a calibration."""
    expect(
        "calibration",
        calibration,
        Calibration,
        "make it with ls.calibrate(ls.record(model, contrast)), or ls.load_calibration(folder)",
    )


def check_direction_source(source: object) -> None:
    """Refuse an object that is neither a calibration nor a selected direction."""
    expect(
        "calibration",
        source,
        (Calibration, StreamDirection),
        "make one with ls.calibrate or ls.select_direction, or load it with ls.load_calibration or ls.load_direction",
    )


def made(
    method: str,
    source: Calibration | StreamDirection,
    steps: Sequence[Step],
    positions: Positions,
    **details: Detail,
) -> SteeringPlan:
    """Return the plan of a method's steps, for the model of its source.

    The plan of a selected direction says in its details where the direction was read.
    """
    if isinstance(source, StreamDirection):
        details["selected_direction"] = source.origin
    return SteeringPlan.of(source, method, steps, positions, **details)


def own_site(source: Calibration | StreamDirection) -> str:
    """Return the site at which the direction of a source was read."""
    return source.site if isinstance(source, StreamDirection) else source.selected_site


def chosen_sites(calibration: Calibration | StreamDirection, at: Sites, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sites that are asked for, or else the method's own.

    Raises:
        LensSteerError: If no site is asked for and the method has none of its own.
    """
    if at is None and not default and isinstance(calibration, Calibration):
        raise LensSteerError(
            f"the calibration of {calibration.model!r} has no discriminative site (rule {calibration.rule!r}), so "
            "there is nothing to steer: name the sites with at=…, or calibrate with other sites or the other rule"
        )
    if at is None:
        return default
    return sites.resolve(at, calibration.layout)


def class_means(calibration: Calibration, what: str) -> tuple[Tensor, Tensor]:
    """Return both class means at every site, first the positive one.

    Raises:
        LensSteerError: If the calibration has no class means.
    """
    if calibration.mean_positive is None or calibration.mean_negative is None:
        raise LensSteerError(
            f"the calibration of {calibration.model!r} has no class means, which {what} needs: calibrate on this model"
        )
    return calibration.mean_positive, calibration.mean_negative


def row_of(calibration: Calibration, name: str) -> int:
    """Return the row of a recorded site.

    Raises:
        LensSteerError: If the site was not recorded.
    """
    if name not in calibration.sites:
        raise LensSteerError(
            f"site {name!r} was not recorded: calibrate with it, or steer one of {', '.join(calibration.sites[:3])}, …"
        )
    return calibration.sites.index(name)


def one_number(name: str, value: Any) -> float:
    """Return a finite number as a float.

    Raises:
        LensSteerError: If the value is not a finite number, or is several.
    """
    found = numbers(name, value)
    if isinstance(found, Tensor):
        raise LensSteerError(f"{name}={value!r}: one number is needed here")
    return found
