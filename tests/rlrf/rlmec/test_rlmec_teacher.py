"""Who puts answers right: the benchmark, or a language model whose replies are not believed."""

from __future__ import annotations

import dataclasses
import json

import pytest
from helpers import toy
from hypothesis import given
from hypothesis import strategies as st

from harness.core.schema import Item, Reply
from harness.replies import UnparsableReplyError
from rlrf.rlmec.teacher import MAX_REWRITE, first_wrong, read_rewrite, rewriting_call, steps, teach
from rlrf.training_config import Rlmec

ITEMS = {item.digest: item for item in toy.items("train")}
ANSWER = "3+4=8\n8*2=16\n#### 16"


class Scripted:
    """A judge that replies what it is told to, in order."""

    id, digest = "scripted", None

    def __init__(self, *replies: str | Reply) -> None:
        self.replies, self.asked = list(replies), []

    def ask(self, calls):
        self.asked += calls
        made = [self.replies.pop(0) for _ in calls]
        return [one if isinstance(one, Reply) else Reply(text=one) for one in made]


def said(first: object, rewrite: object, reason: str = "It is wrong.") -> str:
    return json.dumps({"reason": reason, "first_wrong": first, "rewrite": rewrite})


def read(text: str, response: str = ANSWER) -> str:
    return read_rewrite(Reply(text=text), response)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1+1=2\n\n2+2=4\n", ["1+1=2\n", "\n2+2=4\n"]),
        ("He was born. He died.", ["He was born.", " He died."]),
        ("It is 3.5 m. Yes?  No! ", ["It is 3.5 m.", " Yes?", "  No! "]),
        ("one line", ["one line"]),
        ("one line\n", ["one line\n"]),
        ("  \n ", []),
        ("", []),
    ],
)
def test_steps_are_lines_or_the_sentences_of_one(text, found):
    assert steps(text) == found


@pytest.mark.timeout(30)
@pytest.mark.parametrize("blank", [" ", "\n", " \n", "a ", "a.", "\n\t"])
def test_steps_are_found_in_linear_time(blank):
    text = blank * 200_000
    for told in (text, f"a.{text}", f"{text}a", f"a\n{text}\nb"):
        assert "".join(steps(told)) == (told if told.strip() else "")


@given(st.text(alphabet="ab .!?\n\t", max_size=40))
def test_steps_are_the_text(text):
    assert "".join(steps(text)) == (text if text.strip() else "")
    assert all(step.strip() for step in steps(text))


@pytest.mark.parametrize(
    ("rewrite", "number"),
    [
        (ANSWER, 0),
        (ANSWER + "\n", 0),
        ("3+4=7\n7*2=14\n#### 14", 1),
        ("3+4=8\n8*2=17\n#### 16", 2),
        ("3+4=8\n8*2=16", 3),
        (ANSWER + "\nDone.", 4),
    ],
)
def test_the_first_wrong_step_is_the_first_that_is_changed(rewrite, number):
    assert first_wrong(ANSWER, rewrite) == number


def test_the_steps_before_the_first_wrong_one_are_kept_as_they_are():
    assert read(said(2, "8*2=17\n#### 17")) == "3+4=8\n8*2=17\n#### 17"
    assert read(said("2", " 8*2=17 ")) == "3+4=8\n8*2=17"
    assert read(said(4, "Done.")) == f"{ANSWER}\nDone."
    assert read(said(2, "He died."), "He was born. He lived.") == "He was born. He died."
    assert read(said(2, "He died."), "He was born.") == "He was born. He died."
    assert read(said(1, "It is 7."), "") == "It is 7."
    fenced = f"Step 2 is wrong.\n```json\n{said(2, '8*2=17')}\n```"
    assert read(fenced) == "3+4=8\n8*2=17"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("I would rather not.", "no JSON"),
        ('{"first_wrong": 2, "rewrite": ', "not readable"),
        (said(0, "x"), "none of the 3"),
        (said(5, "x"), "none of the 3"),
        (said(10**30, "x"), "none of the 3"),
        (said(-1, "x"), "no first wrong step"),
        (said("two", "x"), "no first wrong step"),
        (said(1.5, "x"), "no first wrong step"),
        (said([1], "x"), "no first wrong step"),
        (said(None, "x"), "no first wrong step"),
        (said(2, ""), "writes nothing"),
        (said(2, "  "), "writes nothing"),
        (said(2, ["a", "b"]), "writes nothing"),
        (said(2, "x" * (MAX_REWRITE + 1)), "longer than"),
        ('{"rewrite": "x"}', "no first wrong step"),
        ('{"first_wrong": 1}', "writes nothing"),
        (json.dumps({"first_wrong": [{"rewrite": "x"}] * 3}), "no first wrong step"),
    ],
)
def test_a_reply_that_says_nothing_usable_has_a_reason(text, reason):
    with pytest.raises(UnparsableReplyError, match=reason):
        read(text)


