"""What practitioners should do: at most five sentences, each decided by a claim or a count of the published records,
and each with the row that carries it. Where the records do not decide, the sentence says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from analyses.real.records import Published
from lens_steer.stats.estimates import percent
from lens_steer.studies.claim import Claim, measured
from lens_steer.studies.transfer.claims import FEW
from lens_steer.studies.verdicts import HOLDS, REFUTED

SITES = "sign-above-"


def practice(found: Sequence[Published]) -> str:
    """Return the sentences as a numbered list, those of the first model that has the records for each."""
    made = [next((text for p in found if (text := say(p))), None) for say in SENTENCES]
    lines = [f"{i}. {text}\n" for i, text in enumerate((t for t in made if t), start=1)]
    return "".join(lines) or "No study has been published yet.\n"


def prompts(p: Published) -> str | None:
    """Say whether few prompts give a direction, and the sites."""
    of = p.claims()
    by_kind = {kind: {k: c for k, c in of.items() if k.startswith(kind)} for kind in ("few-direction-", "few-sites-")}
    direction, where = by_kind.values()
    if not direction or len(direction) != len(where):
        return None
    enough, found = (sum(c.verdict == HOLDS for c in claims.values()) for claims in (direction, where))
    n = len(direction)
    advice = (
        f"Take more than {FEW} prompts of a class" if enough < n
        else f"{FEW} prompts of a class are enough" if found == n
        else f"Trust a direction from {FEW} prompts of a class, and no list of sites"
    )  # fmt: skip
    told = "; ".join(f"`{key}` {measured(c)}" for key, c in where.items())
    return (
        f"{advice}: the direction separates held-out prompts as that of all does on {enough} of {n} sources, the "
        f"published rule's sites are those that other prompts give on {found} of {n} ({p.head}, median Jaccard index: "
        f"{told})."
    )


def control(p: Published) -> str | None:
    """Say what the positive control does, which any claim of no effect needs beside it."""
    record = p.record("site_choice", "site_choice")
    if record is None:
        return None
    by_name = {s["condition"].split(" (")[0]: s for s in record["settings"] if not s["variant"]}
    plain, ablation = by_name.get("no steering"), by_name.get("ablation-everywhere")
    if plain is None or ablation is None:
        return None
    ends = ("", "_low", "_high")
    rates = [percent(*(s[f"positive_answered{end}"] for end in ends)) for s in (plain, ablation)]
    shown = ablation["positive_answered_low"] > plain["positive_answered_high"]
    row = f"({p.head}, *Answers*: harmful prompts answered {rates[0]} without steering, {rates[1]} under ablation)"
    if shown:
        return f"Run Arditi et al.'s ablation beside every method: it works here, so that a null can be read {row}."
    return f"Read no null from this model: Arditi et al.'s ablation is not shown to work on it either {row}."


def sites(p: Published) -> str | None:
    """Say which sites free more answers under one budget."""
    of = {k: c for k, c in p.claims().items() if k.startswith(SITES)}
    if not of:
        return None
    better = {k: c for k, c in of.items() if c.verdict.startswith(REFUTED)}
    worse = {k: c for k, c in of.items() if c.verdict.startswith(HOLDS)}
    if better:
        key, claim = min(better.items(), key=lambda item: float(item[1].value or 0))
        return (
            f"Do not choose sites by opposite signs alone: {_rival(key)} frees more answers under the same budget of "
            f"side effects ({p.head}, `{key}`: {measured(claim)}, n = {claim.n})."
        )
    if len(worse) == len(of):
        return f"Choose sites by the published rule: it frees more answers than every rival ({_all(p, of)})."
    return (
        "Nothing here says that the published rule chooses sites better or worse than effect sizes, the middle half or "
        f"all sites under the same budget of side effects ({_all(p, of)})."
    )


def norms(p: Published) -> str | None:
    """Say what rounding does to the norm claims on the recorded activations."""
    of = p.claims()
    kept, lost = of.get("norm-recorded-SS"), of.get("norm-downstream-SS")
    if kept is None or lost is None:
        return None
    here = "holds" if kept.verdict.startswith(HOLDS) else "does not hold"
    later = "holds there too" if lost.verdict.startswith(HOLDS) else "does not hold for what later blocks make of it"
    return (
        f"Claim norm preservation for the steered vector alone: it {here} at the site and {later} ({p.head}, "
        f"`norm-recorded-SS`: {measured(kept)}; `norm-downstream-SS`: {measured(lost)})."
    )


def published_methods(p: Published) -> str | None:
    """Say whether the paper's headline comparison comes out."""
    claims = {k: c for k, c in p.claims().items() if k == "ss-above-standard-everywhere"}
    if not claims:
        return None
    key, claim = next(iter(claims.items()))
    word = {HOLDS: "does", REFUTED: "does the reverse"}.get(claim.verdict, "is not shown to")
    return (
        f"SS at its sites {word} free more answers than Angular Steering as published, each at its best setting within "
        f"the bounds ({p.head}, `{key}`: {claim.verdict}, {measured(claim)}, n = {claim.n})."
    )


SENTENCES: tuple[Callable[[Published], str | None], ...] = (sites, published_methods, prompts, control, norms)


def _rival(key: str) -> str:
    """Return the rival of a claim's id in words.

    >>> _rival("sign-above-middle-half-24"), _rival("sign-above-random")
    ('middle half (24 sites)', 'random')
    """
    rule, _, count = key.removeprefix(SITES).rpartition("-")
    return f"{rule.replace('-', ' ')} ({count} sites)" if rule else count


def _all(p: Published, claims: Mapping[str, Claim]) -> str:
    told = "; ".join(f"`{key}` {c.verdict.lower()}, {measured(c)}" for key, c in claims.items())
    return f"{p.head}, {told}"
