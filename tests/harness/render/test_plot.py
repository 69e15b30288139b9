"""The picture of a board: the same from the same numbers, and of what counts only."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
from helpers.boards import Loop, answers, run_once
from helpers.quiz import make

import tasks
from harness.board import Board
from harness.core.errors import UserError
from harness.core.schema import Metric
from harness.render import plot


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.setattr(tasks, "names", list)
    return run_once(tmp_path)


def texts(picture: bytes) -> str:
    return " ".join(e.text or "" for e in fromstring(picture.decode()).iter() if "text" in e.tag)


def test_models_and_numbers_are_text_and_equal_boards_give_equal_bytes(loop: Loop) -> None:
    picture = plot.board(loop.board.rows(), "gate")
    for word in ("M0", "M1", "0.583", "quiz"):
        assert word in texts(picture)
    assert picture == plot.board(loop.board.rows(), "gate")


def test_what_was_withdrawn_is_not_drawn(loop: Loop) -> None:
    loop.board.invalidate(loop.board.rows()[1].digest, "x")
    assert "M1" not in texts(plot.board(loop.board.rows(), "gate"))


def test_the_best_stands_out_also_where_less_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "names", list)
    found = {}
    for better in (True, False):
        board = Board(tmp_path / str(better))
        metric = Metric(name="accuracy", kind="binary", primary=True, higher_is_better=better)
        for right in (10, 50):
            scored = make(answers(right), model=f"M{right}", definitions={"accuracy": metric})
            board.add_evaluation(scored, f"M{right}", "r")
        found[better] = plot.board(board.rows(), "gate").decode()
    assert found[True] != found[False]
    for picture in found.values():
        assert picture.count(plot.BLUE) == picture.count(plot.GREY)


def test_a_split_without_evaluations_is_a_sentence(loop: Loop) -> None:
    with pytest.raises(UserError, match="no evaluation on the sealed split"):
        plot.board(loop.board.rows())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$x^2$", "$x^2$"),
        ("$\\frac{1$", "$\\frac{1$"),
        ("a<b>&c", "a<b>&c"),
        ("a\x00\x0bb\x1b", "a"),
    ],
)
def test_any_name_can_be_drawn(loop: Loop, name: str, shown: str) -> None:
    rows = loop.board.rows()
    entry = rows[0].entry.model_copy(update={"name": name})
    picture = plot.board([rows[0].model_copy(update={"entry": entry})], "gate")
    assert shown in texts(picture)
