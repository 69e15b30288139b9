"""Views by resampling: against scipy, against the t interval, and what they cover."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from resampling import bca_interval, sign_flip_p
from scipy.stats import bootstrap

from harness.core.errors import UserError
from harness.stats.paired import compare


def test_the_bootstrap_of_single_items_is_scipys() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.exponential(1, 60), rng.exponential(1.2, 60)
    expected = bootstrap(
        (after - before,), np.mean, confidence_level=0.9, rng=np.random.default_rng(1)
    ).confidence_interval
    found = bca_interval(before, after, alpha=0.05, seed=1)
    assert found == pytest.approx(tuple(expected), abs=0.02)
    assert found == bca_interval(before, after, alpha=0.05, seed=1)


def test_where_all_is_well_behaved_every_view_agrees() -> None:
    rng = np.random.default_rng(2)
    clusters = list(np.repeat(np.arange(40), 5))
    d = np.repeat(rng.normal(0.05, 0.2, 40), 5) + rng.normal(0, 0.1, 200)
    zero = np.zeros(200)
    t = compare(zero, d, margin=0.05, alpha=0.05, span=4, clusters=clusters, allow_skew=False)
    assert bca_interval(zero, d, alpha=0.05, clusters=clusters) == pytest.approx(
        (t.low, t.high), abs=0.01
    )
    flipped = sign_flip_p(d, margin=0.05, clusters=clusters)
    assert flipped == pytest.approx(t.p_value, abs=0.01)


def test_each_mean_is_over_its_own_items() -> None:
    before, after = np.array([1, 2, np.nan, 4] * 10), np.array([2, np.nan, 3.5, 4] * 10)
    found = bca_interval(before, after + np.linspace(0, 1, 40), alpha=0.05)
    assert found is not None
    delta = compare(before, after + np.linspace(0, 1, 40), margin=0.1, alpha=0.05, span=9).delta
    assert found[0] < delta < found[1]


def test_without_spread_there_is_nothing_to_resample() -> None:
    assert bca_interval(np.zeros(20), np.zeros(20), alpha=0.05) is None
    assert bca_interval([0.0], [1.0], alpha=0.05) is None
    with pytest.raises(UserError, match="nothing to compare"):
        bca_interval([np.nan], [1.0], alpha=0.05)


def test_few_clusters_are_flipped_in_every_way() -> None:
    d, margin = np.array([0.3, 0.1, -0.2, 0.4, 0.05, 0.0]), 0.1
    shifted = d + margin
    ways = [np.dot(signs, shifted) for signs in itertools.product([-1, 1], repeat=6)]
    expected = np.mean(np.array(ways) >= shifted.sum() - 1e-12)
    assert sign_flip_p(d, margin=margin) == pytest.approx(expected)
    few = compare(np.zeros(6), d, margin=margin, alpha=0.05, span=2, allow_skew=False)
    assert few.test == "sign-flip permutation"
    assert few.p_value == pytest.approx(expected)


def test_one_cluster_proves_nothing() -> None:
    assert sign_flip_p([0.5, 0.5], margin=0.1, clusters=["a", "a"]) == 0.5
    assert sign_flip_p([-0.5], margin=0.1) == 1.0
    with pytest.raises(UserError, match="nothing to compare"):
        sign_flip_p([], margin=0.1)


def test_the_sign_flips_of_many_clusters_err_at_their_level() -> None:
    rng, draws = np.random.default_rng(3), 400
    p = [
        sign_flip_p(rng.standard_t(3, 30) * 0.3 - 0.1, margin=0.1, draws=199, seed=i)
        for i in range(draws)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)


def test_the_bootstrap_covers_skewed_clusters() -> None:
    """Sixty clusters of three, with a long tail: close to .90 on both sides together."""
    rng, draws, inside = np.random.default_rng(4), 400, 0
    clusters = list(np.repeat(np.arange(60), 3))
    for i in range(draws):
        d = np.repeat(rng.exponential(0.3, 60), 3) + rng.normal(0, 0.1, 180)
        found = bca_interval(np.zeros(180), d, alpha=0.05, clusters=clusters, draws=999, seed=i)
        assert found is not None
        inside += found[0] <= 0.3 <= found[1]
    assert inside / draws == pytest.approx(0.9, abs=0.045)
