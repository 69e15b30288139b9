"""Two boards side by side: what one has and the other has not, and which numbers differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.boards import answers, run_once
from helpers.quiz import make

import tasks
from harness.board import Board
from harness.board.diff import diff, load
from harness.board.ledger import EvaluationEntry
from harness.core.errors import UserError
from harness.core.schema import MetricResult


@pytest.fixture(autouse=True)
def _no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "names", list)


@pytest.fixture
def boards(tmp_path: Path) -> tuple[Board, Board]:
    """The same board twice."""
    one = run_once(tmp_path / "a").board
    shutil.copytree(one.folder, tmp_path / "b")
    return one, Board(tmp_path / "b")


def test_equal_boards_differ_in_nothing(boards: tuple[Board, Board]) -> None:
    found = diff(*(board.rows() for board in boards))
    assert (found.common, found.removed, found.added, found.changes) == (5, [], [], [])
    assert not found.diverged


def test_an_evaluation_made_anew_changes_a_number(boards: tuple[Board, Board]) -> None:
    one, other = boards
    again = make(answers(40), model="M1", seed=1)
    other.add_evaluation(again, "M1", "r")
    found = diff(one.rows(), other.rows())
    assert (found.common, found.removed, len(found.added)) == (5, [], 1)
    (change,) = found.changes
    assert (change.run, change.name, change.task, change.metric) == ("r", "M1", "quiz", "accuracy")
    assert change.after == again.evaluation.metrics["accuracy"]
    entry = one.rows()[1].entry
    assert isinstance(entry, EvaluationEntry)
    assert change.before == entry.evaluation.metrics["accuracy"]


def test_a_withdrawn_number_no_longer_stands(boards: tuple[Board, Board]) -> None:
    one, other = boards
    other.invalidate(other.rows()[0].digest, "x")
    (change,) = diff(one.rows(), other.rows()).changes
    assert isinstance(change.before, MetricResult)
    assert (change.name, change.after) == ("M0", None)


def test_numbers_that_do_not_compare_are_not_set_against_each_other(
    boards: tuple[Board, Board],
) -> None:
    one, other = boards
    other.add_evaluation(make(answers(40), model="M1", prompt_digest="p"), "M1", "r")
    (change,) = diff(one.rows(), other.rows()).changes
    assert change.before is None


def test_boards_that_went_apart_have_diverged(boards: tuple[Board, Board]) -> None:
    for name, board in zip("AB", boards, strict=True):
        board.add_evaluation(make(answers(9), model=name), name, "r")
    found = diff(*(board.rows() for board in boards))
    assert (found.common, len(found.removed), len(found.added)) == (5, 1, 1)
    assert found.diverged


def test_a_ledger_alone_is_read_and_a_cut_line_is_a_sentence(
    boards: tuple[Board, Board], tmp_path: Path
) -> None:
    ledger = boards[0].folder / "ledger.jsonl"
    alone = tmp_path / "before.jsonl"
    alone.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:2]))
    assert load(alone) == boards[0].rows()[:2]
    alone.write_bytes(ledger.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"is damaged\. Its last line is unfinished"):
        load(alone)
    with pytest.raises(UserError, match="There is no board or ledger"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="There is no board in"):
        load(tmp_path / "empty")
