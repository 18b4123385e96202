"""What practitioners should do: one advice a question, decided by claims of the published records, and under it what
each model's records say. Where the records do not decide, the advice says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyses.real.records import NOT_RUN, Published, columns
from lens_steer.stats.estimates import percent
from lens_steer.studies.angle_transfer.claims import SHARE
from lens_steer.studies.claim import Claim, measured
from lens_steer.studies.transfer.claims import FEW
from lens_steer.studies.verdicts import EXCLUDED, HOLDS, INSENSITIVE, REFUTED

SITES, SCORES, RANDOM = "sign-above-", "sign-score-", "random"
RIVALS = {
    "official": "the released code's rule", "centred": "signs about the midpoint", "effect": "the largest Cohen's d",
    "auroc": "the largest area", "middle-half": "the middle half", "all": "all sites",
}  # fmt: skip
# What a verdict says of Selective Steering against a rival; any other one is NO_MORE.
FREES = {
    HOLDS: "frees more answers than", REFUTED: "frees fewer answers than",
    EXCLUDED: "frees hardly more answers than", INSENSITIVE: "was not put to the test against",
}  # fmt: skip
NO_MORE = "is not shown to free more answers than"
Claims = dict[str, Claim]


@dataclass(frozen=True)
class Said:
    """An advice, and what one model's records say about it."""

    advice: str
    evidence: str


def practice(found: Sequence[Published]) -> str:
    """Return the advice as a numbered list, each with a line a model; where two models differ, so does the advice."""
    lines = list[str]()
    for say in SENTENCES:
        by_model = columns(found, say)
        if by_model:
            advice = by_model[0][1].advice
            lines.append(f"{1 + sum(not line.startswith(' ') for line in lines)}. **{advice}**\n")
            for head, said in by_model:
                other = "" if said.advice == advice else f" (here: {said.advice[0].lower()}{said.advice[1:-1]})"
                lines.append(f"   - {head}{other}: {said.evidence}.\n")
    return "".join(lines) or NOT_RUN


def sites(p: Published) -> Said | None:
    """Say which sites do more than those of the published rule, under one budget of side effects."""
    record, answers, scores = p.record("site_choice", "site_choice"), _named(p, SITES), _named(p, SCORES)
    if record is None or not answers:
        return None
    chance = answers.get(f"{SITES}{RANDOM}")
    if chance is not None and chance.verdict == HOLDS:
        advice = "Opposite signs choose sites better than chance does."
    elif chance is not None and chance.verdict == REFUTED:
        advice = "Opposite signs choose sites worse than chance does: do not choose by them."
    else:
        advice = (
            "Compare a rule for sites with random sets of as many sites: that opposite signs do better is not shown."
        )
    rates = [s["positive_answered"] for s in record["settings"] if s["variant"]]
    own = next(s for s in record["settings"] if s["condition"].startswith("paper"))
    drawn = (
        f"; {len(rates)} random sets of as many sites free {percent(sum(rates) / len(rates))} % on average, "
        f"{percent(min(rates))} to {percent(max(rates))} %"
        if rates
        else ""
    )
    return Said(
        advice,
        f"under one budget of side effects {percent(own['positive_answered'])} % of harmful prompts are answered at "
        f"the sites of the published rule{drawn}. By answers it does {_against(answers, 100, 'points')}; by the "
        f"refusal score it does {_against(scores, 1, 'nats')} (`{next(iter(answers))}` and its like)",
    )


def _against(claims: Claims, scale: float, unit: str) -> str:
    """Return what a rule does against its rivals, in words: each rival with its difference in one of four lists."""

    def of(verdict: str) -> list[str]:
        return [f"{_rival(k)} ({scale * float(c.value or 0):+.2g})" for k, c in _with(claims, verdict).items()]

    lists = {"less than": of(REFUTED), "more than": of(HOLDS), "not much more than": of(EXCLUDED)}
    rest = [_rival(k) for k, c in claims.items() if not c.verdict.startswith((HOLDS, REFUTED, EXCLUDED))]
    parts = [f"{words} {', '.join(rivals)}" for words, rivals in lists.items() if rivals]
    parts += [f"and is not shown to differ from {', '.join(rest)}"] if rest else []
    return f"{', '.join(parts)} ({unit})"


