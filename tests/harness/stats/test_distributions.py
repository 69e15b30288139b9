"""Distributions equal scipy's, closed forms, and each other's inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from harness.stats.distributions import (
    beta_quantile,
    binomial_cdf,
    binomial_density,
    f_tail,
    incomplete_beta,
    student_cdf,
    student_quantile,
)

FREEDOMS = [0.5, 1, 2, 3.7, 10, 99, 1318, 12_345.6, 1e6]
SHARES = [1e-10, 0.001, 0.0125, 0.05, 0.3, 0.499, 0.6, 0.95, 0.975, 0.9999]


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_students_t_equals_that_of_scipy(freedom: float) -> None:
    points = np.concatenate([-np.geomspace(1e-6, 50, 40), [0], np.geomspace(1e-6, 50, 40)])
    ours = [student_cdf(freedom, t) for t in points.tolist()]
    assert ours == pytest.approx(special.stdtr(freedom, points), rel=1e-10)
    quantiles = [student_quantile(freedom, share) for share in SHARES]
    assert quantiles == pytest.approx(special.stdtrit(freedom, SHARES), rel=1e-10)


def test_students_t_has_its_closed_forms() -> None:
    for t in (-3.0, -1e-4, 0.0, 0.2, 7.0):
        assert student_cdf(1, t) == pytest.approx(0.5 + math.atan(t) / math.pi, rel=1e-14)
        closed = 0.5 + t / (2 * math.sqrt(2 + t * t))
        assert student_cdf(2, t) == pytest.approx(closed, rel=1e-13)
    assert student_quantile(math.inf, 0.975) == pytest.approx(1.959963984540054, rel=1e-15)
    assert student_cdf(math.inf, -2.0) == pytest.approx(0.022750131948179195, rel=1e-14)


def test_the_ends_of_students_t_are_exact_and_nonsense_has_no_value() -> None:
    assert [student_cdf(5, t) for t in (-math.inf, 0.0, math.inf)] == [0.0, 0.5, 1.0]
    assert [student_quantile(5, p) for p in (0.0, 0.5, 1.0)] == [-math.inf, 0.0, math.inf]
    for nothing in (
        *(student_cdf(0, 1.0), student_cdf(5, math.nan), student_cdf(math.nan, 1.0)),
        *(student_quantile(0, 0.5), student_quantile(5, 1.1), student_quantile(5, math.nan)),
        *(f_tail(1, 2, -1.0), f_tail(1, 2, math.nan), beta_quantile(0, 1, 0.5)),
    ):
        assert math.isnan(nothing)


def test_tails_of_f_equal_those_of_scipy() -> None:
    for top in (1, 3, 100):
        for bottom in (1, 9, 5_000):
            for ratio in (0.0, 1e-9, 0.1, 1.0, 3.0):
                theirs = special.fdtrc(top, bottom, ratio)
                assert f_tail(top, bottom, ratio) == pytest.approx(theirs, rel=1e-10)
    assert f_tail(3, 9, math.inf) == 0


def test_quantiles_of_beta_equal_those_of_scipy() -> None:
    for a, b in ((1, 100), (3.5, 96.5), (0.5, 0.5), (2_000, 3), (40, 40)):
        for share in (0.025, 0.5, 0.95):
            theirs = special.betaincinv(a, b, share)
            assert beta_quantile(a, b, share) == pytest.approx(theirs, rel=1e-10)
    # Nothing seen in n trials: 1 - (1 - confidence)^(1 / n).
    assert beta_quantile(1, 58, 0.95) == pytest.approx(1 - 0.05 ** (1 / 58), rel=1e-12)
    assert [beta_quantile(2, 3, end) for end in (0.0, 1.0)] == [0.0, 1.0]


def test_the_incomplete_beta_function_is_symmetric() -> None:
    for a, b, x in ((0.5, 3, 0.2), (700, 12.5, 0.99), (1e5, 1e5, 0.5001)):
        both = incomplete_beta(a, b, x, 1 - x) + incomplete_beta(b, a, 1 - x, x)
        assert both == pytest.approx(1, rel=1e-10)
    assert incomplete_beta(2, 3, 0.0, 1.0) == 0
    assert incomplete_beta(2, 3, 1.0, 0.0) == 1


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.3, 0.5, 1.0])
def test_binomial_chances_equal_those_of_scipy_and_broadcast(share: float) -> None:
    n = np.array([0, 1, 2, 15, 16, 17, 400, 20_000])[:, None]
    k = np.array([-1, 0, 1, 7, 200, 9_999, 20_000])
    assert binomial_cdf(k, n, share) == pytest.approx(stats.binom.cdf(k, n, share), rel=1e-10)
    for size in (0, 1, 15, 16, 500):
        hits = np.arange(size + 1)
        theirs = stats.binom.pmf(hits, size, share)
        assert binomial_density(hits, size, share) == pytest.approx(theirs, rel=1e-10)
