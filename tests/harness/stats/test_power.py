"""Power: closed forms, and the promised power measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower

from harness.core.errors import UserError
from harness.stats.noninferiority import tango_statistic
from harness.stats.power import (
    items_needed,
    minimum_detectable,
    paired_sd,
)


def test_the_binary_formula() -> None:
    assert minimum_detectable(1319, math.sqrt(0.2)) == pytest.approx(
        2.486 * math.sqrt(0.2 / 1319), rel=1e-3
    )


@pytest.mark.parametrize(("change", "sd"), [(0.02, 0.3), (0.05, 0.45), (0.2, 1.0)])
def test_items_needed_are_statsmodels(change: float, sd: float) -> None:
    expected = NormalIndPower(ddof=0).solve_power(
        effect_size=change / sd, alpha=0.05, power=0.8, ratio=0, alternative="larger"
    )
    assert items_needed(change, sd) == math.ceil(expected)


def test_items_needed_undoes_minimum_detectable() -> None:
    for n in (50, 400, 1319):
        assert items_needed(minimum_detectable(n, 0.6), 0.6) in (n, n + 1)


def test_repeats_lower_the_spread_of_an_item() -> None:
    assert paired_sd(0.3) == 0.3
    assert paired_sd(0.3, 0.4, 0.4, 4, 1) == pytest.approx(math.sqrt(0.09 + 0.04 + 0.16))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="without items"):
        minimum_detectable(0, 1.0)
    with pytest.raises(UserError, match="change of zero"):
        items_needed(0.0, 1.0)


def test_the_power_is_what_was_planned() -> None:
    """A gain over the margin of the detectable size is seen by Tango's test in 80 % of runs."""
    margin, discordance = 0.05, 0.2
    n = items_needed(margin, math.sqrt(discordance))
    counts = np.random.default_rng(0).multinomial(n, [0.1, 0.1, 0.8], size=40_000)
    passed = tango_statistic(counts[:, 0], counts[:, 1], n, -margin) > 1.6448536
    assert float(passed.mean()) == pytest.approx(0.8, abs=0.02)
