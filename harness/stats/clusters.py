"""Measure how much clusters of items cost, and test yes/no answers in clusters.

Items of one passage, entity or template rise and fall together, so that they tell less than as
many independent items. The design effect is by how much the variance of a mean grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.stats import Estimate
from harness.stats.distributions import f_tail, student_cdf, student_quantile
from harness.stats.mean_bound import MeanBound, p_below, skewness
from harness.stats.noninferiority import (
    require_share,
    statistic_interval,
    tango,
    tango_statistic,
)

Numbers = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]

PRIOR = 3.0  # changes that the largest design effect counts for


def groups(clusters: Sequence[object] | None, n: int) -> Groups:
    """Number the cluster of each item, in order of appearance; without clusters each has its own.

    Raises:
        UserError: there is not one cluster name per item.
    """
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise UserError(f"{n} items need {n} cluster names, {len(clusters)} were given.")
    place: dict[object, int] = {}
    return np.array([place.setdefault(name, len(place)) for name in clusters], dtype=np.int64)


def design_effect(values: npt.ArrayLike, group: Groups) -> float:
    """Variance of the mean of `values` with the clusters in `group`, over that without them.

    With u_i = x_i - mean over n items in G clusters (J. Rao, A. Scott, Biometrics 48, 1992):

        deff = G / (G - 1) sum_g (sum_{i in g} u_i)^2 / (n / (n - 1) sum_i u_i^2)

    At least 1: clusters that seem to spread their items evenly do so by chance. Where no value
    differs nothing is known, and it is `largest_effect`.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    count = int(group.max()) + 1
    if count == n:
        return 1.0
    moves = x - x.mean()
    alone = n / (n - 1) * float(np.square(moves).sum())
    if count < 2 or alone <= n * (1e-12 * float(np.abs(x).max())) ** 2:
        return largest_effect(group)
    together = count / (count - 1) * float(np.square(np.bincount(group, moves)).sum())
    return max(1.0, together / alone)


def largest_effect(group: Groups) -> float:
    """Design effect of clusters whose items are all equal: sum_g n_g^2 / n, times G / (G - 1).

    One cluster speaks once: n.
    """
    sizes = np.bincount(group)
    n, count = float(sizes.sum()), len(sizes)
    if count == n:
        return 1.0
    return min(n, float(np.square(sizes).sum()) / n * count / (count - 1)) if count > 1 else n


def cautious_effect(values: npt.ArrayLike, group: Groups) -> float:
    """`design_effect`, drawn towards `largest_effect` where few values say what it is.

    Where a few items of many change, those that were seen may lie in different clusters by chance
    while whole clusters fall unseen. So the largest effect counts for `PRIOR` further changes:

        (K deff + PRIOR deff_max) / (K + PRIOR),    K = n / (deff kurtosis)

    K is the number of independent changes in the sample: n p / deff where a share p of yes/no
    answers changed, n / (3 deff) for normal differences. With `PRIOR` = 3 the clustered tests pass
    at most .06 at the margin from 20 clusters on (docs/statistics.md); with 0, up to .30.
    """
    x = np.asarray(values, dtype=np.float64)
    effect, largest = design_effect(x, group), largest_effect(group)
    if effect >= largest:
        return effect
    squares = np.square(x - x.mean())
    changes = float(squares.sum()) ** 2 / float(np.square(squares).sum()) / effect
    return (changes * effect + PRIOR * largest) / (changes + PRIOR)


def intraclass(values: npt.ArrayLike, group: Groups) -> tuple[float, float]:
    """Estimate the intra-cluster correlation, and its p-value: do items of a cluster go together?

    The analysis of variance of clusters, of unequal sizes (A. Donner, Int. Stat. Review 54, 1986):
    with the mean squares between and within G clusters of n items,

        n_0 = (n - sum_g n_g^2 / n) / (G - 1)
        icc = (between - within) / (between + (n_0 - 1) within)

    and between / within is F with G - 1 and n - G degrees of freedom where items are independent.
    Where nothing differs, or no cluster has two items, nothing is known: 0, with p-value 1.
    """
    x = np.asarray(values, dtype=np.float64)
    _, group = np.unique(group, return_inverse=True)
    sizes = np.bincount(group).astype(np.float64)
    n, count = len(x), len(sizes)
    if count < 2 or n <= count:
        return 0.0, 1.0
    means = np.bincount(group, x) / sizes
    between = float((sizes * np.square(means - x.mean())).sum()) / (count - 1)
    within = float(np.square(x - means[group]).sum()) / (n - count)
    if between <= 0:
        return 0.0, 1.0
    typical = (n - float(np.square(sizes).sum()) / n) / (count - 1)
    icc = (between - within) / (between + (typical - 1) * within)
    p_value = f_tail(count - 1, n - count, between / within) if within > 0 else 0.0
    return icc, p_value


def clustered_tango(
    differences: npt.ArrayLike, group: Groups, *, margin: float, alpha: float
) -> Estimate:
    """Test non-inferiority of yes/no answers in clusters: Tango's test on the effective counts.

    `differences`, shape (items,), are -1, 0 or 1. All counts are divided by the design effect
    (`cautious_effect`), and the quantile is Student's with G - 1 degrees of freedom. Cluster sums
    may be skewed where whole clusters fall, so that the bound is no higher than Hall's on them.
    Where each item is a cluster of its own it is `tango`.

    Raises:
        UserError: a margin outside (0, 1).
    """
    d = np.asarray(differences, dtype=np.float64)
    n, count = len(d), int(group.max()) + 1
    changed = int((d > 0).sum()), int((d < 0).sum())
    if count == n:
        return tango(*changed, n, margin=margin, alpha=alpha)
    require_share(margin)
    effect, delta, freedom = cautious_effect(d, group), float(d.mean()), max(count - 1, 1)
    gained, lost, effective = (x / effect for x in (*changed, n))
    low, high = statistic_interval(gained, lost, effective, student_quantile(freedom, 1 - alpha))
    stderr = math.sqrt(float(d.var(ddof=1)) * effect / n)
    sums = np.bincount(group, d - delta).astype(np.float64)
    below, above = (
        MeanBound(sign * delta, stderr, max(count, 2), sign * skewness(sums), -1.0, effective)
        for sign in (1, -1)
    )

    def p(point: float, side: MeanBound, sign: int) -> float:
        z = sign * float(tango_statistic(gained, lost, effective, point))
        return max(student_cdf(freedom, -z), side.p_skew(sign * point))

    return Estimate(
        test="clustered Tango score test",
        delta=delta,
        stderr=stderr,
        low=min(low, below.skew(alpha)),
        high=max(high, -above.skew(alpha)),
        p_value=p_below(p(-margin, below, 1), p(-margin, above, -1), higher=delta > -margin),
        p_zero=min(1.0, 2 * min(p(0.0, below, 1), p(0.0, above, -1))),
        wider=explain_clusters(count, effect),
    )


def explain_clusters(count: int, effect: float) -> str:
    """Say why clusters widen an interval."""
    return (
        f"items of a cluster go together: {count} clusters, in which the variance is "
        f"{effect:.2g} times that of independent items"
    )
