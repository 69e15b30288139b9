"""`rlrf board` as people type it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlrf.cli import run

REFERENCE = Path(__file__).parents[3] / "leaderboards" / "reference"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    shutil.copytree(REFERENCE, tmp_path / "board")
    return tmp_path / "board"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command that must succeed; return what it prints."""

    def call(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        assert run([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return call


def rows(said: Any, board: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said("board", "render", board, "--json"))
    return found


def test_a_row_is_withdrawn_and_the_board_stays_sound(board: Path, said: Any) -> None:
    sealed = [r for r in rows(said, board) if r["entry"]["kind"] == "decision"][-1]
    out = said("board", "invalidate", board, sealed["digest"][:10], "--reason", "opened twice")
    assert out.startswith("row ")
    said("board", "verify", board)
    assert "opened twice" in said("board", "render", board)
    assert rows(said, board)[-1]["entry"]["entry"] == sealed["entry_digest"]


def test_an_evaluation_is_superseded_by_another_of_its_task(board: Path, said: Any) -> None:
    made = [r for r in rows(said, board) if r["entry"]["kind"] == "evaluation"]
    old, other = made[0], made[1]
    new = next(r for r in made[3:] if r["entry"]["evaluation"]["task"] == "mini_factscore")
    why = ("--reason", "a typing error in the prompt")
    assert "cannot be replaced by" in said(
        "board", "supersede", board, old["digest"], other["digest"], *why, code=3
    )
    out = said("board", "supersede", board, old["digest"], new["digest"], *why, "--json")
    assert json.loads(out)["row"] == rows(said, board)[-1]["digest"]
    said("board", "verify", board)
    assert f"{new['entry_digest'][:12]} replaces it" in said("board", "render", board)


def test_a_row_that_is_not_there_is_a_sentence(board: Path, said: Any) -> None:
    out = said("board", "invalidate", board, "xyz0", "--reason", "x", code=3)
    assert "'xyz0' names no row" in out
    assert "--reason" in said("board", "invalidate", board, "xyz0", code=3)


def test_two_boards_are_compared(board: Path, said: Any, tmp_path: Path) -> None:
    before = tmp_path / "before.jsonl"
    lines = (board / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    before.write_bytes(b"".join(lines[:-3]))
    out = said("board", "diff", before, board)
    assert out.startswith(f"{len(lines) - 3} rows begin both.\n")
    assert out.count("only in B: ") == 3
    found = json.loads(said("board", "diff", before, board, "--json"))
    assert (found["common"], found["diverged"], len(found["added"])) == (len(lines) - 3, False, 3)
    first = rows(said, board)[0]["digest"]
    said("board", "invalidate", board, first, "--reason", "x")
    changes = json.loads(said("board", "diff", REFERENCE / "ledger.jsonl", board, "--json"))[
        "changes"
    ]
    assert changes
    assert all(change["after"] is None for change in changes)
    assert all(change["before"]["n"] == 300 for change in changes)
    assert "They are the same." in said("board", "diff", board, board)
    assert "There is no board" in said("board", "diff", board, tmp_path / "none", code=3)


def test_the_formats_of_render(board: Path, said: Any) -> None:
    table = list(csv.DictReader(io.StringIO(said("board", "render", board, "--format", "csv"))))
    evaluations = [r for r in rows(said, board) if r["entry"]["kind"] == "evaluation"]
    assert {line["row_digest"] for line in table} == {row["digest"] for row in evaluations}
    assert r"\toprule" in said("board", "render", board, "--format", "latex")
    assert "<html" in said("board", "render", board, "--format", "html")
    assert "| M2 |" in said("board", "render", board)


def test_a_badge_is_made(board: Path, said: Any, tmp_path: Path) -> None:
    badge = json.loads(said("board", "badge", board, "--task", "mini_gsm8k"))
    assert badge["label"] == "M2 mini_gsm8k accuracy"
    assert badge["message"].startswith("0.958 [")
    words = ("--metric", "accuracy", "--name", "M0", "--split", "sealed")
    svg = tmp_path / "badge.svg"
    said("board", "badge", board, "--task", "mini_gsm8k", *words, "--svg", svg)
    assert "M0 mini_gsm8k accuracy: 0.306" in svg.read_text()
    assert "no evaluation" in said("board", "badge", board, "--task", "none", code=3)


def test_a_board_is_exported(board: Path, said: Any, tmp_path: Path) -> None:
    card = said("board", "export", board, "--format", "model-card", "--name", "M2")
    assert card.startswith("---\nmodel-index:")
    out = tmp_path / "eee"
    words = ("--format", "eee", "--organization", "Lab", "--out", out)
    assert said("board", "export", board, *words).startswith("24 files")
    logs = [json.loads(path.read_text()) for path in out.rglob("*.json")]
    assert len({log["evaluation_id"] for log in logs}) == len(logs)
    assert "--organization" in said("board", "export", board, "--format", "eee", code=3)
    assert "--name" in said("board", "export", board, "--format", "model-card", code=3)


def test_how_often_items_decided(board: Path, said: Any, tmp_path: Path) -> None:
    out = said("board", "exposure", board)
    assert "mini_gsm8k: 1,600 items; by how many decisions each was used: " in out
    items = json.loads(said("board", "exposure", board, "--json"))["mini_gsm8k"]
    assert len(items) == 1600
    assert set(items.values()) == {1, 2}
    assert said("board", "exposure", tmp_path / "none") == "No decision is on the board yet.\n"
