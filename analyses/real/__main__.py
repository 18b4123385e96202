"""Every study on real pretrained models: run (or gone on with), published without answers, and put into the pages.

    python -m analyses.real --models FOLDER --prompts FOLDER [--quick] [--only STUDY …] [--dry-run]

Models are folders in ``--models``, or names of the hub. A base model, which has no chat template, is given plain turns
(``User: …``). What is finished is not run again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from analyses.common import template_for
from analyses.real import page
from analyses.real.publish import differing, publish, verdicts
from analyses.real.records import WORK, describe, write_json
from analyses.real.runs import cost, linked, run
from analyses.real.studies import INSTANT, QUICK, SLOW, STUDIES, WHOLE, Where
from analyses.tables import add_page
from lens_steer.errors import LensSteerError

MODEL = "qwen2.5-coder-0.5b-instruct"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analyses.real", description=__doc__)
    parser.add_argument("--model", nargs="+", default=[MODEL], help="folders in --models, or names of the hub")
    parser.add_argument(
        "--models", type=Path, default=os.environ.get("LENS_STEER_REAL_MODELS"), help="folder of models"
    )
    parser.add_argument("--prompts", type=Path, default=os.environ.get("LENS_STEER_REAL_PROMPTS"), help="prompt files")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quick", action="store_true", help="smaller studies, under 45 minutes on two cores")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in STUDIES], help="these studies alone")
    parser.add_argument("--dry-run", action="store_true", help="tell what each study costs, and stop")
    parser.add_argument("--work", type=Path, default=Path("build/real"), help="working folder, with answers; not kept")
    parser.add_argument("--out", type=Path, default=Path("figures/real"), help="folder to publish to")
    add_page(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    size = QUICK if args.quick else WHOLE
    if args.work.is_absolute() and args.work.is_relative_to(Path.cwd()):
        args.work = args.work.relative_to(Path.cwd())
    prompts = linked(args.prompts, args.work / "prompts", "--prompts")
    wanted = [s for s in STUDIES if s.name in (args.only or [s.name for s in STUDIES])]
    if args.quick and not args.only:
        wanted = [s for s in wanted if s.name not in SLOW]
    changed = []
    for model in args.model:
        name, source = model.rstrip("/").split("/")[-1], model
        folder = next((p for p in (Path(model), Path(args.models or ".") / model) if p.expanduser().is_dir()), None)
        if folder is None and "/" not in model:  # no name of the hub
            linked(None, args.work, "--models")
        if folder is not None:
            source = str(linked(folder, args.work / "models" / name, "--model"))
        where = Where(source, prompts, args.work / "runs" / size.name / name, args.dtype, template_for(source))
        published = args.out / size.name / name
        before = verdicts(published)
        if args.dry_run:
            write_json(published / WORK, {s.name: cost(s, where, size) for s in wanted if s.name not in INSTANT})
            continue
        for study in wanted:
            run(study, where, size)
            publish(where.work / study.name, published / study.name)
        describe(Path(source), published)
        changed += differing(before, verdicts(published)) if before else []
    page.write(args.out, args.page)
    for line in changed:
        sys.stderr.write(f"verdict: {line}\n")
    if changed and args.quick:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except LensSteerError as error:
        sys.exit(str(error))
