"""Compare paired scores: average them per item, and estimate the gain with its interval.

Both sides answered the same items, so an item is compared with itself. Repeats of an item are
averaged first: answers to one prompt are not independent, and only items count as evidence.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.core.schema import Score
from harness.stats import Estimate
from harness.stats.clusters import cautious_effect, explain_clusters, groups
from harness.stats.distributions import student_cdf, student_quantile
from harness.stats.mean_bound import (
    TAIL,
    Limits,
    MeanBound,
    beyond,
    p_below,
    skewness,
    unseen_share,
)
from harness.stats.noninferiority import unseen_change

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FEW_CLUSTERS = 10
LONG_TAIL = 20.0  # standard deviations; the range of grades that collapse is about ten wide
FEW_ITEMS = 100  # fewer do not show how far values reach

_ITEM = operator.attrgetter("item")
_INDEX = operator.attrgetter("index")
_REPEAT = operator.attrgetter("repeat")
_VALUES = operator.attrgetter("values")
_REASONS = operator.attrgetter("unscored")


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


@dataclass(frozen=True)
class ScoreColumns:
    """The scores of one evaluation as columns, in their order: read once, used for all checks.

    Plain lists and arrays: tuples by the ten thousand would wake the garbage collector.
    """

    items: list[str]
    indices: list[int]
    repeats: list[int]
    values: dict[str, Numbers]  # metric -> shape (scores,); NaN where there is no value
    unscored: list[tuple[int, dict[str, str]]]  # position -> metric -> reason, where there is one

    @property
    def keys(self) -> Iterator[tuple[str, int, int]]:
        """Item, index and repeat of each score: which response it is of."""
        return zip(self.items, self.indices, self.repeats, strict=True)


def columns(scores: Sequence[Score], metrics: Iterable[str]) -> ScoreColumns:
    """Arrange `scores` as columns, with the values of `metrics`."""
    names = [*dict.fromkeys(metrics)]
    return ScoreColumns(
        items=[*map(_ITEM, scores)],
        indices=[*map(_INDEX, scores)],
        repeats=[*map(_REPEAT, scores)],
        values=dict(zip(names, _matrix(scores, names).T, strict=True)),
        unscored=[(i, reasons) for i, reasons in enumerate(map(_REASONS, scores)) if reasons],
    )


def by_item(scores: Sequence[Score], metrics: Sequence[str]) -> ItemTable:
    """Gather `scores` by item digest, one column for each of `metrics`.

    Raises:
        UserError: an answer (item, index, repeat) was scored twice.
    """
    return gather_items(columns(scores, metrics), metrics)


def gather_items(scores: ScoreColumns, metrics: Sequence[str]) -> ItemTable:
    """Gather scores by item digest, one column for each of `metrics`; see `by_item`."""
    names = scores.items
    if not names:
        none = np.empty((0, len(metrics)))
        return ItemTable(
            [], none, none.astype(bool), np.zeros(len(metrics)), [""] * len(metrics), 0
        )
    asked = len({*names})
    order = sorted(range(len(names)), key=names.__getitem__)
    if asked < len(names):
        keys = [*scores.keys]
        asked = len({(item, index) for item, index, _ in keys})
        order.sort(key=keys.__getitem__)
        for here, after in itertools.pairwise(order):
            if keys[here] == keys[after]:
                item, index, repeat = keys[here]
                raise UserError(
                    f"The answer to item {index} ({item[:12]}), repeat {repeat}, is scored twice. "
                    "Remove one of the two, or number the repeats."
                )
    items = [names[i] for i in order]
    starts = np.flatnonzero([True, *map(operator.ne, items, items[1:])])
    values = np.column_stack([scores.values[metric] for metric in metrics])[order]
    unscored = scores.unscored
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


def _matrix(scores: Sequence[Score], metrics: Sequence[str]) -> Numbers:
    """Arrange the values of `scores`, shape (scores, metrics); NaN where there is none."""
    if not metrics or not scores:
        return np.empty((len(scores), len(metrics)))
    # A row in one call, and no row in between: most of what a large gate costs.
    pick = operator.itemgetter(*metrics) if len(metrics) > 1 else lambda row: (row[metrics[0]],)
    count = len(scores) * len(metrics)
    try:
        flat = itertools.chain.from_iterable(map(pick, map(_VALUES, scores)))
        numbers = np.fromiter(flat, np.float64, count)
    except KeyError:
        absent = dict.fromkeys(metrics, math.nan)
        rows = (pick(absent | score.values) for score in scores)
        numbers = np.fromiter(itertools.chain.from_iterable(rows), np.float64, count)
    return numbers.reshape(len(scores), len(metrics))


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
    moves = _moves(baseline, candidate, clusters)
    return moves.delta, moves.stderr, len(moves.sums)


@dataclass(frozen=True)
class _Moves:
    """By how much each item, and each cluster, moves the difference of the two means."""

    delta: float
    items: Numbers
    group: npt.NDArray[np.int64]  # of each item
    sums: Numbers  # (clusters,)

    @property
    def stderr(self) -> float:
        count = len(self.sums)
        return (
            math.sqrt(count / (count - 1) * float(np.square(self.sums).sum())) if count > 1 else 0.0
        )


def _moves(
    baseline: npt.ArrayLike, candidate: npt.ArrayLike, clusters: Sequence[object] | None
) -> _Moves:
    b = np.asarray(baseline, dtype=np.float64)
    c = np.asarray(candidate, dtype=np.float64)
    in_b, in_c = ~np.isnan(b), ~np.isnan(c)
    if not (in_b.any() and in_c.any()):
        raise UserError("There is nothing to compare: the metric has no value on one side.")
    mean_b, mean_c = float(b[in_b].mean()), float(c[in_c].mean())
    moves = np.where(in_c, c - mean_c, 0) / in_c.sum() - np.where(in_b, b - mean_b, 0) / in_b.sum()
    moves = moves[in_b | in_c]
    group = groups(clusters, len(b))[in_b | in_c]
    if clusters is None:
        return _Moves(mean_c - mean_b, moves, np.arange(len(moves)), moves)
    _, group = np.unique(group, return_inverse=True)
    return _Moves(
        mean_c - mean_b, moves, group, np.bincount(group, weights=moves).astype(np.float64)
    )


def compare(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    margin: float,
    alpha: float,
    span: float | None = None,
    limits: Limits | None = None,
    clusters: Sequence[object] | None = None,
    allow_skew: bool = True,
) -> Estimate:
    """Test that the candidate's mean is at most `margin` below the baseline's.

    From `FEW_CLUSTERS` clusters on the bounds are the wider of Student's t with G - 1 degrees of
    freedom on `gain`, Hall's correction of it for skew, and what a collapse too rare to show in
    the sample could cost (`harness.stats.mean_bound`); the standard error of clusters is
    `cautious_effect`'s. With fewer clusters: the wider of the sign-flip permutation test on
    cluster sums and such a collapse.

    What a collapse costs at most follows from `limits`: an item falls from the baseline's mean to
    the metric's worst value. Without limits it is `span`, the width of the metric's range. An end
    of the range that nobody knows, or that lies far `beyond` all values, such as 10,000 for
    a number of words, says nothing: the most extreme value of either side stands for it. There,
    and where the range is `LONG_TAIL` standard deviations of the gains wide, skewness counts for
    more (`TAIL`): a sample of long tails shows too little of it.

    Without `allow_skew` it is the test of decisions that were made before skew was allowed for.

    Raises:
        UserError: as `gain`.
    """
    b = np.asarray(baseline, dtype=np.float64)
    c = np.asarray(candidate, dtype=np.float64)
    moves = _moves(b, c, clusters)
    if not allow_skew:
        return _plain(b, c, moves, margin=margin, alpha=alpha, span=span or 0.0)
    below, above = _bounds(b, c, moves, span, limits)
    delta, count = moves.delta, len(moves.sums)
    low, high = below.lower(alpha), -above.lower(alpha)
    p_low, p_high = below.p_value(-margin), above.p_value(margin)
    p_zero = min(1.0, 2 * min(below.p_value(0.0), above.p_value(0.0)))
    test = "t, allowing for skew" if clusters is None else "clustered t, allowing for skew"
    if count < FEW_CLUSTERS:
        test = "sign flips, allowing for skew"
        flips = _Flips.of(b, c, moves)
        flipped = flips.bounds(alpha, (below.worst, -above.worst))
        low, high = min(flipped[0], below.unseen(alpha)), max(flipped[1], -above.unseen(alpha))
        p_low = max(below.p_unseen(-margin), flips.p_below(-margin))
        p_high = max(above.p_unseen(margin), flips.p_above(-margin))
        p_zero = max(min(1.0, 2 * min(below.p_unseen(0), above.p_unseen(0))), flips.p_zero)
    return Estimate(
        test=test,
        delta=delta,
        stderr=below.stderr,
        low=low,
        high=high,
        p_value=p_below(p_low, p_high, higher=delta > -margin),
        p_zero=p_zero,
        wider=_why_wider(moves, below, above, alpha),
        worst=below.worst,
    )


def _bounds(
    b: Numbers, c: Numbers, moves: _Moves, span: float | None, limits: Limits | None
) -> tuple[MeanBound, MeanBound]:
    """Describe what the sample says of the gain from below, and of the loss (the negated gain)."""
    n, count = len(moves.items), len(moves.sums)
    effect = cautious_effect(moves.items, moves.group)
    alone = n / (n - 1) * float(np.square(moves.items).sum()) if n > 1 else 0.0
    stderr = math.sqrt(alone * effect)
    least, most = span is not None, span is not None
    worst, best = -(span or 0.0), span or 0.0
    seen = np.concatenate([b, c])
    scale = max(float(np.nanmax(np.abs(seen))), span or 0.0)
    spread = stderr > 1e-9 * scale  # else equal but for rounding
    if limits is not None or span is None:
        lowest, highest = float(np.nanmin(seen)), float(np.nanmax(seen))
        tells = n / effect >= FEW_ITEMS and spread
        ends = limits or (None, None)
        least, most = (end is not None and not beyond(end, seen) for end in ends)
        worst = -math.inf if ends[0] is None else ends[0]
        best = math.inf if ends[1] is None else ends[1]
        worst = (lowest if tells and not least else worst) - float(np.nanmean(b))
        best = (highest if tells and not most else best) - float(np.nanmean(b))
    shape = skewness(moves.sums) if spread else 0.0
    wide = best - worst > LONG_TAIL * math.sqrt(n * alone)
    long = wide or not (least and most)
    below, above = (
        MeanBound(
            mean=sign * moves.delta,
            stderr=stderr if spread else 0.0,
            count=max(count, 2),
            skewness=sign * shape * (TAIL if long else 1.0),
            worst=sign * end,
            effective=n / effect,
        )
        for sign, end in ((1, worst), (-1, best))
    )
    return below, above


def _why_wider(moves: _Moves, below: MeanBound, above: MeanBound, alpha: float) -> str:
    """Say why the interval is wider than a t interval of independent items, if it is."""
    said = []
    if len(moves.sums) < len(moves.items):
        said.append(explain_clusters(len(moves.sums), len(moves.items) / below.effective))
    excess = {
        what: side.student(alpha) - side.lower(alpha)
        for what, side in (("losses", below), ("gains", above))
    }
    what = max(excess, key=excess.__getitem__)
    side = below if what == "losses" else above
    if math.isinf(side.worst) or excess[what] <= 0.02 * (side.mean - side.student(alpha)) + 1e-12:
        return "; ".join(said)
    if side.unseen(alpha) <= side.skew(alpha):
        share = unseen_share(side.effective, alpha)
        said.append(
            f"the interval allows for rare large {what}: up to {share:.2g} of the items could "
            f"change by {abs(side.worst):.3g} without one of them among these"
        )
    else:
        said.append(
            f"the interval allows for skew: with rare large {what} the items show less spread than "
            "there is"
        )
    return "; ".join(said)


def _plain(
    b: Numbers, c: Numbers, moves: _Moves, *, margin: float, alpha: float, span: float
) -> Estimate:
    """Student's t, sign flips for few clusters, a bound for no spread; without regard to skew."""
    delta, stderr, count = moves.delta, moves.stderr, len(moves.sums)
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
        flips = _Flips.of(b, c, moves)
        low, high = flips.bounds(alpha, (-span, span))
        p_value, p_zero = flips.p_below(-margin), flips.p_zero
        return Estimate("sign-flip permutation", delta, stderr, low, high, p_value, p_zero)
    freedom = count - 1
    half = student_quantile(freedom, 1 - alpha) * stderr
    return Estimate(
        test="clustered t",
        delta=delta,
        stderr=stderr,
        low=delta - half,
        high=delta + half,
        p_value=student_cdf(freedom, -(delta + margin) / stderr),
        p_zero=2 * student_cdf(freedom, -abs(delta) / stderr),
    )


