"""What changed in the verdicts, and why: those of before there were four, beside those of the committed records.

``figures/verdicts_before.csv`` holds the verdict of every claim at commit 0297168, the last one with two verdicts
(``HOLDS`` and ``FAILS``). Of a claim that was not kept, or is new, nothing is said here. An id stays with its
experiment: what a serving engine's cache hands over has ids of its own (``engine-cache-…``), and ``fresh-cache-…`` is
what it was, a prompt left wholly at 0°. A comparison with a control that is drawn at random is the same question asked
of many draws in place of one, and is told as such.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyses import tables
from lens_steer._io.tables import markdown
from lens_steer.studies.claim import Claim
from lens_steer.studies.verdicts import EXCLUDED, HOLDS, INSENSITIVE, NOT_SHOWN, REFUTED, TIED

BEFORE = "verdicts_before.csv"
FAILS = "FAILS"
AGAIN = "measured again under the rules of today"
NOT_RATES = ("surprise",)  # in the id of a claim whose outcome is not 0 or 1
# Why a verdict is another one, by the verdict before and after; the first that fits.
WHY = (
    ("", TIED, "its setting was a tie at nothing on select, and no value is taken from one"),
    ("", INSENSITIVE, "the positive control, chosen on select, shows no effect either"),
    (FAILS, REFUTED, "a counterexample, or the whole interval lies on the other side of the criterion"),
    (FAILS, EXCLUDED, "an effect of the smallest size of interest is excluded, no more and no less"),
    (FAILS, NOT_SHOWN, "the interval holds the criterion and effects of interest: nothing is shown either way"),
    (FAILS, HOLDS, "the positive control is chosen on select, as everything else is"),
    ("REPORTED", "", "it had no verdict, and has a criterion and an interval"),
)


@dataclass(frozen=True)
class Change:
    """A claim's verdicts before and after, with the interval and the witness of the one after."""

    study: str
    model: str
    id: str
    before: str
    after: str
    interval: tuple[float, float] | None = None
    witness: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def why(self) -> str:
        """Why the verdict is another one; how it was measured may have changed with it."""
        tied = self.after == TIED
        if "draws" in self.witness and not tied:
            return self._of_draws()
        if self.before == HOLDS and self.after == NOT_SHOWN and self.interval is not None:
            return self._not_shown()
        return next((t for old, new, t in WHY if self.before.startswith(old) and self.after.startswith(new)), AGAIN)

    def _not_shown(self) -> str:
        """Why a claim that held is not shown, by its interval."""
        assert self.interval is not None
        if not self.interval[0] <= 0 <= self.interval[1]:
            return AGAIN
        if any(name in self.id for name in NOT_RATES):
            return "measured again, with clusters of prompts, 0 is inside the interval"
        return "by a score interval for paired rates, in place of a bootstrap of 0/1 outcomes, 0 is inside"

    def _of_draws(self) -> str:
        """Why a verdict on a control that is drawn at random is another one: many draws, and a rank among them."""
        n = self.witness["draws"]
        if self.after == INSENSITIVE:
            return f"{n} draws in place of one; the positive control, chosen on select, shows no effect either"
        if self.after != NOT_SHOWN:
            return f"{n} draws in place of one: what the interval and the rank say together"
        if str(self.witness.get("by_interval_alone", NOT_SHOWN)) == NOT_SHOWN:
            return f"{n} draws in place of one, with an interval over prompts and draws: 0 is inside"
        return f"{n} draws in place of one: the rank among them does not reach p = 0.05, whatever the interval"


def changes(figures: Path) -> list[Change]:
    """Every claim that had a verdict before and has one now."""
    with (figures / BEFORE).open(newline="", encoding="utf-8") as stream:
        before = list(csv.DictReader(stream))
    now = {
        (study, model, c.id): c
        for study, model in dict.fromkeys((row["study"], row["model"]) for row in before)
        for c in _claims(figures, study, model)
    }
    return [
        Change(*key, row["verdict"], now[key].verdict, now[key].interval, now[key].witness)
        for row in before
        if (key := (row["study"], row["model"], row["id"])) in now
    ]


def counts_table(found: Sequence[Change]) -> str:
    """How many claims went from which verdict to which, by study, and why."""
    counts = Counter((c.before, _short(c.after), c.study, c.why) for c in found if c.changed)
    kinds = dict.fromkeys((before, after, why) for before, after, _, why in sorted(counts))
    studies = list(dict.fromkeys(c.study for c in found))
    rows = [
        (before, after, *(str(counts[before, after, study, why]) for study in studies), why)
        for before, after, why in kinds
    ]
    same = [str(sum(not c.changed for c in found if c.study == study)) for study in studies]
    return markdown(("before", "now", *studies, "why"), [*rows, ("the same", "", *same, "")])


def reversed_table(found: Sequence[Change]) -> str:
    """The claims that held and do not, or did not and do: one row a claim, one column a model."""
    models = list(dict.fromkeys(c.model for c in found))
    by_claim: dict[tuple[str, str], dict[str, Change]] = {}
    for c in found:
        if c.changed and HOLDS in (c.before, c.after):
            by_claim.setdefault((c.study, c.id), {})[c.model] = c
    rows = [(f"{study}: {key}", *(_arrow(by.get(model)) for model in models)) for (study, key), by in by_claim.items()]
    return markdown(("claim", *models), rows)


def _arrow(c: Change | None) -> str:
    return "" if c is None else f"{c.before} → {c.after}"


def _short(verdict: str) -> str:
    """The verdict without the size of what is excluded."""
    return EXCLUDED + " d" if verdict.startswith(EXCLUDED) else verdict


def _claims(figures: Path, study: str, model: str) -> list[Claim]:
    folder = figures / study / model if study != "propositions" else figures / ("" if model == "qwen2" else model)
    rows = json.loads((folder / f"{study}.json").read_text(encoding="utf-8"))["claims"]
    return [Claim.of(row) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help=f"folder with the records and {BEFORE}")
    tables.add_page(parser)
    args = parser.parse_args()
    found = changes(args.out)
    tables.write("changes", counts_table(found), args.out, args.page)
    tables.write("reversed", reversed_table(found), args.out, args.page)


if __name__ == "__main__":
    main()
