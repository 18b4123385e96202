"""The folder of probes across depth: rows, figures, and a probe to steer with for every site."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer._io.atomic import whole_folder
from lens_steer._io.tables import csv_records
from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.provenance import provenance
from lens_steer.figures import probe_plane, probe_tokens, probes, saving
from lens_steer.figures.core import Drawing
from lens_steer.inference.engines import check_engine
from lens_steer.inference.pooling import FORCED, Pooling, check_poolable, checked_pooling
from lens_steer.inference.record import record
from lens_steer.inference.record_tokens import record_tokens
from lens_steer.models import sites as sites_
from lens_steer.models.layout import ROUTER_LOGITS
from lens_steer.models.loading import info_of
from lens_steer.probes.depth import BLOCKS, DRAWS, ProbeScan, probe_depth
from lens_steer.probes.io import save_probe

log = logging.getLogger(__name__)

ESTIMATED = ("accuracy", "auroc", "selectivity", "cosine_to_difference")
COLUMNS = ("site", *(f"{name}{end}" for name in ESTIMATED for end in ("", "_low", "_high")))  # first in probes.csv
TOKEN_PROMPTS = 64  # the most prompts of each class whose single tokens the figures show


def probe_and_write(
    model: Any,
    contrast: ContrastSet,
    out: str | Path,
    *,
    sites: str | Sequence[str] = "resid_post",
    pooling: Pooling = "last",
    C: float | int | None = 1.0,
    standardize: bool = False,
    shown: Sequence[str] | None = None,
    split_note: str = "",
    draws: int = DRAWS,
    blocks: int = BLOCKS,
    seed: int = 0,
    engine: str = ENGINE,
    command: str = "",
    progress: bool = True,
) -> ProbeScan:
    """Fit a probe at every site on the fit split, evaluate it on the report split, and write everything to a folder.

    The function writes ``probes.csv`` (one row for each site, the columns :data:`COLUMNS` first), ``probes.json``, one
    folder for each site, which :func:`lens_steer.load_probe` reads, and the figures ``probe_depth``,
    ``probe_projections``, ``boundary_plane`` (except for routers) and ``probe_reliability``. A site's folder has the
    site's name. Nothing in ``out`` changes before everything is done.

    Args:
        model: The model, from :func:`lens_steer.load_model`.
        contrast: The prompts, with fit and report prompts; each has a fixed response if pooling is ``"response"``.
        out: The folder to write to.
        sites: The sites; see :func:`lens_steer.record`.
        pooling: ``"last"`` (the last prompt token), or ``"response"``, ``"thought"`` or ``"answer"`` (the mean over the
            tokens of each response, or of that part of it).
        C: The inverse strength of the penalty; see :func:`lens_steer.probes.probe.fit_probe`.
        standardize: Whether to penalise the weights of standardised features; see the same function.
        shown: Up to four sites for the figures of single sites. None means sites evenly spread over depth, with the
            best among them.
        split_note: A note on how the prompts were split; recorded in ``probes.json``.
        draws: The number of draws of control labels; see :func:`lens_steer.probes.depth.probe_depth`.
        blocks: The number of blocks of scenarios for the cosines' intervals; see the same function.
        seed: The seed of controls, intervals and the draw of tokens.
        engine: The engine that records; see :func:`lens_steer.record`.
        command: The command line that is recorded beside the numbers.
        progress: Whether to show progress bars.

    Raises:
        LensSteerError: If the contrast has too few fit or report prompts on a side, if a prompt has no response, if a
            site, the pooling or the engine is unknown, if a number is out of range, or if the folder cannot be written;
            all of this before anything is recorded. Also if :func:`lens_steer.record` or
            :func:`lens_steer.probes.depth.probe_depth` raises it.
    """
    names = _checked(model, contrast, sites, pooling, C, shown, draws, blocks, engine)
    with whole_folder(out) as work:
        fit, report = (
            record(model, part, names, pooling=pooling, engine=engine, progress=progress)
            for part in (contrast.fit, contrast.report)
        )
        scan = probe_depth(
            fit, report, C=C, standardize=standardize, draws=draws, blocks=blocks, seed=seed, progress=progress
        )
        for result in scan.results:
            save_probe(result.probe, work / result.probe.site)
        few = _to_show(scan, shown)
        best = scan.best.probe
        part = Contrast(
            *(_evenly(side, TOKEN_PROMPTS) for side in (contrast.report.positive, contrast.report.negative))
        )
        region = pooling if pooling in FORCED else "prompt"
        tokens = record_tokens(model, part, sorted({*few, best.site}), region=region, engine=engine)
        meta = provenance(model, command=command, seed=seed, prompt_hashes=contrast.hashes, prompts=contrast.record())
        drawings: dict[str, Drawing] = {
            "probe_depth": probes.probe_depth_drawing(scan),
            "probe_projections": probe_tokens.probe_projections_drawing(scan, report, tokens, few, seed=seed),
        }
        if sites_.parse(best.site).kind != ROUTER_LOGITS:  # along which nothing is moved
            drawings["boundary_plane"] = probe_plane.boundary_plane_drawing(best, fit, tokens, seed=seed)
        drawings["probe_reliability"] = probes.reliability_drawing(scan, few)
        for name, drawing in drawings.items():
            saving.save(drawing, name, work, meta)
        options = {
            "sites": sites if isinstance(sites, str) else list(sites),
            "pooling": pooling,
            "C": C,
            "standardize": standardize,
            "draws": draws,
            "blocks": blocks,
            "engine": engine,
            "shown": list(few),
            "split": split_note,
        }
        _write_rows(scan, work / "probes.csv")
        record_ = _record(scan, contrast) | {"options": options, "meta": meta}
        (work / "probes.json").write_text(json.dumps(record_, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return scan


def _checked(
    model: Any,
    contrast: ContrastSet,
    sites: str | Sequence[str],
    pooling: str,
    C: float | int | None,
    shown: Sequence[str] | None,
    draws: int,
    blocks: int,
    engine: str,
) -> tuple[str, ...]:
    """Refuse what would fail after long work, and return the names of the sites."""
    check_engine(engine)
    checked_pooling(pooling)
    for name, value, least in (("draws", draws, 1), ("blocks", blocks, 2)):
        if value < least:
            raise LensSteerError(f"{name}={value}: give at least {least}")
    if C is not None and not C > 0:
        raise LensSteerError(f"C={C}: give a number above 0, or None to have it chosen by cross-validation")
    for split, part in (("fit", contrast.fit), ("report", contrast.report)):
        for side, prompts in (("positive", part.positive), ("negative", part.negative)):
            if len(prompts) < 2:
                raise LensSteerError(
                    f"the contrast {contrast.name!r} has {len(prompts)} {side} prompts to {split} on: "
                    "give a split, such as split=(0.5, 0.25, 0.25), and at least two prompts of each class in each part"
                )
            check_poolable(model, prompts, pooling)
    info = info_of(model)
    names = sites_.resolve(sites, info.layout)
    unknown = sorted(set(() if shown is None else probes.check_shown(shown)) - set(names))
    if unknown:
        raise LensSteerError(
            f"shown names sites without a probe: {', '.join(unknown)}; choose among {', '.join(names[:3])}, …"
        )
    return names


def _to_show(scan: ProbeScan, shown: Sequence[str] | None) -> tuple[str, ...]:
    """Return the sites for the figures of single sites; a warning names those that are left out for want of a probe."""
    for name in shown or ():
        if name in scan.without:
            log.warning("the figures leave out %s: %s", name, scan.without[name])
    return tuple(name for name in shown or () if name not in scan.without) or probes.spread(scan)


def _evenly(prompts: PromptSet, n: int) -> PromptSet:
    """Return at most ``n`` prompts of a set, evenly spread over it."""
    if len(prompts) <= n:
        return prompts
    return PromptSet(tuple(prompts[i * len(prompts) // n] for i in range(n)), prompts.name)


def _write_rows(scan: ProbeScan, path: Path) -> None:
    """Write one row for each site in network order, the columns :data:`COLUMNS` first."""
    rows = sorted(scan.rows(), key=lambda row: sites_.parse(row["site"]).order)
    columns = [*COLUMNS, *(name for name in rows[0] if name not in COLUMNS)]
    path.write_text(csv_records(rows, columns), encoding="utf-8", newline="")


def _record(scan: ProbeScan, contrast: ContrastSet) -> dict[str, Any]:
    """Return the facts that ``probes.json`` holds beside the rows."""
    best = scan.best
    return {
        "contrast": contrast.name,
        "n": {s: [len(getattr(contrast, s).positive), len(getattr(contrast, s).negative)] for s in ("fit", "report")},
        "best_site": best.probe.site,
        "best": {name: [e.value, e.low, e.high, e.n] for name, e in best.measured.items()},
        "wrong_side_sites": [r.probe.site for r in scan.results if not r.probe.between],
        "without": dict(scan.without),
        "sites": [r.probe.site for r in scan.results],
        "chosen_C": {r.probe.site: r.probe.C for r in scan.results},
    }
