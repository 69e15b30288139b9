"""Calibrate a judge by human labels: measure its error, and correct its means.

People label a small random part of the items. These show the judge's error, by which its mean over
all items is corrected (`harness.stats.ppi`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import parse, read_jsonl
from harness.core.schema import JudgeRef, Metric, MetricResult, Record
from harness.core.scored import ScoredEvaluation
from harness.core.text import did_you_mean
from harness.judges.checks.saved import answers, draw, metrics
from harness.stats.intervals import item_values, summarize
from harness.stats.ppi import MIN_LABELLED, YES_NO, YES_NO_CHANGE, Numbers, corrected_mean

Labels = dict[str, dict[str, float]]
"""Metric -> item digest -> human label."""

TEXTS = ("prompt", "response")


class Label(Record):
    """One line of human labels: the item's index, and a value per labelled metric."""

    id: int = Field(ge=0)
    values: dict[str, float | None] = Field(description="None: not labelled, or does not apply")


class Calibration(Record):
    """One metric of a judge compared with people, with 95 % intervals over items."""

    metric: str
    of: Literal["mean", "change"] = Field(description="change: candidate minus baseline, by item")
    labelled: int = Field(description="items with a human label and a judge's score")
    unlabelled: int = Field(description="items with only a judge's score")
    judge: MetricResult = Field(description="the judge's mean over all items")
    judge_labelled: MetricResult = Field(description="the judge's mean over the labelled items")
    p_random: float | None = Field(
        description="two-sided p-value that the labelled items were drawn at random, from the "
        "judge's means over them and over the others (Welch's t); None if it cannot be computed"
    )
    human: MetricResult = Field(description="the human mean over the labelled items")
    bias: MetricResult = Field(description="judge minus human, over the labelled items")
    corrected: MetricResult = Field(description="estimate of the human mean over all items")
    weight: float = Field(description="lambda: weight of the judge; 0 ignores it")
    effective_n: float = Field(description="number of labels alone that would be as precise")
    correlation: MetricResult = Field(
        description="Pearson's r of judge and human, with Fisher's z interval"
    )


class Calibrations(Record):
    """A judge compared with people, per metric."""

    task: str
    judge: JudgeRef | None
    evaluation: str = Field(description="identity")
    baseline: str | None = Field(description="identity, if a change is calibrated")
    metrics: list[Calibration]
    too_few: dict[str, int] = Field(
        description="metric -> items with a label and a score, if these are too few"
    )


