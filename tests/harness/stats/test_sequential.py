"""The sequential test: its evidence is a martingale, its errors stay below the level."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.stats.sequential import STAKE, log_evidence, sequential_test

GATE = {"margin": 0.02, "alpha": 0.05}


@pytest.mark.parametrize("null", [-0.02, -0.3, 0.3])
def test_under_the_null_the_evidence_is_1_on_average(null: float) -> None:
    """Exactly so: over every sequence of seven draws from three values with that mean."""
    values = np.array([-1.0, 0.0, 1.0])
    chances = np.array([0.4 - null / 2, 0.2, 0.4 + null / 2])
    sequences = np.array(list(itertools.product(range(3), repeat=7)))
    evidence = np.exp(log_evidence(values[sequences], null))
    weight = chances[sequences].prod(axis=1)
    assert weight @ evidence == pytest.approx(np.ones(7))
    assert evidence.std() > 0


def test_without_replacement_it_is_1_on_average_as_well() -> None:
    """Exactly so: over every order of a population of eight whose mean is the null's."""
    values = np.array([-1, -1, -0.5, 0, 0, 0.25, 1, 0.45])
    orders = np.array(list(itertools.permutations(range(8), 7)))
    evidence = np.exp(log_evidence(values[orders], values.mean(), population=8))
    assert evidence.mean(axis=0) == pytest.approx(np.ones(7))
    assert evidence[:, -1].std() > 0


def test_the_evidence_is_the_formula() -> None:
    x, null = [0.0, 1.0, -1.0, 0.0, 1.0], -0.05
    wealth, by_hand = 1.0, []
    for t, value in enumerate(x):
        if t:
            mu, s2 = np.mean(x[:t]) - null, np.var(x[:t])
            wealth *= 1 + np.clip(mu / (s2 + mu**2), 0, STAKE / (1 + null)) * (value - null)
        by_hand.append(wealth)
    assert np.exp(log_evidence(x, null)) == pytest.approx(by_hand)


@pytest.mark.parametrize(("mean", "verdict"), [(0.1, "pass"), (-0.15, "fail")])
def test_it_stops_where_it_knows(mean: float, verdict: str) -> None:
    p = np.array([0.15 - mean / 2, 0.7, 0.15 + mean / 2])
    draws = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], p=p, size=3000)
    found = sequential_test(draws, **GATE)
    assert found.verdict == verdict
    assert found.stopped_at is not None
    assert found.stopped_at < 1500
    again = sequential_test(draws[: found.stopped_at], **GATE)
    assert again == found
    assert sequential_test(draws[: found.stopped_at - 1], **GATE).verdict is None


def test_equal_answers_pass_only_when_there_are_enough() -> None:
    per_item = math.log1p(STAKE / 0.98 * 0.02)
    needed = math.ceil(math.log(20) / per_item) + 1  # the first item is not bet on
    assert sequential_test(np.zeros(1000), **GATE).stopped_at == needed
    assert sequential_test(np.zeros(needed - 1), **GATE).verdict is None


@given(st.lists(st.floats(-1, 1), max_size=60), st.floats(0.01, 0.9))
def test_the_scale_of_the_metric_changes_nothing(values: list[float], margin: float) -> None:
    there = sequential_test(values, margin=margin, alpha=0.05)
    here = sequential_test(np.array(values) * 4, margin=margin * 4, alpha=0.05, span=4)
    assert here.verdict == there.verdict
    assert here.log_e_pass == pytest.approx(there.log_e_pass, rel=1e-6, abs=1e-6)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=1, max_size=80))
def test_when_all_items_are_seen_the_verdict_is_their_mean(values: list[float]) -> None:
    found = sequential_test(values, margin=0.0707, alpha=1e-9, population=len(values))
    assert found.verdict == ("pass" if sum(values) / len(values) > -0.0707 else "fail")
    assert found.stopped_at is not None


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=200), st.integers(0, 50))
def test_nothing_overflows(values: list[float], left: int) -> None:
    population = len(values) + left
    for null in (-0.999, -0.02, 0.5):
        log_e = log_evidence(values, null, population)
        assert not np.isnan(log_e).any()
        assert (log_e > -math.inf).all()


def test_no_item_decides_nothing() -> None:
    assert sequential_test([], **GATE).verdict is None


@pytest.mark.parametrize(
    ("values", "fields", "said"),
    [
        ([0.0], {"margin": 1.5}, "between 0 and the span"),
        ([0.0], {"alpha": 0.0}, "level"),
        ([2.0], {}, "width of the metric's range"),
        ([math.nan], {}, "leave no gaps"),
        ([0.0, 0.0], {"population": 1}, "population of 1"),
    ],
)
def test_what_cannot_be_is_refused(
    values: list[float], fields: dict[str, float], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        sequential_test(values, **(GATE | fields))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("population", [None, 600])
def test_looking_after_every_item_is_wrong_no_more_often_than_alpha(
    population: int | None,
) -> None:
    """At the boundary, where looking at Tango's interval as often errs in .3 of the runs."""
    rng, draws, n = np.random.default_rng(1), 4000, 600
    if population is None:
        x = rng.choice([-1.0, 0.0, 1.0], p=[0.12, 0.78, 0.1], size=(draws, n))
    else:
        x = rng.permuted(np.tile(np.repeat([-1.0, 0.0, 1.0], [72, 468, 60]), (draws, 1)), axis=1)
    for values, null in ((x, -0.02), (-x, 0.02)):
        crossed = log_evidence(values, null, population).max(axis=1) >= math.log(20)
        assert crossed.mean() <= 0.05
        assert crossed.mean() > 0.005  # it is a test, not a refusal to answer
