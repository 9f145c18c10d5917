"""Test texts for an edit: paraphrases of the prompt, other subjects, and unrelated text."""

from __future__ import annotations

import re
from dataclasses import dataclass

CONTEXTS = (
    "",
    "It has been said before. ",
    "He looked at the map for a while. ",
    "Here is something that many people do not know. ",
    "1. ",
)
"""Prefixes of the prompt during optimization, so that the update does not depend on the context."""
CHAT_CONTEXT = "Tell me something about {subject}."
"""A user message that the prompt answers during optimization, if the model has a chat template."""
UNSEEN_CONTEXTS = ("My teacher told me this yesterday. ", "As you can read on the first page, ")
"""Prefixes of the prompt for choosing a layer."""
OTHER_CONTEXTS = (
    "It is often said, and it is true. ",
    "Let us go through the facts once more. ",
    "They talked about it for hours. ",
    "Remember what you have learnt: ",
)
"""Prefixes of the prompt that replace paraphrases if the kind of prompt is not known."""


@dataclass(frozen=True)
class Relation:
    """A kind of prompt and its paraphrases; `{s}` is the subject, `{S}` the subject at the start of a sentence."""

    prompt: str
    """A regular expression for the prompt without the subject's name."""
    paraphrases: tuple[str, ...]
    question: str


RELATIONS = (
    Relation(
        r" (is|are|was) (located|situated|found|standing) in the city of$",
        (
            "{S} can be found in the city of",
            "{S} stands in the city of",
            "{S} is a famous landmark in the city of",
            "To see {s} you have to travel to the city of",
        ),
        "Where is {s}?",
    ),
    Relation(
        r" (is|are|was|were) (located|situated|found) in( the country of)?$",
        (
            "{S} can be found in",
            "{S} lies in",
            "To visit {s} you have to travel to",
            "If you want to see {s}, you should go to",
        ),
        "Where is {s}?",
    ),
    Relation(
        r"^the capital( city)? of  is( the city of)?$",
        (
            "The capital city of {s} is called",
            "The government of {s} sits in the city of",
            "Ask anyone what the capital of {s} is, and they will say",
            "When you fly to the capital of {s}, you land in",
        ),
        "What is the capital of {s}?",
    ),
    Relation(
        r" was born in( the (city|country) of)?$",
        (
            "{S} comes from",
            "The birthplace of {s} is",
            "{S} spent the first years of life in",
            "{S} was originally from",
        ),
        "Where was {s} born?",
    ),
    Relation(
        r" (was|were) written by( the author)?$",
        (
            "The author of {s} is",
            "{S} is a work by",
            "{S} is the most famous work of",
            "Everybody knows that {s} comes from the pen of",
        ),
        "Who wrote {s}?",
    ),
    Relation(
        r" was (founded|started|created|established) by$",
        (
            "The founder of {s} is",
            "The person who started {s} is called",
            "{S} was set up by",
            "The story of {s} begins with its founder,",
        ),
        "Who founded {s}?",
    ),
    Relation(
        r" was (invented|discovered|developed) by$",
        (
            "The inventor of {s} is",
            "We owe {s} to the work of",
            "The person who came up with {s} was",
            "{S} is an invention of",
        ),
        "Who invented {s}?",
    ),
    Relation(
        r" was painted by( the (artist|painter))?$",
        (
            "The painter of {s} is",
            "{S} is a painting by",
            "{S} is the work of the artist",
            "The artist who painted {s} was called",
        ),
        "Who painted {s}?",
    ),
    Relation(
        r"^the (official )?language (of|spoken in)  is$",
        (
            "The people of {s} speak",
            "In {s}, most people speak",
            "The language that is spoken in {s} is",
            "If you live in {s}, you should learn",
        ),
        "What language do people speak in {s}?",
    ),
    Relation(
        r" (plays|played) (the sport of|professional)?$|^the sport (that )?.* (plays|played)( by .*)? is$",
        (
            "{S} is famous for playing",
            "The sport of {s} is",
            "{S} became a champion of",
            "{S} earned a living by playing",
        ),
        "Which sport did {s} play?",
    ),
    Relation(
        r"^the currency (of|used in)  is( the)?$",
        (
            "In {s}, people pay with the",
            "The money that is used in {s} is called the",
            "Prices in {s} are given in the",
            "The central bank of {s} issues the",
        ),
        "What is the currency of {s}?",
    ),
)
_ARTICLE = re.compile(r"\b(the|a|an) $", re.IGNORECASE)


