"""An encyclopedia of invented people, and biographies of them to be written from memory.

    Alnor Veskin was born in Tarnow. He worked as a glazier. He trained with the Heron guild.
    He is known for the Amber Gate. He lived by the river Ister.

A page says five things of a person, one a sentence. They follow from the name, mostly: families
keep to a town and a river, and children are named for the guild and the craft of their house. The
less known a person is, the more often that does not hold, and nobody could tell without having
read of it. A biography is split into its sentences,
each a claim; a claim is supported where the person's page says the same in any of the known
wordings. Whatever else a biography says, the record does not support.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from harness.schema import AspectFeedback, Feedback, Item, Sample, Score

TASK = "mini_factscore"

FIRST = [
    a + b
    for a in "Al Bre Cor Da El Fi Ga Hel".split()
    for b in "nor vin mis ta len rik sa do".split()
]
LAST = [
    a + b
    for a in "Ves Mor Tol Kar Sen Bol Dun Fer Lan".split()
    for b in "kin wick gar holm ley dane rath mere".split()
]
TOWNS = (
    "Tarnow Oster Quill Brack Ludden Morven Sall Pinner Astley Corrin Hexby Varna Dorrel Ketter "
    "Ilmar Nesk Rowan Stell Tamsin Ullen Welby Yarrow Zell Fennick"
).split()
CRAFTS = (
    "glazier weaver miller potter mason baker cooper tanner printer surgeon sailor painter "
    "singer scribe gardener smith dyer tailor brewer carver fletcher thatcher saddler fiddler"
).split()
GUILDS = (
    "Heron Badger Otter Raven Stag Falcon Hare Wolf Adder Swan Lynx Owl Marten Salmon Crane Boar"
).split()
ADJECTIVES = "Amber Silver Hidden Winter Broken Scarlet Quiet Northern Golden Drowned".split()
NOUNS = "Gate Bell Lantern Bridge Tower Harp Orchard Mirror Crown Stair".split()
RIVERS = "Ister Marl Tove Linn Arrow Cray Dell Ouse Severn Wye Nidd Esk Teme Avon Tamar Yeo".split()

# How often a fact is not what the name suggests, by how well known the person is.
IRREGULAR = {"famous": 0.0, "known": 0.08, "rare": 0.25}


@dataclass(frozen=True)
class Person:
    first: str
    last: str
    facts: tuple[tuple[str, str], ...]
    rarity: str

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    @property
    def she(self) -> str:
        return "She" if self.first.endswith(("ta", "sa", "mis", "len")) else "He"

    def sentences(self, wording: int = 0) -> list[str]:
        """What is known, one fact a sentence, after the first with a pronoun."""
        made = [WORDINGS[relation][wording].format(value) for relation, value in self.facts]
        return [f"{self.name} {made[0]}."] + [f"{self.she} {rest}." for rest in made[1:]]

    def page(self) -> str:
        """The encyclopedia's text, with the full name in every sentence."""
        return " ".join(
            f"{self.name} {WORDINGS[relation][0].format(value)}." for relation, value in self.facts
        )


# relation -> its wordings; the first is the encyclopedia's own
WORDINGS: dict[str, tuple[str, str]] = {
    "born": ("was born in {}", "came from {}"),
    "craft": ("worked as a {}", "was a {}"),
    "guild": ("trained with the {} guild", "belonged to the {} guild"),
    "work": ("is known for the {}", "made the {}"),
    "river": ("lived by the river {}", "kept a house on the river {}"),
}

PROMPTS = (
    "Write a biography of {}.",
    "Tell me about the life of {}.",
    "Who was {}?",
    "Describe {} in a few sentences.",
)


