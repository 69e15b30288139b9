"""Draw intervals as bars in table cells, with one scale per column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.core.schema import Check, MetricResult

WIDTH = 240  # user units; the templates draw them
EDGE = 6
# A gain of many margins is drawn as an arrow, so that the scale around the margin stays readable.
MAX_GAIN = 8.0  # in margins


@dataclass(frozen=True)
class Bar:
    """Positions of a bar, from 0 to `WIDTH`; an end beyond the scale gets an arrow."""

    low: float
    middle: float
    high: float
    ticks: tuple[float, ...] = ()
    beyond_low: bool = False
    beyond_high: bool = False


@dataclass(frozen=True)
class Scale:
    """A scale that maps the numbers from `low` to `high` to the width."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Return the position of `value`, which is an end of the scale for values beyond it."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(EDGE + min(max(share, 0.0), 1.0) * (WIDTH - 2 * EDGE), 1)

    def bar(self, low: float, middle: float, high: float, ticks: Sequence[float] = ()) -> Bar:
        return Bar(
            self.x(low),
            self.x(middle),
            self.x(high),
            tuple(self.x(tick) for tick in ticks),
            beyond_low=low < self.low,
            beyond_high=high > self.high,
        )


def of_checks(checks: Sequence[Check]) -> list[Bar | None]:
    """Draw gains in units of their margins, with ticks at minus the margin and at no change."""
    ends = [end / c.margin for c in checks if c.n for end in c.interval]
    scale = Scale(
        max(min([*ends, -1.5]), -MAX_GAIN),
        min(max([*ends, 1.5]), MAX_GAIN),
    )
    return [
        scale.bar(low / c.margin, c.delta / c.margin, high / c.margin, (-1.0, 0.0)) if c.n else None
        for c in checks
        for low, high in [c.interval]
    ]


def of_results(results: Iterable[MetricResult | None]) -> list[Bar | None]:
    """Draw means with their intervals on one scale."""
    found = [_ends(result) for result in results]
    ends = [end for one in found if one for end in one]
    scale = Scale(min(ends, default=0.0), max(ends, default=1.0))
    return [scale.bar(*one) if one else None for one in found]


def _ends(result: MetricResult | None) -> tuple[float, float, float] | None:
    if result is None or result.mean is None:
        return None
    low = result.mean if result.low is None else result.low
    high = result.mean if result.high is None else result.high
    return low, result.mean, high
