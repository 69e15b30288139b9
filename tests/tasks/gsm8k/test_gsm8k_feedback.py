from __future__ import annotations

import pytest

from harness.core.schema import AspectFeedback, FinishReason, Item, Sample
from tasks.gsm8k.feedback import feedback
from tasks.gsm8k.scoring import score

ITEM = Item(
    task="gsm8k", split="train", index=0, prompt="How many?", reference={"answer": "#### 18"}
)
RIGHT = "16 - 7 = 9\n9 * 2 = 18\n#### 18"


def said(response: str, finish_reason: FinishReason | None = "stop") -> dict[str, AspectFeedback]:
    sample = Sample(
        task="gsm8k",
        item=ITEM.digest,
        index=0,
        prompt="",
        response=response,
        finish_reason=finish_reason,
        completion_tokens=7,
    )
    (result,) = score([(ITEM, sample)])
    found = feedback(ITEM, sample, result)
    assert (found.task, found.item) == ("gsm8k", ITEM.digest)
    return {aspect.aspect: aspect for aspect in found.aspects}


def test_a_good_answer_is_good_in_every_aspect() -> None:
    assert {name: a.grade for name, a in said(RIGHT).items()} == {
        "logical_correctness": 2,
        "completeness": 2,
        "readability": 2,
    }


@pytest.mark.parametrize(
    ("response", "grade", "words"),
    [
        (
            "16 - 7 = 9\n9 * 2 = 26\n#### 26",
            0,
            "step 2: 9 * 2 is 18, not 26; the final answer is 26, and 18 is expected.",
        ),
        ("16 - 7 = 8\n#### 18", 1, "step 1: 16 - 7 is 9, not 8; the final answer is right"),
        ("16 * 2 = 32\n#### 32", 1, "The arithmetic holds, but the final answer is 32, and 18 is"),
        ("#### 32", 0, "No step is shown, and the final answer is 32, and 18 is expected."),
        ("16 - 7 = 9\n", 1, "and 18 is expected"),
        ("I do not see it", 0, "No step is shown, and there is no final answer"),
        ("#### 18", 2, "the final answer is right"),
        (
            "#### 18:30",
            0,
            "No step is shown, and the final answer '18:30' is not one number, and 18",
        ),
    ],
)
def test_the_first_wrong_step_is_named(response: str, grade: int, words: str) -> None:
    aspect = said(response)["logical_correctness"]
    assert words in aspect.justification
    assert aspect.grade == grade


@pytest.mark.parametrize(
    ("response", "finish", "grade", "words"),
    [
        ("16 - 7 = 9", "length", 0, "cut off after 7 tokens"),
        ("nothing", "stop", 0, "End with a line `#### `"),
        ("9 * 2 = 18", "stop", 1, "End with a line `#### `"),
        ("#### 18", "stop", 1, "Show each step"),
        ("It is 18", "stop", 1, "End with a line `#### ` and the final number and show each step"),
    ],
)
def test_what_is_missing_is_asked_for(
    response: str, finish: FinishReason, grade: int, words: str
) -> None:
    aspect = said(response, finish)["completeness"]
    assert words in aspect.justification
    assert aspect.grade == grade


@pytest.mark.parametrize(
    ("response", "grade", "words"),
    [
        ("so on\n" * 5 + "#### 18", 0, "'so on' stands 5 times"),
        (RIGHT + "\nQuestion: And now?", 1, "Stop after the line"),
        ("1 + 2 = 3, 3 + 4 = 7, 7 + 11 = 18", 1, "a line of its own"),
        ("", 2, ""),
    ],
)
def test_unreadable_answers_are_marked_down(response: str, grade: int, words: str) -> None:
    aspect = said(response)["readability"]
    assert words in aspect.justification
    assert aspect.grade == grade


def test_worse_answers_get_worse_feedback() -> None:
    def grade(response: str) -> float:
        return sum(aspect.grade for aspect in said(response).values())

    assert grade(RIGHT) > grade("16 - 7 = 8\n#### 18") > grade("#### 32")
