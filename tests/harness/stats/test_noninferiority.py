"""Tango's test: published values, closed forms, and its error rates where it must not err."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from harness.core.errors import UserError
from harness.stats.noninferiority import (
    cautious_upper,
    mcnemar,
    pairs_needed,
    tango,
    tango_interval,
    tango_statistic,
    unseen_change,
)

Z = NormalDist().inv_cdf(0.95)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "low", "high"),
    [
        # Fagerland, Lydersen, Laake, Statistical Analysis of Contingency Tables, 2017, chapter 8
        (1, 7, 21, -0.517, -0.026),
        (6, 16, 161, -0.1240, -0.0054),
    ],
)
def test_the_interval_is_the_published_one(
    gained: int, lost: int, n: int, low: float, high: float
) -> None:
    assert tango_interval(gained, lost, n, alpha=0.025) == pytest.approx((low, high), abs=6e-4)


def test_at_zero_the_statistic_is_mcnemars() -> None:
    assert tango_statistic(30, 12, 200, 0.0) == pytest.approx((30 - 12) / math.sqrt(30 + 12))


def test_the_restricted_estimate_maximises_the_likelihood() -> None:
    from scipy.optimize import minimize_scalar

    b, c, n, delta = 9, 4, 50, -0.1

    def loss(q: float) -> float:
        return -(
            b * math.log(q + delta) + c * math.log(q) + (n - b - c) * math.log(1 - 2 * q - delta)
        )

    best = minimize_scalar(loss, bounds=(-delta + 1e-9, (1 - delta) / 2 - 1e-9), method="bounded").x
    variance = n * (2 * best + delta * (1 - delta))
    expected = (b - c - n * delta) / math.sqrt(variance)
    assert tango_statistic(b, c, n, delta) == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 60), st.integers(-950, 950))
def test_swapping_the_sides_mirrors_everything(b: int, c: int, same: int, mille: int) -> None:
    n, delta = b + c + same, mille / 1000
    there, back = tango_statistic(b, c, n, delta), tango_statistic(c, b, n, -delta)
    assert there == pytest.approx(-back, rel=1e-6, abs=1e-6)
    low, high = tango_interval(b, c, n, 0.05)
    assert tango_interval(c, b, n, 0.05) == pytest.approx((-high, -low), abs=1e-9)
    assert -1 <= low <= (b - c) / n <= high <= 1


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60), st.floats(0.01, 0.5))
def test_the_interval_holds_what_the_test_does_not_reject(
    b: int, c: int, same: int, margin: float
) -> None:
    found = tango(b, c, b + c + same, margin=margin, alpha=0.05)
    if abs(found.low + margin) > 1e-9:
        assert (found.low > -margin) == (found.p_value < 0.05)


@pytest.mark.parametrize(("margin", "n"), [(0.02, 133), (0.05, 52)])
def test_equal_answers_pass_only_when_there_are_enough(margin: float, n: int) -> None:
    assert pairs_needed(margin, 0.05) == n
    assert tango(0, 0, n, margin=margin, alpha=0.05).low > -margin
    assert tango(0, 0, n - 1, margin=margin, alpha=0.05).low < -margin
    assert tango(0, 0, n, margin=margin, alpha=0.05).low == pytest.approx(-unseen_change(n, 0.05))


def test_ten_equal_pairs_prove_nothing() -> None:
    found = tango(0, 0, 10, margin=0.05, alpha=0.05)
    assert found.low < -0.2
    assert found.delta == found.stderr == 0
    assert found.p_zero == 1


@pytest.mark.parametrize(("gained", "lost"), [(20, 0), (0, 20)])
def test_every_pair_flipped(gained: int, lost: int) -> None:
    found = tango(gained, lost, 20, margin=0.02, alpha=0.05)
    assert found.delta == (gained - lost) / 20
    assert found.low <= found.delta <= found.high
    assert max(abs(found.low), abs(found.high)) == 1


def test_one_pair() -> None:
    found = tango(0, 1, 1, margin=0.02, alpha=0.05)
    assert (found.delta, found.stderr) == (-1, 0)
    assert found.low == -1


@pytest.mark.parametrize(("gained", "lost", "n"), [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(gained: int, lost: int, n: int) -> None:
    with pytest.raises(UserError, match="cannot be"):
        tango(gained, lost, n, margin=0.02, alpha=0.05)


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0])
def test_a_margin_is_a_share(margin: float) -> None:
    with pytest.raises(UserError, match="share between 0 and 1"):
        tango(1, 1, 5, margin=margin, alpha=0.05)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)
    table = [[5, lost], [gained, 7]]
    assert mcnemar(gained, lost) == pytest.approx(statsmodels_mcnemar(table).pvalue)


def test_mcnemar_takes_many_counts_at_once() -> None:
    gained, lost = np.array([3, 0, 9]), np.array([[1, 0, 2], [7, 0, 9]])
    one_by_one = [[float(mcnemar(b, c)) for b, c in zip(gained, row, strict=True)] for row in lost]
    assert mcnemar(gained, lost) == pytest.approx(np.array(one_by_one))


@pytest.mark.parametrize("n", [30, 100, 400])
@pytest.mark.parametrize(
    ("margin", "most"), [(0.01, 0.062), (0.02, 0.054), (0.03, 0.062), (0.05, 0.054), (0.1, 0.062)]
)
def test_at_the_margin_it_passes_no_more_often_than_it_may(
    n: int, margin: float, most: float
) -> None:
    """Type-I error over the discordance, where the Wald interval reaches .55."""
    draws, rng = 100_000, np.random.default_rng(n)
    for discordance in (margin, *(d for d in (0.05, 0.1, 0.2, 0.4) if d > margin)):
        lost = (discordance + margin) / 2
        gained = discordance - lost
        counts = rng.multinomial(n, [gained, lost, 1 - discordance], size=draws)
        b, c = counts[:, 0], counts[:, 1]
        passed = float((tango_statistic(b, c, n, -margin) > Z).mean())
        error = math.sqrt(0.05 * 0.95 / draws)
        assert passed <= most + 3 * error, (discordance, passed)
        delta = (b - c) / n
        wald = delta - Z * np.sqrt(np.maximum((b + c) / n - delta**2, 0) / n)
        if n == 30 and discordance == margin == 0.02:
            assert float((wald > -margin).mean()) == pytest.approx(0.546, abs=0.01)


def test_the_interval_covers_as_it_says() -> None:
    draws, rng = 3000, np.random.default_rng(1)
    counts = rng.multinomial(150, [0.12, 0.08, 0.8], size=draws)
    pairs, often = np.unique(counts[:, :2], axis=0, return_counts=True)
    inside = 0
    for (b, c), times in zip(pairs, often, strict=True):
        low, high = tango_interval(int(b), int(c), 150, 0.05)
        inside += times * (low <= 0.04 <= high)
    assert inside / draws == pytest.approx(0.90, abs=4 * math.sqrt(0.09 / draws))


@pytest.mark.parametrize("level", [0.05, 0.01, 0.05 / 57])
@pytest.mark.parametrize("n", [10, 30, 60])
def test_the_cautious_bound_fails_no_more_often_than_it_may_at_any_level(
    n: int, level: float
) -> None:
    """Exact over all outcomes of a candidate at the margin; Tango's alone exceeds it 2.9 times."""
    counts = [(b, c) for b in range(n + 1) for c in range(b + 1, n + 1 - b)]
    upper = {(b, c): cautious_upper(b, c, n, level) for b, c in counts}
    for margin in (0.02, 0.05, 0.1, 0.2):
        for gains in (0.0, 0.02, 0.1, 0.3):
            losses = gains + margin
            failing = [(b, c, n - b - c) for (b, c), high in upper.items() if high < -margin]
            outcomes = multinomial(n, [gains, losses, 1 - gains - losses])
            chance = sum(float(outcomes.pmf(outcome)) for outcome in failing)
            assert chance <= (1.35 if level == 0.05 else 1.05) * level
