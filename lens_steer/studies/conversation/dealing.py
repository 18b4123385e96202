"""Dialogues of harmless prompts, each with a harmful prompt of its own, dealt from the report split by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lens_steer.data import Contrast, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.inference.dialogue import Dialogue

TURNS, DIALOGUES, PROBES = 10, 24, (1, 4, 7, 10)


@dataclass(frozen=True)
class Dealt:
    """One dialogue.

    Attributes:
        harmless: The numbers of its harmless prompts in the split, one a turn.
        harmful: The number of its harmful prompt, which is asked at every probe.
    """

    harmless: tuple[int, ...]
    harmful: int

    def dialogue(self, split: Contrast) -> Dialogue:
        """Return the turns of the user."""
        return Dialogue(tuple(split.negative[i].text for i in self.harmless))

    def asked(self, split: Contrast, probes: Sequence[int]) -> dict[int, str]:
        """Return the harmful prompt, by the turns, from 0, at which it is asked."""
        text = split.positive[self.harmful].text
        return {turn - 1: text for turn in probes}


def deal(split: Contrast, n: int, turns: int, seed: int) -> tuple[Dealt, ...]:
    """Deal dialogues; the arguments are those that :func:`check` lets pass.

    Every dialogue takes the harmless prompts that were dealt least often so far, chance deciding among equals. So no
    dialogue has a prompt twice, and none is dealt again before all were dealt. A text that stands in the split several
    times counts once.

    Args:
        split: The prompts of the report split.
        n: The number of dialogues.
        turns: The number of turns of each.
        seed: The seed.

    >>> from lens_steer.data import Prompt
    >>> prompts = PromptSet(tuple(Prompt.of(f"prompt {i}") for i in range(4)))
    >>> found = deal(Contrast(prompts, prompts), 2, 3, seed=0)
    >>> [len(set(d.harmless)) for d in found], len({d.harmful for d in found}), reused(found)
    ([3, 3], 2, 2)
    """
    drawn, used = random.Random(f"conversation/{seed}"), dict.fromkeys(_distinct(split.negative), 0)
    harmful = drawn.sample(_distinct(split.positive), n)
    found = []
    for own in harmful:
        order = drawn.sample(list(used), len(used))
        taken = sorted(order, key=lambda i: used[i])[:turns]
        drawn.shuffle(taken)
        for i in taken:
            used[i] += 1
        found.append(Dealt(tuple(taken), own))
    return tuple(found)


def reused(dealt: Sequence[Dealt]) -> int:
    """Return the number of turns whose prompt an earlier dialogue has too."""
    every = [i for d in dealt for i in d.harmless]
    return len(every) - len(set(every))


def check(split: Contrast, n: int, turns: int, probes: Sequence[int]) -> None:
    """Refuse numbers that cannot be dealt, and prompts that are no turn of a dialogue.

    Args:
        split: The prompts of the report split.
        n, turns: See :func:`deal`.
        probes: The turns, from 1, at which the harmful prompt is asked.

    Raises:
        LensSteerError: If there are fewer than 3 turns or 2 dialogues, if there are fewer prompts than a dialogue or
            the study needs, if the probes are not at least two turns in order, or if a prompt has a system text or
            several messages.
    """
    if turns < 3:
        raise LensSteerError(f"turns={turns}: give at least 3, so that there is a first and a last third")
    if n < 2:
        raise LensSteerError(f"dialogues={n}: give at least 2, the units of every interval")
    if len(probes) < 2 or list(probes) != sorted(set(probes)) or probes[0] < 1 or probes[-1] > turns:
        raise LensSteerError(
            f"probes={','.join(map(str, probes))}: give at least two different turns in order, from 1 to turns={turns}"
        )
    for name, prompts in (("harmful", split.positive), ("harmless", split.negative)):
        if wrong := [i for i, p in enumerate(prompts) if [m["role"] for m in p.messages] != ["user"]]:
            raise LensSteerError(
                f"report prompt {wrong[0]} of the {name} ones has a system text or several messages, and a turn of a "
                "dialogue is one text of the user: give prompts of one user message"
            )
    if (there := len(_distinct(split.negative))) < turns:
        raise LensSteerError(
            f"turns={turns}: there are {there} different harmless report prompts, and no dialogue has one twice: give "
            "fewer turns or more prompts"
        )
    if (there := len(_distinct(split.positive))) < n:
        raise LensSteerError(
            f"dialogues={n}: there are {there} different harmful report prompts, and each dialogue has one of its own: "
            "give fewer dialogues or more prompts"
        )


def _distinct(prompts: PromptSet) -> list[int]:
    """Return the number of the first prompt of each text."""
    first: dict[str, int] = {}
    for i, prompt in enumerate(prompts):
        first.setdefault(prompt.text, i)
    return list(first.values())
