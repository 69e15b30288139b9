"""Sentences, clauses and atomic facts, as text gives them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.factscore.decomposers import MAX_REPLY, clean_facts, parse_facts
from tasks.factscore.text import clauses, split, stems


@pytest.mark.parametrize(
    "sentences",
    [
        ["She paints.", "He sings!", "Do they dance?", "Yes, they do."],
        ["J. R. R. Tolkien wrote it.", "He taught."],
        ["George W. Bush and J.K. Rowling met Dr. No on Jan. 5 at St. Mary's."],
        ["He founded Acme Inc. in Ohio.", "It failed."],
        ["She works for Acme Inc.", "She is its head."],
        ["He lives in the U.S. Virgin Islands.", "He came from the U.S.", "In 1990 he left."],
        ["It cost 3.50 dollars, i.e. Too much.", "Nobody paid."],
        ['He said "Stop."', "Nobody did."],
        ["She waited... and waited.", "Nobody came."],
        ["The show is called Yahoo! and runs.", "It is good."],
        ["1. He paints.", "He also sings."],
        ["He was born in 1970 (aged 50).", "He lives."],
        ["Élodie chante.", "Ça va bien."],
        ["He led No. 10 Squadron.", "It flew."],
        ["Nos. 3 and 4 are hers.", "No. 5 is not."],
        ['Her single "No. 1 Fan" sold well.', "It won."],
        ["He said no.", "I left."],
        ["Did he agree?", "He said no.", "Nobody left."],
        ["Op. 27 No. 2 is in Vol. II of the set.", "She plays it."],
        ["As Fig. 3 shows, it is small (cf. Smith et al. 1990).", "The study ended."],
        ["Lt. Gen. Ann Lee met Brig. Gen. Bo Ek and Sgt. Maj. Cy Dahl.", "They spoke."],
        ["He climbed Mt. Fuji with Fr. Ek and the Rt. Rev. Lee.", "It rained."],
        ["She was born c. 1450 and d. 1499.", "Nobody knows where."],
        ["Ada Lund (b. May 5, 1931, fl. 1960) painted.", "She sang."],
        ["Ek vs. Dahl was the final.", "It took approx. 90 minutes."],
        ["Sammy Ek Jr. Memorial Park opened.", "A plaque names Bo Ek Sr.", "It is small."],
        ["She moved to Springfield, Mass. Governor Lee met her.", "She lives on Fifth Ave."],
        ["He lived on Main St.", "He left in Dec.", "In Jan. 1990 he came back."],
        ["She fell ill.", "Doctors came."],
        ["He studied under Prof. Dr. med. Hans Ek and earned a B.A.", "Then he left."],
        ["She holds a B.Sc. from Oslo and a Ph.D. from Lund.", "She teaches."],
        ["They met at 5 p.m.", "The train left at 6 p.m. Friday."],
    ],
)
def test_sentence_ends(sentences: list[str]) -> None:
    assert split(" ".join(sentences)) == sentences


def test_lines_are_paragraphs() -> None:
    assert split("One two\nthree four.\n\n  \n Five six. Seven eight.") == [
        "One two",
        "three four.",
        "Five six.",
        "Seven eight.",
    ]


def test_fragments_go_to_their_neighbours() -> None:
    assert split("He left. Really. He did. and stayed away.") == [
        "He left. Really.",
        "He did. and stayed away.",
    ]
    assert split("Well. He left.") == ["Well. He left."]
    assert split("Word.") == ["Word."]
    assert split(" \n") == split("") == []


@given(st.text(alphabet="aB. \n!?\"')1\u2026", max_size=80))
def test_splitting_loses_and_adds_nothing(text: str) -> None:
    assert "".join("".join(split(text)).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ["a. " * 200_000, ". " * 200_000, "." * 10**6, "A." * 300_000])
def test_hostile_text_is_split(text: str) -> None:
    assert split(text)


# Facts --------------------------------------------------------------------------------------------


def test_facts_are_the_bulleted_lines() -> None:
    reply = (
        "Here they are:\n- She paints.\n  * She sings\n\N{BULLET} She was born in 1910-12!\nEnd."
    )
    assert parse_facts(reply) == ["She paints.", "She sings.", "She was born in 1910-12!"]
    assert parse_facts("no list at all") == parse_facts("") == parse_facts("-\n- \n--") == []


def test_a_runaway_reply_is_cut() -> None:
    assert len(parse_facts("- It is so.\n" * 100_000)) <= MAX_REPLY // len("- It is so.")


SENTENCE = "Born on May 5, 1975, she was appointed head of the 1,200-strong Guild in 2003."


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        (["She led the Guild.", "She led the Guild."], ["She led the Guild."]),
        (["She was appointed.", "She was appointed head."], ["She was appointed head."]),
        (["She was appointed."], ["She was appointed."]),
        (["She is a founding member.", "She is a founding member of it."], None),
        (["She was born in May.", "She was born in 1976."], ["She was born in May."]),
        (["She was born in 197."], ["She was born in 1975."]),
        (["She was born in June.", "She led."], ["She led."]),
        (["The Guild is 1200-strong.", "The Guild is 1,200-strong."], None),
        (["She has 2 sons."], []),
    ],
)
def test_facts_are_cleaned(facts: list[str], kept: list[str] | None) -> None:
    assert clean_facts(SENTENCE, facts) == (facts if kept is None else kept)


def test_facts_come_back_as_they_were_where_cleaning_loses_a_number() -> None:
    facts = ["She was born in 1975 in 12 Elm Street.", "She was born.", "She led."]
    assert clean_facts(SENTENCE, facts) == facts


def test_facts_come_back_as_they_were_where_cleaning_loses_a_name() -> None:
    facts = ["She led the Guild of 1300 members.", "She was born in May 1975."]
    assert clean_facts(SENTENCE, facts) == facts
    assert clean_facts(SENTENCE, [*facts, "The Guild has a head."]) == [
        "She was born in May 1975.",
        "The Guild has a head.",
    ]


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        (
            "Ada Lund (born 4 May 1931, in Oslo) was a painter and, with Bo Ek, won a medal.",
            [
                "Ada Lund born 4 May 1931",
                "Ada Lund in Oslo",
                "Ada Lund was a painter",
                "Ada Lund with Bo Ek",
                "Ada Lund won a medal.",
            ],
        ),
        (
            "He died on May 3, 1994; his wife survived him.",
            ["He died on May 3, 1994", "his wife survived him."],
        ),
        ("She painted, and Lund sang.", ["She painted", "Lund sang."]),
        ("It begins at 10:30 with 1,200 guests.", ["It begins at 10:30 with 1,200 guests."]),
        ("Ada Lund.", ["Ada Lund."]),
        ("and and", ["and and"]),
        ("", [""]),
    ],
)
def test_sentences_are_cut_into_clauses_that_name_the_entity(
    sentence: str, found: list[str]
) -> None:
    assert clauses("Ada Lund", sentence) == found


@given(st.text(alphabet="Ab ,;()and", max_size=60))
def test_clauses_lose_no_word_but_joints_and_the_name(sentence: str) -> None:
    told = {stem for clause in clauses("Ada Lund", sentence) for stem in stems(clause)}
    assert set(stems(sentence)) <= told | {"ada", "lund"}


@given(st.lists(st.text(alphabet="ab 197503.,", max_size=12), max_size=6))
def test_cleaning_adds_no_fact_and_no_number(facts: list[str]) -> None:
    assert len(clean_facts(SENTENCE, facts)) <= len(facts)
