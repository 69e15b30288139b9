"""Paired comparison: scores to item means, item means to a gain with its uncertainty.

Both sides answered the same items, so an item is compared with itself. Repeats of an item are
averaged first: answers to one prompt are not independent, and only items count as evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.errors import UserError
from harness.schema import Score
from harness.stats import Estimate
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
    answered: int  # items as they were asked: one that was asked twice counts twice


def by_item(scores: Sequence[Score], metrics: Sequence[str]) -> ItemTable:
    """Gather `scores` by item digest, one column for each of `metrics`.

    Raises:
        UserError: an answer (item, index, repeat) was scored twice.
    """
    keys = [(score.item, score.index, score.repeat) for score in scores]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for here, after in zip(order, order[1:], strict=False):
        if keys[here] == keys[after]:
            item, index, repeat = keys[here]
            raise UserError(
                f"The answer to item {index} ({item[:12]}), repeat {repeat}, is scored twice. "
                "Remove one of the two, or number the repeats."
            )
    items = [keys[i][0] for i in order]
    starts = [i for i, item in enumerate(items) if i == 0 or items[i - 1] != item]
    values = [scores[i].values for i in order]
    reasons = [scores[i].unscored for i in order]
    shape = (len(starts), len(metrics))
    table = ItemTable(
        items=[items[i] for i in starts],
        values=np.empty(shape),
        lost=np.empty(shape, dtype=bool),
        unscored=np.zeros(len(metrics)),
        answered=len({key[:2] for key in keys}),
    )
    for column, metric in enumerate(metrics if items else ()):
        value = np.array([row.get(metric, math.nan) for row in values])
        reason = np.array([metric in row for row in reasons])
        known = ~np.isnan(value)
        count = np.add.reduceat(known.astype(np.float64), starts)
        total = np.add.reduceat(np.where(known, value, 0.0), starts)
        with np.errstate(invalid="ignore"):
            table.values[:, column] = total / count  # 0 / 0 is the NaN that is meant
        table.lost[:, column] = (count == 0) & np.logical_or.reduceat(reason, starts)
        table.unscored[column] = reason.mean()
    return table


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
    return ItemTable(items, values, lost, table.unscored, table.answered)


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
    group = _groups(clusters, len(b))[in_b | in_c]
    _, group = np.unique(group, return_inverse=True)
    sums = np.bincount(group, weights=moves[in_b | in_c])
    count = len(sums)
    stderr = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) if count > 1 else 0.0
    return mean_c - mean_b, stderr, count


def _groups(clusters: Sequence[object] | None, n: int) -> npt.NDArray[np.int64]:
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise UserError(f"{n} items need {n} cluster names, {len(clusters)} were given.")
    place: dict[object, int] = {}
    return np.array([place.setdefault(name, len(place)) for name in clusters], dtype=np.int64)


def compare(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    margin: float,
    alpha: float,
    span: float,
    clusters: Sequence[object] | None = None,
) -> Estimate:
    """Test that the candidate's mean is at most `margin` below the baseline's.

    From `FEW_CLUSTERS` clusters on: Student's t with G - 1 degrees of freedom on `gain`. With
    fewer: the sign-flip permutation test on cluster sums. Where no item differs from the others,
    the interval reaches as far as `unseen_change` of the items could move it if each changed by
    `span`, the width of the metric's range: ten equal pairs prove nothing.

    Raises:
        UserError: as `gain`.
    """
    b = np.asarray(baseline, dtype=np.float64)
    c = np.asarray(candidate, dtype=np.float64)
    delta, stderr, count = gain(b, c, clusters)
    if stderr <= 1e-9 * span:
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
        return _sign_flip(b, c, _groups(clusters, len(b)), margin, alpha, span, (delta, stderr))
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


def _p_without_spread(distance: float, span: float, count: int) -> float:
    from scipy.special import ndtr

    share = min(abs(distance) / span, 1.0)
    z = math.inf if share == 1 else math.sqrt(count * share / (1 - share))
    return float(ndtr(-math.copysign(z, distance)))


def _sign_flip(
    baseline: Numbers,
    candidate: Numbers,
    group: npt.NDArray[np.int64],
    margin: float,
    alpha: float,
    span: float,
    found: tuple[float, float],
) -> Estimate:
    """The permutation test that flips the signs of cluster sums, all 2^G of them: no draws.

    A flip of the clusters in F beats the data at mean m exactly where the mean over F is at most
    m. So p(m) = (1 + #{non-empty F: mean over F <= m}) / 2^G, and its bounds are order statistics
    of the subset means (J. Hartigan, "Using subsample values as typical values", JASA 64, 1969).
    It assumes that differences scatter symmetrically about their mean. Fewer than 5 clusters
    cannot reach .05: the bound is then `span`. So it is where the metric applies to different
    items on the two sides, for which no sign can be flipped.
    """
    delta, stderr = found
    differences = candidate - baseline
    both = ~np.isnan(differences)
    _, group = np.unique(group[both], return_inverse=True)
    count = int(group.max()) + 1 if both.any() else 0
    if not np.array_equal(np.isnan(baseline), np.isnan(candidate)) or count == 0:
        return Estimate("none: too few items", delta, stderr, -span, span, 1.0, 1.0)
    sums = np.bincount(group, weights=differences[both])
    sizes = np.bincount(group)
    subsets = (np.arange(1, 2**count)[:, None] >> np.arange(count)) & 1
    means = np.sort((subsets @ sums) / (subsets @ sizes))
    flips = 2**count
    rejected = int(alpha * flips)  # at most so many flips may do as well as the data

    def at_most(m: float) -> int:
        # Means that are equal up to rounding are equal: counting them keeps the level.
        return int(np.searchsorted(means, m + 1e-12 * span, side="right"))

    def at_least(m: float) -> int:
        return flips - 1 - int(np.searchsorted(means, m - 1e-12 * span, side="left"))

    return Estimate(
        test="sign-flip permutation",
        delta=delta,
        stderr=stderr,
        low=float(means[rejected - 1]) if rejected else -span,
        high=float(means[-rejected]) if rejected else span,
        p_value=(1 + at_most(-margin)) / flips,
        p_zero=min(1.0, 2 * (1 + min(at_most(0.0), at_least(0.0))) / flips),
    )
