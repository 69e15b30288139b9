"""Measure a reward model: its accuracy on preferences, and its calibration.

`margins` are the reward of the chosen response minus that of the rejected one. The model's
probability that the chosen response is better is sigmoid(margin) (R. A. Bradley and M. E. Terry,
Biometrika 1952).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness.core.schema import MetricResult, Record
from harness.render.numbers import mean_and_interval
from harness.render.table import table
from harness.stats.intervals import summarize

Numbers = npt.NDArray[np.float64]

Z = 1.959963984540054  # of a 95 % interval
DRAWS = 1000


class Bin(Record):
    """Preferences of which the model was about equally sure."""

    low: float
    high: float
    n: int
    confidence: float = Field(description="mean probability of the order that the model chose")
    accuracy: float = Field(description="share of correct orders, ties half")


class Calibration(Record):
    """Whether a model that is sure with probability p is right in a share p of the cases."""

    error: float = Field(description="expected calibration error")
    floor: float = Field(
        description="mean error of a perfectly calibrated model at this n: the part due to chance"
    )
    overconfidence: MetricResult = Field(description="confidence minus accuracy")
    bins: list[Bin]
    n: int


class Measured(Record):
    """Quality of a reward model on held-out preferences."""

    accuracy: MetricResult
    by_domain: dict[str, MetricResult]
    calibration: Calibration


def measure(margins: npt.ArrayLike, domains: Sequence[str]) -> Measured:
    """Measure accuracy, overall and by domain ("" for none), and calibration.

    Raises:
        ValueError: there are no margins, one is not a number, or the lengths differ.
    """
    values = np.asarray(margins, dtype=np.float64)
    if len(values) != len(domains):
        raise ValueError(f"{len(values)} margins, {len(domains)} domains")
    return Measured(
        accuracy=accuracy(values),
        by_domain={
            name: accuracy(values[[domain == name for domain in domains]])
            for name in sorted({domain for domain in domains if domain})
        },
        calibration=calibration(values),
    )


def markdown(measured: Measured) -> str:
    """Lay out accuracy by domain, and say how well margins are calibrated."""
    rows = [["", "accuracy [95 %]", "pairs"]]
    for name, result in {"all": measured.accuracy, **measured.by_domain}.items():
        rows.append([name, mean_and_interval(result, ".1%"), str(result.n)])
    calibration = measured.calibration
    return (
        f"{table(rows)}\n\ncalibration error {calibration.error:.1%} "
        f"({calibration.floor:.1%} by chance), overconfidence "
        f"{mean_and_interval(calibration.overconfidence, '+.1%')}"
    )


def accuracy(margins: npt.ArrayLike) -> MetricResult:
    """Compute the share of correctly ordered preferences, ties half, with its 95 % interval.

    The interval is Wilson's score interval (JASA 1927); with ties, which vary less than a coin, it
    is a little too wide.

    Raises:
        ValueError: there are no margins, or one is not a number.
    """
    hits = _right(_checked(margins))
    n, share = len(hits), float(hits.mean())
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    stderr = float(hits.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return MetricResult(
        mean=share, stderr=stderr, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n
    )


def calibration(margins: npt.ArrayLike, bins: int = 10, seed: int = 0) -> Calibration:
    """Compute the expected calibration error over `bins` equal bins of confidence in [1/2, 1].

    sum over bins of n_b / n |accuracy_b - confidence_b| (C. Guo et al., ICML 2017), where
    confidence is max(p, 1 - p). Even a perfectly calibrated model has an error above 0: `floor` is
    the mean over random draws (from `seed`) in which every order is right with the model's own
    probability.

    Raises:
        ValueError: there are no margins, or one is not a number.
    """
    values = _checked(margins)
    right = _right(values)
    confidence = 1 / (1 + np.exp(-np.abs(values)))
    place = np.minimum((confidence - 0.5) * 2 * bins, bins - 1).astype(np.int64)
    member = np.eye(bins)[place]  # (n, bins)
    drawn = np.random.default_rng(seed).random((DRAWS, len(values))) < confidence
    gaps = np.abs((drawn - confidence) @ member).sum(axis=1) / len(values)
    return Calibration(
        error=float(np.abs((right - confidence) @ member).sum() / len(values)),
        floor=float(gaps.mean()),
        overconfidence=summarize((confidence - right).tolist()),
        bins=[
            Bin(
                low=0.5 + b / (2 * bins),
                high=0.5 + (b + 1) / (2 * bins),
                n=int((place == b).sum()),
                confidence=float(confidence[place == b].mean()),
                accuracy=float(right[place == b].mean()),
            )
            for b in range(bins)
            if (place == b).any()
        ],
        n=len(values),
    )


def _right(margins: Numbers) -> Numbers:
    """Return 1 where the chosen response has the higher reward, 1/2 for a tie."""
    return np.asarray((margins > 0) + 0.5 * (margins == 0), dtype=np.float64)


def _checked(margins: npt.ArrayLike) -> Numbers:
    values = np.asarray(margins, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("margins must be finite numbers, and at least one")
    return values
