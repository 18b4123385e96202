"""What a comparison compares: the conditions with their grids, each method on the sites that its authors read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lens_steer.data import ContrastSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.conditions import control_grids, method_grids, rule_grids, shuffled_labels
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.matching import REFERENCE
from lens_steer.evaluation.pieces import kept_calibration
from lens_steer.evaluation.published_direction import CALIBRATED, PublishedDirection, named, published_direction
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.geometry.selected_direction import StreamDirection
from lens_steer.inference.record import Activations, record
from lens_steer.models.layout import Layout
from lens_steer.models.sites import resolve
from lens_steer.steer.method_table import Method, find_method


@dataclass(frozen=True)
class Compared:
    """The conditions of a comparison.

    Attributes:
        calibration: The calibration of the reference, from the norm outputs.
        activations: The activations from which it was made.
        shuffled: The same calibration with shuffled labels.
        published: The direction of the methods that take one.
        controls: The grids of the controls.
        grids: The grids of the methods, and of the reference at other rules' sites.
        rules_left_out: A line for each rule or bound that gives no condition.
    """

    calibration: Calibration
    activations: Activations
    shuffled: Calibration
    published: PublishedDirection
    controls: tuple[Grid, ...]
    grids: tuple[Grid, ...]
    rules_left_out: tuple[str, ...]


def conditions_compared(
    model: Any,
    contrast: ContrastSet,
    out: str | Path,
    methods: Sequence[str],
    *,
    values: Sequence[float],
    system: str | None,
    rules: Sequence[str],
    direction: StreamDirection | str | None,
    engine: str,
    max_new_tokens: int,
    seed: int,
    progress: bool,
) -> Compared:
    """Record what the methods read, calibrate each one as its authors do, and make all grids.

    Calibrations are kept in ``out/calibrations``, a selected direction in ``out/direction``.

    Args:
        model, contrast, out, values, system, rules, direction, engine, max_new_tokens, seed, progress: The
            arguments of
            :func:`lens_steer.evaluation.comparison.compare`; ``system`` is that of the prompt-only baseline, None for
            no baseline.
        methods: The names of the methods, the reference among them.
    """
    wanted = {name: find_method(name) for name in methods}
    reads = dict.fromkeys(("norm_out", *(m.reads for m in wanted.values())))
    activations = {name: record(model, contrast.fit, name, engine=engine, progress=progress) for name in reads}
    base = _kept(out, "norm_out", activations["norm_out"], seed)
    made = {m.name: _calibrated(out, m, activations[m.reads], seed) for m in wanted.values()}
    published = published_direction(
        model,
        contrast,
        out,
        list(wanted),
        direction,
        engine=engine,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
    )
    shuffled = _kept(out, "shuffled_labels", shuffled_labels(activations["norm_out"], seed), seed)
    controls = control_grids(base, shuffled, values=[v for v in values if v % 360], system=system, seed=seed)
    grids = list[Grid]()
    for m in wanted.values():
        grids += published.grids([m.name])
        own = method_grids(made[m.name], m.name, values=values if m.turns else None)
        grids += [replace(g, condition=condition_of(m)) for g in own]
    by_rule, left_out = rule_grids(base, REFERENCE, rules, values=values)
    return Compared(
        base, activations["norm_out"], shuffled, published, tuple(controls), (*grids, *by_rule), tuple(left_out)
    )


def held(methods: Sequence[str], layout: Layout) -> tuple[list[str], list[str]]:
    """Return the methods that a model has the sites for, and those it has not: what they read does not exist there.

    >>> from lens_steer.models.layout import known_layout
    >>> held(["selective", "standard-everywhere"], known_layout("llama", 2))
    (['selective', 'standard-everywhere'], [])
    """
    kept, lacking = list[str](), list[str]()
    for name in methods:
        try:
            resolve(find_method(name).reads, layout)
        except LensSteerError:
            lacking.append(name)
        else:
            kept.append(name)
    return kept, lacking


def condition_of(method: Method) -> str:
    """Return the name of a method's condition with the vectors of a calibration of the last token.

    It is another one where the authors of the method have other vectors: a direction selected by what it does, or a
    probe on responses.

    >>> [condition_of(find_method(name)) for name in ("selective", "act-add", "sttp")]
    ['selective', 'act-add (calibrated)', 'sttp (calibrated)']
    """
    other = method.takes_direction or method.writes == "boundary"
    return named(method.name, CALIBRATED) if other else method.name


def _kept(
    out: str | Path, name: str, activations: Activations, seed: int, how: Mapping[str, Any] | None = None
) -> Calibration:
    """Return the calibration of these activations with which the run began; make it if there is none yet."""
    folder = Path(out) / "calibrations" / name
    return kept_calibration(folder, activations, lambda: calibrate(activations, seed=seed, **(how or {})), seed=seed)


def _calibrated(out: str | Path, method: Method, activations: Activations, seed: int) -> Calibration:
    """Return the calibration of a method, made as its authors do."""
    how = method.calibrated_with
    return _kept(out, "_".join((method.reads, *how.values())), activations, seed, how)
