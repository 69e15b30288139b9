"""Make every split of every mini benchmark from one seed.

Splits are disjoint: no problem, person or instruction is in two of them. `VERSION` changes
whenever an item does, and results of different versions are never compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from harness.core.files import write_jsonl
from harness.core.schema import Item
from tasks.data import check_split
from tasks.factscore.knowledge import build_knowledge
from tasks.mini import arithmetic, biography, instructions

VERSION = "1"
SIZES = {"train": 2000, "gate": 1000, "sealed": 1000}
SPLITS = tuple(SIZES)


@cache
def everyone() -> tuple[biography.Person, ...]:
    """Return the people of the encyclopedia, in the order of the splits."""
    return biography.people(f"people/{VERSION}", sum(SIZES.values()))


@cache
def _world() -> dict[tuple[str, str], tuple[Item, ...]]:
    made: dict[tuple[str, str], tuple[Item, ...]] = {}
    seen: set[str] = set()
    persons = iter(everyone())
    for split, size in SIZES.items():
        rng = random.Random(f"{split}/{VERSION}")
        made[arithmetic.TASK, split] = _distinct(arithmetic.item, split, size, rng, seen)
        made[biography.TASK, split] = tuple(
            biography.item(split, index, rng, next(persons)) for index in range(size)
        )
        made[instructions.TASK, split] = _distinct(instructions.item, split, size, rng, seen)
    return made


def _distinct(
    make: Callable[[str, int, random.Random], Item],
    split: str,
    size: int,
    rng: random.Random,
    seen: set[str],
) -> tuple[Item, ...]:
    """Make `size` items whose prompts are not in `seen`, and add them there."""
    items: list[Item] = []
    while len(items) < size:
        item = make(split, len(items), rng)
        if item.prompt not in seen:
            seen.add(item.prompt)
            items.append(item)
    return tuple(items)


def items(task: str, split: str) -> list[Item]:
    """Return one split of one mini benchmark.

    Raises:
        UserError: there is no such split.
    """
    check_split(task, split, SPLITS)
    return list(_world()[task, split])


def write_encyclopedia(folder: Path) -> Path:
    """Write everyone's page as `pages.jsonl` and, in FActScore's layout, `knowledge.db`.

    Returns the database, which `tasks.factscore.knowledge.Knowledge` opens.
    """
    pages = folder / "pages.jsonl"
    write_jsonl(pages, ({"title": person.name, "text": person.page()} for person in everyone()))
    build_knowledge(pages, folder / "knowledge.db")
    return folder / "knowledge.db"
