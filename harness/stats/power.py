"""Compute the power of an evaluation, the change it can detect and the items a change needs.

The functions named `tango_*` are exact for Tango's score test. The others are the normal
approximation of E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 5; for yes/no
metrics the variance of a paired difference near zero is the share of items that flip.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.core.schema import Noise
from harness.stats.distributions import binomial_cdf, binomial_density
from harness.stats.noninferiority import tango_statistic
from harness.stats.repeatability import reach

Counts = npt.NDArray[np.int64]
TAIL_SDS = 7.0  # standard deviations of the number of flips that are summed over: all but 10^-11


def paired_sd(
    omega: float,
    baseline_sd: float = 0.0,
    candidate_sd: float = 0.0,
    baseline_repeats: int = 1,
    candidate_repeats: int = 1,
) -> float:
    """Return the standard deviation of one item's difference.

        sqrt(omega^2 + s_A^2 / K_A + s_B^2 / K_B)

    `omega` is the spread of the true differences between items; `*_sd` that of one item's
    repeated answers, of which `*_repeats` are averaged.
    """
    return math.sqrt(
        omega**2 + baseline_sd**2 / baseline_repeats + candidate_sd**2 / candidate_repeats
    )


def minimum_detectable(
    n: int, sd: float, alpha: float = 0.05, power: float = 0.8, noise: Noise | None = None
) -> float:
    """Return the change that `n` items detect with `power`: (z_alpha + z_power) sd / sqrt(n).

    `alpha` is one-sided, `sd` that of one item's difference. Where runs of one model differ by
    `noise`, and with se = sd / sqrt(n) and tau and reach as in `harness.stats.repeatability`, it is

        sqrt((z_alpha se)^2 + reach^2) + z_power sqrt(se^2 + 2 tau^2)

    Raises:
        UserError: no items.
    """
    if n < 1:
        raise UserError("Nothing can be detected without items: give n of 1 or more.")
    return threshold(n, sd, alpha, noise) + NormalDist().inv_cdf(power) * _stderr(n, sd, noise)


def power_to_detect(
    change: float, n: int, sd: float, alpha: float = 0.05, noise: Noise | None = None
) -> float:
    """Return the power of `n` items to detect `change`; arguments as in `minimum_detectable`."""
    return NormalDist().cdf((change - threshold(n, sd, alpha, noise)) / _stderr(n, sd, noise))


def threshold(n: int, sd: float, alpha: float, noise: Noise | None = None) -> float:
    """Return how far a difference must lie from the tested value: z_alpha sd / sqrt(n)."""
    own = NormalDist().inv_cdf(1 - alpha) * sd / math.sqrt(n)
    return own if noise is None else math.hypot(own, reach(noise, alpha))


def _stderr(n: int, sd: float, noise: Noise | None) -> float:
    own = sd / math.sqrt(n)
    return own if noise is None else math.hypot(own, math.sqrt(2) * noise.sd)


def items_needed(
    change: float,
    sd: float,
    alpha: float = 0.05,
    power: float = 0.8,
    noise: Noise | None = None,
) -> int:
    """Return how many items detect `change` with `power`.

        ((z_alpha + z_power) sd / change)^2, rounded up

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


def tango_power(
    n: int, discordance: float, margin: float, alpha: float = 0.05, gain: float = 0.0
) -> float:
    """Return the chance that `n` pairs pass `margin` where the candidate's true gain is `gain`.

    The number of items that flip is Binomial(n, discordance), and of these a share
    (discordance + gain) / (2 discordance) are gains. For each number of flips the fewest gains
    that pass are found, and the chances are added up: exact but for tails below 10^-11.
    """
    middle, spread = n * discordance, math.sqrt(n * discordance * (1 - discordance))
    first = max(0, math.floor(middle - TAIL_SDS * spread - 10))
    flips = np.arange(first, min(n, math.ceil(middle + TAIL_SDS * spread + 10)) + 1)
    fewest = _fewest_gains(flips, n, margin, NormalDist().inv_cdf(1 - alpha))
    weights = binomial_density(flips, n, discordance)
    # So many gains or more are so many losses or fewer.
    losses = (discordance - gain) / (2 * discordance)
    return float(np.sum(weights * binomial_cdf(flips - np.maximum(fewest, 0), flips, losses)))


def tango_items_needed(
    discordance: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Return about the fewest pairs with which an unchanged candidate passes with `power`.

    Power rises with the number of pairs but for steps of a few; it is reached here, and one step
    below it was not.
    """
    few, enough = 1, 2
    while tango_power(enough, discordance, margin, alpha) < power:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        reached = tango_power(middle, discordance, margin, alpha) >= power
        few, enough = (few, middle) if reached else (middle, enough)
    return enough


def tango_detectable(n: int, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the least margin that an unchanged candidate passes with `power`, to 10^-6."""
    too_small, enough = 0.0, 1.0
    while enough - too_small > 1e-6:
        middle = (too_small + enough) / 2
        reached = tango_power(n, discordance, middle, alpha) >= power
        too_small, enough = (too_small, middle) if reached else (middle, enough)
    return enough


def tango_failing_loss(
    n: int, discordance: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Return the least loss with which `n` pairs fail `margin` with `power`, to 10^-4.

    Of an unchanged candidate a share `discordance` of the items flips; of one that has lost, so
    many more as it lost. A candidate fails where the test shows a loss of more than the margin,
    which is the test of `tango_power` with the two sides exchanged. None: no loss is enough.
    """
    too_small, enough = margin, 1.0 - discordance
    if enough <= margin or _power_to_fail(n, discordance, margin, alpha, enough) < power:
        return None
    while enough - too_small > 1e-4:
        middle = (too_small + enough) / 2
        reached = _power_to_fail(n, discordance, margin, alpha, middle) >= power
        too_small, enough = (too_small, middle) if reached else (middle, enough)
    return enough


def _power_to_fail(n: int, discordance: float, margin: float, alpha: float, loss: float) -> float:
    return tango_power(n, discordance + loss, -margin, alpha, gain=loss)


def _fewest_gains(flips: Counts, n: int, margin: float, z: float) -> Counts:
    """Return for each number of flips how many must be gains to pass; more than it where none."""
    too_few, enough = np.full(len(flips), -1), flips + 1
    for _ in range(math.ceil(math.log2(n + 2)) + 1):
        middle = (too_few + enough) // 2
        clear = tango_statistic(middle, flips - middle, n, -margin) > z
        open_ = enough - too_few > 1
        enough = np.where(open_ & clear, middle, enough)
        too_few = np.where(open_ & ~clear, middle, too_few)
    return enough
