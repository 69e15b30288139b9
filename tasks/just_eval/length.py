"""Measure how much of a score is due to length, since judges prefer long answers.

Length is the natural logarithm of 1 + words: from 50 words to 100 counts about as much as from 100
to 200, and an empty answer has a length, too. Only regular instructions are counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist, linear_regression, pvariance
from statistics import correlation as pearson

from harness.core.schema import MetricResult, Score, mean
from harness.stats.distributions import student_quantile
from harness.stats.intervals import summarize
from tasks.just_eval.judging import REGULAR
from tasks.just_eval.scoring import official

# Between the geometric means of the answers of GPT-3.5 (109 words), Vicuna-7B (140) and Zephyr-7B
# (175), so that nothing is extrapolated. Part of the task's version.
REFERENCE_WORDS = 150
MIN_ITEMS = 4  # Fisher's interval has the error 1 / sqrt(n - 3)
NEARLY = 1e-9  # logarithms that differ by rounding are equal

Pair = tuple[float, float]  # (length, score), or the differences of both


def length_results(scores: Sequence[Score]) -> dict[str, MetricResult]:
    """Return `NAME_length_r` for `overall` and the regular aspects, and `overall_at_length`.

    The first is the correlation of score and length over items, with repeats averaged first; for a
    NAME that ends in `_official`, N/A counts as 5. The second is the score of an answer of
    `REFERENCE_WORDS` words: the intercept of the least-squares line of the score on the length
    beyond that.
    """
    counted = official(scores)
    columns = {name: _pairs(scores, name) for name in ("overall", *REGULAR)}
    columns |= {f"{aspect}_official": _pairs(counted, aspect) for aspect in REGULAR}
    results = {
        f"{name}_length_r": correlation(list(pairs.values()), unscored)
        for name, (pairs, unscored) in columns.items()
    }
    pairs, unscored = columns["overall"]
    reference = math.log1p(REFERENCE_WORDS)
    results["overall_at_length"] = intercept(
        [(length - reference, score) for length, score in pairs.values()], unscored
    )
    return results


def at_equal_length(baseline: Sequence[Score], candidate: Sequence[Score]) -> MetricResult:
    """Return the gain in `overall` at equal length.

    Item by item, the difference of the scores is regressed on the difference of the lengths; the
    intercept is the gain at equal length. It is the linear cousin of AlpacaEval's
    length-controlled win rate, which fits a logistic model and sets its length term to zero
    (Dubois et al., arXiv 2404.04475). Items without a score on either side are left out and counted
    as unscored. If the lengths all differ by the same amount, length and gain cannot be told apart,
    and there is no value.
    """
    before, _ = _pairs(baseline, "overall")
    after, _ = _pairs(candidate, "overall")
    items = {score.item for score in (*baseline, *candidate) if "words" in score.values}
    both = sorted(before.keys() & after.keys())
    return intercept(
        [(after[i][0] - before[i][0], after[i][1] - before[i][1]) for i in both],
        unscored=len(items) - len(both),
    )


def _pairs(scores: Sequence[Score], metric: str) -> tuple[dict[str, Pair], int]:
    """Return item -> mean (length, value) of its repeats, and the number of unscored ones."""
    by_item: dict[str, list[Pair]] = defaultdict(list)
    unscored = 0
    for score in scores:
        words = score.values.get("words")
        if words is None:
            continue  # a safety instruction
        if metric in score.values:
            by_item[score.item].append((math.log1p(words), score.values[metric]))
        unscored += metric in score.unscored
    return {
        item: (mean([x for x, _ in pairs]), mean([y for _, y in pairs]))
        for item, pairs in by_item.items()
    }, unscored


def correlation(pairs: Sequence[Pair], unscored: int = 0) -> MetricResult:
    """Return Pearson's r with Fisher's 95 % interval, tanh(atanh r +- 1.96 / sqrt(n - 3)).

    None for fewer than `MIN_ITEMS` pairs, or if either side does not vary. The interval is not
    symmetric, so there is no standard error.
    """
    n = len(pairs)
    lengths, values = [x for x, _ in pairs], [y for _, y in pairs]
    if n < MIN_ITEMS or _constant(lengths) or _constant(values):
        return MetricResult(mean=None, n=n, unscored=unscored)
    r = _pearson(lengths, values)
    middle = math.copysign(math.inf, r) if abs(r) == 1 else math.atanh(r)
    half = NormalDist().inv_cdf(0.975) / math.sqrt(n - 3)
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    return MetricResult(mean=r, low=low, high=high, n=n, unscored=unscored)


def intercept(pairs: Sequence[Pair], unscored: int = 0) -> MetricResult:
    """Return the intercept of the least-squares line through `pairs`; Student's t, n - 2 degrees.

    If all x are 0 or all y are equal, it is the mean of y. If all x are equal otherwise, or there
    are fewer than `MIN_ITEMS` pairs, there is no value.
    """
    n = len(pairs)
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    if all(abs(x) < NEARLY for x in xs):
        return summarize(ys, unscored)
    if n < MIN_ITEMS or _constant(xs):
        return MetricResult(mean=None, n=n, unscored=unscored)
    if _constant(ys):
        return summarize(ys, unscored)
    line = linear_regression(xs, ys)
    center, spread = line.intercept, pvariance(xs)
    unexplained = (1 - _pearson(xs, ys) ** 2) * pvariance(ys) / (n - 2)
    stderr = math.sqrt(unexplained * (1 + mean(xs) ** 2 / spread))
    half = student_quantile(n - 2, 0.975) * stderr
    return MetricResult(
        mean=center, stderr=stderr, low=center - half, high=center + half, n=n, unscored=unscored
    )


def _pearson(xs: Sequence[float], ys: Sequence[float]) -> float:
    return min(1.0, max(-1.0, pearson(xs, ys)))


def _constant(values: Sequence[float]) -> bool:
    return max(values) - min(values) < NEARLY
