"""What goes with a sequential test: an interval and a p-value that hold whenever it stopped."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from harness.stats.sequential import log_evidence


def bounds(
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
    """Two-sided p-value of a mean gain of 0 where a test stops: twice 1 / the better evidence."""
    x = np.clip(np.asarray(gains, dtype=np.float64) / span, -1, 1)
    best = max(float(log_evidence(side, 0.0, population)[-1]) for side in (x, -x))
    return min(1.0, 2 * math.exp(-best))


def _lower(x: npt.NDArray[np.float64], alpha: float, population: int | None) -> float:
    """The largest mean that the bets on "above it" refuse; -1 where they refuse none."""
    low, high = -1.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        refused = float(log_evidence(x, middle, population)[-1]) >= -math.log(alpha)
        low, high = (middle, high) if refused else (low, middle)
    return low
