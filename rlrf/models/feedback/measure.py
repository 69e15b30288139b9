"""Measure how well feedback agrees with the judge's.

Answers to one prompt are not independent: shares are means over prompts of the prompts' means, with
intervals over prompts, and alpha has the interval of a bootstrap over prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from harness.core.schema import AspectFeedback, Feedback, MetricResult, Record, mean
from harness.render.numbers import percent, with_interval
from harness.render.table import table
from harness.stats.agreement import agreement
from harness.stats.intervals import summarize
from rlrf.models.feedback.cases import Case
from rlrf.models.feedback.model import single_spaced


class Alpha(Record):
    """Krippendorff's alpha of grades, with squared distance: 1 is agreement, 0 is chance."""

    alpha: float | None = Field(description="None if all grades are equal")
    low: float | None
    high: float | None
    n: int = Field(description="grades that both gave")


class Grades(Record):
    """Agreement on one aspect or all; a grade that the model does not give counts as wrong."""

    given: int = Field(description="grades of the judge")
    exact: MetricResult = Field(description="share of grades that equal the judge's")
    complaint: MetricResult = Field(
        description="share where both or neither complain: give a grade below 2"
    )
    same_words: MetricResult = Field(
        description="share of the judge's complaints that the model makes in the same words"
    )
    alpha: Alpha


class Measured(Record):
    """A model's feedback compared with the judge's on the same answers."""

    answers: int
    readable: MetricResult = Field(description="share of the replies")
    grade_error: MetricResult = Field(
        description="in readable replies, distance of the mean grade, in [0, 1], from the judge's"
    )
    overall: Grades
    aspects: dict[str, Grades]


class Comparison(Record):
    """A feedback model compared with the baselines that it must beat."""

    model: Measured
    usual: Measured = Field(description="the most frequent grade of each aspect")
    base: Measured | None = Field(default=None, description="the untrained model, same prompts")


_GradePair = tuple[str, AspectFeedback, AspectFeedback | None]  # prompt, judge's, model's


def measure(cases: Sequence[Case], feedbacks: Sequence[Feedback | None]) -> Measured:
    """Measure how `feedbacks`, one per case or None, agree with the judge's.

    Raises:
        ValueError: there are no cases, or the lengths differ.
    """
    if not cases:
        raise ValueError("there are no cases to measure on")
    grades: list[_GradePair] = []
    for case, feedback in zip(cases, feedbacks, strict=True):
        of_aspect = {one.aspect: one for one in feedback.aspects} if feedback else {}
        grades += [(case.prompt, one, of_aspect.get(one.aspect)) for one in case.feedback.aspects]
    names = sorted({one.aspect for _, one, _ in grades})
    return Measured(
        answers=len(cases),
        readable=_over_prompts(
            (c.prompt, float(f is not None)) for c, f in zip(cases, feedbacks, strict=True)
        ),
        grade_error=_over_prompts(
            (c.prompt, abs(f.grade - c.feedback.grade))
            for c, f in zip(cases, feedbacks, strict=True)
            if f is not None
        ),
        overall=_grades(grades),
        aspects={name: _grades([one for one in grades if one[1].aspect == name]) for name in names},
    )


def usual_feedback(cases: Sequence[Case], usual: Mapping[str, int]) -> list[Feedback]:
    """Give the aspects that the judge graded their usual grades, as a baseline."""
    return [
        case.feedback.model_copy(
            update={
                "aspects": [
                    AspectFeedback.model_validate(
                        {"aspect": one.aspect, "justification": "", "grade": usual[one.aspect]}
                    )
                    for one in case.feedback.aspects
                    if one.aspect in usual
                ]
            }
        )
        for case in cases
    ]


def _grades(grades: Sequence[_GradePair]) -> Grades:
    rated = [[j.grade, math.nan if m is None else m.grade] for _, j, m in grades]
    alpha = Alpha(alpha=None, low=None, high=None, n=0)
    if any(m for _, _, m in grades):
        result = agreement(rated, "interval", clusters=[prompt for prompt, _, _ in grades])
        alpha = Alpha(alpha=result.alpha, low=result.low, high=result.high, n=result.n)
    return Grades(
        given=len(grades),
        exact=_over_prompts((p, float(m is not None and m.grade == j.grade)) for p, j, m in grades),
        complaint=_over_prompts(
            (p, float(m is not None and (m.grade < 2) == (j.grade < 2))) for p, j, m in grades
        ),
        same_words=_over_prompts((p, float(_repeats(j, m))) for p, j, m in grades if j.grade < 2),
        alpha=alpha,
    )


def _repeats(judge: AspectFeedback, model: AspectFeedback | None) -> bool:
    return (
        model is not None
        and model.grade < 2
        and single_spaced(model.justification) == single_spaced(judge.justification)
    )


def _over_prompts(values: Iterable[tuple[str, float]]) -> MetricResult:
    """Average over prompts the means of each prompt; values and interval lie in [0, 1]."""
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for prompt, value in values:
        of_prompt[prompt].append(value)
    return summarize([mean(values) for values in of_prompt.values()], limits=(0.0, 1.0))


# Tables -------------------------------------------------------------------------------------------

HEAD = ["replies read", "grade as the judge's", "alpha", "complaint or not", "in the same words"]


def markdown(comparison: Comparison) -> str:
    """Write the tables: the model and its baselines, and aspect by aspect."""
    model, usual = comparison.model, comparison.usual
    rows = [["", *HEAD, "error of the mean grade"]]
    for name, one in {"trained": model, "untrained": comparison.base, "usual grade": usual}.items():
        if one is not None:
            read, error = percent(one.readable), percent(one.grade_error)
            rows.append([name, read, *_row(one.overall), error])
    aspects = [["aspect", "grades", *HEAD[1:], "usual grade is the judge's"]]
    for aspect, grades in model.aspects.items():
        exact = percent(usual.aspects[aspect].exact)
        aspects.append([aspect, str(grades.given), *_row(grades), exact])
    head = (
        f"{model.answers} held-out answers to {model.readable.n} prompts, {model.overall.given} "
        "grades; percent [95 % interval over prompts]"
    )
    return "\n\n".join([head, table(rows), table(aspects)])


def _row(one: Grades) -> list[str]:
    alpha = with_interval(one.alpha.alpha, one.alpha.low, one.alpha.high, ".2f")
    return [percent(one.exact), alpha, percent(one.complaint), percent(one.same_words)]
