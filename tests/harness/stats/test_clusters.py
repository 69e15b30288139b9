"""Clusters: what they cost, and the yes/no test that allows for them."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.clusters import cautious_effect, clustered_tango, design_effect, groups
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


def test_items_of_their_own_are_tested_by_tango_exactly() -> None:
    d = np.repeat([1.0, -1.0, 0.0], [12, 20, 168])
    found = clustered_tango(d, np.arange(200), margin=0.05, alpha=0.05)
    assert found == tango(12, 20, 200, margin=0.05, alpha=0.05)


def test_few_changes_are_taken_for_those_of_whole_clusters() -> None:
    group = np.repeat(np.arange(20), 10)
    few, many = np.zeros(200), np.zeros(200)
    few[[5, 105]] = -1.0
    many[::3] = 1.0
    assert design_effect(few, group) == 1.0
    assert cautious_effect(few, group) > 6
    assert cautious_effect(many, group) < 2


@pytest.mark.slow
@pytest.mark.parametrize(("icc", "discordance"), [(0.0, 0.1), (0.2, 0.05), (0.5, 0.05), (1.0, 0.3)])
def test_yes_no_answers_in_20_clusters_err_no_more_often_than_promised(
    icc: float, discordance: float
) -> None:
    """600 gates at the margin, clusters of unequal sizes; Tango's test alone passes up to half."""
    rng = np.random.default_rng(7)
    sizes = rng.geometric(0.1, 20)
    group, margin = np.repeat(np.arange(20), sizes), 0.05
    chances = [(discordance - margin) / 2, (discordance + margin) / 2, 1 - discordance]
    wrong = {"pass": 0, "fail": 0, "a/a fail": 0}
    for _ in range(600):
        own, shared = (rng.choice([1.0, -1, 0], p=chances, size=k) for k in (len(group), 20))
        d = np.where(rng.random(len(group)) < icc**0.5, shared[group], own)
        found = clustered_tango(d, group, margin=margin, alpha=0.05)
        wrong["pass"] += found.low > -margin
        wrong["fail"] += found.high < -margin
        same = d * rng.choice([-1.0, 1], size=20)[group]
        wrong["a/a fail"] += clustered_tango(same, group, margin=margin, alpha=0.05).high < -margin
    assert max(wrong.values()) / 600 <= 0.06, wrong
