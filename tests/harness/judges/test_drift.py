"""A judge that changed is seen, one that did not is called stable, and too little is unclear."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from helpers.scripted import ScriptedJudge, evaluated, grades, instructions, mini
from scipy.stats import beta, t

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call, Reply
from harness.core.scored import ScoredEvaluation
from harness.judges.checks.drift import again, between

TASK = tasks.load("just_eval")
N = 100


def town(call: Call) -> int:
    return int(call.prompt.split("town number ")[1].split("?")[0])


def judged(
    grade: Callable[[int], float | None], count: int = N, repeats: int = 1
) -> ScoredEvaluation:
    """Answers of which a judge grades that about town i as `grade(i)`; None: it fails."""

    def say(call: Call) -> str | Reply:
        given = grade(town(call))
        return Reply(failure="timed out") if given is None else grades(given)

    responses = ["It has a bridge."] * (count * repeats)
    return evaluated(TASK, instructions(count), responses, ScriptedJudge(say), repeats=repeats)


def usual(number: int) -> float:
    return 1 + number % 5


def overall(found: object) -> object:
    return next(one for one in found.metrics if one.metric == "overall")  # type: ignore[attr-defined]


def test_a_judge_that_says_the_same_is_stable() -> None:
    found = between(judged(usual), judged(usual))
    assert found.verdict == "stable"
    one = overall(found)
    assert (one.change, one.changed.mean, one.unscored, one.n) == (0, 0, 0, N)
    assert one.changed.high == pytest.approx(beta.ppf(0.975, 1, N))


def test_a_stricter_judge_has_drifted_by_how_much() -> None:
    """One item in two loses a grade: the change is -.5, of a range of 4."""
    found = between(judged(lambda i: 3.0), judged(lambda i: 3.0 - i % 2))
    one = overall(found)
    half = t.ppf(0.95, N - 1) * (N / 4 / (N - 1)) ** 0.5 / N**0.5
    assert (found.verdict, one.verdict) == ("drifted", "drifted")
    assert (one.before, one.after, one.margin) == (3.0, 2.5, pytest.approx(0.2))
    assert (one.low, one.high) == pytest.approx((-0.5 - half, -0.5 + half))
    assert one.changed.mean == 0.5
    assert next(m for m in found.metrics if m.metric == "words").verdict == "stable"


def test_noise_about_no_change_is_stable_and_still_shown() -> None:
    rng = random.Random(2)
    found = between(judged(lambda i: 3.0), judged(lambda i: 3.0 + rng.choice((-0.5, 0, 0.5))))
    one = overall(found)
    assert one.verdict == "stable"
    assert 0.5 < one.changed.mean < 0.8


def test_a_change_at_the_margin_is_unclear() -> None:
    found = between(judged(lambda i: 3.0), judged(lambda i: 3.0 - (i % 5 == 0)))  # -.2 of 4
    assert (found.verdict, overall(found).verdict) == ("unclear", "unclear")


def test_one_collapse_of_a_hundred_grades_is_not_stable() -> None:
    """Student's interval ends at -.11: one more such grade would be a surprise to it."""
    found = between(judged(lambda i: 5.0), judged(lambda i: 1.0 if i == 7 else 5.0))
    one = overall(found)
    assert one.change == pytest.approx(-0.04)
    assert one.low < -one.margin
    assert (found.verdict, one.verdict) == ("unclear", "unclear")


@pytest.mark.parametrize(("items", "verdict"), [(58, "unclear"), (59, "stable")])
def test_without_any_change_so_many_grades_are_needed(items: int, verdict: str) -> None:
    same = judged(lambda i: 5.0, items)
    assert overall(between(same, same)).verdict == verdict


def test_too_few_anchors_are_unclear() -> None:
    assert between(judged(usual, 12), judged(usual, 12)).verdict == "unclear"


def test_a_judge_that_now_fails_is_not_stable() -> None:
    found = between(judged(usual), judged(lambda i: None if i < 5 else usual(i)))
    one = overall(found)
    assert (found.verdict, one.unscored, one.n) == ("unclear", 5, 95)


def test_a_judge_that_now_finds_an_aspect_not_applicable_has_changed_it() -> None:
    def silent_on_facts(call: Call) -> str:
        return re.sub(r'("factuality": \{"reason": "[^"]*", "score": )[^}]*', r'\1"N/A"', grades(3))

    before = judged(lambda i: 3.0)
    found = again(TASK, before, ScriptedJudge(silent_on_facts))
    facts = next(one for one in found.metrics if one.metric == "factuality")
    assert (facts.changed.mean, facts.verdict, facts.after) == (1.0, "unclear", None)


def test_the_judge_is_asked_about_the_anchors_alone() -> None:
    before = judged(usual, repeats=2)
    judge = ScriptedJudge(lambda call: grades(usual(town(call))), digest="new")
    found = again(TASK, before, judge, anchors=60, seed=3)
    assert (found.anchors, len(judge.calls)) == (60, 120)
    assert found.verdict == "stable"
    assert found.before is not None and found.after is not None
    assert (found.before.digest, found.after.digest) == ("0", "new")
    assert found == again(TASK, before, judge, anchors=60, seed=3)
    assert len({town(call) for call in judge.calls}) == 60


def test_a_verifier_that_computes_does_not_drift() -> None:
    saved = mini("lazy", 320)
    found = between(saved, saved)
    assert found.verdict == "stable"
    assert found.before is None


def test_a_yes_no_metric_is_tested_as_the_gate_does() -> None:
    task = tasks.load("mini_gsm8k")
    items = task.items("sealed")[:100]
    right = [item.reference["answer"] for item in items]
    saved = evaluated(task, items, right)
    flipped = [s.model_copy(update={"values": {"accuracy": 0.0}}) for s in saved.scores[:30]]
    after = replace(saved, scores=[*flipped, *saved.scores[30:]])
    one = next(m for m in between(saved, after).metrics if m.metric == "accuracy")
    assert (one.verdict, one.change) == ("drifted", pytest.approx(-0.3))


def test_other_answers_are_refused() -> None:
    items = instructions(3)
    one, other = (evaluated(TASK, items, [text] * 3) for text in ("Yes.", "No."))
    with pytest.raises(UserError, match="different answers"):
        between(one, other)


def test_what_was_never_judged_cannot_drift() -> None:
    safe = evaluated(TASK, instructions(3, "safety"), ["No."] * 3)
    with pytest.raises(UserError, match="Nothing was scored"):
        between(safe, safe)
    with pytest.raises(UserError, match="The margin is a share"):
        between(judged(usual, 3), judged(usual, 3), margin=5)
