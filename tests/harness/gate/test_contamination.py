"""Training texts that repeat benchmark items are reported, and short common phrases are not."""

from __future__ import annotations

import random

import pytest

from harness.gate.contamination import overlap

WORDS = [f"word{i}" for i in range(400)]


def prose(rng: random.Random, words: int = 20) -> str:
    return " ".join(rng.choices(WORDS, k=words))


RNG = random.Random(1)
ITEMS = [prose(RNG, 30) for _ in range(50)]
TRAINING = [prose(RNG, 100) for _ in range(200)]


def test_a_copied_item_is_found_whatever_its_case_and_punctuation() -> None:
    copied = "so: " + ITEMS[7].upper().replace(" ", ", ", 5) + "!"
    assert [(o.item, o.share) for o in overlap([*TRAINING, copied], ITEMS)] == [(7, 1.0)]
    assert overlap(TRAINING, ITEMS) == []


def test_the_share_is_that_of_the_repeated_words() -> None:
    words = ITEMS[3].split()
    (half,) = overlap([*TRAINING, " ".join(words[:20])], ITEMS)
    assert half.share == pytest.approx(20 / 30)
    assert overlap([" ".join(words[:12])], ITEMS) == []
    assert overlap([" ".join(words[:14])], ITEMS) == []
    assert len(overlap([" ".join(words[:14])], ITEMS, least=0.4)) == 1
    assert len(overlap([" ".join(words[:8])], ITEMS, n=8, least=0.2)) == 1


def test_words_of_two_texts_do_not_make_one_item() -> None:
    words = ITEMS[0].split()
    assert overlap([" ".join(words[:10]), " ".join(words[10:20])], ITEMS, least=0.01) == []


def test_short_items_have_to_occur_whole() -> None:
    items = ["What is a lemur?", "one two three four five six seven eight nine", "", "?!"]
    assert overlap(["I asked: what is a lemur? It said."], items) == []
    found = overlap(["what is a LEMUR", f"so {items[1]} ten"], items)
    assert [(o.item, o.share) for o in found] == [(0, 1.0), (1, 1.0)]
    assert overlap([items[1].removesuffix(" nine")], items) == []


def test_nothing_overlaps_nothing() -> None:
    assert overlap([], ITEMS) == []
    assert overlap(TRAINING, []) == []


def test_items_of_one_template_are_told_apart_by_longer_runs() -> None:
    def ask(number: int) -> str:
        return (
            f"Tom has {number} hens. He sells some of them at the market on Monday, and "
            "then he buys twice as many as he had sold. How many hens does he have now?"
        )

    training, items = [ask(n) for n in range(50)], [ask(n) for n in range(50, 60)]
    assert len(overlap(training, items)) == 10
    assert overlap(training, items, n=50) == []
    assert len(overlap([*training, items[0]], items, n=50)) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)  # word by word it would take hours
def test_a_hundred_thousand_texts_are_no_trouble() -> None:
    rng = random.Random(0)
    items = [prose(rng, 60) for _ in range(1319)]
    training = [prose(rng, 100) for _ in range(100_000)]
    training[500] += " " + items[9]
    assert [o.item for o in overlap(training, items)] == [9]
