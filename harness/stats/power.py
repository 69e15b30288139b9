"""How small a change an evaluation can see, and how many items a change needs.

Source of all: E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 5; for yes/no
metrics the variance of a paired difference near zero is the share of items that flip.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from harness.core.errors import UserError
from harness.core.schema import Noise
from harness.stats.repeatability import reach


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


def minimum_detectable(
    n: int, sd: float, alpha: float = 0.05, power: float = 0.8, noise: Noise | None = None
) -> float:
    """The change that `n` items detect with `power`: (z_alpha + z_power) sd / sqrt(n).

    `alpha` is one-sided, `sd` that of one item's difference. Where runs of one model differ by
    `noise`, and with se = sd / sqrt(n) and tau and reach as in `harness.stats.repeatability`, it is

        sqrt((z_alpha se)^2 + reach^2) + z_power sqrt(se^2 + 2 tau^2)

    Raises:
        UserError: no items.
    """
    if n < 1:
        raise UserError("Nothing can be detected without items: give n of 1 or more.")
    return threshold(n, sd, alpha, noise) + NormalDist().inv_cdf(power) * _stderr(n, sd, noise)


def chance(
    change: float, n: int, sd: float, alpha: float = 0.05, noise: Noise | None = None
) -> float:
    """The power with which `n` items detect `change`; the arguments are `minimum_detectable`'s."""
    return NormalDist().cdf((change - threshold(n, sd, alpha, noise)) / _stderr(n, sd, noise))


def threshold(n: int, sd: float, alpha: float, noise: Noise | None = None) -> float:
    """How far from what is tested an observed difference has to be: z_alpha sd / sqrt(n)."""
    own = NormalDist().inv_cdf(1 - alpha) * sd / math.sqrt(n)
    return own if noise is None else math.hypot(own, reach(noise, alpha))


def _stderr(n: int, sd: float, noise: Noise | None) -> float:
    own = sd / math.sqrt(n)
    return own if noise is None else math.hypot(own, math.sqrt(2) * noise.sd)


def minimum_detectable_binary(
    n: int, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """`minimum_detectable` of a yes/no metric where a share `discordance` of the items flips."""
    return minimum_detectable(n, math.sqrt(discordance), alpha, power)


def items_needed(
    change: float,
    sd: float,
    alpha: float = 0.05,
    power: float = 0.8,
    noise: Noise | None = None,
) -> int:
    """Items that detect `change` with `power`: ((z_alpha + z_power) sd / change)^2, rounded up.

    With `noise` the least n at which `minimum_detectable` is no more than `change`.

    Raises:
        UserError: a change of zero, or one within what runs of one model differ by: no number of
            items detects it.
    """
    if change == 0:
        raise UserError("No number of items detects a change of zero: give the change to detect.")
    without = math.ceil((minimum_detectable(1, sd, alpha, power) / change) ** 2)
    if noise is None or noise.sd == 0:
        return without
    change = abs(change)
    if (floor := minimum_detectable(1, 0.0, alpha, power, noise)) >= change:
        raise UserError(
            f"No number of items detects a change of {change:.3g} where runs of one model alone "
            f"differ by up to {floor:.3g} (level {alpha:g}, power {power:g}, measured on "
            f"{noise.runs} runs): ask for a larger one, or make runs differ less."
        )
    few, enough = without, 2 * without
    while minimum_detectable(enough, sd, alpha, power, noise) > change:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        if minimum_detectable(middle, sd, alpha, power, noise) > change:
            few = middle
        else:
            enough = middle
    return enough
