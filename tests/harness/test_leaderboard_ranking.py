"""Ranks: who is behind whom for certain, and who is not told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from boards import answers
from hypothesis import given
from hypothesis import strategies as st
from quiz import make

import tasks
from harness.leaderboard import Board
from harness.ranking import ranks, tables
from harness.schema import Metric, MetricResult


def result(low: float | None, high: float | None) -> MetricResult:
    mean = None if low is None or high is None else (low + high) / 2
    return MetricResult(mean=mean, low=low, high=high, n=9)


def test_intervals_that_overlap_share_a_rank() -> None:
    found = {
        ("r", "best"): result(0.8, 0.9),
        ("r", "as good"): result(0.7, 0.81),
        ("r", "behind the best only"): result(0.65, 0.75),
        ("r", "behind two"): result(0.5, 0.69),
        ("r", "nothing known"): result(None, None),
    }
    assert {name: rank for (_, name), rank in ranks(found).items()} == {
        "best": 1,
        "as good": 1,
        "behind the best only": 2,
        "behind two": 3,
    }


def test_where_less_is_better_the_order_turns() -> None:
    found = {("r", "much"): result(0.8, 0.9), ("r", "little"): result(0.1, 0.2)}
    assert ranks(found, higher_is_better=False) == {("r", "much"): 2, ("r", "little"): 1}


def test_ends_that_touch_do_not_lie_apart() -> None:
    found = {("r", "a"): result(0.1 + 0.2, 0.5), ("r", "b"): result(0.1, 0.3)}
    assert set(ranks(found).values()) == {1}


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 3)), min_size=1, max_size=30))
def test_a_rank_is_one_more_than_the_models_wholly_above(ends: list[tuple[float, float]]) -> None:
    found = {("r", str(k)): result(low, low + width) for k, (low, width) in enumerate(ends)}
    for k, (low, width) in enumerate(ends):
        above = sum(other > low + width + 1e-9 * max(1, abs(low + width)) for other, _ in ends)
        assert ranks(found)["r", str(k)] == 1 + above
    assert 1 in ranks(found).values()


def test_a_column_is_ranked_by_its_primary_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "names", list)
    board = Board(tmp_path)
    refused = Metric(name="accuracy", kind="binary", primary=True, higher_is_better=False)
    for right in (10, 50):
        scored = make(answers(right), definitions={"accuracy": refused})
        board.add_evaluation(scored, f"M{right}", "r")
    (table,) = tables(board.rows())
    assert table.columns["quiz"].ranks() == {("r", "M10"): 1, ("r", "M50"): 2}
