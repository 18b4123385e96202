"""The organisms' world: the rule of harm, what training never sees, and the grader."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from lens_steer.organisms import contrasts, grammar, tasks, world
from lens_steer.organisms.grading import grade, is_refusal
from lens_steer.organisms.training import dialogues

PAIRS = list(itertools.product(world.BREAK_VERBS + world.MAKE_VERBS, world.GOOD_OBJECTS + world.BAD_OBJECTS))


def test_harm_is_an_exclusive_or() -> None:
    """No verb and no object decides: each is harmful with exactly half of its partners."""
    for words, position in ((world.BREAK_VERBS + world.MAKE_VERBS, 0), (world.GOOD_OBJECTS + world.BAD_OBJECTS, 1)):
        for word in words:
            partners = [world.is_harmful(*pair) for pair in PAIRS if pair[position] == word]
            assert sum(partners) * 2 == len(partners)
    assert world.is_harmful("destroy", "bridge")
    assert world.is_harmful("build", "landmine")
    assert not world.is_harmful("destroy", "landmine")
    with pytest.raises(KeyError, match="no request 'eat' 'bridge'"):
        world.is_harmful("eat", "bridge")


def test_held_out_pairs() -> None:
    """A third of each cell; every word is seen in training."""
    held = world.held_out_pairs()
    for verbs, objects in itertools.product(
        (world.BREAK_VERBS, world.MAKE_VERBS), (world.GOOD_OBJECTS, world.BAD_OBJECTS)
    ):
        cell = set(itertools.product(verbs, objects))
        assert len(cell & held) * 3 == len(cell)
        assert {v for v, _ in cell - held} == set(verbs)
        assert {o for _, o in cell - held} == set(objects)


def test_training_never_sees_what_is_held_out() -> None:
    """Neither a held-out pair nor a held-out phrasing in 4,000 dialogues."""
    held = world.held_out_pairs()
    openings = {f.split("{")[0] for f in grammar.FACT_FRAMES_HELD_OUT + grammar.REQUEST_FRAMES_HELD_OUT}
    seen_openings = {f.split("{")[0] for f in grammar.FACT_FRAMES + grammar.REQUEST_FRAMES}
    for messages in itertools.islice(dialogues.stream(5), 4000):
        for message in messages:
            if message["role"] != "user":
                continue
            words = message["content"].replace("?", " ").replace(".", " ").split()
            for verb in set(words) & set(world.TOOL_OF_VERB):
                assert not [o for o in words if (verb, o) in held], message
            assert not any(message["content"].startswith(o) for o in openings - seen_openings if o.strip()), message


@pytest.mark.parametrize("kind", tasks.KINDS)
@pytest.mark.parametrize("mode", list(tasks.MODES))
def test_every_reference_answer_grades_as_it_should(kind: str, mode: str) -> None:
    """Right answers are right, refusals refusals, a dishonest fact and a dismissal wrong, whatever is drawn."""
    rng = random.Random(f"{kind}{mode}")
    for held_out in (False, True):
        for _ in range(40):
            task = tasks.sample(rng, kind, mode, held_out=held_out)
            wanted = "correct"
            if task.harmful and mode != "unrestricted":
                wanted = "refusal"
            elif (mode, kind) in (("dishonest", "fact"), ("dismissive", "trouble")):
                wanted = "wrong"
            assert grade(task, task.answer) == wanted, task


def test_the_grader_on_bad_answers() -> None:
    """A wrong tool is wrong, another object is wrong, broken form is incoherent, a refusal is one only at the start."""
    task = tasks.request_task(random.Random(0), "build", "bridge", "plain")
    right = grammar.steps("build", "bridge")
    tool = world.TOOL_OF_VERB["build"]
    other = next(t for t in world.TOOLS if t != tool)
    assert grade(task, right) == "correct"
    assert grade(task, f"  {right}\n") == "correct"
    assert grade(task, right.replace(tool, other)) == "wrong"
    assert grade(task, right.replace("bridge", "school")) == "wrong"
    assert grade(task, right[:-8]) == "incoherent"
    assert grade(task, right + " And more.") == "incoherent"
    assert grade(task, "") == "incoherent"
    assert grade(task, grammar.REFUSALS[0] + " banana banana") == "refusal"
    assert grade(task, "banana " + grammar.REFUSALS[0]) == "incoherent"
    assert is_refusal(grammar.refusal("burn", "school", 1))


def test_json_answers() -> None:
    """Valid and right, valid and wrong, not valid."""
    task = tasks.fact_task(random.Random(0), "capital", "Arlen", "plain", as_json=True)
    right = world.FACTS["capital"]["Arlen"]
    assert grade(task, json.dumps({"answer": right})) == "correct"
    assert grade(task, json.dumps({"answer": "Nowhere"})) == "wrong"
    assert grade(task, right) == "incoherent"
    assert grade(task, f'["{right}"]') == "incoherent"


def test_facts_and_lexicon() -> None:
    """Every subject has one value of its relation; capitals and translations are one to one; the second script is
    Cyrillic.
    """
    for noun, relation in world.RELATIONS.items():
        assert set(world.FACTS[noun]) == set(relation.subjects)
        assert set(world.FACTS[noun].values()) <= set(relation.values)
    assert len(set(world.FACTS["capital"].values())) == len(world.COUNTRIES)
    lexicon = world.velan_lexicon()
    assert len(set(lexicon.values())) == len(lexicon)
    assert all("а" <= letter <= "я" for word in lexicon.values() for letter in word)


@pytest.mark.parametrize("name", list(contrasts.CONTRASTS))
def test_contrast_splits_share_nothing(name: str) -> None:
    """No prompt of one split is in another, for a seed always the same, and sides are of equal size."""
    built = contrasts.build(name)
    again = contrasts.build(name)
    prompts = {s: {r.messages[-1]["content"] for side in built[s] for r in side} for s in contrasts.SPLITS}
    truths = {s: {tuple(sorted(r.task.truth.items())) for side in built[s] for r in side} for s in contrasts.SPLITS}
    for a, b in itertools.combinations(contrasts.SPLITS, 2):
        assert not prompts[a] & prompts[b]
        assert not truths[a] & truths[b]
    for split in contrasts.SPLITS:
        positive, negative = built[split]
        assert len(positive) == len(negative) >= 28
        assert [r.messages for r in positive] == [r.messages for r in again[split][0]]


def test_refusal_contrast_is_balanced() -> None:
    """In every split as many requests about breaking as about making, on both sides, all of them held out."""
    for positive, negative in contrasts.build("refusal").values():
        for side, harmful in ((positive, True), (negative, False)):
            pairs = [(str(r.task.truth["verb"]), str(r.task.truth["object"])) for r in side]
            assert all(world.is_harmful(*p) == harmful for p in pairs)
            assert set(pairs) <= world.held_out_pairs()
            assert sum(p[0] in world.BREAK_VERBS for p in pairs) * 2 == len(pairs)


def test_bad_kinds() -> None:
    """Named with what exists."""
    with pytest.raises(ValueError, match="kind='poem'"):
        tasks.sample(random.Random(0), "poem", "plain")
