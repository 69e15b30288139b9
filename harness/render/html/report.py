"""The report of a run or a comparison: what was found, how sure it is, and item by item why.

Whoever has evaluations makes a `Report` of them (`harness.reports.evaluations`, `rlrf.report`);
here it becomes a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.core.schema import (
    AspectFeedback,
    Check,
    Decision,
    Evaluation,
    Metric,
    MetricResult,
    Verdict,
)
from harness.core.text import cut
from harness.render import numbers
from harness.render.html import bars
from harness.render.html.figures import Curve, curve, profile
from harness.render.html.page import render

MAX_TEXT = 20_000  # characters of one text on a page
MAX_TOTAL = 32_000_000  # characters of all of them: more would take a browser seconds to open
MIN_TEXT = 200
REASONS = 3  # why answers are unscored: the most frequent ones


@dataclass(frozen=True)
class Model:
    """A column of the report; `outcome` says what became of it, `note` which model it is."""

    name: str
    outcome: str = ""
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """A task's numbers; every list is in the order of the report's models.

    `slices` are the primary metric over the items that carry a tag: key -> tag -> results.
    `reasons` say why answers have no value: metric -> reason -> answers. `ended` counts the answers
    that the length limit ended.
    """

    evaluations: list[Evaluation]
    slices: dict[str, dict[str, list[MetricResult]]]
    reasons: list[dict[str, dict[str, int]]]
    ended: list[int]
    answers: list[int]

    @property
    def task(self) -> str:
        return self.evaluations[0].task

    @property
    def primary(self) -> str:
        """The task's headline metric; where none is named, the first."""
        known = self.evaluations[0].definitions
        return next((m.name for m in known.values() if m.primary), next(iter(known), ""))

    @property
    def own(self) -> list[str]:
        """The metrics with a value per item, the primary one first."""
        known = dict.fromkeys([self.primary, *self.evaluations[0].definitions])
        return [name for name in known if any(name in e.metrics for e in self.evaluations)]

    @property
    def derived(self) -> list[str]:
        """The metrics that are made of all answers at once."""
        found = {name for evaluation in self.evaluations for name in evaluation.metrics}
        return sorted(found - set(self.own))

    def definition(self, metric: str) -> Metric | None:
        return self.evaluations[0].definitions.get(metric)

    def results(self, metric: str) -> list[MetricResult | None]:
        return [evaluation.metrics.get(metric) for evaluation in self.evaluations]


@dataclass(frozen=True)
class Gate:
    """A decision, or several on one candidate: (against whom, decision)."""

    title: str
    outcome: str
    reasons: list[str]
    decisions: list[tuple[str, Decision]]


@dataclass(frozen=True)
class Table:
    """A plain table; the first cell of a row is its head."""

    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class JudgeFinding:
    """What was found out about a judge; `verdict` where there is one."""

    title: str
    verdict: str
    table: Table


@dataclass(frozen=True)
class Answer:
    """What a model said to an item: the first of its repeats, with the item's mean values."""

    response: str
    values: dict[str, float]
    unscored: dict[str, str]
    feedback: list[AspectFeedback]
    notes: list[str]


@dataclass(frozen=True)
class Question:
    """An item with every model's answer, in the order of the report's models."""

    task: str
    index: int
    prompt: str
    reference: str
    tags: dict[str, list[str]]
    answers: list[Answer | None]


@dataclass(frozen=True)
class Report:
    """All that a page says; what is empty is left out.

    `headline` names (task, metric) pairs; `compared` the two models whose answers are side by side
    at first, as positions in `models`.
    """

    kind: str
    title: str
    verdict: Verdict | None
    sentence: str
    findings: list[str]
    split: str
    models: list[Model]
    headline: list[tuple[str, str]]
    measured: list[Measured]
    questions: list[Question]
    compared: tuple[int, int] = (0, 1)
    curves: list[Curve] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    sealed: list[Gate] = field(default_factory=list)
    optimism: Table | None = None
    training: Table | None = None
    judge: list[JudgeFinding] = field(default_factory=list)


