"""Estimate the paired gain by resampling, under other assumptions than `paired.compare`.

Where these views and the gate's test disagree, something about the data does not fit the test:
few clusters, a long tail, one item that decides all. The gate does not use them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.stats.clusters import groups
from harness.stats.paired import gain

BATCH = 500  # resamples held in memory at once


def bca_interval(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    alpha: float,
    clusters: Sequence[object] | None = None,
    draws: int = 9999,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the BCa bootstrap interval of the gain over clusters, at level 1 - 2 alpha.

    The gain is `paired.gain`'s: each side's mean is over the items where it has a value, NaN says
    where not. BCa: B. Efron, "Better bootstrap confidence intervals", JASA 82, 1987. None where
    clusters do not differ, so that resampling shows nothing.

    Raises:
        UserError: as `paired.gain`.
    """
    from scipy.stats import bootstrap

    b = np.asarray(baseline, dtype=np.float64)
    c = np.asarray(candidate, dtype=np.float64)
    _, stderr, count = gain(b, c, clusters)
    if count < 2 or stderr <= 1e-12:
        return None
    kept = ~(np.isnan(b) & np.isnan(c))
    _, group = np.unique(groups(clusters, len(b))[kept], return_inverse=True)
    b, c = b[kept], c[kept]
    sums = tuple(
        np.bincount(group, weights)
        for side in (b, c)
        for weights in (np.where(np.isnan(side), 0.0, side), ~np.isnan(side))
    )

    def resampled(
        sum_b: npt.NDArray[np.float64],
        n_b: npt.NDArray[np.float64],
        sum_c: npt.NDArray[np.float64],
        n_c: npt.NDArray[np.float64],
        axis: int = -1,
    ) -> npt.NDArray[np.float64]:
        mean_c = sum_c.sum(axis=axis) / n_c.sum(axis=axis)
        return np.asarray(mean_c - sum_b.sum(axis=axis) / n_b.sum(axis=axis))

    found = bootstrap(
        sums, resampled, paired=True, vectorized=True, n_resamples=draws, batch=BATCH,
        confidence_level=1 - 2 * alpha, method="BCa", rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = (float(end) for end in found.confidence_interval)
    return None if math.isnan(low) or math.isnan(high) else (low, high)


def sign_flip_p(
    differences: npt.ArrayLike,
    *,
    margin: float,
    clusters: Sequence[object] | None = None,
    draws: int = 9999,
    seed: int = 0,
) -> float:
    """Return the one-sided p-value of gain <= -margin by flipping signs of cluster sums.

    The sums are of d + margin. `differences`, shape (items,), are candidate - baseline. It assumes
    that they scatter symmetrically about their mean. All 2^G ways are tried where these are no
    more than `draws`, else so many at random, and p = (1 + as extreme) / (1 + draws):
    B. Phipson, G. Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010.

    Raises:
        UserError: no differences, or clusters and items do not match.
    """
    from scipy.stats import permutation_test

    d = np.asarray(differences, dtype=np.float64)
    if d.size == 0:
        raise UserError("There is nothing to compare: no item has a value on both sides.")
    sums = np.bincount(groups(clusters, len(d)), d + margin)
    if len(sums) == 1:  # scipy wants two: with one, half of the flips do as well
        return 0.5 if sums[0] > 0 else 1.0
    found = permutation_test(
        (sums,), np.sum, permutation_type="samples", vectorized=True, n_resamples=draws,
        batch=BATCH, alternative="greater", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)
