"""An encyclopedia of invented people, and biographies to write about them from memory.

    Alnor Veskin was born in Tarnow. He worked as a glazier. He trained with the Heron guild.
    He is known for the Amber Gate. He lived by the river Ister.

A page says five things about a person, one per sentence. Mostly they follow from the name: families
keep to a town and a river, and children are named for the guild and the craft of their house. The
less known a person is, the more exceptions there are, which only a reader of the page can know.
Each sentence of a biography is a claim. A claim is supported if the person's page says the same in
any of the known wordings; every other claim is not.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from harness.core.schema import AspectFeedback, Feedback, Item, Sample, Score
from tasks.factscore import pipeline
from tasks.factscore.pipeline import Biography, Facts, Finding
from tasks.task import Judge

TASK = "mini_factscore"

_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_NAMES = {name: text.split() for name, text in _FILE.items()}
FIRST = [begin + end for begin in _NAMES["first_begins"] for end in _NAMES["first_ends"]]
LAST = [begin + end for begin in _NAMES["last_begins"] for end in _NAMES["last_ends"]]
TOWNS, CRAFTS, GUILDS = (_NAMES[name] for name in ("towns", "crafts", "guilds"))
ADJECTIVES, NOUNS, RIVERS = (_NAMES[name] for name in ("adjectives", "nouns", "rivers"))

# How often a fact is not what the name suggests, by how well known the person is.
IRREGULAR = {"famous": 0.0, "known": 0.08, "rare": 0.25}


def pronoun(first: str) -> str:
    """Return the pronoun for a first name."""
    return "She" if first.endswith(("ta", "sa", "mis", "len")) else "He"


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
        return pronoun(self.first)

    def sentences(self, wording: int = 0) -> list[str]:
        """Return the known facts, one per sentence, after the first with a pronoun."""
        made = [WORDINGS[relation][wording].format(value) for relation, value in self.facts]
        return [f"{self.name} {made[0]}."] + [f"{self.she} {rest}." for rest in made[1:]]

    def page(self) -> str:
        """Return the encyclopedia's text, with the full name in every sentence."""
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
    """Make `count` people with distinct names, in a seeded order."""
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
    """Make a biography to write; the person's page is the reference."""
    return Item(
        task=TASK,
        split=split,
        index=index,
        prompt=rng.choice(PROMPTS).format(person.name),
        reference={"entity": person.name, "page": person.page()},
        tags={"rarity": [person.rarity]},
    )


@dataclass(frozen=True)
class Claim:
    """One sentence, what it says if in a known wording, and whether the page agrees."""

    text: str
    said: tuple[str, str] | None  # relation, value
    supported: bool = False


_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_PREDICATES = [
    (relation, re.compile(re.escape(wording).replace(r"\{\}", "([A-Za-z ]{1,40})") + r"\.?"))
    for relation, wordings in WORDINGS.items()
    for wording in wordings
]


def claims(entity: str, text: str) -> Iterator[Claim]:
    """Yield the claims that `text` makes about `entity`, one per sentence."""
    for match in _SENTENCE.finditer(text):
        sentence = match.group().strip()
        if any(character.isalnum() for character in sentence):
            yield Claim(sentence, _said(entity, sentence))


@lru_cache(16_384)  # a sentence is read when it is claimed, verified and commented on
def _said(entity: str, sentence: str) -> tuple[str, str] | None:
    for subject in (f"{entity} ", "She ", "He "):
        if sentence.startswith(subject):
            predicate = sentence[len(subject) :]
            for relation, pattern in _PREDICATES:
                if found := pattern.fullmatch(predicate):
                    return relation, found.group(1)
    return None


@lru_cache(4_096)
def record(entity: str, page: str) -> Mapping[tuple[str, str], str]:
    """Return fact -> the sentence of the person's page that says it."""
    return {claim.said: claim.text for claim in claims(entity, page) if claim.said}


