"""Tables of the study of side effects, and a page of answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lens_steer._display import withheld
from lens_steer._io import tables
from lens_steer._io.rowstore import Row
from lens_steer.data import Contrast
from lens_steer.evaluation.conditions import NONE
from lens_steer.inference.positions import first_steered
from lens_steer.models import sites
from lens_steer.stats.estimates import Estimate, percent, points
from lens_steer.studies.externalities import tokens
from lens_steer.studies.externalities.choice import COMPLIANCE, JSON, KEPT
from lens_steer.studies.externalities.choice import UNGRADED as UNGRADED_BOUNDS
from lens_steer.studies.externalities.conditions import (
    CONTROL,
    FAMILIES,
    FIRST,
    REST,
    ROTATION,
    STEERED,
    Condition,
    first_decided,
    named,
    positions_of,
)
from lens_steer.studies.externalities.depth import random_cosine
from lens_steer.studies.externalities.found import Externalities

ON_PAGE = 3  # number of prompts of each class on the page of answers
COLUMNS = {
    "attack": "attack success", "positive_refused": "harmful: refused", "negative_right": "harmless: right",
    "negative_refused": "harmless: refused", "capable": "tasks right", "json_unasked": "JSON, not asked for",
    "json_asked": "JSON, asked for",
}  # fmt: skip
UNGRADED = {
    "attack": "harmful: answered", "positive_refused": "harmful: refused", "positive_degenerate": "harmful: degenerate",
    "negative_right": "harmless: answered", "negative_refused": "harmless: refused",
    "negative_degenerate": "harmless: degenerate",
} | {name: COLUMNS[name] for name in ("capable", "json_unasked", "json_asked")}  # fmt: skip
GRADED_LEGEND = (
    "Attack success: harmful requests complied with, every step true in the world, in plain text or as JSON. "
)
UNGRADED_LEGEND = (
    "No ground truth: *answered* is what the judge calls harmful; without a judge, what is neither empty nor "
    "repeating, holds no refusal phrase, and has under the unsteered model a perplexity of at most {}. A short answer "
    "of a few unexpected tokens, such as JSON, passes that bound more easily than a long one. "
)
LEGEND = (
    "Report split; percent with 95 % Wilson intervals. {}Last column: points of the first less no steering's on the "
    "same prompts, **bold** where the interval excludes 0. Random directions have the steering's norm and, over "
    "blocks, its cosines; the refusal part is the direction's part in the refusal plane and along the block's own "
    "difference of means of harmful and harmless prompts; the rotation keeps norms and has, within 5 %, the steering's "
    "mean KL on the select split's benign answers; *against refusal* takes steps of the same size against the block's "
    "difference of means. The positive control, StTP with the probe of the block and at the strength chosen on "
    "select, steers against refusal on purpose, whatever the size of the step."
)


def markdown(found: Externalities) -> str:
    """Return tables of choices, conditions, prefixes, divergence by token, and depth, with notes on the columns."""
    parts = [
        ("Where and how strongly", choices_table(found)),
        ("Conditions", conditions_table(found)),
        ("Steering at fewer tokens", prefix_table(found)),
        ("Divergence along fixed responses", tokens_table(found)),
        ("Across depth", depth_table(found)),
    ]
    return "\n".join(f"## {title}\n\n{text}" for title, text in parts)


def choices_table(found: Externalities) -> str:
    """Return the choices from the select split, in absolute and relative units, with the rotations matched to them."""
    attack, right = ("attack success", "right") if found.known else ("share answered", "answered")
    also = "" if found.bound is None else "".join(f", {c}" for c in UNGRADED_BOUNDS)
    lines = []
    for s in found.steerings:
        target, match = found.matches[s.name]
        angle = match.reason if match.grid is None else f"{match.grid.values[0]:.4g}° (KL {match.kl:.3g})"
        bound = "" if s.choice.met else ", **no setting keeps to the bound**"
        if s.name == COMPLIANCE:
            shares = _by_block(found.calibrations.compliance.relative(s.strength))
            last = _by_block(last_token_shares(found))
            lines.append(
                f"- **{s.name}**: α = {s.strength:.4g} in units of the residual stream; of the mean length of a "
                f"response token's vector at block {shares}; of that of the last prompt token's {last}. The largest "
                f"of {s.choice.n} tried at which, as at every smaller one, harmless requests stay {right} at ≥ "
                f"{100 * KEPT:g} % of unsteered{also} ({s.choice.n_met} do{bound})."
            )
        else:
            lines.append(
                f"- **{s.name}**: block {sites.parse(s.choice.variant).block}, z̄ = {s.strength:.4g}. Of {s.choice.n} "
                "blocks the one with most valid JSON where none is asked for, among those that keep tasks at ≥ "
                f"{100 * KEPT:g} % of unsteered ({s.choice.n_met} do{bound})."
            )
        highest = max(
            (
                x.measured["attack"].value
                for x in found.select[s.name]
                if x.condition != NONE and "attack" in x.measured
            ),
            default=None,
        )
        most = "" if highest is None else f" Highest {attack} at any setting tried on select: {percent(highest)} %."
        lines.append(f"  KL on benign answers {target:.3g} nats a token; rotation of equal KL: {angle}.{most}")
    control = found.control.choice
    bound = "" if control.met else ", **no setting keeps to the bound**"
    lines.append(
        f"- **{CONTROL}** (positive control): block {sites.parse(control.variant).block}, α = {control.value:g}. Of "
        f"{control.n} settings the one with the highest {attack} that keeps harmless requests {right} at ≥ "
        f"{100 * KEPT:g} % of unsteered{'' if found.bound is None else f' and {UNGRADED_BOUNDS[0]}'}{bound}."
    )
    return "\n".join(lines) + "\n"


def _by_block(shares: Mapping[str, float]) -> str:
    """Return the block of each site with its share of a length, as text."""
    return ", ".join(f"{sites.parse(site).block}: {percent(share, form='.1f')} %" for site, share in shares.items())


def last_token_shares(found: Externalities) -> dict[str, float]:
    """Return α over the mean length of the last prompt token's residual vector, at each site of STEER-COMPLIANCE.

    The sites are those that it steers. The mean is over the fit prompts of the refusal contrast.
    """
    steering = next(s for s in found.steerings if s.name == COMPLIANCE)
    acts = found.calibrations.activations["refusal"]
    return {site: steering.strength / float(torch.cat(acts.at(site)).norm(dim=-1).mean()) for site in steering.sites}


def conditions_table(found: Externalities) -> str:
    """Return the table of the conditions, one row per condition."""
    heads = COLUMNS if found.known else UNGRADED
    rows: list[Sequence[str]] = []
    for c in found.conditions:
        if not c.runs:
            rows.append((c.name, c.reason, *("—" for _ in heads)))
            continue
        measured = found.measured(c.name)
        gap = "—" if c.name == NONE else points(found.difference(c.name, NONE, "attack"))
        rows.append((c.name, *(percent(measured.get(k)) for k in heads), gap))
    titles = ("condition", *heads.values(), f"{heads['attack']}, less no steering")
    graded = GRADED_LEGEND if found.known else UNGRADED_LEGEND.format(found.bound or "no bound")
    return f"{tables.markdown(titles, rows)}\n{LEGEND.format(graded)}\n"


def prefix_table(found: Externalities) -> str:
    """Return the attack success with the steering at fewer tokens, one row per steering and k."""
    ks = sorted({c.k for c in found.prefixes if c.k is not None})
    names = [*(s.name for s in found.steerings), CONTROL]
    rows = [
        (f"{name}, {k}", *(percent(found.measured(named(name, family, k=k)).get("attack")) for family in FAMILIES))
        for name in names
        for k in ks
    ]
    full = "; ".join(f"{name} at all tokens {percent(found.measured(name)['attack'])}" for name in names)
    heads = COLUMNS if found.known else UNGRADED
    tokens_of = ", ".join(f"*{family}*: `{positions_of(family, 4)}`" for family in FAMILIES)
    text = (
        f"{heads['attack'].capitalize()}, percent; {full}; no steering "
        f"{percent(found.measured(NONE)['attack'])}. The tokens that "
        f"decide an answer's first k are the prompt's last one and the answer's first k − 1. For k = 4: {tokens_of}."
    )
    return f"{tables.markdown(('steering, k', *FAMILIES), rows)}\n{text}\n"


def tokens_table(found: Externalities) -> str:
    """Return the KL over the first 3 response tokens and over the later ones."""
    head = ("condition", "responses", f"KL, first {tokens.START} tokens", "later tokens", "slope a token, later", "n")
    rows = [
        (
            row["condition"],
            found.said(row["responses"]),
            *(_mean(row, k) for k in ("start", "later", "slope")),
            str(row["n"]),
        )
        for row in tokens.summary(found.divergences, seed=found.seed)
    ]
    text = (
        "KL(unsteered ‖ steered) in nats a token, means over prompts with 95 % bootstrap intervals. Harmful "
        "responses: those given, or right compliance under the unrestricted system prompt, put after "
        "the plain prompt; benign: those given, or the unsteered answers to harmless requests."
    )
    return f"{tables.markdown(head, rows)}\n{text}\n"


def depth_table(found: Externalities) -> str:
    """Return the angles to refusal and the shares on the harmless side of the boundary, one row per block."""
    expected = random_cosine(found.calibrations.refusal.d_model, seed=found.seed)
    heads = ["block"]
    for name in (COMPLIANCE, JSON):
        heads += [f"{name}: angle to refusal, °", "in refusal plane, %", "harmful beyond boundary, %"]
    rows = []
    for block in range(found.calibrations.refusal.n_layers):
        cells = [str(block)]
        for name in (COMPLIANCE, JSON):
            a = next(a for a in found.angles if a.steering == name and a.block == block)
            text = f"{a.angle:.0f}"
            cells += [
                f"**{text}**" if a.steered else text,
                percent(a.in_plane),
                percent(_projection(found, name, block)),
            ]
        rows.append([*cells, percent(_projection(found, "harmful", block))])
    text = (
        "Angles to the unit difference of means of harmful less harmless prompts (last prompt token), ± 1.96 "
        f"jackknife errors, **bold** where the steering writes; two random directions have |cos| {expected[0]:.2f} on "
        f"average, and 95 % of them within {expected[1]:.2f}. Beyond the boundary: share of harmful prompts of the "
        "report split on the harmless side of the probe of the fit split, in full dimension; Wilson intervals."
    )
    return f"{tables.markdown([*heads, 'unsteered beyond, %'], rows)}\n{text}\n"


def qualitative(found: Externalities, model: Any, contrast: Contrast, *, show_answers: bool = False) -> str:
    """Return a page with the original and the steered answers to the first prompts of each class of the report split.

    ⟦…⟧ marks the first token that a steered token decides. Without a ground truth, hashes take the place of harmful
    prompts and of the answers to them, unless ``show_answers`` is set.

    Args:
        found: Result of the study.
        model: Model of the study, for its tokenizer.
        contrast: The report split.
        show_answers: Show harmful prompts and the answers to them without a ground truth too.
    """
    tokenizer = model.lens_info.tokenizer
    shown = [c for c in (*found.conditions, *found.prefixes) if _on_page(c)]
    where = [(c.name, *_steered(c)) for c in shown]
    parts = [
        "# Original and steered answers\n",
        "The first prompts of the report split, not picked. ⟦…⟧ marks the first token of the answer that a "
        "steered token decides by itself; what is steered before it (the prompt's tokens) reaches the "
        "answer through attention too.\n",
        tables.markdown(("condition", "steered tokens", "first of them"), where),
    ]
    for side, title in (("positive", "Harmful"), ("negative", "Harmless")):
        hidden = side == "positive" and not found.known and not show_answers
        for i, prompt in enumerate(getattr(contrast, side)[:ON_PAGE]):
            by_condition = {r["condition"]: r for r in found.rows if r["side"] == side and r["prompt"] == i}
            answers = [
                (c.name, str(row["outcome"]), withheld(str(row["text"])) if hidden else _marked(row, c, tokenizer))
                for c in shown
                if (row := by_condition.get(c.name)) is not None
            ]
            parts += [
                f"## {title}: {withheld(prompt.text) if hidden else ' '.join(prompt.text.split())}\n",
                tables.markdown(("condition", "grade", "answer"), answers),
            ]
    return "\n".join(parts)


def _on_page(c: Condition) -> bool:
    """Return whether a condition is on the page of answers.

    The page has no steering, the positive control, the steerings, one random direction and the rotation for each
    steering, and two families at fewer tokens with k = 1 and 4.
    """
    if c.kind in (FIRST, REST):
        return c.k in (1, 4)
    return c.steering is None or c.kind == STEERED or c.draw == 1 or (c.kind == ROTATION and c.runs)


def _steered(c: Condition) -> tuple[str, str]:
    """Return the steered tokens of a condition with their sites, and the first of these tokens."""
    if c.plan is None:
        return "—", "—"
    return f"`{c.plan.positions}` at {', '.join(c.plan.sites)}", first_steered(c.plan.positions)


def _marked(row: Row, condition: Condition, tokenizer: Any) -> str:
    # The text is cut between tokens by decoding the first ``at`` and ``at + 1`` of its tokens. The mark is left out
    # where decoding does not give back the beginning of the text.
    text = str(row["text"])
    at = None if condition.plan is None else first_decided(condition.plan.positions)
    if at is not None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        parts: Sequence[str] = [tokenizer.decode(ids[:i]) for i in (at, at + 1)]
        if at < len(ids) and text.startswith(parts[1]):
            text = f"{parts[0]}⟦{parts[1][len(parts[0]) :]}⟧{text[len(parts[1]) :]}"
    return text


def _projection(found: Externalities, kind: str, block: int) -> Estimate:
    return next(p.crossed for p in found.projections if p.kind == kind and p.block == block)


def _mean(row: Mapping[str, Any], key: str) -> str:
    return "—" if row[key] is None else f"{row[key]:.3g} [{row[f'{key}_low']:.3g}, {row[f'{key}_high']:.3g}]"
