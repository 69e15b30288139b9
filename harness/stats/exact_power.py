"""Compute the exact chance that Tango's score test passes a candidate."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from harness.stats.noninferiority import tango_statistic

TAIL = 7.0  # standard deviations of the number of flips that are summed over: all but 10^-11


def tango_power(
    n: int, discordance: float, margin: float, alpha: float = 0.05, gain: float = 0.0
) -> float:
    """Return the chance that `n` pairs pass `margin` where the candidate's true gain is `gain`.

    The number of items that flip is Binomial(n, discordance), and of these a share
    (discordance + gain) / (2 discordance) are gains. For each number of flips the fewest gains
    that pass are found, and the chances are added up: exact but for tails below 10^-11.
    """
    from scipy.special import bdtrc, gammaln, xlog1py, xlogy

    middle, spread = n * discordance, math.sqrt(n * discordance * (1 - discordance))
    first = max(0, math.floor(middle - TAIL * spread - 10))
    flips = np.arange(first, min(n, math.ceil(middle + TAIL * spread + 10)) + 1)
    fewest = _fewest_gains(flips, n, margin, NormalDist().inv_cdf(1 - alpha))
    weights = np.exp(
        gammaln(n + 1)
        - gammaln(flips + 1)
        - gammaln(n - flips + 1)
        + xlogy(flips, discordance)
        + xlog1py(n - flips, -discordance)
    )
    share = (discordance + gain) / (2 * discordance)
    passes = np.where(fewest > 0, bdtrc(np.maximum(fewest - 1, 0), flips, share), 1.0)
    return float(np.sum(weights * np.where(fewest > flips, 0.0, passes)))


def tango_items_needed(
    discordance: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Return about the fewest pairs with which an unchanged candidate passes with `power`.

    Power rises with the number of pairs but for steps of a few; it is reached here, and one step
    below it was not.
    """
    few, enough = 1, 2
    while tango_power(enough, discordance, margin, alpha) < power:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        reached = tango_power(middle, discordance, margin, alpha) >= power
        few, enough = (few, middle) if reached else (middle, enough)
    return enough


def tango_detectable(n: int, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the least margin that an unchanged candidate passes with `power`, to 10^-6."""
    too_small, enough = 0.0, 1.0
    while enough - too_small > 1e-6:
        middle = (too_small + enough) / 2
        reached = tango_power(n, discordance, middle, alpha) >= power
        too_small, enough = (too_small, middle) if reached else (middle, enough)
    return enough


def _fewest_gains(
    flips: np.ndarray[tuple[int, ...], np.dtype[np.int64]], n: int, margin: float, z: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return for each number of flips how many must be gains to pass; more than it where none."""
    too_few, enough = np.full(len(flips), -1), flips + 1
    for _ in range(math.ceil(math.log2(n + 2)) + 1):
        middle = (too_few + enough) // 2
        clear = tango_statistic(middle, flips - middle, n, -margin) > z
        open_ = enough - too_few > 1
        enough = np.where(open_ & clear, middle, enough)
        too_few = np.where(open_ & ~clear, middle, too_few)
    return enough
