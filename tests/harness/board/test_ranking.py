"""Ranks: who is behind whom for certain, and who is not told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.boards import answers
from helpers.quiz import METRICS, make
from hypothesis import given
from hypothesis import strategies as st

import tasks
from harness.board import Board
from harness.board.ranking import Column, Name, ranks, tables
from harness.core.schema import Metric, MetricResult
from harness.render import markdown
from harness.render.html.board import board as page_of


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """An empty board, where no task is installed."""
    monkeypatch.setattr(tasks, "names", list)
    return Board(tmp_path)


def places(column: Column) -> dict[Name, int]:
    """The ranks of the models that have one."""
    return {name: cell.rank for name, cell in column.cells().items() if cell.rank is not None}


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
    assert places(table.columns["quiz"]) == {("r", "M10"): 1, ("r", "M50"): 2}


# What a row may claim does not change the ranks of others


def test_a_row_that_turns_the_metric_round_stands_in_a_column_of_its_own(
    board: Board,
) -> None:
    turned = {"accuracy": METRICS[0].model_copy(update={"higher_is_better": False})}
    board.add_evaluation(make(answers(3), definitions=turned), "first", "r")
    for name, right in (("good", 55), ("bad", 10)):
        board.add_evaluation(make(answers(right)), name, "r")
    alone, others = (t.columns["quiz"] for t in tables(board.rows()))
    assert [name for _, name in alone.evaluations] == ["first"]
    assert places(others) == {("r", "good"): 1, ("r", "bad"): 2}
    assert "lower is better" in markdown.board(board.rows())


@pytest.mark.parametrize("gap", ["unscored", "not applicable"])
def test_few_values_have_no_rank_and_take_none_away(board: Board, gap: str) -> None:
    """69 right of 200, and nothing said of the rest: 1.000 over 69 items."""
    rest: dict[str, Any] = {"accuracy": "no reply"} if gap == "unscored" else {"accuracy": None}
    board.add_evaluation(make([{"accuracy": 1.0}] * 69 + [rest] * 131), "few", "r")
    board.add_evaluation(make(answers(150, 200)), "whole", "r")
    (column,) = (t.columns["quiz"] for t in tables(board.rows()))
    assert places(column) == {("r", "whole"): 1}
    assert column.unranked() == {("r", "few"): "accuracy has a value for 69 of 200 items"}
    assert "few (run r) has no rank on quiz, gate: " in markdown.board(board.rows())
    page = page_of(board.rows())
    assert page.index('<th scope="row">whole') < page.index('<th scope="row">few')
    assert "few (run r) has no rank on quiz" in page


def test_one_scored_answer_of_ten_is_no_score_of_the_item(board: Board) -> None:
    rows: list[dict[str, Any]] = [{"accuracy": 1.0}, *[{"accuracy": "lost"}] * 9] * 40
    board.add_evaluation(
        make(rows, repeats=10, decoding={"n": 10, "temperature": 0.7}), "lucky", "r"
    )
    (column,) = (t.columns["quiz"] for t in tables(board.rows()))
    assert places(column) == {}
    assert column.unranked() == {("r", "lucky"): "360 of 400 responses are unscored"}


def test_declined_items_are_not_missing_where_the_task_says_which_they_are(board: Board) -> None:
    grade = METRICS[1].model_copy(update={"primary": True})
    definitions = {"grade": grade, "responded": METRICS[3]}
    shy: list[dict[str, Any]] = [{"responded": 0.0}] * 20 + [{"grade": 4.0, "responded": 1.0}] * 40
    bold: list[dict[str, Any]] = [{"grade": 3.0 + i % 2, "responded": 1.0} for i in range(60)]
    sly: list[dict[str, Any]] = [{"responded": 1.0}] * 20 + [{"grade": 5.0, "responded": 1.0}] * 40
    for name, rows in (("shy", shy), ("bold", bold), ("sly", sly)):
        board.add_evaluation(make(rows, definitions=definitions), name, "r")
    (column,) = (t.columns["quiz"] for t in tables(board.rows()))
    assert places(column).keys() >= {("r", "bold")}
    assert column.unranked() == {("r", "sly"): "grade has a value for 40 of 60 items"}


def test_a_metric_of_few_items_is_ranked_where_it_is_one_of_few_items_for_all(
    board: Board,
) -> None:
    rows: list[dict[str, Any]] = [{"accuracy": 1.0}] * 40 + [{"accuracy": 1.0, "grade": 4.0}] * 20
    for name in ("one", "other"):
        board.add_evaluation(make(rows, model=name), name, "r")
    (column,) = (t.columns["quiz"] for t in tables(board.rows()))
    assert column.unranked(METRICS[1]) == {}


def test_a_name_used_twice_is_told(board: Board) -> None:
    board.add_evaluation(make(answers(20)), "M1", "r")
    board.add_evaluation(make(answers(50), model="another"), "M1", "r")
    board.add_evaluation(make(answers(30)), "M1", "s")
    text = markdown.board(board.rows())
    assert (
        "M1 (run r) was evaluated 2 times on quiz, gate; the last is shown: 0.3333, then 0.8333."
        in text
    )
    assert "M1 (run r) stands for 2 models with different weights." in text
    assert "M1 (run s)" not in text
