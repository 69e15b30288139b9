"""Intervals of tables: within the metric's range, never without width, and as sure as they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t as student

from harness.core.schema import Metric, Score
from harness.stats.intervals import aggregate, students_interval, summarize


@pytest.mark.parametrize("n", [2, 10, 60, 1000, 5000])
@pytest.mark.parametrize("grade", [1.0, 3.0, 5.0])
def test_grades_that_are_all_equal_have_an_interval_of_some_width(n: int, grade: float) -> None:
    found = summarize([grade] * n, limits=(1, 5))
    assert found.low is not None and found.high is not None
    assert 1 <= found.low <= grade <= found.high <= 5
    assert found.high - found.low >= 4 * (1 - 0.05 ** (1 / n)) - 1e-9


def test_few_grades_do_not_leave_their_scale() -> None:
    found = summarize([1.0, 2.0, 1.0, 3.0, 1.0], limits=(1, 5))
    assert found.low is not None and found.low >= 1
    assert found.high is not None and 2.3 < found.high < 3.5


def test_yes_no_answers_keep_wilsons_interval() -> None:
    found = summarize([1.0] * 8 + [0.0] * 2, limits=(0, 1))
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_many_items_without_much_skew_have_students_interval() -> None:
    values = np.random.default_rng(0).choice([5.0, 4.0, 3.0], p=[0.85, 0.1, 0.05], size=1000)
    found = summarize(values.tolist(), limits=(1, 5))
    half = student.ppf(0.975, 999) * values.std(ddof=1) / math.sqrt(1000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert found == students_interval(found)


def test_an_end_of_the_range_beyond_all_sense_changes_nothing() -> None:
    words = np.random.default_rng(1).integers(100, 300, 40).astype(float).tolist()
    far, unknown = summarize(words, limits=(0, 100_000)), summarize(words, limits=(0, None))
    assert far.high == unknown.high
    assert far.high is not None and far.high < 300


def test_aggregates_read_the_range_from_the_definitions() -> None:
    scores = [Score(task="t", item=str(i), index=i, values={"grade": 5.0}) for i in range(30)]
    grade = Metric(name="grade", kind="continuous", low=1, high=5)
    found = aggregate(scores, {"grade": grade})["grade"]
    assert found.high == 5 and found.low is not None and found.low < 5


CASES: dict[
    str, tuple[tuple[float, float], float, Callable[[np.random.Generator, int], np.ndarray]]
]
CASES = {
    "a ceiling with rare collapse": ((1, 5), 4.8, lambda r, n: 5 - 4.0 * (r.random(n) < 0.05)),
    "a ceiling with small losses": ((1, 5), 4.9, lambda r, n: 5 - 1.0 * (r.random(n) < 0.1)),
    "yes/no over repeats": ((0, 1), 0.95, lambda r, n: r.binomial(3, 0.95, n) / 3),
    "near 0": ((0, 1), 0.05, lambda r, n: r.beta(0.2, 3.8, n)),
    "uniform": ((0, 1), 0.5, lambda r, n: r.random(n)),
}


@pytest.mark.parametrize("n", [5, 20, 100, 400])
@pytest.mark.parametrize("case", CASES)
def test_the_interval_holds_the_mean_as_often_as_it_says(case: str, n: int) -> None:
    """1,000 samples: .93 less twice the standard error of .007."""
    limits, mean, draw = CASES[case]
    rng = np.random.default_rng(n)
    held = 0
    for _ in range(1000):
        found = summarize(draw(rng, n).tolist(), limits=limits)
        assert found.low is not None and found.high is not None
        assert limits[0] <= found.low < found.high <= limits[1]
        held += found.low <= mean <= found.high
    assert held / 1000 >= 0.93 - 0.014


# ---- clusters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 60])
@pytest.mark.parametrize("case", ["a ceiling with rare collapse", "near 0", "uniform"])
def test_a_clustered_interval_holds_the_mean_as_often_as_it_says(case: str, count: int) -> None:
    """Clusters of ten, intra-cluster correlation .5; 600 samples: twice the standard error is .02.

    An interval that takes the items as independent holds the mean in less than .85 of them.
    """
    limits, mean, draw = CASES[case]
    rng = np.random.default_rng(count)
    group = np.repeat(np.arange(count), 10)
    held = alone = 0
    for _ in range(600):
        of_cluster = rng.random(10 * count) < math.sqrt(0.5)
        values = np.where(of_cluster, draw(rng, count)[group], draw(rng, 10 * count)).tolist()
        for clusters in (group.tolist(), None):
            found = summarize(values, limits=limits, clusters=clusters)
            assert found.low is not None and found.high is not None
            assert limits[0] <= found.low < found.high <= limits[1]
            if clusters:
                held += found.low <= mean <= found.high
            else:
                alone += found.low <= mean <= found.high
    assert held / 600 >= 0.93 - 0.02
    assert alone / 600 < 0.85


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_yes_no_answers_in_clusters_have_an_interval_as_sure_as_it_says(share: float) -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(25), rng.integers(2, 15, 25))
    held = 0
    for _ in range(600):
        of_cluster = rng.random(len(group)) < math.sqrt(0.5)
        right = np.where(
            of_cluster, (rng.random(25) < share)[group], rng.random(len(group)) < share
        )
        found = summarize(right.astype(float).tolist(), limits=(0, 1), clusters=group.tolist())
        assert found.low is not None and found.high is not None
        held += found.low <= share <= found.high
    assert held / 600 >= 0.93 - 0.02


@pytest.mark.parametrize("values", [[1.0, 0.0, 1.0, 1.0] * 30, [4.0, 5.0, 1.0, 5.0] * 30])
def test_items_that_are_each_a_cluster_have_the_interval_of_independent_items(
    values: list[float],
) -> None:
    limits = (0.0, 1.0) if max(values) == 1 else (1.0, 5.0)
    plain = summarize(values, limits=limits)
    alone = summarize(values, limits=limits, clusters=[*range(120)])
    assert alone == plain.model_copy(update={"clusters": 120})
    assert "clusters" not in plain.model_dump(mode="json")  # stored results keep their bytes


def test_clusters_whose_items_are_equal_count_as_one_item_each() -> None:
    means = np.random.default_rng(4).normal(3, 0.5, 50).clip(1, 5)
    found = summarize(np.repeat(means, 8).tolist(), clusters=np.repeat(np.arange(50), 8).tolist())
    assert found.stderr == pytest.approx(means.std(ddof=1) / math.sqrt(50), rel=0.01)
    assert (found.n, found.clusters) == (400, 50)


def test_one_cluster_shows_no_spread() -> None:
    found = summarize([1.0, 0.0, 1.0], limits=(0, 1), clusters=["a"] * 3)
    assert (found.mean, found.n, found.clusters) == (pytest.approx(2 / 3), 3, 1)
    assert found.stderr is None and found.low is None and found.high is None
