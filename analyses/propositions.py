"""The propositions of Selective Steering and what goes with them on models: records, tables, figures, and the tables
for a page.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence

import lens_steer as ls
from analyses import tables
from analyses.common import parse_models
from lens_steer._io.tables import markdown
from lens_steer.errors import LensSteerError
from lens_steer.studies import claim_tables
from lens_steer.studies.claim import Claim, marked
from lens_steer.studies.propositions import dose, questions
from lens_steer.studies.propositions.bands import BAND_QUESTIONS
from lens_steer.studies.propositions.verify import verify, verify_model, write
from lens_steer.studies.verdicts import EXCLUDED, INSENSITIVE, NOT_SHOWN

SHOWN = (
    "proposition-1", "proposition-1-proof", "proposition-2", "norm-formula-ActAdd", "norm-formula-directional ablation",
    "identity-SS", "identity-SAS", "composition-adds-SS", "composition-adds-SAS", "isometry-SS", "isometry-SAS",
    "linear-SS", "linear-SAS", "classes-apart-SS-formula", "classes-apart-SAS-formula", "monotone-alignment",
    "gram-error-separates", "rounding-separates", "norm-recorded-SS", "norm-recorded-SAS", "norm-downstream-SS",
    "norm-downstream-SAS", "drift-equal-divergence-published", "drift-equal-divergence-L_disc",
)  # fmt: skip
SHOWN_OF_MODEL = ("norms-grow", "norms-uneven", "few-layers", "middle-layers", "one-plane", "one-angle")
BOTH_ANGLES = ("relative-angle", "relative-angle-everywhere", "selected-layers-SS", "selected-layers-SAS")
BEST_ANGLE = (
    "phase-matched",
    "rotation-half",
    "collapse-half",
    "against-late",
    "centred-plane",
    "engine-cache-SS",
    "whole-prompt-SS",
    "fresh-cache-SS",
)
# A condition that does nothing at any angle is not compared at its own best one, but at the nominal angle it is.
NOMINAL_TOO = ("engine-cache-SS", "whole-prompt-SS", "fresh-cache-SS")
NOMINAL_ALONE = tuple(question[0] for question in BAND_QUESTIONS)  # draws have no choice of their own
SCALES = {
    "positive_right": (100, "points"), "negative_right": (100, "points"), "surprise": (1, "nats"),
    "capable": (100, "points"),
}  # fmt: skip


def short(claims: Sequence[Claim], model: str) -> str:
    """The page's table on one model: the claims that decide, one row each."""
    by_id = {c.id: c for c in claims}
    wanted = (*SHOWN, *(f"{name}-{model}" for name in SHOWN_OF_MODEL))
    absent = [i for i in wanted if i not in by_id]
    # A model without a discriminative site has fewer claims; elsewhere a missing one is a mistyped id.
    if absent and by_id[f"few-layers-{model}"].value:
        raise LensSteerError(
            f"SHOWN names {absent[0]!r}, which is no claim on {model!r}: use some of {', '.join(by_id)}"
        )
    return claim_tables.markdown([by_id[i] for i in wanted if i in by_id])


def behaviour(found: Mapping[str, Sequence[Claim]]) -> str:
    """One row a question, outcome and choice of angles; one column a model."""
    by_model = {model: {c.id: c for c in claims} for model, claims in found.items()}
    rows = []
    for outcome, key, at_nominal in _shown_rows():
        claims = [c.get(questions.claim_id(key, outcome, at_nominal=at_nominal)) for c in by_model.values()]
        statement = next((c.statement for c in claims if c is not None), None)
        if statement is not None:
            scale, unit = SCALES[outcome]
            rows.append((statement, unit, *(_cell(c, scale) for c in claims)))
    drifts = [(f"drift-equal-divergence-{kind}", 1000, "‰ of the norm") for kind in ("published", "L_disc")]
    for id_, scale, unit in (*drifts, ("norm-keeping-differ", 100, "points"), *_dose_rows()):
        claims = [c.get(id_) for c in by_model.values()]
        known = next((c for c in claims if c is not None), None)
        if known is not None:
            rows.append((known.statement, unit, *(_cell(c, scale) for c in claims)))
    return markdown(("claim", "in", *found), rows)


def _dose_rows() -> list[tuple[str, float, str]]:
    """Id, scale and unit of the claims on norm errors: the published sizes and the positive controls of each outcome,
    and the largest error that is excluded.
    """
    sizes = [s for s in dose.SCALES if dose.size(s) <= dose.PUBLISHED or s in dose.CONTROLS]
    found: list[tuple[str, float, str]] = []
    for outcome in (o.name for o in dose.OUTCOMES):
        found += [(dose.claim_id(outcome, s), *SCALES[outcome]) for s in sizes]
        found.append((dose.claim_id(outcome), 1, "norm error"))
    return found


def _shown_rows() -> list[tuple[str, str, bool]]:
    """Outcome, question, and whether at the nominal angle: compliance in full, what E2 costs at the conditions' own
    best angles.
    """
    compliance = [("positive_right", key, at_nominal) for key in BOTH_ANGLES for at_nominal in (False, True)]
    costs = [(outcome, key, False) for outcome in ("surprise", "capable") for key in BOTH_ANGLES]
    single = [("positive_right", key, at) for key in BEST_ANGLE for at in (False, True) if not at or key in NOMINAL_TOO]
    drawn = [("positive_right", key, True) for key in NOMINAL_ALONE]
    return compliance + single + drawn + costs


def _cell(claim: Claim | None, scale: float) -> str:
    if claim is None:
        return "—"
    if claim.verdict.startswith((NOT_SHOWN, INSENSITIVE)) and claim.interval is None:
        return claim.verdict.lower()
    if claim.interval is None:
        size = "—" if claim.value is None else f"{claim.value:g}"
        return marked(claim, size)
    places = 0 if scale >= 100 else 2
    value, low, high = (f"{scale * float(v or 0):.{places}f}" for v in (claim.value, *claim.interval))
    text = f"{value} [{low}, {high}]"
    if "rank_p" in claim.witness:
        text += f", rank {claim.witness['rank_p']:.2g} among {claim.witness['draws']} draws"
    by_rank = claim.verdict == NOT_SHOWN and not claim.interval[0] <= 0 <= claim.interval[1]
    if by_rank or claim.verdict.startswith((EXCLUDED, INSENSITIVE)):
        return f"{text}, {claim.verdict.lower()}"
    return marked(claim, text)


def main() -> None:
    args = parse_models(__doc__, ["organism/qwen2"])
    command = shlex.join(["python", "-m", "analyses.propositions", *sys.argv[1:]])
    without_model = verify(seed=args.seed)
    found: dict[str, Sequence[Claim]] = {}
    for i, name in enumerate(args.model):
        model, contrast = ls.load_model(name), ls.load_contrast(args.contrast, seed=args.seed)
        out = args.out / name.rstrip("/").split("/")[-1] if i else args.out
        verification = without_model + verify_model(model, contrast, seed=args.seed, engine="hf", out=out)
        write(verification, out, command=command, seed=args.seed)
        found[name] = verification.claims
    tables.write("verdicts", short(found[args.model[0]], args.model[0]), args.out, args.page)
    tables.write("behaviour", behaviour(found), args.out, args.page)


if __name__ == "__main__":
    main()
