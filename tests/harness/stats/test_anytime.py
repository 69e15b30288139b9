"""Interval and p-value at a stopping time: they cover, and agree with the verdict."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.sequential import p_of_no_change, sequential_bounds, sequential_test


def draw(rng: np.random.Generator, n: int, gain: float = 0.0) -> np.ndarray:
    """Differences of yes/no answers, of which a fifth flips."""
    return rng.choice([-1.0, 0.0, 1.0], n, p=[0.1 - gain / 2, 0.8, 0.1 + gain / 2])


def test_the_interval_covers_the_mean_wherever_the_test_stops() -> None:
    rng = np.random.default_rng(0)
    missed = np.zeros(2)
    for _ in range(400):
        x = draw(rng, 300)
        found = sequential_test(x, margin=0.05, alpha=0.05)
        low, high = sequential_bounds(x[: found.stopped_at or 300], alpha=0.05)
        missed += low > 0, high < 0
    assert (missed / 400 <= 0.05).all()


def test_a_finite_population_is_covered_and_known_once_all_is_seen() -> None:
    rng = np.random.default_rng(1)
    missed = wide = 0
    for _ in range(300):
        items = draw(rng, 200)
        low, high = sequential_bounds(items[:80], alpha=0.05, population=200)
        missed += not low <= items.mean() <= high
        low, high = sequential_bounds(items, alpha=0.05, population=200)
        wide += max(abs(low - items.mean()), abs(high - items.mean())) > 2e-3
    assert missed / 300 <= 0.1
    assert wide / 300 <= 0.1  # a bet may be won against the truth to the last item


@pytest.mark.parametrize("gain", [-0.15, 0.0, 0.1])
def test_the_interval_clears_the_margin_exactly_when_the_test_passes(gain: float) -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        x = draw(rng, 400, gain)
        found = sequential_test(x, margin=0.05, alpha=0.05)
        low, high = sequential_bounds(x[: found.stopped_at or 400], alpha=0.05)
        assert (low >= -0.051) == (found.verdict == "pass") or low == pytest.approx(-0.05, abs=2e-3)
        assert (high <= -0.049) == (found.verdict == "fail") or high == pytest.approx(
            -0.05, abs=2e-3
        )


def test_units_scale_and_sides_mirror() -> None:
    x = draw(np.random.default_rng(3), 300, 0.1)
    low, high = sequential_bounds(x, alpha=0.05)
    assert sequential_bounds(4 * x, alpha=0.05, span=4) == pytest.approx((4 * low, 4 * high))
    assert sequential_bounds(-x, alpha=0.05) == pytest.approx((-high, -low))
    assert p_of_no_change(x) == p_of_no_change(-x)


def test_no_change_is_seldom_called_one() -> None:
    rng = np.random.default_rng(4)
    called = sum(p_of_no_change(draw(rng, 300)) <= 0.05 for _ in range(400))
    assert called / 400 <= 0.05
    assert p_of_no_change(draw(rng, 600, 0.15)) < 0.01
