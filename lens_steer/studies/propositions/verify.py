"""Tests of Propositions 1 and 2 and of related claims: records, a table and figures, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer._display import Shown
from lens_steer._io.atomic import whole_folder
from lens_steer.data import ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.pieces import Pieces
from lens_steer.evaluation.protocol import check_splits
from lens_steer.evaluation.provenance import provenance
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.figures import saving
from lens_steer.figures.core import Drawing
from lens_steer.geometry.calibration import Calibration, calibrate
from lens_steer.inference.record import record, record_prompts
from lens_steer.metrics.benchmarks import tasks_or_own
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import info_of
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions import (
    differences,
    dose,
    drift,
    experiments,
    formula,
    geometry,
    precision,
    questions,
    recorded,
)
from lens_steer.studies.propositions.drawings import (
    behaviour_drawings,
    norm_change_drawing,
    norm_drift_drawing,
    phase_drawings,
)
from lens_steer.studies.propositions.draws import DRAWS
from lens_steer.studies.propositions.drift_claims import Drifted, drift_claims

WITHOUT_MODEL = ("formula", "basis", "dtype", "published", "geometry")
WITH_MODEL = ("recorded", "downstream", "geometry", "behaviour")
LEVELS = tuple(dict.fromkeys((*WITHOUT_MODEL, *WITH_MODEL)))


@dataclass(frozen=True)
class Verification(Shown, view="claims"):
    """The result of one run.

    Attributes:
        claims: All claim records.
        drawings: The data of the figures, by name.
        pieces: Steps of the run that are kept on disk until everything is written; None where there are none.
    """

    claims: tuple[Claim, ...]
    drawings: Mapping[str, Drawing]
    pieces: Pieces | None = field(default=None, compare=False)

    def __add__(self, other: Verification) -> Verification:
        """Join two runs into one."""
        return Verification(
            self.claims + other.claims, {**self.drawings, **other.drawings}, other.pieces or self.pieces
        )

    def __repr__(self) -> str:
        counts = {v: sum(c.verdict == v for c in self.claims) for v in dict.fromkeys(c.verdict for c in self.claims)}
        return f"Verification({len(self.claims)} claims: {', '.join(f'{n} {v}' for v, n in counts.items())})"

    def claim(self, id_: str) -> Claim:
        """Return the claim with an id."""
        return next(c for c in self.claims if c.id == id_)


def verify(
    calibrations: Mapping[str, Calibration] | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    levels: Sequence[str] = LEVELS,
    progress: bool = True,
) -> Verification:
    """Test everything that needs no model: the formulas, bases with an error, rounding, and the given planes.

    Args:
        calibrations: Calibrations by name. An imported calibration brings its plane as it was published.
        seed: Seed of every drawn vector and basis.
        device: Device on which half precision is computed.
        levels: Levels of the claims to test (:attr:`lens_steer.studies.claim.Claim.level`). Claims of other levels are
            left out.
        progress: Show a progress bar.

    Raises:
        LensSteerError: If a level is unknown or no level is given.
    """
    check_levels(levels)
    claims: list[Claim] = []
    drawings: dict[str, Drawing] = {}
    with tqdm(total=5, desc="verify", unit="level", disable=not progress, leave=False) as bar:
        if "formula" in levels:
            claims += formula.proposition_claims(seed=seed)
        bar.update()
        if "basis" in levels:
            claims += formula.basis_claims(seed=seed)
        bar.update()
        if "formula" in levels:
            claims += differences.difference_claims(seed=seed)
        bar.update()
        if "dtype" in levels:
            basis, h = precision.drawn(seed)
            cells = precision.grid(basis, h, device=device)
            claims += precision.dtype_claims(
                cells, len(h), f"d_model 512, {len(h)} drawn h of root-mean-square 1, {device}"
            )
            drawings["norm_change"] = norm_change_drawing(cells, len(h))
        bar.update()
        if "published" in levels:
            claims += precision.published_claims(calibrations or {}, seed=seed)
        if "geometry" in levels:
            for name, calibration in (calibrations or {}).items():
                claims += geometry.geometry_claims(name, calibration)
        bar.update()
    if "formula" in levels:
        plane = formula.orthonormal(differences.D_MODEL, seed)
        positive, negative = differences.two_classes(plane, seed)
        drawings |= phase_drawings(positive, negative, plane, "two drawn classes")
    return Verification(tuple(claims), drawings)


def check_levels(levels: Sequence[str]) -> None:
    """Refuse a level that no claim has, and an empty list of levels.

    Raises:
        LensSteerError: If a level is unknown or no level is given. The message names the levels given and those
            possible.
    """
    unknown = [level for level in levels if level not in LEVELS]
    if unknown or not levels:
        raise LensSteerError(f"levels={list(levels)!r}: use some of {', '.join(LEVELS)}")


def is_of(calibration: Calibration, model: Any) -> bool:
    """Return whether a calibration is the model's own and has all that the tests on recorded activations need.

    The tests need the class means and at least one discriminative site. An imported calibration with a published basis
    does not count.

    Args:
        calibration: Any calibration.
        model: A loaded model, or its description (``lens_steer.cli.precheck.describe``).
    """
    info = info_of(model)
    same = all(getattr(calibration, n) == getattr(info, n) for n in ("d_model", "n_layers", "architecture"))
    known = calibration.mean_positive is not None and calibration.published_basis is None
    return same and known and bool(calibration.discriminative_sites)


def verify_model(
    model: Any,
    contrast: ContrastSet,
    *,
    calibration: Calibration | None = None,
    levels: Sequence[str] = LEVELS,
    seed: int = 0,
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    draws: int = DRAWS,
    tasks: PromptSet | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Verification:
    """Test the claims that need a model.

    The tests cover recorded activations at every site and angle, the norms of later blocks, layers and plane, and the
    experiments on behaviour.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        contrast: Prompts in three splits. Direction, plane and sites come from the fit split, the angles from the
            select split; the claims on activations and behaviour are tested on the report split.
        calibration: A calibration of this model. None computes one from the fit split.
        levels: Levels of the claims to test: ``recorded``, ``downstream``, ``geometry``, ``behaviour``. The other
            levels of :data:`LEVELS` are accepted and ignored.
        seed: Seed of every draw, of the calibration and of the bootstrap.
        engine: Engine that records and generates; see :func:`lens_steer.generate`.
        max_new_tokens: Largest number of tokens of each answer.
        draws: Number of draws of each random control of the experiments; 0 leaves these controls out.
        tasks: The capability tasks of the experiments. If None, they are the world's where the prompts are of an
            organism's world, and there are none otherwise.
        out: Folder that keeps the steps of the experiments until :func:`write` has written everything, so that an
            interrupted run continues from them. None keeps nothing.
        progress: Show progress bars.

    Raises:
        LensSteerError: If the contrast has no select or report prompts; if the number of draws is negative; if the
            calibration is of another model, or has no class means or no discriminative site; if a level is unknown; or
            if the folder holds another run.
    """
    check_levels(levels)
    check_splits(contrast)
    if draws < 0:
        raise LensSteerError(f"draws={draws}: give a number of at least 0 (0: none)")
    if calibration is not None:
        check_fits(calibration, model)
        if calibration.mean_positive is None:
            raise LensSteerError(
                "calibration has no class means, which these tests need: leave it out, or calibrate on this model"
            )
    harmful = contrast.report.positive
    tasks = tasks_or_own(tasks, harmful, seed=seed)
    pieces = _pieces(model, contrast, calibration, tasks, seed, engine, max_new_tokens, out)
    where = "norm_out" if calibration is None else calibration.sites
    fit = (
        record(model, contrast.fit, where, engine=engine, progress=progress)
        if calibration is None or "behaviour" in levels
        else None
    )
    if calibration is None:
        assert fit is not None
        calibration = pieces.calibration(lambda: calibrate(fit, seed=seed))
    if not calibration.discriminative_sites:
        raise LensSteerError(
            f"no site of {calibration.model!r} is discriminative, so there is nothing to steer: use another "
            "contrast, or more prompts"
        )
    name = info_of(model).name
    claims: list[Claim] = []
    drawings: dict[str, Drawing] = {}
    stream = recorded.stream_sites(calibration.n_layers)
    plain = record_prompts(model, harmful, stream) if {"recorded", "downstream"} & set(levels) else torch.empty(0)
    if "recorded" in levels:
        held_out = record(model, contrast.report, calibration.sites, engine=engine, progress=progress)
        claims += recorded.recorded_claims(held_out, calibration) + recorded.growth_claims(
            plain, stream, name, seed=seed
        )
        classes = tuple(x.double() for x in held_out.at(calibration.selected_site))
        drawings |= phase_drawings(
            classes[0], classes[1], calibration.basis.double(), f"{name}, {calibration.selected_site}"
        )
    if "downstream" in levels:
        drifts = recorded.downstream(model, plain, harmful, calibration, seed=seed)
        claims += recorded.downstream_claims(drifts, name)
        drawings["norm_drift"] = norm_drift_drawing(drifts)
        how: dict[str, Any] = {"engine": engine, "max_new_tokens": max_new_tokens, "progress": progress}
        measure = partial(drift.at_equal_divergence, model, contrast, calibration, **how)
        equal = pieces.keep("drift_at_target", lambda: [d.row() for d in measure()])
        clusters = drift.clusters_of_report(contrast)
        claims += drift_claims([Drifted.of(row) for row in equal], name, clusters=clusters, seed=seed)
    if "geometry" in levels:
        claims += geometry.geometry_claims(name, calibration)
    if "behaviour" in levels:
        assert fit is not None
        with nullcontext(pieces.folder) if pieces.folder else TemporaryDirectory() as folder:
            found = experiments.run(
                model,
                contrast,
                calibration,
                fit,
                folder,
                tasks=tasks,
                seed=seed,
                engine=engine,
                max_new_tokens=max_new_tokens,
                draws=draws,
                progress=progress,
            )
        behaviour = questions.experiment_claims(found, name, seed=seed)
        claims += behaviour + dose.dose_claims(found.dose, name, tasks=len(tasks) > 0, seed=seed)
        drawings |= behaviour_drawings(found, behaviour, name, seed=seed)
    return Verification(tuple(claims), drawings, pieces)


def _pieces(
    model: Any,
    contrast: ContrastSet,
    calibration: Calibration | None,
    tasks: PromptSet,
    seed: int,
    engine: str,
    max_new_tokens: int,
    out: str | Path | None,
) -> Pieces:
    """Return the store of the steps, together with everything that the steps depend on."""
    protocol = Protocol(model, contrast.report, "report", tasks, engine=engine, max_new_tokens=max_new_tokens)
    plane = None if calibration is None else hashlib.sha256(calibration.basis.numpy().tobytes()).hexdigest()
    at = None if calibration is None else list(calibration.discriminative_sites)
    more = {
        "fit": contrast.fit.hash,
        "select": contrast.select.hash,
        "seed": seed,
        "calibration": plane,
        "steered_sites": at,
    }
    return Pieces(out, "verify", {} if out is None else protocol.identity | more)


def write(found: Verification, out: str | Path, *, command: str = "", seed: int = 0, model: Any = None) -> None:
    """Write ``propositions.json`` (one record per claim), ``propositions.md``, ``propositions.tex`` and the figures.

    Args:
        found: The result to write.
        out: Output folder. It is written whole or not at all.
        command: Command line, stored with the results.
        seed: Seed, stored with the results.
        model: The model, if one was used; its name and chat template are stored with the results.

    Raises:
        LensSteerError: If the folder cannot be written.
    """
    meta = provenance(model, command=command, seed=seed)
    with whole_folder(out) as work:
        for name, drawing in found.drawings.items():
            saving.save(drawing, name, work, meta)
        record = {"claims": [c.row() for c in found.claims], "meta": meta}
        (work / "propositions.json").write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (work / "propositions.md").write_text(claim_tables.markdown(found.claims), encoding="utf-8")
        (work / "propositions.tex").write_text(claim_tables.latex(found.claims), encoding="utf-8")
    if found.pieces is not None:
        found.pieces.drop()