def _p_without_spread(distance: float, span: float, count: int) -> float:
    share = min(abs(distance) / span, 1.0)
    z = math.inf if share == 1 else math.sqrt(count * share / (1 - share))
    return NormalDist().cdf(-math.copysign(z, distance))


@dataclass(frozen=True)
class _Flips:
    """The test that flips the signs of cluster sums, all 2^G ways.

    Flipping the clusters in F does as well as the data at a mean of m exactly where the mean over
    F is at most m. So p(m) = (1 + #{non-empty F: mean over F <= m}) / 2^G, and the bounds are
    order statistics of the subset means (J. Hartigan, "Using subsample values as typical values",
    JASA 64, 1969). It assumes that differences scatter symmetrically about their mean. Where G is
    too small for the level, under 5 at .05, the bounds are the ends of the range.
    """

    means: Numbers  # of all non-empty subsets, rising

    @classmethod
    def of(cls, b: Numbers, c: Numbers, moves: _Moves) -> _Flips:
        """Take the clusters' differences; none where an item has one side only: no sign to flip."""
        if not np.array_equal(np.isnan(b), np.isnan(c)):
            return cls(np.empty(0))
        differences = (c - b)[~np.isnan(b)]
        sums, sizes = np.bincount(moves.group, differences), np.bincount(moves.group)
        subsets = (np.arange(1, 2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return cls(np.sort((subsets @ sums) / (subsets @ sizes)))

    def bounds(self, alpha: float, ends: tuple[float, float]) -> tuple[float, float]:
        rejected = int(alpha * (len(self.means) + 1))  # at most so many ways may do as well
        if not rejected:
            return ends
        return float(self.means[rejected - 1]), float(self.means[-rejected])

    def p_below(self, point: float) -> float:
        return self._share(self.means <= point + self._nearly)

    def p_above(self, point: float) -> float:
        return self._share(self.means >= point - self._nearly)

    @property
    def p_zero(self) -> float:
        return min(1.0, 2 * min(self.p_below(0.0), self.p_above(0.0)))

    @property
    def _nearly(self) -> float:
        """Means that differ by so little are equal but for rounding."""
        return 1e-12 * float(np.abs(self.means).max(initial=0.0))

    def _share(self, as_good: npt.NDArray[np.bool_]) -> float:
        return float((1 + np.count_nonzero(as_good)) / (len(self.means) + 1))
