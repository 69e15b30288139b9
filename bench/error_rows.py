"""Rows of measured rates, each with its 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ALPHA = 0.05


@dataclass(frozen=True)
class Row:
    """`rate` of `gates` for which `event` was so; `wanted` is what was promised, if anything."""

    part: str
    test: str
    scenario: str
    event: str
    wanted: str
    gates: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Used:
    """How many items a gate used, over `gates`: the median, and the mean with its interval."""

    part: str
    test: str
    scenario: str
    gates: int
    decided: float
    mean: float
    low: float
    high: float
    median: float
    fixed: int | None  # what a test at one look needs for power .8


def row(*told: str, hits: npt.ArrayLike) -> Row:
    """A row of part, test, scenario, event and what was wanted, from whether each gate was it."""
    from scipy.stats import binomtest

    part, test, scenario, event, wanted = told
    said = np.asarray(hits, dtype=bool)
    found = binomtest(int(said.sum()), said.size).proportion_ci(0.95)
    return Row(
        part, test, scenario, event, wanted, said.size, float(said.mean()), found.low, found.high
    )


def show(found: Row | Used) -> str:
    if isinstance(found, Used):
        return (
            f"| {found.test} | {found.scenario} | items used: mean {found.mean:,.0f} "
            f"[{found.low:,.0f}, {found.high:,.0f}], median {found.median:,.0f}, decided "
            f"{found.decided:.3f} | one look at power .8: {found.fixed or '-'} | {found.gates:,} |"
        )
    return (
        f"| {found.test} | {found.scenario} | {found.event}: {found.rate:.4f} "
        f"[{found.low:.4f}, {found.high:.4f}] | {found.wanted} | {found.gates:,} |"
    )
