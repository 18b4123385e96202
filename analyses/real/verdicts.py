"""The tables of claims on real models: those of each study, and the few of the README's first screen."""

from __future__ import annotations

from collections.abc import Sequence

from analyses.real.records import NOT_RUN, Published, columns, verdict_of
from lens_steer._io.tables import markdown
from lens_steer.studies.claim import Claim, marked, measured

# Table of the page → the file whose claims it shows; those on side effects are shown as their own page shows them.
TABLES = {
    "real_claims": "propositions", "real_claims_sites": "site_choice", "real_claims_methods": "headline",
    "real_claims_prompts": "transfer", "real_claims_formats": "formats", "real_claims_angles": "angle_transfer",
    "real_claims_conversation": "conversation",
}  # fmt: skip
# The claims of ``lens-steer verify`` that are shown, by the beginning of their ids.
SHOWN = (
    "proposition-1", "proposition-1-proof", "proposition-2", "identity-SS", "identity-SAS", "norm-recorded-SS",
    "norm-recorded-SAS", "norm-downstream-SS", "norm-downstream-SAS", "drift-equal-divergence-published",
    "drift-equal-divergence-L_disc", "norms-grow", "norms-uneven", "few-layers", "middle-layers", "one-plane",
    "one-angle",
)  # fmt: skip
# The claims of the README's first screen in few words, by the beginning of their ids.
FIRST = {
    "norm-recorded-SS": "Selective Steering keeps the norm of recorded activations",
    "norm-recorded-SAS": "… and so does Angular Steering",
    "few-layers": "far fewer layers are steered than there are",
    "few-direction-mixed": "33 prompts separate other prompts as 128 do",
    "few-sites-mixed": "33 prompts give the sites that 33 others give",
    "effect-lasts-t10": "its effect lasts to the tenth turn of a conversation",
    "steering-from-mixed-on-jailbreakbench": "set elsewhere, it keeps 0.8 of its effect on JailbreakBench",
    "sign-above-effect": "signs free more answers than the largest Cohen's d",
    "sign-score-effect": "… lower the refusal score more",
    "sign-above-all": "… free more answers than all sites",
    "sign-score-all": "… lower the refusal score more",
    "ss-above-standard-everywhere": "Selective Steering frees more answers than Angular Steering",
}


def claims(found: Sequence[Published], file: str) -> str:
    """One row a claim of a file, one column a model: the verdict and what was measured; bold where it holds jointly."""
    by_model = columns(found, lambda p: p.claims(file))
    statements: dict[str, str] = {}
    for _, of in by_model:
        wanted = {k: c.statement for k, c in of.items() if file != TABLES["real_claims"] or k.startswith(SHOWN)}
        statements |= {k: text for k, text in wanted.items() if k not in statements}
    rows = [(text, *(_cell(of.get(key)) for _, of in by_model)) for key, text in statements.items()]
    return markdown(("claim", *(head for head, _ in by_model)), rows) if rows else NOT_RUN


def first(found: Sequence[Published]) -> str:
    """The table of the first screen: some claims on the first model, from its whole studies where they have them."""
    rows = []
    of_first = [p for p in found if p.name == found[0].name]
    for start, words in FIRST.items():
        every = [(p, c) for p in of_first for key, c in p.claims().items() if key.startswith(start)]
        if every:
            p, claim = every[0]
            size = "quick" if p.quick else "whole"
            rows.append((words, marked(claim, verdict_of(claim)), measured(claim), str(claim.n), size))
    return markdown(("claim", "verdict", "measured", "n", "study"), rows)


def _cell(claim: Claim | None) -> str:
    return "—" if claim is None else f"{marked(claim, verdict_of(claim))}: {measured(claim)}, n = {claim.n}"
