"""Judges of the same answers: agreement by metric, and which of them is strict."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from helpers.scripted import ScriptedJudge, evaluated, grades, instructions

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call, Reply
from harness.core.scored import ScoredEvaluation
from harness.judges.checks.panel import agree
from harness.stats.agreement import alpha

TASK = tasks.load("just_eval")
N = 60


def judged(
    given: list[float | None], repeats: int = 1, text: str = "It has a bridge."
) -> ScoredEvaluation:
    """Answers of which a judge gives the i-th `given[i]`; None: it fails."""
    told = iter(given)

    def say(call: Call) -> str | Reply:
        grade = next(told)
        return Reply(failure="timed out") if grade is None else grades(grade)

    items = instructions(len(given) // repeats)
    responses = [f"{text} {i}" for i in range(len(given))]
    return evaluated(TASK, items, responses, ScriptedJudge(say), repeats=repeats)


def some(seed: int, count: int = N) -> list[float | None]:
    rng = random.Random(seed)
    return [float(rng.randint(1, 5)) for _ in range(count)]


def test_alpha_is_that_of_the_judges_scores_missing_ones_left_out() -> None:
    first, second = some(1), some(2)
    second[:10] = first[:10]
    third = [*first[:40], *([None] * 20)]
    found = agree({"a": judged(first), "b": judged(second), "c": judged(third)}, draws=50)
    one = next(m for m in found.metrics if m.metric == "depth")
    table = np.array(
        [
            [math.nan if v is None else v for v in row]
            for row in zip(first, second, third, strict=True)
        ]
    )
    for level in ("nominal", "ordinal", "interval"):
        assert one.alpha[level].alpha == pytest.approx(alpha(table, level))
    assert one.n == N
    assert one.means["c"].n == 40
    assert one.means["c"].unscored == 20


def test_judges_of_one_mind_agree_fully() -> None:
    given = some(3)
    found = agree({"a": judged(given), "b": judged(given)}, draws=50)
    one = next(m for m in found.metrics if m.metric == "overall").alpha["interval"]
    assert (one.alpha, one.low, one.high) == (1, 1, 1)


def test_a_strict_judge_agrees_on_the_order_and_not_on_the_grade() -> None:
    given = [float(1 + i % 4) for i in range(N)]
    found = agree({"kind": judged([g + 1 for g in given if g]), "strict": judged(list(given))})
    one = next(m for m in found.metrics if m.metric == "depth")
    assert one.means["kind"].mean == pytest.approx(1 + (one.means["strict"].mean or 0))
    assert one.alpha["nominal"].alpha is not None
    assert one.alpha["nominal"].alpha < 0 < (one.alpha["interval"].low or 0)


def test_the_members_are_named_with_who_they_are() -> None:
    evaluations = {"a": judged(some(1)), "b": judged(some(2))}
    found = agree(evaluations, draws=20)
    assert [member.name for member in found.members] == ["a", "b"]
    assert found.members[0].evaluation == evaluations["a"].evaluation.identity
    assert found.members[0].judge == evaluations["a"].evaluation.judge
    assert found == agree(evaluations, draws=20)


def test_answers_to_one_item_are_drawn_together() -> None:
    given, other = some(4, 40), some(5, 40)
    other[:30] = given[:30]
    thrice = [[g for g in side for _ in range(3)] for side in (given, other)]
    once = agree({"a": judged(given), "b": judged(other)}, draws=400).metrics[0].alpha["interval"]
    repeated = agree({"a": judged(thrice[0], 3), "b": judged(thrice[1], 3)}, draws=400)
    clustered = repeated.metrics[0].alpha["interval"]
    assert once.low is not None and once.high is not None
    assert clustered.low == pytest.approx(once.low, abs=0.06)
    assert clustered.high == pytest.approx(once.high, abs=0.06)


def test_one_judge_and_other_answers_are_refused() -> None:
    with pytest.raises(UserError, match="One judge cannot disagree"):
        agree({"a": judged(some(1))})
    with pytest.raises(UserError, match="different answers"):
        agree({"a": judged(some(1)), "b": judged(some(1), text="No.")})
