"""Summarize scores: means over items with confidence intervals, also per subgroup."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.core.schema import Evaluation, Item, Metric, MetricResult, Policy, Score, mean
from harness.core.scored import ScoredEvaluation
from harness.stats.clusters import cautious_effect, groups
from harness.stats.distributions import student_quantile
from harness.stats.mean_bound import Limits, MeanBound, beyond, skewness
from harness.stats.repeats import reported_names, with_repeat_metrics


def item_values(scores: Sequence[Score], metric: str) -> dict[str, float]:
    """Return item digest -> mean over its repeats, for the items with a value of `metric`."""
    values: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if metric in score.values:
            values[score.item].append(score.values[metric])
    return {item: mean(repeats) for item, repeats in values.items()}


MIN_FOR_SKEW = 20  # fewer items do not show their skewness
MIN_FOR_STUDENT = 1000  # items for which Student's interval suffices, unless they are very skewed


def summarize(
    values: Sequence[float],
    unscored: int = 0,
    limits: Limits = (None, None),
    clusters: Sequence[object] | None = None,
) -> MetricResult:
    """Return the mean of `values` with its standard error and 95 % interval.

    For 0/1 values of a metric between 0 and 1 this is Wilson's score interval, which is right near
    0 and 1 (E. B. Wilson, JASA 1927); otherwise it is Student's t with n - 1 degrees of freedom. If
    the smallest and largest possible value, `limits`, are known, the interval stays within them. It
    is then at least as wide as values too rare to show among n could make it, and, from
    `MIN_FOR_SKEW` items on, as Hall's interval for skewed values (`harness.stats.mean_bound`). From
    `MIN_FOR_STUDENT` items on, Student's interval alone is used if n >= 16 skewness^2 (after W.
    Cochran, Sampling Techniques, 1977, section 2.15).

    `clusters` names the cluster of each value. The variance is then larger by the design effect
    (`harness.stats.clusters.cautious_effect`), the quantiles are Student's with one degree of
    freedom less than there are clusters, skewness is that of cluster sums, and n counts for as
    many independent values as have that variance. Clusters of unequal sizes count as n^2 / sum of
    n_g^2 (L. Kish, Survey Sampling, 1965). One cluster shows no spread: no interval.
    """
    n = len(values)
    if n == 0:
        return MetricResult(mean=None, n=0, unscored=unscored)
    center = mean(list(values))
    group = groups(clusters, n)
    count = int(group.max()) + 1
    named = count if clusters is not None else None
    if count == 1:
        return MetricResult(mean=center, n=n, unscored=unscored, clusters=named)
    units = np.asarray(values, dtype=np.float64)
    effect = cautious_effect(units, group)
    stderr = math.sqrt(math.fsum((v - center) ** 2 for v in values) / (n - 1) / n)
    stderr *= math.sqrt(effect)
    if count < n:
        units = np.bincount(group, units - center).astype(np.float64)
    skew = skewness(units)
    evenly = max(2, n * n // int(np.square(np.bincount(group)).sum()))
    sample = MeanBound(center, stderr, evenly, skew, -math.inf, n / effect)
    if limits in ((0.0, 1.0), (None, None)) and all(v in (0.0, 1.0) for v in values):
        z = student_quantile(math.inf if count == n else evenly - 1, 0.975)
        low, high = _wilson(center, n / effect, z)
        if count < n:
            below, above = sample.skew(0.025), -_negated(sample).skew(0.025)
            low, high = max(0.0, min(low, below)), min(1.0, max(high, above))
    else:
        low, high = _interval(values, sample, limits)
    return MetricResult(
        mean=center, stderr=stderr, low=low, high=high, n=n, unscored=unscored, clusters=named
    )


def _negated(sample: MeanBound) -> MeanBound:
    return replace(sample, mean=-sample.mean, skewness=-sample.skewness)


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _interval(values: Sequence[float], sample: MeanBound, limits: Limits) -> tuple[float, float]:
    """Return the interval of graded values, whose mean and spread are in `sample`."""
    spread = sample.stderr > 1e-12 * abs(sample.mean)
    enough = spread and sample.count >= max(MIN_FOR_STUDENT, 16 * sample.skewness * sample.skewness)
    ends = []
    for sign, limit in zip((1, -1), limits, strict=True):
        known = limit is not None and not beyond(limit, values)
        worst = sign * limit if known and limit is not None else -math.inf
        side = replace(sample if sign > 0 else _negated(sample), worst=worst)
        bound = side.student(0.025)
        if known and not enough:
            bound = min(bound, side.unseen(0.05))
            if sample.count >= MIN_FOR_SKEW:
                bound = min(bound, side.skew(0.025))
        ends.append(sign * max(bound, worst))
    return ends[0], ends[1]


def students_interval(found: MetricResult) -> MetricResult:
    """Return the result with Student's interval, as older evaluations stored it.

    Their 0/1 metrics have Wilson's interval, which this does not restore.
    """
    if found.mean is None or found.stderr is None:
        return found
    half = student_quantile(found.n - 1, 0.975) * found.stderr
    return found.model_copy(update={"low": found.mean - half, "high": found.mean + half})


def aggregate(
    scores: Sequence[Score],
    definitions: Mapping[str, Metric] | None = None,
    clusters: Mapping[str, int] | None = None,
) -> dict[str, MetricResult]:
    """Return every metric in `scores` over items, with repeats averaged first.

    `definitions` give the range of each metric, and `clusters` the cluster of each item by its
    digest; without clusters, items are independent.
    """
    names = sorted({name for s in scores for name in (*s.values, *s.unscored)})
    known = {name: (m.low, m.high) for name, m in (definitions or {}).items()}
    results = {}
    for name in names:
        values = item_values(scores, name)
        results[name] = summarize(
            list(values.values()),
            unscored=sum(name in s.unscored for s in scores),
            limits=known.get(name, (None, None)),
            clusters=[clusters[item] for item in values] if clusters is not None else None,
        )
    return results


def aggregate_repeats(
    scored: ScoredEvaluation, names: Sequence[str] | None = None
) -> dict[str, MetricResult]:
    """Return the metrics of several responses per item: `names`, or those that are reported.

    Raises:
        UserError: as `harness.stats.repeats.with_repeat_metrics`.
    """
    results: dict[str, MetricResult] = {}
    names = reported_names(scored) if names is None else names
    counted = with_repeat_metrics(scored, names)
    known = counted.evaluation.definitions
    for name in names:
        if name in known:
            lean = [only_metric(score, name) for score in counted.scores]
            results |= aggregate(lean, {name: known[name]})
    return results


def with_repeats(scored: ScoredEvaluation) -> ScoredEvaluation:
    """Add the metrics of several responses per item that are reported to those of an evaluation."""
    counted = aggregate_repeats(scored)
    if not counted:
        return scored
    results = scored.evaluation.metrics | counted
    return replace(scored, evaluation=scored.evaluation.model_copy(update={"metrics": results}))


def aggregate_by_policy(
    evaluation: Evaluation,
    scores: Sequence[Score],
    policy: Policy,
    clusters: Mapping[str, Mapping[str, int]],
) -> dict[str, MetricResult]:
    """Return the metrics of an evaluation and its rules, with intervals clustered by the policy.

    `clusters` numbers the cluster of each item of the task: cluster key -> item -> number.
    """
    results = dict(evaluation.metrics)
    rules = [rule for rule in policy.rules if rule.task == evaluation.task]
    counted = with_repeat_metrics(
        ScoredEvaluation(evaluation, scores), [rule.metric for rule in rules]
    )
    known = counted.evaluation.definitions
    for rule in rules:
        numbers = clusters.get(policy.cluster_of(rule) or "")
        if rule.metric in known and (numbers is not None or rule.metric not in results):
            lean = [only_metric(score, rule.metric) for score in counted.scores]
            results |= aggregate(lean, {rule.metric: known[rule.metric]}, numbers)
    return results


def only_metric(score: Score, metric: str) -> Score:
    """Return the score with the value, or the reason for none, of one metric alone."""
    return score.model_copy(
        update={
            "values": {name: v for name, v in score.values.items() if name == metric},
            "unscored": {name: why for name, why in score.unscored.items() if name == metric},
        }
    )


def subgroups(
    items: Sequence[Item],
    scores: Sequence[Score],
    by: str,
    definitions: Mapping[str, Metric] | None = None,
    clusters: Mapping[str, int] | None = None,
) -> dict[str, dict[str, MetricResult]]:
    """Return tag -> every metric over the items with that tag under `by`.

    An item with several tags counts in each of these subgroups.

    `definitions` and `clusters` are as in `aggregate`.
    """
    tagged: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for tag in item.tags.get(by, []):
            tagged[tag].add(item.digest)
    return {
        tag: aggregate([s for s in scores if s.item in digests], definitions, clusters)
        for tag, digests in sorted(tagged.items())
    }
