"""CSV: every number that counts, with its interval and digests, and no formulas."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from helpers.boards import answers, run_once
from helpers.quiz import make

import tasks
from harness.board import Board
from harness.board.ledger import EvaluationEntry
from harness.core.schema import JudgeRef, digest
from harness.core.text import csv_cell
from harness.render import csv as render


@pytest.fixture(autouse=True)
def _no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "names", list)


def parsed(board: Board) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render.board(board.rows()))))


def test_a_line_holds_what_the_evaluation_holds(tmp_path: Path) -> None:
    board = run_once(tmp_path).board
    row = board.rows()[1]
    assert isinstance(row.entry, EvaluationEntry)
    result = row.entry.evaluation.metrics["accuracy"]
    line = parsed(board)[1]
    assert (line["run"], line["model"], line["task"], line["metric"]) == (
        ("r", "M1", "quiz", "accuracy")
    )
    for key in ("mean", "stderr", "low", "high", "n", "unscored"):
        assert float(line[key]) == getattr(result, key)
    assert line["row_digest"] == row.digest
    assert line["entry_digest"] == digest(row.entry)
    assert line["comparable_key"] == row.entry.evaluation.comparable_key
    assert line["rank"] == "1"


def test_every_metric_has_a_line_and_what_is_not_known_is_empty(tmp_path: Path) -> None:
    board = Board(tmp_path)
    rows: list[dict[str, Any]] = [{"accuracy": 1.0, "grade": "no judge"}] * 3
    board.add_evaluation(make(rows, judge=JudgeRef(id="judge")), "M0", "r")
    accuracy, grade = parsed(board)
    assert (accuracy["metric"], accuracy["n"], accuracy["judge"]) == ("accuracy", "3", "judge")
    assert (grade["metric"], grade["mean"], grade["low"], grade["rank"]) == ("grade", "", "", "")
    assert (grade["n"], grade["unscored"]) == ("0", "3")


def test_what_was_withdrawn_is_not_in_it(tmp_path: Path) -> None:
    board = run_once(tmp_path).board
    board.invalidate(board.rows()[1].digest, "x")
    assert [line["model"] for line in parsed(board)] == ["M0"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1", "::error::x"])
def test_no_name_is_a_formula(tmp_path: Path, name: str) -> None:
    board = Board(tmp_path)
    board.add_evaluation(make(answers(3)), name, name)
    (line,) = parsed(board)
    for cell in (line["model"], line["run"]):
        assert cell.startswith("'")
        assert "\n" not in cell
    assert float(line["mean"]) == 0.05


@pytest.mark.parametrize("text", ["\t=1", '=","\n"', "\r\n@SUM(A1)", "\x00+1"])
def test_a_cell_of_any_text_is_one_line_and_no_formula(text: str) -> None:
    cell = csv_cell(text)
    assert cell.startswith("'")
    assert cell.isprintable()


def test_an_empty_board_has_its_heads(tmp_path: Path) -> None:
    assert render.board([]).strip() == ",".join(render.COLUMNS)
