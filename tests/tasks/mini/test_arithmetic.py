"""Arithmetic feedback: the first wrong line, what it should be, and missing steps."""

from __future__ import annotations

import random

from harness.core.schema import Sample, Score
from tasks.mini import arithmetic

ITEM = arithmetic.item("gate", 0, random.Random("chain"))
LINES = ITEM.reference["answer"].splitlines()


def feedback(text: str, accuracy: float) -> dict[str, tuple[int, str]]:
    sample = Sample(task=ITEM.task, item=ITEM.digest, index=0, prompt="", response=text)
    score = Score(task=ITEM.task, item=ITEM.digest, index=0, values={"accuracy": accuracy})
    given = arithmetic.feedback(ITEM, sample, score)
    return {a.aspect: (a.grade, a.justification) for a in given.aspects}


def test_the_reference_needs_no_feedback() -> None:
    assert [grade for grade, _ in feedback("\n".join(LINES), 1.0).values()] == [2, 2]


def test_the_first_wrong_line_is_named_and_put_right() -> None:
    text = "\n".join([LINES[0], "1+1=3", *LINES[2:]])
    assert feedback(text, 0.0)["logical_correctness"] == (0, f"Line 2 should be {LINES[1]}")


def test_a_guess_is_asked_for_its_steps() -> None:
    given = feedback("#### 7", 0.0)
    assert given["completeness"] == (0, "Show each step.")
    assert given["logical_correctness"][0] == 0


def test_a_lucky_guess_is_not_good() -> None:
    given = feedback(LINES[-1], 1.0)
    assert given["logical_correctness"][0] == 1
    assert given["completeness"][0] == 0


def test_an_answer_cut_off_is_told_its_last_line() -> None:
    given = feedback("\n".join(LINES[:-1]), 0.0)
    assert given["logical_correctness"] == (0, f"The last line should be {LINES[-1]}")
