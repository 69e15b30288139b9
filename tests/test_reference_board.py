"""The published board is data, reviewed like code: it has to hold."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.board import Board
from harness.render import markdown

REFERENCE = Path(__file__).parents[1] / "leaderboards" / "reference"


def test_the_reference_board_is_sound_and_rendered(tmp_path: Path) -> None:
    copy = tmp_path / "reference"
    shutil.copytree(REFERENCE, copy)
    board = Board(copy)
    assert board.verify() == []
    assert (copy / "board.md").read_text().strip() == markdown.board(board.rows()).strip()


def test_a_changed_score_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "reference"
    shutil.copytree(REFERENCE, copy)
    ledger = copy / "ledger.jsonl"
    data = bytearray(ledger.read_bytes())
    data[len(data) // 2] ^= 1
    ledger.write_bytes(bytes(data))
    assert Board(copy).verify()
