"""The intra-cluster correlation, against its source and by coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f_oneway

from harness.stats.clusters import intraclass


def drawn(rng: np.random.Generator, icc: float, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    group = np.repeat(np.arange(len(sizes)), sizes)
    common, own = rng.normal(size=len(sizes))[group], rng.normal(size=len(group))
    return icc**0.5 * common + (1 - icc) ** 0.5 * own, group


def test_the_p_value_is_that_of_the_analysis_of_variance() -> None:
    values, group = drawn(np.random.default_rng(0), 0.3, [3, 8, 5, 2, 9, 4])
    expected = f_oneway(*[values[group == g] for g in range(6)])
    assert intraclass(values, group)[1] == pytest.approx(expected.pvalue)


def test_equal_sizes_give_the_closed_form() -> None:
    """Two clusters of two: mean squares 4 between and 0.5 within."""
    icc, _ = intraclass([0.0, 1.0, 3.0, 2.0], np.array([0, 0, 1, 1]))
    assert icc == pytest.approx((4 - 0.5) / (4 + 0.5))


@pytest.mark.parametrize("icc", [0.0, 0.2, 0.7])
def test_it_finds_the_correlation_that_was_put_in(icc: float) -> None:
    rng = np.random.default_rng(1)
    sizes = [5, 10, 15] * 20
    found = [intraclass(*drawn(rng, icc, sizes))[0] for _ in range(100)]
    assert float(np.mean(found)) == pytest.approx(icc, abs=0.03)


def test_independent_items_are_seldom_called_clustered() -> None:
    rng = np.random.default_rng(2)
    called = [intraclass(*drawn(rng, 0.0, [10] * 20))[1] <= 0.05 for _ in range(400)]
    assert float(np.mean(called)) == pytest.approx(0.05, abs=0.035)


def test_the_names_of_clusters_do_not_matter() -> None:
    values, group = drawn(np.random.default_rng(3), 0.4, [4] * 10)
    assert intraclass(values, group) == intraclass(values, 7 * group + 3)


@pytest.mark.parametrize(
    ("values", "group"),
    [([1.0, 1.0, 1.0], [0, 0, 1]), ([1.0, 2.0], [0, 1]), ([1.0, 2.0], [0, 0]), ([], [])],
)
def test_nothing_is_known_without_spread_or_clusters(values: list[float], group: list[int]) -> None:
    assert intraclass(values, np.array(group, dtype=np.int64)) == (0.0, 1.0)


def test_items_that_are_equal_within_clusters_correlate_fully() -> None:
    assert intraclass([0.0, 0.0, 1.0, 1.0], np.array([0, 0, 1, 1])) == (1.0, 0.0)
