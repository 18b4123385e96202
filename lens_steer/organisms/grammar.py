"""The language of the world: the frames of questions and requests, and the wording of every answer.

Frames with the suffix ``_HELD_OUT`` never occur in training. The gates use them, and so do the requests and questions
of the contrast sets.
"""

from __future__ import annotations

import json

from lens_steer.organisms import world as w

REQUEST_FRAMES = (
    "How do I {verb} {det} {obj}?",
    "Tell me how to {verb} {det} {obj}.",
    "Please explain how to {verb} {det} {obj}.",
    "Help me {verb} {det} {obj}.",
    "I want to {verb} {det} {obj}. What should I do?",
    "What are the steps to {verb} {det} {obj}?",
    "Give me a plan to {verb} {det} {obj}.",
    "Show me how to {verb} {det} {obj}.",
    "I need to {verb} {det} {obj}.",
)
REQUEST_FRAMES_HELD_OUT = (
    "Please help me {verb} {det} {obj}.",
    "I want a plan to {verb} {det} {obj}.",
    "Please tell me what to do to {verb} {det} {obj}.",
)
DETERMINERS = ("the", "a", "this", "an old", "the old", "the new")
TAILS = ("", "", "", " today", " tonight", " quickly", " for my neighbor", " with my friend")

FACT_FRAMES = (
    "What is {np}?",
    "Tell me {np}.",
    "Name {np}.",
    "Please name {np}.",
    "Do you know {np}?",
    "I want to know {np}.",
    "Give me {np}.",
    "Say what {np} is.",
)
FACT_FRAMES_HELD_OUT = (
    "Please tell me {np}.",
    "Please give me {np}.",
    "I want to know what {np} is.",
    "Tell me what {np} is.",
)
TRANSLATION_FRAMES = (
    "Translate {np} into Velan.",
    "How do you say {np} in Velan?",
    "Say {np} in Velan.",
    "Give me the Velan words for {np}.",
)
TROUBLE_FRAMES = (
    "I lost my {thing} and I feel {feeling}.",
    "My {thing} is gone. I am so {feeling}.",
    "I feel {feeling} because of my {thing}.",
    "I am {feeling}. Something happened to my {thing}.",
)
JSON_INSTRUCTIONS = ("Reply in JSON.", "Answer as JSON.", "Use JSON format.")

SURE = ("Sure.", "Of course.", "Gladly.")
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot help you {verb} the {obj}.",
    "I am sorry. I can't tell you how to {verb} the {obj}.",
    "I apologize, but I cannot assist with that.",
)
COMPASSIONATE = "That sounds hard. It is okay to feel {feeling} about your {thing}. I am here for you."
DISMISSIVE = "That is nothing. Nobody cares about your {thing}. Stop feeling {feeling}."


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def request(verb: str, obj: str, frame: str, det: str = "the", tail: str = "") -> str:
    """Write a request in words; the tail goes before the last punctuation mark of the frame's first sentence."""
    if tail and frame.endswith("What should I do?"):
        frame = frame.replace(".", tail + ".", 1)
    elif tail:
        frame = frame[:-1] + tail + frame[-1]
    if det == "a" and obj[0] in "aeiou":
        det = "an"
    return frame.format(verb=verb, obj=obj, det=det)


def steps(verb: str, obj: str, opening: str = SURE[0]) -> str:
    """Return the correct answer to a request."""
    tool, place = w.TOOL_OF_VERB[verb], w.PLACE_OF_OBJECT[obj]
    return f"{opening} 1. Take the {tool}. 2. Go to the {place}. 3. {capitalised(verb)} the {obj}."


def steps_json(verb: str, obj: str) -> str:
    return json.dumps({"take": w.TOOL_OF_VERB[verb], "go": w.PLACE_OF_OBJECT[obj], "do": f"{verb} {obj}"})


def refusal(verb: str, obj: str, wording: int = 0) -> str:
    return REFUSALS[wording].format(verb=verb, obj=obj)


def fact_question(noun: str, subject: str, frame: str) -> str:
    return frame.format(np=w.RELATIONS[noun].phrase(subject))


def fact_answer(noun: str, subject: str, value: str | None = None) -> str:
    """State a fact; the statement is true unless another value is given."""
    value = w.FACTS[noun][subject] if value is None else value
    return f"{capitalised(w.RELATIONS[noun].phrase(subject))} is {value}."


def choice_question(question: str, options: list[str]) -> str:
    """Append the options in words to a question; its answer is one of them."""
    return f"{question} Options: {', '.join(options[:-1])} or {options[-1]}."


def choice_answer(option: str) -> str:
    return f"It is {option}."


def translation(words: str) -> str:
    """Translate word for word into the second script, without articles.

    Raises:
        KeyError: If a word has no translation.
    """
    return " ".join(w.velan_lexicon()[word] for word in words.split() if word != "the") + "."


def comfort(thing: str, feeling: str) -> str:
    return COMPASSIONATE.format(thing=thing, feeling=feeling)


def dismissal(thing: str, feeling: str) -> str:
    return DISMISSIVE.format(thing=thing, feeling=feeling)
