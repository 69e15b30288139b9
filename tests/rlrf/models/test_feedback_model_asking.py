"""What a feedback model is shown, and what becomes of good and bad replies."""

from __future__ import annotations

import pytest

from harness.core.schema import AspectFeedback, Feedback, Item
from harness.judges.critique import MAX_JUSTIFICATION
from harness.replies import UnparsableReplyError
from rlrf.models.feedback.model import MAX_REPLY, Asks, Subject, ask, read_reply, write_reply

ASPECTS = ["logical_correctness", "readability"]


class Words:
    """Renders a turn a line, and counts words."""

    def __init__(self, context: int = 1_000) -> None:
        self.context = context

    def render(self, messages):
        return "\n".join(f"{message.role}: {message.content}" for message in messages)

    def encode(self, text):
        return list(range(len(text.split())))


def asks(**changes):
    known = {"aspects": ASPECTS, "reference": True, "max_length": 1_000, "max_reply": 100}
    return Asks.model_validate(known | changes)


def subject(response="So 6.", reference="12 - 7 = 5"):
    item = Item(task="toy", split="train", index=0, prompt="What is 12 - 7?")
    return Subject(item, response, reference)


def graded(aspect, justification, grade):
    return AspectFeedback(aspect=aspect, justification=justification, grade=grade)


def test_question_answer_reference_and_request_are_a_conversation():
    prompt = ask(subject(), asks(), Words())
    turns = prompt.text.splitlines()
    assert turns[:3] == [
        "user: What is 12 - 7?",
        "assistant: So 6.",
        "user: What is right: 12 - 7 = 5",
    ]
    assert "logical_correctness, readability" in turns[3] and not prompt.cut


def test_the_reference_is_left_out_where_it_is_not_wanted_or_there_is_none():
    for prompt in (
        ask(subject(), asks(reference=False), Words()),
        ask(subject(reference=""), asks(), Words()),
    ):
        assert "right" not in prompt.text.replace("readability", "")


@pytest.mark.parametrize(
    ("response", "reference"),
    [("a " * 900, "b " * 900), ("a " * 900, "b"), ("a", "b " * 900), ("a " * 900, "")],
)
def test_what_is_too_long_loses_its_end_and_the_rest_fills_the_room(response, reference):
    settings, words = asks(), Words(context=300)
    prompt = ask(subject(f"first {response}", f"fact {reference}"), settings, words)
    room, most = settings.room(words)
    assert (room, most) == (200, 100)
    assert prompt.cut and room - 5 <= len(words.encode(prompt.text)) <= room
    assert "first" in prompt.text and "fact" in prompt.text
    given, shown = (prompt.text.split().count(word) for word in "ab")
    assert min(len(response.split()), 70) <= given and min(len(reference.split()), 70) <= shown


def test_a_question_that_leaves_no_room_is_not_asked():
    assert ask(subject(), asks(), Words(context=20)) is None


def test_a_reply_has_half_of_a_small_context_at_most():
    assert asks(max_reply=500).room(Words(context=300)) == (150, 150)


def test_feedback_is_written_and_read_back():
    feedback = Feedback(
        task="toy",
        item="0",
        aspects=[
            graded("readability", "First.\nThen [sic] a: second.", 1),
            graded("logical_correctness", "Line 2 should be 21-5=16", 0),
        ],
    )
    reply = write_reply(feedback)
    assert reply.splitlines()[1] == "logical_correctness: Line 2 should be 21-5=16 [0]"
    assert read_reply(reply, ASPECTS) == feedback.aspects


@pytest.mark.parametrize(
    "reply",
    [
        "logical_correctness: Wrong. [0]",
        "Sure! Here it is:\n- **Logical correctness**: Wrong. [0].\nI hope this helps: yes!",
        "style: Nice. [2]\nlogical correctness:   Wrong.   [ 0 ]",
        "logical_correctness: Wrong. [0]\nreadability: Nice [3]\nreadability: [2]\nreadabil",
    ],
)
def test_what_chat_models_put_around_a_reply_is_passed_over(reply):
    assert read_reply(reply, ASPECTS) == [graded("logical_correctness", "Wrong.", 0)]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "no line"),
        ("#### 12", "no line"),
        ("style: Nice. [2]", "no line"),
        ("readability: Nice. [3]", "no line"),
        ("readability: Nice.", "no line"),
        ("readability: [2]", "no line"),
        ("readability: Nice. [2]\nReadability: Poor. [0]", "readability is judged twice"),
    ],
)
def test_nonsense_has_its_reason(reply, why):
    with pytest.raises(UnparsableReplyError, match=why):
        read_reply(reply, ASPECTS)


def test_a_reply_without_end_is_bounded():
    (found,) = read_reply(f"readability: {'long ' * 900}[1]\n" + "x" * 10**6, ASPECTS)
    assert len(found.justification) == MAX_JUSTIFICATION
    with pytest.raises(UnparsableReplyError):
        read_reply("x" * MAX_REPLY + "\nreadability: Nice. [2]", ASPECTS)
