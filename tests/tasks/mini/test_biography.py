"""Biographies: what counts as a claim, what the record supports, and what is said about it."""

from __future__ import annotations

from harness.core.schema import Sample, Score
from tasks.mini import biography, world

ITEM = world.items(biography.TASK, "gate")[0]
PERSON = world.everyone()[world.SIZES["train"]]
OTHER_TOWN = next(town for town in biography.TOWNS if town != dict(PERSON.facts)["born"])


def feedback(text: str) -> dict[str, tuple[int, str]]:
    sample = Sample(task=ITEM.task, item=ITEM.digest, index=0, prompt="", response=text)
    score = Score(task=ITEM.task, item=ITEM.digest, index=0)
    given = biography.feedback(ITEM, sample, score)
    return {a.aspect: (a.grade, a.justification) for a in given.aspects}


def test_the_plain_biography_is_supported_in_both_wordings() -> None:
    for wording in (0, 1):
        told = biography.verify(ITEM, " ".join(PERSON.sentences(wording)))
        assert [claim.supported for claim in told] == [True] * 5


def test_inventions_and_wrong_values_are_not_supported() -> None:
    text = f"{PERSON.name} was born in {OTHER_TOWN}. {PERSON.she} won the Amber Medal."
    assert [claim.supported for claim in biography.verify(ITEM, text)] == [False, False]


def test_facts_of_somebody_else_are_not_supported() -> None:
    text = " ".join(PERSON.sentences()).replace(PERSON.name, "Ada Lovelace")
    assert not biography.verify(ITEM, text)[0].supported


def test_saying_one_thing_often_is_one_claim() -> None:
    told = biography.verify(ITEM, " ".join(PERSON.sentences()[:1] * 10))
    assert len(told) == 1


def test_an_empty_or_noisy_text_claims_nothing() -> None:
    assert biography.verify(ITEM, "") == []
    assert biography.verify(ITEM, " ... \n\n !!") == []


def test_a_long_text_costs_little() -> None:
    told = biography.verify(ITEM, f"{PERSON.she} lived by the river " * 30_000)
    assert [claim.supported for claim in told] == [False]


def test_feedback_quotes_the_claim_and_the_record() -> None:
    given = feedback(f"{PERSON.name} was born in {OTHER_TOWN}.")
    grade, words = given["factuality"]
    assert grade == 0
    assert f"was born in {OTHER_TOWN}" in words
    assert f"The record says: {PERSON.name} was born in {dict(PERSON.facts)['born']}." in words
    assert given["completeness"] == (0, "Tell all that is known.")


def test_feedback_on_a_good_biography_asks_for_nothing() -> None:
    given = feedback(" ".join(PERSON.sentences()))
    assert [grade for grade, _ in given.values()] == [2, 2]
