"""Test non-inferiority item by item, and stop as soon as the verdict is known.

The evidence is a bet that starts at 1 and cannot be expected to grow while the null is true; by
Ville's inequality it ever reaches 1/alpha with a chance of at most alpha, so it may be looked at
after every item. Sources: I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 86, 2024 (arXiv 2010.09686), sections 4 and 5, stake as their aGRAPA.

The items must come in an order that was drawn at random, and committed, before any was answered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError

Numbers = npt.NDArray[np.float64]

STAKE = 0.5  # the share of what is owned that one item may take
ROUNDING = 1e-9


@dataclass(frozen=True)
class SequentialResult:
    """What a sequence of differences has shown, up to where it stopped.

    `log_e_pass` is the log of the evidence against "worse by the margin or more", `log_e_fail`
    against its mirror; infinite where what is left of a finite population cannot change it.
    """

    verdict: Literal["pass", "fail"] | None
    stopped_at: int | None  # items used; None: the verdict is still open
    log_e_pass: float
    log_e_fail: float


def sequential_test(
    differences: npt.ArrayLike,
    *,
    margin: float,
    alpha: float,
    span: float = 1.0,
    population: int | None = None,
) -> SequentialResult:
    """Test, after each of `differences`, whether the candidate is at most `margin` worse.

    `differences`, shape (items,), are candidate - baseline in the committed order, each within
    `span`, the width of the metric's range. It stops at the first item at which the evidence for
    either verdict reaches 1/alpha. Each verdict is false with a chance of at most `alpha`.

    Without `population` items stand for all that could be asked. With it they are drawn, without
    replacement, from so many, and the verdict is on the mean of these: it is reached sooner, and
    for sure once all are seen.

    Raises:
        UserError: a difference is missing or wider than the span, a margin outside (0, span), a
            level outside (0, 1), or more differences than the population has items.
    """
    x = np.asarray(differences, dtype=np.float64)
    if not 0 < margin < span:
        raise UserError(f"The margin is {margin:g}; it has to lie between 0 and the span {span:g}.")
    if not 0 < alpha < 1:
        raise UserError(f"The level is {alpha:g}; it has to lie between 0 and 1.")
    if x.ndim != 1 or not np.all(np.abs(x) <= span * (1 + ROUNDING)):
        raise UserError(
            f"A sequential test needs one difference per item, each between -{span:g} and "
            f"{span:g}, the width of the metric's range. Give the width, and leave no gaps."
        )
    if population is not None and len(x) > population:
        raise UserError(f"{len(x)} items cannot be drawn from a population of {population}.")
    if len(x) == 0:
        return SequentialResult(None, None, 0.0, 0.0)
    x = np.clip(x / span, -1, 1)
    better = log_evidence(x, -margin / span, population)
    worse = log_evidence(-x, margin / span, population)
    crossed = np.maximum(better, worse) >= -math.log(alpha)
    if not crossed.any():
        return SequentialResult(None, None, float(better[-1]), float(worse[-1]))
    stop = int(np.argmax(crossed))
    verdict: Literal["pass", "fail"] = "pass" if better[stop] > worse[stop] else "fail"
    return SequentialResult(verdict, stop + 1, float(better[stop]), float(worse[stop]))


def log_evidence(values: npt.ArrayLike, null: float, population: int | None = None) -> Numbers:
    """Compute the log of E_t against "the mean is at most `null`", after each value.

    `values`, shape (..., items), and `null` lie within [-1, 1]. With mu_t and s_t^2 the mean,
    over `null`, and the variance of the values before t,

        E_t = prod_{i <= t} (1 + lambda_i (x_i - null))
        lambda_t = clip(mu_t / (s_t^2 + mu_t^2), 0, c / (1 + null)),  lambda_1 = 0,  c = `STAKE`

    Of a finite `population` of N items with a mean of `null`, those not yet seen have the mean
    (N null - S_{t-1}) / (N - t + 1), which takes the place of `null`. Where even values of -1 for
    all that is left would leave the mean above it, E is infinite.
    """
    x = np.asarray(values, dtype=np.float64)
    seen = np.arange(x.shape[-1])  # before each item
    total = np.cumsum(x, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        past = (total - x) / seen
        spread = np.maximum((np.cumsum(x * x, axis=-1) - x * x) / seen - past**2, 0)
        expected: Numbers | float = null
        if population is not None:
            expected = np.maximum((population * null - (total - x)) / (population - seen), -1)
        lead = past - expected
        stake = np.minimum(lead / (spread + lead**2), STAKE / (1 + expected))
    stake = np.where((lead > 0) & (seen > 0), stake, 0.0)  # the first lead is no number: no stake
    log_e = np.cumsum(np.log1p(stake * (x - expected)), axis=-1)
    if population is not None:
        left = population - seen - 1
        certain = total - left > population * null + ROUNDING * population
        log_e = np.where(np.logical_or.accumulate(certain, axis=-1), math.inf, log_e)
    return np.asarray(log_e, dtype=np.float64)


def sequential_bounds(
    gains: npt.ArrayLike, *, alpha: float, span: float = 1.0, population: int | None = None
) -> tuple[float, float]:
    """Lower and upper bound of the mean gain where a test stops, each wrong with chance `alpha`.

    `gains`, shape (items,), are candidate - baseline in the committed order, within `span`. The
    interval holds every mean that the bets do not refuse here (as in a confidence sequence:
    I. Waudby-Smith, A. Ramdas, arXiv 2010.09686, section 4.1), to 10^-5 of the span.
    """
    x = np.clip(np.asarray(gains, dtype=np.float64) / span, -1, 1)
    low = _lower(x, alpha, population)
    high = -_lower(-x, alpha, population)
    return low * span, high * span


def p_of_no_change(
    gains: npt.ArrayLike, *, span: float = 1.0, population: int | None = None
) -> float:
    """Return the two-sided p-value of no mean gain where a test stops: 2 / the better evidence."""
    x = np.clip(np.asarray(gains, dtype=np.float64) / span, -1, 1)
    best = max(float(log_evidence(side, 0.0, population)[-1]) for side in (x, -x))
    return min(1.0, 2 * math.exp(-best))


def _lower(x: Numbers, alpha: float, population: int | None) -> float:
    """Return the largest mean that the bets on "above it" refuse; -1 where they refuse none."""
    low, high = -1.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        refused = float(log_evidence(x, middle, population)[-1]) >= -math.log(alpha)
        low, high = (middle, high) if refused else (low, middle)
    return low
