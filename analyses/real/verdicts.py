"""The tables of claims on real models: those of each study, and the few of the README's first screen.

Where a study asks the same for many sources or formats, its claims are the columns and these are the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analyses.real.records import NOT_RUN, Published, columns, verdict_of
from lens_steer._io.tables import markdown
from lens_steer.studies.claim import Claim, marked, measured, shown

# Table of the page → the file whose claims it shows; those on side effects are shown as their own page shows them.
TABLES = {
    "real_claims": "propositions", "real_claims_sites": "site_choice", "real_claims_methods": "headline",
    "real_claims_prompts": "transfer", "real_claims_formats": "formats", "real_claims_angles": "angle_transfer",
    "real_claims_conversation": "conversation", "real_claims_traits": "traits",
}  # fmt: skip
# Beginnings of ids: of the claims of a file that are shown, where not all are; and of the columns of a file.
SHOWN = {"propositions": (
    "proposition-1", "proposition-1-proof", "proposition-2", "identity-SS", "identity-SAS", "norm-recorded-SS",
    "norm-recorded-SAS", "norm-downstream-SS", "norm-downstream-SAS", "drift-equal-divergence-published",
    "drift-equal-divergence-L_disc", "norms-grow", "norms-uneven", "few-layers", "middle-layers", "one-plane",
    "one-angle",
)}  # fmt: skip
KINDS = {
    "transfer": ("transfers-", "same-sites-", "few-direction-", "few-sites-"),
    "formats": ("separates-", "direction-", "sites-"),
    "angle_transfer": ("beyond-random-", "angle-from-", "steering-from-"),
}
ON = "-on-"  # in the id of a claim about a pair of sources
# The claims of the README's first screen in few words, by the beginning of their ids.
FIRST = {
    "norm-recorded-SS": "Selective Steering keeps the norm of recorded activations",
    "norm-recorded-SAS": "… and so does Angular Steering",
    "norm-downstream-SS": "… and Selective Steering the norms that later blocks read",
    "few-layers": "far fewer layers are steered than there are",
    "few-direction-mixed": "33 prompts a class separate other prompts as 128 do",
    "few-sites-mixed": "… and give the sites that 33 others give",
    "effect-lasts-t10": "its effect lasts to the tenth turn of a conversation",
    "sign-above-random": "the sites of the published rule free more answers than random sites",
    "sign-above-effect": "… than the sites of the largest Cohen's d",
    "ss-above-standard-everywhere": "Selective Steering frees more answers than standard Angular Steering",
    "ss-above-adaptive-everywhere": "… than adaptive Angular Steering",
}


def claims(found: Sequence[Published], file: str) -> str:
    """The claims of a file (of some files, only the :data:`SHOWN` ones): the verdict and what was measured, bold where
    the claim holds jointly; one column a model, or with :data:`KINDS` one table a model.
    """
    by_model = columns(found, lambda p: p.claims(file))
    if not by_model:
        return NOT_RUN
    if file in KINDS:
        return _by_kind(by_model, KINDS[file])
    first: dict[str, Claim] = {}
    for _, of in by_model:
        first |= {k: c for k, c in of.items() if k.startswith(SHOWN.get(file, "")) and k not in first}
    rows = [
        (c.statement, f"{c.quantity}; {c.criterion}", *(_cell(of.get(key)) for _, of in by_model))
        for key, c in first.items()
    ]
    return markdown(("claim", "measured; holds if", *(head for head, _ in by_model)), rows)


def _by_kind(by_model: Sequence[tuple[str, Mapping[str, Claim]]], kinds: Sequence[str]) -> str:
    """A line a kind of claim, by its first one; then for each model a table of the claims about pairs, and one of those
    about a source or a format.
    """
    parts = []
    for kind in kinds:
        first = next((c for _, of in by_model for key, c in of.items() if key.startswith(kind)), None)
        if first is not None:
            words, measures = f"- *{_words(kind)}*, for example: {first.statement}.", f"Measured: {first.quantity}"
            parts.append(f"{words} {measures}; holds if: {first.criterion}.\n")
    for head, of in by_model:
        parts.append(f"\n*{head}*\n")
        cells = {(kind, k.removeprefix(kind)): c for k, c in of.items() for kind in kinds if k.startswith(kind)}
        for pairs in (True, False):
            keys = [(kind, name) for kind, name in cells if (ON in name) == pairs]
            own, names = dict.fromkeys(kind for kind, _ in keys), dict.fromkeys(name for _, name in keys)
            rows = [(n.replace(ON, " on "), *(_cell(cells.get((kind, n))) for kind in own)) for n in names]
            parts += [f"\n{markdown(('', *map(_words, own)), rows)}"] if rows else []
    return "".join(parts)


def _words(kind: str) -> str:
    """Return the name of a kind of claim.

    >>> _words("few-sites-")
    'few sites'
    """
    return kind.strip("-").replace("-", " ")


def first(found: Sequence[Published]) -> str:
    """The table of the first screen: some claims on the first model, from its whole studies where they have them."""
    rows = []
    of_first = [p for p in found if p.name == found[0].name]
    for start, words in FIRST.items():
        every = [(p, c) for p in of_first for key, c in p.claims().items() if key.startswith(start)]
        if every:
            p, claim = every[0]
            size = " (quick)" if p.quick else ""
            rows.append((f"{words}{size}", marked(claim, verdict_of(claim)), measured(claim), str(claim.n)))
    return markdown(("claim", "verdict", "measured", "n"), rows)


def _cell(claim: Claim | None) -> str:
    """Return a claim's verdict, value, interval (or the middle 90 % of the draws, where it has these) and n."""
    if claim is None:
        return "—"
    draws = claim.witness.get("middle_90") if claim.interval is None else None
    beside = "" if draws is None else f" ({shown(draws[0])} to {shown(draws[1])})"
    return f"{marked(claim, verdict_of(claim))}: {measured(claim)}{beside}, n = {claim.n}"