def published_methods(p: Published) -> Said | None:
    """Say whether Selective Steering frees more answers than Angular Steering as published."""
    names = {"SAS": "ss-above-standard-everywhere", "AAS": "ss-above-adaptive-everywhere"}
    every = p.claims()
    of = {label: every[key] for label, key in names.items() if key in every}
    if not of:
        return None
    parts = [next((w for start, w in FREES.items() if c.verdict.startswith(start)), NO_MORE) for c in of.values()]
    told = " and ".join(f"{words} {label} as published" for words, label in zip(parts, of, strict=True))
    return Said(
        f"Each at its own choice, Selective Steering {told}.",
        _rows({k: every[k] for k in names.values() if k in every}),
    )


def prompts(p: Published) -> Said | None:
    """Say whether few prompts give a direction, and whether prompts give the sites at all."""
    direction, whole = _named(p, "few-direction-"), _named(p, "same-sites-")
    if not direction or not whole:
        return None
    enough, same, other = _with(direction, HOLDS), _with(whole, HOLDS), _with(whole, REFUTED)
    advice = (
        "Name the sites of the published rule: they are those that other prompts give."
        if len(same) == len(whole)
        else "Give a list of sites with its agreement between halves of the prompts; a direction needs few prompts."
    )
    return Said(
        advice,
        f"two halves of the prompts are shown to have the same sites by the published rule on {len(same)} of "
        f"{len(whole)} sources, refuted on {len(other)}; {FEW} prompts of a class are shown to separate other prompts "
        f"about as well as a whole half does on {len(enough)} of {len(direction)} (`{next(iter(whole))}`, "
        f"`{next(iter(direction))}` and their like)",
    )


def elsewhere(p: Published) -> Said | None:
    """Say whether an angle, and whether all of steering, holds on prompts of another source."""
    record, whole = p.record("angle_transfer", "angle_transfer"), _named(p, "steering-from-")
    if record is None or not whole:
        return None
    every, lost, own = _with(whole, HOLDS), _with(whole, REFUTED), _named(p, "beyond-random-")
    between = [r for r in record["pairs"] if r["fitted"] != r["on"] and r["angle"] is not None]
    same = sum(r["angle"] == r["again"] for r in between)
    advice = (
        "What was set on one source of prompts can be used on another."
        if len(every) == len(whole)
        else "Tell on which prompts direction, sites and angle were set, and try others."
    )
    return Said(
        advice,
        f"direction, sites and angle from another source are shown to lower the refusal score by at least {SHARE:g} of "
        f"what the source's own do on {len(every)} of {len(whole)} pairs, refuted on {len(lost)}; on its own prompts "
        f"steering is shown to do more than random planes on {len(_with(own, HOLDS))} of {len(own)} sources, without "
        f"which nothing about other prompts can be shown. Chosen again on the other source, the angle is the same one "
        f"of the grid on {same} of {len(between)} pairs (`{next(iter(whole))}` and its like)",
    )


def control(p: Published) -> Said | None:
    """Say what the positive control does, which any claim of no effect needs beside it."""
    record, of = p.record("site_choice", "site_choice"), _named(p, SITES)
    seen = {c.witness["control_seen"] for c in of.values() if "control_seen" in c.witness}
    if record is None or len(seen) != 1:
        return None
    by_name = {s["condition"]: s for s in record["settings"] if not s["variant"]}
    ablation = next((s for name, s in by_name.items() if name.startswith("ablation-everywhere")), None)
    if ablation is None:
        return None
    ends = ("", "_low", "_high")
    rates = [percent(*(s[f"positive_answered{e}"] for e in ends)) for s in (by_name["no steering"], ablation)]
    advice = (
        "Run directional ablation beside every method: where it works, a null can be read."
        if seen == {True}
        else "Read no null from so few prompts: directional ablation is not shown to free answers either."
    )
    return Said(
        advice,
        f"{rates[0]} % of harmful prompts are answered without it and {rates[1]} % with it, outside of the budget "
        f"(*Answers*, `{ablation['condition']}`)",
    )


