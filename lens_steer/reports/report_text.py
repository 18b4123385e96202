"""The text of ``report.md``, which presents the results of a report as a short paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_steer._io import tables
from lens_steer.evaluation import cells
from lens_steer.figures.outcomes import STYLES
from lens_steer.stats.estimates import percent

LABELS = {grade: label for grade, (*_, label) in STYLES.items()}
BAND_HEADS = (
    "control",
    "class",
    "draws",
    "median [least, greatest]",
    "rank of the method, (1 + draws at least as high) / (1 + draws)",
)


def write_markdown(numbers: dict[str, Any], examples: Sequence[dict[str, str]], summary: dict[str, Any]) -> str:
    """Write the report's text from its numbers, its example generations and the calibration's geometry."""
    n, direction = numbers, numbers["direction"]
    parts = [
        f"# Activation steering of `{n['model']}` on `{n['contrast']}`",
        "",
        _what(n, direction),
        "## The direction across depth",
        _direction(direction, summary),
        "![Cosines of candidate directions](cosine_matrix.png) ![Mean cosine](mean_cosine.png)",
        "## Where the classes part",
        _discriminative(direction, summary),
        "![Projections of both classes](class_projections.png) ![Norms of both classes](class_norms.png)"
        + (" ![Membership by site](site_membership.png)" if summary["discriminative"].get("membership") else ""),
        "## The steering plane",
        _plane(direction, summary),
        "![Candidates in the plane](plane_path.png) ![Share in the plane](plane_share.png)",
        "## Norms",
        _norms(n["norms"]),
        "## Steering by rotation",
        _steering(n, examples),
        "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _percent(rate: dict[str, Any] | list[float]) -> str:
    value, low, high = (rate["value"], rate["low"], rate["high"]) if isinstance(rate, dict) else rate
    return percent(value, low, high, unit=" %")


def _what(n: dict[str, Any], d: dict[str, Any]) -> str:
    feature = (
        (
            " Positive prompts are harmful requests, negative ones harmless, in the embedded models' invented world, "
            "whose rules and not ours say which is which "
            "(`lens_steer/organisms/world.py`): harm is in a verb and its object together, in neither alone."
        )
        if n["contrast"] == "organism/refusal"
        else ""
    )
    sizes = ", ".join(f"{split} {a}+{b}" for split, (a, b) in n["n"].items())
    return (
        f"Activations of the last prompt token were recorded at {d['n_sites']} sites of {d['n_blocks']} blocks for "
        f"prompts with and without the feature ({sizes}). Direction, plane and sites come from *fit*, the angle from "
        "*select*, and every number below from *report*, unless it says otherwise. Brackets are 95 % intervals "
        "(Wilson for rates, bootstrap over prompts for means)."
    ) + feature


def _direction(d: dict[str, Any], summary: dict[str, Any]) -> str:
    zero = (
        f" {len(d['zero_candidates'])} candidate is zero ({', '.join(d['zero_candidates'])}) and left out."
        if len(d["zero_candidates"]) == 1
        else (f" {len(d['zero_candidates'])} candidates are zero and left out." if d["zero_candidates"] else "")
    )
    mean = max(v for v in summary["selection"]["mean_cosine"] if v is not None)
    margin = d["selection_margin"]
    small = (
        " The runner-up is so close that which site is selected should not be read as a finding."
        if margin < 0.005
        else ""
    )
    return (
        "Each site's candidate is the unit difference of class means. The one with the highest mean cosine to all, "
        f"{mean:.3f}, is `{d['selected_site']}`, {margin:.4f} above the runner-up.{small}{zero}"
    )


def _discriminative(d: dict[str, Any], summary: dict[str, Any]) -> str:
    if not d["discriminative_sites"]:
        return (
            f"By the {d['rule']} rule no site separates the classes along the selected direction, so there is nothing "
            "that selective steering would steer."
        )
    blocks = ", ".join(map(str, d["discriminative_blocks"]))
    held = d["discriminative_on_held_out"]
    return (
        f"By the {d['rule']} rule, {_by_rule(d['rule'])} at {d['discriminative_sites']} of {d['n_sites']} sites, in "
        f"{len(d['discriminative_blocks'])} of {d['n_blocks']} blocks ({blocks}). On held-out prompts "
        f"{round(held['value'] * held['n'])} of these {held['n']} sites do so again. At the selected site the sign of "
        f"a single prompt's projection is its class's for {_percent(d['held_out_separation']['positive'])} of "
        f"positive and {_percent(d['held_out_separation']['negative'])} of negative prompts."
    ) + _sureness(summary["discriminative"])


def _by_rule(rule: str) -> str:
    """Say in words which condition the classes meet at the sites that a rule selects."""
    return {
        "centred": "the class means lie on opposite sides of the midpoint of all sites' means",
        "effect": "the classes' projections are further apart than the bound on Cohen's d",
        "auroc": "the area under the ROC curve of the classes' projections is above the bound",
    }.get(rule, "the class means lie on opposite sides of zero")


def _sureness(found: dict[str, Any]) -> str:
    """Say how much the set of sites depends on the prompts of the fit split; empty where this was not measured."""
    sure = found.get("sureness")
    if sure is None:
        return ""
    others = ", ".join(f"{rule} {n}" for rule, n in found["n_sites_by_rule"].items())
    caution = "".join(f" **Caution:** {line}." for line in found["cautions"])
    return (
        f" Over bootstrap resamples of the fit prompts {sure['probability_above_0.95']} of {sure['n']} sites are "
        "in this set with a probability above 0.95, "
        f"{sure['probability_below_0.05']} below 0.05, and {sure['between']} between. Sites by rule: {others}.{caution}"
    )


def _plane(d: dict[str, Any], summary: dict[str, Any]) -> str:
    best = summary["plane"].get("best_two_dimensions_centred")
    most = f" (the best plane would hold {percent(best)} %)" if best is not None else ""
    return (
        f"b1 is the selected direction; b2 is the candidates' first principal component ({percent(d['pc_explained'])} "
        f"% of their variance) without its part along b1, of which a length of {d['b2_remainder']:.2f} is left. The "
        f"plane holds {percent(d['share_in_plane'])} % of the candidates' variance{most}. These are properties of the "
        "fit split."
    )


def _norms(norms: dict[str, Any]) -> str:
    if not norms:
        return "No site is steered."
    operators = {"selective (SS)": "selective", "standard (SAS)": "standard", "adaptive (AAS)": "adaptive"}
    rows = [
        (name, *(f"{norms[key + dtype]:.1e}" for dtype in ("_float32", "_float64"))) for name, key in operators.items()
    ]
    table = tables.markdown(("operator", "float32 arithmetic", "float64 arithmetic"), rows)
    return (
        f"Largest relative change of length over {norms['n_vectors']} held-out activations at the steered sites "
        "and twelve angles:\n\n"
        f"{table}\n"
        "The float64 column is what is left by a basis that is kept in float32. All three operators keep the "
        "length to rounding: "
        "what separates them is not the norm at the hook."
    )


def _steering(n: dict[str, Any], examples: Sequence[dict[str, str]]) -> str:
    grades = list(n["outcomes"][0]["counts"])
    besides = ["perplexity", "cut off"] if "degenerate_above" in n else []
    heads = ["condition", "angle", "class", *(LABELS[g] for g in grades), *besides]
    best = n["best_angle"]
    if best is None:
        return "Nothing was steered."
    shown = [
        o for o in n["outcomes"] if o["condition"] in ("no steering", "steering plane") and o["angle"] in (None, best)
    ]
    rows = []
    for o in shown:
        angle = "" if o["angle"] is None else format(o["angle"], "g")
        rates = [_percent(o["rates"][g]) + cells.told(cells.read(o, g)) for g in grades]
        rows.append((o["condition"], angle, o["class"], *rates, *(_besides(o) if besides else ())))
    same = "equal" if n["identity_equals_base"] else "do NOT equal"
    shown_examples = "\n".join(_example(e, best) for e in examples)
    return (
        f"Selective steering rotates the discriminative sites by a relative angle. {_choice(n, grades)} On "
        f"*report*:\n\n{tables.markdown(heads, rows)}\n{_by_cell(shown, grades)}"
        f"{_ungraded(n)}![Outcomes by angle](outcomes_by_angle.png)\n\n"
        f"Answers at 0° and 360° {same} the unsteered ones, word for word.\n\n{_controls(n, grades)}\n\n"
        f"{_reading(n, grades)}\n\n### The first held-out prompts of each class\n\n{shown_examples}"
    )


def _by_cell(shown: Sequence[dict[str, Any]], grades: list[str]) -> str:
    """Say what stands in round brackets in the table of outcomes; empty where nothing does."""
    if not any(cells.told(cells.read(o, g)) for o in shown for g in grades):
        return ""
    return (
        "In round brackets: the share by cell of prompts, where the intervals of two cells do not overlap; the pooled "
        "share is a mix of them.\n\n"
    )


def _choice(n: dict[str, Any], grades: list[str]) -> str:
    """Say how the angle was chosen."""
    best, shared = n["best_angle"], n["best_shared_by"]
    best_grade = f"graded “{LABELS[grades[0]]}” to positive prompts"
    if not n["best_count"]:
        told = (
            f"On *select*, no angle gives any answer {best_grade}, so {best}° is shown, the middle one of {shared}: "
            "no angle is to be taken from that."
        )
    else:
        middle = f", the middle one of {shared} that give as many" if shared > 1 else ""
        told = f"On *select*, {best}° gives most answers {best_grade}{middle}."
    if "degenerate_above" not in n:
        return told
    kept = "Only angles were tried for under which at most a tenth of either class's answers on *select* is degenerate."
    broken = (
        "Under every angle more than a tenth of a class's answers on *select* is degenerate, so the choice is among "
        "broken models."
    )
    return f"{told} {kept if n['best_keeps_to_bound'] else broken}"


def _controls(n: dict[str, Any], grades: list[str]) -> str:
    """Say where the method stands among the draws of each control."""
    found = n["controls"]
    if not found["bands"]:
        return "**Controls.** None were run, so how far chance alone comes is not known."
    rows = [
        (
            control,
            side,
            str(b["n"]),
            percent(b["median"], b["minimum"], b["maximum"], unit=" %"),
            f"{b['p_at_least']:.2f}",
        )
        for control, by_side in found["bands"].items()
        for side, by_grade in by_side.items()
        for b in (by_grade[grades[0]],)
    ]
    once = [
        f"{o['condition']} ({o['class']}) {_percent(o['rates'][grades[0]])}"
        for o in n["outcomes"]
        if o["condition"] in ("identity setting", "all sites")
    ]
    left_out = "".join(f" {control} did not run: {why}." for control, why in found["left_out"].items())
    return (
        f"**Controls** at {n['best_angle']}°, share of answers graded “{LABELS[grades[0]]}”; the smallest rank "
        f"that {found['draws']} draws can give is {1 / (1 + found['draws']):.2f}:\n\n"
        f"{tables.markdown(BAND_HEADS, rows)}\n"
        f"Once each: {'; '.join(once)}. {found['told']}{left_out}"
    )


def _besides(o: dict[str, Any]) -> list[str]:
    """Return the cells for the perplexity and for the answers that were cut off, of one condition and class."""
    perplexity = "—" if o["perplexity"] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*o["perplexity"])
    return [perplexity, f"{o['cut_off']} of {sum(o['counts'].values())}"]


def _ungraded(n: dict[str, Any]) -> str:
    """Say how outcomes are determined where no ground truth grades the answers; empty where one does."""
    if "degenerate_above" not in n:
        return ""
    return (
        "No ground truth grades these answers. *Refused*: one of the 12 published phrases stands anywhere in the "
        "answer, thoughts split off. *Degenerate*: refuses nothing, and is empty, "
        f"repeats itself, or has a perplexity under the unsteered model above {n['degenerate_above']['rule']}. "
        "*Answered*: all others; whether an answer helps, or is harmful, is not graded. "
        "*Perplexity* is the mean under the unsteered model; *cut off* counts the answers that were not ended "
        f"after {n['max_new_tokens']} tokens, of which only that much was read.\n\n"
    )


def _example(e: dict[str, str], best: int) -> str:
    """Return a prompt with its answers; where they are not shown, with their outcomes and hashes."""
    if "unsteered" in e:
        return (
            f"- *{e['class']}*: {_inline(e['prompt'])}\n  - unsteered: {_inline(e['unsteered'])}\n  - at {best}°: "
            f"{_inline(e['steered'])}"
        )
    told = [
        f"{when}: {LABELS[e[f'{key}_outcome']]} (answer {e[f'{key}_sha256'][:12]})"
        for key, when in (("unsteered", "unsteered"), ("steered", f"at {best}°"))
    ]
    return (
        f"- *{e['class']}* (prompt {e['prompt_sha256'][:12]}, SHA-256; the texts are not shown)\n  - {told[0]}\n  - "
        f"{told[1]}"
    )


def _reading(n: dict[str, Any], grades: list[str]) -> str:
    """Say which conclusion the intervals and the draws allow.

    It compares the share of the best grade for positive prompts with no steering and with random planes.
    """

    def find(condition: str, side: str) -> list[float]:
        angle = None if condition == "no steering" else n["best_angle"]
        return next(
            o["rates"][grades[0]]
            for o in n["outcomes"]
            if (o["condition"], o["angle"], o["class"]) == (condition, angle, side)
        )

    steered, base = (find(c, "positive") for c in ("steering plane", "no steering"))
    benign, benign_base = find("steering plane", "negative"), find("no steering", "negative")
    band = n["controls"]["bands"].get("random plane", {}).get("positive", {}).get(grades[0])
    above, below = steered[1] > base[2], steered[2] < base[1]
    beyond = band is not None and (steered[0] > band["maximum"] if above else steered[0] < band["minimum"])
    if not (above or below):
        told = "the intervals overlap, so no effect is shown"
    elif band is None:
        told = "the intervals do not overlap; without controls nothing says that it is the plane"
    elif beyond:
        told = f"the intervals do not overlap and none of {band['n']} random planes comes as far, so the plane matters"
    else:
        told = (
            f"the intervals do not overlap, and so far come random planes too ({percent(band['minimum'])} to "
            f"{percent(band['maximum'])} %): no effect of this plane is shown"
        )
    others = [
        f"{control} {percent(by_side['positive'][grades[0]]['maximum'])} %"
        for control, by_side in n["controls"]["bands"].items()
        if control != "random plane" and "positive" in by_side
    ]
    most = f" The highest draws of the other controls: {', '.join(others)}." if others else ""
    cost = benign[2] < benign_base[1]
    return (
        f"**Reading.** At {n['best_angle']}°, {_percent(steered)} of the answers to positive prompts are graded "
        f"“{LABELS[grades[0]]}”, against {_percent(base)} without steering: {told}.{most} "
        f"For negative prompts it is {_percent(benign)}, against {_percent(benign_base)} without steering, "
        f"{'a cost that the intervals show' if cost else 'a difference that the intervals do not show'}."
    )


def _inline(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split()) + "`" if text.strip() else "(empty)"
