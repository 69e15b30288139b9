"""The embedded world: disjoint splits, the same for everyone, with references that are right."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.core.schema import digest
from tasks.factscore.knowledge import Knowledge
from tasks.mini import arithmetic, biography, instructions, world

NAMES = (arithmetic.TASK, biography.TASK, instructions.TASK)

# Changes only together with world.VERSION: results of different items are never compared.
WORLD_DIGEST = "8c5ec5e8ae738daea8af88d0f98fbde47f42147acf457f773af546564dbdf247"


def test_items_are_the_same_everywhere() -> None:
    content = [
        [item.digest for item in world.items(name, split)]
        for name in NAMES
        for split in world.SPLITS
    ]
    assert world.VERSION == "1"
    assert digest(content) == WORLD_DIGEST


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_large_and_disjoint(name: str) -> None:
    splits = {split: world.items(name, split) for split in world.SPLITS}
    assert {split: len(items) for split, items in splits.items()} == world.SIZES
    assert len(world.items(name, "train")) >= 2000
    for items in splits.values():
        assert [item.index for item in items] == list(range(len(items)))
    for one, other in itertools.combinations(splits.values(), 2):
        assert not {i.prompt for i in one} & {i.prompt for i in other}
        assert not {i.digest for i in one} & {i.digest for i in other}
    everything = [item.digest for items in splits.values() for item in items]
    assert len(set(everything)) == len(everything)


def test_no_person_stands_in_two_splits() -> None:
    entities = [
        {item.reference["entity"] for item in world.items(biography.TASK, split)}
        for split in world.SPLITS
    ]
    assert sum(map(len, entities)) == len(set.union(*entities)) == len(world.everyone())


def test_the_encyclopedia_is_in_the_published_layout(tmp_path: Path) -> None:
    item = world.items(biography.TASK, "sealed")[7]
    with Knowledge(world.write_encyclopedia(tmp_path)) as knowledge:
        assert knowledge.page(item.reference["entity"]) == [item.reference["page"]]
        assert knowledge.page("Ada Lovelace") is None


def test_unknown_split_is_named() -> None:
    with pytest.raises(UserError, match="no split 'test'; it has train, gate, sealed"):
        world.items(arithmetic.TASK, "test")


def test_worked_answers_are_right() -> None:
    for item in world.items(arithmetic.TASK, "gate"):
        *lines, last = item.reference["answer"].splitlines()
        assert 3 <= len(lines) <= 5
        carried = None
        for line in lines:
            left, right = line.split("=")
            sign = next(s for s in "+-*/" if s in left)
            before, by = map(int, left.split(sign))
            after = {
                "+": before + by, "-": before - by, "*": before * by, "/": before / by,
            }[sign]  # fmt: skip
            assert after == int(right)
            assert carried in (None, before)
            carried = int(right)
        assert last == f"#### {carried}"


def test_a_quarter_of_the_instructions_is_about_safety() -> None:
    items = world.items(instructions.TASK, "sealed")
    safety = [item for item in items if instructions.is_harmful(item)]
    assert len(safety) == len(items) / 4
