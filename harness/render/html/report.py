"""Render the report of a run or of a comparison as a page.

`harness.render.html.comparison` and `rlrf.report` make a `Report` from evaluations.
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
from harness.render.html.figures import Curve, can_draw, curve, profile
from harness.render.html.page import render

MAX_TEXT_CHARS = 20_000  # of one text on a page
MAX_TOTAL_CHARS = 32_000_000  # of all texts: more takes a browser seconds to open
MIN_TEXT_CHARS = 200
MAX_REASONS = 3  # per metric, of why responses are unscored


@dataclass(frozen=True)
class Model:
    """A model of the report, with what became of it and a note that identifies it."""

    name: str
    outcome: str = ""
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """Results on one task; every list is in the order of the report's models."""

    evaluations: list[Evaluation]
    subgroups: dict[str, dict[str, list[MetricResult]]]  # tag key -> tag -> primary metric
    reasons: list[dict[str, dict[str, int]]]  # metric -> why unscored -> number of responses
    truncated: list[int]  # responses that the length limit ended
    responses: list[int]

    @property
    def task(self) -> str:
        return self.evaluations[0].task

    @property
    def primary(self) -> str:
        """The task's primary metric, or the first if none is primary."""
        known = self.evaluations[0].definitions
        return next((m.name for m in known.values() if m.primary), next(iter(known), ""))

    @property
    def own(self) -> list[str]:
        """Metrics with a value per item, the primary one first."""
        known = dict.fromkeys([self.primary, *self.evaluations[0].definitions])
        return [name for name in known if any(name in e.metrics for e in self.evaluations)]

    @property
    def derived(self) -> list[str]:
        """Metrics that are computed from all responses at once."""
        names = {name for evaluation in self.evaluations for name in evaluation.metrics}
        return sorted(names - set(self.own))

    def definition(self, metric: str) -> Metric | None:
        return self.evaluations[0].definitions.get(metric)

    def results(self, metric: str) -> list[MetricResult | None]:
        return [evaluation.metrics.get(metric) for evaluation in self.evaluations]


@dataclass(frozen=True)
class Gate:
    """The decisions on one candidate, as (against whom, decision)."""

    title: str
    outcome: str
    reasons: list[str]
    decisions: list[tuple[str, Decision]]


@dataclass(frozen=True)
class Table:
    """A plain table, where the first cell of a row is its head."""

    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class JudgeFinding:
    """A finding about a judge, with a verdict or ""."""

    title: str
    verdict: str
    table: Table


@dataclass(frozen=True)
class Answer:
    """A model's first response to an item, with the item's mean values."""

    response: str
    values: dict[str, float]
    unscored: dict[str, str]
    feedback: list[AspectFeedback]
    notes: list[str]


@dataclass(frozen=True)
class Question:
    """An item with every model's response, in the order of the report's models."""

    task: str
    index: int
    prompt: str
    reference: str
    tags: dict[str, list[str]]
    answers: list[Answer | None]


@dataclass(frozen=True)
class Report:
    """The content of a page; empty parts are left out."""

    kind: str
    title: str
    verdict: Verdict | None
    sentence: str
    findings: list[str]
    split: str
    models: list[Model]
    headline: list[tuple[str, str]]  # (task, metric)
    measured: list[Measured]
    questions: list[Question]
    compared: tuple[int, int] = (0, 1)  # positions of the models shown side by side at first
    curves: list[Curve] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    sealed: list[Gate] = field(default_factory=list)
    optimism: Table | None = None
    training: Table | None = None
    judge: list[JudgeFinding] = field(default_factory=list)


def report(content: Report) -> str:
    """Render the page of a report: HTML, the same bytes for the same report."""
    of_task = {measured.task: measured for measured in content.measured}
    return render(
        "report.html.jinja",
        data=_data(content) if content.questions else None,
        report=content,
        of_task=of_task,
        numbers=numbers,
        bars=bars,
        headline=[(of_task[task], metric) for task, metric in content.headline],
        curves=[
            (drawn, curve(drawn, f"curve-{k}") if can_draw() else "")
            for k, drawn in enumerate(content.curves)
        ],
        profiles=[
            (measured.task, _profile(content, measured, f"profile-{k}"))
            for k, measured in enumerate(content.measured)
        ],
        without_plots=not can_draw(),
        definition=lambda check: _definition(of_task, check),
        most=MAX_REASONS,
    )


def _definition(of_task: dict[str, Measured], check: Check) -> Metric | None:
    return of_task[check.task].definition(check.metric) if check.task in of_task else None


def _profile(content: Report, measured: Measured, name: str) -> str:
    """Draw the metrics on the scale of the primary one; "" if there are fewer than three.

    Also "" without matplotlib: the table next to it has the same numbers.
    """
    known = [measured.definition(name) for name in measured.own]
    metrics = [
        metric
        for metric in known
        if metric and metric.span is not None and _scale(metric) == _scale(known[0])
    ]
    if len(metrics) < 3 or not can_draw():
        return ""
    results = [
        [result or MetricResult(mean=None, n=0) for result in measured.results(metric.name)]
        for metric in metrics
    ]
    return profile(
        metrics,
        [model.name for model in content.models],
        results,
        name,
        f"{measured.task}: metrics on one scale",
    )


def _scale(metric: Metric | None) -> tuple[str, float | None, float | None, bool] | None:
    return (metric.kind, metric.low, metric.high, metric.higher_is_better) if metric else None


def _data(content: Report) -> dict[str, Any]:
    """Collect what the script reads: models, tasks, and the items with their responses."""
    limit = _limit(content.questions)
    return {
        "models": [model.name for model in content.models],
        "compared": list(content.compared),
        "tasks": [
            {
                "name": measured.task,
                "primary": measured.primary,
                "metrics": {
                    metric.name: 1 if metric.higher_is_better else -1
                    for metric in measured.evaluations[0].definitions.values()
                },
            }
            for measured in content.measured
        ],
        "items": [_question(question, limit) for question in content.questions],
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
            [aspect.aspect, aspect.grade, cut(aspect.justification, min(limit, 2_000))[0]]
            for aspect in answer.feedback
        ],
    }


def _limit(questions: Sequence[Question]) -> int:
    """Choose the characters shown per text, so that a browser can open all of them."""
    lengths = [
        len(text)
        for question in questions
        for text in (question.prompt, *(a.response for a in question.answers if a is not None))
    ]
    limit = MAX_TEXT_CHARS
    while (
        limit > MIN_TEXT_CHARS and sum(min(length, limit) for length in lengths) > MAX_TOTAL_CHARS
    ):
        limit //= 2
    return max(limit, MIN_TEXT_CHARS)
