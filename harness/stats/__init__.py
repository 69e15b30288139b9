"""Pure estimators: numbers in, an estimate out. No project import but the vocabulary, no I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A gain of the candidate over the baseline, with its interval and p-values.

    `low` and `high` bound the gain from each side at one-sided level alpha: the 1 - 2 alpha
    interval. `p_value` is one-sided, of gain <= -margin; `p_zero` two-sided, of gain = 0.
    `wider` says in one sentence why the interval is wider than that of a test on independent
    items without skew would be; empty where it is not.
    """

    test: str
    delta: float
    stderr: float
    low: float
    high: float
    p_value: float
    p_zero: float
    wider: str = ""
    worst: float = 0.0  # the lowest gain that an item can show; 0: not a bound on it was used
