"""The study of side effects of benign steering on safety.

It measures what steering towards compliance or towards JSON does to harmful requests, and where in depth and in the
answer. It is the study of Steering Externalities (arXiv 2602.04896), with controls. Directions come from fit prompts, α
and the block from select prompts, and every reported number from report prompts. The result of each step is written at
once, and an interrupted study continues from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lens_steer._defaults import ENGINE
from lens_steer._io.atomic import check_writable
from lens_steer._io.rowstore import Row, RowStore
from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.bounds import measured_bound
from lens_steer.evaluation.equal_divergence import Match
from lens_steer.evaluation.grids import Grid, plan_hash
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.geometry.calibration import calibrate
from lens_steer.inference.engines import check_engine
from lens_steer.inference.record import record
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.probes.probe import fit_probe
from lens_steer.studies.externalities import depth
from lens_steer.studies.externalities.calibration import calibrate_compliance, calibrate_json
from lens_steer.studies.externalities.choice import (
    COMPLIANCE,
    JSON,
    SHARES,
    UNGRADED,
    choose_site,
    choose_strength,
    compliance_settings,
    json_settings,
)
from lens_steer.studies.externalities.conditions import (
    CONTROL,
    KS,
    RANDOM,
    RANDOM_DRAWS,
    ROTATION,
    STEERED,
    WHOLE_DRAWS,
    Condition,
    Steering,
    baselines,
    controls,
    prefixes,
)
from lens_steer.studies.externalities.controls import divergence_of, match_rotation, refusal_bases
from lens_steer.studies.externalities.found import Calibrations, Externalities
from lens_steer.studies.externalities.grading import annotated
from lens_steer.studies.externalities.material import Material, harmful_responses, own_answers
from lens_steer.studies.externalities.positive_control import choose_control
from lens_steer.studies.externalities.tokens import BENIGN, HARMFUL, divergences, over_draws

MATCH_COLUMNS = ("steering", "target", "angle", "kl", "reason")


def study(
    model: Any,
    material: Material,
    out: str | Path,
    *,
    method: str = "center",
    engine: str = ENGINE,
    max_new_tokens: int = 48,
    shares: Sequence[float] = SHARES,
    blocks: Sequence[int] | None = None,
    json_sites: Sequence[str] | None = None,
    n_random: int = RANDOM_DRAWS,
    ks: Sequence[int] = KS,
    seed: int = 0,
    progress: bool = True,
) -> Externalities:
    """Calibrate, choose, steer and measure.

    Rows are written to ``out`` as they are made.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        material: Prompts and responses: :func:`lens_steer.studies.externalities.material.organism_material`, or one's
            own. The docstring of :class:`~lens_steer.studies.externalities.material.Material` says what needs a ground
            truth.
        out: Output folder.
        method: Method for the component of STEER-COMPLIANCE; see
            :func:`lens_steer.studies.externalities.calibration.oriented_component`.
        engine, max_new_tokens: See :func:`lens_steer.generate`.
        shares: Strengths of STEER-COMPLIANCE to try; see :data:`lens_steer.studies.externalities.choice.SHARES`.
        blocks: Blocks that STEER-COMPLIANCE steers; None uses those at the relative depths of the paper.
        json_sites: Sites at which STEER-JSON is tried; None uses every block's output.
        n_random: Number of random directions for each steering; beyond the first three they are measured on harmful
            requests alone.
        ks: Numbers of tokens in the test of prefixes.
        seed: Seed of the random directions, jackknife groups and intervals.
        progress: Show progress bars.

    Raises:
        LensSteerError: If the folder cannot be written or holds another study, if the material is not sufficient, if
            ``n_random`` or one of ``ks`` is below 1, or for the reasons of the functions that it calls.
    """
    check_writable(out)
    material.check()
    if n_random < 1 or not ks or min(ks) < 1:
        raise LensSteerError(
            f"n_random={n_random}, ks={tuple(ks)}: at least one random direction, and numbers of tokens of 1 or "
            "more, are needed"
        )
    check_engine(engine)
    material.check_room(model, max_new_tokens)
    how: dict[str, Any] = {"engine": engine, "max_new_tokens": max_new_tokens}
    measured: dict[str, Any] = {**how, "mixed": True}
    calibrations = calibrate_all(model, material, method=method, blocks=blocks, engine=engine, progress=progress)
    bases = refusal_bases(calibrations.refusal)
    fit = {f"{name}/fit": getattr(material, name).fit.hash for name in ("compliance", "json", "refusal")}
    identity = {"seed": seed, "fit": fit, "method": method}
    again: dict[str, Any] = {"identity": identity, "progress": progress}

    # The steps run in the order of the splits: directions come from fit (above), choices and the rotation of equal
    # divergence from select, and only then are all conditions measured on report.
    bound = measured_bound(Protocol(model, material.refusal.select, "select", NO_TASKS, **measured), out, **again)
    measured |= {"bound": bound}
    judged = {**measured, "judge": material.judge}
    select = Protocol(model, material.refusal.select, "select", material.tasks.select, **judged)
    select_json = Protocol(model, material.json.select, "select", material.tasks.select, **measured)
    found = {
        COMPLIANCE: tuple(compliance_settings(select, calibrations.compliance, out, shares=shares, **again)),
        JSON: tuple(
            json_settings(
                select_json,
                calibrations.json,
                out,
                sites=json_sites,
                harm=select if bound is None else None,  # nothing is chosen by it, and it is a third of a real study
                **again,
            )
        ),
    }
    steerings = (
        Steering(
            COMPLIANCE,
            calibrations.compliance,
            choose_strength(found[COMPLIANCE], () if bound is None else UNGRADED),
        ),
        Steering(JSON, calibrations.json, choose_site(found[JSON])),
    )
    benign = own_answers(model, material.refusal.select.negative, **how)
    matches = matched(model, steerings, benign, out, {**select.identity, **identity}, engine=engine, progress=progress)

    control = choose_control(select, calibrations.probes, out, **again)
    conditions = baselines(control.plan())
    for steering in steerings:
        conditions += controls(steering, calibrations.refusal, matches[steering.name][1], n_random=n_random, seed=seed)
    drawn, conditions = ([c for c in conditions if (c.draw > WHOLE_DRAWS) == further] for further in (True, False))
    builders = {**{s.name: s.plan for s in steerings}, CONTROL: control.plan}
    fewer = [c for name, build in builders.items() for c in prefixes(name, build, ks)]
    report = Protocol(model, material.refusal.report, "report", material.tasks.report, **judged)
    report_json = Protocol(model, material.json.report, "report", NO_TASKS, **measured)
    harmful_alone = Protocol(
        model, Contrast(material.refusal.report.positive, PromptSet((), "none")), "report", NO_TASKS, **judged
    )
    rows = _measured(report, conditions, out, "report", again)
    for name, few in (("prefixes", fewer), ("draws", drawn)):
        rows += _measured(harmful_alone, few, out, name, again) if few else []
    json_rows = _measured(report_json, conditions, out, "report_json", again)

    responses = {
        HARMFUL: harmful_responses(model, material, **how),
        BENIGN: material.benign_responses or own_answers(model, material.refusal.report.negative, **how),
    }
    plans = {
        c.name: c.plan for c in conditions if c.plan is not None and c.kind in (STEERED, RANDOM, ROTATION, CONTROL)
    }
    by_condition = divergences(model, plans, responses, engine=engine, progress=progress)
    moved = over_draws(by_condition, {c.name: c.group for c in conditions if c.draw})
    acts, classes = calibrations.activations, material.refusal.report
    angles = [
        a
        for s in steerings
        for a in depth.angles(s.name, s.source, acts[s.name], acts["refusal"], bases, s.sites, seed=seed)
    ]
    steered = {name: build() for name, build in builders.items()}
    projected = depth.projections(
        model, calibrations.probes, classes.positive, classes.negative, steered, engine=engine, seed=seed
    )
    return Externalities(
        calibrations,
        found,
        steerings,
        control,
        matches,
        tuple(conditions),
        tuple(drawn),
        tuple(fewer),
        tuple(rows),
        tuple(json_rows),
        responses,
        moved,
        tuple(angles),
        tuple(projected),
        material.known,
        seed,
        bound,
        material.harmful_name,
    )


def calibrate_all(
    model: Any,
    material: Material,
    *,
    method: str = "center",
    blocks: Sequence[int] | None = None,
    engine: str = ENGINE,
    progress: bool = True,
) -> Calibrations:
    """Compute everything that comes from fit prompts.

    These are the calibrations of both benign steerings, the refusal plane, and a probe at every block's output.
    """
    how: dict[str, Any] = {"engine": engine, "progress": progress}
    compliance = calibrate_compliance(model, material.compliance, method=method, blocks=blocks, **how)
    json = calibrate_json(model, material.json, **how)
    activations = {
        COMPLIANCE: record(model, material.compliance, "resid_post", pooling="response", **how),
        JSON: record(model, material.json, "resid_post", **how),
        "refusal": record(model, material.refusal, "resid_post", **how),
    }
    refusal = activations["refusal"]
    probes = {site: fit_probe(refusal, site) for site in refusal.sites}
    return Calibrations(compliance, json, calibrate(refusal, progress=progress), probes, activations)


def matched(
    model: Any,
    steerings: Sequence[Steering],
    benign: PromptSet,
    out: str | Path,
    identity: dict[str, Any],
    *,
    engine: str = ENGINE,
    progress: bool = True,
) -> dict[str, tuple[float, Match]]:
    """Return for each steering its divergence on benign answers, and the rotation of the same divergence.

    The results are kept in ``matches.csv``.
    """
    responses = [p.response or "" for p in benign]

    def of(steering: Steering) -> list[Row]:
        target = divergence_of(model, steering.plan, steering.strength, benign, responses, engine=engine)
        m = (
            match_rotation(model, steering.source, steering.sites, target, benign, responses, engine=engine)
            if target > 0
            else Match(None, None, "the steering does not move the model")
        )
        angle = None if m.grid is None else m.grid.values[0]
        return [{"steering": steering.name, "target": target, "angle": angle, "kl": m.kl, "reason": m.reason}]

    hashes = {s.name: plan_hash(Grid(s.name, s.plan)) for s in steerings}
    store = RowStore(
        out, "matches", MATCH_COLUMNS, ("steering", "reason"), {**identity, "responses": benign.hash, "plans": hashes}
    )
    rows = store.run({s.name: partial(of, s) for s in steerings}, progress=progress)
    return {
        r["steering"]: (
            float(r["target"]),
            Match(None if r["angle"] is None else Grid("selective", None, (float(r["angle"]),)), r["kl"], r["reason"]),
        )
        for r in rows
    }


def _measured(
    protocol: Protocol, conditions: Sequence[Condition], out: str | Path, name: str, again: dict[str, Any]
) -> list[Row]:
    rows = run(protocol, [c.grid for c in conditions if c.runs], out, name, **again)
    return annotated(rows, protocol.sides)
