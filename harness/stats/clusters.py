"""Items that go together: clusters, how much they cost, and a yes/no test that allows for them.

Items of one passage, entity or template rise and fall together, so that they tell less than as
many independent items. The design effect is by how much the variance of a mean grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.errors import UserError
from harness.stats import Estimate
from harness.stats.noninferiority import require_share, statistic_interval, tango_statistic

Numbers = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


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
    differs nothing is known, and it is that of clusters whose items are all equal,
    sum_g n_g^2 / n. One cluster speaks once: n.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    sizes = np.bincount(group)
    count = len(sizes)
    if count == n:
        return 1.0
    if count < 2:
        return float(n)
    moves = x - x.mean()
    alone = n / (n - 1) * float(np.square(moves).sum())
    if alone <= 0:
        return float(np.square(sizes).sum()) / n
    together = count / (count - 1) * float(np.square(np.bincount(group, moves)).sum())
    return max(1.0, together / alone)


def clustered_tango(
    differences: npt.ArrayLike, group: Groups, *, margin: float, alpha: float
) -> Estimate:
    """Test non-inferiority of yes/no answers in clusters: Tango's test on the effective counts.

    `differences`, shape (items,), are -1, 0 or 1. All counts are divided by the design effect, and
    the quantile is Student's with G - 1 degrees of freedom. Where each item is a cluster of its own
    use `tango`, which is the same but for the quantile.

    Raises:
        UserError: a margin outside (0, 1).
    """
    from scipy.special import stdtr, stdtrit

    require_share(margin)
    d = np.asarray(differences, dtype=np.float64)
    effect = design_effect(d, group)
    freedom = max(int(group.max()), 1)
    gained, lost, n = (float(x) / effect for x in ((d > 0).sum(), (d < 0).sum(), len(d)))
    low, high = statistic_interval(gained, lost, n, float(stdtrit(freedom, 1 - alpha)))
    delta = float(d.mean())
    at_zero = abs(float(tango_statistic(gained, lost, n, 0.0)))
    return Estimate(
        test="clustered Tango score test",
        delta=delta,
        stderr=math.sqrt(float(d.var(ddof=1)) * effect / len(d)) if len(d) > 1 else 0.0,
        low=low,
        high=high,
        p_value=float(stdtr(freedom, -float(tango_statistic(gained, lost, n, -margin)))),
        p_zero=2 * float(stdtr(freedom, -at_zero)),
        wider=f"{freedom + 1} clusters: items of a cluster go together",
    )
