"""Multiple-choice questions that most models can answer, as capability tasks: well-known facts, sums, and series.

They are easy on purpose. A model that answers nearly all of them shows a loss of ability by steering soonest; a model
that guesses shows none, and the bound on capability then means nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from lens_steer.data.choices import Choice, ChoiceSet
from lens_steer.errors import LensSteerError

SUBJECTS = ("facts", "arithmetic", "series")
N_OPTIONS = 4
LARGEST = 99  # The largest number in sums.

# Question, the right option, and three wrong ones.
FACTS: tuple[tuple[str, str, str, str, str], ...] = (
    ("What is the capital of France?", "Paris", "Rome", "Madrid", "Berlin"),
    ("What is the capital of Japan?", "Tokyo", "Beijing", "Seoul", "Bangkok"),
    ("What is the capital of Egypt?", "Cairo", "Tunis", "Nairobi", "Athens"),
    ("What is the capital of Italy?", "Rome", "Paris", "Vienna", "Lisbon"),
    ("What is the capital of Canada?", "Ottawa", "Washington", "London", "Canberra"),
    ("What is the capital of Russia?", "Moscow", "Warsaw", "Prague", "Oslo"),
    ("What is the capital of Spain?", "Madrid", "Lima", "Paris", "Dublin"),
    ("What is the capital of South Korea?", "Seoul", "Hanoi", "Tokyo", "Manila"),
    ("In which country is the city of São Paulo?", "Brazil", "Portugal", "Mexico", "Angola"),
    ("In which country is the city of Mumbai?", "India", "Iran", "China", "Kenya"),
    ("Which is the largest ocean?", "the Pacific", "the Atlantic", "the Indian Ocean", "the Arctic Ocean"),
    ("On which continent is Nigeria?", "Africa", "Europe", "Asia", "South America"),
    ("On which continent is Vietnam?", "Asia", "Africa", "Europe", "Australia"),
    ("Which is the highest mountain on Earth?", "Mount Everest", "Mont Blanc", "Mount Fuji", "Kilimanjaro"),
    ("Which planet is closest to the Sun?", "Mercury", "Mars", "Jupiter", "Saturn"),
    ("Which is the largest planet of the solar system?", "Jupiter", "Earth", "Venus", "Mars"),
    ("Which planet is known for its rings?", "Saturn", "Mercury", "Venus", "Earth"),
    ("What does the Earth move around?", "the Sun", "the Moon", "Mars", "Venus"),
    ("What is the chemical symbol of oxygen?", "O", "Au", "Fe", "Na"),
    ("What is the chemical symbol of gold?", "Au", "Ag", "Cu", "Pb"),
    ("What is the chemical symbol of iron?", "Fe", "Ir", "Na", "K"),
    ("What is water made of?", "hydrogen and oxygen", "iron and carbon", "helium and neon", "salt and sand"),
    ("At how many degrees Celsius does water boil at sea level?", "100", "150", "300", "450"),
    ("At how many degrees Celsius does water freeze?", "0", "3", "5", "9"),
    ("Which gas do plants take from the air to grow?", "carbon dioxide", "helium", "neon", "argon"),
    ("Which organ pumps blood through the body?", "the heart", "the liver", "the lung", "the stomach"),
    ("With which organ do people breathe?", "the lungs", "the kidneys", "the skin", "the ears"),
    ("How many legs does a spider have?", "eight", "four", "six", "two"),
    ("How many legs does an insect have?", "six", "eight", "four", "ten"),
    ("How many legs does a dog have?", "four", "two", "six", "eight"),
    ("Which of these animals lays eggs?", "the chicken", "the cow", "the horse", "the dog"),
    ("Which of these animals can fly?", "the eagle", "the elephant", "the shark", "the horse"),
    ("Which of these animals lives in the sea?", "the whale", "the camel", "the tiger", "the goat"),
    ("Which insect makes honey?", "the bee", "the ant", "the fly", "the moth"),
    ("What is the young of a cat called?", "a kitten", "a puppy", "a calf", "a foal"),
    ("What is the young of a dog called?", "a puppy", "a kitten", "a lamb", "a chick"),
    ("How many days are in a week?", "seven", "five", "ten", "twelve"),
    ("How many months are in a year?", "twelve", "ten", "seven", "fifteen"),
    ("How many minutes are in an hour?", "60", "24", "90", "12"),
    ("How many hours are in a day?", "24", "60", "12", "48"),
    ("How many letters has the English alphabet?", "26", "20", "30", "52"),
    ("How many sides does a triangle have?", "three", "four", "five", "six"),
    ("How many sides does a square have?", "four", "three", "six", "eight"),
    ("Which day comes after Monday?", "Tuesday", "Sunday", "Friday", "Saturday"),
    ("Which month comes after March?", "April", "February", "June", "December"),
    ("What color is the sky on a clear day?", "blue", "green", "red", "brown"),
    ("What color is fresh grass?", "green", "blue", "red", "white"),
    ("What color is snow?", "white", "black", "red", "green"),
    ("What color is a ripe banana?", "yellow", "blue", "gray", "purple"),
    ("What is the opposite of hot?", "cold", "warm", "wet", "loud"),
    ("What is the opposite of up?", "down", "left", "over", "near"),
    ("What is the opposite of day?", "night", "noon", "week", "light"),
    ("Which word means the same as big?", "large", "small", "thin", "slow"),
    ("Which word means the same as quick?", "fast", "late", "heavy", "quiet"),
    ("Who wrote Romeo and Juliet?", "William Shakespeare", "Isaac Newton", "Albert Einstein", "Marie Curie"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci", "Wolfgang Mozart", "Charles Darwin", "Julius Caesar"),
    ("Who is known for the theory of relativity?", "Albert Einstein", "Pablo Picasso", "Jane Austen", "Homer"),
    ("Which language is spoken in Brazil by most people?", "Portuguese", "Spanish", "French", "Dutch"),
    ("Which language is spoken in Germany by most people?", "German", "Polish", "Italian", "Greek"),
    ("In which sport is a ball thrown through a hoop?", "basketball", "tennis", "golf", "swimming"),
    ("What do you use to cut paper?", "scissors", "a spoon", "a pillow", "a candle"),
    ("What do you use to see the time?", "a clock", "a fork", "a brush", "a shoe"),
    ("From what is bread usually made?", "flour", "sand", "glass", "wool"),
    ("From which animal does wool come?", "the sheep", "the snake", "the frog", "the hen"),
)


def _question(rng: random.Random, text: str, right: str, wrong: list[str], subject: str) -> Choice:
    options = [right, *wrong]
    rng.shuffle(options)
    return Choice(text, tuple(options), options.index(right), subject)


def _facts(rng: random.Random) -> Iterator[Choice]:
    for text, right, *wrong in rng.sample(FACTS, len(FACTS)):
        yield _question(rng, text, right, wrong, "facts")


def _arithmetic(rng: random.Random) -> Iterator[Choice]:
    while True:
        a, b = sorted((rng.randint(2, LARGEST), rng.randint(2, LARGEST)), reverse=True)
        word, result = rng.choice((("plus", a + b), ("minus", a - b)))
        wrong = _near(rng, result, (2, 3, 10, 11))
        if wrong is not None:
            yield _question(rng, f"What is {a} {word} {b}?", str(result), wrong, "arithmetic")


def _series(rng: random.Random) -> Iterator[Choice]:
    while True:
        first, step = rng.randint(1, LARGEST // 2), rng.randint(1, 5)
        shown, right = [first + i * step for i in range(4)], first + 4 * step
        wrong = _near(rng, right, range(1, 7))
        if wrong is not None:
            text = f"Which number comes next: {', '.join(map(str, shown))}?"
            yield _question(rng, text, str(right), wrong, "series")


def _near(rng: random.Random, right: int, distances: Sequence[int]) -> list[str] | None:
    """Draw wrong numbers with as many digits as the right one; None where there are not enough.

    Numbers are read digit by digit, so one of fewer digits would be likelier for its length alone.
    """
    near = [right + sign * d for d in distances for sign in (-1, 1)]
    kept = [str(n) for n in near if n >= 0 and len(str(n)) == len(str(right))]
    return rng.sample(kept, N_OPTIONS - 1) if len(kept) >= N_OPTIONS - 1 else None


def general_questions(n: int = 96, *, seed: int = 0) -> ChoiceSet:
    """Return ``n`` questions with four options each: facts, sums and series in turn. None occurs twice.

    Args:
        n: The number of questions, at most three times the number of facts (192).
        seed: The seed of the draw and of the order of the options.

    Raises:
        LensSteerError: If ``n`` is negative or too large.

    >>> found = general_questions(3)
    >>> [q.subject for q in found], [len(q.choices) for q in found]
    (['facts', 'arithmetic', 'series'], [4, 4, 4])
    """
    most = len(SUBJECTS) * len(FACTS)
    if not 0 <= n <= most:
        raise LensSteerError(f"n={n}: give a number from 0 to {most}")
    rng = random.Random(f"general/{seed}")
    streams = (_facts(rng), _arithmetic(rng), _series(rng))
    drawn: dict[tuple[str, tuple[str, ...]], Choice] = {}
    for stream in islice(_in_turn(streams), 2 * most):
        if len(drawn) == n:
            break
        for question in stream:  # one that was drawn before is drawn again
            key = question.question, tuple(sorted(question.choices))
            if key not in drawn:
                drawn[key] = question
                break
    return ChoiceSet(tuple(drawn.values()), f"general/{seed}")


def _in_turn(streams: tuple[Iterator[Choice], ...]) -> Iterator[Iterator[Choice]]:
    while True:
        yield from streams
