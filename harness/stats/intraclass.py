"""Measure how much items of a cluster go together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def intraclass(values: npt.ArrayLike, group: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Estimate the intra-cluster correlation, and its p-value: do items of a cluster go together?

    The analysis of variance of clusters, of unequal sizes (A. Donner, Int. Stat. Review 54, 1986):
    with the mean squares between and within G clusters of n items,

        n_0 = (n - sum_g n_g^2 / n) / (G - 1)
        icc = (between - within) / (between + (n_0 - 1) within)

    and between / within is F with G - 1 and n - G degrees of freedom where items are independent.
    Where nothing differs, or no cluster has two items, nothing is known: 0, with p-value 1.
    """
    from scipy.special import fdtrc

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
    p_value = float(fdtrc(count - 1, n - count, between / within)) if within > 0 else 0.0
    return icc, p_value
