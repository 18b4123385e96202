"""What practitioners should do: one sentence a question, each decided by claims of the published records, and each with
the rows that carry it. Where the records do not decide, the sentence says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analyses.real.records import Published, verdict_of
from lens_steer.stats.estimates import percent
from lens_steer.studies.angle_transfer.claims import SHARE
from lens_steer.studies.claim import Claim, measured
from lens_steer.studies.transfer.claims import FEW
from lens_steer.studies.verdicts import HOLDS, INSENSITIVE, REFUTED

SITES, SCORES = "sign-above-", "sign-score-"
RIVALS = {
    "official": "the released code's rule", "centred": "signs about the midpoint", "effect": "the largest Cohen's d",
    "auroc": "the largest area", "middle-half": "the middle half", "all": "all sites",
}  # fmt: skip
Claims = dict[str, Claim]


def practice(found: Sequence[Published]) -> str:
    """Return the sentences as a numbered list, each of the first model that has the records for it."""
    made = [next((text for p in found if (text := say(p))), None) for say in SENTENCES]
    lines = [f"{i}. {text}\n" for i, text in enumerate((t for t in made if t), start=1)]
    return "".join(lines) or "No study has been published yet.\n"


def sites(p: Published) -> str | None:
    """Say which sites do more than those of the published rule, under one budget of side effects."""
    answers, scores = _named(p, SITES), _named(p, SCORES)
    if not answers:
        return None
    every = answers | scores
    decided = {key: c for key, c in every.items() if c.verdict.startswith((HOLDS, REFUTED))}
    open_ = {key: c for key, c in every.items() if key not in decided}
    if _with(every, REFUTED):
        advice = "Choose sites by what they do, and not by opposite signs alone"
    elif len(_with(every, HOLDS)) == len(every):
        advice = "Opposite signs choose the sites well"
    else:
        advice = "Whether opposite signs choose the sites well is open"
    unable = any(c.verdict.startswith(INSENSITIVE) for c in answers.values())
    more = " (the positive control shows too little for answers)" if unable else ""
    told = "; ".join(
        f"{what}, {_against(claims)}"
        for what, claims in (("by answers freed", answers), ("by the fall of the refusal score", scores))
        if claims
    )
    return (
        f"{advice}: under the same budget of side effects, {told}{more} ({p.head}, each claim at its own level and not "
        f"jointly; {_rows(decided) or 'none is decided'}; the other claims on sites are below, such as "
        f"`{next(iter(open_ or every))}`)."
    )


def _against(claims: Claims) -> str:
    """Return what a rule does against its rivals, in words, with all rivals in one of three lists."""
    better, worse = _with(claims, HOLDS), _with(claims, REFUTED)
    open_ = {k: c for k, c in claims.items() if k not in better and k not in worse}
    parts = [
        f"{words} {', '.join(map(_rival, of))}"
        for words, of in (("they do less than", worse), ("more than", better), ("no shown difference from", open_))
        if of
    ]
    return ", ".join(parts)


def published_methods(p: Published) -> str | None:
    """Say whether Selective Steering frees more answers than Angular Steering as published."""
    of = _named(p, "ss-above-standard-everywhere")
    claim = of.get("ss-above-standard-everywhere")
    if claim is None:
        return None
    word = {HOLDS: "frees more answers than", REFUTED: "frees fewer answers than"}.get(
        claim.verdict, "is not shown to free more answers than"
    )
    what = "Angular Steering as published, each as chosen on *select*"
    return f"Selective Steering {word} {what} ({p.head}, {_rows(of)})."


def prompts(p: Published) -> str | None:
    """Say whether few prompts give a direction, and whether prompts give the sites at all."""
    direction, whole = _named(p, "few-direction-"), _named(p, "same-sites-")
    if not direction or not whole:
        return None
    enough, same, other = _with(direction, HOLDS), _with(whole, HOLDS), _with(whole, REFUTED)
    advice = (
        "Name the sites of the published rule: they are those that other prompts give"
        if len(same) == len(whole)
        else "Give a list of sites with its agreement between halves of the prompts: by the published rule two halves "
        f"are shown to have the same sites on {len(same)} of {len(whole)} sources, and refuted to on {len(other)}"
    )
    return (
        f"{advice}; {FEW} prompts of a class separate other prompts about as well as a whole half does on "
        f"{len(enough)} of {len(direction)} ({p.head}, {_rows(whole | direction)})."
    )


def elsewhere(p: Published) -> str | None:
    """Say whether an angle, and whether all of steering, holds on prompts of another source."""
    record, angle, whole = (
        p.record("angle_transfer", "angle_transfer"),
        _named(p, "angle-from-"),
        _named(p, "steering-from-"),
    )
    if record is None or not angle or not whole:
        return None
    kept, every, lost = _with(angle, HOLDS), _with(whole, HOLDS), _with(whole, REFUTED)
    own = _named(p, "beyond-random-")
    seen = {key.removeprefix("beyond-random-") for key in _with(own, HOLDS)}
    between = [r for r in record["pairs"] if r["fitted"] != r["on"] and r["on"] in seen]
    shares = sorted(r["falls"] / r["falls_own"] for r in between)
    advice = (
        "What was set on one source of prompts can be used on another"
        if len(every) == len(whole)
        else "Tell on which prompts direction, sites and angle were set, and try others"
    )
    ends = f", from {shares[0]:.2f} to {shares[-1]:.1f} times as much" if shares else ""
    return (
        f"{advice}: all three from another source lower the refusal score by at least {SHARE:g} of what the source's "
        f"own do on {len(every)} of {len(whole)} pairs, refuted on {len(lost)}{ends}; the angle alone, with its "
        f"direction and sites, keeps {SHARE:g} of what one chosen anew does on {len(kept)} of {len(angle)}; on its own "
        f"prompts steering is shown to do more than random planes on {len(_with(own, HOLDS))} of {len(own)} "
        f"({p.head}, each claim at its own level and not jointly; refuted: {_rows(lost) or 'none'}; the other claims "
        f"on angles are below, such as `{next(iter(whole))}`)."
    )


def control(p: Published) -> str | None:
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
    row = f"({p.head}, *Answers*, `{ablation['condition']}`: {rates[0]} % answered without it, {rates[1]} % with it)"
    if seen == {True}:
        return f"Run directional ablation beside every method: it works here, so that a null can be read {row}."
    return f"Read no null from so few prompts: directional ablation is not shown to free answers here either {row}."


def norms(p: Published) -> str | None:
    """Say whether the norm is kept at the steered site, and in what later blocks make of it."""
    of = {k: c for k, c in p.claims().items() if k in ("norm-recorded-SS", "norm-downstream-SS")}
    if len(of) < 2:
        return None
    here, later = (of[k].verdict.startswith(HOLDS) for k in ("norm-recorded-SS", "norm-downstream-SS"))
    advice = {
        (True, True): "Selective Steering keeps the norm at its sites and in later blocks",
        (True, False): "Claim norm preservation for the steered vector alone: it is kept there and not in later blocks",
    }.get((here, later), "Do not claim norm preservation: it is not kept at the steered site in this arithmetic")
    return f"{advice} ({p.head}, {_rows(of)})."


def of_formats(rows: Sequence[Mapping[str, Any]], decided: Mapping[str, str]) -> str:
    """Say for system prompts and for templates what the claims on formats say.

    >>> rows = [{"format": "own", "kind": "own"}, {"format": "a", "kind": "template"}]
    >>> told = of_formats(rows, {"separates-a": "HOLDS", "direction-a": "REFUTED", "sites-a": "NOT SHOWN"})
    >>> for part in told.split("; "):
    ...     print(part)
    of 1 template, the direction is shown to stay for 0 and refuted to for 1, the sites for 0 and 0
    in 1 format the own format's direction is shown to separate, each within its margin.
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
                f"of {_counted(len(names), kind)}, the direction is shown to stay for {counts[0]} and "
                f"refuted to for {counts[1]}, the sites for {counts[2]} and {counts[3]}"
            )
    kept = sum(v.startswith(HOLDS) for key, v in decided.items() if key.startswith("separates-"))
    parts.append(
        f"in {_counted(kept, 'format')} the own format's direction is shown to separate, each within its margin"
    )
    return f"{'; '.join(parts)}."


def _counted(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "s")


SENTENCES: tuple[Callable[[Published], str | None], ...] = (
    sites, published_methods, prompts, elsewhere, control, norms,
)  # fmt: skip


def _named(p: Published, start: str) -> Claims:
    return {key: claim for key, claim in p.claims().items() if key.startswith(start)}


def _with(claims: Claims, verdict: str) -> Claims:
    return {key: claim for key, claim in claims.items() if claim.verdict.startswith(verdict)}


def _rival(key: str) -> str:
    """Return the rival of a claim's id in words.

    >>> _rival("sign-above-middle-half-24"), _rival("sign-score-random")
    ('the middle half (24 sites)', 'random sites')
    """
    rule, _, count = key.removeprefix(SITES).removeprefix(SCORES).rpartition("-")
    return f"{RIVALS.get(rule, rule)} ({count} sites)" if rule else f"{count} sites"


def _rows(claims: Claims) -> str:
    return "; ".join(f"`{key}` {verdict_of(c).lower()}, {measured(c)}" for key, c in claims.items())
