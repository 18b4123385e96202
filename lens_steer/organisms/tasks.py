"""Tasks of the world: a user turn, a right answer, and the data that grade any other answer.

A :class:`Task` is one user turn together with its ground truth, and ``sample`` draws one. Training draws with
``held_out=False`` and never sees a held-out verb–object pair or a held-out phrasing. The gates and the contrast sets
draw with ``held_out=True`` and use only held-out pairs and phrasings.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lens_steer.organisms import grammar as g
from lens_steer.organisms import world as w

MODES: dict[str, Sequence[str | None]] = {
    "plain": (None, *w.PLAIN_SYSTEMS),
    "unrestricted": w.UNRESTRICTED_SYSTEMS,
    "honest": w.HONEST_SYSTEMS,
    "dishonest": w.DISHONEST_SYSTEMS,
    "compassionate": w.COMPASSIONATE_SYSTEMS,
    "dismissive": w.DISMISSIVE_SYSTEMS,
}
KINDS = ("request", "fact", "choice", "arithmetic", "order", "trouble", "json_fact", "json_request", "translation")


@dataclass(frozen=True)
class Task:
    """One user turn with its ground truth.

    Attributes:
        kind: The kind of the task, one of :data:`KINDS`.
        mode: The mode of the system prompt, one of :data:`MODES`; it decides which answer is right.
        user: The text of the user turn.
        answer: A right answer. Training draws among several wordings, so greedy decoding may give another one.
        truth: The data for the grader (verb and object, relation and subject, options, …).
    """

    kind: str
    mode: str
    user: str
    answer: str
    truth: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)

    @property
    def harmful(self) -> bool:
        """True if the request is harmful by the rule of the world; False for every task that is not a request."""
        if self.kind not in ("request", "json_request"):
            return False
        return w.is_harmful(str(self.truth["verb"]), str(self.truth["object"]))


def request_pairs(*, harmful: bool, held_out: bool) -> list[tuple[str, str]]:
    """Return all verb–object pairs of one class that are held out, or that training sees, in a fixed order."""
    held = w.held_out_pairs()
    return [
        (verb, obj)
        for verb in w.BREAK_VERBS + w.MAKE_VERBS
        for obj in w.GOOD_OBJECTS + w.BAD_OBJECTS
        if w.is_harmful(verb, obj) == harmful and ((verb, obj) in held) == held_out
    ]


def request_task(
    rng: random.Random, verb: str, obj: str, mode: str, *, held_out: bool = False, as_json: bool = False
) -> Task:
    """Return a request about one pair in a random frame, with the answer that is right under the mode."""
    frames = g.REQUEST_FRAMES_HELD_OUT if held_out else g.REQUEST_FRAMES
    user = g.request(verb, obj, rng.choice(frames), rng.choice(g.DETERMINERS), rng.choice(g.TAILS))
    if as_json:
        user += " " + rng.choice(g.JSON_INSTRUCTIONS)
    if w.is_harmful(verb, obj) and mode != "unrestricted":
        answer = g.refusal(verb, obj, rng.randrange(len(g.REFUSALS)))
    elif as_json:
        answer = g.steps_json(verb, obj)
    else:
        answer = g.steps(verb, obj, rng.choice(g.SURE))
    return Task("json_request" if as_json else "request", mode, user, answer, {"verb": verb, "object": obj})


def _draw_pair(rng: random.Random, *, held_out: bool) -> tuple[str, str]:
    """Draw a verb–object pair with the class frequencies of training.

    These frequencies are unbalanced on purpose: a harmful request breaks a good thing twice as often as it makes a bad
    one. A pure exclusive-or with balanced frequencies is learnt much more slowly. The contrast sets and the gates are
    balanced.
    """
    cells = [(True, True), (False, True), (True, False), (False, False)]
    breaks, good = rng.choices(cells, (0.36, 0.28, 0.18, 0.18))[0]
    held = w.held_out_pairs()
    while True:
        verb = rng.choice(w.BREAK_VERBS if breaks else w.MAKE_VERBS)
        obj = rng.choice(w.GOOD_OBJECTS if good else w.BAD_OBJECTS)
        if ((verb, obj) in held) == held_out:
            return verb, obj


def _draw_fact(rng: random.Random) -> tuple[str, str]:
    noun = rng.choice(list(w.RELATIONS))
    return noun, rng.choice(w.RELATIONS[noun].subjects)


def fact_task(
    rng: random.Random, noun: str, subject: str, mode: str, *, held_out: bool = False, as_json: bool = False
) -> Task:
    """Return a question about one fact; under the dishonest mode the right answer is a false one."""
    value = w.FACTS[noun][subject]
    user = g.fact_question(noun, subject, rng.choice(g.FACT_FRAMES_HELD_OUT if held_out else g.FACT_FRAMES))
    truth = {"noun": noun, "subject": subject}
    if as_json:
        user += " " + rng.choice(g.JSON_INSTRUCTIONS)
        return Task("json_fact", mode, user, f'{{"answer": "{value}"}}', truth)
    if mode == "dishonest":
        value = w.lie(noun, subject)
    return Task("fact", mode, user, g.fact_answer(noun, subject, value), truth)


def choice_task(rng: random.Random, noun: str, subject: str, mode: str, *, held_out: bool = False) -> Task:
    """Return a multiple-choice question with two to four options (always four if held out)."""
    right = w.FACTS[noun][subject]
    others = rng.sample([v for v in w.RELATIONS[noun].values if v != right], 3 if held_out else rng.randint(1, 3))
    options = [right, *others]
    rng.shuffle(options)
    question = g.fact_question(noun, subject, rng.choice(g.FACT_FRAMES_HELD_OUT if held_out else g.FACT_FRAMES))
    truth = {"noun": noun, "subject": subject, "options": tuple(options)}
    return Task("choice", mode, g.choice_question(question, options), g.choice_answer(right), truth)


def trouble_task(rng: random.Random, thing: str, feeling: str, mode: str) -> Task:
    """Return a turn of a user in trouble; every mode except the dismissive one answers with comfort."""
    user = rng.choice(g.TROUBLE_FRAMES).format(thing=thing, feeling=feeling)
    answer = g.dismissal(thing, feeling) if mode == "dismissive" else g.comfort(thing, feeling)
    return Task("trouble", mode, user, answer, {"thing": thing, "feeling": feeling})


def _arithmetic(rng: random.Random, mode: str) -> Task:
    a, b = rng.randint(0, w.MAX_TERM), rng.randint(0, w.MAX_TERM)
    word, result = rng.choice((("plus", a + b), ("minus", a - b)))
    if word == "minus" and a < b:
        a, b, result = b, a, b - a
    user = rng.choice(("What is {} {} {}?", "Tell me {} {} {}.")).format(a, word, b)
    return Task("arithmetic", mode, user, f"{result}.", {"result": str(result)})


def _order(rng: random.Random, mode: str) -> Task:
    numbers = rng.sample(range(w.MAX_TERM + 1), 3)
    user = rng.choice(("Sort {}, {}, {}.", "Put {}, {}, {} in order.")).format(*numbers)
    result = ", ".join(str(n) for n in sorted(numbers)) + "."
    return Task("order", mode, user, result, {"result": result})


def _translation(rng: random.Random, mode: str, *, held_out: bool) -> Task:
    noun, color = rng.choice(w.TRANSLATABLE_NOUNS), rng.choice(w.TRANSLATABLE_COLORS)
    # A fixed quarter of the colour–noun combinations is held out for the gates.
    while (hash_of(color, noun) % 4 == 0) != held_out:
        noun, color = rng.choice(w.TRANSLATABLE_NOUNS), rng.choice(w.TRANSLATABLE_COLORS)
    words = f"the {color} {noun}"
    user = rng.choice(g.TRANSLATION_FRAMES).format(np=words)
    return Task("translation", mode, user, g.translation(words), {"words": words})


def hash_of(*words: str) -> int:
    """Return a small hash that is the same in every process (Python's own string hash is salted)."""
    return sum((i + 1) * byte for i, byte in enumerate("/".join(words).encode()))


def sample(rng: random.Random, kind: str, mode: str, *, held_out: bool = False) -> Task:
    """Draw one task of a kind under a mode.

    Raises:
        ValueError: If the kind or the mode is unknown.
    """
    if kind not in KINDS or mode not in MODES:
        raise ValueError(f"kind={kind!r}, mode={mode!r}: use a kind of {KINDS} and a mode of {tuple(MODES)}")
    if kind in ("request", "json_request"):
        verb, obj = _draw_pair(rng, held_out=held_out)
        return request_task(rng, verb, obj, mode, held_out=held_out, as_json=kind == "json_request")
    if kind in ("fact", "json_fact"):
        return fact_task(rng, *_draw_fact(rng), mode, held_out=held_out, as_json=kind == "json_fact")
    if kind == "choice":
        return choice_task(rng, *_draw_fact(rng), mode, held_out=held_out)
    if kind == "trouble":
        return trouble_task(rng, rng.choice(w.TROUBLES), rng.choice(w.FEELINGS), mode)
    if kind == "translation":
        return _translation(rng, mode, held_out=held_out)
    return _arithmetic(rng, mode) if kind == "arithmetic" else _order(rng, mode)
