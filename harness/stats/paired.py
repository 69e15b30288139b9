"""Paired comparison: scores to item means, item means to a gain with its uncertainty.

Both sides answered the same items, so an item is compared with itself. Repeats of an item are
averaged first: answers to one prompt are not independent, and only items count as evidence.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from harness.errors import UserError
from harness.schema import Score
from harness.stats import Estimate
from harness.stats.clusters import groups
from harness.stats.noninferiority import unseen_change

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FEW_CLUSTERS = 10


@dataclass(frozen=True)
class ItemTable:
    """The scores of one evaluation by item. Shapes: items in order of digest, then metrics.

    `values` is the mean over the repeats that have a value and NaN where none has; `lost` is True
    where the value is missing: unscored for a reason, or never returned. An item with neither is
    one to which the metric does not apply (the model abstained, the judge said N/A).
    """

    items: list[str]
    values: Numbers
    lost: Flags
    unscored: Numbers  # (metrics,): share of the answers that have a reason instead of a value
    reasons: list[str]  # (metrics,): the first such reason
    answered: int  # items as they were asked: one that was asked twice counts twice


def by_item(scores: Sequence[Score], metrics: Sequence[str]) -> ItemTable:
    """Gather `scores` by item digest, one column for each of `metrics`.

    Raises:
        UserError: an answer (item, index, repeat) was scored twice.
    """
    if not scores:
        none = np.empty((0, len(metrics)))
        return ItemTable(
            [], none, none.astype(bool), np.zeros(len(metrics)), [""] * len(metrics), 0
        )
    keys = [(score.item, score.index, score.repeat) for score in scores]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    items = [keys[i][0] for i in order]
    starts = np.flatnonzero([True, *map(operator.ne, items, items[1:])])
    asked = len(starts)
    if asked < len(keys):
        asked = len({(item, index) for item, index, _ in keys})
        for here, after in itertools.pairwise(order):
            if keys[here] == keys[after]:
                item, index, repeat = keys[here]
                raise UserError(
                    f"The answer to item {index} ({item[:12]}), repeat {repeat}, is scored twice. "
                    "Remove one of the two, or number the repeats."
                )
    values = matrix(scores, metrics)[order]
    unscored = [(i, score.unscored) for i, score in enumerate(scores) if score.unscored]
    reasons = np.zeros(values.shape, dtype=bool)
    for column, metric in enumerate(metrics):
        reasons[[i for i, row in unscored if metric in row], column] = True
    known = ~np.isnan(values)
    count = np.add.reduceat(known.astype(np.float64), starts)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        means = np.add.reduceat(np.where(known, values, 0.0), starts) / count
    return ItemTable(
        items=[items[i] for i in starts],
        values=means,
        lost=(count == 0) & np.logical_or.reduceat(reasons[order], starts),
        unscored=reasons.mean(axis=0),
        reasons=[next((row[m] for _, row in unscored if m in row), "") for m in metrics],
        answered=asked,
    )


def matrix(scores: Sequence[Score], metrics: Sequence[str]) -> Numbers:
    """Arrange the values of `scores`, shape (scores, metrics); NaN where there is none."""
    pick = operator.itemgetter(*metrics)  # a row in one call: most of what a large gate costs
    try:
        rows = [pick(score.values) for score in scores]
    except KeyError:
        absent = dict.fromkeys(metrics, math.nan)
        rows = [pick(absent | score.values) for score in scores]
    return np.array(rows, dtype=np.float64).reshape(len(scores), len(metrics))


def align(baseline: ItemTable, candidate: ItemTable, asked: int) -> tuple[ItemTable, ItemTable]:
    """Both tables over all items that either answered; an item without an answer is lost.

    `asked` is how many items each side was asked.

    Raises:
        UserError: together they hold more items than were asked, so they cannot have been asked
            the same.
    """
    if baseline.items == candidate.items:
        return baseline, candidate
    items = sorted({*baseline.items, *candidate.items})
    if len(items) > asked:
        stranger = min({*candidate.items} ^ {*baseline.items})
        raise UserError(
            f"Baseline and candidate did not answer the same items: {asked} were asked, together "
            f"they answer {len(items)} (item {stranger[:12]} is on one side only). "
            "Evaluate both on the same items."
        )
    return _over(baseline, items), _over(candidate, items)


def _over(table: ItemTable, items: list[str]) -> ItemTable:
    place = {item: row for row, item in enumerate(items)}
    rows = [place[item] for item in table.items]
    shape = (len(items), table.values.shape[1])
    values, lost = np.full(shape, math.nan), np.full(shape, True)
    values[rows], lost[rows] = table.values, table.lost
    return replace(table, items=items, values=values, lost=lost)


def gain(
    baseline: npt.ArrayLike, candidate: npt.ArrayLike, clusters: Sequence[object] | None = None
) -> tuple[float, float, int]:
    """Difference of the two means, its standard error, and how many clusters speak to it.

    `baseline` and `candidate`, shape (items,), have NaN where a metric does not apply; each mean
    is over the items where it applies. Item i moves the difference by

        u_i = [c_i applies] (c_i - mean c) / n_c - [b_i applies] (b_i - mean b) / n_b

    and SE = sqrt(G / (G - 1) sum_g (sum_{i in g} u_i)^2) over the G clusters (linearised ratio of
    means, W. Cochran, Sampling Techniques, 1977, chapter 6). Where the metric applies to the same
    items on both sides u_i = (d_i - mean d) / n, and this is the clustered paired standard error
    of E. Miller, arXiv 2411.00640, section 2.2. Items are clusters of their own by default. One
    cluster shows no spread: its standard error is 0, and `compare` does not trust it.

    Raises:
        UserError: the metric applies to no item of a side, or clusters and items do not match.
    """
    b = np.asarray(baseline, dtype=np.float64)
    c = np.asarray(candidate, dtype=np.float64)
    in_b, in_c = ~np.isnan(b), ~np.isnan(c)
    if not (in_b.any() and in_c.any()):
        raise UserError("There is nothing to compare: the metric has no value on one side.")
    mean_b, mean_c = float(b[in_b].mean()), float(c[in_c].mean())
    moves = np.where(in_c, c - mean_c, 0) / in_c.sum() - np.where(in_b, b - mean_b, 0) / in_b.sum()
    group = groups(clusters, len(b))[in_b | in_c]
    _, group = np.unique(group, return_inverse=True)
    sums = np.bincount(group, weights=moves[in_b | in_c])
    count = len(sums)
    stderr = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) if count > 1 else 0.0
    return mean_c - mean_b, stderr, count


def compare(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    margin: float,
    alpha: float,
    span: float | None,
    clusters: Sequence[object] | None = None,
) -> Estimate:
    """Test that the candidate's mean is at most `margin` below the baseline's.

    From `FEW_CLUSTERS` clusters on: Student's t with G - 1 degrees of freedom on `gain`. With
    fewer: the sign-flip permutation test on cluster sums. Where no item differs from the others,
    the interval reaches as far as `unseen_change` of the items could move it if each changed by
    `span`, the width of the metric's range: ten equal pairs prove nothing. Without a known range
    (`span` is None) there is no such bound, and the interval is infinite.

    Raises:
        UserError: as `gain`.
    """
    b = np.asarray(baseline, dtype=np.float64)
    c = np.asarray(candidate, dtype=np.float64)
    delta, stderr, count = gain(b, c, clusters)
    if stderr <= 1e-9 * _scale(span, b, c):
        if span is None:
            return Estimate("none: no spread", delta, 0.0, -math.inf, math.inf, 1.0, 1.0)
        reach = span * unseen_change(count, alpha)
        return Estimate(
            test="bound without spread",
            delta=delta,
            stderr=0.0,
            low=delta - reach,
            high=delta + reach,
            # The level at which that bound would touch the margin, and zero.
            p_value=_p_without_spread(delta + margin, span, count),
            p_zero=min(1.0, 2 * _p_without_spread(abs(delta), span, count)),
        )
    if count < FEW_CLUSTERS:
        sums, sizes = _cluster_sums(c - b, groups(clusters, len(b)))
        if not np.array_equal(np.isnan(b), np.isnan(c)):
            sums = sums[:0]  # no sign to flip where an item has one side only
        low, high, p_value, p_zero = _sign_flip(sums, sizes, margin, alpha, span)
        return Estimate("sign-flip permutation", delta, stderr, low, high, p_value, p_zero)
    from scipy.special import stdtr, stdtrit

    freedom = count - 1
    half = float(stdtrit(freedom, 1 - alpha)) * stderr
    return Estimate(
        test="clustered t",
        delta=delta,
        stderr=stderr,
        low=delta - half,
        high=delta + half,
        p_value=float(stdtr(freedom, -(delta + margin) / stderr)),
        p_zero=2 * float(stdtr(freedom, -abs(delta) / stderr)),
    )


def _scale(span: float | None, *values: Numbers) -> float:
    """The size that rounding is judged by: the range, or the largest value where none is known."""
    return span if span is not None else max(float(np.nanmax(np.abs(v))) for v in values)


def _p_without_spread(distance: float, span: float, count: int) -> float:
    share = min(abs(distance) / span, 1.0)
    z = math.inf if share == 1 else math.sqrt(count * share / (1 - share))
    return NormalDist().cdf(-math.copysign(z, distance))


def _cluster_sums(differences: Numbers, group: npt.NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    known = ~np.isnan(differences)
    _, group = np.unique(group[known], return_inverse=True)
    sums = np.bincount(group, differences[known]).astype(np.float64)
    return sums, np.bincount(group).astype(np.float64)


def _sign_flip(
    sums: Numbers, sizes: Numbers, margin: float, alpha: float, span: float | None
) -> tuple[float, float, float, float]:
    """Bounds and p-values of the test that flips the signs of cluster sums, all 2^G ways.

    Flipping the clusters in F does as well as the data at a mean of m exactly where the mean over
    F is at most m. So p(m) = (1 + #{non-empty F: mean over F <= m}) / 2^G, and the bounds are
    order statistics of the subset means (J. Hartigan, "Using subsample values as typical values",
    JASA 64, 1969). It assumes that differences scatter symmetrically about their mean. Where G is
    too small for the level, under 5 at .05, the bounds are the ends of the range, if it is known.
    """
    flips = 2 ** len(sums)
    subsets = (np.arange(1, flips)[:, None] >> np.arange(len(sums))) & 1
    means = np.sort((subsets @ sums) / (subsets @ sizes[: len(sums)]))
    rejected = int(alpha * flips)  # at most so many ways may do as well
    nearly = 1e-12 * _scale(span, means)  # means that differ by rounding are equal

    def p(m: float) -> float:
        return float((1 + np.count_nonzero(means <= m + nearly)) / flips)

    def p_above(m: float) -> float:
        return float((1 + np.count_nonzero(means >= m - nearly)) / flips)

    end = math.inf if span is None else span
    low, high = (means[rejected - 1], means[-rejected]) if rejected else (-end, end)
    return float(low), float(high), p(-margin), min(1.0, 2 * min(p(0.0), p_above(0.0)))
