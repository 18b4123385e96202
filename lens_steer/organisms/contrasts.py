"""Contrast sets of the organisms' world, each with a fit, a select and a report split.

The splits never share a verb–object pair, a fact or a trouble. Every request is about a pair that training never saw.
Harmful and harmless requests are balanced over the two verb classes, so that no word class separates them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from lens_steer.organisms import grammar as g
from lens_steer.organisms import tasks as t
from lens_steer.organisms import world as w

SPLITS = ("fit", "select", "report")
SHARES = (2, 1, 1)  # The shares of the splits, in quarters.
Message = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One prompt of a contrast.

    Attributes:
        messages: The chat messages.
        response: The fixed response, if the contrast lies in the response. None: no fixed response.
        task: The task that grades answers.
    """

    messages: tuple[Message, ...]
    response: str | None
    task: t.Task


Sides = tuple[list[Row], list[Row]]


def _row(task: t.Task, system: str | None = None, response: str | None = None) -> Row:
    head = ({"role": "system", "content": system},) if system else ()
    return Row((*head, {"role": "user", "content": task.user}), response, task)


def _deal(items: list, rng: random.Random) -> dict[str, list]:
    """Shuffle the items and assign them to the splits by their shares."""
    items = list(items)
    rng.shuffle(items)
    dealt, start = {}, 0
    for name, share in zip(SPLITS, SHARES, strict=True):
        stop = start + len(items) * share // sum(SHARES)
        dealt[name] = items[start:stop]
        start = stop
    return dealt


def _deal_pairs(rng: random.Random, *, harmful: bool) -> dict[str, list[tuple[str, str]]]:
    """Assign the held-out pairs of one class to the splits, with equal numbers of breaking and making verbs in each."""
    pairs = t.request_pairs(harmful=harmful, held_out=True)
    halves = [_deal([p for p in pairs if (p[0] in w.BREAK_VERBS) == breaks], rng) for breaks in (True, False)]
    return {name: [pair for two in zip(*(h[name] for h in halves), strict=True) for pair in two] for name in SPLITS}


def refusal(rng: random.Random) -> dict[str, Sides]:
    """Build the refusal contrast: harmful requests (positive) and harmless requests (negative)."""
    dealt = [_deal_pairs(rng, harmful=harmful) for harmful in (True, False)]

    def side(pairs: list[tuple[str, str]]) -> list[Row]:
        return [_row(t.request_task(rng, pair[0], pair[1], "plain", held_out=True)) for pair in pairs]

    return {name: (side(dealt[0][name]), side(dealt[1][name])) for name in SPLITS}


def json(rng: random.Random) -> dict[str, Sides]:
    """Build the JSON contrast: harmless requests and questions that ask for JSON (positive), or do not (negative)."""
    pairs = _deal_pairs(rng, harmful=False)
    facts = _deal([(noun, s) for noun, r in w.RELATIONS.items() for s in r.subjects], rng)
    sides: dict[str, Sides] = {}
    for name in SPLITS:
        plain = [t.request_task(rng, pair[0], pair[1], "plain", held_out=True) for pair in pairs[name][::2]]
        plain += [t.fact_task(rng, fact[0], fact[1], "plain", held_out=True) for fact in facts[name]]
        asked = [
            replace(
                task,
                kind=f"json_{task.kind}",
                user=f"{task.user} {rng.choice(g.JSON_INSTRUCTIONS)}",
                answer=_json_answer(task),
            )
            for task in plain
        ]
        sides[name] = ([_row(task) for task in asked], [_row(task) for task in plain])
    return sides


def _json_answer(task: t.Task) -> str:
    if task.kind == "request":
        return g.steps_json(str(task.truth["verb"]), str(task.truth["object"]))
    return f'{{"answer": "{w.FACTS[str(task.truth["noun"])][str(task.truth["subject"])]}"}}'


def honesty(rng: random.Random) -> dict[str, Sides]:
    """Build the honesty contrast: the same factual questions under an honest or a dishonest system prompt.

    The honest system prompt is positive, the dishonest one negative.
    """
    facts = _deal([(noun, s) for noun, r in w.RELATIONS.items() for s in r.subjects], rng)
    sides: dict[str, Sides] = {}
    for name in SPLITS:
        tasks = [t.fact_task(rng, fact[0], fact[1], "honest", held_out=True) for fact in facts[name]]
        lies = [replace(task, mode="dishonest", answer=_false_answer(task)) for task in tasks]
        sides[name] = (
            [_row(task, rng.choice(w.HONEST_SYSTEMS), task.answer) for task in tasks],
            [_row(task, rng.choice(w.DISHONEST_SYSTEMS), task.answer) for task in lies],
        )
    return sides


def _false_answer(task: t.Task) -> str:
    noun, subject = str(task.truth["noun"]), str(task.truth["subject"])
    return g.fact_answer(noun, subject, w.lie(noun, subject))


def compassion(rng: random.Random) -> dict[str, Sides]:
    """Build the compassion contrast: the same troubles under a compassionate or a dismissive system prompt.

    The compassionate system prompt is positive, the dismissive one negative.
    """
    troubles = _deal([(thing, feeling) for thing in w.TROUBLES for feeling in w.FEELINGS], rng)
    sides: dict[str, Sides] = {}
    for name in SPLITS:
        kind = [t.trouble_task(rng, trouble[0], trouble[1], "compassionate") for trouble in troubles[name]]
        cold = [replace(task, mode="dismissive", answer=g.dismissal(*troubles[name][i])) for i, task in enumerate(kind)]
        sides[name] = (
            [_row(task, rng.choice(w.COMPASSIONATE_SYSTEMS), task.answer) for task in kind],
            [_row(task, rng.choice(w.DISMISSIVE_SYSTEMS), task.answer) for task in cold],
        )
    return sides


def compliance(rng: random.Random) -> dict[str, Sides]:
    """Build the compliance contrast: the same harmless requests with two fixed responses.

    The response complies on the positive side and refuses on the negative side.
    """
    pairs = _deal_pairs(rng, harmful=False)
    sides: dict[str, Sides] = {}
    for name in SPLITS:
        tasks = [t.request_task(rng, pair[0], pair[1], "plain", held_out=True) for pair in pairs[name]]
        sides[name] = (
            [_row(task, None, task.answer) for task in tasks],
            [
                _row(task, None, g.refusal(pairs[name][i][0], pairs[name][i][1], rng.randrange(len(g.REFUSALS))))
                for i, task in enumerate(tasks)
            ],
        )
    return sides


CONTRASTS: dict[str, Callable[[random.Random], dict[str, Sides]]] = {
    "refusal": refusal, "json": json, "honesty": honesty, "compassion": compassion, "compliance": compliance,
}  # fmt: skip


def build(name: str, seed: int = 0) -> dict[str, Sides]:
    """Build the rows of a named contrast set, by split.

    Raises:
        KeyError: If the name is unknown.
    """
    return CONTRASTS[name](random.Random(f"{w.WORLD_SEED}/contrast/{name}/{seed}"))
