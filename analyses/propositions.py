"""The propositions of Selective Steering and what goes with them on a model: records, tables, figures, and the README's table."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import lens_steer as ls
from analyses import tables
from lens_steer.claims.record import Claim
from lens_steer.claims.tables import markdown
from lens_steer.verify import verify, verify_model, write

SHOWN = (
    "proposition-1", "proposition-1-proof", "proposition-2", "norm-formula-ActAdd", "norm-formula-directional ablation", "identity-SS",
    "identity-SAS", "composition-adds-SS", "composition-adds-SAS", "isometry-SS", "isometry-SAS", "linear-SS", "linear-SAS",
    "classes-apart-SS-formula", "classes-apart-SAS-formula", "monotone-alignment", "gram-error-separates", "rounding-separates",
    "norm-recorded-SS", "norm-recorded-SAS", "norm-downstream-SS", "norm-downstream-SAS", "relative-angle", "nominal-relative-angle",
    "phase-matched", "selected-layers-SS", "selected-layers-SAS", "against-late", "the-plane", "norms-explain",
)  # fmt: skip


def short(claims: Sequence[Claim]) -> str:
    """The README's table: the claims that decide, one row each."""
    by_id = {c.id: c for c in claims}
    return markdown([by_id[i] for i in SHOWN if i in by_id])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="organism/qwen2", help="organism/…, a Hugging Face folder, or a hub name")
    parser.add_argument("--contrast", default="organism/refusal", help="a contrast of the organisms")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--readme", type=Path, help="put the short table between the markers of this file too")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = ls.load_model(args.model)
    found = verify(seed=args.seed) + verify_model(
        model, ls.load_contrast(args.contrast, seed=args.seed), seed=args.seed, engine="hf"
    )
    write(found, args.out, command=shlex.join(["python", "-m", "analyses.propositions", *sys.argv[1:]]), seed=args.seed)
    tables.write("verdicts", short(found.claims), args.out, args.readme)


if __name__ == "__main__":
    main()
