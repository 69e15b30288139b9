"""Compute Student's t, F, beta and binomial probabilities by the standard library.

scipy has them as well, but takes 140 MB, more than everything else that the gate needs.

All of them are the incomplete beta function I_x(a, b): its continued fraction (W. Press et al.,
Numerical Recipes, section 6.4) times a binomial density that is computed without cancellation
(C. Loader, "Fast and Accurate Computation of Binomial Probabilities", 2000).
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

EPSILON = sys.float_info.epsilon
MAX_TERMS = 100_000
NORMAL_FREEDOM = 1e12  # from here on Student's t is the normal distribution to all digits
STIRLING_FROM = 16
# Stirling's series of log n!: the coefficients of 1/n, 1/n^3, 1/n^5, ...
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def student_cdf(freedom: float, t: float) -> float:
    """Return the chance that Student's t with `freedom` degrees of freedom is at most `t`."""
    if math.isnan(t) or not freedom > 0:
        return math.nan
    if freedom >= NORMAL_FREEDOM or math.isinf(t):
        return math.erfc(-t / math.sqrt(2)) / 2
    total = freedom + t * t
    tail = incomplete_beta(freedom / 2, 0.5, freedom / total, t * t / total) / 2
    return 1 - tail if t > 0 else tail


@functools.lru_cache(maxsize=4096)
def student_quantile(freedom: float, share: float) -> float:
    """Return the value below which Student's t with `freedom` degrees of freedom has `share`."""
    if not (freedom > 0 and 0 <= share <= 1):
        return math.nan
    if share > 0.5:
        return -student_quantile(freedom, 1 - share)
    if share in (0, 0.5):
        return -math.inf if share == 0 else 0.0
    return -_root(lambda t: share - student_cdf(freedom, -t))


def f_tail(top: float, bottom: float, ratio: float) -> float:
    """Return the chance that F with `top` and `bottom` degrees of freedom exceeds `ratio`."""
    if math.isnan(ratio) or ratio < 0:
        return math.nan
    if math.isinf(ratio):
        return 0.0
    total = bottom + top * ratio
    return incomplete_beta(bottom / 2, top / 2, bottom / total, top * ratio / total)


def beta_quantile(a: float, b: float, share: float) -> float:
    """Return the value below which Beta(a, b) has `share`."""
    if not (a > 0 and b > 0 and 0 <= share <= 1):
        return math.nan
    if share in (0, 1):
        return share
    return _root(lambda x: incomplete_beta(a, b, x, 1 - x) - share)


def binomial_cdf(k: npt.ArrayLike, n: npt.ArrayLike, share: float) -> Numbers:
    """Return the chance of at most `k` successes among `n`; the arguments broadcast."""
    pairs = np.stack(np.broadcast_arrays(np.asarray(k), np.asarray(n)), axis=-1)
    different, place = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    chances = [
        float(k >= n) if not 0 <= k < n else incomplete_beta(n - k, k + 1, 1 - share, share)
        for k, n in different.tolist()
    ]
    return np.asarray(chances, dtype=np.float64)[place.reshape(pairs.shape[:-1])]


def binomial_density(hits: npt.ArrayLike, n: int, share: float) -> Numbers:
    """Return the chance of `hits` successes among `n`, for each of `hits`."""
    return np.array([_binomial(k, n - k, share, 1 - share) for k in np.asarray(hits).tolist()])


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """Return I_x(a, b), the chance that Beta(a, b) is at most `x`; `rest` is 1 - x, in full."""
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    front = _binomial(a, b, x, rest) * a * b / (a + b)
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, rest) / b


def _fraction(a: float, b: float, x: float) -> float:
    """Sum the continued fraction of I_x(a, b) by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + even * d)
        c = 1 + even / c
        value *= c * d
        d = 1 / (1 + odd * d)
        c = 1 + odd / c
        value *= c * d
        if abs(c * d - 1) <= EPSILON:
            break
    return value


def _binomial(hits: float, misses: float, share: float, rest: float) -> float:
    """Return the binomial density (hits + misses)! / hits! / misses! share^hits rest^misses.

    The numbers need not be whole; `rest` is 1 - share.
    """
    n = hits + misses
    if hits == 0 or misses == 0:
        return math.pow(rest if hits == 0 else share, n)
    log = _stirling_error(n) - _stirling_error(hits) - _stirling_error(misses)
    log -= _deviance(hits, n * share) + _deviance(misses, n * rest)
    return math.exp(log) * math.sqrt(n / (2 * math.pi * hits * misses))


def _stirling_error(n: float) -> float:
    """Return log n! - log(sqrt(2 pi n) (n / e)^n)."""
    if n < STIRLING_FROM:
        return math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - math.log(2 * math.pi) / 2
    total = 0.0
    for coefficient in reversed(STIRLING):
        total = total / (n * n) + coefficient
    return total / n


def _deviance(x: float, expected: float) -> float:
    """Return x log(x / expected) + expected - x, also where both are nearly equal."""
    gap = x - expected
    if abs(gap) >= 0.1 * (x + expected):
        if expected == 0:
            return math.inf
        return x * math.log(x / expected) - gap
    ratio = gap / (x + expected)
    total, term = gap * ratio, 2 * x * ratio
    for k in range(1, MAX_TERMS):
        term *= ratio * ratio
        if total + term / (2 * k + 1) == total:
            break
        total += term / (2 * k + 1)
    return total


def _root(rising: Callable[[float], float]) -> float:
    """Return where a function that rises from 0 on becomes positive, to the last bit."""
    low, high = 0.0, 1.0
    while rising(high) < 0:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return high
