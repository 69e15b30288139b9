"""Numbers as a page shows them: as many digits as the metric's range deserves, always with n."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.schema import Metric, MetricResult

NOTHING = "\N{EN DASH}"


def number(value: float | None, metric: Metric | None = None, *, signed: bool = False) -> str:
    """`value` with 3 decimals for a share, 2 for a grade, 1 for a count, else 4 digits."""
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
    """`[low, high]`; nothing where one end is not known."""
    if low is None or high is None:
        return ""
    return f"[{number(low, metric, signed=signed)}, {number(high, metric, signed=signed)}]"


def result(found: MetricResult, metric: Metric | None = None) -> str:
    """A mean with its 95 % interval and n, in one line."""
    if found.mean is None:
        return f"no value, {found.unscored:,} unscored"
    parts = [number(found.mean, metric), interval(found.low, found.high, metric), f"n={found.n:,}"]
    if found.clusters:
        parts.append(f"in {found.clusters:,} cluster{'s' if found.clusters != 1 else ''}")
    return " ".join(part for part in parts if part)


def p(value: float) -> str:
    """A p-value; how far below .0001 it is says nothing."""
    return "< .0001" if value < 1e-4 else f"{value:.2g}"


def counts(results: Sequence[MetricResult | None]) -> str:
    """The items behind each of several means: one number where they agree."""
    found = [NOTHING if one is None else f"{one.n:,}" for one in results]
    return found[0] if len(set(found)) == 1 else " · ".join(found)
