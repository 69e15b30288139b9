"""How small a change an evaluation can see, and how many items a change needs.

Source of all: E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 5; for yes/no
metrics the variance of a paired difference near zero is the share of items that flip.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from harness.errors import UserError


def _z(alpha: float, power: float) -> float:
    return NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)


def paired_sd(
    omega: float,
    baseline_sd: float = 0.0,
    candidate_sd: float = 0.0,
    baseline_repeats: int = 1,
    candidate_repeats: int = 1,
) -> float:
    """Standard deviation of one item's difference: sqrt(omega^2 + s_A^2 / K_A + s_B^2 / K_B).

    `omega` is the spread of the true differences between items; `*_sd` that of one item's
    repeated answers, of which `*_repeats` are averaged.
    """
    return math.sqrt(
        omega**2 + baseline_sd**2 / baseline_repeats + candidate_sd**2 / candidate_repeats
    )


def minimum_detectable(n: int, sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The change that `n` items detect with `power`: (z_alpha + z_power) sd / sqrt(n).

    `alpha` is one-sided, `sd` that of one item's difference.

    Raises:
        UserError: no items.
    """
    if n < 1:
        raise UserError("Nothing can be detected without items: give n of 1 or more.")
    return _z(alpha, power) * sd / math.sqrt(n)


def minimum_detectable_binary(
    n: int, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """`minimum_detectable` of a yes/no metric where a share `discordance` of the items flips."""
    return minimum_detectable(n, math.sqrt(discordance), alpha, power)


def items_needed(change: float, sd: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Items that detect `change` with `power`: ((z_alpha + z_power) sd / change)^2, rounded up.

    Raises:
        UserError: a change of zero, which no number of items detects.
    """
    if change == 0:
        raise UserError("No number of items detects a change of zero: give the change to detect.")
    return math.ceil((_z(alpha, power) * sd / change) ** 2)