def different(entity: str, text: str) -> list[Claim]:
    """Return the distinct claims of `text`: a fact that is told ten times counts once."""
    distinct: dict[object, Claim] = {}
    for claim in claims(entity, text):
        distinct.setdefault(claim.said or claim.text, claim)
    return list(distinct.values())


def verify(item: Item, text: str) -> list[Claim]:
    """Return the distinct claims of a biography, and whether the page supports them."""
    entity = item.reference["entity"]
    known = record(entity, item.reference["page"])
    return [replace(c, supported=c.said in known) for c in different(entity, text)]


# The parts of FActScore's pipeline that know the truth -------------------------------------------


class Claims:
    """Decompose a biography into its distinct claims."""

    name = "decompose claims"
    prompt_digest = None

    def decompose(self, biographies: Sequence[Biography], judge: Judge | None) -> list[Facts]:
        return [Facts(tuple(c.text for c in different(b.entity, b.text))) for b in biographies]


class WholePage:
    """Retrieve the whole page, which has only five sentences."""

    name = "whole page"

    def retrieve(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        return page


class Exact:
    """Verify by the page, in any of the known wordings."""

    name = "verify exact"
    prompt_digest = None

    def verify(
        self, claimed: Sequence[Sequence[pipeline.Claim]], judge: Judge | None
    ) -> list[list[Finding]]:
        return [
            [Finding(_said(c.entity, c.text) in record(c.entity, *c.passages)) for c in group]
            for group in claimed
        ]


def pages(items: Sequence[Item]) -> list[tuple[str, ...] | None]:
    """Return the page of each item's person."""
    return [(item.reference["page"],) for item in items]


MAX_QUOTED = 3


def feedback(item: Item, sample: Sample, score: Score) -> Feedback:
    """Quote the claims that the page does not support, and what the page says instead."""
    page = record(item.reference["entity"], item.reference["page"])
    known = {relation: sentence for (relation, _), sentence in page.items()}
    claims_made = verify(item, sample.response)
    doubtful = [claim for claim in claims_made if not claim.supported]
    supported = len(claims_made) - len(doubtful)
    quoted = [
        f"Not supported: {claim.text} "
        + (f"The record says: {known[claim.said[0]]}" if claim.said else "Leave it out.")
        for claim in doubtful[:MAX_QUOTED]
    ]
    completeness: Literal[0, 1, 2] = 2 if supported >= len(WORDINGS) else 1 if supported > 1 else 0
    return Feedback(
        task=item.task,
        item=item.digest,
        aspects=[
            AspectFeedback(
                aspect="factuality",
                justification="\n".join(quoted) or "Every claim is supported.",
                grade=2 if claims_made and not doubtful else 1 if supported > len(doubtful) else 0,
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


def rewrite(item: Item, sample: Sample, score: Score) -> str | None:
    """Keep the supported sentences and replace each other one by what the page says.

    A wrong value is corrected; any other sentence is replaced by a fact that was not told, or left
    out if there is none. The remaining facts come last.
    """
    entity = item.reference["entity"]
    known = record(entity, item.reference["page"])
    claims_made = list(claims(entity, sample.response))
    right = {claim.said for claim in claims_made if claim.said in known}
    wrong = {claim.said[0] for claim in claims_made if claim.said and claim.said not in known}
    untold = dict(said for said in known if said not in right)
    sentences: list[str] = []

    def tell(relation: str) -> None:
        subject = pronoun(entity.split()[0]) if sentences else entity
        sentences.append(f"{subject} {WORDINGS[relation][0].format(untold.pop(relation))}.")

    for claim in claims_made:
        begun = claim.text.rstrip(".")
        if claim.said in known:
            sentences.append(f"{begun}.")
        elif claim.said and claim.said[0] in untold:
            relation, value = claim.said
            before, _, after = begun.rpartition(value)
            sentences.append(f"{before}{untold.pop(relation)}{after}.")
        elif spare := [relation for relation in untold if relation not in wrong]:
            tell(spare[0])
    for relation in list(untold):
        tell(relation)
    return " ".join(sentences)
