"""Bound a mean from below where large losses are rare, allowing for skew and unseen losses.

Student's t trusts the spread of the sample. Where most items do not change and a few collapse, the
sample misses the rare large losses, its spread is too small, and the bound too high. Two things
mend that, and neither widens the bound of a large sample without skew:

    skew      Hall's transformation of the t statistic (P. Hall, "On the removal of skewness by
              transformation", J. R. Statist. Soc. B 54, 1992, 221-228)
    unseen    a share of the population too rare to show in the sample, at the worst value: the
              exact binomial bound for an event that n items did not show (Clopper, Pearson, 1934)

The bound is the lowest of the three. Upper bounds are lower bounds of the negated values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.stats.distributions import student_cdf, student_quantile

Numbers = npt.NDArray[np.float64]

Limits = tuple[float | None, float | None]
"""Smallest and largest value that a metric can have; None: nobody knows."""

FAR = 100.0  # an end of the range that is so many times as large as all values says nothing
TAIL = 1.5  # factor on the skewness where nothing limits the values: a sample shows too little


@dataclass(frozen=True)
class MeanBound:
    """What a sample says of the mean from below.

    `mean` and `stderr` are the estimate, `count` the independent units (items or clusters) that it
    was made from, `skewness` theirs. `worst` is the lowest possible value, `effective` the number
    of independent items that could have shown it.
    """

    mean: float
    stderr: float
    count: int
    skewness: float
    worst: float
    effective: float

    def lower(self, alpha: float) -> float:
        """Return the bound at one-sided level `alpha`."""
        return min(self.student(alpha), self.skew(alpha), self.unseen(alpha))

    def student(self, alpha: float) -> float:
        """Student's bound: mean - t se, with count - 1 degrees of freedom."""
        return self.mean - student_quantile(self.count - 1, 1 - alpha) * self.stderr

    def skew(self, alpha: float) -> float:
        """Hall's bound, with k = skewness / sqrt(n) and t Student's quantile:

        mean - se (3 / k) ((1 + k (t - k / 6))^(1/3) - 1)
        """
        t = student_quantile(self.count - 1, 1 - alpha)
        k = self.skewness / math.sqrt(self.count)
        if abs(k) > 1e-6:
            t = 3 / k * (float(np.cbrt(1 + k * (t - k / 6))) - 1)
        return self.mean - t * self.stderr

    def unseen(self, alpha: float) -> float:
        """Return the mean if as many items as the sample leaves possible had the worst value."""
        return self.mean - unseen_share(self.effective, alpha) * max(0.0, self.mean - self.worst)

    def p_value(self, point: float) -> float:
        """Return the level whose bound touches `point`: the p-value, one-sided, of a mean below."""
        above = self.mean - point
        if above <= 0:
            return 1.0
        student = above / self.stderr if self.stderr > 0 else math.inf
        below = student_cdf(self.count - 1, -student)
        return max(below, self.p_skew(point), self.p_unseen(point))

    def p_unseen(self, point: float) -> float:
        """Return the chance that no item shows a collapse that would cost all above `point`."""
        above = self.mean - point
        if above <= 0:
            return 1.0
        return float((1 - above / max(above, self.mean - self.worst)) ** self.effective)

    def p_skew(self, point: float) -> float:
        """Return the level at which Hall's bound touches `point`."""
        if self.stderr <= 0:
            return 0.0 if self.mean > point else 1.0
        t, k = (self.mean - point) / self.stderr, self.skewness / math.sqrt(self.count)
        return student_cdf(self.count - 1, -(t + k * t * t / 3 + k * k * t**3 / 27 + k / 6))


def p_below(below: float, above: float, *, higher: bool) -> float:
    """Return the one-sided p-value of a mean at or below a point, from those of either side.

    `higher` says whether the estimate lies above the point. It is below .5 there and above .5
    elsewhere, so that it crosses a level exactly where the lower or the upper bound does.
    """
    return min(0.5, below) if higher else max(0.5, 1 - above)


def unseen_share(n: float, alpha: float) -> float:
    """Return the largest share of events that `n` items without one allow: 1 - alpha^(1/n)."""
    return float(-np.expm1(math.log(alpha) / n))


def items_to_exclude(loss: float, worst: float, alpha: float) -> int:
    """Count the items without an event that show that events of `worst` cost less than `loss`."""
    if loss >= worst or math.isinf(worst):
        return 1
    return math.ceil(math.log(alpha) / math.log1p(-loss / worst))


def beyond(end: float, values: npt.ArrayLike) -> bool:
    """Tell whether an end of the range is so far from all values that it says nothing of them."""
    largest = float(np.nanmax(np.abs(np.asarray(values, dtype=np.float64))))
    return largest > 0 and abs(end) > FAR * largest


def skewness(values: Numbers) -> float:
    """Third central moment over the cube of the standard deviation; 0 where nothing differs."""
    moves = values - values.mean()
    variance = float(np.square(moves).mean())
    largest = float(np.abs(values).max(initial=0.0))
    if variance <= (1e-9 * largest) ** 2:
        return 0.0
    return float((moves**3).mean() / variance**1.5)
