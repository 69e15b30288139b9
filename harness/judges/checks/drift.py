"""Detect judge drift: compare scores of the same answers from before and after.

A judge can change under its name: a server loads other weights, a revision moves. The same answers
then get other scores, and a gate would attribute the difference to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from harness.core.errors import UserError
from harness.core.schema import JudgeRef, Metric, MetricResult, Record, Score
from harness.core.scored import ScoredEvaluation
from harness.judges.checks.saved import (
    answers,
    draw,
    exact_share,
    metrics,
    reference,
    require_same_answers,
)
from harness.stats import Estimate
from harness.stats.noninferiority import tango
from harness.stats.paired import Flags, ItemTable, Numbers, align, by_item, compare
from tasks.task import Judge, Task

Drifting = Literal["stable", "drifted", "unclear"]

MARGIN = 0.05
ANCHORS = 400
MAX_UNSCORED = 0.01


class MetricDrift(Record):
    """One metric before and after; `change` is after minus before, in the metric's unit."""

    metric: str
    verdict: Drifting
    n: int = Field(description="items scored both times")
    before: float | None
    after: float | None
    change: float | None
    low: float | None = Field(description="lower end of the 1 - 2 alpha interval of change")
    high: float | None
    margin: float = Field(description="largest change that still counts as stable")
    changed: MetricResult = Field(description="share of the items whose score changed")
    unscored: int = Field(description="items that lack at least one of the scores")


class Drift(Record):
    """A judge before and after, on re-asked items."""

    task: str
    evaluation: str = Field(description="identity of the earlier evaluation")
    before: JudgeRef | None
    after: JudgeRef | None
    anchors: int = Field(description="items scored again")
    alpha: float
    verdict: Drifting
    metrics: list[MetricDrift]


def between(
    before: ScoredEvaluation,
    after: ScoredEvaluation,
    *,
    margin: float = MARGIN,
    alpha: float = 0.05,
) -> Drift:
    """Compare the scores of two evaluations of the same answers.

    A metric is `stable` if the whole 1 - 2 alpha interval of its mean change is within `margin`, a
    share of the metric's range: two one-sided tests at level alpha (D. Schuirmann, J.
    Pharmacokinetics and Biopharmaceutics 15, 1987). It has `drifted` if the whole interval is
    outside, and is `unclear` otherwise, or if more than `MAX_UNSCORED` of the items lack one of the
    scores. The worst metric decides the judge's verdict.

    Raises:
        UserError: the evaluations have different answers, or the margin is not a share.
    """
    require_same_answers(before, after)
    return _drift(
        before,
        before.scores,
        after.scores,
        judge=after.evaluation.judge,
        margin=margin,
        alpha=alpha,
    )


def again(
    task: Task,
    before: ScoredEvaluation,
    judge: Judge,
    *,
    anchors: int | None = ANCHORS,
    seed: int = 0,
    margin: float = MARGIN,
    alpha: float = 0.05,
) -> Drift:
    """Let `judge` score the answers to `anchors` items of `before` again, and compare (`between`).

    The items are drawn by `seed`; None: all. Open the judge with `fresh`: cached replies prove
    nothing. If no score changes at all, a metric is stable from 59 items on at the default margin
    and level (52 if it is yes/no). `ANCHORS` is larger because only a fifth of Just-Eval is graded
    for safety.

    Raises:
        UserError: as `between`; or the evaluation is of another task.
    """
    if task.name != before.evaluation.task:
        raise UserError(f"The evaluation is of {before.evaluation.task}, not of {task.name}.")
    drawn = {item.digest for item in draw(before.items, anchors, seed)}
    chosen = [item for item in before.items if item.digest in drawn]
    now = task.score(answers(before, chosen), judge)
    then = [score for score in before.scores if score.item in drawn]
    return _drift(before, then, now, judge=reference(judge, task), margin=margin, alpha=alpha)


def _drift(
    before: ScoredEvaluation,
    then: Sequence[Score],
    now: Sequence[Score],
    *,
    judge: JudgeRef | None,
    margin: float,
    alpha: float,
) -> Drift:
    if not 0 < margin < 1:
        raise UserError(f"The margin is a share of a metric's range, such as 0.05, not {margin}.")
    compared = [
        metric for metric in metrics(before) if any(metric.name in score.values for score in then)
    ]
    if not compared:
        raise UserError(
            f"Nothing was scored in this evaluation of {before.evaluation.task}: "
            "judge it first, with `rlrf score`."
        )
    names = [metric.name for metric in compared]
    old, new = by_item(then, names), by_item(now, names)
    count = len(old.items)
    old, new = align(old, new, count)
    results = [
        _metric(metric, _column(old, k), _column(new, k), margin=margin, alpha=alpha)
        for k, metric in enumerate(compared)
    ]
    verdicts = {result.verdict for result in results}
    verdict: Drifting = "stable" if verdicts == {"stable"} else "unclear"
    return Drift(
        task=before.evaluation.task,
        evaluation=before.evaluation.identity,
        before=before.evaluation.judge,
        after=judge,
        anchors=count,
        alpha=alpha,
        verdict="drifted" if "drifted" in verdicts else verdict,
        metrics=results,
    )


def _column(table: ItemTable, k: int) -> tuple[Numbers, Flags]:
    return table.values[:, k], table.lost[:, k]


def _metric(
    metric: Metric,
    old: tuple[Numbers, Flags],
    new: tuple[Numbers, Flags],
    *,
    margin: float,
    alpha: float,
) -> MetricDrift:
    """`old` and `new`: values and whether they are lost, shape (items,) each."""
    if metric.span is None:
        raise UserError(f"The range of {metric.name} is not known; the margin is a share of it.")
    span = metric.span
    lost = old[1] | new[1]
    b, c = old[0][~lost], new[0][~lost]
    applies = ~(np.isnan(b) & np.isnan(c))
    b, c = b[applies], c[applies]
    same = np.isclose(b, c, rtol=0, atol=1e-9 * span)  # NaN on one side only is a change
    result = MetricDrift(
        metric=metric.name,
        verdict="unclear",
        n=len(b),
        before=None,
        after=None,
        change=None,
        low=None,
        high=None,
        margin=margin * span,
        changed=exact_share(int((~same).sum()), len(b)),
        unscored=int(lost.sum()),
    )
    if np.isnan(b).all() or np.isnan(c).all():
        return result
    estimate = _change(b, c, metric, margin * span, alpha)
    verdict: Drifting = "unclear"
    if lost.sum() <= MAX_UNSCORED * len(lost):
        if -result.margin < estimate.low and estimate.high < result.margin:
            verdict = "stable"
        elif estimate.low > result.margin or estimate.high < -result.margin:
            verdict = "drifted"
    return result.model_copy(
        update={
            "verdict": verdict,
            "before": float(np.nanmean(b)),
            "after": float(np.nanmean(c)),
            "change": estimate.delta,
            "low": estimate.low,
            "high": estimate.high,
        }
    )


def _change(
    before: Numbers, after: Numbers, metric: Metric, margin: float, alpha: float
) -> Estimate:
    """The estimate that the gate makes of the same numbers."""
    both = np.concatenate([before, after])
    if metric.kind == "binary" and np.isin(both, (0.0, 1.0)).all():
        gained, lost = int((after > before).sum()), int((after < before).sum())
        return tango(gained, lost, len(before), margin=margin, alpha=alpha)
    limits = (metric.low, metric.high)
    return compare(before, after, margin=margin, alpha=alpha, span=metric.span, limits=limits)