def test_a_judge_that_failed_is_not_read():
    with pytest.raises(UnparsableReplyError, match="no route"):
        read_rewrite(Reply(text=said(1, "x"), failure="no route"), ANSWER)


@given(st.text(max_size=200))
def test_no_reply_breaks_the_reader(text):
    try:
        assert read(text).strip()
    except UnparsableReplyError as error:
        assert str(error)


def test_the_model_sees_numbered_steps_and_what_is_right():
    item = Item(task="t", split="train", index=0, prompt="What is 3+4, doubled?")
    call = rewriting_call(item, ANSWER, "3+4=7\n7*2=14")
    assert "1. 3+4=8\n2. 8*2=16\n3. #### 16" in call.prompt
    assert "3+4=7\n7*2=14" in call.prompt and item.prompt in call.prompt
    # What is shown cannot close its own markers: they hold a digest of it.
    other = rewriting_call(item, "[end of answered]", "")
    assert other.prompt.count("[end of answered]") == 1
    assert call.reply_schema["required"] == ["reason", "first_wrong", "rewrite"]


def task(**changes):
    fields = {"ground": lambda item, response: f"It is {item.reference['sum']}."} | changes
    return {"toy": dataclasses.replace(toy.TASK, **fields)}


def test_the_benchmark_teaches_where_it_can():
    def rewrite(item, sample, score):
        return None if "?" in sample.response else f"It is {item.reference['sum']}."

    judged = [
        toy.judged("It is 9.", 0.0),
        toy.judged("It is 4.", 1.0, repeat=1),  # right: nothing to teach
        toy.judged("What?", 0.0, repeat=2),
        toy.judged("It is 9.", 0.0, repeat=3),  # the same again
        toy.judged("It is 8.", None, repeat=4),  # unscored
    ]
    found = teach(judged, ITEMS, task(rewrite=rewrite), Rlmec())
    assert [(one.repeat, one.rewrite, one.first_wrong) for one in found] == [
        (0, "It is 4.", 1),
        (2, "", 0),
    ]
    assert found[1].reason == "the benchmark has no rewrite"


def test_what_the_benchmark_calls_wrong_is_no_correction():
    found = teach(
        [toy.judged("It is 9.", 0.0)], ITEMS, task(rewrite=lambda *_: "It is 3."), Rlmec()
    )
    assert found[0].rewrite == ""
    assert found[0].reason == "the rewrite does not reach the gold answer"


def test_a_language_model_teaches_the_rest_and_its_failures_are_counted(capsys):
    judge = Scripted(said(2, "It is 4."), "no idea", said(1, "It is 6."), Reply(failure="no route"))
    judged = [
        toy.judged("Let me see. It is 9.", 0.0),
        toy.judged("It is 9.", 0.0, repeat=1),
        toy.judged("It is 8.", 0.0, index=1),
        toy.judged("It is 7.", 0.0, index=2),
    ]
    found = teach(judged, ITEMS, task(), Rlmec(), judge)
    assert [one.rewrite for one in found] == ["Let me see. It is 4.", "", "", ""]
    assert [one.reason for one in found[1:]] == [
        "no JSON verdict", "the rewrite does not reach the gold answer", "no route",
    ]  # fmt: skip
    assert "3 of 4 wrong responses are not corrected" in capsys.readouterr().err


def test_the_judge_may_be_asked_in_place_of_the_benchmark():
    judge = Scripted(said(1, "It is surely 4."))
    own = task(rewrite=lambda *_: "It is 4.")
    found = teach([toy.judged("It is 9.", 0.0)], ITEMS, own, Rlmec(teacher="judge"), judge)
    assert found[0].rewrite == "It is surely 4."
    assert len(judge.asked) == 1


def test_without_a_reference_or_a_judge_there_is_a_reason():
    judged = [toy.judged("It is 9.", 0.0)]
    (blind,) = teach(judged, ITEMS, task(ground=lambda *_: ""), Rlmec(), Scripted())
    assert blind.reason == "nothing is known that is right"
    (alone,) = teach(judged, ITEMS, task(), Rlmec())
    assert alone.reason == "no judge was named"
