"""A bound of a mean that holds where large losses are rare: closed forms and coverage."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import beta
from scipy.stats import skew as scipys_skew
from scipy.stats import t as student

from harness.stats.mean_bound import (
    MeanBound,
    beyond,
    items_to_exclude,
    skewness,
    unseen_share,
)


def of(values: np.ndarray, worst: float) -> MeanBound:
    n = len(values)
    stderr = float(values.std(ddof=1)) / math.sqrt(n)
    return MeanBound(float(values.mean()), stderr, n, skewness(values), worst, n)


def test_the_share_that_no_item_shows_is_clopper_and_pearsons() -> None:
    for n in (1, 10, 400):
        assert unseen_share(n, 0.05) == pytest.approx(beta.ppf(0.95, 1, n))
    assert unseen_share(10**9, 0.05) == pytest.approx(-math.log(0.05) / 1e9)


def test_items_to_exclude_is_the_first_number_that_does() -> None:
    needed = items_to_exclude(0.1, 4.0, 0.05)
    assert unseen_share(needed, 0.05) * 4.0 <= 0.1 < unseen_share(needed - 1, 0.05) * 4.0
    assert items_to_exclude(5.0, 4.0, 0.05) == 1


def test_the_skewness_is_scipys_and_none_where_nothing_differs() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    assert skewness(values) == pytest.approx(float(scipys_skew(values)))
    assert skewness(np.full(9, 0.1 + 0.2)) == 0.0


def test_without_skew_and_with_a_near_end_it_is_students_bound() -> None:
    values = np.concatenate([np.linspace(-1, 1, 200)])
    bound = of(values, worst=-1.0)
    expected = values.mean() - student.ppf(0.95, 199) * values.std(ddof=1) / math.sqrt(200)
    assert bound.lower(0.05) == pytest.approx(expected)


def test_halls_bound_undoes_halls_transformation() -> None:
    values = -np.random.default_rng(1).exponential(size=60)
    bound = of(values, worst=-50.0)
    low = bound.skew(0.05)
    t, k = (bound.mean - low) / bound.stderr, bound.skewness / math.sqrt(60)
    transformed = t + k * t**2 / 3 + k**2 * t**3 / 27 + k / 6
    assert transformed == pytest.approx(student.ppf(0.95, 59))
    assert low < bound.student(0.05), "losses that are skewed to the left lower the bound"


@pytest.mark.parametrize("worst", [-3.0, -30.0, -math.inf])
def test_the_p_value_is_the_level_whose_bound_touches_the_point(worst: float) -> None:
    values = np.random.default_rng(2).choice([0.0, -1.0, 0.3], p=[0.8, 0.1, 0.1], size=90)
    bound = of(values, worst)
    for point in (-0.5, -0.3, -0.2):
        p = bound.p_value(point)
        if p < 0.5:
            assert bound.lower(p) == pytest.approx(point, abs=1e-9)
    levels = [bound.lower(alpha) for alpha in (0.01, 0.05, 0.2, 0.4)]
    assert all(low <= high for low, high in pairwise(levels))


def test_a_little_spread_is_treated_as_none_is() -> None:
    """The bound goes on without a step from no spread to a little."""
    worst = -3.0
    none = of(np.zeros(100), worst).lower(0.05)
    for tiny in (1e-12, 1e-6, 1e-3):
        values = np.zeros(100)
        values[0] = -tiny
        assert of(values, worst).lower(0.05) == pytest.approx(none, abs=2 * tiny)


def test_an_end_far_from_all_values_says_nothing() -> None:
    assert beyond(10_000, [3.0, 30.0])
    assert not beyond(1.0, [0.02, 0.0])
    assert not beyond(0.0, [3.0])
    assert not beyond(1.0, [0.0, 0.0])


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 100, 300])
@pytest.mark.parametrize(
    ("values", "chances"),
    [
        ((0, -1, -2, -4), (0.95, 0.02, 0.02, 0.01)),
        ((0, -4), (0.975, 0.025)),
        ((-0.2, 3.8), (0.975, 0.025)),
    ],
    ids=["rare collapse", "collapse to the worst", "rare gain"],
)
def test_a_mean_exactly_at_the_bound_is_passed_no_more_often_than_promised(
    n: int, values: tuple[float, ...], chances: tuple[float, ...]
) -> None:
    """2,000 samples with a little noise; Student's bound is wrong in up to 60 % of them."""
    rng = np.random.default_rng(n)
    mean = float(np.dot(values, chances))
    wrong, students = 0, 0
    for _ in range(2000):
        x = rng.choice(values, p=chances, size=n) + rng.normal(0, 0.05, n)
        bound = of(x, worst=-4.0)
        wrong += bound.lower(0.05) > mean
        students += bound.student(0.05) > mean
    assert wrong / 2000 <= 0.065
    if n == 20 and values[-1] < 0:
        assert students / 2000 > 0.25