def sheet(
    saved: ScoredEvaluation, count: int | None, *, seed: int = 0, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Make a sheet for people to label: answers drawn by `seed`, with null per metric.

    `names` are the metrics, by default all that apply to the item. The sheet does not show the
    judge's scores, and only the first of an item's repeats. `read_labels` reads the labels back.

    Raises:
        UserError: there is no such metric.
    """
    known = saved.evaluation.definitions
    wanted = [_metric(name, known, "The sheet") for name in names] or metrics(saved)
    applies = {score.item: {*score.values, *score.unscored} for score in saved.scores}
    rows: dict[int, dict[str, Any]] = {}
    for item, sample in answers(saved, draw(saved.items, count, seed)):
        wanted_names = [metric.name for metric in wanted if metric.name in applies[item.digest]]
        rows.setdefault(
            item.index,
            {"id": item.index, "prompt": item.prompt, "response": sample.response}
            | dict.fromkeys(wanted_names),
        )
    return list(rows.values())


def read_labels(path: Path, saved: ScoredEvaluation) -> Labels:
    """Read human labels for `saved` from JSONL: {"id": index, metric: value, ...} per line.

    A null metric was not labelled, or does not apply. The texts of a `sheet` are ignored.

    Raises:
        UserError: a line is malformed, an item is unknown or repeated, a metric is unknown, or a
            value is outside the metric's range.
    """
    items = {item.index: item.digest for item in saved.items}
    known = saved.evaluation.definitions
    lines: dict[int, int] = {}
    labels: Labels = {}
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        values = {key: value for key, value in row.items() if key not in ("id", *TEXTS)}
        label = parse(Label, {"id": row.get("id"), "values": values}, where)
        if label.id not in items:
            raise UserError(f"{where}: the evaluation has no item with id {label.id}.")
        if label.id in lines:
            raise UserError(f"{where}: id {label.id} was there before, in line {lines[label.id]}.")
        lines[label.id] = number
        for name, value in label.values.items():
            metric = _metric(name, known, where)
            if value is None:
                continue
            low, high = metric.low, metric.high
            if low is not None and high is not None and not low <= value <= high:
                raise UserError(f"{where}: {name} is {value:g}, but runs from {low:g} to {high:g}.")
            labels.setdefault(name, {})[items[label.id]] = value
    if not labels:
        raise UserError(f"There are no labels in {path}.")
    return labels


def _metric(name: str, known: Mapping[str, Metric], where: str) -> Metric:
    if name not in known:
        raise UserError(
            f"{where}: there is no metric '{name}'.{did_you_mean(name, known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    return known[name]


def mean(saved: ScoredEvaluation, labels: Labels) -> Calibrations:
    """Return the mean of every labelled metric: by the judge, by people, and corrected.

    The labelled items have to be a random part of all. Repeats of an item are averaged on both
    sides, so the label of a repeated item is for its typical answer.

    Raises:
        UserError: no metric has `MIN_LABELLED` items with both a label and a judge's score.
    """
    return _calibrations(
        saved,
        "mean",
        {name: (human, item_values(saved.scores, name)) for name, human in labels.items()},
    )


def change(
    baseline: ScoredEvaluation,
    baseline_labels: Labels,
    candidate: ScoredEvaluation,
    candidate_labels: Labels,
) -> Calibrations:
    """Return the gain of `candidate` over `baseline` by item, where people labelled both.

    A metric counts for an item if both sides have a value.

    Raises:
        UserError: as `mean`; the evaluations differ in their items or their judge.
    """
    for field in ("task", "split", "dataset_digest", "judge"):
        if getattr(baseline.evaluation, field) != getattr(candidate.evaluation, field):
            raise UserError(
                f"The two evaluations differ in their {field}. Evaluate both in the same way."
            )
    shared = sorted(baseline_labels.keys() & candidate_labels.keys())
    if not shared:
        raise UserError("The two files of labels have no metric in common.")
    return _calibrations(
        candidate,
        "change",
        {
            name: (
                _difference(baseline_labels[name], candidate_labels[name]),
                _difference(
                    item_values(baseline.scores, name), item_values(candidate.scores, name)
                ),
            )
            for name in shared
        },
        baseline,
    )


def _difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {item: after[item] - before[item] for item in before if item in after}


def _calibrations(
    saved: ScoredEvaluation,
    of: Literal["mean", "change"],
    sides: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]],
    baseline: ScoredEvaluation | None = None,
) -> Calibrations:
    """Calibrate each metric of `sides`: metric -> (human values, judge's values) by item."""
    both = {name: len(human.keys() & judge.keys()) for name, (human, judge) in sides.items()}
    enough = [m for m in metrics(saved) if both.get(m.name, 0) >= MIN_LABELLED]
    if not enough:
        most = max(both, key=lambda name: both[name])
        raise UserError(
            f"{both[most]} items have both a human label and a judge's score of {most}; at least "
            f"{MIN_LABELLED} are needed. Label more items, chosen at random."
        )
    return Calibrations(
        task=saved.evaluation.task,
        judge=saved.evaluation.judge,
        evaluation=saved.evaluation.identity,
        baseline=baseline.evaluation.identity if baseline else None,
        metrics=[_calibrate(metric, of, *sides[metric.name]) for metric in enough],
        too_few={name: n for name, n in sorted(both.items()) if n < MIN_LABELLED},
    )


def _calibrate(
    metric: Metric,
    of: Literal["mean", "change"],
    human: Mapping[str, float],
    judge: Mapping[str, float],
) -> Calibration:
    both = [item for item in judge if item in human]
    rest = [judge[item] for item in judge if item not in human]
    y, f = np.array([human[item] for item in both]), np.array([judge[item] for item in both])
    whole = all(value.is_integer() for value in (*y.tolist(), *f.tolist(), *rest))
    outcomes = (YES_NO if of == "mean" else YES_NO_CHANGE) if metric.kind == "binary" else ()
    if metric.span is None:
        raise UserError(f"The range of {metric.name} is not known; its interval needs it.")
    estimate = corrected_mean(y, f, rest, outcomes=outcomes if whole else (), span=metric.span)
    return Calibration(
        metric=metric.name,
        of=of,
        labelled=len(both),
        unlabelled=len(rest),
        judge=summarize(list(judge.values())),
        judge_labelled=summarize(f.tolist()),
        p_random=_p_random(f, np.array(rest)),
        human=summarize(y.tolist()),
        bias=summarize((f - y).tolist()),
        corrected=MetricResult(
            mean=float(estimate.mean),
            stderr=float(estimate.stderr),
            low=float(estimate.low),
            high=float(estimate.high),
            n=len(both) + len(rest),
        ),
        weight=float(estimate.weight),
        effective_n=float(estimate.effective_n),
        correlation=_correlation(y, f),
    )


def _p_random(labelled: Numbers, others: Numbers) -> float | None:
    from scipy.stats import ttest_ind_from_stats

    if len(others) < 2 or np.ptp(labelled) == np.ptp(others) == 0:
        return None
    sides = [(x.mean(), x.std(ddof=1), len(x)) for x in (labelled, others)]
    return float(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue)


def _correlation(y: Numbers, f: Numbers) -> MetricResult:
    """Return Pearson's r with the interval tanh(atanh(r) -+ z / sqrt(n - 3)).

    None if one side is constant (R. Fisher, Metron 1, 1921).
    """
    from scipy.stats import pearsonr

    if np.ptp(y) == 0 or np.ptp(f) == 0:
        return MetricResult(mean=None, n=len(y))
    result = pearsonr(y, f)
    interval = result.confidence_interval(0.95)
    low, high = float(interval.low), float(interval.high)
    known = math.isfinite(low) and math.isfinite(high)
    return MetricResult(
        mean=float(result.statistic),
        low=low if known else None,
        high=high if known else None,
        n=len(y),
    )
