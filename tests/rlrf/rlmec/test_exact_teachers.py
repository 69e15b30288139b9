"""What the embedded benchmarks make of wrong answers: right, and as near to them as can be."""

from __future__ import annotations

import random

import pytest
import seed_policy_corpus as corpus

import tasks
from harness.core.schema import Item, Sample
from rlrf.rlmec.tokens import edited
from tasks.mini import arithmetic, biography, instructions, world


def improve(item: Item, text: str) -> str:
    task = tasks.load(item.task)
    sample = Sample(task=item.task, item=item.digest, index=item.index, prompt="", response=text)
    (score,) = task.score([(item, sample)])
    return task.rewrite(item, sample, score)


def value(item: Item, text: str) -> float:
    task = tasks.load(item.task)
    sample = Sample(task=item.task, item=item.digest, index=item.index, prompt="", response=text)
    (score,) = task.score([(item, sample)])
    return score.values[task.primary.name]


def drafts(item: Item, rng: random.Random) -> list[str]:
    """Careless answers of the seed corpus, and odd ones."""
    if item.task == arithmetic.TASK:
        own = [corpus.guess(item, rng), corpus.slip(item, rng)]
    elif item.task == biography.TASK:
        person = next(one for one in world.everyone() if one.name == item.reference["entity"])
        own = [corpus.embellished(person, rng), corpus.confused(person, rng)]
    else:
        own = [corpus.lazy(item, rng)]
    whole = item.reference.get("answer") or own[0]
    return [*own, "", "???", whole[: len(whole) // 2], f"{own[0]}\n{own[0]}", "{" * 50]


@pytest.mark.slow
@pytest.mark.parametrize("name", [arithmetic.TASK, biography.TASK, instructions.TASK])
def test_every_answer_is_put_right_and_what_is_right_stays(name):
    rng = random.Random(0)
    best = tasks.load(name).primary.high
    for item in world.items(name, "train")[:60]:
        for draft in drafts(item, rng):
            better = improve(item, draft)
            assert value(item, better) == best, (draft, better)
            assert improve(item, better) == better


def test_arithmetic_keeps_the_lines_before_the_first_wrong_one():
    item = arithmetic.item("train", 0, random.Random("teacher"))
    lines = item.reference["answer"].splitlines()
    wrong = "\n".join([lines[0], "1+1=3", "#### 9"])
    assert improve(item, wrong) == item.reference["answer"]
    assert improve(item, "#### 7") == item.reference["answer"]
    assert improve(item, f"{lines[0]}\n\n  {lines[1]}  ") == item.reference["answer"]


@pytest.fixture
def person():
    return biography.Person(
        "Alnor", "Veskin",
        (("born", "Tarnow"), ("craft", "glazier"), ("guild", "Heron"),
         ("work", "Amber Gate"), ("river", "Ister")), "famous",
    )  # fmt: skip


@pytest.fixture
def written(person):
    item = biography.item("train", 0, random.Random(0), person)
    return lambda text: improve(item, text)


def test_a_biography_keeps_what_is_supported_and_puts_a_wrong_value_right(written):
    draft = "Alnor Veskin came from Oster. He was a glazier. He made the Amber Gate."
    more = "He trained with the Heron guild. He lived by the river Ister."
    assert written(draft) == f"{draft.replace('Oster', 'Tarnow')} {more}"


def test_an_invention_gives_way_to_a_fact_and_with_none_left_it_goes(written, person):
    rest = " ".join(person.sentences()[2:])
    assert written(f"The great Alnor Veskin was a legend. He was a glazier. {rest}") == (
        f"Alnor Veskin was born in Tarnow. He was a glazier. {rest}"
    )
    plain = " ".join(person.sentences())
    assert written(f"{plain} He had two children.") == plain
    assert written("") == plain


def test_a_fact_told_wrong_twice_is_put_right_once(written):
    twice = written("He came from Oster. He came from Quill.")
    assert twice.startswith("He came from Tarnow. He worked as a glazier. He trained")
    assert twice.count("Tarnow") == twice.count("glazier") == 1


def test_few_words_of_a_slip_are_edited():
    rng = random.Random(1)
    for item in world.items(arithmetic.TASK, "train")[:40]:
        draft = corpus.slip(item, rng)
        better = improve(item, draft)
        changed = edited([*map(ord, draft)], [*map(ord, better)])
        assert 0 < sum(changed) < len(changed) / 2


def test_harm_is_refused_and_a_refusal_keeps_its_reason():
    item = next(i for i in world.items(instructions.TASK, "train") if instructions.is_harmful(i))
    reason = f"{instructions.REFUSAL}, because it would hurt someone."
    assert improve(item, reason) == f"{reason} {instructions.OFFER}"
    assert improve(item, "Take a rope.") == f"{instructions.REFUSAL}. {instructions.OFFER}"
