"""What runs differ by: estimated right, and a level that holds where they do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import f as f_distribution
from scipy.stats import t as student

from harness.core.errors import UserError
from harness.core.schema import Noise
from harness.stats.noninferiority import tango
from harness.stats.paired import compare
from harness.stats.power import items_needed, minimum_detectable, power_to_detect
from harness.stats.repeatability import bounds, measure, reach, widen

NOISE = Noise(sd=0.01, runs=8)


def test_the_parts_are_those_of_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    runs, n = 6, 50
    x = rng.normal(size=(1, n)) + rng.normal(size=(runs, 1)) / 5 + rng.normal(size=(runs, n)) / 2
    found = measure(x)
    of_runs = n * x.mean(axis=1).var(ddof=1)
    total = np.square(x - x.mean()).sum()
    rest = total - (runs - 1) * of_runs - runs * np.square(x.mean(axis=0) - x.mean()).sum()
    residual = rest / ((runs - 1) * (n - 1))
    assert found.total_sd == pytest.approx(math.sqrt(of_runs / n))
    assert found.shared_sd == pytest.approx(math.sqrt((of_runs - residual) / n))
    expected = f_distribution.sf(of_runs / residual, runs - 1, (runs - 1) * (n - 1))
    assert found.p_value == pytest.approx(expected)
    assert (found.runs, found.items, found.differing) == (runs, n, 1.0)


def test_the_run_effect_is_estimated_without_bias() -> None:
    rng = np.random.default_rng(1)
    sd, n = 0.03, 200
    variances = []
    for _ in range(800):
        found = measure(0.5 + rng.normal(0, sd, (10, 1)) + rng.normal(0, 0.3, (10, n)))
        variances.append(found.shared_sd**2)
    assert np.mean(variances) == pytest.approx(sd**2, rel=0.08)


def test_runs_that_are_equal_show_nothing_and_whole_runs_that_differ_show_all() -> None:
    same = measure(np.tile(np.arange(10) % 2, (5, 1)))
    assert (same.differing, same.total_sd, same.shared_sd, same.p_value) == (0, 0, 0, 1)
    shifted = measure(np.repeat(np.arange(5.0)[:, None], 10, axis=1))
    assert (shifted.p_value, shifted.shared_sd) == (0, pytest.approx(math.sqrt(2.5)))


@pytest.mark.parametrize("shape", [(4, 100), (5, 1)])
def test_too_little_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="too few"):
        measure(np.zeros(shape))


def test_bounds_are_those_of_independent_parts() -> None:
    found = tango(30, 25, 400, margin=0.05, alpha=0.05)
    further = float(student.ppf(0.95, 7)) * math.sqrt(2) * 0.01
    assert reach(NOISE, 0.05) == pytest.approx(further)
    low, high = bounds(found, NOISE, 0.05)
    assert (found.delta - low) ** 2 == pytest.approx((found.delta - found.low) ** 2 + further**2)
    assert (high - found.delta) ** 2 == pytest.approx((found.high - found.delta) ** 2 + further**2)
    assert bounds(found, Noise(sd=0, runs=5), 0.05) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("shift", [-0.2, -0.06, -0.03, 0.0, 0.05, 0.3])
def test_p_values_are_the_levels_at_which_the_bounds_touch(shift: float) -> None:
    rng = np.random.default_rng(2)
    before = rng.normal(size=60)
    after = before + shift + rng.normal(0, 0.2, 60)

    def at(level: float):
        return compare(before, after, margin=0.05, alpha=level, span=10)

    found = widen(at, NOISE, margin=0.05, alpha=0.05)
    assert (found.p_value < 0.05) == (found.low > -0.05)
    assert (found.p_value > 0.95) == (found.high < -0.05)
    level = min(found.p_value, 1 - found.p_value)
    if 1e-9 < level < 0.499:  # where a bound at .5 lies short of the margin, none touches it
        edge = bounds(at(level), NOISE, level)[found.p_value > 0.5]
        assert edge == pytest.approx(-0.05, abs=1e-4)
    assert (found.p_zero < 0.1) == (found.low > 0 or found.high < 0)
    quiet = widen(at, Noise(sd=0, runs=5), margin=0.05, alpha=0.05)
    assert quiet.p_value == pytest.approx(at(0.05).p_value, rel=1e-4, abs=1e-9)
    assert (quiet.low, quiet.high) == pytest.approx((at(0.05).low, at(0.05).high))
    assert found.stderr > quiet.stderr


def level(gates: int, effect: float, noise_of: int | None, seed: int = 0) -> float:
    """Share of candidates, exactly the margin worse, that pass; every answer is drawn anew.

    `effect` is the standard deviation of whole runs.
    """
    rng = np.random.default_rng(seed)
    n, margin = 300, 0.05
    chances = np.linspace(0.3, 0.8, n)

    def runs(number: int, gain: float = 0.0) -> np.ndarray:
        moved = chances + gain + rng.normal(0, effect, (number, 1))
        return (rng.random((number, n)) < moved).astype(float)

    passed = 0
    for _ in range(gates):
        (before,), (after,) = runs(1), runs(1, -margin)
        found = compare(before, after, margin=margin, alpha=0.05, span=1)
        low = found.low
        if noise_of is not None:
            seen = measure(runs(noise_of))
            low, _ = bounds(found, Noise(sd=seen.shared_sd, runs=noise_of), 0.05)
        passed += low > -margin
    return passed / gates


@pytest.mark.slow
def test_the_noise_of_items_is_in_the_paired_test_and_that_of_runs_is_not() -> None:
    """2,000 gates: the standard error of a level of .05 is .005."""
    assert level(2000, 0.0, None) == pytest.approx(0.05, abs=0.015)
    assert level(2000, 0.04, None) > 0.15
    assert level(2000, 0.04, 5) < 0.08
    assert level(2000, 0.04, 10) < 0.07
    assert 0.02 < level(2000, 0.0, 5) < 0.06


def test_power_reckons_with_the_noise_and_says_where_no_items_would_do() -> None:
    n, sd = 2000, 0.4
    assert minimum_detectable(n, sd, noise=Noise(sd=0, runs=5)) == minimum_detectable(n, sd)
    found = minimum_detectable(n, sd, noise=NOISE)
    assert found > minimum_detectable(n, sd)
    assert power_to_detect(found, n, sd, noise=NOISE) == pytest.approx(0.8)
    assert power_to_detect(minimum_detectable(n, sd), n, sd) == pytest.approx(0.8)
    needed = items_needed(0.06, sd, noise=NOISE)
    assert minimum_detectable(needed, sd, noise=NOISE) <= 0.06
    assert minimum_detectable(needed - 1, sd, noise=NOISE) > 0.06
    with pytest.raises(UserError, match="differ by up to"):
        items_needed(0.03, sd, noise=NOISE)


def test_planned_power_is_what_gates_have() -> None:
    rng = np.random.default_rng(5)
    n, sd, true = 400, 0.4, Noise(sd=0.015, runs=1000)
    change = minimum_detectable(n, sd, noise=true)
    seen = rng.normal(change, math.hypot(sd / math.sqrt(n), math.sqrt(2) * true.sd), 20_000)
    half = math.hypot(1.6449 * sd / math.sqrt(n), reach(true, 0.05))
    assert (seen > half).mean() == pytest.approx(0.8, abs=0.01)
