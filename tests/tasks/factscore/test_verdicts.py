"""How the replies of a judge are read, against replies in many languages that a person labelled."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.core.schema import Reply
from tasks.factscore.verdicts import MAX_QUOTED, MAX_REPLY, read_verdict
from tasks.factscore.verifiers import MAX_PUBLISHED, ByJudge, verdict

TABLE = Path(__file__).with_name("judge_replies.jsonl")
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()
]
STATEMENT = "Ada Lund painted."
COMMITTED = [row for row in ROWS if row["supported"] is not None]


def test_every_labelled_reply_is_read_as_it_is_meant() -> None:
    misread = [
        row for row in ROWS if read_verdict(row["reply"], STATEMENT).supported != row["supported"]
    ]
    assert misread == []
    counts = Counter(row["supported"] for row in ROWS)
    assert min(counts.values()) > 200


def test_what_is_no_verdict_has_a_reason_that_quotes_the_reply() -> None:
    for row in ROWS:
        found = read_verdict(row["reply"], STATEMENT)
        assert bool(found.failure) == (found.supported is None)
    told = read_verdict("I would have to look that up.").failure
    assert told == "the reply commits to no verdict: 'I would have to look that up.'"
    assert "both True and False" in read_verdict("True. False.").failure
    assert "does not commit" in read_verdict("True, but the year is wrong.").failure
    assert "in part" in read_verdict("True. However, the year is not right.").failure
    assert "before its reasoning does" in read_verdict("<think>It is true").failure
    assert len(read_verdict("word " * 1000).failure) < 2 * MAX_QUOTED


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        "{}\n",
        "  {}  ",
        "**{}**",
        "> {}",
        "<think>Is it true? No, it is false. True.</think>{}",
        "False is what I would expect.</think>\n{}",
        "<answer>{}</answer>",
        "{}\n\nPassage 2 says where the harbour is.",
        "Let me look at the passages.\n\n{}",
    ],
)
def test_no_reply_is_read_as_the_opposite_whatever_stands_around_it(wrap: str) -> None:
    read = 0
    for row in COMMITTED:
        for reply in (row["reply"], row["reply"].upper(), row["reply"].lower()):
            found = read_verdict(wrap.format(reply), STATEMENT).supported
            assert found in (row["supported"], None), wrap.format(reply)
            read += found is not None
    assert read > 0.7 * 3 * len(COMMITTED)


def test_two_replies_that_contradict_each_other_are_no_verdict() -> None:
    """Of bare words, which nothing can qualify."""
    bare = [row for row in COMMITTED if row["reply"].isalpha() and row["reply"].isascii()]
    assert len(bare) > 50
    for first in bare:
        for second in bare:
            reply = f"{first['reply']}.\n{second['reply']}."
            expected = first["supported"] if first["supported"] == second["supported"] else None
            assert read_verdict(reply).supported in (expected, None), reply


@pytest.mark.parametrize(
    ("reply", "statement", "supported"),
    [
        ("Ada Lund painted: true", STATEMENT, True),
        ("The statement 'Ada Lund painted.' is not true.", STATEMENT, False),
        ("Ada Lund painted.", STATEMENT, None),
        ("She starred in True Lies. False.", "She starred in True Lies.", False),
        ("She starred in\nTrue Lies.", "She starred in True Lies.", None),
        ("True", "It is false.", True),
        ("It is false.", "It is false.", None),
        ("True", "True.", True),
        ("Statement: No is a film. Yes", "No is a film.", True),
    ],
)
def test_the_statement_said_back_is_no_verdict(
    reply: str, statement: str, supported: bool | None
) -> None:
    assert read_verdict(reply, statement).supported is supported


def test_a_model_that_goes_on_with_an_item_of_its_own_is_read_up_to_there() -> None:
    reply = "False\n\nStatement: She sang.\nTrue or False? True\n\nStatement: She"
    assert read_verdict(reply).supported is False
    assert read_verdict("Statement: She sang.\nTrue or False? True").supported is True


@pytest.mark.parametrize(
    ("reply", "supported"),
    [
        # The first word was drawn at random: its probability says more.
        (Reply(text="False", logprobs={"True": -0.1, "False": -2.4}), True),
        (Reply(text="True", logprobs={"True": -3.0, "False": -0.2}), False),
        (Reply(text="True", logprobs={"False": -0.2}), False),
        (Reply(text="", logprobs={"True": -0.1}), True),
        (Reply(text="T", failure="cut short", logprobs={"True": -0.1}), True),
        # Neither word was likely, or served: the text counts.
        (Reply(text="The statement is true.", logprobs={"True": -9.0, "False": -6.0}), True),
        (Reply(text="No.", logprobs={"True": -12.0}), False),
        (Reply(text="Well", logprobs={"True": -12.0, "False": -13.0}), None),
        (Reply(text="False.", logprobs={}), False),
        (Reply(text="False.", logprobs={"True": -0.7, "False": -0.7}), False),
        (Reply(text="True", logprobs={"True": 1e9}), True),
        # The first word belongs to the question, or is taken back.
        (Reply(text="True or False? False", logprobs={"True": -0.1}), False),
        (Reply(text="True only if she sang.", logprobs={"True": -0.1}), None),
        (Reply(text="True. Actually, the statement is false.", logprobs={"True": -0.1}), None),
    ],
)
def test_probabilities_decide_where_the_model_would_have_said_one_word(
    reply: Reply, supported: bool | None
) -> None:
    found = verdict(reply)
    assert found.supported is supported
    assert bool(found.failure) == (supported is None)


@pytest.mark.parametrize(
    ("text", "supported"),
    [
        ("True, because the second", True),
        ("False. The passages", False),
        ("<think>Hm.</think>True. The", True),
        ("Let us see whether it is true", None),
        ("The passages say so. So the statement is true", None),
        ("<think>It is true", None),
        ("", None),
    ],
)
def test_a_reply_that_was_cut_short_counts_if_it_began_with_its_verdict(
    text: str, supported: bool | None
) -> None:
    found = verdict(Reply(text=text, failure="cut short"))
    assert found.supported is supported
    assert found.failure == ("" if supported is not None else "cut short")


def test_the_published_rule_is_there_by_name_and_part_of_the_identity() -> None:
    for text in ("No", "Falsch", "The passages are silent."):
        assert verdict(Reply(text=text), "", "published").supported is True
        assert verdict(Reply(text=text)).supported is not True
    assert verdict(Reply(text="a" * (MAX_PUBLISHED + 1)), "", "published").supported is None
    assert ByJudge().name == "verify judge, verdict commitment"
    assert ByJudge("published").name != ByJudge().name
    with pytest.raises(UserError, match="'commitment' or 'published'"):
        verdict(Reply(text="True"), "", "guess")  # type: ignore[arg-type]


def test_a_reply_without_end_is_not_read() -> None:
    found = read_verdict("True. " + "The passages say so. " * MAX_REPLY)
    assert found.supported is None
    assert f"longer than {MAX_REPLY:,} characters" in found.failure
    thought = "Is it true? No. " * MAX_REPLY
    assert read_verdict(f"<think>{thought}</think>True").supported is True


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part",
    [".", "!?", "\n", "true as ", "not ", "{", " -", '"', "<think>", "true,", "no. ", "正确"],
)
def test_hostile_replies_are_read_or_refused(part: str) -> None:
    found = read_verdict(part * (MAX_REPLY // len(part)))
    assert bool(found.failure) == (found.supported is None)


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_has_a_verdict_or_a_reason(text: str, statement: str) -> None:
    found = read_verdict(text, statement)
    assert bool(found.failure) == (found.supported is None)