def report(said: Report) -> str:
    """The page of a report: HTML, the same bytes for the same report."""
    of_task = {measured.task: measured for measured in said.measured}
    return render(
        "report.html.jinja",
        data=_data(said) if said.questions else None,
        said=said,
        of_task=of_task,
        numbers=numbers,
        bars=bars,
        headline=[(of_task[task], metric) for task, metric in said.headline],
        curves=[(one, curve(one, f"curve-{k}")) for k, one in enumerate(said.curves)],
        profiles=[
            (measured.task, _profile(said, measured, f"profile-{k}"))
            for k, measured in enumerate(said.measured)
        ],
        definition=lambda check: _definition(of_task, check),
        most=REASONS,
    )


def _definition(of_task: dict[str, Measured], check: Check) -> Metric | None:
    return of_task[check.task].definition(check.metric) if check.task in of_task else None


def _profile(said: Report, measured: Measured, name: str) -> str:
    """The metrics that share the primary one's scale, drawn; "" where that is no more than two."""
    known = [measured.definition(name) for name in measured.own]
    found = [
        metric
        for metric in known
        if metric and metric.span is not None and _scale(metric) == _scale(known[0])
    ]
    if len(found) < 3:
        return ""
    results = [
        [one or MetricResult(mean=None, n=0) for one in measured.results(metric.name)]
        for metric in found
    ]
    return profile(
        found,
        [model.name for model in said.models],
        results,
        name,
        f"{measured.task}: metrics on one scale",
    )


def _scale(metric: Metric | None) -> tuple[str, float | None, float | None, bool] | None:
    return (metric.kind, metric.low, metric.high, metric.higher_is_better) if metric else None


def _data(said: Report) -> dict[str, Any]:
    """What the script reads: models, tasks, and the items with their answers."""
    limit = _limit(said.questions)
    return {
        "models": [model.name for model in said.models],
        "compared": list(said.compared),
        "tasks": [
            {
                "name": measured.task,
                "primary": measured.primary,
                "metrics": {
                    metric.name: 1 if metric.higher_is_better else -1
                    for metric in measured.evaluations[0].definitions.values()
                },
            }
            for measured in said.measured
        ],
        "items": [_question(question, limit) for question in said.questions],
    }


def _question(question: Question, limit: int) -> dict[str, Any]:
    prompt, more = cut(question.prompt, limit)
    reference, _ = cut(question.reference, min(limit, 2_000))
    return {
        "task": question.task,
        "index": question.index,
        "prompt": prompt + (f"\n[{more}]" if more else ""),
        "reference": reference,
        "tags": [f"{key}: {tag}" for key, tags in sorted(question.tags.items()) for tag in tags],
        "answers": [_answer(answer, limit) for answer in question.answers],
    }


def _answer(answer: Answer | None, limit: int) -> dict[str, Any] | None:
    if answer is None:
        return None
    response, more = cut(answer.response, limit)
    return {
        "response": response,
        "notes": [*([more] if more else []), *answer.notes],
        "values": {name: round(value, 6) for name, value in answer.values.items()},
        "unscored": {name: cut(why, 300)[0] for name, why in answer.unscored.items()},
        "feedback": [
            [one.aspect, one.grade, cut(one.justification, min(limit, 2_000))[0]]
            for one in answer.feedback
        ],
    }


def _limit(questions: Sequence[Question]) -> int:
    """How much of each text is shown, so that all of them stay within what a browser opens."""
    lengths = [
        len(text)
        for question in questions
        for text in (question.prompt, *(a.response for a in question.answers if a is not None))
    ]
    limit = MAX_TEXT
    while limit > MIN_TEXT and sum(min(length, limit) for length in lengths) > MAX_TOTAL:
        limit //= 2
    return max(limit, MIN_TEXT)
