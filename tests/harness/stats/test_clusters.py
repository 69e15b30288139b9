"""Clusters: what they cost, and the yes/no test that allows for them."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.clusters import clustered_tango, design_effect, groups
from harness.stats.noninferiority import tango


def test_clusters_are_numbered_in_order_of_appearance() -> None:
    assert groups(["b", "a", "b"], 3).tolist() == [0, 1, 0]
    assert groups(None, 3).tolist() == [0, 1, 2]


def test_the_design_effect_of_clusters_whose_items_are_equal_is_their_size() -> None:
    group = np.repeat(np.arange(40), 5)
    values = np.random.default_rng(0).normal(0, 1, 40)[group]
    n, count = 200, 40
    assert design_effect(values, group) == pytest.approx(5 * count / (count - 1) * (n - 1) / n)


def test_items_that_are_clusters_of_their_own_have_no_design_effect() -> None:
    assert design_effect([0.0, 1.0, 5.0], np.arange(3)) == 1.0


def test_clusters_without_any_difference_count_once_each() -> None:
    assert design_effect(np.zeros(20), np.repeat(np.arange(4), 5)) == pytest.approx(5 * 4 / 3)


def test_the_clustered_test_agrees_with_tango_where_clusters_are_many_and_do_not_matter() -> None:
    d = np.repeat([1.0, -1.0, 0.0], [120, 130, 3750])
    alone = tango(120, 130, 4000, margin=0.02, alpha=0.05)
    found = clustered_tango(d, np.arange(4000), margin=0.02, alpha=0.05)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=2e-5)
    assert found.p_value == pytest.approx(alone.p_value, rel=0.05)
    assert found.stderr == pytest.approx(alone.stderr)
