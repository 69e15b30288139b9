"""Compare several judges on the same answers: do they agree, and are they equally strict?

Their scores are not averaged, because a mean hides which judge changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from harness.core.errors import UserError
from harness.core.schema import JudgeRef, MetricResult, Record
from harness.core.scored import ScoredEvaluation
from harness.judges.checks.saved import metrics, require_same_answers
from harness.stats.agreement import LEVELS, Level, agreement

DRAWS = 1000


class Member(Record):
    """One judge of a panel."""

    name: str
    judge: JudgeRef | None = Field(description="None: the task is scored without a judge")
    evaluation: str = Field(description="identity of its evaluation")


class Alpha(Record):
    """Krippendorff's alpha with its 95 % interval; None if all values are the same."""

    alpha: float | None
    low: float | None
    high: float | None


class MetricAgreement(Record):
    """How much a panel agrees on one metric."""

    metric: str
    n: int = Field(description="answers that at least two judges scored")
    means: dict[str, MetricResult] = Field(
        description="member -> mean, which shows how strict it is"
    )
    alpha: dict[Level, Alpha] = Field(
        description="nominal: the same value; ordinal: the same order; interval: close values"
    )


class Panel(Record):
    """Several judges on the same answers to one task."""

    task: str
    samples_digest: str = Field(description="of the answers that all of them scored")
    members: list[Member]
    seed: int
    draws: int = Field(description="of the bootstrap over items that gives the intervals")
    metrics: list[MetricAgreement]


def agree(
    evaluations: Mapping[str, ScoredEvaluation], *, seed: int = 0, draws: int = DRAWS
) -> Panel:
    """Measure how much judges agree, per metric, from their evaluations of the same answers.

    `evaluations` is name -> evaluation. A metric is left out if no answer has values from two
    judges. Intervals are bootstrapped over items (`harness.stats.agreement`).

    Raises:
        UserError: there are fewer than two evaluations, or their answers differ.
    """
    if len(evaluations) < 2:
        raise UserError("One judge cannot disagree: name two evaluations or more.")
    first = next(iter(evaluations.values()))
    for other in evaluations.values():
        require_same_answers(first, other)
    rows = {(s.item, s.index, s.repeat): row for row, s in enumerate(first.samples)}
    clusters = [item for item, _, _ in rows]
    compared = []
    for metric in (known.name for known in metrics(first)):
        table = np.full((len(rows), len(evaluations)), math.nan)
        for column, saved in enumerate(evaluations.values()):
            for score in saved.scores:
                if metric in score.values:
                    table[rows[score.item, score.index, score.repeat], column] = score.values[
                        metric
                    ]
        if not (np.count_nonzero(~np.isnan(table), axis=1) >= 2).any():
            continue
        agreements = {
            level: agreement(table, level, clusters=clusters, draws=draws, seed=seed)
            for level in LEVELS
        }
        compared.append(
            MetricAgreement(
                metric=metric,
                n=agreements["interval"].n,
                means={
                    name: saved.evaluation.metrics[metric]
                    for name, saved in evaluations.items()
                    if metric in saved.evaluation.metrics
                },
                alpha={
                    level: Alpha(alpha=result.alpha, low=result.low, high=result.high)
                    for level, result in agreements.items()
                },
            )
        )
    return Panel(
        task=first.evaluation.task,
        samples_digest=first.evaluation.samples_digest,
        members=[
            Member(name=name, judge=saved.evaluation.judge, evaluation=saved.evaluation.identity)
            for name, saved in evaluations.items()
        ],
        seed=seed,
        draws=draws,
        metrics=compared,
    )
