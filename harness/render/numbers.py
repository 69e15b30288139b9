"""Format numbers for people: means with their intervals, p-values, counts."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.schema import Metric, MetricResult
from harness.core.text import plural

NOTHING = "\N{EN DASH}"


def with_interval(
    value: float | None, low: float | None = None, high: float | None = None, how: str = ".3f"
) -> str:
    """Format `value [low, high]`, each by the format specification `how`; "-" for None."""
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{value:{how}}"
    return f"{value:{how}} [{low:{how}}, {high:{how}}]"


def mean_and_interval(result: MetricResult, how: str = ".3f") -> str:
    """Format the mean of `result` with its 95 % interval; "-" if there is no mean."""
    return with_interval(result.mean, result.low, result.high, how)


def items(result: MetricResult, how: str = "") -> str:
    """Format the number of items with a value, and of their clusters if they have any."""
    if result.clusters is None:
        return f"{result.n:{how}}"
    clusters = plural("cluster", result.clusters)
    return f"{result.n:{how}} in {result.clusters:{how}} {clusters}"


def percent(result: MetricResult | None, sign: str = "") -> str:
    """Format a mean with its interval in percent; "-" if there is no mean."""
    if result is None or result.mean is None:
        return "-"
    low, high = (None if end is None else 100 * end for end in (result.low, result.high))
    return with_interval(100 * result.mean, low, high, f"{sign}.1f")


# On pages: as many digits as the metric's range deserves.


def number(value: float | None, metric: Metric | None = None, *, signed: bool = False) -> str:
    """Format `value` with 3 decimals for a share, 2 for a grade, 1 for a count, else 4 digits."""
    if value is None:
        return NOTHING
    sign = "+" if signed else ""
    span = metric.span if metric else None
    if span is None:
        shown = f"{value:{sign}.4g}"
    else:
        shown = f"{value:{sign},.{3 if span <= 1 else 2 if span <= 10 else 1}f}"
    return shown.replace("-", "\N{MINUS SIGN}")


def interval(
    low: float | None, high: float | None, metric: Metric | None = None, *, signed: bool = False
) -> str:
    """Format `[low, high]`; "" if one end is not known."""
    if low is None or high is None:
        return ""
    return f"[{number(low, metric, signed=signed)}, {number(high, metric, signed=signed)}]"


def result(found: MetricResult | None, metric: Metric | None = None) -> str:
    """Format a mean with its 95 % interval and n on one line."""
    if found is None:
        return NOTHING
    if found.mean is None:
        return f"no value, {found.unscored:,} unscored"
    parts = [
        number(found.mean, metric),
        interval(found.low, found.high, metric),
        f"n={items(found, ',')}",
    ]
    return " ".join(part for part in parts if part)


def p(value: float) -> str:
    """Format a p-value; below .0001 its size says nothing."""
    return "< .0001" if value < 1e-4 else f"{value:.2g}"


def counts(results: Sequence[MetricResult | None]) -> str:
    """Format the items behind several means: one number if they agree."""
    found = [NOTHING if one is None else f"{one.n:,}" for one in results]
    return found[0] if len(set(found)) == 1 else " · ".join(found)
