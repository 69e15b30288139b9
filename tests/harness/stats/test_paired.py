"""Paired gains: how scores become pairs, closed forms, and measured error rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, permutation_test, ttest_rel

from harness.core.errors import UserError
from harness.core.schema import Score
from harness.stats.paired import align, by_item, compare, gain


def score(
    item: str, value: float | None = None, repeat: int = 0, index: int = 0, why: str = ""
) -> Score:
    return Score(
        task="t",
        item=item,
        index=index,
        repeat=repeat,
        values={} if value is None else {"m": value},
        unscored={"m": why} if why else {},
    )


def column(scores: Sequence[Score]) -> list[float]:
    return [float(v) for v in by_item(scores, ["m"]).values[:, 0]]


def test_repeats_are_averaged_and_order_is_nothing() -> None:
    scores = [score("b", 1.0), score("a", 0.0, 0), score("a", 1.0, 1), score("a", 1.0, 2)]
    table = by_item(scores, ["m"])
    assert table.items == ["a", "b"]
    assert column(scores) == [2 / 3, 1.0] == column(scores[::-1])
    assert table.answered == 2


def test_unscored_repeats_are_left_out_of_the_mean_and_counted() -> None:
    table = by_item([score("a", 1.0, 0), score("a", None, 1, why="no reply")], ["m"])
    assert table.values[0, 0] == 1.0
    assert not table.lost[0, 0]
    assert table.unscored[0] == 0.5
    assert table.reasons == ["no reply"]


def test_lost_is_not_the_same_as_not_applicable() -> None:
    table = by_item([score("a", None, why="bad reply"), score("b", None)], ["m"])
    assert np.isnan(table.values[:, 0]).all()
    assert table.lost[:, 0].tolist() == [True, False]


def test_an_answer_scored_twice_is_an_error() -> None:
    with pytest.raises(UserError, match=r"item 7 .*repeat 1, is scored twice"):
        by_item([score("a", 1.0, 1, index=7), score("a", 0.0, 1, index=7)], ["m"])


def test_a_question_asked_twice_is_one_item() -> None:
    table = by_item([score("a", 1.0, index=0), score("a", 0.0, index=5)], ["m"])
    assert table.items == ["a"]
    assert table.values[0, 0] == 0.5
    assert table.answered == 2


def test_no_scores_make_an_empty_table() -> None:
    table = by_item([], ["m"])
    assert table.items == []
    assert table.values.shape == (0, 1)


def test_a_missing_item_is_lost_and_never_dropped() -> None:
    left = by_item([score("a", 1.0), score("b", 0.0)], ["m"])
    right = by_item([score("b", 1.0), score("c", 1.0)], ["m"])
    left, right = align(left, right, asked=3)
    assert left.items == right.items == ["a", "b", "c"]
    assert left.lost[:, 0].tolist() == [False, False, True]
    assert right.lost[:, 0].tolist() == [True, False, False]


def test_items_of_another_set_are_an_error() -> None:
    left = by_item([score("a", 1.0), score("b", 0.0)], ["m"])
    right = by_item([score("a", 1.0), score("c", 0.0)], ["m"])
    with pytest.raises(UserError, match="did not answer the same items: 2 were asked"):
        align(left, right, asked=2)


def test_the_t_test_is_scipys() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(3, 1, 40), rng.normal(3.2, 1, 40)
    found = compare(before, after, margin=0.1, alpha=0.05, span=4, allow_skew=False)
    reference = ttest_rel(after, before)
    interval = reference.confidence_interval(0.90)
    assert found.test == "clustered t"
    assert found.p_zero == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    shifted = ttest_rel(after + 0.1, before, alternative="greater")
    assert found.p_value == pytest.approx(shifted.pvalue)


def test_the_clustered_standard_error_is_the_formula() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 12, 60)
    before, after = rng.random(60), rng.random(60)
    d = after - before
    sums = [(d - d.mean())[groups == g].sum() for g in range(12)]
    expected = math.sqrt(12 / 11 * sum(s * s for s in sums)) / 60
    delta, stderr, count = gain(before, after, clusters=list(groups))
    assert (delta, stderr, count) == (pytest.approx(d.mean()), pytest.approx(expected), 12)


def test_cluster_names_must_match_the_items() -> None:
    with pytest.raises(UserError, match="3 items need 3 cluster names"):
        gain([1, 2, 3], [1, 2, 3], clusters=["a"])


def test_means_are_over_the_items_where_the_metric_applies() -> None:
    nan = math.nan
    delta, _, count = gain([0.5, 0.7, nan, nan], [0.5, nan, 0.9, nan])
    assert delta == pytest.approx(0.7 - 0.6)
    assert count == 3  # the last item says nothing of either


def test_a_side_without_values_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        gain([math.nan], [1.0])


def test_the_error_of_unequal_sides_is_what_is_seen() -> None:
    """Abstentions that depend on difficulty: the standard error against the spread of the gain."""
    rng = np.random.default_rng(2)
    deltas, errors = [], []
    for _ in range(1500):
        ease = rng.random(80)
        before = np.where(rng.random(80) < 0.5 + 0.5 * ease, ease + rng.normal(0, 0.1, 80), np.nan)
        after = np.where(rng.random(80) < 0.9, ease + rng.normal(0, 0.1, 80), np.nan)
        delta, stderr, _ = gain(before, after)
        deltas.append(delta)
        errors.append(stderr)
    assert np.mean(errors) == pytest.approx(np.std(deltas), rel=0.07)


def test_few_clusters_get_the_permutation_test() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.random(8), rng.random(8)
    found = compare(before, after, margin=0.2, alpha=0.05, span=1, allow_skew=False)
    assert found.test == "sign-flip permutation"
    reference = permutation_test(
        (after - before + 0.2,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="greater",
    )
    assert found.p_value == pytest.approx(reference.pvalue)


def test_the_permutation_bounds_are_where_the_test_turns() -> None:
    rng = np.random.default_rng(4)
    groups = [0, 0, 0, 1, 2, 2, 3, 4, 5, 6]
    before, after = rng.random(10), rng.random(10)
    among: Any = {"alpha": 0.05, "span": 1, "clusters": groups, "allow_skew": False}
    found = compare(before, after, margin=0.2, **among)
    assert found.test == "sign-flip permutation"
    for step, rejects in ((-1e-6, True), (1e-6, False)):
        moved = compare(before, after, margin=-(found.low + step), **among)
        assert (moved.p_value <= 0.05) == rejects


def test_four_clusters_cannot_speak_at_five_percent() -> None:
    found = compare([0.1, 0.2, 0.3, 0.1], [0.9, 0.8, 0.9, 1.0], margin=0.05, alpha=0.05, span=1)
    assert (found.low, found.high) == (-1, 1)
    assert found.p_value >= 1 / 16


def test_few_clusters_with_unequal_sides_cannot_speak() -> None:
    found = compare(
        [0.1, 0.2, 0.3, 0.1, 0.2, 0.2, math.nan],
        [0.9, 0.8, 0.9, 1.0, 0.8, 0.9, 0.9],
        margin=0.05,
        alpha=0.05,
        span=1,
    )
    assert (found.low, found.high, found.p_value) == (-1, 1, 0.5)


@pytest.mark.parametrize(("n", "passes"), [(10, False), (58, False), (59, True)])
def test_equal_items_pass_only_when_there_are_enough(n: int, passes: bool) -> None:
    same = np.full(n, 3.3)
    found = compare(same, same, margin=0.2, alpha=0.05, span=4)
    assert (found.low > -0.2) == passes == (found.p_value < 0.05)
    assert found.stderr == 0
    assert found.p_zero == 1


def test_an_equal_gain_everywhere_is_found_when_large() -> None:
    before = np.linspace(1, 3, 40)
    found = compare(before, before + 1, margin=0.2, alpha=0.05, span=4)
    assert found.delta == pytest.approx(1)
    assert found.stderr == 0
    assert found.p_zero < 0.01


@pytest.mark.parametrize("groups", [8, 12, 30])
def test_error_rates_at_the_margin_with_clusters(groups: int) -> None:
    """Type-I error at the boundary with clusters of five correlated items."""
    draws, size, margin = 1500, 5, 0.1
    rng = np.random.default_rng(groups)
    clusters = list(np.repeat(np.arange(groups), size))
    passed = ignoring = normal = 0
    for _ in range(draws):
        d = np.repeat(rng.normal(0, 1, groups), size) + rng.normal(0, 0.7, groups * size) - margin
        zero = np.zeros_like(d)
        among: Any = {"alpha": 0.05, "span": 10, "clusters": clusters, "allow_skew": False}
        found = compare(zero, d, margin=margin, **among)
        passed += found.low > -margin
        normal += found.delta - norm.ppf(0.95) * found.stderr > -margin
        _, naive, _ = gain(zero, d)
        ignoring += found.delta - norm.ppf(0.95) * naive > -margin
    error = math.sqrt(0.05 * 0.95 / draws)
    assert passed / draws <= 0.05 + 3 * error
    assert passed / draws >= 0.03
    assert normal >= passed
    assert ignoring / draws > 0.15


# ---- skew, rare collapse, ranges ------------------------------------------------------------


def test_nine_equal_pairs_and_one_slightly_worse_prove_nothing() -> None:
    before = np.full(10, 5.0)
    after = before.copy()
    after[3] -= 0.25
    found = compare(before, after, margin=0.2, alpha=0.05, limits=(1, 5))
    assert found.low < -0.2
    assert found.p_value > 0.05
    assert "rare large losses" in found.wider
    without = compare(before, after, margin=0.2, alpha=0.05, span=4, allow_skew=False)
    assert without.p_value < 0.001


def test_a_loss_is_bounded_by_the_way_from_the_baseline_to_the_worst_value() -> None:
    same = np.full(200, 1.5)
    near = compare(same, same, margin=0.1, alpha=0.05, limits=(1, 5))
    far = compare(same + 3, same + 3, margin=0.1, alpha=0.05, limits=(1, 5))
    share = 1 - 0.05 ** (1 / 200)
    assert (near.low, near.high) == pytest.approx((-share * 0.5, share * 3.5))
    assert (far.low, far.high) == pytest.approx((-share * 3.5, share * 0.5))
    assert near.low > -0.1


def test_an_end_that_lies_far_beyond_all_values_is_replaced_by_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(20, 40, 300).astype(float)
    after = before - 10 + rng.normal(0, 2, 300)
    found = compare(before, after, margin=5, alpha=0.05, limits=(0, 10_000))
    assert found.high < -5, "10,000 possible facts must not hide a loss of ten"
    same = compare(before, after, margin=5, alpha=0.05)
    assert same.high == pytest.approx(found.high)


def test_few_items_of_a_metric_without_a_range_have_no_bound() -> None:
    rng = np.random.default_rng(1)
    before = rng.lognormal(size=99)
    found = compare(before, before * 1.01, margin=0.5, alpha=0.05)
    assert (found.low, found.high) == (-math.inf, math.inf)
    more = rng.lognormal(size=160)
    assert math.isfinite(compare(more, more * 1.01, margin=0.5, alpha=0.05).low)


def test_an_interval_says_why_it_is_wider() -> None:
    rng = np.random.default_rng(2)
    before = np.full(400, 5.0)
    after = before - rng.choice([0.0, 1, 4], p=[0.93, 0.05, 0.02], size=400)
    skewed = compare(before, after, margin=0.1, alpha=0.05, limits=(1, 5))
    assert "allows for skew: with rare large losses" in skewed.wider
    names = list(np.repeat(np.arange(40), 10))
    clustered = compare(before, after, margin=0.1, alpha=0.05, limits=(1, 5), clusters=names)
    assert clustered.wider.startswith("items of a cluster go together: 40 clusters")
    plain = rng.normal(3, 0.3, 2000)
    calm = compare(plain, plain + rng.normal(0, 0.3, 2000), margin=0.1, alpha=0.05, limits=(1, 5))
    assert calm.wider == ""


@pytest.mark.parametrize(("icc", "count"), [(0.2, 40), (0.5, 20), (1.0, 20)])
def test_clusters_that_fall_together_pass_no_more_often_than_promised(
    icc: float, count: int
) -> None:
    """600 gates of grades, exactly at the margin; before, up to a third of them passed."""
    rng = np.random.default_rng(count)
    group = np.repeat(np.arange(count), 10)
    passed = failed = 0
    for _ in range(600):
        own, shared = (
            rng.choice([0.0, -1, -2, -4], p=[0.95, 0.02, 0.02, 0.01], size=size)
            for size in (len(group), count)
        )
        d = np.where(rng.random(len(group)) < math.sqrt(icc), shared[group], own)
        found = compare(
            np.full(len(d), 5.0), 5 + d, margin=0.1, alpha=0.05, limits=(1, 5),
            clusters=group.tolist(),
        )  # fmt: skip
        passed += found.low > -0.1
        failed += found.high < -0.1
    assert passed / 600 <= 0.06
    assert failed / 600 <= 0.06
