"""Test on paired yes/no answers that the candidate is at most `margin` worse.

A pair is one item answered by both. Only the pairs that differ carry information: `gained` of them
went from wrong to right, `lost` from right to wrong, out of `n` pairs.

The test is Tango's efficient score test (T. Tango, "Equivalence test and confidence interval for
the difference in proportions for the paired-sample design", Statistics in Medicine 17, 1998,
891-908); its interval holds every difference that the test does not reject. At a difference of
zero the statistic is McNemar's.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.stats import Estimate
from harness.stats.distributions import binomial_cdf, student_quantile

Numbers = npt.NDArray[np.float64]


def tango_statistic(
    gained: npt.ArrayLike, lost: npt.ArrayLike, n: npt.ArrayLike, delta: npt.ArrayLike
) -> Numbers:
    """Compute the score statistic of H0: P(gained) - P(lost) = delta; standard normal under H0.

    All arguments broadcast; 0 <= gained, lost and gained + lost <= n, -1 < delta < 1. It falls
    as `delta` grows. With q the restricted estimate of P(lost),

        z = (b - c - n delta) / sqrt(n (2 q + delta (1 - delta)))
        q = (sqrt(B^2 - 4 A C) - B) / (2 A)
        A = 2 n,  B = -b - c + (2 n - b + c) delta,  C = -c delta (1 - delta)
    """
    b, c, n, delta = (np.asarray(x, dtype=np.float64) for x in (gained, lost, n, delta))
    quadratic = 2 * n
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear**2 - 4 * quadratic * constant, 0))
    # Of the two forms of the same root, the one that does not subtract equal numbers.
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(linear > 0, -2 * constant / (linear + root), (root - linear) / (2 * quadratic))
        variance = n * (2 * q + delta * (1 - delta))
        z = (b - c - n * delta) / np.sqrt(variance)
    # No variance: nothing differs and delta is 0, or the data could not be further from delta.
    away = np.copysign(np.inf, b - c - n * delta)
    z = np.where(variance > 0, z, np.where(b - c == n * delta, 0.0, away))
    return np.asarray(z, dtype=np.float64)


def tango_interval(gained: float, lost: float, n: float, alpha: float) -> tuple[float, float]:
    """Return the 1 - 2 alpha interval of P(gained) - P(lost): what the test does not reject."""
    return statistic_interval(gained, lost, n, NormalDist().inv_cdf(1 - alpha))


def statistic_interval(gained: float, lost: float, n: float, z: float) -> tuple[float, float]:
    """Return the range of differences whose statistic lies between -z and z."""
    wanted = np.array([z, -z])
    low, high = np.full(2, -1.0), np.full(2, 1.0)
    for _ in range(60):  # halves [-1, 1] to below the resolution of a float
        middle = (low + high) / 2
        inside = tango_statistic(gained, lost, n, middle) > wanted
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return float(low[0]), float(high[1])


def tango(gained: int, lost: int, n: int, *, margin: float, alpha: float) -> Estimate:
    """Tango's test of non-inferiority, with its interval; `p_zero` is the exact McNemar test's.

    A candidate exactly `margin` worse passes with a chance near alpha. For alpha = .05, margins of
    1 to 10 % and any discordance and n from 30 on it is at most .07, and the chance to fail at most
    .10 (exact; at most .06 and .08 where ten pairs or more are expected to differ). The Wald
    interval passes up to .74, .37 and .10 at n = 30, 100 and 400 (docs/results/statistics.md).

    With no pair that differs the lower bound is -z^2 / (n + z^2), so that it passes only from
    n >= z^2 (1 - margin) / margin pairs on: 133 at 2 %, 52 at 5 %, for alpha = .05.

    Raises:
        UserError: counts that are not counts of pairs, or a margin outside (0, 1).
    """
    if min(gained, lost) < 0 or gained + lost > n or n < 1:
        raise UserError(f"{gained} gained and {lost} lost of {n} pairs cannot be.")
    require_share(margin)
    low, high = tango_interval(gained, lost, n, alpha)
    delta = (gained - lost) / n
    spread = (gained + lost - n * delta * delta) / max(n - 1, 1)
    return Estimate(
        test="Tango score test",
        delta=delta,
        stderr=math.sqrt(max(spread, 0.0) / n),
        low=low,
        high=high,
        p_value=NormalDist().cdf(-float(tango_statistic(gained, lost, n, -margin))),
        p_zero=float(mcnemar(gained, lost)),
    )


def cautious_upper(gained: int, lost: int, n: int, alpha: float) -> float:
    """Return an upper bound of P(gained) - P(lost) that holds at levels far below .05.

    The higher of Tango's and Student's bound. At level .05 / 57, Tango's alone lies below the true
    difference up to 2.9 times as often as it should (exact, n up to 300); the higher of the two at
    most 1.05 times below level .05, and up to 1.35 times at level .05 with ten items.
    """
    high = tango_interval(gained, lost, n, alpha)[1]
    if n < 2:
        return high
    delta = (gained - lost) / n
    variance = (gained + lost - n * delta * delta) / (n - 1)
    return max(high, delta + student_quantile(n - 1, 1 - alpha) * math.sqrt(max(variance, 0.0) / n))


def require_share(margin: float) -> None:
    """Refuse a margin that is not a share.

    Raises:
        UserError: a margin outside (0, 1).
    """
    if not 0 < margin < 1:
        raise UserError(f"The margin of a yes/no metric is a share between 0 and 1, not {margin}.")


def mcnemar(gained: npt.ArrayLike, lost: npt.ArrayLike) -> Numbers:
    """Exact two-sided p-value that gains and losses are equally likely: the flip alarm.

    The arguments broadcast. Twice the smaller tail of Binomial(gained + lost, 1/2), at most 1
    (Q. McNemar, Psychometrika 12, 1947; exact form in A. Agresti, Categorical Data Analysis,
    section 11.1).
    """
    b, c = np.asarray(gained), np.asarray(lost)
    return np.asarray(np.minimum(1.0, 2 * binomial_cdf(np.minimum(b, c), b + c, 0.5)))


def unseen_change(n: int, alpha: float) -> float:
    """Return the largest share of changed items that `n` pairs without one allow (Tango).

    z^2 / (n + z^2): where no spread was seen, this stands for the spread that was not.
    """
    z = NormalDist().inv_cdf(1 - alpha)
    return z * z / (n + z * z)


def pairs_needed(margin: float, alpha: float) -> int:
    """Count the pairs, none of which differs, that show a loss below `margin`; see `tango`."""
    z = NormalDist().inv_cdf(1 - alpha)
    return math.floor(z * z * (1 - margin) / margin) + 1
