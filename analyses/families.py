"""Which of Transformers' architectures have a layout that is found, and the proof on real models, as tables.

    python -m analyses.families --out figures/families [--again] [--models FOLDER --check MODEL …] [--page PAGE …]

A model of each architecture is built from its default configuration, without weights (two minutes); what was found
with the same version of Transformers is not searched again unless ``--again`` asks for it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from analyses.common import template_for
from analyses.tables import add_page, write
from lens_steer._io.atomic import whole_file
from lens_steer._io.tables import markdown
from lens_steer.errors import LensSteerError, first_line
from lens_steer.models.huggingface import text_part
from lens_steer.models.layout import Layout
from lens_steer.models.structure import MEND, find_layout

BEFORE, AFTER = {"ln1", "ln2"}, {"ln1_post", "ln2_post"}


def searched() -> dict[str, dict[str, Any]]:
    """Return for each architecture with a causal language model its layout, or why it is refused."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found: dict[str, dict[str, Any]] = {}
    for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            config = text_part(CONFIG_MAPPING[name]())
        except Exception as error:  # a configuration without defaults
            found[name] = {"refused": f"it has no default configuration: {first_line(error)}"}
            continue
        try:
            found[name] = {"layout": find_layout(config).to_json()}
        except LensSteerError as error:
            said = str(error).removeprefix(f"architecture {config.model_type!r}: ").removesuffix(MEND)
            found[name] = {"refused": said}
    return found


def kind_of(layout: Layout) -> tuple[str, str, str]:
    """Return where the norms stand, what they compute, and what else sets a layout apart."""
    kinds = set(layout.norms)
    norms = {True: "before and after", False: "after alone"}[bool(kinds & BEFORE)] if kinds & AFTER else "before"
    formulas = sorted({formula for block in layout.blocks for formula in block.formula.values()})
    blocks = layout.blocks
    facts = {
        "parallel": any(b.parallel for b in blocks),
        "one norm for both": any(b.parallel and "ln2" not in b.norms for b in blocks),
        "without attention": not any(b.attends for b in blocks),
        "hybrid": any(b.attends for b in blocks) and not all(b.attends for b in blocks),
        "branches times a number": any(b.scaled for b in blocks),
        "further branches": any(b.others for b in blocks),
        "stream times a number": any(b.rescaled for b in blocks),
    }
    return norms, ", ".join(formulas), ", ".join(fact for fact, holds in facts.items() if holds)


def found_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the architectures whose layout was found, by what it is."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, one in found.items():
        if "layout" in one:
            groups.setdefault(kind_of(Layout.from_json(one["layout"])), []).append(f"`{name}`")
    order = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [
        (norms, formula, facts or "one branch after the other", ", ".join(names))
        for (norms, formula, facts), names in order
    ]
    return markdown(("norms", "formula", "blocks", "architectures"), rows)


def routers_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in a sentence which architectures have routers whose logits are found."""
    layouts = {name: Layout.from_json(one["layout"]) for name, one in found.items() if "layout" in one}
    routed = [f"`{name}`" for name, layout in layouts.items() if any(b.router for b in layout.blocks)]
    return f"Logits of a router are found in {len(routed)} of the {len(layouts)} layouts: {', '.join(routed)}.\n"


def refused_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the architectures that are refused, with what is said."""
    rows = [(f"`{name}`", one["refused"]) for name, one in found.items() if "refused" in one]
    return markdown(("architecture", "why"), rows)


def checks_table(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the error of each check on each model."""
    head = ("check", *(f"{one['model']} ({one['backend']})" for one in checks))
    rows = []
    for at, check in enumerate(checks[0]["checks"]):
        cells = (one["checks"][at] for one in checks)
        rows.append((check["check"], *(f"{c['error']:.1e}{'' if c['holds'] else ' **fails**'}" for c in cells)))
    return markdown(head, rows)


def checked(models: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Run ``lens-steer check`` on models of a folder, in float32.

    Raises:
        LensSteerError: If a model cannot be checked, which the command itself has said. Checks that fail are results.
    """
    done = []
    for name in models:
        command = [sys.executable, "-m", "lens_steer", "check", "--model", str(folder / name)]
        if template := template_for(str(folder / name)):
            command += ["--chat-template", template]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not told.stdout:
            raise LensSteerError(f"--check {name}: the command above ended with {told.returncode}: leave the model out")
        done.append(json.loads(told.stdout) | {"model": name})
    return done


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analyses.families", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--models", type=Path, help="folder of real models")
    parser.add_argument("--check", nargs="+", default=[], help="models of that folder to prove")
    parser.add_argument("--again", action="store_true", help="search the architectures again")
    add_page(parser)
    args = parser.parse_args()
    record = args.out / "families.json"
    told = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {"transformers": "", "checks": []}
    if args.check:
        told["checks"] = checked(args.check, args.models)
        keep(told, record)
    version = metadata.version("transformers")
    if args.again or told["transformers"] != version:
        told |= {"transformers": version, "architectures": searched()}
        keep(told, record)
    publish(told, args.out, args.page)


def keep(told: Mapping[str, Any], record: Path) -> None:
    """Write the record, whole or not at all."""
    with whole_file(record) as work:
        work.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def publish(told: Mapping[str, Any], out: Path, pages: Sequence[Path]) -> None:
    """Write the tables of a record."""
    write("families_found", found_table(told["architectures"]), out, pages)
    write("families_version", f"Transformers {told['transformers']}.\n", out, pages, latex=False)
    write("families_routers", routers_text(told["architectures"]), out, pages, latex=False)
    write("families_refused", refused_table(told["architectures"]), out, pages)
    if told["checks"]:
        write("families_checks", checks_table(told["checks"]), out, pages)


if __name__ == "__main__":
    try:
        main()
    except LensSteerError as error:
        sys.exit(str(error))
