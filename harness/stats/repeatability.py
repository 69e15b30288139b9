"""Measure how whole runs of one model differ, and widen a paired test by that.

A paired test sees all that differs from item to item, the noise of decoding included: a run is one
draw of it, and the spread of the items' differences holds both draws. What it cannot see is what
moves all the items of a run together (other kernels, another batch size, a server's new build, a
judge in another mood): that happened once a run, and looks like a gain. In

    x_ri = mean + item_i + run_r + rest_ri,    sd(run) = tau,    sd(rest) = sigma

the mean of a run over n items has the variance tau^2 + sigma^2 / n, and of the two parts only the
second is in the spread of paired differences. So tau has to be measured, on several runs of one
model that were made in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.core.schema import FEWEST_RUNS, Noise
from harness.stats import Estimate
from harness.stats.distributions import f_tail, student_quantile

NEARLY = 1e-12  # a level below which a p-value is not told apart from 0


@dataclass(frozen=True)
class Repeatability:
    """How runs of one model differ in one metric; in its unit but for the shares."""

    runs: int
    items: int
    mean: float
    differing: float  # share of items that two runs value differently
    total_sd: float  # of a run's mean
    shared_sd: float  # the part of it that paired differences do not show: tau
    p_value: float  # of such differences, or larger ones, where tau is 0


def measure(values: npt.ArrayLike) -> Repeatability:
    """Measure how the runs in `values`, shape (runs, items), differ.

    The analysis of variance of items by runs (H. Scheffe, The Analysis of Variance, 1959, sections
    4.2 and 7.2): with V the variance of the run means and MSE the residual mean square on
    (R - 1)(n - 1) degrees of freedom, tau^2 = max(0, V - MSE / n); under tau = 0, n V / MSE is F.

    Raises:
        UserError: fewer than `FEWEST_RUNS` runs, or fewer than 2 items.
    """
    x = np.asarray(values, dtype=np.float64)
    runs, n = x.shape
    if runs < FEWEST_RUNS or n < 2:
        raise UserError(
            f"{runs} runs of one model on {n} items are too few to tell what runs differ by: "
            f"give {FEWEST_RUNS} or more, on the same items."
        )
    beside = x - x[0]  # the same differences, and exactly 0 where runs are equal
    means = beside.mean(axis=1)
    rest = beside - beside.mean(axis=0) - means[:, None] + beside.mean()
    freedom = (runs - 1) * (n - 1)
    residual = float(np.square(rest).sum()) / freedom
    variance = float(means.var(ddof=1))
    return Repeatability(
        runs=runs,
        items=n,
        mean=float(x.mean()),
        differing=float(np.mean([(a != b).mean() for a, b in combinations(x, 2)])),
        total_sd=math.sqrt(variance),
        shared_sd=math.sqrt(max(0.0, variance - residual / n)),
        p_value=_f_tail(n * variance, residual, runs - 1, freedom),
    )


def _f_tail(between: float, within: float, top: int, bottom: int) -> float:
    if within <= 0:
        return 1.0 if between <= 0 else 0.0
    return f_tail(top, bottom, between / within)


def reach(noise: Noise, alpha: float) -> float:
    """Bound, one-sided, how far the means of two runs differ beyond their items.

    t_{R-1, 1-alpha} sqrt(2) tau, as tau was measured on R runs.
    """
    return student_quantile(noise.runs - 1, 1 - alpha) * math.sqrt(2) * noise.sd


def bounds(found: Estimate, noise: Noise, alpha: float) -> tuple[float, float]:
    """Widen the bounds of a paired test, `found`, where whole runs differ by `noise`.

    The gain is what the test saw, [low, high] about delta, less the difference of two runs, which
    is 0 give or take `reach`. The bounds of a sum of independent parts come from those of each
    (G. Zou, A. Donner, Statistics in Medicine 27, 2008, 1693-1702):

        low = delta - sqrt((delta - low)^2 + reach^2),   and high alike
    """
    further = reach(noise, alpha)
    low = found.delta - math.hypot(found.delta - found.low, further)
    return low, found.delta + math.hypot(found.high - found.delta, further)


def widen(
    test: Callable[[float], Estimate], noise: Noise, *, margin: float, alpha: float
) -> Estimate:
    """Widen `test(level)`, a paired test, where runs of one model differ by `noise`.

    The bounds are `bounds`; p-values are the levels at which they would touch the margin, and 0.
    Without noise the bounds stay as they are. The level, simulated, is in docs/statistics.md.
    """
    found = test(alpha)

    def level_at(point: float) -> float:
        """Return the one-sided p-value of a gain on the other side of `point` than was seen."""
        least, most = NEARLY, 0.5 - NEARLY
        for _ in range(24):
            level = math.sqrt(least * most)
            low, high = bounds(test(level), noise, level)
            clear = low > point if found.delta >= point else high < point
            least, most = (least, level) if clear else (level, most)
        return most

    low, high = bounds(found, noise, alpha)
    beyond = level_at(-margin)
    return replace(
        found,
        test=f"{found.test}, with the noise of runs",
        stderr=math.hypot(found.stderr, math.sqrt(2) * noise.sd),
        low=low,
        high=high,
        p_value=beyond if found.delta >= -margin else 1 - beyond,
        p_zero=max(found.p_zero, min(1.0, 2 * level_at(0.0))),
    )