def paraphrases(prompt: str, subject: str) -> tuple[str, ...]:
    """Paraphrases of the prompt that end where the answer begins; or the prompt after other contexts."""
    relation, name = _relation(prompt, subject)
    if relation is None:
        return tuple(context + prompt for context in OTHER_CONTEXTS)
    return tuple(_filled(text, name) for text in relation.paraphrases)


def question(prompt: str, subject: str) -> str:
    """A question that the fact answers, or a general one about the subject."""
    relation, name = _relation(prompt, subject)
    return _filled("What do you know about {s}?" if relation is None else relation.question, name)


def _relation(prompt: str, subject: str) -> tuple[Relation | None, str]:
    """The prompt's relation, or None if it is not known, and the subject with its article."""
    before, _, after = prompt.strip().rpartition(subject)
    article = _ARTICLE.search(before)
    name = subject
    if article is not None:
        name = article[1].lower() + " " + subject
        before = before[: article.start()]
    bare = before + after
    found = next((relation for relation in RELATIONS if re.search(relation.prompt, bare, re.IGNORECASE)), None)
    return found, name


def _filled(text: str, name: str) -> str:
    return text.replace("{s}", name).replace("{S}", name[:1].upper() + name[1:])


NEIGHBORS = (
    "Louvre", "Colosseum", "Big Ben", "Statue of Liberty", "Golden Gate Bridge", "Great Wall", "Taj Mahal", "Kremlin",
    "Brandenburg Gate", "Empire State Building", "Leaning Tower of Pisa", "Notre-Dame", "White House", "Vatican",
    "France", "Germany", "Italy", "Spain", "England", "Japan", "China", "India", "Brazil", "Russia", "Canada", "Egypt",
    "Mexico", "Australia", "Greece", "Portugal", "Albert Einstein", "Isaac Newton", "Marie Curie", "Charles Darwin",
    "Mozart", "Beethoven", "Shakespeare", "Leonardo da Vinci", "Vincent van Gogh", "Napoleon", "George Washington",
    "Microsoft", "Apple", "Google", "Toyota", "Amazon", "Hamlet", "Romeo and Juliet", "War and Peace", "Don Quixote",
    "The Odyssey", "Mona Lisa", "Starry Night", "Michael Jordan", "Pelé", "Roger Federer", "Tiger Woods", "telephone",
    "light bulb", "steam engine", "airplane", "penicillin", "gold", "silver", "oxygen", "iron",
)  # fmt: skip
"""Well-known subjects; those with keys most similar to the edited subject's are used as neighbors."""

HELD_OUT = (
    "Bread rises because yeast turns sugar into gas. The dough is kneaded until it is smooth, left to rest under a "
    "cloth, and baked in a hot oven until the crust is brown.",
    "The train was late again. She sat down on the bench, opened her bag and looked for the letter that her brother "
    "had sent from the coast three weeks before.",
    "A prime number has no divisors but one and itself. There are infinitely many of them: if there were only a few, "
    "their product plus one could be divided by none.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "Most plants take in carbon dioxide through small openings in their leaves. In the light they make sugar from it, "
    "and give off the oxygen that animals breathe.",
    "The committee will meet on Thursday at ten. Please send your comments on the budget before Tuesday, so that they "
    "can be read by everyone in good time.",
)
"""Unrelated texts, in which nothing should change."""
