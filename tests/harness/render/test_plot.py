"""The picture of a board: the same from the same numbers, and of what counts only."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
from boards import Loop, run_once

import tasks
from harness.errors import UserError
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


def test_a_split_without_evaluations_is_a_sentence(loop: Loop) -> None:
    with pytest.raises(UserError, match="no evaluation on the sealed split"):
        plot.board(loop.board.rows())
