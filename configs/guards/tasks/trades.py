"""Documents of the task `mini_trades`: the trade of a person of the embedded encyclopedia."""

from __future__ import annotations

import random
from typing import Any

from tasks.mini.biography import CRAFTS, WORDINGS, Person
from tasks.mini.world import everyone

CHOICES = 4
PEOPLE = 2000  # the last of the encyclopedia, whom no training prompt is about


def dataset(**_: Any) -> dict[str, Any]:
    """Return the documents of the split `test`."""
    from datasets import Dataset

    people = everyone()[-PEOPLE:]
    return {"test": Dataset.from_list([document(i, person) for i, person in enumerate(people)])}


def document(number: int, person: Person) -> dict[str, Any]:
    """Ask for a person's trade; the wrong ones are drawn at random."""
    rng = random.Random(f"trades/{number}")
    craft = dict(person.facts)["craft"]
    wrong = rng.sample([other for other in CRAFTS if other != craft], CHOICES - 1)
    crafts = rng.sample([craft, *wrong], CHOICES)
    sentence = f"{person.name} {WORDINGS['craft'][0]}."
    return {
        "question": f"Who was {person.name}?",
        "choices": [sentence.format(other) for other in crafts],
        "gold": crafts.index(craft),
    }
