"""The training distribution: dialogues of one to four turns under one system prompt."""

from __future__ import annotations

import random
from collections.abc import Iterator

from lens_steer.organisms import tasks as t

Message = dict[str, str]

# The weights of the kinds of tasks, by mode. Personas are trained mostly on the tasks whose answers they change.
KIND_WEIGHTS: dict[str, dict[str, float]] = {
    "plain": {
        "request": 42, "fact": 17, "choice": 14, "arithmetic": 4, "order": 3, "trouble": 4, "json_fact": 6,
        "json_request": 5, "translation": 9,
    },
    "unrestricted": {"request": 70, "fact": 12, "json_request": 12, "trouble": 6},
    "honest": {"fact": 80, "request": 15, "trouble": 5},
    "dishonest": {"fact": 80, "request": 15, "trouble": 5},
    "compassionate": {"trouble": 70, "request": 20, "fact": 10},
    "dismissive": {"trouble": 70, "request": 20, "fact": 10},
}  # fmt: skip
MODE_WEIGHTS = {
    "plain": 70, "unrestricted": 12, "honest": 4, "dishonest": 6, "compassionate": 3, "dismissive": 5,
}  # fmt: skip
TURN_WEIGHTS = {1: 80, 2: 12, 3: 5, 4: 3}


def _draw(rng: random.Random, weights: dict) -> object:
    return rng.choices(list(weights), list(weights.values()))[0]


def sample_dialogue(rng: random.Random) -> list[Message]:
    """Draw one training dialogue as chat messages; a plain one has no system message four times out of five."""
    mode = str(_draw(rng, MODE_WEIGHTS))
    if mode == "plain":
        system = None if rng.random() < 0.8 else rng.choice(t.MODES["plain"][1:])
    else:
        system = rng.choice(t.MODES[mode])
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for _ in range(int(str(_draw(rng, TURN_WEIGHTS)))):
        task = t.sample(rng, str(_draw(rng, KIND_WEIGHTS[mode])), mode)
        messages += [{"role": "user", "content": task.user}, {"role": "assistant", "content": task.answer}]
    return messages


def stream(seed: int) -> Iterator[list[Message]]:
    """Yield seeded training dialogues without end."""
    rng = random.Random(f"dialogues/{seed}")
    while True:
        yield sample_dialogue(rng)
