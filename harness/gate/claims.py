"""Compare what an evaluation claims with the scores that it was made from.

An evaluation folder and a leaderboard row both come from someone else. Every digest in them can be
right while the numbers are not: a value beyond the metric's range, more responses for the items
that were answered well, a metric that is read the wrong way round. The gate, `board add` and
`board verify` all ask here. Pure functions: no files, no installed tasks.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.core.schema import Evaluation, Item, Metric, MetricResult, Sample, Score, digest, mean
from harness.stats.paired import Numbers, ScoreColumns, columns

ROUNDING = 1e-9
_TASK = operator.attrgetter("task")


def contradictions(
    evaluation: Evaluation, scores: Sequence[Score], table: ScoreColumns | None = None
) -> list[str]:
    """List what the scores of an evaluation cannot be, given what the evaluation says of itself.

    Fewer responses than items contradict nothing; see `missing`. `table`: `scores` as columns of
    all defined metrics, where the caller has read them already.
    """
    table = table or columns(scores, evaluation.definitions)
    return [
        *_of_definitions(evaluation.definitions),
        *_of_items(evaluation, scores, table),
        *_of_values(evaluation, scores, table),
    ]


def missing(evaluation: Evaluation, scores: Sequence[Score]) -> str:
    """Say how many items have no response; "" if all have one."""
    answered = len({(score.index, score.item) for score in scores})
    if answered >= evaluation.items:
        return ""
    return (
        f"{evaluation.items} items of {evaluation.task} were asked and {answered} have a response"
    )


def misstated(evaluation: Evaluation, scores: Sequence[Score]) -> list[str]:
    """List the defined metrics whose recorded mean or count the scores do not give."""
    problems = []
    for name in sorted(evaluation.definitions):
        values: dict[str, list[float]] = {}
        for score in scores:
            if name in score.values:
                values.setdefault(score.item, []).append(score.values[name])
        again = mean([mean(repeats) for repeats in values.values()]) if values else None
        recorded = evaluation.metrics.get(name)
        if recorded is None and again is None:
            continue
        if recorded is None or not _same(recorded, again, len(values)):
            said = "nothing" if recorded is None else f"{recorded.mean} over {recorded.n} items"
            problems.append(
                f"{name} is recorded as {said}, and its scores give {again} over {len(values)}"
            )
    return problems


def redefined(evaluation: Evaluation, installed: Mapping[str, Metric]) -> list[str]:
    """List the metrics that the evaluation defines otherwise than the installed task does."""
    problems = []
    for name, metric in evaluation.definitions.items():
        if name not in installed:
            problems.append(
                f"{name} is not a metric of {evaluation.task} version {evaluation.task_version}"
            )
            continue
        ours, theirs = installed[name].meaning, metric.meaning
        problems += [
            f"{name} has {key} {theirs[key]!r}, and {evaluation.task} version "
            f"{evaluation.task_version} has {ours[key]!r}"
            for key in ours
            if ours[key] != theirs[key]
        ]
    if lacking := sorted(installed.keys() - evaluation.definitions.keys()):
        problems.append(
            f"{lacking[0]} is a metric of {evaluation.task} version {evaluation.task_version} and "
            "is not defined"
        )
    return problems


def mismatched(
    evaluation: Evaluation,
    scores: Sequence[Score],
    samples: Sequence[Sample],
    items: Sequence[Item],
) -> list[str]:
    """List what of items, samples and scores of one evaluation does not belong together."""
    problems = []
    asked = {(item.index, item.digest) for item in items}
    for what, records in (("sample", samples), ("score", scores)):
        strangers = [r for r in records if (r.index, r.item) not in asked]
        if strangers:
            problems.append(
                f"{len(strangers)} {what}s are of items that were not asked, the first of item "
                f"{strangers[0].index} ({strangers[0].item[:12]})"
            )
    sampled = Counter((s.index, s.item, s.repeat) for s in samples)
    scored = Counter((s.index, s.item, s.repeat) for s in scores)
    for what, counts in (("answered", sampled), ("scored", scored)):
        if len(counts) < counts.total():
            index, _, repeat = counts.most_common(1)[0][0]
            problems.append(f"item {index}, repeat {repeat}, is {what} twice")
    # Likelihoods are scored without a response, which only lm-eval's tasks do.
    lacking = scored - sampled if not evaluation.is_lm_eval else Counter()
    for what, other, more in (
        ("score", "response", lacking),
        ("response", "score", sampled - scored),
    ):
        if more:
            index, _, repeat = min(more)
            problems.append(
                f"{more.total()} {what}s have no {other}, the first of item {index}, "
                f"repeat {repeat}"
            )
    if any(sample.task != evaluation.task for sample in samples):
        problems.append(f"a sample is of another task than {evaluation.task}")
    return problems


def _of_definitions(definitions: Mapping[str, Metric]) -> Iterator[str]:
    for name, metric in definitions.items():
        if name != metric.name:
            yield f"the definition of {name} is that of {metric.name}"
        if metric.low is not None and metric.high is not None and metric.low >= metric.high:
            yield f"the range of {name}, {metric.low:g} to {metric.high:g}, is empty"
    primary = sorted(name for name, metric in definitions.items() if metric.primary)
    if len(primary) > 1:
        yield f"{primary[0]} and {primary[1]} are both called primary"


def _of_items(
    evaluation: Evaluation, scores: Sequence[Score], table: ScoreColumns
) -> Iterator[str]:
    strangers = {*map(_TASK, scores)} - {evaluation.task}
    if strangers:
        yield f"its scores name the task {min(strangers)!r}"
    answered = _answered(table)
    count = len(answered)
    if count > evaluation.items:
        yield f"it says that {evaluation.items} items were asked, and holds answers to {count}"
    if len({*table.indices}) < count:
        pairs = dict.fromkeys(zip(table.indices, table.items, strict=True))
        index = Counter(index for index, _ in pairs).most_common(1)[0][0]
        yield f"two items have the index {index}"
    if scores:
        yield from _of_repeats(evaluation, table, count)
    if scores and count == evaluation.items:
        asked = digest(answered)
        if asked != evaluation.dataset_digest:
            yield (
                f"its scores are of other items than those that were asked (their digest is "
                f"{asked[:12]}, dataset_digest is {evaluation.dataset_digest[:12]})"
            )


def _answered(table: ScoreColumns) -> list[str]:
    """List the items that have a score, in order of index."""
    indices, items = table.indices, table.items
    if len({*indices}) == len(indices):
        return [items[i] for i in sorted(range(len(indices)), key=indices.__getitem__)]
    return [item for _, item in sorted({*zip(indices, items, strict=True)})]


def _of_repeats(evaluation: Evaluation, table: ScoreColumns, answered: int) -> Iterator[str]:
    keys = [*table.keys] if len(table.items) > answered else []
    if len({*keys}) < len(keys):
        item, index, repeat = Counter(keys).most_common(1)[0][0]
        yield (
            f"the response to item {index} ({item[:12]}), repeat {repeat}, is scored twice. "
            "Remove one of the two, or number the repeats"
        )
        return
    repeats = len(table.items) // answered
    if keys:
        counts = Counter((index, item) for item, index, _ in keys).most_common()
        ((most, _), count), ((least, _), fewer) = counts[0], counts[-1]
        if fewer < count:
            yield (
                f"item {most} has {count} scored responses and item {least} has {fewer}; "
                "every item needs the same number"
            )
            return
    if not {*table.repeats} <= {*range(repeats)}:
        yield f"its {repeats} responses per item are not numbered from 0 to {repeats - 1}"
    if _said_repeats(evaluation) not in (None, repeats):
        yield (
            f"its decoding says {_said_repeats(evaluation)} responses per item, and "
            f"{repeats} are scored"
        )


def _said_repeats(evaluation: Evaluation) -> int | None:
    n = evaluation.decoding.get("n")
    return n if isinstance(n, int) and not isinstance(n, bool) else None


def _of_values(
    evaluation: Evaluation, scores: Sequence[Score], table: ScoreColumns
) -> Iterator[str]:
    unscored = table.unscored
    if both := {name for i, reasons in unscored for name in reasons if name in scores[i].values}:
        yield f"a score has both a value of {min(both)} and a reason why it has none"
    if not scores:
        return
    for name, metric in evaluation.definitions.items():
        values = table.values[name][~np.isnan(table.values[name])]
        if len(values):
            yield from _of_metric(metric.model_copy(update={"name": name}), values)
        elif metric.primary and not any(name in reasons for _, reasons in unscored):
            yield f"{name} is the primary metric, and no score has a value of it or says why not"


def _of_metric(metric: Metric, values: Numbers) -> Iterator[str]:
    if metric.kind == "binary":
        if len(other := values[(values != 0) & (values != 1)]):
            yield f"{metric.name} is a yes/no metric, and a score has the value {other[0]:g}"
        return
    low, high = float(values.min()), float(values.max())
    for value, beyond in (
        (low, metric.low is not None and low < metric.low - _slack(metric.low)),
        (high, metric.high is not None and high > metric.high + _slack(metric.high)),
    ):
        if beyond:
            yield (
                f"{metric.name} runs from {_end(metric.low)} to {_end(metric.high)}, and a score "
                f"has the value {value:g}"
            )


def _slack(end: float) -> float:
    return ROUNDING * max(1.0, abs(end))


def _end(value: float | None) -> str:
    return "anywhere" if value is None else f"{value:g}"


def _same(recorded: MetricResult, again: float | None, n: int) -> bool:
    if recorded.mean is None or again is None:
        return recorded.mean is None and again is None and recorded.n == n
    return recorded.n == n and math.isclose(recorded.mean, again, rel_tol=1e-9, abs_tol=1e-12)
