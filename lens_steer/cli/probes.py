"""The commands that fit probes and that steer traits with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.common import command, emit, judge_named, read_prompts, shares_of
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Engine, JudgeOption, Model, Out, Seed, Split
from lens_steer.cli.prompting import Prompts, asked_of
from lens_steer.cli.serving import Serving
from lens_steer.errors import LensSteerError


@grouped
def probe(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model = "organism/qwen2",
    sites: Annotated[
        str,
        typer.Option("--sites", help="resid_post, norm_out, resid, one kind (ln1, …), or names separated by commas."),
    ] = "resid_post",
    pooling: Annotated[
        str,
        typer.Option(
            "--pooling",
            help="last (last prompt token), or response, thought or answer (mean over each row's response, or over "
            "that part of it).",
        ),
    ] = "last",
    penalty: Annotated[
        str, typer.Option("--C", help="Inverse strength of the L2 penalty, or cv: chosen by cross-validation.")
    ] = "1",
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Penalise the weight of standardised features.")
    ] = False,
    engine: Engine = ENGINE,
) -> None:
    """Logistic-regression probes across depth: held-out accuracy, AUROC, selectivity, cosines, figures, and a probe to
    steer with for every site.
    """
    from lens_steer.evaluation.work import Work, recording
    from lens_steer.inference.engines import check_engine
    from lens_steer.inference.pooling import FORCED, checked_pooling
    from lens_steer.reports.probe_report import probe_and_write

    check_engine(engine, answers=False)
    try:
        C = None if penalty == "cv" else float(penalty)
    except ValueError:
        raise LensSteerError(f"--C {penalty!r}: give a number above 0, or cv") from None
    if C is not None and not C > 0:
        raise LensSteerError(f"--C {penalty!r}: give a number above 0, or cv")
    how = checked_pooling(pooling)
    chosen = prompts.read(forced=pooling in FORCED)
    asked = asked_of(chosen, 0)
    read = [side for part in (chosen.fit, chosen.report) for side in (part.positive, part.negative)]
    forced = read if pooling in FORCED else []
    load.check(model, *([] if forced else asked), forced=forced, site_spec=sites, pooling=pooling)
    loaded = load(model)
    parts = [part for part in (chosen.fit, chosen.report) if len(part.positive) and len(part.negative)]
    work = sum((recording(loaded, p, loaded.lens_info.n_layers, responses=bool(forced)) for p in parts), Work())
    dry.tell(loaded, work, chosen.fit.positive, engine=engine)
    found = probe_and_write(
        loaded,
        chosen,
        out,
        sites=sites,
        pooling=how,
        C=C,
        standardize=standardize,
        seed=prompts.seed,
        engine=engine,
        command=command(),
    )
    best = found.best
    emit(
        {
            "probes": str(out / "probes.csv"),
            "n_sites": len(found.results),
            "best_site": best.probe.site,
            **{name: best.measured[name].value for name in ("accuracy", "auroc", "selectivity")},
        }
    )


@grouped
def traits(
    load: Load,
    dry: DryRun,
    serving: Serving,
    out: Out,
    model: Model = "organism/qwen2",
    trait: Annotated[
        str, typer.Option("--trait", help="honesty or compassion on organisms; with scenarios, the trait's name.")
    ] = "honesty",
    scenarios: Annotated[
        str | None, typer.Option("--scenarios", help="Prompts file of one's own scenarios, for any model.")
    ] = None,
    aligned_system: Annotated[
        list[str] | None,
        typer.Option("--aligned-system", help="System prompt with the trait; several are taken in turn."),
    ] = None,
    malicious_system: Annotated[
        list[str] | None,
        typer.Option("--malicious-system", help="System prompt against it; several are taken in turn."),
    ] = None,
    judge: JudgeOption = None,
    split: Split = None,
    sites: Annotated[str, typer.Option("--sites", help="Where probes are fitted and one is steered.")] = "resid_post",
    dialogues: Annotated[int, typer.Option("--dialogues", help="Dialogues of 5 to 10 turns; 0 leaves them out.")] = 12,
    n_random: Annotated[
        int, typer.Option("--n-random", help="Random directions beside each choice at all tokens.")
    ] = 19,
    seed: Seed = 0,
    engine: Engine = ENGINE,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Length of every answer at most (24 on organisms, 256 otherwise).")
    ] = None,
) -> None:
    """Recover a trait under a malicious system prompt: SwFC, StTP and StMP with a probe, searched on select, reported
    on report; an interrupted search goes on.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.studies.traits.calibration import SHARES, organism_trait, scenario_trait
    from lens_steer.studies.traits.claims import claims
    from lens_steer.studies.traits.report import steer_trait
    from lens_steer.studies.traits.work import recovering

    serving.check(engine)
    length = max_new_tokens if max_new_tokens is not None else 24 if scenarios is None else 256
    if length < 1 or dialogues < 0 or n_random < 1:
        raise LensSteerError(
            f"--max-new-tokens {length}, --dialogues {dialogues}, --n-random {n_random}: at least 1, 0 and 1 are needed"
        )
    own = {"--aligned-system": aligned_system, "--malicious-system": malicious_system, "--judge": judge}
    if scenarios is None:
        given = [name for name, value in (own | {"--split": split}).items() if value]
        if given:
            raise LensSteerError(f"{given[0]} belongs to --scenarios: give both, or neither for the organisms' {trait}")
        if not model.startswith("organism/"):
            raise LensSteerError(
                f"--model {model}: give --scenarios, --aligned-system, --malicious-system and --judge; only "
                "organisms have traits of their own"
            )
        wanted = organism_trait(trait, seed=seed)
    else:
        missing = [name for name, value in own.items() if not value]
        if missing:
            raise LensSteerError(f"--scenarios needs {', '.join(missing)} too")
        shares = SHARES if split is None else shares_of(split)
        wanted = scenario_trait(
            trait,
            read_prompts(scenarios),
            aligned_system or (),
            malicious_system or (),
            judge_named(judge),
            split=shares,
            seed=seed,
        )
    check_writable(out)
    parts = (wanted.contrast.fit, wanted.contrast.select, wanted.contrast.report)
    load.check(model, *((side, length) for p in parts for side in (p.positive, p.negative)), site_spec=sites)
    loaded = load(model)
    how: dict[str, Any] = {"sites": sites, "max_new_tokens": length, "n_dialogues": dialogues, "n_random": n_random}
    how |= {"seed": seed}
    work, probed = recovering(loaded, wanted, **how), wanted.contrast.select.negative
    dry.tell(loaded, work, probed, engine=engine, max_new_tokens=length)
    serving.start(loaded, engine)
    found = steer_trait(
        loaded,
        wanted,
        out,
        engine=engine,
        command=command(),
        **how,
    )
    reported = {name: found.pooled.reported(name).measured["positive_right"].value for name in found.pooled.choices}
    emit(
        {
            "traits": str(out / "traits.csv"),
            "trait": reported,
            "claims": {c.id: c.verdict for c in claims(found.pooled, wanted.name, seed=seed)},
            "chosen": {
                name: {"site": c.variant, "coefficient": c.value, "met": c.met}
                for name, c in found.pooled.choices.items()
            },
        }
    )


COMMANDS: tuple[Callable[..., None], ...] = (probe, traits)
