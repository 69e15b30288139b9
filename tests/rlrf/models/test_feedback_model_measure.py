"""Agreement with the judge, counted by hand."""

from __future__ import annotations

import pytest
from helpers import judged

from rlrf.models.feedback.cases import usual_grades
from rlrf.models.feedback.measure import Comparison, markdown, measure, usual_feedback

CASES = judged.cases(4)  # good, poor, good, poor, ...


def said(case, grade):
    return judged.feedback(case.subject.item.digest, grade)


def test_the_judges_own_feedback_agrees_with_it():
    found = measure(CASES, [case.feedback for case in CASES])
    assert (found.answers, found.readable.mean, found.readable.n) == (8, 1, 4)
    assert found.grade_error.mean == 0
    for grades in (found.overall, found.aspects["sum"]):
        assert grades.exact.mean == grades.complaint.mean == grades.same_words.mean == 1
        assert grades.alpha.alpha == 1 and grades.exact.low < 1
    assert (found.overall.given, found.aspects["sum"].given) == (16, 8)
    assert found.aspects["tone"].alpha.alpha is None  # all grades are one


def test_what_the_model_does_not_say_counts_against_it():
    half = [case.feedback if n % 2 == 0 else None for n, case in enumerate(CASES)]
    found = measure(CASES, half)
    assert found.readable.mean == 0.5
    assert found.overall.exact.mean == found.overall.complaint.mean == 0.5
    assert found.overall.same_words.mean == pytest.approx(1 / 3)  # of the complaints of a prompt
    assert found.overall.alpha.n == 8 and found.grade_error.mean == 0
    only_tone = [c.feedback.model_copy(update={"aspects": c.feedback.aspects[1:]}) for c in CASES]
    assert measure(CASES, only_tone).aspects["sum"].exact.mean == 0


def test_a_near_miss_is_a_complaint_in_other_words():
    found = measure(CASES, [said(c, max(1, c.feedback.aspects[0].grade)) for c in CASES])
    assert found.aspects["sum"].exact.mean == 0.5  # the poor ones are called partly right
    assert found.aspects["sum"].complaint.mean == 1
    assert found.aspects["sum"].same_words.mean == 0
    assert found.grade_error.mean == pytest.approx(0.125)  # a quarter, of every second answer
    assert 0 < found.aspects["sum"].alpha.alpha < 1


def test_nothing_said_is_measured_too():
    found = measure(CASES, [None] * 8)
    assert found.overall.exact.mean == 0 and found.overall.alpha.alpha is None
    assert found.grade_error.mean is None


def test_intervals_are_over_prompts():
    few, many = (measure(c, [None] * len(c)).overall.exact for c in (CASES, judged.cases(40)))
    assert (few.n, many.n) == (4, 40) and many.high < few.high


def test_the_usual_grade_knows_the_aspects_and_not_the_answer():
    assert usual_grades(CASES) == {"sum": 0, "tone": 1}  # of equals the lower one
    found = measure(CASES, usual_feedback(CASES, {"sum": 0, "tone": 1}))
    assert (found.aspects["sum"].exact.mean, found.aspects["tone"].exact.mean) == (0.5, 1)
    assert found.overall.same_words.mean == 0
    assert measure(CASES, usual_feedback(CASES, {"tone": 1})).aspects["sum"].exact.mean == 0


def test_the_table_shows_the_model_beside_its_baselines():
    usual = measure(CASES, usual_feedback(CASES, {"sum": 0, "tone": 1}))
    told = markdown(Comparison(model=usual, usual=usual, base=measure(CASES, [None] * 8)))
    assert "8 held-out answers to 4 prompts, 16 grades" in told
    assert "| untrained   | 0.0 [" in told and "| sum " in told


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="no cases"):
        measure([], [])