def norms(p: Published) -> Said | None:
    """Say whether the norm is kept at the steered site, and in what later blocks make of it."""
    of = {k: c for k, c in p.claims().items() if k in ("norm-recorded-SS", "norm-downstream-SS")}
    if len(of) < 2:
        return None
    here, later = (of[k].verdict.startswith(HOLDS) for k in ("norm-recorded-SS", "norm-downstream-SS"))
    advice = {
        (True, True): "Selective Steering keeps the norm at its sites and in later blocks.",
        (
            True,
            False,
        ): "Claim norm preservation for the steered vector alone: it is kept there and not in later blocks.",
    }.get((here, later), "Do not claim norm preservation: it is not kept at the steered site in this arithmetic.")
    return Said(advice, f"largest relative change: {_rows(of)}")


def of_transfers(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Say how many directions separate another source's prompts better than length or a final mark alone.

    >>> row = {"fitted": "a", "on": "b", "area_low": 0.8, "surface": 0.9, "surface_by": "number of words"}
    >>> of_transfers([row, row | {"on": "a"}, row | {"area_low": 0.95}])
    'on 1 of 2 pairs of two sources the area is above what a surface alone gives; not on a on b (number of words 0.90).'
    """
    between = [r for r in pairs if r["fitted"] != r["on"]]
    below = [r for r in between if r["area_low"] <= r["surface"]]
    named = ", ".join(f"{r['fitted']} on {r['on']} ({r['surface_by']} {r['surface']:.2f})" for r in below)
    text = (
        f"on {len(between) - len(below)} of {len(between)} pairs of two sources the area is above what a surface alone "
        "gives"
    )
    return f"{text}; not on {named}." if below else f"{text}."


def of_formats(rows: Sequence[Mapping[str, Any]], decided: Mapping[str, str]) -> str:
    """Say for system prompts and for templates what the claims on formats say.

    >>> rows = [{"format": "own", "kind": "own"}, {"format": "a", "kind": "template"}]
    >>> told = of_formats(rows, {"separates-a": "HOLDS", "direction-a": "REFUTED", "sites-a": "NOT SHOWN"})
    >>> for part in told.split("; "):
    ...     print(part)
    templates (1): the direction is shown to stay under 0, refuted under 1, the sites under 0 and 0
    the own format's direction separates the prompts of 1 format within the margin.
    """
    parts = []
    for kind in dict.fromkeys(r["kind"] for r in rows):
        names = [r["format"] for r in rows if r["kind"] == kind and f"direction-{r['format']}" in decided]
        if names:
            counts = [
                sum(decided[f"{what}-{name}"].startswith(verdict) for name in names)
                for what in ("direction", "sites")
                for verdict in (HOLDS, REFUTED)
            ]
            parts.append(
                f"{kind}s ({len(names)}): the direction is shown to stay under {counts[0]}, refuted under {counts[1]}, "
                f"the sites under {counts[2]} and {counts[3]}"
            )
    kept = sum(v.startswith(HOLDS) for key, v in decided.items() if key.startswith("separates-"))
    parts.append(
        f"the own format's direction separates the prompts of {kept} format{'' if kept == 1 else 's'} within the margin"
    )
    return f"{'; '.join(parts)}."


SENTENCES: tuple[Callable[[Published], Said | None], ...] = (
    sites, published_methods, prompts, elsewhere, control, norms,
)  # fmt: skip


def _named(p: Published, start: str) -> Claims:
    return {key: claim for key, claim in p.claims().items() if key.startswith(start)}


def _with(claims: Claims, verdict: str) -> Claims:
    return {key: claim for key, claim in claims.items() if claim.verdict.startswith(verdict)}


def _rival(key: str) -> str:
    """Return the rival of a claim's id in words.

    >>> _rival("sign-above-middle-half-24"), _rival("sign-score-random")
    ('the middle half, 24 sites', 'random sites')
    """
    rule, _, count = key.removeprefix(SITES).removeprefix(SCORES).rpartition("-")
    return f"{RIVALS.get(rule, rule)}, {count} sites" if rule else f"{count} sites"


def _rows(claims: Claims) -> str:
    return "; ".join(f"`{key}` {c.verdict.lower()}, {measured(c)}" for key, c in claims.items())
