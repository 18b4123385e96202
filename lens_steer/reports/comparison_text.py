"""The texts of a comparison: tables, the figures' data, and a page of answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lens_steer._display import withheld
from lens_steer._io import tables
from lens_steer.data import Contrast
from lens_steer.evaluation import cells
from lens_steer.evaluation.comparison import AT_EQUAL_KL, REFERENCE, Comparison
from lens_steer.evaluation.conditions import ALL, EARLY, LATE, NONE, RANDOM_PLANE, RANDOM_SITES, has_angle
from lens_steer.evaluation.control_bands import Band
from lens_steer.evaluation.harmonics import HarmonicFit
from lens_steer.evaluation.selection import Setting
from lens_steer.figures.comparison import harmonic_drawing
from lens_steer.figures.core import Drawing
from lens_steer.figures.stability import drawing as stability_drawing
from lens_steer.figures.sweeps import COHERENCE, by_value
from lens_steer.geometry.stability import Stability
from lens_steer.stats.estimates import Estimate, percent, points
from lens_steer.steer.method_table import METHODS, turning_methods

RATES = ("positive_right", "negative_right", "negative_refused", "capable")
NUMBERS = {"perplexity_ref": "perplexity", "violation_share": "share above 2", "ngram_repetition": "4-gram repetition"}
GRADED = ("harmful: complied", "harmless: right", "harmless: refused", "tasks right")
UNGRADED = ("harmful: answered", "harmless: answered", *GRADED[2:])  # where no ground truth grades the answers
LEGEND = (
    "Chosen on select, measured on report: percent and means with 95 % intervals. Last column: points of "
    "{right}, less `{reference}`'s on the same prompts, with an interval that "
    "holds at 95 % for all {n} rows together; **bold** where it excludes 0. \\*: no setting keeps to the "
    "constraints ({constraints}), and the one with the best objective ({objective}) stands here. †: no "
    "setting does better on select than no steering, so that none is chosen; it counts as no steering. Tried: settings "
    "on select, {refine}."
)
BANDS = (
    " Rows of draws: median and range over the draws, `{reference}` at its choice with its plane, its sites or "
    "its labels put wrong; their last column is its rank among them, "
    "(1 + draws with at least as many {right}) / (1 + draws). No draw had a choice of its own."
)
CELLS = (
    " In round brackets: a rate by cell of prompts, where the intervals of two cells do not overlap (`by_cell.csv`)."
)
CLUSTERS = " The intervals account for clusters: {prompts} {side} prompts are in {clusters}."
NO_DRAWS = "No controls were run in draws: how far chance alone comes beside `{reference}` is not known."
LAYERS = (REFERENCE, EARLY, LATE, ALL, RANDOM_SITES)
EQUAL_RATES = ("positive_right", "negative_right", "capable")
EQUAL_HEADS = ("method", "at", "KL", "harmful: complied", "harmless: right", "tasks right", "perplexity")
ON_PAGE = 3  # the number of prompts of each class on the page of answers
DOTS = ("positive_right", "negative_right", "negative_refused", "capable", "perplexity_ref")


def heads(found: Comparison) -> list[str]:
    """Return the heads of the main table.

    Where no ground truth grades, an answer counts as answered if it is neither refused nor degenerate.
    """
    rates = GRADED if found.graded else UNGRADED
    return ["condition", "chosen", "tried", *rates, *NUMBERS.values(), f"{rates[0].split(': ')[1]}, less {REFERENCE}"]


def legend(found: Comparison) -> str:
    """Explain the numbers and the marks of the main table."""
    rates = GRADED if found.graded else UNGRADED
    constraints = ", ".join(found.constraints) or "none"
    named = {"right": f"'{rates[0]}'", "reference": REFERENCE}
    refine = (
        "the grid, and by bisection beside the best ones as many more as make the same number for each condition with "
        "a parameter"
        if found.refine
        else "the grid alone"
    )
    told = LEGEND.format(**named, n=found.n_compared, constraints=constraints, objective=found.objective, refine=refine)
    told += "".join(CLUSTERS.format(side=side, **of) for side, of in cells.counts(found.evaluation.rows).items())
    by_cell = CELLS if any(cells.told(s.by_cell.get(k, {})) for s in found.evaluation.report for k in RATES) else ""
    return told + (BANDS.format(**named) if found.bands else f" {no_draws()}") + by_cell


def no_draws() -> str:
    """Return the sentence for a comparison in which no control ran in draws."""
    return NO_DRAWS.format(reference=REFERENCE)


def markdown(found: Comparison) -> str:
    """Write the main table in Markdown, with its legend below.

    It has one row for each condition, chosen on select and measured on report. A method that could not be run as
    published is named below, with the reason.
    """
    missing = [f"\nNo row `{name}`: {reason}.\n" for name, reason in found.left_out.items()]
    return f"{tables.markdown(heads(found), main_rows(found))}\n{legend(found)}\n{''.join(missing)}"


def main_rows(found: Comparison) -> list[list[str]]:
    """Return the cells of the main table below its heads."""
    made, tied = [], found.at_nothing
    for s in found.evaluation.report:
        choice = found.evaluation.choices[s.condition]
        if s.condition in tied:
            made.append([s.condition, "none †", str(choice.n), *("—" for _ in heads(found)[3:])])
            continue
        gap = found.differences.get(s.condition, {}).get("positive_right")
        rates = [_rate(s, k) for k in RATES]
        numbers = [_number(s.measured.get(k)) for k in NUMBERS]
        last = "—" if gap is None else points(gap)
        made.append(
            [
                s.condition,
                _chosen(s.condition, s, met=choice.met),
                str(choice.n),
                *rates,
                *numbers,
                last,
            ]
        )
        if s.condition == REFERENCE:
            made += band_rows(found)
    return made


def band_rows(found: Comparison) -> list[list[str]]:
    """Return the rows of the controls, which stand below the reference's row in the main table.

    They hold a control's median and range over its draws, and the reference's rank among them.
    """
    by_control: dict[str, dict[str, Band]] = {}
    for quantity, by in found.bands.items():
        for control, one in by.items():
            by_control.setdefault(control, {})[quantity] = one
    made = []
    for control, of in by_control.items():
        cells = [*(_range(of.get(k), 100.0, "%.0f") for k in RATES), *(_range(of.get(k), 1.0, "%.2f") for k in NUMBERS)]
        rank = "—" if "positive_right" not in of else f"rank {of['positive_right'].p_at_least:.2g}"
        made.append([f"{REFERENCE}: {control}", f"{max(b.n for b in of.values())} draws", "—", *cells, rank])
    return made


def _range(of: Band | None, scale: float, form: str) -> str:
    """Format the median and the range of a band; a dash without one.

    >>> from lens_steer.evaluation.control_bands import band
    >>> _range(band([0.0, 0.25, 0.5], 1.0), 100.0, "%.0f")
    '25 (0 to 50)'
    """
    if of is None:
        return "—"
    median, least, most = (form % (scale * v) for v in (of.median, of.minimum, of.maximum))
    return f"{median} ({least} to {most})"


def equal_kl_markdown(found: Comparison) -> str:
    """Write the table of methods at the reference's divergence on harmless prompts.

    A method that cannot be matched has a reason in place of numbers.
    """
    if REFERENCE in found.at_nothing:
        return f"Nothing is matched: no setting of {REFERENCE} does better on select than no steering.\n"
    made = [_kl_row(REFERENCE, found.evaluation.reported(REFERENCE), found.target)]
    by_name = {s.condition: s for s in found.matched}
    for condition, matched in found.matches.items():
        s = by_name.get(f"{condition}{AT_EQUAL_KL}")
        made.append(
            [condition, matched.reason, *("—" for _ in EQUAL_HEADS[2:])]
            if s is None
            else _kl_row(condition, s, float(matched.kl or 0))
        )
    told = f"Divergence matched: {found.target:.3g} nats a token, {REFERENCE}'s at its choice."
    return f"{told}\n\n{tables.markdown(EQUAL_HEADS, made)}"


def _kl_row(name: str, s: Setting, kl: float) -> list[str]:
    shares = (_rate(s, k) for k in EQUAL_RATES)
    return [name, _chosen(name, s, met=True), f"{kl:.3g}", *shares, _number(s.measured.get("perplexity_ref"))]


def latex(found: Comparison) -> str:
    r"""Write the main table for a paper in LaTeX, which needs the package booktabs."""
    titles = heads(found)
    caption = tables.escaped(legend(found).replace("**", "").replace("\\*", "*").replace("`", ""))
    cells = [[tables.escaped(c.replace("**", "")).replace(" *", "$^{*}$") for c in row] for row in main_rows(found)]
    table = tables.tabular("ll" + "r" * (len(titles) - 2), [tables.escaped(t) for t in titles], cells)
    return "% needs \\usepackage{booktabs}\n% " + f"{caption}\n{table}"


def qualitative(found: Comparison, contrast: Contrast, *, show_answers: bool = False) -> str:
    """Write the first prompts of each class of the report split, each with its answer under every condition.

    Without a ground truth, harmful prompts and the answers to them are replaced by hashes unless ``show_answers`` is
    set.

    Args:
        found: The comparison.
        contrast: The prompts of the report split.
        show_answers: Whether to show the texts of harmful prompts and their answers without a ground truth.
    """
    parts = [
        "# The same prompts under every condition\n",
        "The first prompts of the report split, not picked; every condition at its choice.\n",
    ]
    for side in ("positive", "negative"):
        hidden = side == "positive" and not found.graded and not show_answers
        for i, prompt in enumerate(getattr(contrast, side)[:ON_PAGE]):
            answers = [
                (row["condition"], str(row["grade"]), withheld(str(row["text"])) if hidden else str(row["text"]))
                for row in found.evaluation.rows
                if row["side"] == side and row["prompt"] == i
            ]
            parts += [
                f"## {'Harmful' if side == 'positive' else 'Harmless'}: "
                f"{withheld(prompt.text) if hidden else prompt.text}\n",
                tables.markdown(("condition", "grade", "answer"), answers),
            ]
    return "\n".join(parts)


def drawings(found: Comparison, stability: Stability | None = None) -> dict[str, Drawing]:
    """Return the data of every figure of the comparison, by file name."""
    select, report = found.evaluation.select, found.evaluation.report
    chosen = {name: c.value for name, c in found.evaluation.choices.items()}
    n = next(s for s in select if s.condition == NONE).measured["positive_right"].n
    angular = [m for m in turning_methods() if any(s.condition == m for s in select)]
    made = {
        "polar_compliance": by_value(
            "polar", select, [*angular, RANDOM_PLANE], ("positive_right", "negative_refused"), graded=found.graded
        ),
        "polar_perplexity": by_value(
            "polar", select, angular, ("perplexity_ref", "perplexity_self"), graded=found.graded
        ),
        "coherence_by_angle": by_value("coherence", select, angular, COHERENCE, graded=found.graded),
        "class_swap": by_value(
            "class_swap", select, [m for m in angular if METHODS[m].compared], None, chosen, graded=found.graded
        ),
        "method_comparison": _dots(report, [s.condition for s in report], found),
        "layer_choice": _dots(report, [c for c in LAYERS if any(s.condition == c for s in report)], found),
        "compliance_at_kl": _equal_kl(found, n),
        "harmonic_response": harmonic_drawing(
            found.responses["positive"].fit.angles,
            {side: r.scores[:, list(r.fit.columns)] for side, r in found.responses.items()},
        ),
    }
    if stability is not None:
        made["selection_stability"] = stability_drawing(stability)
    return made


def _dots(report: Sequence[Setting], conditions: Sequence[str], found: Comparison) -> Drawing:
    quantities = [q for q in DOTS if any(q in s.measured for s in report)]
    met = {name: int(choice.met) for name, choice in found.evaluation.choices.items()}
    rows = [
        {"label": _label(s), "quantity": q, "mean": e.value, "low": e.low, "high": e.high, "met": met[s.condition]}
        for s in report
        if s.condition in conditions
        for q in quantities
        if (e := s.measured.get(q)) is not None
    ]
    base = next(s for s in report if s.condition == NONE).measured
    notes = {
        "quantities": quantities,
        "base": {q: base[q].value for q in quantities},
        "n": {q: base[q].n for q in quantities},
        "graded": found.graded,
    }
    return Drawing.of("method_dots", rows, notes)


def _equal_kl(found: Comparison, n: int) -> Drawing:
    kl = {(c.grid.condition, c.grid.variant, v): k for c in found.curves for v, k in zip(c.values, c.kl, strict=True)}
    names = ("condition", "variant", "value", "kl", "positive_right")
    rows: list[dict[str, Any]] = [
        dict(zip(names, (*key, kl[key], s.measured["positive_right"].value), strict=True))
        for s in found.evaluation.select
        if s.value is not None and (key := (s.condition, s.variant, s.value)) in kl
    ]
    return Drawing.of("equal_kl", rows, {"target": found.target, "n": n, "graded": found.graded}, names=names)


def harmonic_summary(fit: HarmonicFit) -> dict[str, float]:
    """Summarise a harmonic fit over prompts.

    Returns:
        Medians of R² and amplitude, the lowest R², the phase of the mean in degrees, and the agreement of the phases,
        which is the length of the mean unit vector, from 0 to 1 (all the same).
    """
    mean = np.exp(1j * np.deg2rad(fit.phase)).mean()
    return {
        "median_r2": float(np.median(fit.r2)),
        "lowest_r2": float(fit.r2.min()),
        "median_amplitude": float(np.median(fit.amplitude)),
        "phase_of_mean": float(np.rad2deg(np.angle(mean)) % 360),
        "phase_agreement": float(np.abs(mean)),
    }


def harmonic_csv(found: Comparison) -> str:
    """Write the harmonic fits as CSV, with one row for each prompt of the report split.

    A row holds the class, and mean, amplitude and phase with intervals, and R².
    """
    return tables.csv_records([{"side": side, **row} for side, r in found.responses.items() for row in r.fit.rows()])


def _label(s: Setting) -> str:
    return f"{s.condition}, {_value(s.condition, s)}" if s.value is not None else s.condition


def _chosen(condition: str, s: Setting, *, met: bool) -> str:
    where = f" at {s.variant}" if s.variant else ""
    return ("—" if s.value is None else f"{_value(condition, s)}{where}") + ("" if met else " *")


def _value(condition: str, s: Setting) -> str:
    return f"{s.value:.8g}°" if has_angle(condition) else f"{s.value:.8g}"


def _rate(s: Setting, name: str) -> str:
    """Write a rate in percent, and its rates by cell where the cells disagree."""
    return percent(s.measured.get(name)) + cells.told(s.by_cell.get(name, {}))


def _number(e: Estimate | None) -> str:
    return "—" if e is None else f"{e:.2f}"
