"""Exact power of Tango's score test, against enumeration and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.stats.noninferiority import tango_statistic
from harness.stats.power import (
    items_needed,
    tango_detectable,
    tango_failing_loss,
    tango_items_needed,
    tango_power,
)

Z = 1.6448536269514722


@pytest.mark.parametrize("gain", [0.0, -0.1, 0.05])
@pytest.mark.parametrize(("n", "discordance", "margin"), [(12, 0.3, 0.2), (40, 0.2, 0.1)])
def test_it_is_the_sum_over_all_outcomes(
    n: int, discordance: float, margin: float, gain: float
) -> None:
    gained, lost = (discordance + gain) / 2, (discordance - gain) / 2
    total = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if tango_statistic(b, c, n, -margin) > Z:
                ways = math.comb(n, b) * math.comb(n - b, c)
                rest = (1 - discordance) ** (n - b - c)
                total += ways * gained**b * lost**c * rest
    assert tango_power(n, discordance, margin, gain=gain) == pytest.approx(total, abs=1e-9)


def test_it_is_the_share_of_simulated_gates_that_pass() -> None:
    rng = np.random.default_rng(0)
    n, discordance, margin = 1319, 0.1, 0.02
    drawn = rng.multinomial(n, [discordance / 2, discordance / 2, 1 - discordance], 20_000)
    passed = tango_statistic(drawn[:, 0], drawn[:, 1], n, -margin) > Z
    assert tango_power(n, discordance, margin) == pytest.approx(passed.mean(), abs=0.012)


def test_a_candidate_at_the_margin_passes_as_seldom_as_the_test_says() -> None:
    for n in (100, 400, 1319):
        assert 0.03 < tango_power(n, 0.1, 0.05, gain=-0.05) < 0.06


@pytest.mark.parametrize(("discordance", "margin"), [(0.1, 0.02), (0.1, 0.1), (0.02, 0.05)])
def test_the_items_needed_reach_the_power(discordance: float, margin: float) -> None:
    needed = tango_items_needed(discordance, margin)
    assert tango_power(needed, discordance, margin) >= 0.8
    assert tango_power(needed - 1, discordance, margin) < 0.8
    # The normal approximation is hopeful, the more so where few items flip.
    assert items_needed(margin, math.sqrt(discordance)) <= needed


@pytest.mark.parametrize("discordance", [1.0, 1e-6])
def test_the_ends_of_the_range_are_counted_too(discordance: float) -> None:
    assert 0 <= tango_power(50, discordance, 0.2) <= 1


@pytest.mark.parametrize(("n", "discordance"), [(100, 0.1), (1319, 0.1), (400, 0.02)])
def test_the_detectable_margin_is_passed_with_the_power(n: int, discordance: float) -> None:
    margin = tango_detectable(n, discordance)
    assert tango_power(n, discordance, margin) >= 0.8
    assert tango_power(n, discordance, margin - 1e-5) < 0.8
    assert tango_items_needed(discordance, margin) <= n


def test_the_loss_that_fails_is_the_least_with_the_promised_power() -> None:
    n, discordance, margin = 60, 0.1, 0.05
    loss = tango_failing_loss(n, discordance, margin)
    assert loss is not None

    def share_that_fails(loss: float) -> float:
        flips = discordance + loss
        gained, lost = (flips - loss) / 2, (flips + loss) / 2
        return sum(
            math.comb(n, b) * math.comb(n - b, c) * gained**b * lost**c * (1 - flips) ** (n - b - c)
            for b in range(n + 1)
            for c in range(n + 1 - b)
            if tango_statistic(b, c, n, -margin) < -Z
        )

    assert share_that_fails(loss) == pytest.approx(0.8, abs=0.002)
    assert share_that_fails(loss - 0.01) < 0.8


def test_more_items_see_a_smaller_loss_and_too_few_see_none() -> None:
    losses = [tango_failing_loss(n, 0.1, 0.05) or 1.0 for n in (50, 200, 1000, 20_000)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(0.05, abs=0.01)
    assert tango_failing_loss(2, 0.1, 0.05) is None
    assert tango_failing_loss(100, 0.9, 0.3) is None
