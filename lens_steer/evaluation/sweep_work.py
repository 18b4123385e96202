"""The work of a sweep and of a comparison, counted before they run.

It includes every setting of the protocol, the controls, the recordings and the measurements beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.evaluation.bounds import harmless_alone
from lens_steer.evaluation.comparison import DRAWN, REFERENCE, baseline_system
from lens_steer.evaluation.conditions import (
    CONTROLS,
    IDENTITY,
    NONE,
    PROMPT_ONLY,
    RULE_BOUNDS,
    SITES_TRIED,
    rule_condition,
)
from lens_steer.evaluation.controls import Controls, not_shuffled, report_draws, select_draws
from lens_steer.evaluation.direction_selection import N_FIT, N_SELECT, first_of
from lens_steer.evaluation.first_token import FIRST_OF
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.refinement import budget_of, further_settings
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.work import Work, bare, forcing_values, measuring, recording, selecting_direction
from lens_steer.geometry.calibration import Calibration
from lens_steer.geometry.discriminative import RULES
from lens_steer.inference.pooling import FORCED
from lens_steer.inference.rendering import tokens_after_instruction
from lens_steer.metrics.benchmarks import Tasks
from lens_steer.models.loading import info_of
from lens_steer.steer.method_table import find_method


def bounding(protocol: Protocol) -> Work:
    """Count the work of :func:`lens_steer.evaluation.bounds.measured_bound`: the unsteered answers to harmless prompts.

    There is none where a ground truth grades the answers.
    """
    alone = harmless_alone(protocol)
    return Work() if alone is None else measuring(alone, [Grid(NONE)])


def sweeping(
    model: Any,
    contrast: ContrastSet,
    grids: Sequence[Grid],
    tasks: Tasks,
    max_new_tokens: int,
    *,
    controls: Controls | None = None,
) -> Work:
    """Count the work of :func:`lens_steer.reports.sweep_report.sweep_method`.

    It consists of the answers for the bound, every grid on select, one value of each condition on report, the controls,
    and the length of the first token.

    Args:
        model, contrast, tasks, max_new_tokens, controls: The arguments of the sweep.
        grids: All grids, also that without steering. The controls are those of the first grid that steers.
    """
    on_select, on_report = _protocols(model, contrast, tasks, max_new_tokens)
    total = _evaluating(on_select, on_report, grids)
    own = next((g for g in grids if g.build is not None), None)
    if own is None:
        return total
    few = Contrast(contrast.select.positive[:FIRST_OF], PromptSet(()))
    total += recording(model, few, 0)  # the first token's length is read, and no activation is kept
    if controls is None or not controls.draws:
        return total
    source, reason = controls.source, not_shuffled(controls.source, contrast)
    drawn, _ = report_draws(controls, own.at(own.values[0]), reason or [source] * controls.draws)  # type: ignore[list-item]
    total += measuring(on_report, drawn) + measuring(on_select, select_draws(controls, [own]))
    if not reason and isinstance(source, Calibration):
        total += recording(model, contrast.fit, len(source.sites), responses=source.details.get("pooling") in FORCED)
    return total


def comparison_grids(
    methods: Iterable[str], values: Sequence[float], *, system: str | None = None, rules: Iterable[str] = ()
) -> list[Grid]:
    """Return the grids of :func:`lens_steer.evaluation.comparison.compare` without their plans.

    They are those known before anything is recorded, and so an upper bound.

    >>> [(g.name, len(g.values)) for g in comparison_grids(["ablation"], [0.0, 90.0])][-1]
    ('ablation', 1)
    """
    turned = tuple(float(v) for v in values if v % 360)
    found = [Grid(NONE), *([] if system is None else [Grid(PROMPT_ONLY, system=system)]), Grid(IDENTITY, None, (0.0,))]
    found += [Grid(name, None, turned) for name in CONTROLS if name != IDENTITY]
    return found + _method_grids(methods, values, rules)


def _method_grids(methods: Iterable[str], values: Sequence[float], rules: Iterable[str]) -> list[Grid]:
    """Return the grids of the methods, and of the reference at other rules' sites.

    A rule counts with all bounds that are tried, although some of them may give the same sites.
    """
    angles, found = tuple(map(float, values)), list[Grid]()
    for method in dict.fromkeys(methods):
        record = find_method(method)
        swept = angles if record.turns else record.grid or (None,)
        variants = [f"site {i}" for i in range(SITES_TRIED)] if record.tries_sites else [""]
        found += [Grid(method, None, swept, variant) for variant in variants]
    for rule in dict.fromkeys(rules):
        if rule != RULES[0]:  # the calibration of a comparison already has this rule
            variants = [f"bound {b:g}" for b in RULE_BOUNDS.get(rule, ())] or [""]
            found += [Grid(rule_condition(REFERENCE, rule), None, angles, variant) for variant in variants]
    return found


def comparing(
    model: Any,
    contrast: ContrastSet,
    methods: Sequence[str],
    values: Sequence[float],
    tasks: Tasks,
    max_new_tokens: int,
    *,
    system: str | None = None,
    rules: Sequence[str] = (),
    selects: bool = False,
    refine: int = 0,
    draws: int = 0,
) -> Work:
    """Count the work of :func:`lens_steer.evaluation.comparison.compare`.

    The search for equal divergence between two values is left out, since its number of steps is not known beforehand.

    Args:
        model, contrast, methods, values, tasks, max_new_tokens, system, rules, refine, draws: The arguments of the
            comparison.
        selects: Whether a direction is selected for the methods that take one.
    """
    wanted = list(dict.fromkeys([REFERENCE, *methods]))
    taking = [m for m in wanted if selects and find_method(m).takes_direction]
    selected = [Grid(f"{name} (selected)", None, find_method(name).grid or (None,)) for name in taking]
    grids = comparison_grids(wanted, values, system=baseline_system(model, system), rules=rules) + selected
    read = {"norm_out", *(find_method(m).reads for m in wanted)}
    on_select, on_report = _protocols(model, contrast, tasks, max_new_tokens)
    total = recording(model, contrast.fit, 2 * info_of(model).n_layers) * len(read)
    total += _evaluating(on_select, on_report, grids)
    total += measuring(on_report, [Grid(f"control {i}") for i in range(DRAWN * draws)])
    of_rules = {rule_condition(REFERENCE, rule) for rule in rules}
    budget = budget_of([g for g in grids if g.condition not in of_rules], refine)
    more = {name: tuple(float(i) for i in range(n)) for name, n in further_settings(grids, budget).items()}
    total += measuring(on_select, [Grid(name, None, placed) for name, placed in more.items() if placed])
    if taking:
        fit, select = first_of(contrast, N_FIT, N_SELECT)
        n = len(tokens_after_instruction(info_of(model).tokenizer))
        total += selecting_direction(model, fit, select, n, max_new_tokens)
    harmless = bare(contrast.select.negative)
    swept = [g for g in _method_grids(wanted, values, rules) + selected if None not in g.values]
    for grid in swept:
        total += forcing_values(model, harmless, max_new_tokens, len(grid.values))
    again = dict.fromkeys(g.condition for g in swept if g.condition != REFERENCE)
    total += measuring(on_report, [Grid(name) for name in again])
    for side in (contrast.report.positive, contrast.report.negative):
        total += forcing_values(model, bare(side), 0, len(values))
    return total


def _protocols(model: Any, contrast: ContrastSet, tasks: Tasks, max_new_tokens: int) -> tuple[Protocol, Protocol]:
    """Return the protocols of the select split and of the report split."""
    return (
        Protocol(model, contrast.select, "select", tasks.select, max_new_tokens=max_new_tokens),
        Protocol(model, contrast.report, "report", tasks.report, max_new_tokens=max_new_tokens),
    )


def _evaluating(on_select: Protocol, on_report: Protocol, grids: Sequence[Grid]) -> Work:
    """Count the work of the protocol: the bound, every grid on select, one value of each condition on report."""
    chosen = {g.condition: Grid(g.condition, system=g.system) for g in grids}
    return bounding(on_select) + measuring(on_select, grids) + measuring(on_report, list(chosen.values()))