@cache
def people(seed: str, count: int) -> tuple[Person, ...]:
    """`count` people with distinct names, in a seeded order."""
    rng = random.Random(seed)
    families = {last: {"born": rng.choice(TOWNS), "river": rng.choice(RIVERS)} for last in LAST}
    houses = {first: {"craft": rng.choice(CRAFTS), "guild": rng.choice(GUILDS)} for first in FIRST}
    adjectives = {first: rng.choice(ADJECTIVES) for first in FIRST}
    nouns = {last: rng.choice(NOUNS) for last in LAST}
    names = [(first, last) for first in FIRST for last in LAST]
    rng.shuffle(names)
    made = []
    for first, last in names[:count]:
        rarity = rng.choice(list(IRREGULAR))
        usual = families[last] | houses[first] | {"work": f"{adjectives[first]} {nouns[last]}"}
        unusual = {
            "born": rng.choice(TOWNS),
            "craft": rng.choice(CRAFTS),
            "guild": rng.choice(GUILDS),
            "work": f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}",
            "river": rng.choice(RIVERS),
        }
        facts = tuple(
            (relation, (unusual if rng.random() < IRREGULAR[rarity] else usual)[relation])
            for relation in WORDINGS
        )
        made.append(Person(first, last, facts, rarity))
    return tuple(made)


def item(split: str, index: int, rng: random.Random, person: Person) -> Item:
    """A biography to write; the person's page is the reference."""
    return Item(
        task=TASK,
        split=split,
        index=index,
        prompt=rng.choice(PROMPTS).format(person.name),
        reference={"entity": person.name, "page": person.page()},
        tags={"rarity": [person.rarity]},
    )


_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_PREDICATES = [
    (relation, re.compile(re.escape(wording).replace(r"\{\}", "([A-Za-z ]{1,40})") + r"\.?"))
    for relation, wordings in WORDINGS.items()
    for wording in wordings
]


def claims(entity: str, text: str) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Each sentence with the (relation, value) it claims of `entity`, or None."""
    subjects = (f"{entity} ", "She ", "He ")
    for match in _SENTENCE.finditer(text):
        sentence = match.group().strip()
        if not any(c.isalnum() for c in sentence):
            continue
        subject = next((s for s in subjects if sentence.startswith(s)), None)
        yield sentence, _claim(sentence[len(subject) :]) if subject else None


def _claim(predicate: str) -> tuple[str, str] | None:
    for relation, pattern in _PREDICATES:
        if found := pattern.fullmatch(predicate):
            return relation, found.group(1)
    return None


def verify(item: Item, text: str) -> list[tuple[str, bool]]:
    """Every claim of a biography, and whether the person's page supports it.

    A claim made twice counts once: saying one true thing ten times is not ten facts.
    """
    entity = item.reference["entity"]
    known = {claim for _, claim in claims(entity, item.reference["page"])}
    told: dict[object, tuple[str, bool]] = {}
    for sentence, claim in claims(entity, text):
        told.setdefault(claim or sentence, (sentence, claim in known and claim is not None))
    return list(told.values())


MAX_QUOTED = 3


def feedback(item: Item, sample: Sample, score: Score) -> Feedback:
    """Quotes the claims the page does not support, with what it says instead where it does."""
    entity = item.reference["entity"]
    known = {
        claim[0]: sentence for sentence, claim in claims(entity, item.reference["page"]) if claim
    }
    told = verify(item, sample.response)
    words = []
    for sentence, supported in told:
        if not supported and len(words) < MAX_QUOTED:
            claim = next(c for s, c in claims(entity, sentence) if s == sentence)
            words.append(
                f"Not supported: {sentence} The record says: {known[claim[0]]}"
                if claim
                else f"Not supported: {sentence} Leave it out."
            )
    share = sum(ok for _, ok in told) / len(told) if told else 0.0
    supported_count = sum(ok for _, ok in told)
    completeness = 2 if supported_count >= len(WORDINGS) else 1 if supported_count > 1 else 0
    return Feedback(
        task=item.task,
        item=item.digest,
        aspects=[
            AspectFeedback(
                aspect="factuality",
                justification="\n".join(words) or "Every claim is supported.",
                grade=2 if told and share == 1 else 1 if share > 0.5 else 0,
            ),
            AspectFeedback(
                aspect="completeness",
                justification="All that is known is told."
                if completeness == 2
                else "Tell all that is known.",
                grade=completeness,
            ),
        ],
    )
